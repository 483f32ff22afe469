"""Cancelling plain code, by force, from afar, and with everything below."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import Outcome, TaskCancelledError
from actorlite.worker import interrupts

pytestmark = pytest.mark.asyncio


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "GRACE_S", 0.0)


@al.remote
def spin(gate: Any) -> None:
    """Never ends by itself; says when it begins, and when it was made to end."""
    try:
        gate.arrive()
        while True:
            time.sleep(0.001)
    finally:
        gate.arrive()


@al.remote
async def for_ever(gate: Any) -> None:
    gate.arrive()
    try:
        await asyncio.Event().wait()
    finally:
        gate.arrive()


@al.remote
def thread_name() -> str:
    return threading.current_thread().name


class Counter(al.Actor):
    def __init__(self) -> None:
        self.entered = self.left = 0

    @al.method
    def spin(self, gate: Any) -> None:
        self.entered += 1
        try:
            gate.arrive()
            while True:
                time.sleep(0.001)
        finally:
            self.left += 1

    @al.method
    def counts(self) -> tuple[int, int]:
        return self.entered, self.left


async def test_a_plain_function_is_interrupted(cluster: al.Session, gate: Any, all_free: Any, no_grace: None) -> None:
    ref = spin.remote(gate)
    await gate.arrived()
    assert await al.cancel(ref)
    with pytest.raises(TaskCancelledError, match=r"spin\(\) was cancelled while it ran") as caught:
        await ref
    assert caught.value.outcome is Outcome.UNKNOWN
    await gate.arrived()
    assert await thread_name()
    await all_free(cluster)


@pytest.mark.parametrize("process", ["dedicated", "shared"])
async def test_a_plain_method_is_interrupted_and_its_actor_lives_on(
    cluster: al.Session, gate: Any, no_grace: None, process: Any
) -> None:
    counter = Counter.options(process=process).remote()
    for turn in range(1, 4):
        call = asyncio.ensure_future(counter.spin(gate))
        await gate.arrived()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await counter.counts() == (turn, turn)


async def test_the_grace_is_for_code_that_asks(cluster: al.Session, gate: Any) -> None:
    """What it returns counts: it has run to its end."""

    @al.remote
    def polite() -> str:
        gate.arrive()
        while not al.runtime_context().is_cancelled():
            time.sleep(0.001)
        return "tidied up"

    ref = polite.remote()
    await gate.arrived()
    assert await al.cancel(ref)
    assert await ref == "tidied up"


async def test_code_that_goes_on_after_its_interrupt(cluster: al.Session, gate: Any, no_grace: None) -> None:
    @al.remote
    def stubborn() -> str:
        try:
            gate.arrive()
            while True:
                time.sleep(0.001)
        except asyncio.CancelledError:
            return "did it all the same"

    ref = stubborn.remote()
    await gate.arrived()
    await al.cancel(ref)
    assert await ref == "did it all the same"


async def test_a_blocking_wait_ends_at_once(cluster: al.Session, gate: Any) -> None:
    @al.remote
    def parent() -> str:
        child = for_ever.remote(gate)
        try:
            al.sync.get(child)
        except asyncio.CancelledError:
            return "ended"
        return "?"

    ref = parent.remote()
    await gate.arrived()
    await al.cancel(ref)
    assert await ref == "ended"
    await gate.arrived()  # the child as well


@pytest.mark.parametrize("blocking", ["result", "get", "wait"])
async def test_each_blocking_wait_of_a_cancelled_call_ends(cluster: al.Session, gate: Any, blocking: str) -> None:
    @al.remote
    def parent() -> None:
        gate.arrive()
        while not al.runtime_context().is_cancelled():
            time.sleep(0.001)
        child = for_ever.remote(gate)
        if blocking == "result":
            child.result()
        elif blocking == "get":
            al.sync.get([child])
        else:
            al.sync.wait([child])

    ref = parent.remote()
    await gate.arrived()
    await al.cancel(ref)
    with pytest.raises(TaskCancelledError, match="while it ran"):
        await ref


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_what_was_submitted_is_cancelled_too(cluster: al.Session, gate: Any, all_free: Any, kind: str) -> None:
    """References as well, not only structured calls; also those submitted by a call that was told to stop."""

    @al.remote
    def plain_parent() -> None:
        for_ever.options(num_cpus=0).remote(gate)
        while not al.runtime_context().is_cancelled():
            time.sleep(0.001)
        for_ever.remote(gate)

    @al.remote
    async def coroutine_parent() -> None:
        kept = for_ever.options(num_cpus=0).remote(gate)
        try:
            await asyncio.Event().wait()
        finally:
            for_ever.remote(gate)
            del kept

    parent: Any = plain_parent if kind == "plain" else coroutine_parent
    ref = parent.remote()
    await gate.arrived()
    await al.cancel(ref)
    await gate.arrived()  # the end of the first; the second may be cancelled before it starts
    await al.wait([ref])
    await all_free(cluster)


async def test_not_recursive(cluster: al.Session, gate: Any) -> None:
    @al.remote
    async def parent() -> list[Any]:
        child = for_ever.options(num_cpus=0).remote(gate)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return [child]

    ref = parent.remote()
    await gate.arrived()
    await al.cancel(ref, recursive=False)
    (child,) = await ref
    assert await al.wait([child], timeout=0.02) == ([], [child])
    assert await al.cancel(child)  # a borrowed reference: its owner is asked
    with pytest.raises(TaskCancelledError):
        await child
    await gate.arrived()


async def test_from_a_process_that_only_holds_the_reference(cluster: al.Session, gate: Any) -> None:
    @al.remote
    async def cancel(refs: list[Any]) -> list[bool]:
        return [await al.cancel(ref) for ref in refs]

    ref = for_ever.remote(gate)
    ended = await al.put(1)
    await gate.arrived()
    assert await cancel([ref, ended]) == [True, False]
    with pytest.raises(TaskCancelledError):
        await ref


async def test_outcomes(cluster: al.Session, gate: Any, all_free: Any) -> None:
    """What never started says so."""
    running = [for_ever.remote(gate) for _ in range(2)]
    await gate.arrived(2)
    queued = for_ever.remote(gate)
    for ref in (queued, *running):
        assert await al.cancel(ref)
    for ref, outcome in zip((queued, *running), (Outcome.NOT_EXECUTED, *[Outcome.UNKNOWN] * 2), strict=True):
        error = await _error(ref)
        assert isinstance(error, TaskCancelledError) and error.outcome is outcome
        assert outcome.value in str(error)
    await all_free(cluster)


@pytest.mark.parametrize("function", [spin, for_ever], ids=["plain", "coroutine"])
async def test_force_ends_the_worker_of_a_running_task(
    cluster: al.Session, gate: Any, all_free: Any, function: Any
) -> None:
    ref = function.options(max_retries=5).remote(gate)
    await gate.arrived()
    behind = [thread_name.options(max_retries=0).remote() for _ in range(10)]
    assert await al.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError, match=rf"force=True .* \(pid {os.getpid()}\) ended"):
        await ref
    assert all(await al.get(behind))
    assert await al.cancel(ref, force=True) is False
    await all_free(cluster)


async def test_force_after_a_cancel_that_did_not_help(cluster: al.Session, gate: Any, all_free: Any) -> None:
    @al.remote
    async def deaf() -> None:
        try:
            gate.arrive()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            gate.arrive()
        await asyncio.Event().wait()

    ref = deaf.remote()
    await gate.arrived()
    await al.cancel(ref)
    await gate.arrived()
    await al.cancel(ref)  # it was told already
    assert await al.wait([ref], timeout=0.02) == ([], [ref])
    await al.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError, match="force=True"):
        await ref


async def test_force_on_what_has_not_started(cluster: al.Session, gate: Any, all_free: Any) -> None:
    running = [for_ever.remote(gate) for _ in range(2)]
    await gate.arrived(2)
    queued = thread_name.remote()
    assert await al.cancel(queued, force=True)
    error = await _error(queued)
    assert isinstance(error, TaskCancelledError) and error.outcome is Outcome.NOT_EXECUTED
    for ref in running:
        await al.cancel(ref)
    await gate.arrived(2)
    await all_free(cluster)


async def test_force_is_refused_for_actors(cluster: al.Session, gate: Any, no_grace: None) -> None:
    counter = Counter.remote()
    ref = counter.spin.remote(gate)
    await gate.arrived()
    with pytest.raises(ValueError, match=r"force=True .* al\.kill\(handle\)"):
        await al.cancel(ref, force=True)

    @al.remote
    async def from_elsewhere(refs: list[Any]) -> None:
        await al.cancel(refs[0], force=True)

    with pytest.raises(al.errors.ActorliteError, match=r"force=True .* al\.kill\(handle\)"):
        await from_elsewhere([ref])
    assert await al.cancel(ref)
    with pytest.raises(TaskCancelledError):
        await ref
    assert await counter.counts() == (1, 1)


async def test_an_interrupt_hits_nobody_else(cluster: al.Session, no_grace: None) -> None:
    """Calls that end about when they are cancelled, one after the other in one thread."""

    class Busy(al.Actor):
        @al.method
        def work(self, rounds: int) -> int:
            total = 0
            for n in range(rounds):
                total += n
            return rounds

    busy = Busy.remote()
    outcomes = {"value": 0, "cancelled": 0}
    for turn in range(300):
        ref = busy.work.remote(turn * 40)
        behind = busy.work.remote(7)
        for _ in range(turn % 5):
            await asyncio.sleep(0)
        await al.cancel(ref)
        error = await _error(ref)
        assert error is None or isinstance(error, TaskCancelledError)
        outcomes["value" if error is None else "cancelled"] += 1
        assert await behind == 7
    assert outcomes["cancelled"]


async def test_is_cancelled_outside_a_call(cluster: al.Session) -> None:
    with pytest.raises(RuntimeError, match="does not run in a task"):
        al.runtime_context().is_cancelled()


async def _error(ref: Any) -> BaseException | None:
    await ref.ready()
    error: BaseException | None = ref.exception()
    return error
