"""An actor's inbox: ordered, with a bound on how many calls run at once. Pure.

Calls start in the order in which they came, whatever their kind. The queue exists only while something waits, so that an
idle actor costs little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

C = TypeVar("C")


class Mailbox(Generic[C]):
    __slots__ = ("limit", "running", "_queue")

    def __init__(self, limit: int = 1) -> None:
        self.limit = limit
        self.running = 0
        self._queue: deque[C] | None = None

    def offer(self, call: C) -> bool:
        """True: start the call now. False: it waits; `finished` will hand it out."""
        if self.running < self.limit and not self._queue:
            self.running += 1
            return True
        if self._queue is None:
            self._queue = deque()
        self._queue.append(call)
        return False

    def finished(self) -> C | None:
        """A running call has ended; the call to start in its place, if any."""
        if self._queue:
            call = self._queue.popleft()
            if not self._queue:
                self._queue = None
            return call
        if self.running <= 0:
            raise ValueError("finished without a running call")
        self.running -= 1
        return None

    def withdraw(self, unwanted: Callable[[C], bool]) -> list[C]:
        """Take waiting calls out, in order."""
        if not self._queue:
            return []
        taken = [call for call in self._queue if unwanted(call)]
        if taken:
            kept = deque(call for call in self._queue if not unwanted(call))
            self._queue = kept or None
        return taken

    @property
    def waiting(self) -> int:
        return len(self._queue) if self._queue else 0

    def __repr__(self) -> str:
        return f"<Mailbox running={self.running}/{self.limit} waiting={self.waiting}>"
