"""The node: leases of its resources, its worker processes, and the word on how they died. Nothing of it is on the path
of a call.

The same object is the inside of a daemon process and of an in-process session; what differs (the spawner, the
addresses) is given to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Protocol

from msgspec import Struct, field

from actorlite.errors import ConnectionLost, NodeDraining
from actorlite.host import Entropy, Spawner
from actorlite.ids import ActorId, ProcessId
from actorlite.labels import own_labels
from actorlite.loading import load
from actorlite.node.deaths import Deaths
from actorlite.node.demands import Demands
from actorlite.node.desk import LeaseDesk, Means
from actorlite.node.draining import Draining
from actorlite.node.groups import GroupDesk, detached_among
from actorlite.node.idle import Limits
from actorlite.node.kept import KeptGroups, Shelf
from actorlite.node.members import Members, capacity_of, load_of
from actorlite.node.records import Job, WorkerRecord
from actorlite.node.storefront import Storefront, StoreOptions
from actorlite.node.workers import Place, WorkerPool
from actorlite.resources import CPU, NOTHING, UNITS_PER_ONE, ResourceSet
from actorlite.rpc.handshake import PYTHON
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.state.leases import LeaseTable
from actorlite.state.scheduling import NodeView
from actorlite.transport import Address, Transport
from actorlite.wire.groups import DescribeGroups
from actorlite.wire.messages import Ending, Identity, encode
from actorlite.wire.nodes import Capacity, ProcessEnded
from actorlite.wire.objects import HandOverObjects, Heirs
from actorlite.wire.requests import (
    Blocked,
    KillWorker,
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
)

logger = logging.getLogger("actorlite.node")

DYING_S = 0.5


class NodeOptions(Struct, frozen=True):
    process: ProcessId
    token: bytes
    total: ResourceSet
    worker_address: Callable[[ProcessId], Address]
    pid: int
    store: StoreOptions
    loop: str = "uvloop"
    session_directory: str = ""
    prestart: int = 0
    """Workers to start ahead for each new job."""
    gpus: tuple[str, ...] = ()
    """The devices, as `CUDA_VISIBLE_DEVICES` names them."""
    labels: Mapping[str, str] = field(default_factory=dict)
    max_workers: int | None = None
    """Worker processes at a time; None is without limit."""
    idle_workers: int | None = None
    """So many may stay idle; None is one for each CPU."""
    idle_bytes: int | None = None
    """Memory that idle workers may have together; None is without limit."""
    sets_threads: bool = False
    """Whether workers are told how many threads libraries may use, which makes those for several CPUs others."""
    state_path: str = ""
    """The file of control's state; without one that ends with the node."""
    control: str = "actorlite.control.service:Control"
    """What makes the node's part in control: named, because node and control do not know each other."""
    transports: Callable[[Address], Transport] | None = None
    """What connections are made by; None is the usual."""


class ControlSeat(Struct, frozen=True):
    """What control is given of the node."""

    node: Address
    token: bytes
    entropy: Entropy
    pid: int
    listen: Callable[[ProcessId], Address]
    state_path: str
    transports: Callable[[Address], Transport] | None = None


class ControlPart(Protocol):
    """Names, detached actors and the like, as their node knows them."""

    @property
    def listed(self) -> tuple[tuple[ActorId, str, str, str], ...]: ...

    @property
    def not_restored(self) -> tuple[str, ...]: ...

    @property
    def persistence(self) -> Shelf: ...

    async def start(self) -> None: ...

    def resume(self, groups: Container[str]) -> None: ...

    def process_ended(self, process: ProcessId, node: ProcessId) -> None: ...

    def node_lost(self, node: ProcessId) -> None: ...

    async def aclose(self, *, keep: bool) -> None: ...


