"""Streams that are passed on: read by a task or an actor that did not call the generator."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import ObjectLostError, OwnerDiedError, SerializationError, TaskCancelledError

pytestmark = pytest.mark.asyncio


class OwnError(Exception):
    pass


@al.remote(num_cpus=0)
def count(upto: int, fail: bool = False) -> Iterator[int]:
    yield from range(upto)
    if fail:
        raise OwnError("after", upto)


@al.remote(num_cpus=0)
async def endless(diary: Any) -> AsyncIterator[int]:
    number = 0
    try:
        while True:
            diary.note(number)
            yield number
            number += 1
    finally:
        await asyncio.sleep(0)
        diary.note("finally")


@al.remote
async def total(box: Any) -> int:
    """Reads a stream given as it is, or within a container."""
    found = 0
    async for ref in box if isinstance(box, al.ObjectRefStream) else box["stream"]:
        found += await ref
    return found


@al.remote
def plain_total(stream: Any) -> int:
    return sum(al.sync.get(ref) for ref in stream)


@al.remote
async def first(stream: Any, upto: int) -> list[int]:
    found = []
    async for ref in stream:
        found.append(await ref)
        if len(found) == upto:
            break
    return found


@al.remote
async def make(upto: int) -> list[Any]:
    return [count.remote(upto)]


class Reader(al.Actor):
    def __init__(self) -> None:
        self.stream: Any = None

    async def keep(self, stream: Any) -> None:
        self.stream = stream

    async def take(self) -> int:
        value: int = await (await anext(self.stream))
        return value

    async def give(self) -> Any:
        return self.stream

    async def drop(self) -> None:
        self.stream = None

    async def close(self) -> None:
        await self.stream.aclose()

    async def cancel(self) -> None:
        await al.cancel(self.stream)

    async def rest(self) -> list[Any]:
        return [await ref async for ref in self.stream]

    async def completed(self) -> Any:
        return await self.stream.completed()

    async def ready(self) -> tuple[bool, bool]:
        return self.stream.next_ready(), self.stream.is_finished()


async def test_a_task_reads_a_stream_that_it_was_given(anywhere: al.Session) -> None:
    expected = sum(range(100))
    assert await total.remote(count.remote(100)) == expected
    assert await total({"stream": count.remote(100)}) == expected
    assert await plain_total.remote(count.remote(100)) == expected
    assert await total.remote(await al.put({"stream": count.remote(100)})) == expected  # type: ignore[arg-type]


async def test_a_stream_comes_back_as_a_result(anywhere: al.Session) -> None:
    [stream] = await make(50)
    assert [await ref async for ref in stream] == list(range(50))
    assert await stream.completed() is None
    [again] = await make.remote(50)
    assert await total.remote(again) == sum(range(50))


async def test_a_stream_comes_home(anywhere: al.Session) -> None:
    reader = Reader.remote()
    await reader.keep(count.remote(40))
    stream = await reader.give()
    await reader.drop()
    assert [await ref async for ref in stream] == list(range(40))


async def test_a_stream_is_read_on_by_whoever_it_is_passed_to(anywhere: al.Session) -> None:
    stream = count.remote(40)
    assert [await (await anext(stream)) for _ in range(3)] == [0, 1, 2]
    assert await first(stream, 100) == list(range(3, 40))


async def test_items_with_references_reach_a_reader_elsewhere(anywhere: al.Session) -> None:
    @al.remote(num_cpus=0)
    async def things() -> AsyncIterator[list[al.ObjectRef[int]]]:
        for number in range(20):
            yield [await al.put(number)]

    @al.remote
    async def inner(stream: Any) -> list[int]:
        return [await (await ref)[0] async for ref in stream]

    assert await inner(things.remote()) == list(range(20))


async def test_an_error_reaches_a_reader_elsewhere(anywhere: al.Session) -> None:
    reader = Reader.remote()
    await reader.keep(count.remote(3, fail=True))
    assert [await reader.take() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OwnError, match="after"):
        await reader.take()
    assert await reader.rest() == []
    with pytest.raises(OwnError):
        await reader.completed()
    assert await reader.ready() == (True, True)


async def test_a_reader_elsewhere_holds_the_producer_at_the_window(anywhere: al.Session, diary: Any) -> None:
    reader = Reader.remote()
    await reader.keep(endless.options(stream_window=4).remote(diary))
    await diary.has(3)
    for taken in range(1, 30):
        assert await reader.take() == taken - 1
        assert len(diary.words()) <= taken + 4
    assert await reader.ready() == (False, False)
    await reader.drop()
    await diary.has("finally")


@pytest.mark.parametrize("how", ["drop", "close", "cancel"])
async def test_the_end_of_reading_elsewhere_closes_the_producer(anywhere: al.Session, how: str, diary: Any) -> None:
    reader = Reader.remote()
    await reader.keep(endless.remote(diary))
    assert [await reader.take() for _ in range(3)] == [0, 1, 2]
    await getattr(reader, how)()
    await diary.has("finally")
    if how == "close":
        assert await reader.rest() == []
    elif how == "cancel":
        with pytest.raises(TaskCancelledError):
            await reader.rest()


async def test_a_reader_that_leaves_its_loop_closes_the_producer(anywhere: al.Session, diary: Any) -> None:
    assert await first.remote(endless.remote(diary), 5) == [0, 1, 2, 3, 4]
    await diary.has("finally")


async def test_a_reader_that_is_cancelled_or_killed_closes_the_producer(anywhere: al.Session, diary: Any) -> None:
    reading = asyncio.create_task(first(endless.options(stream_window=1).remote(diary), 10**9))
    await diary.has(20)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await diary.has("finally")
    reader = Reader.remote()
    await reader.keep(endless.remote(diary))
    assert await reader.take() == 0
    await al.kill(reader)
    del reader
    await diary.has("finally", 2)


async def test_a_stream_that_never_reaches_its_reader_is_closed(anywhere: al.Session, diary: Any) -> None:
    reader = Reader.remote()
    await al.ready(reader)
    await al.kill(reader)
    stream = endless.remote(diary)
    await diary.has(0)
    with pytest.raises(al.errors.ActorDiedError):
        await reader.keep(stream)
    del stream
    gc.collect()  # the traceback of the error holds the arguments of the call
    await diary.has("finally")


async def test_closing_where_it_was_called_is_an_error_elsewhere(anywhere: al.Session, diary: Any) -> None:
    reader = Reader.remote()
    stream = endless.remote(diary)
    await reader.keep(stream)
    assert await reader.take() == 0
    await stream.aclose()
    await diary.has("finally")
    with pytest.raises(TaskCancelledError, match="closed"):
        await reader.rest()


async def test_a_stream_is_read_in_one_place(anywhere: al.Session) -> None:
    readers = [Reader.remote(), Reader.remote()]
    stream = count.remote(100)
    for reader in readers:
        await reader.keep(stream)
    assert await readers[0].take() == 0
    with pytest.raises(RuntimeError, match="is being read in process .* already: a stream is read in one place"):
        await readers[1].take()
    with pytest.raises(RuntimeError, match="is being read in process .* already"):
        await anext(stream)
    assert await readers[0].take() == 1
    box = Reader.remote()
    await box.keep([stream, stream])
    del box


async def test_dropping_the_stream_where_it_was_called_leaves_it_to_the_reader(anywhere: al.Session) -> None:
    reader = Reader.remote()
    stream = count.remote(1000)
    await reader.keep(stream)
    del stream
    assert await reader.rest() == list(range(1000))


async def test_a_stream_outside_a_call_cannot_be_pickled(cluster: al.Session) -> None:
    stream = count.remote(3)
    with pytest.raises(TypeError, match="cannot be pickled outside a call"):
        pickle.dumps(stream)
    with pytest.raises((TypeError, SerializationError), match="cannot be passed on"):
        await total.remote(count(3))
    assert len([ref async for ref in stream]) == 3


async def test_a_stream_whose_owner_was_killed_is_an_error(anywhere: al.Session) -> None:
    class Owner(al.Actor):
        async def start(self) -> Any:
            return [count.options(num_cpus=0).remote(1000)]

    owner = Owner.remote()
    [stream] = await owner.start()
    assert await (await anext(stream)) == 0
    if not anywhere.address.startswith("local"):
        return  # in one loop the actor's end is not the end of its process
    await al.kill(owner)
    refs = [ref async for ref in stream]
    with pytest.raises((OwnerDiedError, ObjectLostError), match="is gone"):
        await refs[-1]
