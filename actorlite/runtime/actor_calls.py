"""Calls of actors on their way, from the caller's side: what is sent, and what each end means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from actorlite.context import current_call
from actorlite.deadlines import time_left
from actorlite.definitions import MethodDefinition
from actorlite.errors import (
    ActorliteError,
    CallCycleError,
    ConnectionLost,
    DeadlineExceeded,
    MailboxFullError,
    ObjectLostError,
    Outcome,
    TaskCancelledError,
)
from actorlite.options import DEFAULT_GROUP, MethodOptions
from actorlite.refs import ObjectRef
from actorlite.runtime.calls import (
    Outbound,
    StructuredResult,
    attempted,
    begin_quickly,
    encode_arguments,
    fail_with,
    find_sink,
    make_envelope,
    next_attempt,
    take_item,
)
from actorlite.runtime.room import size_of
from actorlite.runtime.streams import OwnStream
from actorlite.runtime.submission import SPECIAL, origin_of
from actorlite.state.retries import Backoff, after_try, is_retried
from actorlite.wire.calls import (
    ACTOR_DIED,
    CYCLE,
    HELD,
    INLINE_PAYLOAD_BYTES,
    INTERRUPTED,
    LOST_ARGUMENT,
    MAILBOX_FULL,
    NO_SUCH_ACTOR,
    SHED,
    ActorCall,
    Envelope,
    Failed,
    Payload,
    Rejected,
)
from actorlite.wire.failures import decode_failure
from actorlite.wire.messages import encode
from actorlite.wire.serialize import encode_call

if TYPE_CHECKING:
    from actorlite.runtime.actors import Link

_REFUSALS: Mapping[str, Callable[..., ActorliteError]] = {
    CYCLE: CallCycleError,
    LOST_ARGUMENT: ObjectLostError,
    MAILBOX_FULL: MailboxFullError,
    SHED: DeadlineExceeded,
}


RETRY_BACKOFF = Backoff(first_s=0.1, cap_s=5.0, free=1)
"""Between a method's exception and the next attempt."""


class ActorOut(Outbound):
    """One call of a method."""

    __slots__ = ("link",)

    link: Link

    def arguments_ready(self) -> None:
        self.link.flush_one(self)

    def answered(self, message: Any, parts: Any) -> None:
        if type(message) is Rejected and message.reason == HELD:
            self.link.came_back(self)
            return
        link = self.link
        link.unanswered -= 1
        link.sent_bytes -= self.size
        if link.outbox:
            link.flush()
        super().answered(message, parts)

    def item(self, message: Any, parts: Any) -> None:
        take_item(self, message, parts)

    def rejected(self, message: Rejected) -> None:
        kind = _REFUSALS.get(message.reason)
        if kind is not None:
            outcome = Outcome.UNKNOWN if self.may_have_run else Outcome.NOT_EXECUTED
            self.end(fail_with(kind, f"{self.link!r}.{self.name}(): {message.text}", outcome=outcome))
        elif message.reason in (ACTOR_DIED, NO_SUCH_ACTOR, INTERRUPTED):
            outcome = Outcome.UNKNOWN if message.reason == INTERRUPTED else Outcome.NOT_EXECUTED
            self.runtime.losses.refused(self, message.text or "the worker does not know it", outcome)
        else:
            super().rejected(message)

    def goes_again(self, outcome: Outcome) -> bool:
        """Whether to send it once more, now that its actor is, or will be, somewhere else."""
        return outcome is Outcome.NOT_EXECUTED

    @property
    def attempts(self) -> str:
        """For texts of errors: how often it was tried; empty for once."""
        return ""

    def lost(self, error: ConnectionLost) -> None:
        self.link.one_less(self)
        self.runtime.losses.disconnected(self, error)

    def withdraw(self) -> None:
        self.link.withdraw(self)

    def cancel(self, *, force: bool = False, recursive: bool = True) -> bool:
        if force:
            raise ValueError(
                f"force=True ends a worker process, and with it the whole actor: {self.name}() is a call of "
                f"{self.link!r}; write al.kill(handle) if that is meant, else cancel without force"
            )
        return super().cancel(recursive=recursive)


