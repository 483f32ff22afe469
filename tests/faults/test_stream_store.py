"""A process dies while large items of a stream are written, on their way or not read yet: what came can be read, and
nothing is left in the store."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy
import numpy.typing
import pytest
import pytest_asyncio

import actorlite as al
from actorlite.errors import ActorDiedError, Outcome, OwnerDiedError, WorkerCrashedError

pytestmark = pytest.mark.asyncio

MiB = 1 << 20
DEADLINE_S = 20.0  # what a dead writer wrote waits 5 s for its owner's word
POLL_S = 0.01
Floats = numpy.typing.NDArray[numpy.float64]


def pattern(seed: int, mib: float = 1) -> Floats:
    return numpy.arange(int(mib * MiB) // 8, dtype=float) + seed


async def stored(count: int) -> None:
    """Wait until so many values lie in the store."""
    ends = time.monotonic() + DEADLINE_S
    while True:
        gc.collect()
        found = await al.memory()
        if len(found.objects) == count and (count or not found.used):
            return
        assert time.monotonic() < ends, found
        await asyncio.sleep(POLL_S)


@pytest_asyncio.fixture
async def session() -> AsyncIterator[al.Session]:
    async with al.init("local", num_cpus=2) as session:
        yield session


def _die_at_the_third_write() -> None:
    from actorlite.store.segment import Segment

    write, count = Segment.write, 0

    def die(self: Any, offset: int, data: Any) -> None:
        nonlocal count
        count += len(memoryview(data)) >= MiB
        if count == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, offset, data)

    Segment.write = die  # type: ignore[method-assign]


@al.remote(num_cpus=0, max_retries=0)
def plain() -> Iterator[Floats]:
    _die_at_the_third_write()
    for number in range(10):
        yield pattern(number)


@al.remote(num_cpus=0, max_retries=0)
async def agen() -> AsyncIterator[Floats]:
    _die_at_the_third_write()
    for number in range(10):
        yield pattern(number)


class Source(al.Actor):
    @al.method
    def arrays(self) -> Iterator[Any]:
        yield os.getpid()
        number = 0
        while True:
            yield pattern(number)
            number += 1


class Reader(al.Actor):
    async def start(self, source: Source, pass_on: bool) -> list[Any]:
        """It calls the generator, so that the items are its own."""
        self.stream = source.arrays.options(stream_window_bytes=5 * MiB // 2).remote()
        await (await anext(self.stream))
        return [os.getpid(), self.stream if pass_on else None]

    async def keep(self, stream: Any) -> int:
        self.stream = stream
        return os.getpid()

    async def take(self) -> None:
        self.ref = await anext(self.stream)
        self.view = await self.ref


@pytest.mark.parametrize("function", [plain, agen], ids=["plain", "async"])
async def test_a_worker_killed_while_it_writes_an_item(session: al.Session, function: Any) -> None:
    stream = function.options(stream_window_bytes=100 * MiB).remote()
    first, second, last = [ref async for ref in stream]
    assert (await first == pattern(0)).all() and (await second == pattern(1)).all()
    with pytest.raises(WorkerCrashedError) as caught:
        await last
    assert caught.value.outcome is Outcome.UNKNOWN
    del first, second, last, stream, caught
    await stored(0)


async def test_items_that_came_outlive_their_producer(session: al.Session) -> None:
    source = Source.remote()
    stream = source.arrays.options(stream_window_bytes=5 * MiB // 2).remote()
    pid = await (await anext(stream))
    first = await anext(stream)
    await stored(3)
    os.kill(pid, signal.SIGKILL)
    refs = [ref async for ref in stream]
    with pytest.raises(ActorDiedError):
        await refs[-1]
    assert [int((await ref)[0]) for ref in (first, *refs[:-1])] == list(range(len(refs)))
    del first, refs, stream
    await stored(0)


async def test_a_process_that_is_killed_frees_the_items_of_its_streams(session: al.Session) -> None:
    source, owner = Source.remote(), Reader.remote()
    pid, _ = await owner.start(source, False)
    await owner.take()
    await stored(3)
    os.kill(pid, signal.SIGKILL)
    await stored(0)
    assert await (await anext(source.arrays.remote()))


async def test_a_reader_elsewhere_that_is_killed_frees_what_it_borrowed(session: al.Session) -> None:
    source, reader = Source.remote(), Reader.remote()
    stream = source.arrays.options(stream_window_bytes=5 * MiB // 2).remote()
    await (await anext(stream))
    pid = await reader.keep(stream)
    await reader.take()
    await stored(3)
    del stream
    os.kill(pid, signal.SIGKILL)
    await stored(0)


async def test_the_items_of_an_owner_that_was_killed_are_lost_to_the_reader(session: al.Session) -> None:
    source, owner, reader = Source.remote(), Reader.remote(), Reader.remote()
    pid, stream = await owner.start(source, True)
    ref = await anext(stream)
    await ref.ready()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(OwnerDiedError):
        await asyncio.wait_for(ref.get(), DEADLINE_S)
    refs = [ref async for ref in stream]
    with pytest.raises(OwnerDiedError, match=r"the process that owned the stream of .*arrays\(\) is gone"):
        await refs[-1]
    del ref, refs, stream, reader
    await stored(0)
