"""A call that arrived: what user code runs in, and how its end becomes an answer."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import structs

from actorlite.definitions import CallKind
from actorlite.errors import ActorError, ActorliteError, Outcome
from actorlite.ids import ObjectId, ProcessId, object_id
from actorlite.rpc.peer import Peer
from actorlite.runtime.payloads import pack, unpack_all
from actorlite.runtime.stored import Written, is_large
from actorlite.transport import Buffer
from actorlite.wire.calls import (
    ACTOR_DIED,
    CANCELLED,
    INLINE_PAYLOAD_BYTES,
    INTERRUPTED,
    STOPPED,
    Failed,
    Payload,
    Rejected,
    Replies,
    Reply,
    Slot,
)
from actorlite.wire.messages import encode
from actorlite.wire.objects import decode_stored
from actorlite.wire.serialize import STORED, Encoded, copied, decode, settled
from actorlite.wire.serialize import encode as encode_value
from actorlite.worker import interrupts
from actorlite.worker.scope import HostedActor, RunningCall

if TYPE_CHECKING:
    from actorlite.worker.host import Worker

CHAINABLE_BYTES = 64 * 1024
"""Larger calls wait in the mailbox, where their bytes are counted, not in the thread where they run."""


class LargeValue(tuple[()]):
    """Instead of the parts of an answer: a value that is still to be copied into the store."""

    encoded: Encoded
    repeat: tuple[ProcessId, int, int] | None
    """The call, if it may be asked for again (`worker.repeats`)."""

    def __new__(cls, encoded: Encoded) -> LargeValue:
        self = super().__new__(cls)
        self.encoded = encoded
        self.repeat = None
        return self


Answer = tuple[Sequence[Buffer], Sequence[object]]
"""The parts of the reply message, and the references inside it."""


class InboundCall(RunningCall):
    """One call from its arrival to its answer."""

    __slots__ = (
        "peer", "id", "message", "parts", "size", "kind", "function", "cascades", "fetched", "thread", "blocked",
        "arrival", "opened", "written", "_claim",
    )  # fmt: skip

    def __init__(
        self,
        worker: Worker,
        peer: Peer,
        message: Any,
        parts: Sequence[memoryview],
        actor: HostedActor | None,
        name: str,
    ) -> None:
        self.worker = worker
        self.peer = peer
        self.id: int = message.id
        self.name = name
        self.message: Any = message
        # The struct's own part was read, and shares memory with its neighbours on the connection.
        if len(parts) == 1:
            self.parts: Sequence[memoryview] = ()
            self.size = len(parts[0])
        else:
            self.parts = parts
            self.size = sum(map(len, parts))
        if message.args.kind == STORED:
            self.size += decode_stored(message.args.data).size
        self.kind: bool | CallKind | None = None
        """As `Turns.kind`, once its actor is there to be asked."""
        self.function: Callable[..., Any] | None = None
        """What to call, where that is known without running code of the user's."""
        self.actor = actor
        self.task: asyncio.Task[Any] | None = None
        self.cancelled = False
        self.cascades = False
        """Whether what it submits ends with it, because it was cancelled."""
        self.chained = False
        self._children = None
        self.fetched: dict[int | str, Any] | None = None
        """Values of arguments that were given as references owned elsewhere."""
        self.opened: Mapping[int, Encoded] | None = None
        """Values of payloads that lie in the store, by their place among the payloads."""
        self.envelope = envelope = getattr(message, "envelope", None)
        self.deadline = None
        if envelope is not None and envelope.budget_s is not None:
            self.deadline = worker.loop.time() + envelope.budget_s
        self.thread: list[int] | None = None
        """While its plain code runs: see `interrupts`."""
        self.blocked: list[concurrent.futures.Future[Any]] | None = None
        """What its plain code waits for."""
        self.arrival: threading.Event | None = None
        self.written: Written | None = None
        self._claim = [None]

    def claim(self) -> bool:
        """True for the first who asks: the thread that is to run the call, or the loop that takes it back."""
        try:
            self._claim.pop()  # atomic, unlike a flag that is tested and set
        except IndexError:
            return False
        return True

    @property
    def is_begun(self) -> bool:
        """Whether it has left its mailbox, for the thread or task that runs it, or was answered before that."""
        return self.task is not None or not self._claim

    @property
    def chainable(self) -> bool:
        """Plain code without arguments to fetch: it may be queued in the thread where it runs. Not what came through
        the actor: behind the call that waits for it, it would never run."""
        actor = self.actor
        if actor is None:
            return self.worker.tasks.functions.kind(self.message.code) is False and not self.must_fetch
        kind = self.kind
        if kind is None:
            if actor.instance is None or self.name == "__init__":
                return False
            kind = self.kind = self.worker.actors.turns.kind(actor, self.name)
        if kind is not False or self.size > CHAINABLE_BYTES or self.must_fetch:
            return False
        return self.envelope is None or not self.through

    def may_answer_at_once(self, answer: Answer) -> bool:
        """Whether the answer may overtake what the loop has to say: not when references came with the call or go with
        the answer, whose owners must hear of it first, nor when what the call submitted is to be cancelled with it."""
        message = self.message
        if self.cascades or answer[1] or message.args.refs or self.name == "__init__":
            return False
        if message.slots and any(slot.payload is None or slot.payload.refs for slot in message.slots):
            return False
        return message.envelope is None or not message.envelope.execution

    @property
    def readonly(self) -> bool:  # type: ignore[override]
        envelope = self.envelope
        return envelope is not None and envelope.readonly

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be asked for again, over another connection."""
        envelope = self.envelope
        return envelope is not None and bool(envelope.execution)

    @property
    def others_wait(self) -> bool:
        """Whether a call, or the end of an actor, waits for the end of this one."""
        actor = self.actor
        if actor is None:
            return bool(self.worker.tasks.mailbox.waiting)
        return bool(actor.watched or actor.mailbox.waiting or self.worker.actors.endings.ending)

    def blocks_on(self, future: concurrent.futures.Future[Any]) -> None:
        interrupts.block(self, future)

    def blocks_no_more(self, future: concurrent.futures.Future[Any]) -> None:
        interrupts.unblock(self, future)

    @property
    def task_id(self) -> ObjectId:
        return object_id(self.peer.identity.process, self.id)

    @property
    def chain(self) -> tuple[Any, ...]:
        envelope = self.envelope
        return envelope.chain if envelope is not None else ()

    def interrupt(self, error: ActorError) -> None:
        """The actor ends under the call: answer for it, and stop its code."""
        unstarted = self.task is None and self.claim()  # queued in its thread: it must not run any more
        if self.peer.inbound.get(self.id) is self:
            answer = self.rejection(ACTOR_DIED if unstarted else INTERRUPTED, str(error))
            self.worker.runner.deliver(self, answer)
        stop_stream(self)
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        elif not unstarted:
            interrupts.interrupt(self)

    def worker_ends(self) -> None:
        """The whole worker ends under the call: the end of the connection tells the caller."""
        if not self.claim():  # else it was queued in its thread, and does not run any more
            interrupts.end_waits(self)
            interrupts.interrupt(self)
            stop_stream(self)

    # --- arguments and answers

    @property
    def must_fetch(self) -> bool:
        """Whether values must be fetched, or opened in the store, before the call can run."""
        message = self.message
        if message.args.kind == STORED:
            return True
        return bool(message.slots) and any(
            slot.payload is None or slot.payload.kind == STORED for slot in message.slots
        )

    @property
    def payloads(self) -> list[Payload]:
        """The arguments, and those of them that were references of the caller's."""
        message = self.message
        return [message.args, *(slot.payload for slot in message.slots if slot.payload is not None)]

    @property
    def foreign_slots(self) -> list[Slot]:
        """Arguments whose values must be fetched from other processes first."""
        return [slot for slot in self.message.slots if slot.payload is None]

    def ask_for_stored(self) -> bool:
        """From now on the arguments that lie in the store are fetched from their owner, who knows what became of them.
        False when there are none."""
        slots = [
            Slot(slot.position, None, slot.ref) if slot.payload is not None and slot.payload.kind == STORED else slot
            for slot in self.message.slots
        ]
        if slots == list(self.message.slots):
            return False
        self.message = structs.replace(self.message, slots=tuple(slots))
        return True

    def arguments(self) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The decoded arguments. Raises what unpickling raises: that is user code too."""
        message = self.message
        slots = message.slots
        opened = self.opened
        if not slots and not message.args.parts and opened is None:  # most calls
            args, kwargs = decode(message.args.kind, message.args.data, (), self.worker.runtime)
            return args, kwargs
        encoded = unpack_all(self.payloads, self.parts)
        if opened is not None:
            encoded = [opened.get(place, each) for place, each in enumerate(encoded)]
            self.opened = opened = None
        values = [decode(each.kind, each.data, each.buffers, self.worker.runtime) for each in encoded]
        args, kwargs = values[0]
        self.parts = ()
        if not slots:
            return args, kwargs
        fetched, self.fetched = self.fetched, None
        args = list(args)
        inlined = iter(values[1:])
        for slot in slots:
            value = next(inlined) if slot.payload is not None else (fetched or {})[slot.position]
            if isinstance(slot.position, int):
                args[slot.position] = value
            else:
                kwargs[slot.position] = value
        return args, kwargs

    def success(self, value: Any) -> Answer:
        """The answer for a returned value; a value that cannot be sent becomes a failure."""
        envelope = self.envelope
        wanted = envelope.num_returns if envelope is not None else 1
        own = self.worker.hub.identity.address
        try:
            if wanted == 1:
                encoded = encode_value(value, copy=False)
                if not encoded.handles and not encoded.buffers and len(encoded.data) <= INLINE_PAYLOAD_BYTES:
                    return (encode(Reply(self.id, Payload(encoded.kind, encoded.data))),), ()  # type: ignore[arg-type]
                if not is_large(encoded):
                    encoded = settled(encoded, value)
                elif self.worker.runtime.in_loop():
                    placed = _placed(self, encoded)
                    if placed is None:
                        return LargeValue(copied(encoded)), encoded.handles
                    encoded = placed
                else:
                    encoded = _written(self, encoded)
                payload, parts = pack(encoded, own)
                return _told(self, ((encode(Reply(self.id, payload)), *parts), encoded.handles))
            if wanted == 0:
                payload, _ = pack(encode_value(None), own)
                return (encode(Reply(self.id, payload)),), ()
            return _many(self, value, wanted, own)
        except Exception as error:
            if isinstance(error, ActorliteError):
                error.outcome = Outcome.EXECUTED
            return self.failure(error)

    def failure(self, error: BaseException) -> Answer:
        return (encode(Failed(self.id, self.carried(error))),), ()

    def rejection(self, reason: str, text: str = "") -> Answer:
        return (encode(Rejected(self.id, reason, text)),), ()

    def cancellation(self) -> Answer:
        """It was taken back before it started."""
        return self.rejection(CANCELLED, "was cancelled before it started")

    def stopped(self) -> Answer:
        """It ended because it was cancelled while it ran."""
        return self.rejection(STOPPED, "was cancelled while it ran")

    def __repr__(self) -> str:
        return f"<InboundCall {self.name} #{self.id} from {self.peer.identity.process}>"


def stop_stream(call: InboundCall) -> bool:
    """Close the generator of the call, if it is one, at its next step; it no longer waits for its reader."""
    stream: Any = call.peer.streams.get(call.id)
    if stream is None:
        return False
    stream.stop()
    return True


def _many(call: InboundCall, value: Any, wanted: int, own: str) -> Answer:
    values = list(value)
    if len(values) != wanted:
        raise ValueError(f"{call.name}() returned {len(values)} values, but num_returns={wanted}")
    all_encoded = [_encoded_of_many(call, each) for each in values]
    packed = [pack(each, own) for each in all_encoded]
    parts = [part for _, extra in packed for part in extra]
    handles = [handle for each in all_encoded for handle in each.handles]
    return _told(call, ((encode(Replies(call.id, tuple(payload for payload, _ in packed))), *parts), handles))


def _encoded_of_many(call: InboundCall, value: Any) -> Encoded:
    runtime = call.worker.runtime
    encoded = encode_value(value, copy=False)
    if is_large(encoded):
        if not runtime.in_loop():
            return _written(call, encoded)
        if (placed := _placed(call, encoded)) is not None:
            return placed
    return settled(encoded, value)


def _written(call: InboundCall, encoded: Encoded) -> Encoded:
    """In a thread: what stands for a value that is now in the store."""
    written = call.written
    if written is None:
        written = call.written = Written(call.worker.runtime)
    return written.write(encoded, call.peer.identity.process)


def _placed(call: InboundCall, encoded: Encoded) -> Encoded | None:
    """A large result in the store at once, if room for it is at hand. On the loop."""
    if not call.peer.is_open:
        return None  # nobody is there who could own it
    written = call.written or Written(call.worker.runtime)
    placed = written.place(encoded, call.peer.identity.process)
    if placed is not None:
        call.written = written
    return placed


def _told(call: InboundCall, answer: Answer) -> Answer:
    if call.written is not None:
        call.written.answer = answer
    return answer
