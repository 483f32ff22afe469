"""The lease desk of a node: who waits for resources, who holds them, and which worker goes with which lease."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from actorlite.errors import TaskUnschedulableError
from actorlite.ids import ProcessId
from actorlite.node.guests import Guests
from actorlite.node.hopes import Hopes
from actorlite.node.members import Members
from actorlite.node.records import Job, Setting, WorkerRecord
from actorlite.node.redirects import NodeLost, Redirects
from actorlite.node.returns import Returns
from actorlite.node.workers import WorkerPool
from actorlite.resources import CPU, UNITS_PER_ONE, ResourceSet
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.state.devices import Share
from actorlite.state.leases import LeaseTable
from actorlite.state.queues import LeaseRequest
from actorlite.state.unplaced import infeasible
from actorlite.wire.messages import Blocked, Lease, LeaseWorker, ReturnLease, WithdrawLeases, Yes

DEVICE_FREE_S = 2.0
"""How long a worker that had GPUs may take to end before they are given to others all the same."""


class Means(NamedTuple):
    """What the workers of a node are given."""

    gpus: Sequence[str] = ()
    sets_threads: bool = False

    def setting(self, request: LeaseRequest, share: Share) -> Setting:
        threads = max(1, request.holds.units_of(CPU) // UNITS_PER_ONE) if self.sets_threads else 1
        return Setting(tuple([self.gpus[index] for index, _ in share]), threads)


class LeaseDesk:
    """Owned by the node. `jobs` is the node's: who registered, and for which job."""

    def __init__(
        self,
        table: LeaseTable,
        hub: Hub,
        workers: WorkerPool,
        jobs: dict[ProcessId, Job],
        members: Members,
        means: Means,
    ) -> None:
        self.table = table
        self._means = means
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
        self.hopes = Hopes()
        self.returns = Returns(table, hub, jobs, members, self.guests, self._redirects)

    # --- handlers

    async def lease(self, peer: Peer, body: LeaseWorker) -> Lease | None:
        """A worker for the sender, once there is room; None when the request was withdrawn."""
        job = self.guests.job_of(peer, body)
        needs = ResourceSet({CPU: body.needs, **dict(body.more)})
        while (node := self._choose(body, needs)) != self._hub.identity.process:
            if node is not None:
                try:
                    return await self._redirects.lease(peer, body, job, node)
                except NodeLost:
                    continue  # another one, which may be this one
            if not body.waits:
                raise TaskUnschedulableError(self._too_much(body, needs))
            if not await self.hopes.wait(peer, body.ticket, needs):
                return None
        number = next(self._numbers)
        holds = ResourceSet({CPU: body.holds, **dict(body.more)})
        owner = body.owner or peer.identity.process
        request = LeaseRequest(number, owner, needs, holds, body.purpose, body.label, job.name)
        if not await self._granted(peer, body.ticket, request):
            return None
        try:
            record = await self._worker_for(owner, request, job)
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

    def _choose(self, body: LeaseWorker, needs: ResourceSet) -> ProcessId | None:
        """The node for a request: one that was passed on stays, and light actors are with their creator's node."""
        if body.job is None and self._members.views and body.purpose != "shared":
            return self._members.choose(needs, body.near)
        return None if self.table.shortfall(needs) else self._hub.identity.process

    async def _granted(self, peer: Peer, ticket: int, request: LeaseRequest) -> bool:
        """Wait for room; False when the request was withdrawn."""
        number = request.number
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._grants[number] = future
        self._tickets[peer, ticket] = number
        self._grant(self.table.request(request))
        if not future.done():
            self.returns.somebody_waits()
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
            self._tickets.pop((peer, ticket), None)

    async def _worker_for(self, owner: ProcessId, request: LeaseRequest, job: Job) -> WorkerRecord:
        if request.purpose != "shared":
            setting = self._means.setting(request, self.table.held[request.number].share)
            return await self._workers.acquire(job, setting)
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
        if record is None or record.lease != number:
            self._release(number)
            return
        if record.setting.gpus:
            # Libraries keep a device's memory until their process ends (Ray does not use such workers again either).
            self._workers.release(record, reuse=False, retire=reuse or retire)
            self._workers.spawn(self._release_after(number, record))
            return
        self._release(number)
        self._workers.release(record, reuse=reuse, retire=retire)

    async def _release_after(self, number: int, record: WorkerRecord) -> None:
        """Free a device when its process is gone; one that others need longer has to do without."""
        try:
            async with asyncio.timeout(DEVICE_FREE_S):
                await record.ended.wait()
        except TimeoutError:
            pass
        finally:
            self._release(number)

    def withdraw(self, peer: Peer, message: WithdrawLeases, parts: Sequence[memoryview]) -> None:
        for ticket in message.tickets:
            self._redirects.withdraw(peer, ticket)
            self.hopes.withdraw(peer, ticket)
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
            self.returns.begin_slice()

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

    def _too_much(self, body: LeaseWorker, needs: ResourceSet) -> str:
        views = [self._members.here(), *(self._members.views.values() if body.job is None else ())]
        return infeasible(body.label, needs, [(view.node, view.total) for view in views])

    def __repr__(self) -> str:
        return f"<LeaseDesk {self.table!r} workers={len(self._workers_of)}>"
