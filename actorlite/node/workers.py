"""The workers of one node: started, registered, idle, leased, ended; and how each one ended."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from msgspec import Struct

from actorlite.errors import ActorliteError, WorkerStartError
from actorlite.host import Entropy, ExitReport, ProcessHandle, Spawner, WorkerSpec
from actorlite.ids import PROCESS_ID_BYTES, ProcessId, process_id
from actorlite.node.ahead import Ahead
from actorlite.node.idle import Idle, Limits
from actorlite.node.places import Places
from actorlite.node.records import PLAIN, Job, Setting, WorkerRecord
from actorlite.rpc.peer import Peer
from actorlite.transport import Address
from actorlite.wire.requests import Retire

logger = logging.getLogger("actorlite.node")

START_TIMEOUT_S = 60.0
"""From the fork to the registration; a loaded machine may take seconds."""

MAX_STARTING = 16
"""Workers that start at the same time; more wait, so that a burst of actors does not starve what runs."""

ORPHAN_S = 1.0
"""How long the tasks of an owner that is gone may take to clean up; plain code is interrupted after 0.5 s."""

MAX_REPORTS = 1000
"""Ended workers whose end is remembered."""


class Place(Struct, frozen=True):
    """Where workers of this node live and what they are started with."""

    node: Address
    worker_address: Callable[[ProcessId], Address]
    token: bytes
    loop: str
    sets_threads: bool = False
    """Whether workers are told how many threads libraries may use."""


class WorkerPool:
    """Owned by the node. `on_exit` hears of every worker that ended, once, on the loop. `numbers` are the hub's."""

    def __init__(
        self,
        place: Place,
        spawner: Spawner,
        entropy: Entropy,
        limits: Limits,
        on_exit: Callable[[WorkerRecord, str], None],
        numbers: Iterator[int],
    ) -> None:
        self.records: dict[ProcessId, WorkerRecord] = {}
        self.reports: OrderedDict[ProcessId, tuple[int, str, bool]] = OrderedDict()
        """Of those that have ended: pid, how, and whether their placement group was removed."""
        self._place = place
        self._spawner = spawner
        self._entropy = entropy
        self._on_exit = on_exit
        self.numbers = numbers
        self._loop = asyncio.get_running_loop()
        self.idle = Idle(self, limits)
        self.ahead = Ahead(self)
        self.places: Places[WorkerRecord] = Places(limits.most, self.records, self.idle.place_wanted, self.release)
        self._starting = asyncio.Semaphore(MAX_STARTING)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def acquire(self, job: Job, setting: Setting = PLAIN) -> WorkerRecord:
        """A worker of the job with this setting, ready for work: an idle one, else a new one, as soon as there may be
        one more. Raises `WorkerStartError`.
        """
        if (warm := self.idle.claim(job, setting)) is not None:
            return warm
        if setting == PLAIN and (found := await self.ahead.claim(job)) is not None:
            return found
        if (found := await self.places.take((job, setting))) is not None:
            return found
        return await self.start(job, setting)

    def release(self, record: WorkerRecord) -> None:
        """A lease is over: keep the worker warm."""
        record.lease = 0
        if record.ended.is_set():
            return
        if self._closed:
            self.kill(record, "its node ends")
            return
        if self.places.offer((record.job, record.setting), record):
            record.use = "leased"
            return
        self.idle.add(record)

    def registered(self, peer: Peer) -> WorkerRecord:
        """A worker says that it is ready. Raises for a process that this node did not start."""
        record = self.records.get(peer.identity.process)
        if record is None or record.registered.done():
            raise WorkerStartError(f"process {peer.identity.process} is not a worker that this node is starting")
        record.peer = peer
        record.registered.set_result(peer)
        return record

    def kill(self, record: WorkerRecord, reason: str) -> None:
        """End a worker and everything it started; its end is reported as any other."""
        record.kill_reason = record.kill_reason or reason
        self.idle.discard(record)
        record.use = "ending"
        if record.handle is not None:
            record.handle.kill()

    async def end_orphan(self, record: WorkerRecord, reason: str) -> None:
        """Nobody wants what a worker does: it ends when its tasks have cleaned up, and when others have what they hold
        of it; at most `ORPHAN_S` from now."""
        record.use = "ending"
        try:
            async with asyncio.timeout(ORPHAN_S):
                if record.peer is not None:
                    await record.peer.request(next(self.numbers), Retire(orphaned=True))
        except (ActorliteError, TimeoutError):
            pass  # it ended first, or goes on for too long
        finally:
            self.kill(record, reason)

    def end_job(self, job: Job, *, shared: bool = False) -> None:
        """End its workers. On a node that is `shared`, other jobs may hold what they own: then they hand it over."""
        job.is_over = True
        reason = f"its job {job.name} has ended"
        for record in list(self.records.values()):
            if record.job is not job:
                continue
            if shared and record.peer is not None:
                self.spawn(self.end_orphan(record, reason))
            else:
                self.kill(record, reason)

    async def aclose(self) -> None:
        """Kill all and wait until they are gone."""
        self._closed = True
        for task in self._tasks:
            if not task.get_name().startswith("actorlite watch"):
                task.cancel()
        await self._spawner.aclose()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "actorlite node work") -> asyncio.Task[Any]:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- inside

    @property
    def closed(self) -> bool:
        return self._closed

    async def start(self, job: Job, setting: Setting = PLAIN) -> WorkerRecord:
        """A new worker, for which there is a place. Raises `WorkerStartError`."""
        process = process_id(self._entropy.token_bytes(PROCESS_ID_BYTES))
        record = WorkerRecord(process, job, self._loop.create_future(), setting)
        try:
            return await self._start_process(record)
        except BaseException:
            if not record.placed:
                self.places.started()
            raise

    async def _start_process(self, record: WorkerRecord) -> WorkerRecord:
        process, job, setting = record.process, record.job, record.setting
        place = self._place
        spec = WorkerSpec(
            process=process,
            node=place.node,
            listen=place.worker_address(process),
            token=place.token,
            job=job.name,
            namespace=job.namespace,
            sys_path=job.sys_path,
            cwd=job.cwd,
            loop=place.loop,
            gpus=setting.gpus,
            threads=setting.threads if place.sets_threads else 0,
        )
        if self._closed:
            raise WorkerStartError("the node is ending: no worker is started")
        async with self._starting:
            if job.is_over:
                raise WorkerStartError(f"job {job.name} ended while a worker for it waited to be started")
            self.records[process] = record
            record.placed = True
            self.places.started()
            try:
                record.handle = await self._spawner.start(spec)
            except BaseException:
                del self.records[process]
                self.places.freed()
                record.ended.set()
                raise
            self.spawn(self._watch(record, record.handle), f"actorlite watch {process}")
            if record.kill_reason:
                record.handle.kill()  # nobody could kill it before it had a handle
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    await record.registered
            except TimeoutError:
                self.kill(record, "it did not register in time")
                raise WorkerStartError(f"a worker did not become ready within {START_TIMEOUT_S:g} s") from None
            except asyncio.CancelledError:
                # Whoever wanted it is gone, but somebody else will: it becomes idle.
                if record.registered.done() and not record.registered.cancelled() and record.peer is not None:
                    self.release(record)
                else:
                    self.kill(record, "nobody wanted it any more while it started")
                raise
        if record.kill_reason:
            raise WorkerStartError(f"a worker was ended while it started: {record.kill_reason}")
        record.use = "leased"
        return record

    async def _watch(self, record: WorkerRecord, handle: ProcessHandle) -> None:
        report = await handle.wait()
        self._ended(record, report)

    def _ended(self, record: WorkerRecord, report: ExitReport) -> None:
        text = f"worker {report.describe()}"
        if record.kill_reason:
            text = f"worker pid {report.pid} was killed by its node: {record.kill_reason}"
        self.reports[record.process] = (report.pid, text, record.evicted)
        while len(self.reports) > MAX_REPORTS:
            self.reports.popitem(last=False)
        self.records.pop(record.process, None)
        self.idle.discard(record)
        if not record.registered.done():
            record.registered.set_exception(WorkerStartError(f"a worker ended while it started: {text}"))
            record.registered.exception()  # a worker that nobody waits for any more is only reported
        record.ended.set()
        self.places.freed()
        self._on_exit(record, text)

    def __repr__(self) -> str:
        return f"<WorkerPool workers={len(self.records)} idle={len(self.idle)}>"
