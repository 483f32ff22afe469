"""Workers that do nothing: kept warm for what comes, ended when there are too many of them, when they have too much
memory, and when others need their places.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from actorlite.errors import ActorliteError
from actorlite.ids import ProcessId
from actorlite.node.records import Job, Setting, WorkerRecord
from actorlite.state.surplus import surplus
from actorlite.wire.requests import Retire, Yes

if TYPE_CHECKING:
    from actorlite.node.workers import WorkerPool

IDLE_S = 1.0
"""How long a worker may be idle before it is asked to end, when there are too many (Ray, R-21)."""
ANSWER_S = 1.0
"""For the answer: a worker whose loop is blocked does not keep others from being asked."""


class Limits(Struct, frozen=True):
    """Of a node's workers."""

    idle: int
    """So many may stay idle; those above that end after a while."""
    most: int | None = None
    """Processes at a time, those that start and end included; None is without limit."""
    idle_bytes: int | None = None
    """Memory that the idle ones may have together; None is without limit."""


class Idle:
    """Owned by the worker pool."""

    def __init__(self, pool: WorkerPool, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._workers: list[WorkerRecord] = []
        """In the order in which they became idle."""
        self._reaping: asyncio.Task[Any] | None = None
        self._making_room: asyncio.Task[Any] | None = None
        self._look = asyncio.Event()
        """Set when there may be more to do for `_making_room`."""

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def reaping(self) -> bool:
        return self._reaping is not None

    def claim(self, job: Job, setting: Setting) -> WorkerRecord | None:
        """One that can be used for this, the one that was used last."""
        for record in reversed(self._workers):
            if record.job is job and record.setting == setting:
                self._workers.remove(record)
                record.use = "leased"
                return record
        return None

    def add(self, record: WorkerRecord) -> None:
        record.use = "idle"
        record.idle_since = self._loop.time()
        self._workers.append(record)
        if self._pool.places.is_wanted:
            self.place_wanted()
        if self._reaping is None and (len(self) > self._limits.idle or self._limits.idle_bytes is not None):
            self._reaping = self._pool.spawn(self._reap())

    def discard(self, record: WorkerRecord) -> None:
        if record in self._workers:
            self._workers.remove(record)

    def place_wanted(self) -> None:
        """Somebody waits for a place, or there is one more idle worker while somebody does."""
        self._look.set()
        if self._workers and self._making_room is None and not self._pool.closed:
            self._making_room = self._pool.spawn(self._make_room())

    # --- inside

    async def _make_room(self) -> None:
        """While places are wanted, end as many idle workers, the one that is idle for longest first. One that owns
        what others hold stays idle: the next one is asked, and after a while it again."""
        refused: set[ProcessId] = set()
        pool = self._pool
        try:
            while pool.places.is_wanted and self._workers:
                self._look.clear()
                record = next((each for each in self._workers if each.process not in refused), None)
                if record is None or not self._lacks_places:
                    try:
                        async with asyncio.timeout(IDLE_S):
                            await self._look.wait()
                    except TimeoutError:
                        refused.clear()
                    continue
                self._workers.remove(record)
                record.use = "retiring"
                try:
                    async with asyncio.timeout(ANSWER_S):
                        ends = await may_end(record, next(pool.numbers))
                except (ActorliteError, TimeoutError):
                    ends = False
                if record.use != "retiring" or record.ended.is_set():
                    continue
                if ends and self._lacks_places:
                    pool.kill(record, "another one is needed more")
                else:
                    refused.add(record.process)
                    pool.release(record)
        finally:
            self._making_room = None

    @property
    def _lacks_places(self) -> bool:
        """Whether more are wanted than there will be when those have ended that are about to."""
        pool = self._pool
        return pool.places.wanted > sum(record.use == "ending" for record in pool.records.values())

    async def _reap(self) -> None:
        """End those that are too many, and those that have too much memory, if they own nothing that others hold."""
        try:
            while self._workers:
                now = self._loop.time()
                ripe = [each for each in self._workers if each.idle_since + IDLE_S <= now]
                record = self._surplus(ripe)
                if record is None:
                    if len(ripe) == len(self):
                        return  # all may stay
                    await asyncio.sleep(min(each.idle_since for each in self._workers[len(ripe) :]) + IDLE_S - now)
                    continue
                self._workers.remove(record)
                try:
                    async with asyncio.timeout(ANSWER_S):
                        ends = await may_end(record, next(self._pool.numbers))
                except TimeoutError:
                    ends = False
                except ActorliteError:
                    continue  # it ended while it was asked
                if ends:
                    self._pool.kill(record, "it was idle and not needed")
                elif record.use == "idle":
                    self._pool.release(record)  # somebody may want it by now
        finally:
            self._reaping = None

    def _surplus(self, ripe: list[WorkerRecord]) -> WorkerRecord | None:
        most_bytes = self._limits.idle_bytes
        sizes = [0 if most_bytes is None else resident_bytes(each.pid) for each in ripe]
        if most_bytes is not None and sum(sizes) > most_bytes:
            sizes = [private_bytes(each.pid) for each in ripe]
        found = surplus(len(self), self._limits.idle, sizes, most_bytes)
        return None if found is None else ripe[found]

    def __repr__(self) -> str:
        return f"<Idle workers={len(self)}>"


async def may_end(record: WorkerRecord, number: int) -> bool:
    """Whether it owns nothing that others hold. Raises `ActorliteError` when it has ended."""
    answer = await record.peer.request(number, Retire()) if record.peer is not None else Yes(True)
    return isinstance(answer, Yes) and answer.value


def resident_bytes(pid: int) -> int:
    """Memory of a process, without files and the object store, but with what it shares with the process that it was
    forked from; 0 when it has ended. Quickly read."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def private_bytes(pid: int) -> int:
    """Memory that its end would free; 0 when it has ended. Takes a millisecond for some hundred megabytes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
