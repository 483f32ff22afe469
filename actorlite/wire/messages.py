"""Every message as a typed frozen struct, in one tagged union with one decoder.

A message is a list of buffers. The first is one of these structs; the rest are the payload's buffers. A payload (an
encoded user value) whose in-band bytes are small travels inside the struct; otherwise the first extra part holds them.

Tags are part of the protocol: never reuse one. `PROTOCOL_VERSION` changes when the meaning of a message changes.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from actorlite.ids import ActorId, ObjectId, ProcessId
from actorlite.wire.control import (
    ClaimName,
    CreateDetached,
    FindName,
    ListNames,
    NameHolder,
    Names,
    ReleaseName,
)
from actorlite.wire.groups import (
    AwaitGroup,
    BundlesDone,
    CommitBundles,
    CreateGroup,
    DescribeGroups,
    GroupInfo,
    Groups,
    InGroup,
    Place,
    PrepareBundles,
    RemoveGroup,
    ReturnBundles,
)
from actorlite.wire.nodes import (
    Capacity,
    Chunk,
    HasObject,
    JobInfo,
    JoinNode,
    KnownNodes,
    NodeLoad,
    ProcessEnded,
    SendChunk,
)
from actorlite.wire.objects import (
    AbandonObject,
    AttachStore,
    ClaimObjects,
    CloseObjects,
    CreateObject,
    Explained,
    ExplainObjects,
    FreeObjects,
    HandOverObjects,
    Heirs,
    Leased,
    LeaseRoom,
    ListObjects,
    Objects,
    OpenObject,
    PinsWanted,
    Placed,
    PlaceObjects,
    ReaderLost,
    SealObjects,
    StoreInfo,
)

PROTOCOL_VERSION = 1

ONE_CPU = 10_000
"""CPU is counted in units of 1/10 000."""

INLINE_PAYLOAD_BYTES = 16 * 1024
"""In-band payload bytes up to this size travel inside the struct: one part is cheaper than two until about here."""


class _Message(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    pass


# --- handshake ----------------------------------------------------------------------------------------------


class Identity(_Message, frozen=True):
    """Who a process is; sent by both sides and covered by both proofs."""

    process: ProcessId
    role: str
    """`"driver"`, `"worker"` or `"node"`."""
    address: str
    """Where the process accepts connections; empty when it does not."""
    pid: int
    python: str
    """Minor version, `"3.12"`: code goes by value, so it must be equal."""
    node: ProcessId = ProcessId("")
    """The node that the process belongs to; empty in a node, and until it is known."""


class Hello(_Message, tag=1, frozen=True):
    """The connecting side's first message."""

    version: int
    identity: Identity
    nonce: bytes


class Challenge(_Message, tag=2, frozen=True):
    identity: Identity
    nonce: bytes
    proof: bytes


class Proof(_Message, tag=3, frozen=True):
    proof: bytes


class Welcome(_Message, tag=4, frozen=True):
    pass


class Refused(_Message, tag=5, frozen=True):
    """The handshake failed; `kind` is `"version"` or `"authentication"`."""

    kind: str
    text: str


# --- payloads and envelopes -----------------------------------------------------------------------------------


ACTOR_MARK = "@"
"""Before the id of an actor where the ids of objects may stand too: both are held by those who received them."""


class Payload(_Message, frozen=True):
    """An encoded user value. `parts` counts the message parts that belong to it, after those of earlier payloads."""

    kind: int
    data: bytes
    parts: int = 0
    refs: tuple[tuple[ObjectId, str], ...] = ()
    """The references contained in the value and their owners' addresses: visible without unpickling. Actors whose
    handles are contained are listed too, their ids behind `ACTOR_MARK`."""


class Hop(_Message, frozen=True):
    """One call of a chain of structured calls."""

    target: str
    """The actor; empty for a task."""
    call: ObjectId
    name: str = ""
    """`Counter.incr`, or the task's name: for people."""


