"""What is exported is what docs/interface.md lists, and it documents itself."""

from __future__ import annotations

import inspect
import re
import types
from pathlib import Path

import pytest

import actorlite
import actorlite.errors
import actorlite.testing
import actorlite.transport

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "interface.md"


def names_of(module: types.ModuleType) -> set[str]:
    """The public names: those of `__all__`, else what is defined here."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    return {name for name in own if not name.startswith("_")}


MODULES = {
    "actorlite": names_of(actorlite),
    "actorlite.errors": names_of(actorlite.errors),
    "actorlite.transport": names_of(actorlite.transport) | {"Address", "Buffer"},
    "actorlite.testing": names_of(actorlite.testing),
}


@pytest.mark.parametrize("name", MODULES)
def test_the_names_are_the_documented_ones(name: str) -> None:
    (section,) = re.findall(rf"^## `{re.escape(name)}`\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.M | re.S)
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == MODULES[name]


def test_the_package_shows_nothing_else() -> None:
    shown = {name for name in vars(actorlite) if not name.startswith("_")}
    modules = {name for name in shown if isinstance(getattr(actorlite, name), types.ModuleType)}
    assert shown - modules == MODULES["actorlite"] - modules
    assert list(actorlite.__all__) == sorted(actorlite.__all__)


@pytest.mark.parametrize(
    "thing",
    [
        pytest.param(getattr(module, name), id=f"{module.__name__}.{name}")
        for module in (actorlite, actorlite.errors, actorlite.testing)
        for name in sorted(MODULES[module.__name__])
        if callable(getattr(module, name))
    ],
)
def test_every_public_thing_says_what_it_guarantees(thing: object) -> None:
    assert inspect.getdoc(thing)


def test_every_error_is_in_the_tree_and_says_what_is_known_of_the_work() -> None:
    for name in MODULES["actorlite.errors"] - {"Outcome"}:
        error = getattr(actorlite.errors, name)("text")
        assert isinstance(error, actorlite.errors.ActorliteError)
        assert error.outcome in actorlite.errors.Outcome
