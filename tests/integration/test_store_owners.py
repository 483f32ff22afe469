"""Values of owners that are busy, and of workers that end: what nobody can ask for is freed, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import actorlite as al
from actorlite.context import current_runtime
from actorlite.node import objects
from actorlite.testing.cluster import local_cluster
from actorlite.wire.requests import KillWorker

from ..arrays import Floats, pattern
from ..drivers import another_driver

pytestmark = pytest.mark.asyncio

WITHIN_S = 20.0


class Busy:
    """A driver in a thread of its own, whose loop user code blocks."""

    def __init__(self, session: al.Session) -> None:
        self.process = ""
        self.value: Any = None
        self.called = threading.Event()
        self.go_on = threading.Event()
        self._session = session
        self._thread = threading.Thread(target=lambda: asyncio.run(self._drive()))
        self._thread.start()

    async def end(self) -> None:
        self.go_on.set()
        await asyncio.to_thread(self._thread.join, WITHIN_S)
        assert not self._thread.is_alive()

    async def _drive(self) -> None:
        async with another_driver(self._session) as runtime:
            self.process = runtime.process
            maker = Maker.remote()
            await al.ready(maker)
            ref = maker.make.remote(self.process)
            await asyncio.sleep(0)
            self.called.set()
            assert self.go_on.wait(WITHIN_S)
            self.value = (await ref).copy()


workers: list[Any] = []


class Maker(al.Actor):
    async def make(self, owner: str) -> Floats:
        workers.append(current_runtime.get())
        return pattern(5)


@pytest.fixture
def _no_workers() -> Iterator[None]:
    yield
    workers.clear()


@pytest.mark.parametrize("how", ["the worker dies", "the connection is lost"])
async def test_a_result_is_not_freed_while_its_callers_loop_is_blocked(
    how: str, monkeypatch: pytest.MonkeyPatch, eventually: Any, _no_workers: None
) -> None:
    monkeypatch.setattr(objects, "UNCLAIMED_S", 0.2)
    monkeypatch.setattr(objects, "OWNER_SAYS_S", 0.2)
    async with local_cluster(scheme="uds") as session:

        async def stored() -> bool:
            return [each.place for each in (await al.memory()).objects] == ["in memory"]

        busy = Busy(session)
        try:
            assert await asyncio.to_thread(busy.called.wait, WITHIN_S)
            await eventually(stored)
            (worker,) = workers
            if how == "the worker dies":
                node = session.runtime.node_peer
                await node.request(next(session.runtime.hub.numbers), KillWorker(worker.process))
            else:
                await worker.hub.peers[busy.process].aclose()
            for _ in range(3):  # the owner does not say what it is each time
                assert await stored()
        finally:
            await busy.end()
        assert (busy.value == pattern(5)).all()


kept: list[Any] = []


@pytest.fixture
def _nothing_kept() -> Iterator[None]:
    yield
    kept.clear()


class Keeper(al.Actor):
    """Its views are in hands that outlive it, where it is an object in this process."""

    def keep(self, array: Floats, times: int) -> None:
        kept.extend(array[number:] for number in range(times))

    async def keep_opened(self, refs: list[al.ObjectRef[Floats]]) -> None:
        kept.append(await refs[0])


async def in_use() -> int:
    gc.collect()
    return sum(bool(each.used_by) for each in (await al.memory()).objects)


async def refill(rounds: int) -> None:
    """Write to all memory of the store that is free."""
    for seed in range(rounds):
        await al.put(pattern(-1000 - seed))


@pytest.mark.parametrize("end", [al.kill, al.terminate], ids=["killed", "terminated"])
async def test_views_of_an_actor_that_has_ended_keep_their_memory_until_they_go(
    small_here: al.Session, end: Any, eventually: Any, empty: Any, _nothing_kept: None
) -> None:
    keeper = Keeper.remote()
    await keeper.keep.remote(await al.put(pattern(1, 2)), 2)
    await keeper.keep.remote(await al.put(pattern(2, 2)), 1)
    refs = [await al.put(pattern(3))]
    await keeper.keep_opened.remote(refs)
    await end(keeper)
    del refs

    async def worker_gone() -> bool:
        return len((await small_here.status())["workers"]) == 0

    await eventually(worker_gone)
    await refill(16)
    assert await in_use() == 3
    for view, wanted in zip(kept, (pattern(1, 2), pattern(1, 2)[1:], pattern(2, 2), pattern(3)), strict=True):
        assert (view == wanted).all()
    del kept[0], view
    await refill(2)
    assert await in_use() == 3
    await asyncio.to_thread(kept.pop, 0)  # the other view of the first: from any thread

    async def so_many(wanted: int = 2) -> bool:
        return await in_use() == wanted

    await eventually(so_many)
    await refill(16)
    assert (kept[0] == pattern(2, 2)).all() and (kept[1] == pattern(3)).all()
    kept.clear()
    await empty()
    assert (await (await al.put(pattern(9, 7.9), timeout=5)) == pattern(9, 7.9)).all()


async def test_an_actor_that_dies_while_it_opens_values_leaves_nothing(
    small_here: al.Session, empty: Any, _nothing_kept: None
) -> None:
    for passes in range(24):
        keeper = Keeper.remote()
        await al.ready(keeper)
        refs = [await al.put(pattern(passes))]
        call = keeper.keep_opened.remote(refs)
        for _ in range(passes):
            await asyncio.sleep(0)
        await al.kill(keeper)
        await call.ready()
        call.exception()
        kept.clear()
        del refs, call
    await empty()