class RetriedOut(ActorOut):
    """One call that is sent again when its fate is unknown, or after exceptions: one budget for both (FT-15)."""

    __slots__ = ("retries", "retry_on")

    retries: int
    retry_on: bool | tuple[type[Exception], ...]

    def answered(self, message: Any, parts: Any) -> None:
        if type(message) is Failed and not self.ended and self.envelope is not None:
            error = decode_failure(message.failure)
            if self.retries and is_retried(error, self.retry_on) and not isinstance(error, TaskCancelledError):
                self.link.one_less(self)
                self._again_after(error)
                return
            if self.envelope.attempt:
                self.link.one_less(self)
                self.end(attempted(message.failure, self.envelope.attempt + 1))
                return
        super().answered(message, parts)

    def _again_after(self, error: BaseException) -> None:
        """It ran, to an end that is no result: the next attempt is another execution."""
        assert self.envelope is not None
        self.may_have_run = True
        self.retries = after_try(self.retries)
        self.envelope = next_attempt(self.envelope, execution=self.envelope.execution + 1)
        # What is answered is over: to the callee the next attempt is another call.
        self.number = next(self.runtime.hub.numbers)
        self.peer = None
        self.unsent()
        pause_s = RETRY_BACKOFF.delay_s(self.envelope.attempt, self.runtime.hub.luck())
        self.runtime.delays.after(pause_s, partial(self.link.enqueue, self))

    def item(self, message: Any, parts: Any) -> None:
        self.retries = 0  # the reader may have seen it: another attempt could tell another story
        super().item(message, parts)

    def goes_again(self, outcome: Outcome) -> bool:
        if outcome is Outcome.NOT_EXECUTED:
            return True
        self.may_have_run = True
        if not self.retries or self.envelope is None:
            return False
        self.retries = after_try(self.retries)
        self.envelope = next_attempt(self.envelope)
        return True

    @property
    def attempts(self) -> str:
        made = (self.envelope.attempt if self.envelope is not None else 0) + 1
        return f" in attempt {made}, no retry left" if not self.retries else f" in attempt {made}"

    def cancel(self, *, force: bool = False, recursive: bool = True) -> bool:
        self.retries = 0  # what was cancelled does not run again, however its attempt ends
        return super().cancel(force=force, recursive=recursive)


def make_call(
    link: Link,
    method: MethodDefinition,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: MethodOptions,
    *,
    structured: bool = False,
    sink: StructuredResult | OwnStream | None = None,
) -> tuple[ActorOut, Any]:
    """The call, and the references to its results unless it has a sink."""
    runtime = link.runtime
    runtime.check_open()
    group = options.concurrency_group
    if group is not None and group not in link.definition.options.concurrency_groups and group != DEFAULT_GROUP:
        known = sorted((DEFAULT_GROUP, *link.definition.options.concurrency_groups))
        raise ValueError(f"{link!r} has no concurrency group {group!r} for {method.name}(): its groups are {known}")
    encoded, dependencies = encode_arguments(args, kwargs, runtime, method.name)
    envelope = make_envelope(
        current_call.get(),
        structured=structured,
        timeout=time_left(options.timeout, runtime.loop.time()) if structured else options.timeout,
        num_returns=options.num_returns,
        name=options.name or "",
    )
    if group is not None or options.readonly:
        group = "" if group is None or group == DEFAULT_GROUP else group
        envelope = structs.replace(envelope or Envelope(), group=group, readonly=options.readonly)
    number, result, where = find_sink(runtime, sink, options.num_returns)
    retries = retries_of(link, options)
    if retries:
        retried = RetriedOut(runtime, number, method.name, where, encoded, dependencies, envelope)
        retried.retries = retries
        retried.retry_on = options.retry_exceptions
        retried.envelope = structs.replace(envelope or Envelope(), execution=1)
        call: ActorOut = retried
    else:
        call = ActorOut(runtime, number, method.name, where, encoded, dependencies, envelope)
    call.link = link
    call.size = size_of(encoded)
    return call, result


def quick_call(link: Link, method: str, args: tuple[Any, ...]) -> ObjectRef[Any] | None:
    """`make_call` and what follows, for most calls: nothing is asked for, nothing waits, there is room, and all of it
    fits into one struct. None when that is not so, and nothing was done."""
    runtime, peer, quota = link.runtime, link.peer, link.quota
    if peer is None or link.outbox or link.held_back is not None or link.options.max_task_retries:
        return None
    origin = origin_of(runtime, args)
    if origin is SPECIAL:
        return None
    encoded = encode_call(args, {})
    size = len(encoded.data)
    if encoded.buffers or size > INLINE_PAYLOAD_BYTES or not quota.fits(size):
        return None
    box = link.box
    if link.unanswered >= box.calls or link.sent_bytes + size > box.bytes:
        return None
    number = next(runtime.hub.numbers)
    ref: ObjectRef[Any] = ObjectRef(runtime, number)
    envelope = None if origin is None else origin.envelope
    call = ActorOut(runtime, number, method, ref, encoded, (), envelope)
    call.link = link
    call.peer = peer
    begin_quickly(call, ref, quota, size, origin)
    link.unanswered += 1
    link.sent_bytes += size
    payload = Payload(encoded.kind, encoded.data)  # type: ignore[arg-type]
    try:
        peer.call(number, call, encode(ActorCall(number, link.id, method, payload, envelope)))
    except ConnectionLost as error:
        call.lost(error)
    return ref


def retries_of(link: Link, options: MethodOptions) -> int:
    """The call's or the method's own word, else the actor's (FT-14)."""
    retries = options.max_task_retries
    return link.options.max_task_retries if retries is None else retries


def came_through(call: ActorOut) -> bool:
    """Whether a call of the actor waits for this one: then what is queued here may wait for it, too."""
    envelope = call.envelope
    return envelope is not None and any(hop.target == call.link.id for hop in envelope.chain)
