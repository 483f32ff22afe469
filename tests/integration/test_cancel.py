"""Cancelling: `al.cancel`, cancelled structured calls, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import select
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import TaskCancelledError

pytestmark = pytest.mark.asyncio


@al.remote
def hold(gate: Any, value: int = 0) -> int:
    gate.hold()
    return value


@al.remote
async def for_ever(gate: Any) -> None:
    """Says when it begins, and again when it has been cancelled."""
    gate.arrive()
    try:
        await asyncio.Event().wait()
    finally:
        gate.arrive()


@al.remote
async def touch(gate: Any) -> str:
    gate.arrive()
    return "touched"


class Worker(al.Actor):
    async def for_ever(self, gate: Any) -> None:
        gate.arrive()
        try:
            await asyncio.Event().wait()
        finally:
            gate.arrive()

    async def touch(self, gate: Any) -> str:
        gate.arrive()
        return "touched"

    @al.method
    def hold(self, gate: Any) -> str:
        gate.hold()
        return "held"

    async def ask(self, other: Worker, gate: Any) -> None:
        await other.for_ever(gate)

    async def ping(self) -> str:
        return "pong"


def arrivals(gate: Any) -> int:
    """How many have said that they are there, without waiting."""

    count = 0
    while select.select([gate.said], [], [], 0)[0]:
        os.read(gate.said, 1)
        count += 1
    return count


async def test_what_is_queued_never_runs(cluster: al.Session, gate: Any, all_free: Any) -> None:
    running = [hold.remote(gate, n) for n in range(2)]
    await gate.arrived(2)
    queued = [touch.remote(gate) for _ in range(5)]
    await asyncio.sleep(0)
    for ref in queued:
        await al.cancel(ref)
    for ref in queued:
        with pytest.raises(TaskCancelledError):
            await ref
        assert ref.cancelled()
        assert await al.cancel(ref) is False
    gate.open(2)
    assert await al.get(running) == [0, 1]
    await all_free(cluster)
    assert arrivals(gate) == 0


async def test_what_waits_for_its_arguments_never_runs(cluster: al.Session, gate: Any) -> None:
    argument = hold.remote(gate, 1)
    await gate.arrived()

    @al.remote
    async def use(value: int, gate: Any) -> None:
        gate.arrive()

    waiting = use.remote(al.arg(argument), gate)
    behind = use.remote(al.arg(waiting), gate)  # type: ignore[arg-type]
    assert await al.cancel(waiting) is True
    for ref in (waiting, behind):
        with pytest.raises(TaskCancelledError):
            await ref
    gate.open()
    assert await argument == 1
    assert arrivals(gate) == 0


async def test_what_is_queued_in_an_actor_never_runs(cluster: al.Session, gate: Any) -> None:
    worker = Worker.remote()
    held = worker.hold.remote(gate)
    await gate.arrived()
    queued = [worker.touch.remote(gate) for _ in range(3)]
    for ref in queued:
        await al.cancel(ref)
        with pytest.raises(TaskCancelledError):
            await ref
    gate.open()
    assert await held == "held"
    assert await worker.ping() == "pong"
    assert arrivals(gate) == 0


async def test_cancelling_a_running_coroutine(cluster: al.Session, gate: Any, all_free: Any) -> None:
    worker = Worker.remote()
    for function in (for_ever, worker.for_ever):
        ref = function.remote(gate)
        await gate.arrived()
        await al.cancel(ref)
        with pytest.raises(TaskCancelledError):
            await ref
        await gate.arrived()
    assert await worker.ping() == "pong"
    await all_free(cluster)


async def test_what_has_ended_stays_as_it_is(cluster: al.Session, gate: Any) -> None:
    ref = touch.remote(gate)
    assert await ref == "touched"
    assert await al.cancel(ref) is False
    assert await ref == "touched"
    put = await al.put(1)
    assert await al.cancel(put) is False
    assert await put == 1
    with pytest.raises(TypeError, match="ObjectRef"):
        await al.cancel(3)  # type: ignore[arg-type]


async def test_cancelling_many_results_cancels_the_one_call(cluster: al.Session, gate: Any) -> None:
    @al.remote(num_returns=2)
    async def two() -> Any:
        gate.arrive()
        await asyncio.Event().wait()

    first, second = two.remote()
    await gate.arrived()
    await al.cancel(second)
    for ref in (first, second):
        with pytest.raises(TaskCancelledError):
            await ref


async def test_cancelling_whoever_awaits_a_reference_cancels_only_the_waiting(cluster: al.Session, gate: Any) -> None:
    ref = hold.remote(gate, 3)
    waiting = asyncio.ensure_future(ref)
    await gate.arrived()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.open()
    assert await ref == 3


@pytest.mark.parametrize("what", ["task", "actor", "light actor"])
async def test_cancelling_a_structured_call_cancels_the_running_work(
    cluster: al.Session, gate: Any, all_free: Any, what: str
) -> None:
    worker = Worker.options(process="shared" if what == "light actor" else "dedicated").remote()
    call = for_ever(gate) if what == "task" else worker.for_ever(gate)
    waiting = asyncio.ensure_future(call)
    await gate.arrived()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await gate.arrived()
    assert await worker.ping() == "pong"
    await all_free(cluster)


async def test_leaving_a_timeout_cancels_the_work(cluster: al.Session, gate: Any) -> None:
    async def leave(limit: asyncio.Timeout) -> None:
        await gate.arrived()
        limit.reschedule(asyncio.get_running_loop().time())

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            leaving = asyncio.create_task(leave(limit))
            await for_ever(gate)
    await gate.arrived()
    await leaving


async def test_leaving_a_task_group_cancels_the_work(cluster: al.Session, gate: Any) -> None:
    @al.remote
    def fail() -> None:
        gate.hold()
        raise ValueError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(for_ever(gate))
            group.create_task(fail())
            await gate.arrived(2)
            gate.open()
    assert caught.group_contains(ValueError, match="mine")
    await gate.arrived()


async def test_a_cancelled_structured_call_that_is_queued_never_runs(cluster: al.Session, gate: Any) -> None:
    worker = Worker.remote()
    held = [hold.remote(gate) for _ in range(2)] + [worker.hold.remote(gate)]
    await gate.arrived(3)
    queued = [asyncio.ensure_future(touch(gate)), asyncio.ensure_future(worker.touch(gate))]
    await asyncio.sleep(0)
    for each in queued:
        each.cancel()
    await asyncio.wait(queued)
    gate.open(3)
    await al.get(held)
    assert await worker.ping() == "pong"
    assert arrivals(gate) == 0


async def test_a_structured_call_cancelled_before_its_first_step(cluster: al.Session, gate: Any) -> None:
    waiting = asyncio.ensure_future(touch(gate))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await touch(gate) == "touched"
    await gate.arrived()
    assert arrivals(gate) == 0


async def test_cancellation_goes_down_the_chain(cluster: al.Session, gate: Any) -> None:
    first, second = Worker.remote(), Worker.remote()

    @al.remote
    async def through() -> None:
        await first.ask(second, gate)

    waiting = asyncio.ensure_future(through())
    await gate.arrived()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await gate.arrived()
    assert await first.ping() == await second.ping() == "pong"


async def test_work_called_by_an_actor_that_is_killed_is_cancelled(cluster: al.Session, gate: Any) -> None:
    first, second = Worker.remote(), Worker.remote()
    asked = first.ask.remote(second, gate)
    await gate.arrived()
    await al.kill(first)
    await gate.arrived()
    with pytest.raises(al.errors.ActorDiedError):
        await asked
    assert await second.ping() == "pong"


async def test_a_coroutine_that_survives_its_cancellation_keeps_its_slot(cluster: al.Session, gate: Any) -> None:
    class Stubborn(al.Actor):
        async def work(self) -> str:
            gate.arrive()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                gate.arrive()
                await asyncio.to_thread(gate.hold)
            return "late"

        async def ping(self) -> str:
            return "pong"

    stubborn = Stubborn.remote()
    waiting = asyncio.ensure_future(stubborn.work())
    await gate.arrived()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):  # the caller does not wait for the callee
        await waiting
    await gate.arrived(2)
    next_call = stubborn.ping.remote()
    assert await al.wait([next_call], timeout=0.02) == ([], [next_call])
    gate.open()
    assert await next_call == "pong"


async def test_a_cancelled_caller_does_not_wait_for_a_method_without_arguments(cluster: al.Session, gate: Any) -> None:
    """In process too, where the calls of such methods may be answered on the spot."""

    class Stubborn(al.Actor):
        def __init__(self, gate: Any) -> None:
            self.gate = gate

        async def work(self) -> str:
            try:
                self.gate.arrive()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.gate.arrive()
                await asyncio.to_thread(self.gate.hold)
            return "swallowed"

        async def ping(self) -> str:
            return "pong"

    stubborn = Stubborn.remote(gate)
    assert await stubborn.ping() == "pong"
    waiting = asyncio.ensure_future(stubborn.work())
    await gate.arrived()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await gate.arrived(2)
    next_call = asyncio.ensure_future(stubborn.ping())
    assert (await asyncio.wait([next_call], timeout=0.02))[0] == set()
    gate.open()
    assert await next_call == "pong"


async def test_a_method_with_a_timeout_of_its_own(cluster: al.Session) -> None:
    """The method's own scopes cancel the method, never its caller."""

    class Impatient(al.Actor):
        async def work(self) -> str:
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()
            except TimeoutError:
                return "gave up"
            return "?"

    impatient = Impatient.remote()
    assert [await impatient.work() for _ in range(5)] == ["gave up"] * 5
    task = asyncio.current_task()
    assert task is not None and not task.cancelling()