class Envelope(_Message, frozen=True):
    """What goes with a call when it is there; most calls have none."""

    attempt: int = 0
    budget_s: float | None = None
    """What is left of the caller's deadline; a duration, since clocks differ."""
    parent: ObjectId | None = None
    chain: tuple[Hop, ...] = ()
    """The structured calls that wait for this one, outermost first; at most `MAX_CHAIN`."""
    structured: bool = False
    trace: str = ""
    """W3C `traceparent`."""
    name: str = ""
    num_returns: int = 1
    units: int = ONE_CPU
    """The CPU that a task's lease holds for it."""
    variables: tuple[tuple[str, bytes], ...] = ()
    """Context variables that travel: names and pickled values."""
    window: int = 0
    """Above 0: the answer is a stream, of which so many items may be under way or not yet taken."""
    window_bytes: int = 0
    """Bytes of such items from which on the producer waits; 0 is without a bound."""
    group: str = ""
    """The concurrency group; empty for the default one."""
    readonly: bool = False
    execution: int = 0
    """From 1 for a call that is sent again when its fate is unknown: the same call and execution never runs twice in
    one life of its actor."""
    more: tuple[tuple[str, int], ...] = ()
    """What else a task's lease holds for it: names and units."""
    inside: InGroup | None = None
    """The placement group that it runs in."""


MAX_CHAIN = 64


class Slot(_Message, frozen=True):
    """A top-level argument given as a reference: its value (`payload`), or where to fetch it (`ref`). Both when the
    value lies in the store of the sender's node: if it is lost, its owner knows more."""

    position: int | str
    """Index of a positional argument, or name of a keyword argument."""
    payload: Payload | None = None
    ref: tuple[ObjectId, str] | None = None


class Define(_Message, tag=10, frozen=True):
    """Code by content: precedes its first use on a connection. The code is in the payload."""

    digest: bytes
    name: str
    payload: Payload


class TaskCall(_Message, tag=11, frozen=True):
    """Run the function `code`."""

    id: int
    code: bytes
    args: Payload
    envelope: Envelope | None = None
    slots: tuple[Slot, ...] = ()


class ActorCall(_Message, tag=12, frozen=True):
    """Call `method` of the actor `target`."""

    id: int
    target: ActorId
    method: str
    args: Payload
    envelope: Envelope | None = None
    slots: tuple[Slot, ...] = ()


class Conduct(_Message, frozen=True):
    """How an actor takes calls, where that is not the plain way."""

    groups: tuple[tuple[str, int], ...] = ()
    """Concurrency groups beside the default one, with their limits."""
    reentrant: bool = False
    readonly: bool = False
    """Whether the class has methods that only read."""
    limits: tuple[int, int, int, str] | None = None
    """What travels with its handles: `max_pending_calls`, and calls, bytes and policy of the mailbox."""


class CreateActor(_Message, tag=13, frozen=True):
    """Make the actor `target` from the class `code`; answered by `Reply` when `on_start` is through."""

    id: int
    target: ActorId
    code: bytes
    args: Payload
    max_concurrency: int = 1
    shared: bool = False
    name: str = ""
    slots: tuple[Slot, ...] = ()
    units: int = 0
    """The CPU that the actor holds while it lives."""
    conduct: Conduct | None = None
    restarts: int = 0
    """How often it was made before."""
    stop_timeout_s: float = 30.0
    """How long `on_stop` may take at a graceful end."""
    more: tuple[tuple[str, int], ...] = ()
    """What else it holds."""
    inside: InGroup | None = None
    """The placement group that it lives in."""


class EndActor(_Message, tag=17, frozen=True):
    """End the actor `target` once the calls that came before are done; answered by `Exists` when it is gone."""

    id: int
    target: ActorId


class Reply(_Message, tag=20, frozen=True):
    """The result of call `id`."""

    id: int
    value: Payload


class Replies(_Message, tag=21, frozen=True):
    """The results of a call with `num_returns` above 1."""

    id: int
    values: tuple[Payload, ...]


class Failed(_Message, tag=22, frozen=True):
    """User code raised; `failure` is made by `wire.failures`."""

    id: int
    failure: bytes


class Rejected(_Message, tag=23, frozen=True):
    """The call did not run, or (`INTERRUPTED`) not to its end. `reason` is a member of `REJECTIONS`."""

    id: int
    reason: str
    text: str = ""


