"""Finding things by name, `"module:name"`: what a table, a configuration or an entry point says, imported when used."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any


def load(target: str) -> Any:
    """What `target` names. Raises `ImportError`, `AttributeError`."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Which of the known names a wrong one was probably meant to be."""
    import difflib  # for the text of an error only

    matches = difflib.get_close_matches(name, list(known), n=1)
    return matches[0] if matches else None
