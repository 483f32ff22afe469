"""A registered class travels with calls, results, puts and errors over every transport; workers register nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import actorlite as al
from actorlite.errors import SerializationError

pytestmark = pytest.mark.asyncio


class Guarded:
    def __init__(self, content: Any) -> None:
        self.content = content
        self.lock = threading.Lock()


class Failed(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(threading.Lock())
        self.code = code


def content_of(value: Guarded) -> Any:
    return value.content


def failed_of(code: int) -> Failed:
    error = Failed(code)
    error.__dict__["arrived"] = True
    return error


def refuse(value: object) -> Any:
    raise LookupError("not today")


def register() -> None:
    al.register_serializer(Guarded, serializer=content_of, deserializer=Guarded)
    al.register_serializer(Failed, serializer=lambda error: error.code, deserializer=failed_of)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register()
    yield
    al.deregister_serializer(Guarded)
    al.deregister_serializer(Failed)


@al.remote
def unpack(first: Guarded, *, more: list[Guarded]) -> list[Any]:
    return [each.content for each in (first, *more)]


@al.remote
def total(guarded: Guarded) -> Any:
    return guarded.content["numbers"].sum()


@al.remote
async def follow(guarded: Guarded) -> Any:
    return await guarded.content


@al.remote
def give(content: Any) -> Guarded:
    register()
    return Guarded(content)


@al.remote
def fail() -> None:
    register()
    raise Failed(7)


@al.remote
async def through() -> None:
    await fail()


class Keeper(al.Actor):
    def __init__(self, kept: Guarded) -> None:
        self.kept = kept

    async def content(self) -> Any:
        return self.kept.content

    @al.method
    def swap(self, other: Guarded) -> Guarded:
        register()
        self.kept, other = other, self.kept
        return other


async def test_arguments_and_results(anywhere: al.Session) -> None:
    assert await unpack(Guarded(1), more=[Guarded(2), Guarded("three")]) == [1, 2, "three"]
    assert (await give("x")).content == "x"
    keeper = Keeper.remote(Guarded(1))
    assert await keeper.content() == 1
    assert (await keeper.swap(Guarded(2))).content == 1
    assert await keeper.content() == 2


async def test_what_is_put(anywhere: al.Session) -> None:
    numbers = np.arange(100_000)
    ref = await al.put(Guarded({"numbers": numbers}))
    assert await total(al.arg(ref)) == numbers.sum()
    kept = (await ref).content["numbers"]
    assert np.array_equal(kept, numbers)
    assert not kept.flags.writeable


async def test_references_inside(anywhere: al.Session) -> None:
    assert await follow(Guarded(await al.put("followed"))) == "followed"


async def test_errors_of_tasks(anywhere: al.Session) -> None:
    for call in (fail, through):
        with pytest.raises(Failed) as caught:
            await call()
        assert vars(caught.value)["arrived"]
        assert caught.value.code == 7
        assert "raise Failed(7)" in caught.value.__notes__[0]


async def test_a_serializer_that_fails(anywhere: al.Session) -> None:
    al.register_serializer(Guarded, serializer=refuse, deserializer=Guarded)
    with pytest.raises(SerializationError, match="registered for Guarded: LookupError: not today") as caught:
        await unpack(Guarded(1), more=[])
    assert caught.value.path == "args[0]"


async def test_a_deserializer_that_fails(anywhere: al.Session) -> None:
    al.register_serializer(Guarded, serializer=content_of, deserializer=refuse)
    with pytest.raises(LookupError, match="not today"):
        await unpack(Guarded(1), more=[])
    ref = await al.put(Guarded(1))
    with pytest.raises(LookupError, match="not today"):
        await ref
