"""A call on its way: what is sent, what waits for its answer, and what its end means to the caller.

A call waits here until its arguments exist, is then sent once, and ends exactly once: by an answer, by a lost
connection, or by the caller's own cancel or deadline, which never wait for the peer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import structs

from actorlite.context import CallScope, current_call, current_trace
from actorlite.errors import (
    ActorliteError,
    ConnectionLost,
    DeadlineExceeded,
    Outcome,
    ProtocolError,
    TaskCancelledError,
)
from actorlite.ids import ObjectId
from actorlite.propagation import registered, travelling
from actorlite.refs import Failure, ObjectRef
from actorlite.resources import ONE_CPU, ResourceSet
from actorlite.rpc.peer import Peer
from actorlite.runtime.lineage import ACTOR, SEVERAL, YIELDED, Origin
from actorlite.runtime.payloads import RefEntries, pack, unpack, unpack_all
from actorlite.runtime.room import RoomQuota, wake
from actorlite.runtime.stored import copy_of, is_large, place_arguments, store_arguments, take_stored, value_of
from actorlite.store.client import Holding
from actorlite.transport import Buffer
from actorlite.wire.calls import (
    CANCELLED,
    EXPIRED,
    MAX_CHAIN,
    STOPPED,
    Envelope,
    Failed,
    Hop,
    Payload,
    Rejected,
    Replies,
    Reply,
    Slot,
)
from actorlite.wire.failures import decode_failure
from actorlite.wire.serialize import STORED, Encoded, copied, encode_call

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime

MAX_NOTES = 16
"""Calls of a chain that did not run, each for the one before, that are named in the error of the last."""

Dependency = tuple[int | str, ObjectRef[Any]]


class ResultSink(Protocol):
    """Where a call's outcome goes; an `ObjectRef` is one."""

    def _resolve(self, outcome: Any) -> None: ...


class StructuredResult:
    """The sink of a structured call: one awaiter, no reference."""

    __slots__ = ("future", "kept")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Any] = loop.create_future()
        self.kept: Any = None

    def _resolve(self, outcome: Any) -> None:
        if not self.future.done():
            self.future.set_result(outcome)
        elif isinstance(outcome, Failure):
            outcome.retrieved = True


class ManyResults:
    """The sink of a call with `num_returns` above 1."""

    __slots__ = ("refs",)

    def __init__(self, refs: list[ObjectRef[Any]]) -> None:
        self.refs = refs

    def _resolve(self, outcome: Any) -> None:
        for ref in self.refs:
            ref._call = None
            if ref._stored is None:  # else it has its value, which nobody may have opened yet
                ref._resolve(outcome)

    def item(self, index: int, value: Encoded | Holding, kept: Any) -> None:
        """A generator's values come one by one; what it ends with goes to the references that are left."""
        if index >= len(self.refs):
            raise ProtocolError(f"value {index} came for a call of {len(self.refs)} values")
        ref = self.refs[index]
        ref._kept = kept
        ref._call = None
        if type(value) is Holding:
            runtime: Any = ref.runtime
            runtime.stored.arrived(value, ref)
        else:
            ref._resolve(value)


class Submitted(set["Outbound"]):
    """The calls that one call submitted and that have not ended."""

    __slots__ = ("envelope",)

    def __init__(self, parent: ObjectId) -> None:
        self.envelope = Envelope(parent=parent)
        """What goes with those that need nothing else."""


