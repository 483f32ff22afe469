"""Bounds on what waits: at the callee, at the caller, and for tasks; and what happens at each of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

import actorlite as al
from actorlite.errors import (
    ActorDiedError,
    DeadlineExceeded,
    MailboxFullError,
    Outcome,
    PendingCallsLimitExceeded,
    SessionClosedError,
    TaskCancelledError,
)

pytestmark = pytest.mark.asyncio


class Log(al.Actor):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def note(self, value: Any, data: bytes = b"") -> int:
        self.seen.append(value)
        return len(data)

    @al.method
    def note_plain(self, value: Any) -> None:
        self.seen.append(value)

    async def notes(self) -> list[Any]:
        return self.seen

    async def hold(self, gate: Any) -> None:
        gate.arrive()
        await asyncio.to_thread(gate.hold)

    @al.method
    def nap(self, seconds: float) -> None:
        threading.Event().wait(seconds)


@al.remote(num_cpus=0)
async def fill(log: Any, name: str, count: int) -> None:
    refs = [(log.note if n % 3 else log.note_plain).remote((name, n)) for n in range(count)]
    await al.get(refs)


def in_order(seen: list[Any], names: list[str], count: int) -> None:
    for name in names:
        assert [n for each, n in seen if each == name] == list(range(count))


@pytest.mark.parametrize("mailbox", [1, 3, 40, al.Mailbox(bytes=600)])
async def test_many_callers_of_a_full_mailbox_wait_in_order_and_lose_nothing(cluster: al.Session, mailbox: Any) -> None:
    log = Log.options(mailbox=mailbox).remote()
    names = ["a", "b", "c", "d"]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(fill(log, name, 100))  # type: ignore[arg-type]
        own = [log.note.remote(("own", n)) for n in range(100)]
        await al.get(own)
    in_order(await log.notes(), [*names, "own"], 100)


async def test_large_messages_to_a_full_mailbox(cluster: al.Session) -> None:
    @al.remote(num_cpus=0)
    async def send(log: Any, name: str) -> None:
        await asyncio.gather(*[log.note((name, n), bytes(200_000)) for n in range(10)])

    log = Log.options(mailbox=al.Mailbox(bytes=300_000)).remote()
    await asyncio.wait_for(asyncio.gather(*[send(log, name) for name in "abc"]), 60)  # type: ignore[arg-type]
    in_order(await log.notes(), ["a", "b", "c"], 10)


async def test_calls_held_back_may_be_cancelled_and_have_deadlines(cluster: al.Session, gate: Any) -> None:
    log = Log.options(mailbox=1).remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)

    @al.remote(num_cpus=0)
    async def other(log: Any) -> list[Any]:
        refs = [log.note.remote(n) for n in range(4)]
        with pytest.raises(DeadlineExceeded) as caught:
            await log.note.options(timeout=0.05)("late")
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        task = asyncio.create_task(log.note("gone"))
        await asyncio.sleep(0)
        task.cancel()
        await al.cancel(refs[2])
        gate.open()
        await al.wait(refs, num_returns=4)
        return [type(ref.exception()).__name__ for ref in refs]

    first = log.note.remote("first")  # fills the mailbox
    assert await asyncio.wait_for(other(log), 20) == [  # type: ignore[arg-type]
        "NoneType",
        "NoneType",
        "TaskCancelledError",
        "NoneType",
    ]
    await al.get([held, first])
    seen = await log.notes()
    assert [each for each in seen if each != "first"] == [0, 1, 3] and len(seen) == 4


async def test_an_actor_that_ends_with_a_full_mailbox_ends_the_calls_of_all(cluster: al.Session, gate: Any) -> None:
    log = Log.options(mailbox=1, process="shared").remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)

    @al.remote(num_cpus=0)
    async def other(log: Any) -> list[str]:
        refs = [log.note.remote(n) for n in range(5)]
        gate.arrive()
        await al.wait(refs, num_returns=5)
        return [type(ref.exception()).__name__ for ref in refs]

    first = log.note.remote("first")
    ends = other.remote(log)  # type: ignore[arg-type]
    await gate.arrived()
    await al.kill(log)
    assert await al.get(ends, timeout=10) == ["ActorDiedError"] * 5
    for ref in (held, first):
        with pytest.raises(ActorDiedError):
            await ref


async def test_a_caller_that_ends_leaves_its_place(cluster: al.Session, gate: Any) -> None:
    log = Log.options(mailbox=1).remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)

    class Caller(al.Actor):
        async def fill(self, log: Any) -> None:
            gate.arrive()
            await al.get([log.note.remote(("dead", n)) for n in range(5)])

    first = log.note.remote(("first", 0))
    caller = Caller.remote()
    lost = caller.fill.remote(log)
    await gate.arrived()
    await al.kill(caller)
    with pytest.raises(ActorDiedError):
        await lost
    mine = [fill.remote(log, name, 20) for name in "ab"]  # type: ignore[arg-type]
    gate.open()
    await al.get([held, first, *mine], timeout=20)


async def test_a_full_mailbox_that_raises(cluster: al.Session, gate: Any) -> None:
    log = Log.options(mailbox=al.Mailbox(2, when_full="raise")).remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)
    kept = [log.note.remote(n) for n in range(2)]
    for refused in (log.note.remote(3), log.note(4)):
        with pytest.raises(MailboxFullError, match=r"refused, not executed: .* 2 calls") as caught:
            await refused
        assert caught.value.outcome is Outcome.NOT_EXECUTED
    gate.open()
    await al.get([held, *kept])
    assert await log.notes() == [0, 1]


async def test_a_full_mailbox_of_plain_methods_that_raises(cluster: al.Session, gate: Any) -> None:
    log = Log.options(mailbox=al.Mailbox(2, when_full="raise")).remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)
    refs = [log.note_plain.remote(n) for n in range(5)]
    await al.wait(refs, num_returns=3)
    gate.open()
    await al.wait([held, *refs], num_returns=6)
    assert [isinstance(ref.exception(), MailboxFullError) for ref in refs] == [False] * 2 + [True] * 3
    assert refs[0].exception() is refs[1].exception() is None


async def test_a_full_mailbox_that_drops_the_oldest(cluster: al.Session, gate: Any) -> None:
    log = Log.options(mailbox=al.Mailbox(2, when_full="drop-oldest")).remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)
    refs = [log.note.remote(n) for n in range(5)]
    for ref in refs[:3]:
        with pytest.raises(MailboxFullError, match="dropped, not executed"):
            await ref
    gate.open()
    await al.get([held, *refs[3:]])
    assert await log.notes() == [3, 4]


async def test_a_mailbox_that_sheds_what_cannot_meet_its_deadline(cluster: al.Session, gate: Any) -> None:
    log = Log.options(mailbox=al.Mailbox(100, when_full="shed")).remote()
    await al.get([log.nap.remote(0.05) for _ in range(3)])
    naps = [log.nap.remote(0.05) for _ in range(10)]
    with pytest.raises(DeadlineExceeded, match="calls wait before it") as caught:
        await log.note.options(timeout=0.2)("never")
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert await log.note.options(timeout=30)("in time") == 0
    await al.get(naps)
    assert await log.notes() == ["in time"]


async def test_the_limit_travels_with_the_handle(cluster: al.Session, gate: Any) -> None:
    log = Log.options(max_pending_calls=2, mailbox=7).remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)

    @al.remote(num_cpus=0)
    async def other(log: Any) -> None:
        refs = [log.note.remote(n) for n in range(2)]
        with pytest.raises(PendingCallsLimitExceeded, match="max_pending_calls=2"):
            log.note.remote(2)
        gate.open()
        await al.get(refs)

    await other(log)  # type: ignore[arg-type]
    await held


async def test_an_actor_s_own_handle_has_its_limit(cluster: al.Session) -> None:
    class Own(al.Actor):
        async def flood(self) -> tuple[str, list[Any]]:
            me = al.runtime_context().current_actor
            first = me.leaf.remote()
            try:
                me.leaf.remote()
            except PendingCallsLimitExceeded:
                return "limited", [first]
            return "not limited", [first]

        async def leaf(self) -> None: ...

    own = Own.options(max_pending_calls=1).remote()
    said, refs = await own.flood()
    assert said == "limited"
    await refs[0]


async def test_structured_calls_wait_for_room_in_turn_under_their_deadline(cluster: al.Session, gate: Any) -> None:
    log = Log.options(max_pending_calls=1).remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)
    with pytest.raises(DeadlineExceeded, match="did not find room") as caught:
        await log.note.options(timeout=0.01)("late")
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    waiting = [asyncio.create_task(log.note(n)) for n in range(5)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    with pytest.raises(PendingCallsLimitExceeded):
        log.note.remote("barges in")
    gate.open()
    await held
    await asyncio.wait(waiting)
    assert waiting[1].cancelled()
    assert await log.notes() == [0, 2, 3, 4]


async def test_bytes_of_arguments_are_bounded_too(cluster: al.Session, gate: Any) -> None:
    log = Log.remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)
    log.__actorlite_link__.quota.max_bytes = 1_000_000  # type: ignore[attr-defined]
    first = log.note.remote(0, bytes(900_000))
    with pytest.raises(PendingCallsLimitExceeded, match=r"9\d\d\d\d\d bytes"):
        log.note.remote(1, bytes(200_000))
    second = asyncio.create_task(log.note.submit(2, bytes(2_000_000)))
    gate.open()
    await al.get([held, first])
    assert await (await asyncio.wait_for(second, 10)) == 2_000_000, "larger than all: it goes alone"


async def test_threads_share_the_limit(cluster: al.Session, gate: Any) -> None:
    log = Log.options(max_pending_calls=5).remote()
    held = log.hold.remote(gate)
    await gate.arrived(2)

    def flood() -> tuple[list[Any], int]:
        refs, refused = [], 0
        for n in range(20):
            try:
                refs.append(log.note.remote(n))
            except PendingCallsLimitExceeded:
                refused += 1
        return refs, refused

    refs, refused = await asyncio.to_thread(flood)
    assert (len(refs), refused) == (4, 16)
    gate.open()
    await al.get([held, *refs])

    async def elsewhere() -> list[int]:
        return list(await asyncio.gather(*[log.note(n) for n in range(30)]))

    assert await asyncio.to_thread(asyncio.run, elsewhere()) == [0] * 30


async def test_tasks_have_a_limit_with_the_same_three_ways(cluster: al.Session, gate: Any) -> None:
    @al.remote(num_cpus=0)
    async def held() -> None:
        gate.arrive()
        await asyncio.to_thread(gate.hold)

    @al.remote(num_cpus=0)
    async def quick(n: int) -> int:
        return n

    quota = cluster.runtime.tasks.quota  # type: ignore[attr-defined]
    quota.max_calls = 2
    running = [held.remote() for _ in range(2)]
    with pytest.raises(PendingCallsLimitExceeded, match="already has 2 pending tasks"):
        quick.remote(0)
    with pytest.raises(DeadlineExceeded, match="did not find room"):
        await quick.options(timeout=0.01)(0)
    submitted, gone = asyncio.create_task(quick.submit(1)), asyncio.create_task(quick(2))
    structured = asyncio.create_task(quick(3))
    await asyncio.sleep(0)
    gone.cancel()
    gate.open(2)
    assert await (await asyncio.wait_for(submitted, 10)) == 1
    assert await asyncio.wait_for(structured, 10) == 3
    await al.get(running)
    assert (quota.calls, quota.bytes, quota.waiting) == (0, 0, None)


async def test_nothing_is_left_of_what_ended_in_any_way(cluster: al.Session, gate: Any) -> None:
    log = Log.remote()
    link = log.__actorlite_link__  # type: ignore[attr-defined]
    held = log.hold.remote(gate)
    await gate.arrived(2)
    refs = [log.note.remote(n) for n in range(10)]
    pending = log.note.remote(al.arg(held))
    await al.cancel(refs[3])
    await al.cancel(pending)
    with pytest.raises(DeadlineExceeded):
        await log.note.options(timeout=0.01)(0)
    gate.open()
    await al.wait([held, pending, *refs], num_returns=12)
    assert isinstance(pending.exception(), TaskCancelledError)
    assert isinstance(refs[3].exception(), TaskCancelledError)
    await log.notes()
    assert (link.quota.calls, link.quota.bytes, link.unanswered, link.sent_bytes) == (0, 0, 0, 0)


async def test_who_waits_for_room_when_the_session_ends(scheme: str) -> None:
    from actorlite.testing.cluster import local_cluster

    async with local_cluster(scheme=scheme) as session:
        log = Log.options(max_pending_calls=1).remote()
        never = log.nap.remote(0.2)
        waiting = [asyncio.create_task(log.note(1)), asyncio.create_task(log.note.submit(2))]
        await asyncio.sleep(0)
        await session.shutdown()
    ends = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
    assert all(isinstance(each, SessionClosedError) for each in ends)
    assert never.exception() is not None


async def test_a_slow_actor_does_not_stall_others_on_the_same_connection(cluster: al.Session, gate: Any) -> None:
    slow, quick = (Log.options(process="shared").remote() for _ in range(2))
    held = slow.hold.remote(gate)
    await gate.arrived(2)
    behind = [slow.note.remote(n, bytes(1_000_000)) for n in range(100)]
    for n in range(20):
        assert await asyncio.wait_for(quick.note(n, bytes(100_000)), 10) == 100_000
    assert not any(ref.done() for ref in behind)
    gate.open()
    await al.get([held, *behind])


@pytest_asyncio.fixture
async def processes() -> AsyncIterator[al.Session]:
    async with al.init("local", num_cpus=2) as session:
        yield session


async def test_across_processes(processes: al.Session) -> None:
    log = Log.options(mailbox=5).remote()
    names = ["a", "b", "c"]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(fill(log, name, 200))  # type: ignore[arg-type]
    in_order(await log.notes(), names, 200)
