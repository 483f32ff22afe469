"""Values written soon after one another, into room that was leased for them: the same values, and nothing left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import numpy.typing
import pytest
import pytest_asyncio

import actorlite as al
from actorlite.errors import ActorDiedError
from actorlite.store.slabs import SEVERAL, LeasedSlabs
from actorlite.testing.cluster import local_cluster

pytestmark = pytest.mark.asyncio

MiB = 1 << 20
Ints = numpy.typing.NDArray[numpy.int64]
Eventually = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
CAPACITY = 64 * MiB
"""Slabs of 2 MiB, for values of at most 512 KiB."""
COUNT = 60


def pattern(seed: int, kib: int = 200) -> Ints:
    return numpy.arange(kib * 1024 // 8, dtype=numpy.int64) + seed


def is_pattern(array: Ints, seed: int) -> bool:
    return bool((array == pattern(seed, array.nbytes // 1024)).all())


@al.remote
def seed_of(array: Ints) -> int:
    assert is_pattern(array, int(array[0]))
    return int(array[0])


@al.remote
def make_and_send(seed: int) -> int:
    """From the thread of a plain function."""
    array = pattern(seed)
    refs = []
    for _ in range(COUNT // 10):
        refs.append(seed_of.remote(array))
        array += 1
    return sum(al.sync.get(refs))


class Maker(al.Actor):
    @al.method
    def plain(self, seed: int) -> Ints:
        return pattern(seed)

    async def coroutine(self, seed: int) -> Ints:
        self.array = pattern(seed)
        return self.array

    async def spoiled(self, seed: int) -> int:
        self.array += 1
        return seed

    async def take(self, array: Ints) -> int:
        assert is_pattern(array, int(array[0]))
        return int(array[0])

    async def two(self, seed: int) -> tuple[Ints, Ints]:
        return pattern(seed), pattern(seed + 1)

    async def put_and_die(self) -> None:
        self.refs = [await al.put(pattern(each)) for each in range(COUNT)]
        assert (await al.memory()).leased
        os.kill(os.getpid(), signal.SIGKILL)


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp", "processes"])
async def session(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[al.Session]:
    options: dict[str, Any] = {
        "num_cpus": 2,
        "object_store_memory": CAPACITY,
        "object_spilling_directory": str(tmp_path),
    }
    if request.param == "processes":
        async with al.init("local", **options) as session:
            yield session
    else:
        async with local_cluster(scheme=request.param, **options) as session:
            yield session


async def test_values_that_are_put_in_a_row(session: al.Session, empty: Any) -> None:
    refs = [await al.put(pattern(each)) for each in range(COUNT)]
    found = await al.memory()
    assert found.leased and len(found.objects) == COUNT
    assert {each.what for each in found.objects} == {"put"}
    assert all(is_pattern(value, each) for each, value in enumerate(await al.get(refs)))
    assert await al.get([seed_of.remote(al.arg(ref)) for ref in refs]) == list(range(COUNT))
    del refs[::2]
    more = await asyncio.gather(*[al.put(pattern(-each)) for each in range(COUNT)])
    assert all(is_pattern(value, 2 * each + 1) for each, value in enumerate(await al.get(refs)))
    assert all(is_pattern(value, -each) for each, value in enumerate(await al.get(more)))
    refs.clear()
    more.clear()
    await empty()


async def test_few_values_lease_nothing(session: al.Session) -> None:
    refs = [await al.put(pattern(each)) for each in range(SEVERAL - 1)]
    assert (await al.memory()).leased == 0
    assert len(await al.get(refs)) == SEVERAL - 1


async def test_sizes_of_all_kinds_side_by_side(session: al.Session, empty: Any) -> None:
    sizes = [104, 150, 511, 512, 513, 1000, 100, 2000] * 6
    refs = [await al.put(pattern(place, size)) for place, size in enumerate(sizes)]
    for place, value in enumerate(await al.get(refs)):
        assert is_pattern(value, place) and value.nbytes == sizes[place] * 1024
    del refs, value
    await empty()


async def test_arguments_are_as_they_were_when_the_call_was_made(session: al.Session, empty: Any) -> None:
    maker = Maker.remote()
    array = pattern(0)
    refs = []
    for _ in range(COUNT):
        refs += [seed_of.remote(array), maker.take.remote(array)]
        array += 1
    assert await al.get(refs) == [each // 2 for each in range(2 * COUNT)]
    del refs
    await empty()


async def test_arguments_sent_from_threads(session: al.Session, empty: Any) -> None:
    def send(seed: int) -> int:
        array = pattern(seed)
        refs = []
        with session.use():
            for _ in range(COUNT // 4):
                refs.append(seed_of.remote(array))
                array += 1
            return sum(al.sync.get(refs))

    expected = [sum(range(seed, seed + COUNT // 4)) for seed in (0, 1000, 2000, 3000)]
    with ThreadPoolExecutor(4) as threads:
        loop = asyncio.get_running_loop()
        found = await asyncio.gather(*[loop.run_in_executor(threads, send, seed) for seed in (0, 1000, 2000, 3000)])
    assert found == expected
    assert await al.get([make_and_send.remote(100), make_and_send.remote(200)]) == [
        sum(range(seed, seed + COUNT // 10)) for seed in (100, 200)
    ]
    await empty()


async def test_results(session: al.Session, empty: Any) -> None:
    maker = Maker.remote()
    for method in (maker.plain, maker.coroutine):
        refs = [method.remote(each) for each in range(COUNT)]
        assert all(is_pattern(value, each) for each, value in enumerate(await al.get(refs)))
        del refs
    for each in range(COUNT // 4):
        ref = maker.coroutine.remote(each)
        await maker.spoiled(each)
        assert is_pattern(await ref, each), "what its maker does to it afterwards changes nothing"
    pairs = [maker.two.options(num_returns=2).remote(each) for each in range(COUNT // 4)]
    for each, (first, second) in enumerate(pairs):
        assert is_pattern(await first, each) and is_pattern(await second, each + 1)
    del pairs, first, second, ref
    await empty()


async def test_results_that_nobody_wants(session: al.Session, empty: Any) -> None:
    maker = Maker.remote()
    for each in range(COUNT):
        maker.plain.remote(each)
        maker.coroutine.remote(each)
    await maker.take.remote(pattern(0))
    await empty()


async def test_calls_that_are_cancelled(session: al.Session, empty: Any) -> None:
    maker = Maker.remote()
    for each in range(COUNT):
        ref = maker.take.remote(pattern(each))
        await al.cancel(ref)
        task = asyncio.ensure_future(al.put(pattern(each)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(ref, task, return_exceptions=True)
    del ref, task
    await empty()


async def test_a_store_that_needs_the_room_gets_it_back(session: al.Session, empty: Any) -> None:
    refs = [await al.put(pattern(each)) for each in range(20)]
    assert (await al.memory()).leased
    large = await al.put(numpy.zeros(CAPACITY - 8192, dtype=numpy.uint8), timeout=10)
    assert (await al.memory()).leased == 0
    del large
    more = [await al.put(pattern(each, 400)) for each in range(200)]  # more than there is room for
    assert all([is_pattern(await ref, each) for each, ref in enumerate(refs)])
    assert all([is_pattern(await ref, each) for each, ref in enumerate(more)])
    del refs, more
    await empty()


async def test_who_hears_of_a_value_before_the_node_does_waits(
    session: al.Session, empty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = LeasedSlabs.say

    def later(self: LeasedSlabs) -> None:
        self._scope.loop.call_later(0.02, say, self)

    refs = [await al.put(pattern(each)) for each in range(COUNT)]
    monkeypatch.setattr(LeasedSlabs, "say", later)
    for each in range(COUNT):
        assert await seed_of.remote(pattern(each)) == each
        if each % 4 == 0:
            seed_of.remote(pattern(each))  # and it is freed before
    monkeypatch.undo()
    del refs
    await empty()


async def test_a_writer_that_dies_leaves_nothing(tmp_path: Path, empty: Any) -> None:
    async with al.init("local", num_cpus=2, object_store_memory=CAPACITY, object_spilling_directory=str(tmp_path)):
        maker = Maker.remote()
        with pytest.raises(ActorDiedError):
            await maker.put_and_die()
        await empty()


async def test_a_forked_child_does_not_write_into_room_of_its_parent() -> None:
    async with al.init("inproc://", object_store_memory=CAPACITY) as session:
        refs = [await al.put(pattern(each)) for each in range(COUNT)]
        slabs = session.runtime.stored.client.slabs  # type: ignore[attr-defined]
        assert slabs._slabs
        pid = os.fork()
        if not pid:
            os._exit(int(bool(slabs._slabs) or not slabs._closed))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        refs += [await al.put(pattern(each)) for each in range(COUNT, COUNT + 5)]
        assert all([is_pattern(await ref, each) for each, ref in enumerate(refs)])