class Outbound:
    """Base of task calls and actor calls; the `Pending` of its connection."""

    __slots__ = (
        "runtime", "number", "name", "sink", "encoded", "dependencies", "envelope", "peer", "timer", "ended", "missing",
        "pinned", "may_have_run", "siblings", "quota", "size", "begun", "unwanted", "stored",
        "storing",
    )  # fmt: skip

    def __init__(
        self,
        runtime: ProcessRuntime,
        number: int,
        name: str,
        sink: ResultSink | None,
        encoded: Encoded,
        dependencies: Sequence[Dependency],
        envelope: Envelope | None,
    ) -> None:
        self.runtime = runtime
        self.number = number
        self.name = name
        self.sink = sink
        self.encoded = encoded
        self.dependencies = dependencies
        self.envelope = envelope
        self.peer: Peer | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.ended = False
        self.missing = 0
        """Dependencies that do not exist yet."""
        self.pinned: list[object] = []
        """References inside the values that were sent in slots."""
        self.may_have_run = False
        """Whether an earlier attempt was sent to a worker that died."""
        self.siblings: set[Any] | None = None
        """The calls that were submitted by the same call and have not ended, this one among them."""
        self.begun = False
        self.unwanted = False
        """Whether it was cancelled: then it does not go again, whatever else happens to it."""
        self.quota: RoomQuota | None = None
        """What it counts in as pending, with `size` bytes, until it has ended."""
        self.size = 0
        self.stored: Holding | None = None
        """Its arguments, where they are large enough for the store."""
        self.storing: asyncio.Task[None] | None = None

    # --- before it is sent

    def begin(self) -> None:
        """Hold what it refers to and start its clock. On the loop, once."""
        self.begun = True
        if self.encoded.handles:
            self.runtime.exports.pin(self.encoded.handles)
        if self.envelope is not None and self.envelope.budget_s is not None:
            if self.envelope.budget_s <= 0:
                self.expire()  # the time of its caller is over
                return
            self.timer = self.runtime.loop.call_later(self.envelope.budget_s, self.expire)
        for _, ref in self.dependencies:
            if not ref.done():
                self.missing += 1
                ref._subscribe_waker(self._one_arrived, value=False)
        if is_large(self.encoded):
            self.missing += 1
            self.storing = self.runtime.spawn(store_arguments(self))

    def _one_arrived(self) -> None:
        self.missing -= 1
        if self.missing or self.ended:
            return
        if not any(isinstance(ref._outcome, Failure) for _, ref in self.dependencies):
            self.arguments_ready()
        else:
            # Later: its end may fail the next call in turn, and so on down a chain as long as its caller likes.
            self.runtime.loop.call_soon(_fail_if_waiting, self)

    def arguments_ready(self) -> None:
        """All dependencies exist; subclasses send the call."""

    def failed_dependency(self) -> Failure | None:
        """The outcome of a call whose argument failed: it does not run (Ray, T-31)."""
        for position, ref in self.dependencies:
            failure = ref._outcome
            if isinstance(failure, Failure):
                return _depends_on(failure, position, self.name)
        return None

    def compose(self) -> tuple[Payload, tuple[Slot, ...], list[Buffer]]:
        """The argument payload, the slots for references given as arguments, and all parts behind them."""
        own = self.runtime.hub.identity.address
        payload, extra = pack(self.encoded, own)
        if payload.kind == STORED:
            self.runtime.stored.client.slabs.say()
        if not self.dependencies:
            return payload, (), list(extra)
        parts: list[Buffer] = list(extra)
        slots = []
        for position, ref in self.dependencies:
            if ref.owner_address:
                slots.append(Slot(position, None, (ref.id, ref.owner_address)))
                continue
            kept = ref._kept or ()
            self.runtime.exports.pin(kept)
            self.pinned.extend(kept)
            inlined, more = pack(value_of(ref, kept), own)
            if ref._stored is None:
                slots.append(Slot(position, inlined))
            else:
                self.runtime.exports.pin((ref,))
                self.pinned.append(ref)
                slots.append(Slot(position, inlined, (ref.id, own)))
            parts.extend(more)
        return payload, tuple(slots), parts

    # --- answers

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        if self.ended:
            # Nobody wants the value; its sender holds what is in it until it hears so.
            if self.peer is not None and (unwanted := _refs_in(message)):
                self.runtime.borrows.take(self.peer, self.number, unwanted)
            for payload in _values_of(message):
                if payload.kind == STORED:
                    self.runtime.stored.claim(payload, f"unwanted result of {self.name}()")  # and drop it
            return
        if type(message) is Reply:
            payload = message.value
            if payload.refs:
                self._keep(self.sink, payload)
            if payload.kind == STORED:
                take_stored(self, payload)
            elif payload.parts:
                self.end(unpack(payload, parts))
            else:
                self.end(Encoded(payload.kind, payload.data))
        elif type(message) is Failed:
            self.end(Failure(partial(decode_failure, message.failure)))
        elif type(message) is Rejected:
            self.rejected(message)
        elif type(message) is Replies:
            end_many(self, message, parts)

    def origin(self) -> Origin:
        """How to make its result again; asked before it has ended."""
        return ACTOR

    def lost(self, error: ConnectionLost) -> None:
        """The connection ended before the answer; subclasses retry, or say what died."""
        raise AssertionError("a subclass decides")

    def rejected(self, message: Rejected) -> None:
        """The callee did not run it."""
        if message.reason in (CANCELLED, STOPPED):
            before = message.reason == CANCELLED and not self.may_have_run
            self.end(_cancelled(f"{self.name}() {message.text or 'was cancelled'}", before))
        elif message.reason == EXPIRED:
            self.end(_late(self, Outcome.UNKNOWN if self.may_have_run else Outcome.NOT_EXECUTED))
        else:
            self.end(fail_with(ActorliteError, f"{self.name} did not run: {message.text or message.reason}"))

    # --- ends

    def end(self, outcome: Any) -> None:
        """The outcome goes to the caller; once."""
        if self.ended:
            return
        self.ended = True
        quota = self.quota
        if quota is not None:
            quota.calls -= 1  # `give`, on the path of every call
            quota.bytes -= self.size
            if quota.waiting:
                wake(quota)
        if self.timer is not None:
            self.timer.cancel()
        if self.siblings is not None:
            self.siblings.discard(self)
        if self.dependencies or self.pinned or self.encoded.handles or self.missing:
            self.release()
        if type(outcome) is Failure and (self.unwanted or self.runtime.closing or self.runtime.quiet):
            outcome.retrieved = True  # whoever shuts a session down has given up on what is under way
        sink, self.sink = self.sink, None
        if sink is not None:
            if isinstance(sink, ObjectRef):
                sink._call = None
            sink._resolve(outcome)

    def release(self) -> None:
        """Let go of what it held for the callee."""
        if self.encoded.handles and self.begun:
            self.runtime.exports.unpin(self.encoded.handles)
        if self.missing:
            for _, ref in self.dependencies:
                ref._remove_soon(self._one_arrived)
        self.dependencies = ()
        if self.storing is not None:
            self.storing.cancel()
        self.unsent()

    def unsent(self) -> None:
        """The message it was sent in has ended: nothing more is held for it. A retry sends it anew."""
        if self.pinned:
            self.runtime.exports.unpin(self.pinned)
            self.pinned.clear()

    def expire(self) -> None:
        """The caller's budget is spent: it learns so now; the callee is told to stop."""
        sent = self.peer is not None or self.may_have_run
        self.stop(_late(self, Outcome.UNKNOWN if sent else Outcome.NOT_EXECUTED))

    def abandon(self) -> None:
        """The caller no longer wants it: take it back, or tell the callee to stop. Never waits."""
        sent = self.peer is not None or self.may_have_run
        self.stop(_cancelled(f"{self.name}() was cancelled by its caller", not sent))

    def stop(self, outcome: Failure) -> None:
        if self.ended:
            return
        if self.peer is not None:
            self.peer.cancel(self.number)
        else:
            self.withdraw()
        self.end(outcome)

    def cancel(self, *, force: bool = False, recursive: bool = True) -> bool:
        """`al.cancel`: what was sent is for the callee to stop. False when it has ended already."""
        if self.ended:
            return False
        self.unwanted = True
        if self.peer is not None:
            self.peer.cancel(self.number, force=force, recursive=recursive)
            return True
        self.withdraw()
        self.end(_cancelled(f"{self.name}() was cancelled before it started", not self.may_have_run))
        return True

    def withdraw(self) -> None:
        """Take an unsent call out of its queue."""

    def not_stored(self, error: ActorliteError) -> None:
        """Its arguments are too large for a message, and cannot be stored."""
        self.withdraw()
        self.end(Failure(partial(copy_of, error)))

    def _keep(self, sink: Any, payload: Payload) -> None:
        if self.peer is None:
            return
        refs = self.runtime.borrows.take(self.peer, self.number, payload.refs)
        if isinstance(sink, ObjectRef):
            sink._kept = refs
        elif isinstance(sink, StructuredResult):
            sink.kept = refs

    def __repr__(self) -> str:
        state = "ended" if self.ended else "sent" if self.peer is not None else "waiting"
        return f"<{type(self).__name__} {self.name} #{self.number} {state}>"


