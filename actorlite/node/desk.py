"""The lease desk of a node: who waits for resources, who holds them, and which worker goes with which lease."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from actorlite.errors import ActorliteError, BundleMoved, NodeDraining, TaskUnschedulableError
from actorlite.ids import ProcessId
from actorlite.labels import ANY_LABELS, LabelSelector
from actorlite.node.bundles import Tables
from actorlite.node.guests import Guests
from actorlite.node.hopes import Hopes
from actorlite.node.inside import InGroups
from actorlite.node.members import Members
from actorlite.node.moving import unless_elsewhere
from actorlite.node.records import Job, Setting, WorkerRecord
from actorlite.node.redirects import NodeLost, Redirects
from actorlite.node.retiring import Retiring
from actorlite.node.returns import Returns
from actorlite.node.workers import WorkerPool
from actorlite.resources import CPU, UNITS_PER_ONE, ResourceSet
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.state.devices import Share
from actorlite.state.leases import LeaseTable
from actorlite.state.queues import LeaseRequest
from actorlite.state.scheduling import Affinity, Wish
from actorlite.state.unplaced import infeasible
from actorlite.wire.groups import Place
from actorlite.wire.requests import Blocked, Lease, LeaseWorker, ReturnLease, WithdrawLeases, Yes


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
        self.leaving = False
        """Whether this node is drained: nothing new is placed here, but light actors of processes that are here."""
        self.changed: asyncio.Event | None = None
        """Then: set whenever something was released or withdrawn."""
        self._means = means
        self._hub = hub
        self._workers = workers
        self._jobs = jobs
        self._members = members
        self._redirects = Redirects(hub, members, lambda: next(self._numbers))
        self.guests = Guests(hub.identity.process, jobs, workers, members.ended)
        members.on_back.append(self.guests.node_back)
        self._numbers = itertools.count(1)
        self._grants: dict[int, asyncio.Future[bool]] = {}
        self._tickets: dict[tuple[Peer, int], int] = {}
        self._shared: dict[ProcessId, asyncio.Task[WorkerRecord]] = {}
        self._workers_of: dict[int, WorkerRecord] = {}
        self._retiring = Retiring(workers, hub.numbers, self._release)
        self.hopes = Hopes()
        self.returns = Returns(table, hub, jobs, members, self.guests, self._redirects)
        self.tables = Tables(table, lambda: next(self._numbers))
        self.inside = InGroups(self._ask_node, lambda lease: self._returned(ReturnLease(lease.lease)), hub.luck)

    # --- handlers

    async def lease(self, peer: Peer, body: LeaseWorker) -> Lease | None:
        """A worker for the sender, once there is room; None when the request was withdrawn."""
        job = self.guests.job_of(peer, body)
        if body.place is not None and body.place.group and body.job is None:
            return await self.inside.lease(peer, body)
        needs = ResourceSet({CPU: body.needs, **dict(body.more)})
        here, wish = self._hub.identity.process, wish_for(body.place, needs)
        fits = partial(self.table.turns.would_grant, needs, body.purpose != "task" and bool(body.holds))
        comes_home = False
        while True:
            fits_now = fits()
            comes_home |= not fits_now and self._members.here().free.fits(needs)
            node = self._choose(body, needs, fits_now)
            if node is None:
                if not body.waits:
                    raise TaskUnschedulableError(_too_much(self._members, body, needs))
                if not await self.hopes.wait(peer, body.ticket, needs):
                    return None
                continue
            asking = self._redirects.lease(peer, body, job, node) if node != here else self._lease_here(peer, body, job)
            stays = body.job is not None or body.purpose == "shared" or not self._members.views
            try:
                if stays or (node == here and fits_now):
                    return await asking
                waits = partial(self._tickets.__contains__, (peer, body.ticket)) if node == here else None
                return await unless_elsewhere(
                    asking, partial(_better, self._members, wish, node, fits, waits, comes_home)
                )
            except NodeLost:
                continue  # another one, which may be this one
            except NodeDraining:
                if body.job is not None:
                    raise  # its own node asks another one
            except asyncio.CancelledError:
                if (view := self._members.views.get(node)) is not None:
                    self._members.index.put(view)  # it may not even have been sent: nothing is assumed
                raise
            finally:
                if body.job is not None:  # whoever has sent it assumes that there is so much less here
                    self._members.load_changed(told_one=True)

    async def _ask_node(self, peer: Peer, body: LeaseWorker, node: ProcessId) -> Lease | None:
        """For a bundle there. Raises `NodeLost`, `BundleMoved`."""
        job = self.guests.job_of(peer, body)
        if node == self._hub.identity.process:
            return await self._lease_here(peer, body, job)
        if not node:
            raise BundleMoved("the bundle has no node now")
        return await self._redirects.lease(peer, body, job, node)

    async def _lease_here(self, peer: Peer, body: LeaseWorker, job: Job) -> Lease | None:
        if self.leaving:
            _refuse(body, self._hub.identity.process)
        needs = ResourceSet({CPU: body.needs, **dict(body.more)})
        number = next(self._numbers)
        holds = ResourceSet({CPU: body.holds, **dict(body.more)})
        owner = body.owner or peer.identity.process
        request = LeaseRequest(number, owner, needs, holds, body.purpose, body.label, job.name)
        if not await self._granted(peer, body, request):
            return None
        try:
            if not self.tables.holds(number):
                raise BundleMoved("its bundle was given back before it had a worker")
            record = await self._worker_for(owner, request, job)
        except BaseException:
            self._release(number)
            raise
        if body.purpose != "shared":
            record.lease = number
            record.place = body.place
            record.use = f"{body.purpose} {body.label}"
        self._workers_of[number] = record
        if self.leaving and body.purpose != "shared":  # since it was granted
            self._give_back(number, reuse=True)
            _refuse(body, self._hub.identity.process)
        if not self.tables.holds(number):
            self._give_back(number, reuse=True)
            raise BundleMoved("its bundle was given back while its worker started")
        if not peer.is_open:
            self._give_back(number, reuse=True)
            return None
        return Lease(number, record.process, record.address, record.pid)

    def _choose(self, body: LeaseWorker, needs: ResourceSet, fits: bool) -> ProcessId | None:
        """The node for a request: one that was passed on stays, and light actors are with their creator's node."""
        place = body.place
        if place is not None and place.group:
            return self._hub.identity.process
        placed = self._members.views or place is not None or self.leaving
        if body.job is None and body.purpose != "shared" and placed:
            return self._members.choose(wish_for(place, needs), body.near, fits)
        return None if self.table.shortfall(needs) else self._hub.identity.process

    async def _granted(self, peer: Peer, body: LeaseWorker, request: LeaseRequest) -> bool:
        """Wait for room; False when the request was withdrawn. Raises `BundleMoved`."""
        number, ticket = request.number, body.ticket
        group, index = ("", -1) if body.place is None else (body.place.group, body.place.bundle)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._grants[number] = future
        self._tickets[peer, ticket] = number
        try:
            self.grant(self.tables.request(request, group, index))
            if not future.done():
                self.returns.somebody_waits()
            return await future
        except asyncio.CancelledError:
            granted = self.tables.withdraw(number)
            if granted is None:
                self._release(number)
            else:
                self.grant(granted)
            raise
        finally:
            self._grants.pop(number, None)
            self._tickets.pop((peer, ticket), None)

    async def _worker_for(self, owner: ProcessId, request: LeaseRequest, job: Job) -> WorkerRecord:
        if request.purpose != "shared":
            setting = self._means.setting(request, self.tables.share_of(request.number))
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
        self._returned(body)
        return Yes(True)

    def _returned(self, body: ReturnLease) -> None:
        """A lease of this node, or of another one."""
        if not self._redirects.give_back(body):
            self._give_back(body.lease, reuse=body.reuse, retire=body.retire)

    def _give_back(self, number: int, *, reuse: bool, retire: bool = False) -> None:
        if number in self._retiring.leases:
            return  # said twice
        record = self._workers_of.get(number)
        if record is not None and record.lease == number and record.use == "ending":
            return  # its end frees what it has
        if record is not None and record.lease == number and not (reuse or retire):
            self._workers.kill(record, "its lease was returned as not reusable")
            return  # its end frees what it has
        self._workers_of.pop(number, None)
        if record is None or record.lease != number:
            self._release(number)
        elif retire or record.setting.gpus:
            # Libraries keep a device's memory until their process ends (Ray does not use such workers again either).
            self._retiring.begin(number, record)
        else:
            self._release(number)
            self._workers.release(record)

    def withdraw(self, peer: Peer, message: WithdrawLeases, parts: Sequence[memoryview]) -> None:
        for ticket in message.tickets:
            self._redirects.withdraw(peer, ticket)
            self.hopes.withdraw(peer, ticket)
            if self.inside.withdraw(peer, ticket):
                continue
            number = self._tickets.get((peer, ticket))
            granted = self.tables.withdraw(number) if number is not None else None
            if number is not None and granted is not None:
                if not (future := self._grants[number]).done():  # else it is about to ask another node
                    future.set_result(False)
                self.grant(granted)

    def blocked(self, peer: Peer, message: Blocked, parts: Sequence[memoryview]) -> None:
        record = self._workers.records.get(peer.identity.process)
        if record is None or not record.lease:
            return
        if message.blocked:
            self.grant(self.tables.lend(record.lease))
        else:
            self.tables.take_back(record.lease)
            self.returns.begin_slice()
            self._members.load_changed()

    def _release(self, number: int) -> None:
        self.grant(self.tables.release(number))

    def grant(self, granted: list[LeaseRequest]) -> None:
        for request in granted:
            future = self._grants.get(request.number)
            if future is not None and not future.done():
                future.set_result(True)
            else:
                self._release(request.number)
        self._members.load_changed()
        if self.changed is not None:
            self.changed.set()

    def worker_ended(self, record: WorkerRecord) -> None:
        """Free the leases that a worker worked for, several when it is shared, and everything that it held itself."""
        for number in [number for number, each in self._workers_of.items() if each is record]:
            del self._workers_of[number]
            self._release(number)
        self.owner_gone(record.process)

    def owner_gone(self, process: ProcessId) -> None:
        """Forget what a process waits for. Its workers may still run code for it: they end once that has cleaned up;
        then what it held is free."""
        self.guests.process_ended(process)
        self._redirects.owner_gone(process)
        shared = self._shared.pop(process, None)
        if shared is not None:
            shared.add_done_callback(partial(_end_shared, self._workers))  # also when it is still starting
        forgotten, granted = self.tables.owner_lost(process)
        for number in forgotten:
            if (future := self._grants.get(number)) is not None and not future.done():
                future.set_result(False)  # its node, if it is another one, waits for the answer
        self.grant(granted)
        for number in self.tables.held_by(process):
            record = self._workers_of.get(number)
            if record is None:
                if number not in self._retiring.leases:
                    self._release(number)  # its worker only starts
            elif record.lease == number and record.use != "ending":
                self._workers.spawn(self._workers.end_orphan(record, "the process that leased it is gone"))
                record.use = "ending"

    def node_lost(self, node: ProcessId) -> list[ProcessId]:
        """Another node is gone with all its processes. Returns the workers there that were leased from here."""
        for process in self.guests.node_lost(node):
            self.owner_gone(process)
        return self._redirects.node_lost(node)

    def evict(
        self, waiting: Iterable[int], held: Iterable[int], error: ActorliteError, *, removed: bool
    ) -> list[WorkerRecord]:
        """A bundle goes, or the node: requests fail, and what runs there is killed. Returns the workers that will end.
        `removed`: its group is gone, and with it the actors that were in it."""
        for number in waiting:
            granted = self.tables.withdraw(number)
            if granted is not None:
                if (future := self._grants.get(number)) is not None and not future.done():
                    future.set_exception(error)
                self.grant(granted)
        records = []
        for number in held:
            if (record := self._workers_of.get(number)) is not None:
                record.evicted = removed
                self._workers.kill(record, str(error))
            elif (record := self._retiring.leases.get(number)) is not None:
                self._workers.spawn(self._workers.end_orphan(record, str(error)))
            if record is not None:
                records.append(record)
        return records

    def __repr__(self) -> str:
        return f"<LeaseDesk {self.table!r} workers={len(self._workers_of)}>"


