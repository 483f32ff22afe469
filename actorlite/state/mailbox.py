"""An actor's inbox: ordered, with a bound on how many calls run at once. Pure.

Calls start in the order in which they came, whatever their kind. The queue exists only while something waits, so that
an idle actor costs little.

With `chain`, calls that say that they are `chainable` may be started behind one another although the limit is reached:
they all go to one thread, which runs them in order, so that the loop need not be asked between two of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Queueable(Protocol):
    @property
    def chainable(self) -> bool: ...


C = TypeVar("C", bound=Queueable)


class Mailbox(Generic[C]):
    __slots__ = ("limit", "chain", "running", "chained", "_queue")

    def __init__(self, limit: int = 1, *, chain: bool = False) -> None:
        self.limit = limit
        self.chain = chain
        self.running = 0
        self.chained = 0
        """How many of the running calls are in the chain."""
        self._queue: deque[C] | None = None

    def would_start(self, call: C) -> bool:
        """Whether the call, offered now, would start at once."""
        return not self._queue and self._may_start(call)

    def offer(self, call: C) -> bool:
        """True: start the call now. False: it waits; `finished` will hand it out."""
        if self.would_start(call):
            self._started(call)
            return True
        if self._queue is None:
            self._queue = deque()
        self._queue.append(call)
        return False

    def finished(self, call: C) -> list[C]:
        """A running call has ended; the calls to start now, in order."""
        if self.running <= 0:
            raise ValueError("finished without a running call")
        self.running -= 1
        if self.chained:
            self.chained -= 1
        if not self._queue:
            return []
        started = []
        while self._queue and self._may_start(self._queue[0]):
            call = self._queue.popleft()
            self._started(call)
            started.append(call)
        if not self._queue:
            self._queue = None
        return started

    def withdraw(self, unwanted: Callable[[C], bool]) -> list[C]:
        """Take waiting calls out, in order."""
        if not self._queue:
            return []
        taken = [call for call in self._queue if unwanted(call)]
        if taken:
            self._queue = deque(call for call in self._queue if not unwanted(call)) or None
        return taken

    @property
    def waiting(self) -> int:
        return len(self._queue) if self._queue else 0

    def _may_start(self, call: C) -> bool:
        if self.running < self.limit:
            return True
        return self.chain and self.chained == self.running and call.chainable

    def _started(self, call: C) -> None:
        self.running += 1
        if self.chain and (self.chained or self.running == 1) and call.chainable:
            self.chained += 1

    def __repr__(self) -> str:
        return f"<Mailbox running={self.running}/{self.limit} waiting={self.waiting}>"