class Node:
    def __init__(
        self, options: NodeOptions, spawner: Spawner, entropy: Entropy, on_stop: Callable[[str], None]
    ) -> None:
        self.options = options
        self.table = LeaseTable(options.total)
        self._labels = {**options.labels, **own_labels(options.process, options.total.accelerator_types)}
        self._spawner = spawner
        self._entropy = entropy
        self._on_stop = on_stop
        self._jobs: dict[ProcessId, Job] = {}
        self._said_capacity = Capacity(options.total.cpus, 1, options.total.more)
        self._handlers = Handlers()
        identity = Identity(options.process, "node", "", options.pid, PYTHON)
        self.hub = Hub(
            identity,
            options.token,
            entropy,
            self._handlers,
            on_peer_lost=self._peer_lost,
            transports=options.transports,
        )

    async def start(self, address: Address) -> Address:
        """Listen; returns the bound address."""
        bound = await self.hub.listen(address)
        options = self.options
        place = Place(bound, options.worker_address, options.token, options.loop, options.sets_threads)
        idle = options.idle_workers
        if idle is None:
            idle = max(1, options.total.units_of(CPU) // UNITS_PER_ONE)
        self.members = Members(self.hub, self._handlers, self._view, self._nodes_changed)
        self.control: ControlPart = load(options.control)(
            self.hub, self._handlers, self.members, _seat(options, bound, self._entropy)
        )
        self.store = Storefront(self.hub, self._handlers, options.store, self.members)
        self.workers = WorkerPool(
            place,
            self._spawner,
            self._entropy,
            Limits(idle, options.max_workers, options.idle_bytes),
            self._worker_ended,
            self.hub.numbers,
        )
        self.deaths = Deaths(self.hub, self.workers, self.members)
        means = Means(options.gpus, options.sets_threads)
        self.desk = LeaseDesk(self.table, self.hub, self.workers, self._jobs, self.members, means)
        self.draining = Draining(
            self.hub,
            self._handlers,
            self.members,
            self.desk,
            self.workers,
            self._jobs,
            self._nodes_changed,
            self._on_stop,
        )
        kept = KeptGroups(self.control.persistence)
        self.groups = GroupDesk(self.hub, self._handlers, self.members, self.desk, self._jobs, self._view, kept)
        self.demands = Demands(self.hub, self._handlers, self.members, self.desk, self.groups.coordinator)
        self._handlers.on_messages(
            {
                WithdrawLeases: self.desk.withdraw,
                Blocked: self.desk.blocked,
                Reclaim: self.desk.returns.reclaim,
                ProcessEnded: self._ended_elsewhere,
            }
        )
        self._handlers.on_requests(
            {
                RegisterDriver: self._register_driver,
                RegisterWorker: self._register_worker,
                LeaseWorker: self.desk.lease,
                ReturnLease: self.desk.return_lease,
                KillWorker: self.deaths.kill_worker,
                WhyDied: self.deaths.why_died,
                NodeStatus: self._status,
                StopNode: self._stop_node,
                HandOverObjects: self._hand_over,
            }
        )
        await _find_earlier(self.control, self.groups)
        return bound

    async def aclose(self, reason: str, *, keep: bool = False) -> None:
        """Say goodbye to all who registered, end all workers, close. Completes when cancelled. With `keep` what control
        has written down stays for the next node."""
        try:
            await self.control.aclose(keep=keep)  # while its actors can still end in good order
        finally:
            await self._close(reason)

    async def _close(self, reason: str) -> None:
        for process in self._jobs:  # whoever has not registered does not listen yet
            peer = self.hub.peers.get(process)
            if peer is not None:
                peer.tell(encode(Ending(reason)))
        self.draining.close(reason)
        self.groups.close()
        self.members.close(reason)
        self.desk.returns.close()
        try:
            await self.workers.aclose()
        finally:
            await self.store.aclose()
            await self.hub.aclose()

    # --- registration

    async def _register_driver(self, peer: Peer, body: RegisterDriver) -> NodeInfo:
        if self.desk.leaving:
            raise NodeDraining(
                f"node {self.options.process} is being drained: it takes no new sessions; attach to another one of its "
                "cluster, which `actorlite status` lists"
            )
        job = Job(body.job, body.namespace, body.sys_path, body.cwd)
        self._jobs[peer.identity.process] = job
        if not body.keeper:
            self.workers.ahead.prestart(job, self.options.prestart)
        return self._info()

    async def _register_worker(self, peer: Peer, body: RegisterWorker) -> NodeInfo:
        record = self.workers.registered(peer)
        self._jobs[peer.identity.process] = record.job
        return self._info()

    def _info(self) -> NodeInfo:
        capacity = capacity_of((self._view(), *self.members.views.values()))
        directory = self.options.session_directory
        return NodeInfo(self.options.pid, capacity.cpu_units, directory, capacity.nodes, capacity.more)

    # --- other nodes

    async def join(self, address: Address) -> None:
        """Become a node of the cluster that the node at `address` belongs to."""
        await self.members.join(address)

    def _view(self) -> NodeView:
        table, options = self.table, self.options
        kept, counted = table.turns.kept(), table.turns.lasting
        lasting = ResourceSet(counted) if any(counted.values()) else NOTHING
        free = table.free_now().less(kept)
        if table.turns.pledged:
            kept = table.turns.for_groups().less(free)
        leaving, waited, devices = self.desk.leaving, table.turns.waited(), tuple(table.devices.free)
        return NodeView(options.process, options.total, free, self._labels, kept, lasting, leaving, waited, devices)

    def _nodes_changed(self) -> None:
        self.desk.hopes.nodes_changed()
        capacity = capacity_of((self._view(), *self.members.views.values()))
        if capacity != self._said_capacity:
            self._said_capacity = capacity
            for process in self._jobs:
                if (peer := self.hub.peers.get(process)) is not None:
                    peer.tell(encode(capacity))

    def _ended_elsewhere(self, peer: Peer, message: ProcessEnded, parts: Sequence[memoryview]) -> None:
        node, process = peer.identity.process, message.process
        if process in self.members.views or not self.desk.guests.may_say(peer, process, message.job):
            logger.warning("%r says that process %s has ended, which is not its own: nothing is done", peer, process)
            return
        self.members.process_ended(process, node)
        self.control.process_ended(process, node)
        self.store.process_lost(process)
        self.desk.owner_gone(process)
        if message.job:
            self.desk.guests.job_ended(message.job)
            self.groups.job_ended(message.job)

    def _node_lost(self, node: ProcessId) -> None:
        self.store.node_lost(node)
        self.control.node_lost(node)
        self.groups.node_lost(node)
        for worker in self.desk.node_lost(node):
            self.deaths.depart(worker, self.members.lost[node])

    # --- ends

    def _worker_ended(self, record: WorkerRecord, text: str) -> None:
        self._jobs.pop(record.process, None)
        self.members.tell(ProcessEnded(record.process))
        self.control.process_ended(record.process, self.options.process)
        self.desk.worker_ended(record)
        logger.info("%s", text)

    def _peer_lost(self, peer: Peer, error: ConnectionLost | None) -> None:
        process = peer.identity.process
        if process in self.hub.peers:
            return  # it has another connection
        self.desk.hopes.peer_lost(peer)
        if self.members.peer_lost(peer):
            self._node_lost(process)
            return
        self.store.process_lost(process)
        self.control.process_ended(process, self.options.process)
        if peer.identity.role == "driver":
            job = self._jobs.pop(process, None)
            self.deaths.depart(process, f"the driver pid {peer.identity.pid} ended or closed its session")
            self.members.tell(ProcessEnded(process, job.name if job is not None else ""))
            self.desk.owner_gone(process)
            if job is not None:
                self.groups.job_ended(job.name)
                self.workers.end_job(job, shared=any(each is not job for each in self._jobs.values()))
        elif (record := self.workers.records.get(process)) is not None:
            self.workers.spawn(self._end_disconnected(record))

    async def _hand_over(self, peer: Peer, body: HandOverObjects) -> Heirs:
        """Handler: of those who hold what the sender owns, who will live on, and own it, too?"""
        own = self._jobs.get(peer.identity.process) if peer.identity.role == "driver" else None
        heirs = tuple([each for each in body.processes if self._lives_on(each, own)])
        self.store.inherit(body.objects, heirs)
        return Heirs(heirs)

    def _lives_on(self, process: ProcessId, ending: Job | None) -> bool:
        job, record = self._jobs.get(process), self.workers.records.get(process)
        if job is None or job is ending or job.is_over or process not in self.hub.peers:
            return False
        return record is None or record.use != "ending"

    async def _end_disconnected(self, record: WorkerRecord) -> None:
        """A worker without its node is of no use. Usually it is dying, and how is worth knowing: give it a moment."""
        try:
            async with asyncio.timeout(DYING_S):
                await record.ended.wait()
        except TimeoutError:
            self.workers.kill(record, "its connection to the node was lost")

    # --- from the command line

    async def _status(self, peer: Peer, body: NodeStatus) -> Status:
        table = self.table
        demand, silent = await self.demands.everywhere() if body.cluster else (self.demands.here(), ())
        return Status(
            self.options.pid,
            self.hub.identity.address,
            table.total.units_of(CPU),
            table.free.get(CPU, 0),
            tuple((each.process, each.pid, each.use) for each in self.workers.records.values()),
            tuple({job.name for job in self._jobs.values()}),
            len(table.waiting),
            self.control.listed,
            (*self.groups.kept.not_restored, *self.control.not_restored),
            tuple((view.node, load_of(view)) for view in (self._view(), *self.members.views.values())),
            demand.shapes,
            tuple(table.holders()),
            self.options.max_workers or 0,
            demand.infeasible,
            (
                (self.options.pid, self.hub.identity.address),
                *[_place_of(self.hub, each) for each in self.members.views],
            ),
            self.members.leader,
            detached_among(self.groups.coordinator.described(DescribeGroups())),
            demand.groups,
            silent,
        )

    async def _stop_node(self, peer: Peer, body: StopNode) -> Yes:
        self._on_stop("it was asked to stop")
        return Yes(True)

    def __repr__(self) -> str:
        return f"<Node pid={self.options.pid} {self.table!r} jobs={len(self._jobs)}>"


async def _find_earlier(control: ControlPart, groups: GroupDesk) -> None:
    """What an earlier node had: its names and groups first, before anybody else can take them."""
    await control.start()
    try:
        await groups.restore()
    except BaseException:
        await control.aclose(keep=True)
        raise


def _seat(options: NodeOptions, bound: Address, entropy: Entropy) -> ControlSeat:
    return ControlSeat(
        bound, options.token, entropy, options.pid, options.worker_address, options.state_path, options.transports
    )


def _place_of(hub: Hub, node: ProcessId) -> tuple[int, Address]:
    peer = hub.peers.get(node)
    return (0, "") if peer is None else (peer.identity.pid, peer.identity.address)
