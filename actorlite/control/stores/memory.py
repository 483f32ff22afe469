"""State in memory. By itself it survives nothing; a journal writes down what changes before anybody hears of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from msgspec import Struct

from actorlite.errors import ControlUnavailable
from actorlite.state.revisions import CompactedError, Compare, Event, KeyValue, Op, Revisions, TxnResult


class Change(Struct, frozen=True):
    """What a journal writes down together."""

    events: tuple[Event, ...] = ()
    granted: tuple[int, float] | None = None
    """A lease, and its seconds."""
    ended: int = 0
    """A lease that is over."""


class Journal(Protocol):
    """Keeps changes in the order in which it gets them. On the loop, which it does not block."""

    def write(self, change: Change) -> asyncio.Future[None]:
        """Done when it is safe, and all before it; fails with `ControlUnavailable`, and then so does all after it."""
        ...

    async def aclose(self) -> None:
        """After all that was written. Idempotent."""


class MemoryWatch:
    """Changes as they come: an asynchronous iterator, fed by its store."""

    def __init__(self, prefix: str, start: int, on_close: Callable[[MemoryWatch], None]) -> None:
        self._prefix = prefix
        self._start = start
        self._events: deque[Event] = deque()
        self._on_close = on_close
        self._waiting: asyncio.Future[None] | None = None
        self._end: Exception | None = None

    def feed(self, events: Sequence[Event]) -> None:
        self._events.extend(
            [each for each in events if each.revision >= self._start and each.key.startswith(self._prefix)]
        )
        self._wake()

    def end(self, error: Exception) -> None:
        """After what it was fed it raises this; the first counts."""
        self._end = self._end or error
        self._wake()

    def close(self) -> None:
        """Nobody reads any more; whoever waits in it stops. Idempotent."""
        self._on_close(self)
        self.end(StopAsyncIteration())

    def __aiter__(self) -> MemoryWatch:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._end is not None:
                raise self._end
            if self._waiting is not None:
                raise RuntimeError("a watch is read in one place: open another one")
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return self._events.popleft()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def __repr__(self) -> str:
        return f"<MemoryWatch {self._prefix!r} events={len(self._events)}>"


class MemoryStore:
    """A `StateStore` in this process."""

    def __init__(self, revisions: Revisions | None = None, journal: Journal | None = None) -> None:
        self._revisions = revisions or Revisions()
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._told = self._revisions.revision
        """The last revision that is safe, and that those who watch may know."""
        self._last: asyncio.Future[None] | None = None
        """The last change that is on its way into the journal."""
        self._watches: set[MemoryWatch] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._broken: ControlUnavailable | None = None
        self._schedule()

    async def txn(self, compares: Sequence[Compare], ops: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        self._check()
        result, events = self._revisions.txn(compares, ops, otherwise)
        if events:
            self._changed(Change(events))
        await self._safe()  # also of what it only read
        return result

    async def range(self, prefix: str) -> tuple[tuple[KeyValue, ...], int]:
        self._check()
        found = self._revisions.range(prefix), self._revisions.revision
        await self._safe()
        return found

    async def lease(self, ttl: float) -> int:
        self._check()
        number = self._revisions.grant(ttl, self._loop.time())
        self._schedule()
        self._changed(Change(granted=(number, ttl)))
        await self._safe()
        return number

    async def keep_alive(self, lease: int) -> float:
        self._check()
        return self._revisions.keep_alive(lease, self._loop.time())

    async def revoke(self, lease: int) -> None:
        self._check()
        self._changed(Change(self._revisions.revoke(lease), ended=lease))
        await self._safe()

    def watch(self, prefix: str, from_revision: int = 0) -> MemoryWatch:
        start = from_revision or self._revisions.revision + 1
        watch = MemoryWatch(prefix, start, self._watches.discard)
        try:
            watch.feed([each for each in self._revisions.since(prefix, start) if each.revision <= self._told])
        except CompactedError as error:
            watch.end(error)
            return watch
        if self._broken is not None:
            watch.end(self._broken)
        else:
            self._watches.add(watch)
        return watch

    async def compact(self, revision: int) -> None:
        self._check()
        self._revisions.compact(revision)

    async def aclose(self) -> None:
        if self._journal is not None:
            await self._journal.aclose()
        self._break(ControlUnavailable("control's state was closed: its node ends"))

    # --- inside

    def _check(self) -> None:
        if self._broken is not None:
            raise ControlUnavailable(str(self._broken))

    def _changed(self, change: Change) -> None:
        """Tell those who watch, once it is safe."""
        revision = self._revisions.revision
        if self._journal is None:
            self._tell(revision, change.events)
            return
        self._last = written = self._journal.write(change)
        written.add_done_callback(partial(self._written, revision, change.events))

    def _written(self, revision: int, events: Sequence[Event], written: asyncio.Future[None]) -> None:
        if self._last is written:
            self._last = None
        if written.cancelled():
            return
        error = written.exception()
        if error is None:
            self._tell(revision, events)
        else:
            self._break(error if isinstance(error, ControlUnavailable) else ControlUnavailable(str(error)))

    def _tell(self, revision: int, events: Sequence[Event]) -> None:
        self._told = revision
        if events:
            for watch in list(self._watches):
                watch.feed(events)

    async def _safe(self) -> None:
        """Return when all that has happened up to now is safe. Raises `ControlUnavailable` when it never will be."""
        if self._last is not None:
            await asyncio.shield(self._last)

    def _schedule(self) -> None:
        """Wake up when the next lease ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ends = self._revisions.leases.values()
        if ends and self._broken is None:
            self._timer = self._loop.call_at(min(ends), self._expire)

    def _expire(self) -> None:
        for lease in self._revisions.expired(self._loop.time()):
            self._changed(Change(self._revisions.revoke(lease), ended=lease))
        self._schedule()

    def _break(self, error: ControlUnavailable) -> None:
        """What is in memory may be ahead of what was written: nobody may use it any more."""
        self._broken = self._broken or error
        if self._timer is not None:
            self._timer.cancel()
        for watch in list(self._watches):
            watch.end(ControlUnavailable(str(self._broken)))
        self._watches.clear()

    def __repr__(self) -> str:
        return f"<MemoryStore {self._revisions!r} journal={self._journal!r}>"