def end_many(call: Outbound, message: Replies, parts: Sequence[memoryview]) -> None:
    """The results of a call with several."""
    sink, runtime = call.sink, call.runtime
    if isinstance(sink, ManyResults):
        values = unpack_all(message.values, parts)
        refs = _refs_in(message)
        if refs and call.peer is not None:
            kept = runtime.borrows.take(call.peer, call.number, refs)
            for ref in sink.refs:
                ref._kept = kept
        for ref, value in zip(sink.refs, values, strict=True):
            ref._call = None
            if value.kind == STORED:
                runtime.stored.arrived(runtime.stored.claim(value, f"a result of {call.name}()", SEVERAL), ref)
            else:
                ref._resolve(value)
        call.sink = None
    call.end(None)


def take_item(call: Outbound, message: Any, parts: Sequence[memoryview]) -> None:
    """The next item of a call that is answered item by item."""
    payload, sink, kept = message.value, call.sink, None
    if payload.refs and call.peer is not None:
        kept = call.runtime.borrows.take(call.peer, message.hold, payload.refs)
    value: Encoded | Holding
    if payload.kind == STORED:
        value = call.runtime.stored.claim(payload, f"item of {call.name}()", YIELDED)  # dropped if nobody wants it
    else:
        value = unpack(payload, parts)
    if not call.ended and sink is not None:
        take = getattr(sink, "item", None)
        if take is None:
            raise ProtocolError(f"an item came in answer to {call!r}, which asked for no stream")
        take(message.index, value, kept)