async def test_calls_without_end_leave_the_loop_to_others(cluster: al.Session) -> None:
    worker = Worker.remote()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            while True:
                await worker.ping()


async def test_cancelling_from_another_thread(cluster: al.Session, gate: Any) -> None:
    ref = for_ever.remote(gate)
    await gate.arrived()

    def cancel() -> None:
        asyncio.run(al.cancel(ref))  # type: ignore[arg-type]

    await asyncio.to_thread(cancel)
    with pytest.raises(TaskCancelledError):
        await ref
    await gate.arrived()


@pytest.mark.parametrize("steps", range(8))
async def test_cancelling_around_the_first_step(cluster: al.Session, all_free: Any, steps: int) -> None:
    """A task may be cancelled after it was made and before it has run: it must still be seen to have ended."""

    @al.remote
    async def nothing() -> int:
        return 1

    class Nothing(al.Actor):
        async def nothing(self) -> int:
            return 1

    actor = Nothing.remote()
    await asyncio.gather(nothing(), actor.nothing())
    for _ in range(20):
        refs = [nothing.remote(), actor.nothing.remote()]
        structured = [asyncio.ensure_future(nothing()), asyncio.ensure_future(actor.nothing())]
        for _ in range(steps):
            await asyncio.sleep(0)
        for ref in refs:
            await al.cancel(ref)
        for call in structured:
            call.cancel()
        outcomes = await asyncio.wait_for(asyncio.gather(*refs, *structured, return_exceptions=True), 10)
        assert all(each == 1 or isinstance(each, TaskCancelledError | asyncio.CancelledError) for each in outcomes)
    assert await asyncio.wait_for(asyncio.gather(nothing(), actor.nothing()), 10) == [1, 1]
    await all_free(cluster)


async def test_cancelling_behind_a_task_that_waits(cluster: al.Session, gate: Any, all_free: Any) -> None:
    """The plain tasks behind it share its thread, but not its fate: its CPUs stay lent out."""

    @al.remote
    def quick() -> int:
        return 1

    @al.remote(num_cpus=2)
    def waits(ref: list[al.ObjectRef[int]]) -> int:
        gate.arrive()
        return al.sync.get(ref[0])

    @al.remote(num_cpus=0)
    def late() -> int:
        gate.hold()
        return 5

    await al.get([quick.options(num_cpus=2).remote() for _ in range(200)])
    ref = late.remote()
    await gate.arrived()
    waiting = waits.remote([ref])
    behind = [quick.options(num_cpus=2).remote() for _ in range(5)]
    await gate.arrived()
    for each in behind[:3]:
        await al.cancel(each)
    outcomes = await asyncio.wait_for(asyncio.gather(*behind, return_exceptions=True), 10)
    assert outcomes[3:] == [1, 1]
    assert await asyncio.wait_for(quick.options(num_cpus=1)(), 10) == 1
    gate.open()
    assert await waiting == 5
    await all_free(cluster)
