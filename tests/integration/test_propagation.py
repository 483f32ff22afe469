"""Context variables and the trace context travel with calls; nothing else of a caller's context does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

import actorlite as al
from actorlite import propagation
from actorlite.errors import SerializationError

pytestmark = pytest.mark.asyncio

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
private: ContextVar[str] = ContextVar("private", default="nothing")


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Iterator[ContextVar[Any]]:
    before = dict(propagation.registered)
    var = al.propagate(ContextVar("user"))
    yield var
    propagation.registered.clear()
    propagation.registered.update(before)


def seen() -> tuple[Any, str, str]:
    var = propagation.registered.get("user")
    return var.get("nobody") if var is not None else "unknown", al.traceparent.get(), private.get()


@al.remote
def plain() -> Any:
    return seen()


@al.remote
async def coroutine() -> Any:
    await asyncio.sleep(0)
    return seen()


class Seeing(al.Actor):
    @al.method
    def plain(self) -> Any:
        return seen()

    async def coroutine(self) -> Any:
        return seen()

    async def below(self) -> Any:
        await asyncio.sleep(0)
        return [seen(), await plain(), await coroutine.remote()]

    async def change(self) -> None:
        propagation.registered["user"].set("changed")
        al.traceparent.set("changed")


async def test_what_is_registered_travels(cluster: al.Session, user: ContextVar[Any]) -> None:
    seeing = Seeing.remote()
    user.set({"name": "Ada"})
    al.traceparent.set(TRACE)
    private.set("mine")
    expected = ({"name": "Ada"}, TRACE, "nothing")
    for function in (plain, coroutine, seeing.plain, seeing.coroutine):
        assert await function() == await function.remote() == expected
    assert await seeing.below() == [expected] * 3


async def test_a_call_leaves_nothing_behind(cluster: al.Session, user: ContextVar[Any]) -> None:
    seeing = Seeing.remote()
    token = user.set("Ada")
    await seeing.change()
    assert user.get() == "Ada"
    assert (await seeing.coroutine())[0] == "Ada"
    user.reset(token)
    assert await seeing.coroutine() == await seeing.plain() == ("nobody", "", "nothing")


async def test_concurrent_callers_keep_theirs_apart(cluster: al.Session, user: ContextVar[Any]) -> None:
    seeing = Seeing.options(max_concurrency=4).remote()

    async def as_user(number: int) -> Any:
        user.set(number)
        return (await asyncio.gather(seeing.below(), seeing.plain(), coroutine()))[0]

    found = await asyncio.gather(*(as_user(number) for number in range(10)))
    assert [[each[0] for each in seen] for seen in found] == [[number] * 3 for number in range(10)]


async def test_a_value_that_cannot_travel(cluster: al.Session, user: ContextVar[Any]) -> None:
    user.set(lambda: None)
    with pytest.raises(SerializationError, match="context variable 'user' travels with calls") as caught:
        plain.remote()
    assert not caught.value.may_have_run


async def test_registering(user: ContextVar[Any]) -> None:
    assert al.propagate(user) is user
    with pytest.raises(ValueError, match="another context variable named 'user'"):
        al.propagate(ContextVar("user"))
    with pytest.raises(TypeError, match="takes a ContextVar"):
        al.propagate("user")  # type: ignore[arg-type]
