"""Workers that get no more work: what they had is free when they are gone, or do nothing any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from actorlite.errors import ActorliteError
from actorlite.node.idle import IDLE_S, may_end
from actorlite.node.records import WorkerRecord
from actorlite.node.workers import WorkerPool

FREE_S = 2.0
"""How long a worker that is asked to end may take before what it had is given to others all the same."""


class Retiring:
    """Owned by the lease desk; on the loop."""

    def __init__(self, workers: WorkerPool, numbers: Iterator[int], release: Callable[[int], None]) -> None:
        self.leases: dict[int, WorkerRecord] = {}
        """Those that were returned, and the workers that have to end before others get what they hold."""
        self._workers = workers
        self._numbers = numbers
        self._release = release

    def begin(self, lease: int, record: WorkerRecord) -> None:
        """A lease was returned, and its worker is not clean, but may own what others hold."""
        record.lease = 0
        record.use = "retiring"
        self.leases[lease] = record
        self._workers.spawn(self._end(lease, record))
        self._workers.spawn(self._free_after(lease, record))

    async def _end(self, lease: int, record: WorkerRecord) -> None:
        """End it, once it owns nothing that others hold."""
        try:
            while not record.ended.is_set():
                if self._workers.closed or await may_end(record, next(self._numbers)):
                    break
                if not record.setting.gpus:
                    # Nothing runs there. Of devices libraries keep some until their process ends.
                    self._free(lease)
                await asyncio.sleep(IDLE_S)
        except ActorliteError:
            return  # it ended while it was asked
        self._workers.kill(record, "what it was leased for has ended")

    async def _free_after(self, lease: int, record: WorkerRecord) -> None:
        """When it is gone; what others need longer than a while they have to do without."""
        try:
            async with asyncio.timeout(FREE_S):
                await record.ended.wait()
        except TimeoutError:
            pass
        finally:
            self._free(lease)

    def _free(self, lease: int) -> None:
        if self.leases.pop(lease, None) is not None:
            self._release(lease)

    def __repr__(self) -> str:
        return f"<Retiring leases={len(self.leases)}>"
