"""The connection to the node is cut while views are kept: they show what they showed, whatever is written meanwhile."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import actorlite as al
from actorlite.context import current_runtime
from actorlite.errors import ActorDiedError, ActorliteError
from actorlite.node import deaths
from actorlite.rpc import hub
from actorlite.testing.cluster import local_cluster
from actorlite.testing.faults import FaultyTransport
from actorlite.transport import get_transport

from ..arrays import Floats, MiB, pattern
from ..drivers import another_driver

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp"])
async def faulty(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[al.Session]:
    """A session whose store takes 8 MiB and whose connections can be cut."""
    monkeypatch.setattr(hub, "get_transport", lambda address: FaultyTransport(get_transport(address)))
    store: dict[str, Any] = {"object_store_memory": 8 * MiB, "object_spilling_directory": str(tmp_path)}
    async with local_cluster(scheme=request.param, num_cpus=2, **store) as session:
        yield session


def cut_off(runtime: Any) -> None:
    """From its node, with whatever is on its way."""
    runtime.node.peer._connection.cut()


@dataclass
class Holder:
    array: Floats


class Kept:
    """Views of values, kept in every way, and what they must show."""

    def __init__(self) -> None:
        self.views: list[Any] = []
        self.wanted: list[bytes] = []

    def keep(self, seed: int, array: Floats) -> None:
        whole = pattern(seed)
        ways: list[Callable[[Floats], Any]] = [
            lambda array: array,
            lambda array: array[5:-3],
            lambda array: array.reshape(2, -1)[1],
            lambda array: memoryview(array)[1000:],
            lambda array: array.view("u1"),
        ]
        way = ways[seed % len(ways)]
        self.views.append(Holder(way(array)))
        self.wanted.append(bytes(way(whole)))

    def check(self) -> None:
        for holder, wanted in zip(self.views, self.wanted, strict=True):
            assert bytes(holder.array) == wanted

    def drop(self) -> None:
        self.views.clear()
        self.wanted.clear()
        gc.collect()


@pytest.fixture
def kept() -> Iterator[Kept]:
    yield views
    views.drop()


views = Kept()
workers: list[Any] = []


async def refill(kept: Kept) -> None:
    """Write to all that is free, several times."""
    for seed in range(24):
        await al.put(pattern(-1000 - seed, 0.5 + seed % 3))
        kept.check()


async def can_be_used_again(eventually: Any) -> None:
    async def all_of_it() -> bool:
        gc.collect()
        try:
            return (await (await al.put(pattern(7, 7.9), timeout=0.5)))[0] == 7
        except al.errors.ObjectStoreFullError:
            return False

    await eventually(all_of_it)


async def test_views_of_a_driver_that_was_cut_off(faulty: al.Session, kept: Kept, eventually: Any) -> None:
    for seed in range(5):
        kept.keep(seed, await (await al.put(pattern(seed))))
    async with another_driver(faulty):
        cut_off(faulty.runtime)

        async def is_noticed() -> bool:
            return not faulty.is_open

        await eventually(is_noticed)
        await refill(kept)
        await faulty.runtime.aclose()
        await refill(kept)
        kept.drop()
        await can_be_used_again(eventually)


class Keeper(al.Actor):
    async def ping(self) -> None:
        pass

    async def keep(self, seed: int, refs: list[al.ObjectRef[Floats]]) -> None:
        views.keep(seed, await refs[0])
        workers[:] = [current_runtime.get()]


async def test_views_of_an_actor_that_was_cut_off(faulty: al.Session, kept: Kept, eventually: Any) -> None:
    keeper = Keeper.remote()
    for seed in range(5):
        await keeper.keep.remote(seed, [await al.put(pattern(seed))])
    cut_off(workers.pop())
    with pytest.raises(ActorDiedError):
        async with asyncio.timeout(10):
            while True:
                await keeper.ping.remote()
    await refill(kept)
    kept.drop()
    await can_be_used_again(eventually)


async def test_a_connection_that_is_cut_while_values_are_opened(
    faulty: al.Session, kept: Kept, eventually: Any, complaints: Any
) -> None:
    """The node has counted a reader that never heard of it."""
    for passes in range(12):
        keeper = Keeper.remote()
        await keeper.keep.remote(passes, [await al.put(pattern(passes))])
        refs = [await al.put(pattern(100 + passes))]
        call = keeper.keep.remote(100 + passes, refs)
        for _ in range(passes):
            await asyncio.sleep(0)
        cut_off(workers.pop())
        await call.ready()
        assert call.exception() is None or isinstance(call.exception(), ActorliteError)
        del refs, call
        await al.put(pattern(-1000 - passes, 1.5))
        kept.check()
        kept.drop()
    await can_be_used_again(eventually)


class Counting(al.Actor, max_task_retries=3):
    def __init__(self) -> None:
        self.runs = 0
        workers[:] = [current_runtime.get()]

    async def make(self, seed: int) -> Floats:
        self.runs += 1
        return pattern(seed)

    def make_plainly(self, seed: int) -> Floats:
        self.runs += 1
        return pattern(seed)

    async def count(self) -> int:
        return self.runs


class Asking(al.Actor):
    async def ask(self, counting: Any, method: str, seed: int) -> bool:
        """Cut the connection a moment after the call was made."""
        call = getattr(counting, method).remote(seed)
        for _ in range(seed):
            await asyncio.sleep(0)
        runtime: Any = current_runtime.get()
        if (peer := runtime.hub.peers.get(workers[0].process)) is not None:
            peer._connection.cut()
        return bool((await call == pattern(seed)).all())


@pytest.mark.parametrize("method", ["make", "make_plainly"])
async def test_a_large_result_is_not_made_twice_because_its_connection_broke(
    faulty: al.Session, kept: Kept, method: str, empty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaths, "EXIT_REPORT_S", 0.02)
    counting, asking = Counting.remote(), Asking.remote()
    await al.ready(counting)
    for seed in range(24):
        assert await asking.ask.remote(counting, method, seed)
        assert await counting.count.remote() == seed + 1
    await empty()