def _better(
    members: Members,
    wish: Wish,
    node: ProcessId,
    fits: Callable[[], bool],
    waits: Callable[[], bool] | None,
    comes_home: bool,
) -> bool:
    """Whether a request that waits on a node had better go elsewhere. What has its lease here only waits for a worker;
    of another node that is not known. `comes_home`: it went there only because not all that is free here is of use to
    it; that may be so there, too."""
    if waits is not None and not waits():
        return False
    here, fits_now = members.here(), fits()
    members.index.put(here.as_known(wish.needs, fits_now))
    if comes_home and fits_now and node != here.node and wish.affinity is None and not here.draining:
        return here.takes(wish.needs, now=False) and any(each.matches(here.labels) for each in wish.selectors)
    return members.index.has_room(wish, node)


def _refuse(body: LeaseWorker, here: ProcessId) -> None:
    """Raises unless it is for light actors of a process that is here. Their creator does without a node's leave."""
    if body.purpose != "shared":
        refusal = leaving(here)
        raise BundleMoved(str(refusal)) if body.place is not None and body.place.group else refusal


def leaving(node: ProcessId) -> NodeDraining:
    return NodeDraining(f"node {node} is being drained: it takes nothing new")


def _end_shared(workers: WorkerPool, task: asyncio.Task[WorkerRecord]) -> None:
    if not task.cancelled() and task.exception() is None:
        workers.spawn(workers.end_orphan(task.result(), "the process that created its actors is gone"))


@lru_cache(maxsize=1000)
def wish_for(place: Place | None, needs: ResourceSet) -> Wish:
    if place is None:
        return Wish(needs)
    selectors = tuple([LabelSelector.parse("label_selector", dict(each)) for each in place.selectors])
    affinity = Affinity(place.node, place.soft) if place.node else None
    return Wish(needs, selectors or (ANY_LABELS,), place.spread, affinity)


def _too_much(members: Members, body: LeaseWorker, needs: ResourceSet) -> str:
    if body.place is not None and (body.place.node or body.place.selectors):
        short = members.index.shortfall(wish_for(body.place, needs))
        return (
            f"{body.label or 'this'} needs {needs} and no node that it may run on has that: {short}; change "
            "scheduling_strategy= or label_selector=, ask for less, or start such a node"
        )
    views = [members.here(), *(members.views.values() if body.job is None else ())]
    if any(view.draining for view in views):
        short = members.index.shortfall(wish_for(body.place, needs))
        return f"{body.label or 'this'} needs {needs} and no node has that for it: {short}; start another node"
    return infeasible(body.label, needs, [(view.node, view.total) for view in views])
