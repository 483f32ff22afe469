"""The node: leases of its CPU, its worker processes, and the word on how they died. Nothing of it is on the path of a
call.

The same object is the inside of a daemon process and of an in-process session; what differs (the spawner, the
addresses) is given to it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actorlite.errors import ActorliteError, ConnectionLost, TaskUnschedulableError
from actorlite.host import Entropy, Spawner
from actorlite.ids import ProcessId
from actorlite.node.workers import Job, Place, WorkerPool, WorkerRecord
from actorlite.rpc.handshake import PYTHON
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.state.leases import LeaseRequest, LeaseTable
from actorlite.transport import Address
from actorlite.wire.messages import (
    Blocked,
    Death,
    Ending,
    Identity,
    KillWorker,
    Lease,
    LeaseWorker,
    NodeInfo,
    NodeStatus,
    Reclaim,
    RegisterDriver,
    RegisterWorker,
    ReturnLease,
    Status,
    StopNode,
    WhyDied,
    WithdrawLeases,
    Yes,
    encode,
)

logger = logging.getLogger("actorlite.node")

EXIT_REPORT_S = 2.0
"""How long a process whose connection ended may take to end; after that it counts as still running."""

DYING_S = 0.5

MAX_DEPARTED = 1000


@dataclass(frozen=True, slots=True)
class NodeOptions:
    process: ProcessId
    token: bytes
    cpu_units: int
    worker_address: Callable[[ProcessId], Address]
    pid: int
    loop: str = "uvloop"
    session_directory: str = ""
    prestart: int = 0
    """Workers to start ahead for each new job."""


class Node:
    def __init__(self, options: NodeOptions, spawner: Spawner, entropy: Entropy, on_stop: Callable[[], None]) -> None:
        self.options = options
        self.table = LeaseTable(options.cpu_units)
        self._spawner = spawner
        self._entropy = entropy
        self._on_stop = on_stop
        self._numbers = itertools.count(1)
        self._grants: dict[int, asyncio.Future[bool]] = {}
        self._tickets: dict[tuple[Peer, int], int] = {}
        self._jobs: dict[ProcessId, Job] = {}
        self._shared: dict[ProcessId, asyncio.Task[WorkerRecord]] = {}
        self._workers_of: dict[int, WorkerRecord] = {}
        self._departed: dict[ProcessId, str] = {}
        self._ending = False
        handlers = Handlers()
        handlers.on_messages({WithdrawLeases: self._withdraw, Blocked: self._blocked})
        handlers.on_requests(
            {
                RegisterDriver: self._register_driver,
                RegisterWorker: self._register_worker,
                LeaseWorker: self._lease,
                ReturnLease: self._return_lease,
                KillWorker: self._kill_worker,
                WhyDied: self._why_died,
                NodeStatus: self._status,
                StopNode: self._stop_node,
            }
        )
        identity = Identity(options.process, "node", "", options.pid, PYTHON)
        self.hub = Hub(identity, options.token, entropy, handlers, on_peer_lost=self._peer_lost)

    async def start(self, address: Address) -> Address:
        """Listen; returns the bound address."""
        bound = await self.hub.listen(address)
        options = self.options
        place = Place(bound, options.worker_address, options.token, options.loop)
        soft_limit = max(1, options.cpu_units // 10_000)
        self.workers = WorkerPool(place, self._spawner, self._entropy, soft_limit, self._worker_ended)
        return bound

    async def aclose(self, reason: str) -> None:
        """Say goodbye to everybody, end all workers, close. Completes when cancelled."""
        self._ending = True
        for peer in list(self.hub.peers.values()):
            peer.tell(encode(Ending(reason)))
        try:
            await self.workers.aclose()
        finally:
            await self.hub.aclose()

    # --- registration

    async def _register_driver(self, peer: Peer, body: RegisterDriver) -> NodeInfo:
        job = Job(body.job, body.namespace, body.sys_path, body.cwd)
        self._jobs[peer.identity.process] = job
        self.workers.prestart(job, self.options.prestart)
        return self._info()

    async def _register_worker(self, peer: Peer, body: RegisterWorker) -> NodeInfo:
        record = self.workers.registered(peer)
        self._jobs[peer.identity.process] = record.job
        return self._info()

    def _info(self) -> NodeInfo:
        return NodeInfo(self.options.pid, self.options.cpu_units, self.options.session_directory)

    # --- leases

    async def _lease(self, peer: Peer, body: LeaseWorker) -> Lease | None:
        job = self._jobs.get(peer.identity.process)
        if job is None:
            raise ActorliteError("register before asking for workers")
        missing = self.table.shortfall(body.needs)
        if missing:
            raise TaskUnschedulableError(
                f"{body.label or 'this'} needs {_cpus(body.needs)} CPU, but the node has {_cpus(self.table.total)} in "
                f"all ({_cpus(missing)} too few): ask for less with num_cpus=, or start the node with more"
            )
        number = next(self._numbers)
        if not await self._granted(peer, body, number):
            return None
        try:
            record = await self._worker_for(peer, body, job)
        except BaseException:
            self._release(number)
            raise
        if body.purpose != "shared":
            record.lease = number
            record.use = f"{body.purpose} {body.label}"
        self._workers_of[number] = record
        if not peer.is_open:
            self._give_back(number, reuse=True)
            return None
        return Lease(number, record.process, record.address, record.pid)

    async def _granted(self, peer: Peer, body: LeaseWorker, number: int) -> bool:
        """Wait for room; False when the request was withdrawn."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._grants[number] = future
        self._tickets[peer, body.ticket] = number
        owner = peer.identity.process
        self._grant(self.table.request(LeaseRequest(number, owner, body.needs, body.holds, body.purpose, body.label)))
        if not future.done():
            self._ask_for_idle_leases()
        try:
            return await future
        except asyncio.CancelledError:
            if not self.table.withdraw(number):
                self._release(number)
            raise
        finally:
            self._grants.pop(number, None)
            self._tickets.pop((peer, body.ticket), None)

    async def _worker_for(self, peer: Peer, body: LeaseWorker, job: Job) -> WorkerRecord:
        if body.purpose != "shared":
            return await self.workers.acquire(job)
        owner = peer.identity.process
        task = self._shared.get(owner)
        if task is None or (task.done() and (task.cancelled() or task.exception() or task.result().ended.is_set())):
            task = self._shared[owner] = self.workers.spawn(self._start_shared(job))
        return await asyncio.shield(task)

    async def _start_shared(self, job: Job) -> WorkerRecord:
        record = await self.workers.acquire(job)
        record.use = "shared actors"
        return record

    async def _return_lease(self, peer: Peer, body: ReturnLease) -> Yes:
        self._give_back(body.lease, reuse=body.reuse)
        return Yes(True)

    def _give_back(self, number: int, *, reuse: bool) -> None:
        record = self._workers_of.pop(number, None)
        self._release(number)
        if record is not None and record.lease == number:
            self.workers.release(record, reuse=reuse)

    def _withdraw(self, peer: Peer, message: WithdrawLeases, parts: Sequence[memoryview]) -> None:
        for ticket in message.tickets:
            number = self._tickets.get((peer, ticket))
            if number is not None and self.table.withdraw(number):
                self._grants[number].set_result(False)

    def _blocked(self, peer: Peer, message: Blocked, parts: Sequence[memoryview]) -> None:
        record = self.workers.records.get(peer.identity.process)
        if record is None or not record.lease:
            return
        if message.blocked:
            self._grant(self.table.lend(record.lease))
        else:
            self.table.take_back(record.lease)

    def _release(self, number: int) -> None:
        self._grant(self.table.release(number))

    def _grant(self, granted: list[LeaseRequest]) -> None:
        for request in granted:
            future = self._grants.get(request.number)
            if future is not None and not future.done():
                future.set_result(True)
            else:
                self._release(request.number)

    def _ask_for_idle_leases(self) -> None:
        for peer in self.hub.peers.values():
            if peer.identity.process in self._jobs:
                peer.tell(encode(Reclaim()))

    # --- ends

    async def _kill_worker(self, peer: Peer, body: KillWorker) -> Yes:
        record = self.workers.records.get(body.process)
        if record is None:
            return Yes(False)
        self.workers.kill(record, "a caller asked for it with al.kill()")
        await record.ended.wait()
        return Yes(True)

    async def _why_died(self, peer: Peer, body: WhyDied) -> Death:
        record = self.workers.records.get(body.process)
        if record is not None:
            try:
                async with asyncio.timeout(EXIT_REPORT_S):
                    await record.ended.wait()
            except TimeoutError:
                return Death(False, f"worker pid {record.pid} closed its connection but still runs", record.pid)
        report = self.workers.reports.get(body.process)
        if report is not None:
            return Death(True, report[1], report[0])
        return Death(True, self._departed.get(body.process, f"process {body.process} is not known to its node"))

    def _worker_ended(self, record: WorkerRecord, text: str) -> None:
        if record.lease:
            self._workers_of.pop(record.lease, None)
            self._release(record.lease)
        self._owner_gone(record.process)
        logger.info("%s", text)

    def _peer_lost(self, peer: Peer, error: ConnectionLost | None) -> None:
        process = peer.identity.process
        if peer.identity.role == "driver":
            job = self._jobs.get(process)
            self._departed[process] = f"the driver pid {peer.identity.pid} ended or closed its session"
            while len(self._departed) > MAX_DEPARTED:
                del self._departed[next(iter(self._departed))]
            self._owner_gone(process)
            if job is not None:
                self.workers.end_job(job)
        elif (record := self.workers.records.get(process)) is not None:
            self.workers.spawn(self._end_disconnected(record))

    async def _end_disconnected(self, record: WorkerRecord) -> None:
        """A worker without its node is of no use. Usually it is dying, and how is worth knowing: give it a moment."""
        try:
            async with asyncio.timeout(DYING_S):
                await record.ended.wait()
        except TimeoutError:
            self.workers.kill(record, "its connection to the node was lost")

    def _owner_gone(self, process: ProcessId) -> None:
        """Free what a process held. Its workers may still run code for it: they are not clean."""
        self._jobs.pop(process, None)
        shared = self._shared.pop(process, None)
        if shared is not None and shared.done() and not shared.cancelled() and shared.exception() is None:
            self.workers.kill(shared.result(), "the process that created its actors is gone")
        lost, granted = self.table.owner_lost(process)
        for lease in lost:
            record = self._workers_of.pop(lease.number, None)
            if record is not None and record.lease == lease.number:
                self.workers.kill(record, "the process that leased it is gone")
        self._grant(granted)

    # --- from the command line

    async def _status(self, peer: Peer, body: NodeStatus) -> Status:
        return Status(
            self.options.pid,
            self.hub.identity.address,
            self.table.total,
            self.table.free,
            tuple((each.process, each.pid, each.use) for each in self.workers.records.values()),
            tuple({job.name for job in self._jobs.values()}),
            len(self.table.waiting),
        )

    async def _stop_node(self, peer: Peer, body: StopNode) -> Yes:
        self._on_stop()
        return Yes(True)

    def __repr__(self) -> str:
        return f"<Node pid={self.options.pid} {self.table!r} jobs={len(self._jobs)}>"


def _cpus(units: int) -> str:
    return f"{units / 10_000:g}"
