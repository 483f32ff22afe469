"""Finding things by name, `"module:name"`: what a table, a configuration or an entry point says, imported when used."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def load(target: str) -> Any:
    """What `target` names. Raises `ImportError`, `AttributeError`."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