HANDED_BACK = "handed back"
"""The task was queued behind one that takes long: its owner may place it elsewhere."""
NO_SUCH_ACTOR = "no such actor"
ACTOR_DIED = "actor died"
CANCELLED = "cancelled"
EXPIRED = "expired"
"""Its budget was spent while it waited."""
BAD_REQUEST = "bad request"
STOPPED = "stopped"
"""The exception: it was cancelled while it ran, so it has run in part."""
STREAM_ENDED = "stream ended"
"""The answer to `StreamNext` after the last item."""
MAILBOX_FULL = "mailbox full"
"""And that is an error."""
HELD = "held"
"""The mailbox is full: the caller keeps the call and those behind it, says `CallerWaits`, and gets `Room`."""
CYCLE = "cycle"
SHED = "shed"
LOST_ARGUMENT = "lost argument"
"""A value that was to be opened in the store is not there any more."""
INTERRUPTED = "interrupted"
"""Another: the actor ended under the call, while its worker lives on."""
REJECTIONS = frozenset(
    {HANDED_BACK, NO_SUCH_ACTOR, ACTOR_DIED, CANCELLED, EXPIRED, BAD_REQUEST, STOPPED, INTERRUPTED}
    | {STREAM_ENDED, MAILBOX_FULL, HELD, CYCLE, SHED, LOST_ARGUMENT}
)


class Cancel(_Message, tag=24, frozen=True):
    """Stop call `id`. Answered by the call's own reply; one that is not known has been answered."""

    id: int
    force: bool = False
    """End the worker process if nothing else stops a running task."""
    recursive: bool = True
    """Stop also what the call itself submitted and what has not ended yet."""


class StreamItem(_Message, tag=25, frozen=True):
    """One item of the streamed answer to call `id`; `index` counts from 0. The stream ends with `Reply` or `Failed`."""

    id: int
    index: int
    value: Payload
    hold: int = 0
    """Negative: what the sender holds the references in the value under, until it hears `Taken` of it."""


class Credit(_Message, tag=26, frozen=True):
    """The receiver of stream `id` has taken `items`, of `size` bytes, and has room for as much again."""

    id: int
    items: int
    size: int = 0


class Taken(_Message, tag=27, frozen=True):
    """The references contained in the reply to `id` are registered with their owners: the sender may let them go.

    A negative `id` is the `hold` of a stream's item.
    """

    id: int


class CallerWaits(_Message, tag=50, frozen=True):
    """The sender keeps calls for the actor until it is given `Room` (`more`), or goes on as if nothing had been.

    No call that was sent before this is still on its way, so none can overtake those that are sent again.
    """

    target: ActorId
    more: bool


class Room(_Message, tag=51, frozen=True):
    """The mailbox of `target` has places for so many calls of the receiver. Answered by `CallerWaits` behind them."""

    target: ActorId
    calls: int
    bytes: int


# --- references -----------------------------------------------------------------------------------------------


class Borrow(_Message, tag=30, frozen=True):
    """The sender holds the object (or actor), which the receiver owns. Idempotent; acknowledged by `Exists`."""

    id: int
    object: ObjectId


class Release(_Message, tag=31, frozen=True):
    """The sender no longer holds the object."""

    object: ObjectId


class ActorEnded(_Message, tag=37, frozen=True):
    """To its creator: the actor ends by its own wish. A second one, with `gone`, when nothing of it is left."""

    target: ActorId
    text: str
    gone: bool = False


class Fetch(_Message, tag=32, frozen=True):
    """Answer with the object's value once it exists; without `value`, say only that it does (`Exists`)."""

    id: int
    object: ObjectId
    value: bool
    lost: str = ""
    """The key of a stored value that was the answer, and is not in the store: have it made again."""


class Exists(_Message, tag=33, frozen=True):
    """The object of fetch `id` is ready; its value stays with the owner."""

    id: int


class HandOver(_Message, tag=38, frozen=True):
    """The sender, which ends, gives an object to the receiver, which holds it: its value, or the error that it failed
    with; neither if it does not exist yet. Answered by `Exists` when the receiver has registered with the owners of
    what is in the value."""

    id: int
    object: ObjectId
    value: Payload | None = None
    failure: bytes = b""


