"""Which methods are known without running code of the user's."""

from __future__ import annotations

from typing import Any

import actorlite as al
from actorlite.worker.functions import defined_function


class Plain:
    def method(self) -> None: ...

    @al.method
    def declared(self) -> None: ...

    @staticmethod
    def static() -> None: ...

    @property
    def computed(self) -> Any:
        raise AssertionError("looked up")


class Inherits(Plain):
    pass


class LooksUp(Plain):
    def __getattribute__(self, name: str) -> Any:
        raise AssertionError("looked up")


def test_functions_of_the_class() -> None:
    assert defined_function(Plain, "method") is vars(Plain)["method"]
    assert defined_function(Inherits, "method") is vars(Plain)["method"]
    assert defined_function(Plain, "declared") is vars(Plain)["declared"].__wrapped__


def test_anything_else_is_left_to_the_thread() -> None:
    for cls, name in ((Plain, "static"), (Plain, "computed"), (Plain, "missing"), (LooksUp, "method")):
        assert defined_function(cls, name) is None
