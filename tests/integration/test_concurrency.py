"""What runs at the same time in one actor: groups, readonly methods, reentrancy; and the order of what does not."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import ActorDiedError, TaskCancelledError

pytestmark = pytest.mark.asyncio


class Grouped(al.Actor, concurrency_groups={"io": 2, "cpu": 1}):
    def __init__(self) -> None:
        self.inside: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.go = threading.Event()

    def _enter(self, group: str) -> None:
        self.inside[group] = self.inside.get(group, 0) + 1
        self.most[group] = max(self.most.get(group, 0), self.inside[group])

    def _leave(self, group: str) -> None:
        self.inside[group] -= 1

    @al.method(concurrency_group="io")
    async def fetch(self) -> str:
        self._enter("io")
        while not self.go.is_set():
            await asyncio.sleep(0.001)
        self._leave("io")
        return "io"

    @al.method(concurrency_group="cpu")
    def crunch(self) -> int:
        self._enter("cpu")
        self.go.wait(10)
        self._leave("cpu")
        return threading.get_ident()

    async def plain_count(self, group: str) -> int:
        return self.inside.get(group, 0)

    async def release(self) -> dict[str, int]:
        self.go.set()
        return self.most

    @al.method
    def ident(self) -> int:
        return threading.get_ident()


@pytest.mark.parametrize("process", ["dedicated", "shared"])
async def test_each_group_has_its_own_limit_and_threads(cluster: al.Session, process: Any, eventually: Any) -> None:
    actor = Grouped.options(process=process).remote()
    fetches = [actor.fetch.remote() for _ in range(5)]
    crunches = [actor.crunch.remote() for _ in range(3)]

    async def all_inside() -> bool:
        return await actor.plain_count("io") == 2 and await actor.plain_count("cpu") == 1

    await eventually(all_inside)
    most = await actor.release()
    assert await al.get(fetches) == ["io"] * 5
    assert most == {"io": 2, "cpu": 1}
    threads = set(await al.get(crunches))
    assert len(threads) == 1
    if process == "dedicated":
        assert threads.isdisjoint({await actor.ident()})


async def test_a_group_is_chosen_per_call_and_an_unknown_one_is_refused_at_once(cluster: al.Session) -> None:
    actor = Grouped.remote()
    held = [actor.fetch.remote(), actor.fetch.remote()]
    other = actor.fetch.options(concurrency_group="cpu").remote()
    default = actor.fetch.options(concurrency_group="_default").remote()
    with pytest.raises(ValueError, match=r"no concurrency group 'gpu'.*\['_default', 'cpu', 'io'\]"):
        actor.fetch.options(concurrency_group="gpu").remote()
    with pytest.raises(ValueError, match="no concurrency group 'gpu'"):
        await actor.fetch.options(concurrency_group="gpu")()
    release = actor.release.options(concurrency_group="io")
    await al.cancel(held[0])
    await release()
    assert await al.get([held[1], other, default]) == ["io"] * 3


async def test_a_method_that_names_a_group_which_its_class_does_not_have(cluster: al.Session) -> None:
    class Wrong(al.Actor, concurrency_groups={"io": 1}):
        @al.method(concurrency_group="oi")
        async def get(self) -> None: ...

    with pytest.raises(ValueError, match="'oi'.*known are .*io"):
        Wrong.remote()


async def test_groups_reach_whoever_holds_a_handle(cluster: al.Session) -> None:
    @al.remote
    async def use(actor: Any) -> str:
        with pytest.raises(ValueError, match="no concurrency group"):
            actor.fetch.options(concurrency_group="gpu").remote()
        fetch = actor.fetch.remote()
        await actor.release()
        return str(await fetch)

    assert await use(Grouped.remote()) == "io"  # type: ignore[arg-type]


class Store(al.Actor):
    def __init__(self) -> None:
        self.value = 0
        self.log: list[str] = []

    @al.method(readonly=True)
    async def read(self, gate: Any = None) -> int:
        self.log.append("read")
        if gate is not None:
            gate.arrive()
            await asyncio.to_thread(gate.hold)
        return self.value

    @al.method(readonly=True)
    def read_plain(self, gate: Any) -> int:
        gate.hold()
        return threading.get_ident()

    async def write(self, value: int) -> None:
        self.log.append("write")
        self.value = value

    async def entries(self) -> list[str]:
        return self.log


async def test_reads_interleave_and_a_write_waits_and_holds_back_later_reads(cluster: al.Session, gate: Any) -> None:
    store = Store.remote()
    reads = [store.read.remote(gate) for _ in range(3)]
    await gate.arrived(6)  # each says so twice
    write = store.write.remote(7)
    later = store.read.remote()
    with pytest.raises(TimeoutError):
        await al.get(later, timeout=0.01)
    gate.open(3)
    assert await al.get(reads) == [0, 0, 0]
    await write
    assert await later == 7
    assert await store.entries() == ["read"] * 3 + ["write", "read"]


async def test_plain_reads_run_in_threads_of_their_own(cluster: al.Session, gate: Any) -> None:
    store = Store.remote()
    reads = [store.read_plain.remote(gate) for _ in range(3)]
    await gate.arrived(3)
    gate.open(3)
    assert len(set(await al.get(reads))) == 3


async def test_reads_behind_a_write_that_is_cancelled_go_on(cluster: al.Session, gate: Any) -> None:
    store = Store.remote()
    first = store.read.remote(gate)
    await gate.arrived(2)
    write, later = store.write.remote(1), store.read.remote()
    await al.cancel(write)
    with pytest.raises(TaskCancelledError):
        await write
    assert await asyncio.wait_for(later.get(), 10) == 0
    gate.open()
    assert await first == 0


class Knot(al.Actor, reentrant=True):
    async def outer(self, depth: int) -> int:
        me = al.runtime_context().current_actor
        return 1 + (await me.outer(depth - 1) if depth else 0)

    @al.method
    def plain(self, depth: int) -> int:
        me = al.runtime_context().current_actor
        return 1 + (asyncio.run(_await(me.plain(depth - 1))) if depth else 0)

    async def through(self, other: Any, depth: int) -> int:
        me = al.runtime_context().current_actor
        return 1 + (await other.through(me, depth - 1) if depth else 0)

    async def hold(self, gate: Any) -> None:
        gate.arrive()
        await asyncio.to_thread(gate.hold)


async def _await(call: Any) -> Any:
    return await call


@pytest.mark.parametrize("process", ["dedicated", "shared"])
async def test_a_reentrant_actor_is_called_by_what_it_calls(cluster: al.Session, process: Any) -> None:
    one, two = Knot.options(process=process).remote(), Knot.options(process=process).remote()
    assert await asyncio.wait_for(one.outer(5), 10) == 6
    assert await asyncio.wait_for(one.through(two, 9), 10) == 10
    assert await asyncio.wait_for(one.plain(5), 10) == 6


async def test_reentrancy_is_for_what_came_through_the_actor_only(cluster: al.Session, gate: Any) -> None:
    knot = Knot.remote()
    held = knot.hold.remote(gate)
    await gate.arrived(2)
    waiting = knot.outer.remote(0)
    with pytest.raises(TimeoutError):
        await al.get(waiting, timeout=0.01)
    gate.open()
    await held
    assert await waiting == 1


class Log(al.Actor):
    def __init__(self) -> None:
        self.seen: list[int] = []

    async def note(self, value: int) -> None:
        self.seen.append(value)

    @al.method
    def note_plain(self, value: int) -> None:
        self.seen.append(value)

    async def notes(self) -> list[int]:
        return self.seen

    async def hold(self, gate: Any) -> None:
        gate.arrive()
        await asyncio.to_thread(gate.hold)


async def test_order_is_kept_by_a_process_that_received_the_handle(cluster: al.Session) -> None:
    @al.remote
    async def slow_value(value: int) -> int:
        await asyncio.sleep(0.01)
        return value

    @al.remote
    async def fill(log: Any) -> list[int]:
        refs = []
        for value in range(60):
            method = log.note if value % 2 else log.note_plain
            refs.append(method.remote(slow_value.options(num_cpus=0).remote(value) if value % 20 == 0 else value))
        await al.get(refs)
        return list(await log.notes())

    assert await fill(Log.remote()) == list(range(60))  # type: ignore[arg-type]


async def test_cancels_overtake_calls_and_many_are_cheap(cluster: al.Session, gate: Any) -> None:
    log = Log.remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)
    refs = [log.note.remote(value) for value in range(10_000)]
    last = log.note.remote(-1)
    await asyncio.wait_for(asyncio.gather(*[al.cancel(ref) for ref in reversed(refs)]), 30)
    await asyncio.wait_for(al.wait(refs, num_returns=len(refs)), 30)
    assert all(isinstance(ref.exception(), TaskCancelledError) for ref in refs)
    gate.open()
    await al.get([held, last])
    assert await log.notes() == [-1]


async def test_the_end_of_an_actor_overtakes_its_calls(cluster: al.Session, gate: Any) -> None:
    log = Log.options(process="shared").remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)
    queued = [log.note.remote(value) for value in range(100)]
    await al.kill(log)
    for ref in (held, *queued):
        with pytest.raises(ActorDiedError):
            await ref


async def test_a_long_queue_is_warned_about_once_per_doubling(
    cluster: al.Session, gate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log.remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)
    with caplog.at_level(logging.WARNING, "actorlite.worker"):
        refs = [log.note.remote(value) for value in range(5_001)]
        marker = Log.remote()
        await marker.note(0)
        await asyncio.sleep(0)
        gate.open()
        await held
        await al.get(refs)
    warned = [record for record in caplog.records if "queued calls" in record.getMessage()]
    assert len(warned) == 1 and "Log" in warned[0].getMessage()
