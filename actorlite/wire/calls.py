"""Messages of calls, their streams and references, from process to process; part of the union in `wire.messages`."""

from __future__ import annotations

from msgspec import Struct

from actorlite.ids import ActorId, ObjectId
from actorlite.wire.groups import InGroup

ONE_CPU = 10_000
"""CPU is counted in units of 1/10 000."""

INLINE_PAYLOAD_BYTES = 16 * 1024
"""In-band payload bytes up to this size travel inside the struct: one part is cheaper than two until about here."""


class _CallMessage(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    pass


ACTOR_MARK = "@"
"""Before the id of an actor where the ids of objects may stand too: both are held by those who received them."""


class Payload(_CallMessage, frozen=True):
    """An encoded user value. `parts` counts the message parts that belong to it, after those of earlier payloads."""

    kind: int
    data: bytes
    parts: int = 0
    refs: tuple[tuple[ObjectId, str], ...] = ()
    """The references contained in the value and their owners' addresses: visible without unpickling. Actors whose
    handles are contained are listed too, their ids behind `ACTOR_MARK`."""


class Hop(_CallMessage, frozen=True):
    """One call of a chain of structured calls."""

    target: str
    """The actor; empty for a task."""
    call: ObjectId
    name: str = ""
    """`Counter.incr`, or the task's name: for people."""


class Envelope(_CallMessage, frozen=True):
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


class Slot(_CallMessage, frozen=True):
    """A top-level argument given as a reference: its value (`payload`), or where to fetch it (`ref`). Both when the
    value lies in the store of the sender's node: if it is lost, its owner knows more."""

    position: int | str
    """Index of a positional argument, or name of a keyword argument."""
    payload: Payload | None = None
    ref: tuple[ObjectId, str] | None = None


class Define(_CallMessage, tag=10, frozen=True):
    """Code by content: precedes its first use on a connection. The code is in the payload."""

    digest: bytes
    name: str
    payload: Payload


class TaskCall(_CallMessage, tag=11, frozen=True):
    """Run the function `code`."""

    id: int
    code: bytes
    args: Payload
    envelope: Envelope | None = None
    slots: tuple[Slot, ...] = ()


class ActorCall(_CallMessage, tag=12, frozen=True):
    """Call `method` of the actor `target`."""

    id: int
    target: ActorId
    method: str
    args: Payload
    envelope: Envelope | None = None
    slots: tuple[Slot, ...] = ()


class Conduct(_CallMessage, frozen=True):
    """How an actor takes calls, where that is not the plain way."""

    groups: tuple[tuple[str, int], ...] = ()
    """Concurrency groups beside the default one, with their limits."""
    reentrant: bool = False
    readonly: bool = False
    """Whether the class has methods that only read."""
    limits: tuple[int, int, int, str] | None = None
    """What travels with its handles: `max_pending_calls`, and calls, bytes and policy of the mailbox."""


class CreateActor(_CallMessage, tag=13, frozen=True):
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


class EndActor(_CallMessage, tag=17, frozen=True):
    """End the actor `target` once the calls that came before are done; answered by `Exists` when it is gone."""

    id: int
    target: ActorId


class Reply(_CallMessage, tag=20, frozen=True):
    """The result of call `id`."""

    id: int
    value: Payload


class Replies(_CallMessage, tag=21, frozen=True):
    """The results of a call with `num_returns` above 1."""

    id: int
    values: tuple[Payload, ...]


class Failed(_CallMessage, tag=22, frozen=True):
    """User code raised; `failure` is made by `wire.failures`."""

    id: int
    failure: bytes


class Rejected(_CallMessage, tag=23, frozen=True):
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


class Cancel(_CallMessage, tag=24, frozen=True):
    """Stop call `id`. Answered by the call's own reply; one that is not known has been answered."""

    id: int
    force: bool = False
    """End the worker process if nothing else stops a running task."""
    recursive: bool = True
    """Stop also what the call itself submitted and what has not ended yet."""


class StreamItem(_CallMessage, tag=25, frozen=True):
    """One item of the streamed answer to call `id`; `index` counts from 0. The stream ends with `Reply` or `Failed`."""

    id: int
    index: int
    value: Payload
    hold: int = 0
    """Negative: what the sender holds the references in the value under, until it hears `Taken` of it."""


class Credit(_CallMessage, tag=26, frozen=True):
    """The receiver of stream `id` has taken `items`, of `size` bytes, and has room for as much again."""

    id: int
    items: int
    size: int = 0


class Taken(_CallMessage, tag=27, frozen=True):
    """The references contained in the reply to `id` are registered with their owners: the sender may let them go.

    A negative `id` is the `hold` of a stream's item.
    """

    id: int


class CallerWaits(_CallMessage, tag=50, frozen=True):
    """The sender keeps calls for the actor until it is given `Room` (`more`), or goes on as if nothing had been.

    No call that was sent before this is still on its way, so none can overtake those that are sent again.
    """

    target: ActorId
    more: bool


class Room(_CallMessage, tag=51, frozen=True):
    """The mailbox of `target` has places for so many calls of the receiver. Answered by `CallerWaits` behind them."""

    target: ActorId
    calls: int
    bytes: int


# --- references -----------------------------------------------------------------------------------------------


class Borrow(_CallMessage, tag=30, frozen=True):
    """The sender holds the object (or actor), which the receiver owns. Idempotent; acknowledged by `Exists`."""

    id: int
    object: ObjectId


class Release(_CallMessage, tag=31, frozen=True):
    """The sender no longer holds the object."""

    object: ObjectId


class ActorEnded(_CallMessage, tag=37, frozen=True):
    """To its creator: the actor ends by its own wish. A second one, with `gone`, when nothing of it is left."""

    target: ActorId
    text: str
    gone: bool = False


class Fetch(_CallMessage, tag=32, frozen=True):
    """Answer with the object's value once it exists; without `value`, say only that it does (`Exists`)."""

    id: int
    object: ObjectId
    value: bool
    lost: str = ""
    """The key of a stored value that was the answer, and is not in the store: have it made again."""


class Exists(_CallMessage, tag=33, frozen=True):
    """The object of fetch `id` is ready; its value stays with the owner."""

    id: int


class HandOver(_CallMessage, tag=38, frozen=True):
    """The sender, which ends, gives an object to the receiver, which holds it: its value, or the error that it failed
    with; neither if it does not exist yet. Answered by `Exists` when the receiver has registered with the owners of
    what is in the value."""

    id: int
    object: ObjectId
    value: Payload | None = None
    failure: bytes = b""


class StreamNext(_CallMessage, tag=34, frozen=True):
    """Answer with the next item of a stream that the receiver owns, once it is there: `Reply` with the value, `Failed`
    for the error that it ends with, `Rejected` after the last one."""

    id: int
    stream: ObjectId
    reader: int
    """Tells the readers of one process apart: a stream is read in one place."""


class StreamClose(_CallMessage, tag=35, frozen=True):
    """The sender reads no more of a stream that the receiver owns: its producer is closed."""

    stream: ObjectId
    cancel: bool = False
    """Cancel the producer only, as `al.cancel` does: the reader hears of it."""
