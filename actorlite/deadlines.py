"""Deadlines that calls inherit: of the call that runs, and of an enclosing `al.timeout()`.

An enclosing `asyncio.timeout()` ends structured calls too, by cancelling whoever awaits them; but nobody can ask it how
much time is left, so it cannot tell a callee not to begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar


class Deadline:
    """When the structured calls made now must have ended, on the clock of the running loop."""

    __slots__ = ("when",)

    def __init__(self, when: float) -> None:
        self.when: float | None = when
        """None once it no longer holds: tasks that were started under it may outlive it."""


current_deadline: ContextVar[Deadline | None] = ContextVar("actorlite_deadline", default=None)


def time_left(timeout: float | None, now: float) -> float | None:
    """The budget of a structured call made now: its own timeout, or what is left of the enclosing deadline if less."""
    deadline = current_deadline.get()
    if deadline is None or deadline.when is None:
        return timeout
    left = max(0.0, deadline.when - now)
    return left if timeout is None else min(timeout, left)


@asynccontextmanager
async def timeout(delay: float | None) -> AsyncIterator[asyncio.Timeout]:
    """`asyncio.timeout(delay)`, whose deadline the structured calls inside take along.

    A call that is still queued somewhere when the time is over is not begun, and what it calls itself has no more time
    than is left. Raises `TimeoutError` at the end of the block, as `asyncio.timeout` does; a structured call that ran
    into the deadline raises `DeadlineExceeded`, which is one. None is no deadline.
    """
    if delay is None:
        async with asyncio.timeout(None) as scope:
            yield scope
        return
    when = asyncio.get_running_loop().time() + delay
    outer = current_deadline.get()
    if outer is not None and outer.when is not None:
        when = min(when, outer.when)
    inner = Deadline(when)
    current_deadline.set(inner)
    try:
        async with asyncio.timeout(delay) as scope:
            yield scope
    finally:
        inner.when = None
        current_deadline.set(outer)


__all__ = ["Deadline", "current_deadline", "time_left", "timeout"]
