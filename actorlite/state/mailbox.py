"""An actor's inbox: ordered, with a bound on how many calls run at once. Pure.

Calls start in the order in which they came, whatever their kind. The queue exists only while something waits, so that
an idle actor costs little. Actors with concurrency groups, readonly methods or reentrancy have `lanes.Lanes` instead,
with the same methods.

With `chain`, calls that say that they are `chainable` may be started behind one another although the limit is reached:
they all go to as many threads as the limit says, which take them in order, so that the loop need not be asked between
two of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

FEW = 4096
"""Queued calls up to which nobody needs to be warned."""

CHAIN_DEPTH = 1024
"""How many calls are queued in a thread; more wait here, where they can be counted and dropped."""


class Queueable(Protocol):
    chained: bool
    """Whether it was started as one of the chain: the mailbox notes it there."""

    @property
    def chainable(self) -> bool: ...

    @property
    def size(self) -> int:
        """Bytes that it holds while it waits."""
        ...

    @property
    def key(self) -> str:
        """How it is called in the chains of others."""
        ...

    @property
    def through(self) -> Collection[str]:
        """The calls of this actor that wait for it: the keys in its own chain."""
        ...

    @property
    def group(self) -> str: ...

    @property
    def readonly(self) -> bool: ...


C = TypeVar("C", bound=Queueable)


class Mailbox(Generic[C]):
    __slots__ = ("limit", "chain", "running", "chained", "bytes", "_queue", "_gone")

    def __init__(self, limit: int = 1, *, chain: bool = False) -> None:
        self.limit = limit
        self.chain = chain
        self.running = 0
        self.chained = 0
        """How many of the running calls are in the chain."""
        self.bytes = 0
        """Held by calls that wait."""
        self._queue: deque[C] | None = None
        """Never empty, and never without a call that waits."""
        self._gone: set[C] | None = None
        """Calls in the queue that were taken out: forgotten there when their turn comes, or when they are many."""

    def open(self, limit: int) -> None:
        """The constructor, which had the mailbox to itself, is through: the limit from now on."""
        self.limit = limit

    def would_start(self, call: C) -> bool:
        """Whether the call, offered now, would start at once."""
        return not self._queue and self._may_start(call)

    def try_start(self, call: C) -> bool:
        """True: start the call now. False: it would have to wait, and is forgotten."""
        if self._queue or not self._may_start(call):
            return False
        self._started(call)
        return True

    def wait(self, call: C) -> None:
        """Queue a call that `try_start` did not take; `finished` will hand it out."""
        if self._queue is None:
            self._queue = deque()
        self._queue.append(call)
        self.bytes += call.size

    def wait_among_few(self, call: C, calls: int, size_bytes: int) -> bool:
        """Queue a call where few are queued, so that there is room for sure; False: ask `is_full`."""
        queue = self._queue
        if queue is None or len(queue) >= FEW or len(queue) + self.chained >= calls:
            return False
        size = call.size
        if self.bytes + size > size_bytes:
            return False
        queue.append(call)
        self.bytes += size
        return True

    def offer(self, call: C) -> bool:
        """True: start the call now. False: it waits."""
        if self.try_start(call):
            return True
        self.wait(call)
        return False

    def finished(self, call: C) -> list[C]:
        """A running call has ended; the calls to start now, in order."""
        if self.running <= 0:
            raise ValueError("finished without a running call")
        self.running -= 1
        if call.chained:
            self.chained -= 1
        return self._start_waiting() if self._queue else []

    def remove(self, call: C) -> list[C]:
        """Take one waiting call out; the calls to start now. Cheap, however many wait."""
        self._take_out(call)
        return self._start_waiting() if self._queue else []

    def withdraw(self, unwanted: Callable[[C], bool]) -> list[C]:
        """Take waiting calls out, in order."""
        if not self._queue:
            return []
        taken: list[C] = []
        kept: deque[C] = deque()
        for call in self._waiting_calls():
            (taken if unwanted(call) else kept).append(call)
        self._queue, self._gone = kept or None, None
        self.bytes = sum([call.size for call in kept])
        return taken

    def oldest(self, group: str) -> C | None:
        """The call that has waited longest."""
        return next(self._waiting_calls(), None)

    @property
    def waiting(self) -> int:
        return len(self._queue) - len(self._gone or ()) if self._queue else 0

    @property
    def behind(self) -> int:
        """How many calls have not begun, those that are queued in a thread included."""
        return self.waiting + max(0, self.chained - self.limit)

    def is_full(self, calls: int, size_bytes: int, size: int) -> bool:
        """Whether one more waiting call of `size` exceeds the bounds. Any fits when nothing else waits."""
        behind = self.behind
        return behind >= calls or (behind > 0 and self.bytes + size > size_bytes)

    def deadlocked(self, call: C, running: Iterable[C]) -> list[C]:
        """The waiting calls that would wait for ever now that `call` waits: itself, or none.

        A running call that waits for one that waits here will not end. With one at a time it is enough that it is one
        that `call` came through; else as many as may run at once must be of that kind.
        """
        if not call.through:
            return []
        if self.limit == 1:
            return [call] if any(each.key in call.through for each in running) else []
        blocked = {key for each in self._waiting_calls() for key in each.through}
        return [call] if sum([each.key in blocked for each in running]) >= self.limit else []

    def _take_out(self, call: C) -> None:
        if self._queue is None:
            raise ValueError("remove of a call that does not wait")
        self.bytes -= call.size
        if self._gone is None:
            self._gone = set()
        self._gone.add(call)
        if 2 * len(self._gone) >= len(self._queue):
            self._queue = deque(self._waiting_calls()) or None
            self._gone = None

    def _waiting_calls(self) -> Iterator[C]:
        gone = self._gone or ()
        return (call for call in self._queue or () if call not in gone)

    def _start_waiting(self) -> list[C]:
        started = []
        queue, gone = self._queue, self._gone
        while queue:
            call = queue[0]
            if gone and call in gone:
                gone.discard(queue.popleft())
                continue
            if not self._may_start(call):
                break
            queue.popleft()
            self.bytes -= call.size
            self._started(call)
            started.append(call)
        if not queue:
            self._queue = self._gone = None
        return started

    def _may_start(self, call: C) -> bool:
        if self.running < self.limit:
            return True
        return self.chain and self.chained == self.running < CHAIN_DEPTH and call.chainable

    def _started(self, call: C) -> None:
        self.running += 1
        if self.chain and call.chainable:
            self.chained += 1
            call.chained = True

    def __repr__(self) -> str:
        return f"<Mailbox running={self.running}/{self.limit} waiting={self.waiting}>"