class StreamNext(_Message, tag=34, frozen=True):
    """Answer with the next item of a stream that the receiver owns, once it is there: `Reply` with the value, `Failed`
    for the error that it ends with, `Rejected` after the last one."""

    id: int
    stream: ObjectId
    reader: int
    """Tells the readers of one process apart: a stream is read in one place."""


class StreamClose(_Message, tag=35, frozen=True):
    """The sender reads no more of a stream that the receiver owns: its producer is closed."""

    stream: ObjectId
    cancel: bool = False
    """Cancel the producer only, as `al.cancel` does: the reader hears of it."""


# --- requests between daemon, drivers and workers ---------------------------------------------------------------


class Request(_Message, tag=40, frozen=True):
    id: int
    body: RequestBody


class Response(_Message, tag=41, frozen=True):
    id: int
    body: ResponseBody | None = None
    error: str = ""
    error_kind: str = ""


class CancelRequest(_Message, tag=43, frozen=True):
    """The sender of a request does not want its answer any more; one comes all the same."""

    id: int


class Ending(_Message, tag=42, frozen=True):
    """The node says goodbye to everybody, and why: the last message on the connection."""

    reason: str


class RegisterDriver(_Message, tag=100, frozen=True):
    job: str
    namespace: str
    sys_path: tuple[str, ...]
    cwd: str
    keeper: bool = False
    """Whether it is the node itself, for actors that are detached."""


class RegisterWorker(_Message, tag=101, frozen=True):
    pass


class LeaseWorker(_Message, tag=102, frozen=True):
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


class ReturnLease(_Message, tag=103, frozen=True):
    """`reuse` is False for a worker whose state is not clean; it is ended: at once, or (`retire`) as soon as nobody
    holds what it owns."""

    lease: int
    reuse: bool = True
    retire: bool = False


class WithdrawLeases(_Message, tag=104, frozen=True):
    """The sender no longer needs these requests: those that were not granted yet are answered with nothing."""

    tickets: tuple[int, ...]


class Reclaim(_Message, tag=105, frozen=True):
    """Somebody waits for room: leases without work should come back now. With `leases`: those, when what runs there has
    ended."""

    leases: tuple[int, ...] = ()


class Blocked(_Message, tag=106, frozen=True):
    """The worker's task waits for others (`blocked`), or goes on: its CPU is free meanwhile."""

    blocked: bool


class KillWorker(_Message, tag=107, frozen=True):
    process: ProcessId
    here: bool = False
    """Whether only the receiver's own workers are meant, not those of other nodes."""


class WhyDied(_Message, tag=108, frozen=True):
    """How did that process end? Answered when it has ended, or after a short wait."""

    process: ProcessId
    here: bool = False
    """Whether only the receiver is asked, and not other nodes: answered by `Yes(False)` when it knows nothing."""


class NodeStatus(_Message, tag=109, frozen=True):
    pass


class StopNode(_Message, tag=110, frozen=True):
    pass


class Retire(_Message, tag=111, frozen=True):
    """May this idle worker end? No when it owns objects that others hold."""

    orphaned: bool = False
    """Whether who leased it is gone: its tasks are cancelled, and the answer comes after their end."""


class StopActor(_Message, tag=112, frozen=True):
    """Run `on_stop` and forget the actor; queued calls fail. `graceful` False skips `on_stop`."""

    target: ActorId
    graceful: bool
    restarts: bool = False
    """Whether it will be made anew elsewhere."""


class ResolveActor(_Message, tag=113, frozen=True):
    """Where does this actor, which the receiver created, live? Answered when it lives somewhere or is dead; without
    `wait`, at once."""

    target: ActorId
    wait: bool = True
    dead: ProcessId | None = None
    """A worker that the sender knows to be gone: the receiver may not have heard of it yet."""
    ready: bool = False
    """Wait also until its constructor and `on_start` have run."""


class KillActor(_Message, tag=114, frozen=True):
    """Asks the actor's creator to end it: at once, or (`graceful`) after the calls that came before."""

    target: ActorId
    graceful: bool = False
    no_restart: bool = True


