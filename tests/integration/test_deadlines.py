"""Budgets: what a call and everything below it may take."""

from __future__ import annotations

import asyncio
import select
import time
from typing import Any

import pytest

import actorlite as al
from actorlite.deadlines import current_deadline
from actorlite.errors import DeadlineExceeded, Outcome

pytestmark = pytest.mark.asyncio


def left() -> float | None:
    deadline = al.runtime_context().deadline
    return None if deadline is None else deadline - time.monotonic()


@al.remote
def plain_left() -> float | None:
    return left()


@al.remote
async def coroutine_left() -> float | None:
    return left()


class Nested(al.Actor):
    async def left(self) -> float | None:
        return left()

    @al.method
    def plain_left(self) -> float | None:
        return left()

    async def below(self) -> list[float | None]:
        structured = await coroutine_left()
        shorter = await coroutine_left.options(timeout=5)()
        longer = await coroutine_left.options(timeout=5_000)()
        reference = await coroutine_left.remote()
        with_its_own = await coroutine_left.options(timeout=5_000).remote()
        return [left(), structured, shorter, longer, reference, with_its_own]

    async def hold(self, gate: Any) -> None:
        gate.arrive()
        await asyncio.to_thread(gate.hold)

    async def touch(self, gate: Any) -> None:
        gate.arrive()


async def test_without_a_timeout_there_is_no_deadline(cluster: al.Session) -> None:
    nested = Nested.remote()
    calls = [plain_left(), coroutine_left(), nested.left(), nested.plain_left()]
    assert [await call for call in calls] == [None] * 4
    assert al.runtime_context().deadline is None


async def test_a_call_knows_its_deadline(cluster: al.Session) -> None:
    nested = Nested.remote()
    for function in (plain_left, coroutine_left, nested.left, nested.plain_left):
        for call in (function.options(timeout=60)(), function.options(timeout=60).remote()):
            remaining = await call
            assert remaining is not None and 0 < remaining <= 60


async def test_structured_calls_inherit_what_is_left(cluster: al.Session) -> None:
    mine, structured, shorter, longer, reference, with_its_own = await Nested.remote().below.options(timeout=60)()
    assert mine is not None and structured is not None and shorter is not None and longer is not None
    assert 0 < structured <= 60 and 0 < longer <= 60 and 0 < shorter <= 5
    assert reference is None  # what was submitted may outlive the call
    assert with_its_own is not None and with_its_own > 60


async def test_a_timeout_of_ours_goes_along(cluster: al.Session) -> None:
    async with al.timeout(60):
        inside = await coroutine_left()
        assert inside is not None and 0 < inside <= 60
        async with al.timeout(600):
            wider = await coroutine_left()
        assert wider is not None and wider <= 60
        async with al.timeout(None):
            assert await coroutine_left() is not None
        later = asyncio.create_task(_after_the_block())
    assert await coroutine_left() is None
    assert await later is None


async def _after_the_block() -> float | None:
    while al.runtime_context().deadline is not None:
        await asyncio.sleep(0)
    return await coroutine_left()


async def test_a_timeout_of_ours_is_a_timeout(cluster: al.Session, gate: Any) -> None:
    nested = Nested.remote()
    with pytest.raises(TimeoutError):
        async with al.timeout(0.02):
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError):
        async with al.timeout(0.02):
            await nested.hold(gate)
    gate.open()
    async with al.timeout(30) as scope:
        assert scope.when() is not None
        await nested.touch(gate)


async def test_what_waits_in_a_mailbox_when_its_time_is_over_never_runs(cluster: al.Session, gate: Any) -> None:
    nested = Nested.remote()
    held = nested.hold.remote(gate)
    await gate.arrived(2)
    queued = nested.touch.options(timeout=0.03).remote(gate)
    with pytest.raises(DeadlineExceeded, match=r"touch\(\) did not end within its timeout of 0.03 s"):
        await queued
    with pytest.raises(TimeoutError):
        async with al.timeout(0.02):
            await nested.touch(gate)
    gate.open()
    await held
    assert await nested.left() is None  # its turn has come, and nobody touched the gate
    assert not _said_something(gate)


async def test_a_budget_that_is_spent_before_the_call(cluster: al.Session, gate: Any) -> None:
    nested = Nested.remote()
    await nested.left()
    with pytest.raises(DeadlineExceeded) as caught:
        async with al.timeout(30):
            inherited = current_deadline.get()
            assert inherited is not None
            inherited.when = time.monotonic() - 1
            await nested.touch(gate)
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert isinstance(caught.value, TimeoutError)
    assert await nested.left() is None
    assert not _said_something(gate)


async def test_the_deadline_of_a_caller_ends_what_it_calls(cluster: al.Session, gate: Any) -> None:
    class Outer(al.Actor):
        async def call(self, inner: Nested, gate: Any) -> None:
            await inner.hold(gate)

    inner = Nested.remote()
    with pytest.raises(DeadlineExceeded) as caught:
        await Outer.remote().call.options(timeout=0.1)(inner, gate)
    assert caught.value.outcome is Outcome.UNKNOWN
    gate.open()
    assert await inner.left() is None


def _said_something(gate: Any) -> bool:
    return bool(select.select([gate.said], [], [], 0)[0])
