"""Waiting for room among what a process may have pending: in turn, under a deadline, cancellable."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from actorlite.context import current_call
from actorlite.errors import DeadlineExceeded, Outcome
from actorlite.state.quota import Quota
from actorlite.wire.objects import decode_stored
from actorlite.wire.serialize import STORED, Encoded

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime

RoomQuota = Quota["asyncio.Future[None]"]


def size_of(encoded: Encoded) -> int:
    """Bytes that a call holds at its caller. Values of references belong to the references."""
    if encoded.kind == STORED:
        return decode_stored(encoded.data).size
    buffers = encoded.buffers
    return len(encoded.data) + sum([each.nbytes for each in buffers]) if buffers else len(encoded.data)


async def take_turn(
    runtime: ProcessRuntime, quota: RoomQuota, size: int, timeout_s: float | None, name: str
) -> float | None:
    """Take room, after those who came before; returns what is left of `timeout_s`. On the runtime's loop.

    Raises `DeadlineExceeded`, or `SessionClosedError` when the session ends meanwhile.
    """
    if quota.fits(size):
        quota.take(size)
        return timeout_s
    loop = runtime.loop
    future: asyncio.Future[None] = loop.create_future()
    quota.wait(future, size)
    began = loop.time()
    timer = None if timeout_s is None else loop.call_later(timeout_s, _expire, future, name, timeout_s)
    scope = current_call.get()
    if scope is not None:
        scope.enter_wait()
    try:
        await future
        runtime.check_open()
    except BaseException:
        if not quota.leave(future):
            quota.give(size)
        wake(quota)
        raise
    finally:
        if timer is not None:
            timer.cancel()
        if scope is not None:
            scope.leave_wait()
    return None if timeout_s is None else max(1e-6, timeout_s - (loop.time() - began))


def wake(quota: RoomQuota) -> None:
    """Room has become free: it goes to those who waited longest."""
    if quota.waiting:
        for future in quota.turns():
            if not future.done():
                future.set_result(None)


def open_wide(quota: RoomQuota, limit: int) -> None:
    """Nothing will run any more: let everybody learn it."""
    quota.max_calls = quota.max_bytes = limit
    wake(quota)


def _expire(future: asyncio.Future[None], name: str, timeout_s: float) -> None:
    if not future.done():
        text = f"{name} did not find room within its timeout of {timeout_s:g} s ({Outcome.NOT_EXECUTED.value})"
        future.set_exception(DeadlineExceeded(text, outcome=Outcome.NOT_EXECUTED))
