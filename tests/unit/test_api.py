"""Names and namespaces (NS-3): every bad value is named, with what to give instead, before anything is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import actorlite as al


class Named(al.Actor):
    pass


def get_actor(*names: Any, **keywords: Any) -> None:
    """Its first step."""
    work = al.get_actor(*names, **keywords)
    try:
        work.send(None)
    finally:
        work.close()


def init(namespace: Any) -> Any:
    return al.init("inproc://", namespace=namespace)


def options(**keywords: Any) -> Any:
    return Named.options(**keywords)


OWN = "leave it out for one of the session's own"

BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: init(""), ValueError, rf"namespace='' is empty: {OWN}"),
    (lambda: init(3), TypeError, rf"namespace must be a str, not 3 of type int: give a name .*, or {OWN}"),
    (lambda: init(b"x"), TypeError, rf"namespace must be a str, not b'x' of type bytes: give a name .*, or {OWN}"),
    (lambda: init(True), TypeError, rf"namespace must be a str, not True of type bool: give a name .*, or {OWN}"),
    (lambda: init(["x"]), TypeError, rf"namespace must be a str, not \['x'\] of type list: give a name .*, or {OWN}"),
    (lambda: options(name="x", namespace=""), ValueError, r"option namespace='' must not be empty: leave it out"),
    (lambda: options(name="x", namespace=3), TypeError, r"option namespace must be a str, not 3 of type int"),
    (lambda: options(name="x", namespace=b"x"), TypeError, r"option namespace must be a str, not b'x' of type bytes"),
    (lambda: options(name=""), ValueError, r"option name='' must not be empty: leave it out"),
    (lambda: options(name=3), TypeError, r"option name must be a str, not 3 of type int"),
    (lambda: options(namespace="x").remote(), ValueError, r"option namespace='x' needs name=\.\.\.: it is where"),
    (lambda: get_actor(""), ValueError, r"get_actor\(name=''\): it must not be empty; give the one that the actor"),
    (lambda: get_actor(None), ValueError, r"get_actor\(name=None\): it must not be empty; give the one that the act"),
    (lambda: get_actor(3), TypeError, r"takes a str as name, not 3 of type int: give the one that the actor was"),
    (lambda: get_actor(b"x"), TypeError, r"takes a str as name, not b'x' of type bytes: give the one"),
    (lambda: get_actor("x", namespace=""), ValueError, r"get_actor\(namespace=''\): .*leave it out for the session's"),
    (lambda: get_actor("x", namespace=3), TypeError, r"takes a str as namespace, not 3 of type int: leave it out"),
]


@pytest.mark.parametrize(("make", "error", "text"), BAD)
def test_a_bad_value_names_the_argument_and_the_remedy(
    make: Callable[[], Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make()
