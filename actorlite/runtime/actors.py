"""Actors from the caller's side: their creation, their calls, and the news of their death.

The creator leases a worker, sends `CreateActor` and then its calls on the same connection: the worker's mailbox keeps
them behind the constructor, so nothing waits for a round trip. Other processes learn the place from the creator.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from msgspec import structs

from actorlite.context import current_call
from actorlite.deadlines import time_left
from actorlite.definitions import ActorDefinition, MethodDefinition
from actorlite.errors import (
    ActorDiedError,
    ActorliteError,
    ActorUnavailableError,
    ActorUnschedulableError,
    CallCycleError,
    ConnectionLost,
    DeadlineExceeded,
    MailboxFullError,
    Outcome,
    PendingCallsLimitExceeded,
    TaskUnschedulableError,
)
from actorlite.ids import ActorId
from actorlite.options import (
    DEFAULT_GROUP,
    DEFAULT_MAILBOX,
    MAX_PENDING_BYTES,
    MAX_PENDING_CALLS,
    STREAMING,
    Mailbox,
    MethodOptions,
)
from actorlite.refs import Failure
from actorlite.rpc.peer import Peer
from actorlite.runtime.calls import (
    Outbound,
    StructuredResult,
    await_structured,
    bind_call,
    encode_arguments,
    fail_with,
    make_envelope,
    make_sink,
    take_item,
)
from actorlite.runtime.held import HeldBack
from actorlite.runtime.nearby import MUST_SEND, LocalHost, are_immutable, hosts_in
from actorlite.runtime.room import RoomQuota, open_wide, size_of, take_turn, wake
from actorlite.runtime.streams import OwnStream, streaming, window_of
from actorlite.state.actors import ActorEvent, ActorState, after
from actorlite.state.quota import UNLIMITED, Quota
from actorlite.streams import ObjectRefStream
from actorlite.wire.messages import (
    ACTOR_DIED,
    CYCLE,
    HELD,
    MAILBOX_FULL,
    NO_SUCH_ACTOR,
    SHED,
    ActorCall,
    ActorPlace,
    CallerWaits,
    Envelope,
    Rejected,
    encode,
)

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime

_REFUSALS: Mapping[str, Callable[..., ActorliteError]] = {
    CYCLE: CallCycleError,
    MAILBOX_FULL: MailboxFullError,
    SHED: DeadlineExceeded,
}


class ActorOut(Outbound):
    """One call of a method."""

    __slots__ = ("link", "unwanted")

    link: Link
    unwanted: bool
    """Whether the callee was asked to cancel it."""

    def arguments_ready(self) -> None:
        self.link.flush()

    def answered(self, message: Any, parts: Any) -> None:
        if type(message) is Rejected and message.reason == HELD:
            self.link.came_back(self)
            return
        self.link.one_less(self)
        super().answered(message, parts)

    def item(self, message: Any, parts: Any) -> None:
        take_item(self, message, parts)

    def rejected(self, message: Rejected) -> None:
        kind = _REFUSALS.get(message.reason)
        if kind is not None:
            self.end(fail_with(kind, f"{self.link!r}.{self.name}(): {message.text}", outcome=Outcome.NOT_EXECUTED))
        elif message.reason in (ACTOR_DIED, NO_SUCH_ACTOR):
            # What its creator was told says more: why the constructor failed, or who killed it.
            text = self.link.death or message.text or "the worker does not know it"
            self.end(self.link.death_failure(text, self.name, Outcome.NOT_EXECUTED))
        else:
            super().rejected(message)

    def lost(self, error: ConnectionLost) -> None:
        self.link.one_less(self)
        self.link.call_lost(self, error)

    def withdraw(self) -> None:
        self.link.withdraw(self)

    def cancel(self, *, force: bool = False, recursive: bool = True) -> bool:
        if force:
            raise ValueError(
                f"force=True ends a worker process, and with it the whole actor: {self.name}() is a call of "
                f"{self.link!r}; write al.kill(handle) if that is meant, else cancel without force"
            )
        self.unwanted = True
        return super().cancel(recursive=recursive)


class Link:
    """One actor as this process sees it. Slim: a process may hold a hundred thousand."""

    __slots__ = (
        "runtime", "id", "definition", "owner_address", "life", "peer", "unanswered", "limits", "quota", "box", "death",
        "init_failed", "ready", "place", "_nearby", "outbox", "_stale", "sent_bytes", "held_back", "__weakref__",
    )  # fmt: skip

    def __init__(
        self,
        runtime: ProcessRuntime,
        id: ActorId,
        definition: ActorDefinition,
        owner_address: str,
        limits: tuple[Any, ...] = (),
    ) -> None:
        self.runtime = runtime
        self.id = id
        self.definition = definition
        self.owner_address = owner_address
        """Empty when this process created the actor."""
        self.life = ActorState.PENDING_CREATION
        self.peer: Peer | None = None
        """The hosting worker, once calls may be sent to it."""
        self.unanswered = 0
        """Calls that were sent and have no answer yet."""
        self.limits = limits
        """As `ActorOptions.limits`."""
        most = limits[0] if limits else MAX_PENDING_CALLS
        self.quota: RoomQuota = Quota(*((UNLIMITED, UNLIMITED) if most == -1 else (most, MAX_PENDING_BYTES)))
        """Calls that this process has pending."""
        self.box = Mailbox(*limits[1:]) if limits else DEFAULT_MAILBOX
        self.death = ""
        self.init_failed = False
        self.ready: list[asyncio.Future[None]] | None = None
        """Those who wait for the end of creation."""
        self.place: ActorPlace | None = None
        """Where it lives, once that is known."""
        self._nearby: LocalHost | None = None
        """The hosting worker, when it lives in this loop."""
        self.outbox: deque[ActorOut] | None = None
        """Calls that were not sent, in order."""
        self._stale = 0
        """About how many calls in the outbox have ended."""
        self.sent_bytes = 0
        self.held_back: HeldBack | None = None
        """While the mailbox is full."""

    @property
    def state(self) -> str:
        return self.life.value

    # --- calls (from any thread)

    def call(
        self, method: MethodDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: MethodOptions
    ) -> Any:
        call, result = _make_call(self, method, args, kwargs, options)
        self._submit_if_room(call, method)
        return result

    async def submit(
        self, method: MethodDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: MethodOptions
    ) -> Any:
        result: Any
        if method.kind.streams and options.num_returns in (1, STREAMING):
            stream, call = _make_stream(self, method, args, kwargs, options, structured=False)
            result = ObjectRefStream.begin(stream)
        else:
            call, result = _make_call(self, method, args, kwargs, options)
        await self.runtime.on_own_loop(self._submit_in_turn(call))
        return result

    async def run(
        self, method: MethodDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: MethodOptions
    ) -> Any:
        runtime = self.runtime
        if not runtime.in_loop() or options.num_returns != 1:
            call, refs = _make_call(self, method, args, kwargs, options, structured=True)
            try:
                await runtime.on_own_loop(self._submit_in_turn(call))
            except asyncio.CancelledError:
                runtime.post(call.abandon)
                raise
            return await runtime.run_elsewhere(refs)
        runtime.check_open()
        # Nothing of this process is under way to the actor, so the shortcut overtakes no earlier call.
        idle = not self.unanswered and not self.outbox and self.held_back is None
        if self._nearby is not None and idle and options.timeout is None:
            if are_immutable(args, kwargs):
                value = self._nearby.run_now(self.id, method.name, runtime, args, kwargs)
                if value is not MUST_SEND:
                    if self._nearby is not None and self._nearby.is_turn_over():
                        await asyncio.sleep(0)
                    return value
        result = StructuredResult(runtime.loop)
        call, _ = _make_call(self, method, args, kwargs, options, structured=True, sink=result)
        if self.quota.fits(call.size):
            self.quota.take(call.size)
            call.quota = self.quota
            self.submit_now(call)
        else:
            await self._submit_in_turn(call)
        return await await_structured(runtime, result, call)

    def open_stream(
        self,
        method: MethodDefinition,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: MethodOptions,
        *,
        structured: bool,
    ) -> OwnStream:
        """Call a generator. From any thread. Without room it raises, or waits when structured."""
        stream, call = _make_stream(self, method, args, kwargs, options, structured=structured)
        if structured:
            self.runtime.post(self._begin_stream, call)
        else:
            self._submit_if_room(call, method)
        return stream

    def _submit_if_room(self, call: ActorOut, method: MethodDefinition) -> None:
        """From any thread. Raises `PendingCallsLimitExceeded`."""
        runtime, quota = self.runtime, self.quota
        if runtime.in_loop():
            if not quota.fits(call.size):
                raise _too_many(self, method)
            quota.take(call.size)
            call.quota = quota
            bind_call(call.sink, call)
            self.submit_now(call)
            return
        with runtime.posting:
            if not quota.fits(call.size):
                raise _too_many(self, method)
            quota.posted += 1
        bind_call(call.sink, call)
        runtime.post(_submit_posted, call)

    def _begin_stream(self, call: ActorOut) -> None:
        if self.quota.fits(call.size):
            self.quota.take(call.size)
            call.quota = self.quota
            self.submit_now(call)
        else:
            self.runtime.streams.begin_later(call, self._submit_in_turn(call))

    async def _submit_in_turn(self, call: ActorOut) -> None:
        """Submit when there is room, after those who wait for it already."""
        timeout_s = call.envelope.budget_s if call.envelope is not None else None
        left = await take_turn(self.runtime, self.quota, call.size, timeout_s, f"{self!r}.{call.name}()")
        call.quota = self.quota
        if call.ended:  # given up meanwhile
            self.quota.give(call.size)
            wake(self.quota)
            return
        if left != timeout_s and call.envelope is not None:
            call.envelope = structs.replace(call.envelope, budget_s=left)
        if type(call.sink) is not StructuredResult:
            bind_call(call.sink, call)
        self.submit_now(call)

    def submit_now(self, call: ActorOut) -> None:
        if self.life is ActorState.DEAD:
            call.end(self.death_failure(self.death, call.name, Outcome.NOT_EXECUTED))
            return
        call.begin()
        if call.ended:
            return
        if self.peer is not None and not call.missing:
            if not self.outbox and self._may_send(call) or _came_through(call):
                self.send(call)
                return
        if self.outbox is None:
            self.outbox = deque()
        self.outbox.append(call)
        if self.peer is not None:
            self.flush()
        elif self.owner_address or self.place is not None:
            self.runtime.directory.find(self)

    def _may_send(self, call: ActorOut) -> bool:
        """Whether the mailbox takes it for sure, as long as others do not fill it: more would only come back."""
        if self.held_back is not None:
            return False
        if self.unanswered >= self.box.calls or self.sent_bytes + call.size > self.box.bytes:
            return not self.unanswered or self.box.when_full != "wait"
        return True

    def flush(self) -> None:
        """Send what waits, in order: a call whose arguments are pending holds back those behind it (Ray, A-20)."""
        while self.outbox and self.peer is not None:
            call = self.outbox[0]
            if not call.ended:
                if call.missing or not self._may_send(call):
                    return
                self.outbox.popleft()
                self.send(call)
            else:
                self.outbox.popleft()
        if not self.outbox:
            self.outbox = None
            self._stale = 0

    def withdraw(self, call: ActorOut) -> None:
        """An unsent call ends: forget it, now or when its turn comes."""
        outbox = self.outbox
        if not outbox:
            return
        if outbox[0] is call:
            outbox.popleft()
            self.flush()  # it may have held back those behind it
            return
        self._stale += 1
        if 2 * self._stale > len(outbox):
            self.outbox = deque([each for each in outbox if not each.ended and each is not call]) or None
            self._stale = 0

    def came_back(self, call: ActorOut) -> None:
        """The mailbox is full: the call, and those behind it, wait until there is room."""
        peer = call.peer
        call.peer = None
        call.unsent()
        self.unanswered -= 1
        self.sent_bytes -= call.size
        if self.life is ActorState.DEAD or peer is None:
            call.end(self.death_failure(self.death, call.name, Outcome.NOT_EXECUTED))
            return
        if self.held_back is None:
            self.held_back = HeldBack(self)
            peer.tell(encode(CallerWaits(self.id, True)))
        self.held_back.came_back(call)

    def send(self, call: ActorOut) -> None:
        if call.dependencies and (failure := call.failed_dependency()) is not None:
            call.end(failure)
            return
        peer = self.peer
        assert peer is not None
        args, slots, parts = call.compose()
        call.peer = peer
        self.unanswered += 1
        self.sent_bytes += call.size
        try:
            peer.call(
                call.number,
                call,
                encode(ActorCall(call.number, self.id, call.name, args, call.envelope, slots)),
                *parts,
            )
        except ConnectionLost as error:
            call.lost(error)

    def one_less(self, call: ActorOut) -> None:
        """A call was answered, or never will be."""
        self.unanswered -= 1
        self.sent_bytes -= call.size
        if self.outbox:
            self.flush()

    # --- its life (on the loop)

    def connected(self, peer: Peer) -> None:
        """Calls may be sent: the actor is being made there, or lives there."""
        self.peer = peer
        if self.held_back is not None:
            self.held_back.release()
        self._nearby = hosts_in(self.runtime.loop).get(peer.identity.process)
        self.flush()

    def happened(self, event: ActorEvent, text: str = "", *, init_failed: bool = False) -> None:
        """A step of its life; the first death is the one that counts."""
        before = self.life
        self.life = after(before, event)
        if self.life is ActorState.DEAD and before is not ActorState.DEAD:
            self.death = text
            self.init_failed = init_failed
            self.peer = self._nearby = None
            if self.held_back is not None:
                self.held_back.release()
            outbox, self.outbox = self.outbox, None
            for call in outbox or ():
                call.end(self.death_failure(text, call.name, Outcome.NOT_EXECUTED))
            open_wide(self.quota, UNLIMITED)
        ready, self.ready = self.ready, None
        for future in ready or ():
            if not future.done():
                future.set_result(None)

    def call_lost(self, call: ActorOut, error: ConnectionLost) -> None:
        """The connection ended under a call: say so once it is known how the worker died."""
        if not call.ended:
            saying = self.runtime.spawn(self._say_how(call, error))
            # Also when the end of the session cancels it before it has said anything.
            saying.add_done_callback(lambda _: self._end_lost(call, error))

    async def _say_how(self, call: ActorOut, error: ConnectionLost) -> None:
        peer = call.peer
        if self.life is not ActorState.DEAD and peer is not None and peer.identity:
            await self.runtime.worker_lost(peer.identity.process)
        self._end_lost(call, error)

    def _end_lost(self, call: ActorOut, error: ConnectionLost) -> None:
        if call.ended:
            return
        if self.life is ActorState.DEAD:
            call.end(self.death_failure(self.death, call.name, error.outcome))
        else:
            what = f"the connection to {self!r} was lost while {call.name}() was under way"
            text = f"{what} ({error.outcome.value}): {error}"
            call.end(fail_with(ActorUnavailableError, text, outcome=error.outcome))

    def death_failure(self, text: str, method: str, outcome: Outcome) -> Failure:
        message = f"{self!r} is dead, {method}() has {_ran(outcome)}: {text}"
        return fail_with(ActorDiedError, message, actor_init_failed=self.init_failed, outcome=outcome)

    def __repr__(self) -> str:
        return f"Actor({self.definition.name}, {self.id})"


def _make_call(
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
    encoded, dependencies = encode_arguments(args, kwargs)
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
    where: Any = sink
    result: Any = None
    if sink is None:
        number, result, where = make_sink(runtime, options.num_returns)
    else:
        number = sink.number if isinstance(sink, OwnStream) else next(runtime.hub.numbers)
    call = ActorOut(runtime, number, method.name, where, encoded, dependencies, envelope)
    call.link = link
    call.unwanted = False
    call.size = size_of(encoded)
    return call, result


def _make_stream(
    link: Link,
    method: MethodDefinition,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: MethodOptions,
    *,
    structured: bool,
) -> tuple[OwnStream, ActorOut]:
    runtime = link.runtime
    window = window_of(options)
    stream = OwnStream(runtime, next(runtime.hub.numbers), method.name, window)
    once = replace(options, num_returns=1)
    call, _ = _make_call(link, method, args, kwargs, once, structured=structured, sink=stream)
    call.envelope = streaming(call.envelope, window)
    stream.call = call
    return stream, call


def _too_many(link: Link, method: MethodDefinition) -> PendingCallsLimitExceeded:
    quota = link.quota
    return PendingCallsLimitExceeded(
        f"{link!r} already has {quota.calls} pending calls of this process ({quota.bytes} bytes of arguments; "
        f"max_pending_calls={quota.max_calls}): await some first, or write `await handle.{method.name}.submit(...)`"
        ", which waits for room"
    )


def _came_through(call: ActorOut) -> bool:
    """Whether a call of the actor waits for this one: then what is queued here may wait for it, too."""
    envelope = call.envelope
    return envelope is not None and any(hop.target == call.link.id for hop in envelope.chain)


def _submit_posted(call: ActorOut) -> None:
    """Submit a call that another thread made. On the loop."""
    link = call.link
    with link.runtime.posting:
        link.quota.posted -= 1
    link.quota.take(call.size)
    call.quota = link.quota
    link.submit_now(call)


def _ran(outcome: Outcome) -> str:
    return "not run" if outcome is Outcome.NOT_EXECUTED else "an unknown outcome"


def unschedulable(error: ActorliteError) -> ActorliteError:
    """The node speaks of tasks; for an actor the same shortfall has its own name."""
    return ActorUnschedulableError(str(error)) if isinstance(error, TaskUnschedulableError) else error