def encode_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], runtime: ProcessRuntime | None = None, name: str = ""
) -> tuple[Encoded, Sequence[Dependency]]:
    """Arguments as a payload, with the references at the top level taken out: the callee gets their values (T-30).
    With a runtime large ones may be in the store already, as those of the call `name`."""
    dependencies: list[Dependency] = []
    for value in args:
        if type(value) is ObjectRef:
            dependencies = [(index, each) for index, each in enumerate(args) if type(each) is ObjectRef]
            args = tuple([None if type(each) is ObjectRef else each for each in args])
            break
    if kwargs:
        named = {key: each for key, each in kwargs.items() if type(each) is ObjectRef}
        if named:
            dependencies.extend(named.items())
            kwargs = {key: None if key in named else each for key, each in kwargs.items()}
    encoded = encode_call(args, kwargs if type(kwargs) is dict else dict(kwargs), copy=False)
    if encoded.buffers:
        placed = place_arguments(runtime, encoded, name) if runtime is not None and is_large(encoded) else None
        encoded = placed or copied(encoded)
    return encoded, dependencies


def make_envelope(
    scope: CallScope | None,
    *,
    structured: bool,
    timeout: float | None,
    num_returns: int,
    name: str,
    request: ResourceSet = ONE_CPU,
) -> Envelope | None:
    """What must go with a call; None for the plain case."""
    trace = current_trace.get()
    variables = travelling() if registered or scope is not None else ()
    plain = timeout is None and num_returns == 1 and not name and request is ONE_CPU
    if plain and scope is None and not trace and not structured and not variables:
        return None
    chain: tuple[Hop, ...] = ()
    parent = None if scope is None else scope.task_id
    if scope is not None and parent is not None and structured:
        chain = (*scope.chain, Hop(scope.actor_id or "", parent, scope.function_name))[-MAX_CHAIN:]
    return Envelope(
        0, timeout, parent, chain, structured, trace, name, num_returns, request.cpus, variables, more=request.more
    )


def next_attempt(envelope: Envelope | None, **changes: Any) -> Envelope:
    """The envelope of a call that is tried once more."""
    old = envelope or Envelope()
    return structs.replace(old, attempt=old.attempt + 1, **changes)


def attempted(failure: bytes, attempts: int) -> Failure:
    """What user code raised in the last of several attempts."""
    return Failure(partial(_decode_attempted, failure, attempts))


def _decode_attempted(failure: bytes, attempts: int) -> BaseException:
    error = decode_failure(failure)
    error.add_note(f"raised in attempt {attempts}, the last one")
    return error


def make_sink(runtime: ProcessRuntime, num_returns: int) -> tuple[int, Any, Any]:
    """Numbers, references and sink of an unstructured call: (number, what the user gets, sink)."""
    number = next(runtime.hub.numbers)
    if num_returns == 1:
        ref: ObjectRef[Any] = ObjectRef(runtime, number)
        return number, ref, ref
    if num_returns == 0:
        return number, None, None
    refs: list[ObjectRef[Any]] = [ObjectRef(runtime, number)]
    refs += [ObjectRef(runtime, next(runtime.hub.numbers)) for _ in range(num_returns - 1)]
    return number, refs, ManyResults(refs)


