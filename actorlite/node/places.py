"""How many worker processes a node may have at a time, and who waits for one more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

W = TypeVar("W")


class Places(Generic[W]):
    """Owned by the worker pool, whose `running` workers it counts, those that end included. Without a limit (`most` is
    None) nobody waits.
    """

    def __init__(
        self,
        most: int | None,
        running: Collection[object],
        end_idle: Callable[[], None],
        give_back: Callable[[W], None],
    ) -> None:
        self._most = most
        self._running = running
        self._end_idle = end_idle
        """Called when somebody waits: one that does nothing makes room."""
        self._give_back = give_back
        """Takes a worker that whoever waited for it does not want any more."""
        self._starts = 0
        """Places that are taken, by workers that are not running yet."""
        self._waiting: list[tuple[object, asyncio.Future[W | None]]] = []

    @property
    def is_wanted(self) -> bool:
        return bool(self._waiting)

    @property
    def wanted(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def take(self, kind: object) -> W | None:
        """Wait for a place, which is the caller's until `started`; or for a worker of this kind that is `offer`ed."""
        if self._most is None:
            return None
        if not self._waiting and self.take_some(1):
            return None
        self._end_idle()
        future: asyncio.Future[W | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((kind, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled() or not future.done():
                if (kind, future) in self._waiting:  # else it was found to be given up
                    self._waiting.remove((kind, future))
            elif (worker := future.result()) is not None:
                self._give_back(worker)
            else:
                self.started()
            raise

    def take_some(self, count: int) -> int:
        """Take so many places, if there are as many; returns how many were taken."""
        if self._most is None:
            return count
        count = max(0, min(count, self._most - len(self._running) - self._starts))
        self._starts += count
        return count

    def started(self) -> None:
        """A place that was taken is a running worker's now, or nobody's."""
        if self._most is not None:
            self._starts -= 1
            self.freed()

    def freed(self) -> None:
        """There may be room for another one."""
        while self._waiting and self.take_some(1):
            _, future = self._waiting.pop(0)
            if future.done():
                self._starts -= 1  # given up in this pass
            else:
                future.set_result(None)

    def offer(self, kind: object, worker: W) -> bool:
        """A worker has nothing to do; whether somebody had waited for one of this kind, and has it now."""
        for place, (wanted, future) in enumerate(self._waiting):
            if wanted == kind and not future.done():
                del self._waiting[place]
                future.set_result(worker)
                return True
        return False

    def __repr__(self) -> str:
        return f"<Places most={self._most} starting={self._starts} waiting={len(self._waiting)}>"
