from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextvars import Context, ContextVar
from typing import Any

import pytest

from actorlite import propagation
from actorlite.propagation import propagate, receive, travelling
from actorlite.wire.serialize import decode, encode


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(propagation, "registered", {})
    monkeypatch.setattr(propagation, "_modules", {})
    yield


def pickled(value: Any) -> bytes:
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def test_only_what_is_set_travels() -> None:
    a, b = propagate(ContextVar("a", default=1)), propagate(ContextVar("b"))

    def body() -> None:
        assert travelling() == ()
        b.set("x")
        assert travelling() == (("b", pickled("x")),)
        a.set(1)
        assert dict(travelling()) == {"a": pickled(1), "b": pickled("x")}

    Context().run(body)
    assert travelling() == ()


def test_a_value_that_nobody_knows_is_handed_on() -> None:
    known = propagate(ContextVar("known"))

    def body() -> None:
        receive((("unknown", pickled(1)), ("known", pickled(2))))
        assert known.get() == 2
        assert dict(travelling()) == {"unknown": pickled(1), "known": pickled(2)}
        late = propagate(ContextVar("unknown"))
        assert late.get() == 1
        late.set(3)
        assert dict(travelling()) == {"unknown": pickled(3), "known": pickled(2)}

    Context().run(body)


def test_code_by_value_takes_a_registered_variable_along(monkeypatch: pytest.MonkeyPatch) -> None:
    var: ContextVar[str] = propagate(ContextVar("var", default="default"))
    encoded = encode(var)
    assert decode(encoded.kind, encoded.data) is var
    propagation.registered.clear()
    propagation._modules["var"] = "__main__"
    made = decode(encoded.kind, encoded.data)
    assert made is not var and made.name == "var" and made.get() == "default"
    assert decode(encoded.kind, encoded.data) is made


def test_a_private_variable_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match=r"al\.propagate"):
        encode([ContextVar("private")])
