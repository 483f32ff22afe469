"""What is exported is what docs/interface.md lists, and it documents itself."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
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


def test_the_first_use_of_a_name_loads_what_is_public_and_keeps_what_was_set_before() -> None:
    program = """
import sys, actorlite as al
assert "actorlite.interface" not in sys.modules and "asyncio" not in sys.modules
al.get = "mine"
assert al.errors.__name__ == "actorlite.errors" and "actorlite.interface" not in sys.modules
assert callable(al.put) and al.get == "mine"
assert {"remote", "errors"} <= set(dir(al)) and al.get == "mine"
from actorlite import *
assert remote is al.remote
for use in (lambda: al.nonsense, lambda: al.__wrapped__):
    try:
        use()
    except AttributeError as error:
        assert "module 'actorlite' has no attribute" in str(error)
    else:
        raise AssertionError
try:
    from actorlite import nonsense
except ImportError:
    print("fine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


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
