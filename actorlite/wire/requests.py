"""Requests between the node, drivers and workers, and what answers them; part of the union in `wire.messages`."""

from __future__ import annotations

from msgspec import Struct

from actorlite.ids import ActorId, ObjectId, ProcessId
from actorlite.wire.groups import GroupInfo, Place
from actorlite.wire.nodes import JobInfo, NodeLoad


class _RequestMessage(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    pass


class RegisterDriver(_RequestMessage, tag=100, frozen=True):
    job: str
    namespace: str
    sys_path: tuple[str, ...]
    cwd: str
    keeper: bool = False
    """Whether it is the node itself, for actors that are detached."""


class RegisterWorker(_RequestMessage, tag=101, frozen=True):
    pass


class LeaseWorker(_RequestMessage, tag=102, frozen=True):
    """Ask for a worker: `needs` units of CPU to be placed, `holds` of them kept until the lease is returned."""

    ticket: int
    """Chosen by the sender, for `WithdrawLeases`."""
    needs: int
    holds: int
    purpose: str
    """`"task"`, `"actor"` (the worker is for one actor only) or `"shared"` (the job's worker for light actors)."""
    label: str = ""
    near: ProcessId = ProcessId("")
    """The node that most of the arguments lie on, when that matters."""
    owner: ProcessId = ProcessId("")
    """Whom the lease is for, when its node passes the request on to another node."""
    job: JobInfo | None = None
    """Its job, then."""
    more: tuple[tuple[str, int], ...] = ()
    """What is needed, and held, beside CPU: names and units."""
    waits: bool = False
    """Whether to wait for nodes to come that have as much, when none has."""
    place: Place | None = None
    """What else is asked of its node."""


class ReturnLease(_RequestMessage, tag=103, frozen=True):
    """`reuse` is False for a worker whose state is not clean; it is ended: at once, or (`retire`) as soon as nobody
    holds what it owns."""

    lease: int
    reuse: bool = True
    retire: bool = False


class WithdrawLeases(_RequestMessage, tag=104, frozen=True):
    """The sender no longer needs these requests: those that were not granted yet are answered with nothing."""

    tickets: tuple[int, ...]


class Reclaim(_RequestMessage, tag=105, frozen=True):
    """Somebody waits for room: leases without work should come back now. With `leases`: those, when what runs there has
    ended."""

    leases: tuple[int, ...] = ()
    drained: bool = False
    """Whether their node is about to leave: actors that may be made anew are, elsewhere."""


class Blocked(_RequestMessage, tag=106, frozen=True):
    """The worker's task waits for others (`blocked`), or goes on: its CPU is free meanwhile."""

    blocked: bool


class KillWorker(_RequestMessage, tag=107, frozen=True):
    process: ProcessId
    here: bool = False
    """Whether only the receiver's own workers are meant, not those of other nodes."""


class WhyDied(_RequestMessage, tag=108, frozen=True):
    """How did that process end? Answered when it has ended, or after a short wait."""

    process: ProcessId
    here: bool = False
    """Whether only the receiver is asked, and not other nodes: answered by `Yes(False)` when it knows nothing."""


class NodeStatus(_RequestMessage, tag=109, frozen=True):
    cluster: bool = False
    """Whether the receiver asks other nodes what waits there."""


class TellDemand(_RequestMessage, tag=144, frozen=True):
    """Node to node: what waits at the receiver. Answered by `Demand`."""


class StopNode(_RequestMessage, tag=110, frozen=True):
    pass


class Retire(_RequestMessage, tag=111, frozen=True):
    """May this idle worker end? No when it owns objects that others hold."""

    orphaned: bool = False
    """Whether who leased it is gone: its tasks are cancelled, and the answer comes after their end."""


class StopActor(_RequestMessage, tag=112, frozen=True):
    """Run `on_stop` and forget the actor; queued calls fail. `graceful` False skips `on_stop`."""

    target: ActorId
    graceful: bool
    restarts: bool = False
    """Whether it will be made anew elsewhere."""


class ResolveActor(_RequestMessage, tag=113, frozen=True):
    """Where does this actor, which the receiver created, live? Answered when it lives somewhere or is dead; without
    `wait`, at once."""

    target: ActorId
    wait: bool = True
    dead: ProcessId | None = None
    """A worker that the sender knows to be gone: the receiver may not have heard of it yet."""
    ready: bool = False
    """Wait also until its constructor and `on_start` have run."""


class KillActor(_RequestMessage, tag=114, frozen=True):
    """Asks the actor's creator to end it: at once, or (`graceful`) after the calls that came before."""

    target: ActorId
    graceful: bool = False
    no_restart: bool = True


class CancelWork(_RequestMessage, tag=115, frozen=True):
    """Asks the owner of an object to cancel the work that makes it."""

    object: ObjectId
    force: bool
    recursive: bool


class NodeInfo(_RequestMessage, tag=120, frozen=True):
    pid: int
    cpu_units: int
    """Of all nodes of the cluster."""
    session_directory: str
    nodes: int = 1
    more: tuple[tuple[str, int], ...] = ()
    """Of all nodes, beside CPU."""


class Lease(_RequestMessage, tag=121, frozen=True):
    lease: int
    process: ProcessId
    address: str
    pid: int


class Death(_RequestMessage, tag=122, frozen=True):
    """`known` False: the process still runs, as far as its node knows."""

    known: bool
    text: str
    pid: int = 0
    evicted: bool = False
    """Whether its node ended it because the placement group that it worked in was removed."""


class Status(_RequestMessage, tag=123, frozen=True):
    pid: int
    address: str
    cpu_units: int
    cpu_units_free: int
    workers: tuple[tuple[ProcessId, int, str], ...]
    """Process, pid, and what it is used for."""
    jobs: tuple[str, ...]
    waiting: int
    detached: tuple[tuple[ActorId, str, str, str], ...] = ()
    """Detached actors: id, namespace, name, state. Of the node that leads the cluster."""
    not_restored: tuple[str, ...] = ()
    """What a node that was started again could not bring back, and why."""
    nodes: tuple[tuple[ProcessId, NodeLoad], ...] = ()
    """All that this one knows, itself first."""
    demand: tuple[tuple[tuple[tuple[str, int], ...], int], ...] = ()
    """What waits here, or anywhere if that was asked for, by what it needs, and how many."""
    holders: tuple[tuple[str, tuple[tuple[str, int], ...], int], ...] = ()
    """For whom something is held here, of each how much, and how many."""
    max_workers: int = 0
    """0: without limit."""
    infeasible: tuple[tuple[tuple[tuple[str, int], ...], int], ...] = ()
    """As `demand`, of what waits for other nodes to come."""
    places: tuple[tuple[int, str], ...] = ()
    """Of each of `nodes`: its pid and address."""
    leader: ProcessId = ProcessId("")
    """The node that control is on; empty when there is none."""
    groups: tuple[GroupInfo, ...] = ()
    """Detached placement groups. Of the node that leads the cluster."""
    pending: tuple[GroupInfo, ...] = ()
    """Placement groups that wait for room, which the node that leads knows."""
    silent: tuple[ProcessId, ...] = ()
    """Nodes that were asked what waits there, and have not answered."""


class Demand(_RequestMessage, tag=147, frozen=True):
    """What waits at a node, by what it needs, and how many."""

    shapes: tuple[tuple[tuple[tuple[str, int], ...], int], ...] = ()
    infeasible: tuple[tuple[tuple[tuple[str, int], ...], int], ...] = ()
    """What waits for other nodes to come."""
    groups: tuple[GroupInfo, ...] = ()
    """Placement groups that wait for room, of a node that leads."""


class Yes(_RequestMessage, tag=124, frozen=True):
    value: bool


class ActorPlace(_RequestMessage, tag=125, frozen=True):
    """`address` of the hosting worker; empty with `error` when the actor is dead."""

    process: ProcessId
    address: str
    pid: int
    error: str = ""
    init_failed: bool = False
    state: str = ""
    cause: str = ""
    restarts: int = 0