class CancelWork(_Message, tag=115, frozen=True):
    """Asks the owner of an object to cancel the work that makes it."""

    object: ObjectId
    force: bool
    recursive: bool


class NodeInfo(_Message, tag=120, frozen=True):
    pid: int
    cpu_units: int
    """Of all nodes of the cluster."""
    session_directory: str
    nodes: int = 1
    more: tuple[tuple[str, int], ...] = ()
    """Of all nodes, beside CPU."""


class Lease(_Message, tag=121, frozen=True):
    lease: int
    process: ProcessId
    address: str
    pid: int


class Death(_Message, tag=122, frozen=True):
    """`known` False: the process still runs, as far as its node knows."""

    known: bool
    text: str
    pid: int = 0
    evicted: bool = False
    """Whether its node ended it because the placement group that it worked in was removed."""


class Status(_Message, tag=123, frozen=True):
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
    """What waits here, by what it needs, and how many."""
    holders: tuple[tuple[str, tuple[tuple[str, int], ...], int], ...] = ()
    """For whom something is held here, of each how much, and how many."""
    max_workers: int = 0
    """0: without limit."""
    infeasible: tuple[tuple[tuple[tuple[str, int], ...], int], ...] = ()
    """As `demand`, of what waits for other nodes to come."""
    places: tuple[tuple[int, str], ...] = ()
    """Of each of `nodes`: its pid and address."""
    leader: ProcessId = ProcessId("")
    """The node that control is on."""
    groups: tuple[GroupInfo, ...] = ()
    """Detached placement groups. Of the node that leads the cluster."""


class Yes(_Message, tag=124, frozen=True):
    value: bool


class ActorPlace(_Message, tag=125, frozen=True):
    """`address` of the hosting worker; empty with `error` when the actor is dead."""

    process: ProcessId
    address: str
    pid: int
    error: str = ""
    init_failed: bool = False
    state: str = ""
    cause: str = ""
    restarts: int = 0


RequestBody = (
    RegisterDriver
    | RegisterWorker
    | LeaseWorker
    | ReturnLease
    | KillWorker
    | WhyDied
    | NodeStatus
    | StopNode
    | Retire
    | StopActor
    | ResolveActor
    | KillActor
    | CancelWork
    | AttachStore
    | CreateObject
    | OpenObject
    | ListObjects
    | ExplainObjects
    | JoinNode
    | HasObject
    | HandOverObjects
    | LeaseRoom
    | ClaimName
    | ReleaseName
    | FindName
    | ListNames
    | CreateDetached
    | CreateGroup
    | AwaitGroup
    | RemoveGroup
    | DescribeGroups
    | PrepareBundles
    | CommitBundles
    | ReturnBundles
)
ResponseBody = (
    NodeInfo
    | Lease
    | Death
    | Status
    | Yes
    | ActorPlace
    | StoreInfo
    | Placed
    | Objects
    | Explained
    | KnownNodes
    | Heirs
    | Leased
    | NameHolder
    | Names
    | GroupInfo
    | Groups
    | BundlesDone
)
HandshakeMessage = Hello | Challenge | Proof | Welcome | Refused
Message = (
    Hello
    | Challenge
    | Proof
    | Welcome
    | Refused
    | Define
    | TaskCall
    | ActorCall
    | CreateActor
    | EndActor
    | Reply
    | Replies
    | Failed
    | Rejected
    | Cancel
    | StreamItem
    | Credit
    | Taken
    | CallerWaits
    | Room
    | Borrow
    | Release
    | ActorEnded
    | Fetch
    | HandOver
    | Exists
    | StreamNext
    | StreamClose
    | Request
    | Response
    | CancelRequest
    | WithdrawLeases
    | Reclaim
    | Blocked
    | Ending
    | SealObjects
    | AbandonObject
    | ClaimObjects
    | FreeObjects
    | CloseObjects
    | ReaderLost
    | PinsWanted
    | NodeLoad
    | ProcessEnded
    | SendChunk
    | Chunk
    | Capacity
    | PlaceObjects
)

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode
decode_handshake = msgspec.msgpack.Decoder(HandshakeMessage).decode
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoders raise for bytes that are no message, broken text and bottomless nesting included."""
