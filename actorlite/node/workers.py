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
from actorlite.node.places import Places
from actorlite.node.records import PLAIN, Job, Setting, WorkerRecord
from actorlite.rpc.peer import Peer
from actorlite.transport import Address
from actorlite.wire.requests import Retire, Yes

logger = logging.getLogger("actorlite.node")

START_TIMEOUT_S = 60.0
"""From the fork to the registration; a loaded machine may take seconds."""

MAX_STARTING = 16
"""Workers that start at the same time; more wait, so that a burst of actors does not starve what runs."""

IDLE_S = 1.0
"""How long a worker above the soft limit may be idle before it is asked to end (Ray, R-21)."""

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


class Limits(Struct, frozen=True):
    """Of a node's workers."""

    idle: int
    """So many may stay idle; those above that end after a while."""
    most: int | None = None
    """Processes at a time, those that start and end included; None is without limit."""


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
        self._limits = limits
        self._on_exit = on_exit
        self._numbers = numbers
        self._loop = asyncio.get_running_loop()
        self._idle: list[WorkerRecord] = []
        self.ahead = Ahead(self)
        self.places: Places[WorkerRecord] = Places(
            limits.most, self.records, self._end_idle, lambda record: self.release(record, reuse=True)
        )
        self._starting = asyncio.Semaphore(MAX_STARTING)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reaping: asyncio.Task[Any] | None = None
        self._making_room: asyncio.Task[Any] | None = None
        self._look = asyncio.Event()
        """Set when there may be more to do for `_making_room`."""
        self._closed = False

    async def acquire(self, job: Job, setting: Setting = PLAIN) -> WorkerRecord:
        """A worker of the job with this setting, ready for work: an idle one, else a new one, as soon as there may be
        one more. Raises `WorkerStartError`.
        """
        for record in reversed(self._idle):
            if record.job is job and record.setting == setting:
                self._idle.remove(record)
                record.use = "leased"
                return record
        if setting == PLAIN and (found := await self.ahead.claim(job)) is not None:
            return found
        if (found := await self.places.take((job, setting))) is not None:
            return found
        return await self.start(job, setting)

    def release(self, record: WorkerRecord, *, reuse: bool, retire: bool = False) -> None:
        """A lease is over: keep the worker warm, or end it when its state is not clean."""
        record.lease = 0
        if record.ended.is_set():
            return
        if retire and not self._closed:
            record.use = "retiring"
            self.spawn(self._retire(record))
            return
        if not reuse or self._closed:
            self.kill(record, "its lease was returned as not reusable")
            return
        if self.places.offer((record.job, record.setting), record):
            record.use = "leased"
            return
        record.use = "idle"
        record.idle_since = self._loop.time()
        self._idle.append(record)
        if self.places.is_wanted:
            self._end_idle()
            return
        if len(self._idle) > self._limits.idle and self._reaping is None:
            self._reaping = self.spawn(self._reap())

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
        if record in self._idle:
            self._idle.remove(record)
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
                    await record.peer.request(next(self._numbers), Retire(orphaned=True))
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
                    self.release(record, reuse=True)
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
        if record in self._idle:
            self._idle.remove(record)
        if not record.registered.done():
            record.registered.set_exception(WorkerStartError(f"a worker ended while it started: {text}"))
            record.registered.exception()  # a worker that nobody waits for any more is only reported
        record.ended.set()
        self.places.freed()
        self._on_exit(record, text)

    async def _retire(self, record: WorkerRecord) -> None:
        """End a worker that gets no more work, once it owns nothing that others hold."""
        try:
            while not record.ended.is_set():
                if await _may_end(record, next(self._numbers)):
                    break
                await asyncio.sleep(IDLE_S)
        except ActorliteError:
            return  # it ended while it was asked
        self.kill(record, "its actor has ended")

    def _end_idle(self) -> None:
        """Somebody waits for a place, or there is one more idle worker while somebody does."""
        self._look.set()
        if self._idle and self._making_room is None and not self._closed:
            self._making_room = self.spawn(self._make_room())

    async def _make_room(self) -> None:
        """While places are wanted, end as many idle workers, the one that is idle for longest first. One that owns
        what others hold stays idle: the next one is asked, and after a while it again."""
        refused: set[ProcessId] = set()
        try:
            while self.places.is_wanted and self._idle:
                self._look.clear()
                record = next((each for each in self._idle if each.process not in refused), None)
                if record is None or not self._lacks_places:
                    try:
                        async with asyncio.timeout(IDLE_S):
                            await self._look.wait()
                    except TimeoutError:
                        refused.clear()
                    continue
                self._idle.remove(record)
                record.use = "retiring"
                try:
                    async with asyncio.timeout(IDLE_S):
                        may_end = await _may_end(record, next(self._numbers))
                except (ActorliteError, TimeoutError):
                    may_end = False
                if record.use != "retiring" or record.ended.is_set():
                    continue
                if may_end and self._lacks_places:
                    self.kill(record, "another one is needed more")
                else:
                    refused.add(record.process)
                    self.release(record, reuse=True)
        finally:
            self._making_room = None

    @property
    def _lacks_places(self) -> bool:
        """Whether more are wanted than there will be when those have ended that are about to."""
        return self.places.wanted > sum(record.use == "ending" for record in self.records.values())

    async def _reap(self) -> None:
        """End idle workers above the soft limit, oldest first, if they own nothing that others hold."""
        try:
            while len(self._idle) > self._limits.idle:
                oldest = self._idle[0]
                rest = oldest.idle_since + IDLE_S - self._loop.time()
                if rest > 0:
                    await asyncio.sleep(rest)
                    continue
                self._idle.remove(oldest)
                try:
                    may_end = await _may_end(oldest, next(self._numbers))
                except ActorliteError:
                    continue  # it ended while it was asked
                if may_end:
                    self.kill(oldest, "it was idle and not needed")
                elif not oldest.ended.is_set():
                    oldest.idle_since = self._loop.time()
                    self._idle.append(oldest)
        finally:
            self._reaping = None

    def __repr__(self) -> str:
        return f"<WorkerPool workers={len(self.records)} idle={len(self._idle)}>"


async def _may_end(record: WorkerRecord, number: int) -> bool:
    """Whether it owns nothing that others hold. Raises `ActorliteError` when it has ended."""
    answer = await record.peer.request(number, Retire()) if record.peer is not None else Yes(True)
    return isinstance(answer, Yes) and answer.value
