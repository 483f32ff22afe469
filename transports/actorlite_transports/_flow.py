"""What every connection here shares: the water marks of its send queue, and waiting for something to change."""

from __future__ import annotations

import asyncio
import logging

logger = logging.getLogger("actorlite.transport")

HIGH_WATER_BYTES = 8 * 1024
"""`drain` waits while more than this is queued behind what the kernel has taken..."""
LOW_WATER_BYTES = 4 * 1024
"""...until no more than this is."""


class Wakeups:
    """Coroutines that wait for a change; each looks for itself, when woken, whether it is the one it wanted."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
