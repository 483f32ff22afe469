"""The lease desk of a node: who waits for CPU, who holds it, and which worker goes with which lease."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from actorlite.errors import TaskUnschedulableError
from actorlite.ids import ProcessId
from actorlite.node.guests import Guests
from actorlite.node.members import Members
from actorlite.node.redirects import NodeLost, Redirects
from actorlite.node.workers import Job, WorkerPool, WorkerRecord
from actorlite.resources import from_units
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.state.leases import LeaseRequest, LeaseTable
from actorlite.wire.messages import Blocked, Lease, LeaseWorker, Reclaim, ReturnLease, WithdrawLeases, Yes, encode


class LeaseDesk:
    """Owned by the node. `jobs` is the node's: who registered, and for which job."""

    def __init__(
        self, table: LeaseTable, hub: Hub, workers: WorkerPool, jobs: dict[ProcessId, Job], members: Members
    ) -> None:
        self.table = table
        self._hub = hub
        self._workers = workers
        self._jobs = jobs
        self._members = members
        self._redirects = Redirects(hub, members, lambda: next(self._numbers))
        self.guests = Guests(hub.identity.process, jobs, workers, members.ended)
        self._numbers = itertools.count(1)
        self._grants: dict[int, asyncio.Future[bool]] = {}
        self._tickets: dict[tuple[Peer, int], int] = {}
        self._shared: dict[ProcessId, asyncio.Task[WorkerRecord]] = {}
        self._workers_of: dict[int, WorkerRecord] = {}

    # --- handlers

    async def lease(self, peer: Peer, body: LeaseWorker) -> Lease | None:
        """A worker for the sender, once there is room; None when the request was withdrawn."""
        job = self.guests.job_of(peer, body)
        here = self._hub.identity.process
        if body.job is None and self._members.views and body.purpose != "shared":
            while (node := self._members.choose(body.needs, body.near)) not in (here, None):
                try:
                    return await self._redirects.lease(peer, body, job, node)
                except NodeLost:
                    continue  # another one, which may be this one
        if self.table.shortfall(body.needs):
            raise TaskUnschedulableError(
                _too_much(body, [self.table.total, *[each.total for each in self._members.views.values()]])
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
        owner = body.owner or peer.identity.process
        self._grant(self.table.request(LeaseRequest(number, owner, body.needs, body.holds, body.purpose, body.label)))
        if not future.done():
            self._ask_for_idle_leases()
        try:
            return await future
        except asyncio.CancelledError:
            granted = self.table.withdraw(number)
            if granted is None:
                self._release(number)
            else:
                self._grant(granted)
            raise
        finally:
            self._grants.pop(number, None)
            self._tickets.pop((peer, body.ticket), None)

    async def _worker_for(self, peer: Peer, body: LeaseWorker, job: Job) -> WorkerRecord:
        if body.purpose != "shared":
            return await self._workers.acquire(job)
        owner = body.owner or peer.identity.process
        task = self._shared.get(owner)
        if task is None or (task.done() and (task.cancelled() or task.exception() or task.result().ended.is_set())):
            task = self._shared[owner] = self._workers.spawn(self._start_shared(job))
        return await asyncio.shield(task)

    async def _start_shared(self, job: Job) -> WorkerRecord:
        record = await self._workers.acquire(job)
        record.use = "shared actors"
        return record

    async def return_lease(self, peer: Peer, body: ReturnLease) -> Yes:
        if not self._redirects.give_back(body):
            self._give_back(body.lease, reuse=body.reuse, retire=body.retire)
        return Yes(True)

    def _give_back(self, number: int, *, reuse: bool, retire: bool = False) -> None:
        record = self._workers_of.pop(number, None)
        self._release(number)
        if record is not None and record.lease == number:
            self._workers.release(record, reuse=reuse, retire=retire)

    def withdraw(self, peer: Peer, message: WithdrawLeases, parts: Sequence[memoryview]) -> None:
        for ticket in message.tickets:
            self._redirects.withdraw(peer, ticket)
            number = self._tickets.get((peer, ticket))
            granted = self.table.withdraw(number) if number is not None else None
            if number is not None and granted is not None:
                self._grants[number].set_result(False)
                self._grant(granted)

    def blocked(self, peer: Peer, message: Blocked, parts: Sequence[memoryview]) -> None:
        record = self._workers.records.get(peer.identity.process)
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
        self._members.load_changed()

    def _ask_for_idle_leases(self) -> None:
        self.reclaim()
        for node in self.guests.nodes:
            if (peer := self._members.peer(node)) is not None:
                peer.tell(encode(Reclaim()))

    def reclaim(self) -> None:
        """Somebody waits, here or on the node that says so: own processes give back what is idle."""
        for peer in self._hub.peers.values():
            if peer.identity.process in self._jobs:
                peer.tell(encode(Reclaim()))

    def worker_ended(self, record: WorkerRecord) -> None:
        """Free the leases that a worker worked for, several when it is shared, and everything that it held itself."""
        for number in [number for number, each in self._workers_of.items() if each is record]:
            del self._workers_of[number]
            self._release(number)
        self.owner_gone(record.process)

    def owner_gone(self, process: ProcessId) -> None:
        """Free what a process held. Its workers may still run code for it: they end, once that has cleaned up."""
        self.guests.process_ended(process)
        self._redirects.owner_gone(process)
        shared = self._shared.pop(process, None)
        if shared is not None:
            shared.add_done_callback(self._end_shared)  # also when it is still starting
        lost, granted = self.table.owner_lost(process)
        for lease in lost:
            record = self._workers_of.pop(lease.number, None)
            if record is not None and record.lease == lease.number:
                self._workers.spawn(self._workers.end_orphan(record, "the process that leased it is gone"))
        self._grant(granted)

    def node_lost(self, node: ProcessId) -> list[ProcessId]:
        """Another node is gone with all its processes. Returns the workers there that were leased from here."""
        for process in self.guests.node_lost(node):
            self.owner_gone(process)
        return self._redirects.node_lost(node)

    def _end_shared(self, task: asyncio.Task[WorkerRecord]) -> None:
        if not task.cancelled() and task.exception() is None:
            reason = "the process that created its actors is gone"
            self._workers.spawn(self._workers.end_orphan(task.result(), reason))

    def __repr__(self) -> str:
        return f"<LeaseDesk {self.table!r} workers={len(self._workers_of)}>"


def _too_much(body: LeaseWorker, totals: Sequence[int]) -> str:
    most = max(totals)
    where = f"no node has more than {_cpus(most)}" if len(totals) > 1 else f"the node has {_cpus(most)} in all"
    return (
        f"{body.label or 'this'} needs {_cpus(body.needs)} CPU, but {where} ({_cpus(body.needs - most)} too few): "
        "ask for less with num_cpus=, or start the node with more"
    )


def _cpus(units: int) -> str:
    return f"{from_units(units):g}"
