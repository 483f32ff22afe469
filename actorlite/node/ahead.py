"""Workers that are started before they are needed."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from actorlite.errors import ActorliteError
from actorlite.node.records import Job, WorkerRecord

if TYPE_CHECKING:
    from actorlite.node.workers import WorkerPool

logger = logging.getLogger("actorlite.node")

Starting = tuple[Job, "asyncio.Task[WorkerRecord | None]"]


class Ahead:
    """Owned by the worker pool."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._starting: list[Starting] = []
        """Those that nobody has asked for yet."""

    def prestart(self, job: Job, count: int) -> None:
        """Have some workers warm before they are needed."""
        for _ in range(self._pool.places.take_some(count)):
            entry = (job, self._pool.spawn(self._start(job)))
            self._starting.append(entry)
            entry[1].add_done_callback(partial(self._started, entry))

    async def claim(self, job: Job) -> WorkerRecord | None:
        """A worker that is being started; None when there is none, or when it failed."""
        entry = next((each for each in self._starting if each[0] is job), None)
        if entry is None:
            return None
        self._starting.remove(entry)
        try:
            return await asyncio.shield(entry[1])
        except asyncio.CancelledError:
            # Whoever asked is gone: it becomes idle after all.
            entry[1].add_done_callback(self._unclaimed)
            raise

    async def _start(self, job: Job) -> WorkerRecord | None:
        try:
            return await self._pool.start(job)
        except ActorliteError as error:
            if not job.is_over and not self._pool.closed:
                logger.warning("a worker could not be started ahead: %s", error)
            return None

    def _started(self, entry: Starting, task: asyncio.Task[Any]) -> None:
        """Nobody has asked for it meanwhile: it is idle."""
        if entry in self._starting:
            self._starting.remove(entry)
            self._unclaimed(task)

    def _unclaimed(self, task: asyncio.Task[WorkerRecord | None]) -> None:
        if not task.cancelled() and task.exception() is None and (record := task.result()) is not None:
            self._pool.release(record)

    def __repr__(self) -> str:
        return f"<Ahead starting={len(self._starting)}>"