def find_sink(runtime: ProcessRuntime, sink: Any, num_returns: int) -> tuple[int, Any, Any]:
    """`make_sink`, or what is needed for a sink that is there: (number, None, sink)."""
    if sink is None:
        return make_sink(runtime, num_returns)
    number = next(runtime.hub.numbers) if isinstance(sink, StructuredResult) else sink.number
    return number, None, sink


def begin_quickly(call: Outbound, ref: ObjectRef[Any], quota: RoomQuota, size: int, origin: Submitted | None) -> None:
    """Take room, and bind and `begin` a call that waits for nothing, holds nothing and has no deadline."""
    call.begun = True
    call.quota = quota
    call.size = size
    quota.calls += 1  # `take`, on the path of most calls
    quota.bytes += size
    ref._call = call
    if origin is not None:
        call.siblings = origin
        origin.add(call)


def bind_call(sink: Any, call: Outbound) -> None:
    """Let `al.cancel` find the call: by its reference, or by the call that submitted it."""
    scope = current_call.get()
    if scope is not None:
        call.siblings = scope.children
        call.siblings.add(call)
    if isinstance(sink, ObjectRef):
        sink._call = call
    elif isinstance(sink, ManyResults):
        for ref in sink.refs:
            ref._call = call


async def await_structured(runtime: ProcessRuntime, result: StructuredResult, call: Outbound) -> Any:
    """Wait for a structured call. Cancelling the awaiting task cancels the remote work."""
    scope = current_call.get()
    if scope is not None:
        scope.enter_wait()
    try:
        outcome = await result.future
    except asyncio.CancelledError:
        call.abandon()
        if result.future.done() and not result.future.cancelled() and type(result.future.result()) is Failure:
            result.future.result().retrieved = True  # it came in the pass in which nobody wanted it any more
        raise
    finally:
        if scope is not None:
            scope.leave_wait()
    return runtime.unwrap(outcome)


def _cancelled(text: str, before_start: bool) -> Failure:
    """Quiet: whoever cancels need not look at what came of it."""
    outcome = Outcome.NOT_EXECUTED if before_start else Outcome.UNKNOWN
    return Failure(partial(TaskCancelledError, f"{text} ({outcome.value})", outcome=outcome), quiet=True)


def envelope_now(call: Outbound) -> Envelope | None:
    """The envelope to send now: of a budget there is less left than when the call was made."""
    envelope, timer = call.envelope, call.timer
    if timer is None or envelope is None:
        return envelope
    return structs.replace(envelope, budget_s=max(1e-6, timer.when() - call.runtime.loop.time()))


def _fail_if_waiting(call: Outbound) -> None:
    if not call.ended:
        call.arguments_ready()


def _late(call: Outbound, outcome: Outcome) -> Failure:
    budget = call.envelope.budget_s if call.envelope is not None else None
    text = f"{call.name}() did not end within its timeout of {budget or 0:g} s ({outcome.value})"
    return fail_with(DeadlineExceeded, text, outcome=outcome)


def _values_of(message: Any) -> tuple[Payload, ...]:
    if type(message) is Reply:
        return (message.value,)
    return message.values if type(message) is Replies else ()


def _refs_in(message: Any) -> RefEntries:
    """The references in the values of an answer."""
    return tuple([entry for payload in _values_of(message) for entry in payload.refs])


def _depends_on(failure: Failure, position: int | str, name: str) -> Failure:
    """The outcome of a call whose argument failed. A chain of such calls has no bound; the notes of its error have."""
    if failure.depth >= MAX_NOTES:
        failure.retrieved = True
        return Failure(failure.make, depth=failure.depth)
    return Failure(partial(_dependency_error, failure, position, name), depth=failure.depth + 1)


def _dependency_error(failure: Failure, position: int | str, name: str) -> BaseException:
    error = failure.exception()
    where = f"argument {position}" if isinstance(position, int) else f"argument {position!r}"
    error.add_note(f"{where} of {name}() could not be computed, so {name}() did not run")
    return error


def fail_with(kind: Callable[..., ActorliteError], text: str, **fields: Any) -> Failure:
    """A failure that is built anew for each awaiter."""
    return Failure(partial(kind, text, **fields))
