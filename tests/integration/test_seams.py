"""Where features meet: cancelling with retries, restarts with queues, lifetimes with back-pressure."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

import actorlite as al
from actorlite.deadlines import current_deadline
from actorlite.errors import (
    ActorUnavailableError,
    DeadlineExceeded,
    NotExecuted,
    Outcome,
    SerializationError,
    TaskCancelledError,
    UnknownOutcome,
)
from actorlite.testing.cluster import local_cluster
from actorlite.wire import serialize

pytestmark = pytest.mark.asyncio


class Worker(al.Actor):
    def __init__(self) -> None:
        self.ran: list[int] = []
        self.tries = 0

    async def hold(self, gate: Any) -> None:
        gate.arrive()
        await asyncio.to_thread(gate.hold)

    async def arrive(self, gate: Any) -> None:
        gate.arrive()

    async def fail_each_time(self, gate: Any) -> None:
        gate.arrive()
        raise ValueError("again")

    async def through(self, itself: Any, other: Any, never: Any, gate: Any) -> int:
        return int(await other.back(itself, never, gate))

    async def back(self, caller: Any, never: Any, gate: Any) -> int:
        self.behind = caller.note.remote(never[0])
        pending = until_open.remote(gate, 7)
        call = asyncio.ensure_future(caller.note(pending))
        await asyncio.sleep(0)
        gate.open()
        return int(await call)

    async def cancelled_behind(self) -> bool:
        try:
            await self.behind
        except TaskCancelledError:
            return True
        return False

    async def note(self, number: Any) -> int:
        self.ran.append(number)
        return int(number)

    async def notes(self) -> list[int]:
        return self.ran

    async def left(self) -> float:
        deadline = al.runtime_context().deadline
        assert deadline is not None
        return deadline - time.monotonic()

    async def stream(self, fail_first: bool, fail_after: int) -> AsyncIterator[int]:
        self.tries += 1
        if fail_first and self.tries == 1:
            raise ValueError("at first")
        for n in range(50):
            if n == fail_after:
                raise ValueError("in between")
            yield n


@al.remote
async def hold_task(gate: Any) -> None:
    gate.arrive()
    await asyncio.Event().wait()


class Reentrant(Worker, reentrant=True):
    pass


@al.remote
async def until_open(gate: Any, value: int) -> int:
    await asyncio.to_thread(gate.hold)
    return value


@al.remote
def plain(value: Any) -> Any:
    return value


@al.remote
def fail() -> None:
    raise ValueError("mine")


async def test_a_long_queue_and_a_worker_that_goes(cluster: al.Session, gate: Any) -> None:
    worker = Worker.options(mailbox=10, max_restarts=1).remote()
    held = worker.hold.remote(gate)
    await gate.arrived(2)
    refs = [worker.note.remote(n) for n in range(2000)]
    await al.kill(worker, no_restart=False)
    gate.open()
    await al.wait([held, *refs], num_returns=2001)
    values = [ref.result() for ref in refs if ref.exception() is None]
    assert len(values) >= 1980 and values == sorted(values)
    lost = [ref.exception() for ref in refs if ref.exception() is not None]
    assert all(isinstance(each, ActorUnavailableError) for each in [held.exception(), *lost])


@pytest.mark.parametrize("kind", ["task", "actor"])
async def test_a_long_chain_whose_first_call_fails(cluster: al.Session, kind: str) -> None:
    step: Any = plain if kind == "task" else Worker.remote().note
    refs: list[Any] = [fail.remote()]
    for _ in range(1500):
        refs.append(step.remote(refs[-1]))
    await al.wait(refs, num_returns=len(refs))
    assert all(isinstance(ref.exception(), ValueError) for ref in refs)


async def test_a_stream_is_tried_again_only_before_its_first_item(cluster: al.Session) -> None:
    options = {"max_task_retries": 3, "retry_exceptions": True}
    worker = Worker.remote()
    method = worker.stream.options(stream_window=4, **options)  # type: ignore[arg-type]
    assert [n async for n in method(True, -1)] == list(range(50))
    seen = []
    with pytest.raises(ValueError, match="in between"):
        async for n in method(False, 7):
            seen.append(n)  # noqa: PERF401
    assert seen == list(range(7))
    assert await worker.note(1) == 1


async def test_what_was_cancelled_does_not_go_again(cluster: al.Session, gate: Any, all_free: Any) -> None:
    """Tasks behind one whose worker is ended come back to their owner, who does not want them any more."""
    refs = [hold_task.remote(gate)] + [plain.remote(n) for n in range(20)]
    await gate.arrived()
    for ref in refs:
        await al.cancel(ref, force=True)
    for ref in refs:
        await ref.ready()
        error = ref.exception()
        assert error is None or isinstance(error, TaskCancelledError)
    await all_free(cluster)


async def test_a_posted_call_that_was_cancelled_on_its_way(cluster: al.Session) -> None:
    worker = Worker.options(max_pending_calls=2).remote()
    await worker.notes()
    for _ in range(4):
        refs: list[Any] = []
        # The loop does not look at what the thread posts before it has cancelled it.
        thread = asyncio.get_running_loop().run_in_executor(None, lambda: refs.append(worker.note.remote(1)))  # noqa: B023
        while not refs:
            time.sleep(0.001)
        await al.cancel(refs[0])
        await thread
        with pytest.raises(NotExecuted):
            await refs[0]
    assert await worker.note.remote(2) == 2


@pytest.mark.parametrize("box", [2, 1000])
async def test_terminate_comes_after_what_still_waits_here(cluster: al.Session, gate: Any, box: int) -> None:
    worker = Worker.options(mailbox=box).remote()
    held = worker.hold.remote(gate)
    await gate.arrived(2)
    pending = plain.remote(7)
    refs = [worker.note.remote(n) for n in range(20)] + [worker.note.remote(pending)]
    ending = asyncio.create_task(al.terminate(worker))
    gate.open()
    assert await al.get(refs) == [*range(20), 7]
    await ending
    await held


async def test_a_call_that_waits_in_an_ending_actor_can_be_cancelled(cluster: al.Session, gate: Any) -> None:
    worker = Worker.remote()
    held = worker.hold.remote(gate)
    await gate.arrived(2)
    waiting, last = worker.note.remote(1), worker.notes.remote()
    await asyncio.sleep(0)
    ending = asyncio.create_task(al.terminate(worker))
    for _ in range(20):
        await asyncio.sleep(0)
    assert await al.cancel(waiting)
    with pytest.raises(TaskCancelledError) as caught:
        await waiting
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    gate.open()
    assert await last == []
    await ending
    await held


class Lives(al.Actor, max_restarts=3, process="shared"):
    async def on_start(self) -> None:
        self.life = al.runtime_context().was_current_actor_reconstructed
        if not self.life:
            await asyncio.sleep(0.05)
            raise ValueError("too late to matter")

    async def which(self) -> bool:
        return self.life


async def test_the_first_life_does_not_end_the_second(cluster: al.Session) -> None:
    lives, neighbour = Lives.remote(), Worker.options(process="shared").remote()
    await neighbour.notes()
    await al.kill(lives, no_restart=False)
    assert await lives.which() is True
    await asyncio.sleep(0.1)
    assert await lives.which() is True
    assert await neighbour.note(1) == 1


class Slow(al.Actor, max_restarts=3, max_task_retries=3, process="shared"):
    async def work(self, gate: Any) -> bool:
        again = al.runtime_context().was_current_actor_reconstructed
        gate.arrive()
        try:
            if not again:
                await asyncio.Event().wait()
            await asyncio.to_thread(gate.hold)
        finally:
            if not again:
                await asyncio.sleep(0.01)
        return again


async def test_the_first_life_does_not_answer_for_the_second(cluster: al.Session, gate: Any) -> None:
    slow = Slow.remote()
    ref = slow.work.remote(gate)
    await gate.arrived()
    await al.kill(slow, no_restart=False)
    await gate.arrived(2)
    assert await al.wait([ref], timeout=0.05) == ([], [ref])
    gate.open()
    assert await ref is True


async def test_a_value_of_more_parts_than_a_message_has(cluster: al.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    np = pytest.importorskip("numpy")
    monkeypatch.setattr(serialize, "MAX_BUFFERS", 3)
    many = [np.zeros(1000) for _ in range(5)]
    with pytest.raises(SerializationError, match="5 buffers"):
        plain.remote(many)

    @al.remote
    def make() -> Any:
        return [np.zeros(1000) for _ in range(5)]

    with pytest.raises(SerializationError, match="5 buffers"):
        await make()
    assert await plain(1) == 1


async def test_a_budget_is_what_is_left_when_the_call_is_sent(cluster: al.Session, gate: Any) -> None:
    worker = Worker.options(mailbox=1).remote()
    held = worker.hold.remote(gate)
    await gate.arrived(2)
    calls = [worker.left.options(timeout=60).remote() for _ in range(3)]
    await asyncio.sleep(0.1)
    gate.open()
    await held
    assert all(left <= 59.91 for left in await al.get(calls[1:]))


async def test_a_call_that_is_answered_on_the_spot_keeps_the_rules(cluster: al.Session) -> None:
    worker = Worker.remote()
    await worker.notes()
    with pytest.raises(ValueError, match="no concurrency group"):
        await worker.note.options(concurrency_group="nope")(1)
    with pytest.raises(DeadlineExceeded):
        async with al.timeout(30) as scope:
            scope.reschedule(None)
            _let_it_pass()
            await worker.note(2)
    assert await worker.notes() == []


def _let_it_pass() -> None:
    deadline = current_deadline.get()
    assert deadline is not None
    deadline.when = time.monotonic() - 1


async def test_calls_that_ended_leave_nothing_on_what_they_waited_for(cluster: al.Session, gate: Any) -> None:
    pending = hold_task.remote(gate)
    await gate.arrived()
    for n in range(20):
        ref = plain.options(timeout=0.001 if n % 2 else None).remote(pending)
        if not n % 2:
            await al.cancel(ref)
        await ref.ready()
        with pytest.raises((TaskCancelledError, DeadlineExceeded)):
            await ref
    await asyncio.sleep(0)
    assert not pending._waiters
    await al.cancel(pending)


async def test_what_an_actor_waits_for_does_not_wait_behind_what_waits_longer(cluster: al.Session, gate: Any) -> None:
    first, second = Reentrant.remote(), Worker.remote()
    never = hold_task.remote(gate)
    assert await asyncio.wait_for(first.through(first, second, [never], gate), 20) == 7
    await al.cancel(never)
    assert await second.cancelled_behind()


async def test_calls_are_made_though_nobody_holds_what_comes_of_them(cluster: al.Session, gate: Any) -> None:
    worker = Worker.options(max_restarts=10).remote()
    for _ in range(3):  # there is no pause before the first restart
        await worker.notes()
        await al.kill(worker, no_restart=False)
    for _ in range(3):
        worker.arrive.remote(gate)
    del worker
    gc.collect()
    await gate.arrived(3)


async def test_at_the_end_of_a_session_nothing_is_tried_again(scheme: str, gate: Any) -> None:
    async with local_cluster(scheme=scheme):
        worker = Worker.remote()
        ref = worker.fail_each_time.options(max_task_retries=-1, retry_exceptions=True).remote(gate)
        await gate.arrived(3)
    with pytest.raises(UnknownOutcome, match="shut down"):
        await ref
