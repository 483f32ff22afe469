"""Actors from the caller's side: their creation, their calls, and the news of their death.

The creator leases a worker, sends `CreateActor` and then its calls on the same connection: the worker's mailbox keeps
them behind the constructor, so nothing waits for a round trip. Other processes learn the place from the creator.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from actorlite.context import current_call
from actorlite.deadlines import time_left
from actorlite.definitions import ActorDefinition, MethodDefinition
from actorlite.errors import (
    ActorDiedError,
    ActorliteError,
    ActorUnavailableError,
    ActorUnschedulableError,
    ConnectionLost,
    Outcome,
    PendingCallsLimitExceeded,
    TaskUnschedulableError,
)
from actorlite.ids import ActorId
from actorlite.options import STREAMING, MethodOptions
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
from actorlite.runtime.nearby import MUST_SEND, LocalHost, are_immutable, hosts_in
from actorlite.runtime.streams import OwnStream, streaming, window_of
from actorlite.state.actors import ActorEvent, ActorState, after
from actorlite.streams import ObjectRefStream
from actorlite.wire.messages import ACTOR_DIED, NO_SUCH_ACTOR, ActorCall, ActorPlace, Rejected, encode

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime


class ActorOut(Outbound):
    """One call of a method."""

    __slots__ = ("link",)

    link: Link

    def arguments_ready(self) -> None:
        self.link.flush()

    def answered(self, message: Any, parts: Any) -> None:
        self.link.one_less()
        super().answered(message, parts)

    def item(self, message: Any, parts: Any) -> None:
        take_item(self, message, parts)

    def rejected(self, message: Rejected) -> None:
        if message.reason in (ACTOR_DIED, NO_SUCH_ACTOR):
            # What its creator was told says more: why the constructor failed, or who killed it.
            text = self.link.death or message.text or "the worker does not know it"
            self.end(self.link.death_failure(text, self.name, Outcome.NOT_EXECUTED))
        else:
            super().rejected(message)

    def lost(self, error: ConnectionLost) -> None:
        self.link.one_less()
        self.link.call_lost(self, error)

    def withdraw(self) -> None:
        self.link.withdraw(self)

    def cancel(self, *, force: bool = False, recursive: bool = True) -> bool:
        if force:
            raise ValueError(
                f"force=True ends a worker process, and with it the whole actor: {self.name}() is a call of "
                f"{self.link!r}; write al.kill(handle) if that is meant, else cancel without force"
            )
        return super().cancel(recursive=recursive)


class Link:
    """One actor as this process sees it. Slim: a process may hold a hundred thousand."""

    __slots__ = (
        "runtime", "id", "definition", "owner_address", "life", "peer", "unanswered", "max_pending", "death",
        "init_failed", "ready", "place", "_nearby", "_outbox", "__weakref__",
    )  # fmt: skip

    def __init__(
        self, runtime: ProcessRuntime, id: ActorId, definition: ActorDefinition, owner_address: str, max_pending: int
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
        self.max_pending = max_pending
        self.death = ""
        self.init_failed = False
        self.ready: list[asyncio.Future[None]] | None = None
        """Those who wait for the end of creation."""
        self.place: ActorPlace | None = None
        """Where it lives, once that is known."""
        self._nearby: LocalHost | None = None
        """The hosting worker, when it lives in this loop."""
        self._outbox: deque[ActorOut] | None = None

    @property
    def state(self) -> str:
        return self.life.value

    @property
    def is_full(self) -> bool:
        """Whether this process has as many unanswered calls on the actor as it may have."""
        waiting = len(self._outbox) if self._outbox else 0
        return 0 <= self.max_pending <= self.unanswered + waiting and self.life is not ActorState.DEAD

    # --- calls (from any thread)

    def call(
        self, method: MethodDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: MethodOptions
    ) -> Any:
        runtime = self.runtime
        runtime.check_open()
        if self.max_pending >= 0 and self.is_full:
            raise self._full(method)
        encoded, dependencies = encode_arguments(args, kwargs)
        number, result, sink = make_sink(runtime, options.num_returns)
        envelope = make_envelope(
            current_call.get(),
            structured=False,
            timeout=options.timeout,
            num_returns=options.num_returns,
            name=options.name or "",
        )
        call = ActorOut(runtime, number, method.name, sink, encoded, dependencies, envelope)
        call.link = self
        bind_call(sink, call)
        runtime.post(self._submit, call)
        return result

    async def submit(
        self, method: MethodDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: MethodOptions
    ) -> Any:
        try:
            while self.is_full:
                await self.runtime.room_on(self)
            if method.kind.streams and options.num_returns in (1, STREAMING):
                return ObjectRefStream.begin(self.open_stream(method, args, kwargs, options, structured=False))
            return self.call(method, args, kwargs, options)
        except BaseException:
            # Its turn may have come, in this very pass of the loop, and is not used: the next one looks.
            self.runtime.post(self.runtime.make_room, self)
            raise

    async def run(
        self, method: MethodDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: MethodOptions
    ) -> Any:
        runtime = self.runtime
        if not runtime.in_loop() or options.num_returns != 1:
            return await runtime.run_elsewhere(self.call(method, args, kwargs, options))
        runtime.check_open()
        # Nothing of this process is under way to the actor, so the shortcut overtakes no earlier call.
        if self._nearby is not None and not self.unanswered and not self._outbox and options.timeout is None:
            if are_immutable(args, kwargs):
                value = self._nearby.run_now(self.id, method.name, runtime, args, kwargs)
                if value is not MUST_SEND:
                    if self._nearby is not None and self._nearby.is_turn_over():
                        await asyncio.sleep(0)
                    return value
        encoded, dependencies = encode_arguments(args, kwargs)
        scope = current_call.get()
        envelope = make_envelope(
            scope,
            structured=True,
            timeout=time_left(options.timeout, runtime.loop.time()),
            num_returns=1,
            name=options.name or "",
        )
        result = StructuredResult(runtime.loop)
        call = ActorOut(runtime, next(runtime.hub.numbers), method.name, result, encoded, dependencies, envelope)
        call.link = self
        self._submit(call)
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
        """Call a generator. From any thread."""
        runtime = self.runtime
        runtime.check_open()
        if not structured and self.max_pending >= 0 and self.is_full:
            raise self._full(method)
        encoded, dependencies = encode_arguments(args, kwargs)
        envelope = make_envelope(
            current_call.get(),
            structured=structured,
            timeout=options.timeout,
            num_returns=1,
            name=options.name or "",
        )
        window = window_of(options)
        stream = OwnStream(runtime, next(runtime.hub.numbers), method.name, window)
        call = ActorOut(runtime, stream.number, method.name, stream, encoded, dependencies, streaming(envelope, window))
        call.link = self
        stream.call = call
        runtime.post(self._submit, call)
        return stream

    def _full(self, method: MethodDefinition) -> PendingCallsLimitExceeded:
        return PendingCallsLimitExceeded(
            f"{self!r} already has {self.max_pending} unanswered calls of this process (max_pending_calls): await "
            f"some first, or write `await handle.{method.name}.submit(...)`, which waits for room"
        )

    def _submit(self, call: ActorOut) -> None:
        if self.life is ActorState.DEAD:
            call.end(self.death_failure(self.death, call.name, Outcome.NOT_EXECUTED))
            return
        call.begin()
        if call.ended:
            return
        if self.peer is not None and not self._outbox and not call.missing:
            self._send(call)
            return
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append(call)
        if self.peer is not None:
            self.flush()
        elif self.owner_address or self.place is not None:
            self.runtime.directory.find(self)

    def flush(self) -> None:
        """Send what waits, in order: a call whose arguments are pending holds back those behind it (Ray, A-20)."""
        while self._outbox and self.peer is not None:
            call = self._outbox[0]
            if call.missing:
                return
            self._outbox.popleft()
            if not call.ended:
                self._send(call)
        if not self._outbox:
            self._outbox = None

    def withdraw(self, call: ActorOut) -> None:
        if self._outbox and call in self._outbox:
            self._outbox.remove(call)
            self.flush()  # it may have held back those behind it
            if self.runtime.room:
                self.runtime.make_room(self)

    def _send(self, call: ActorOut) -> None:
        if call.dependencies and (failure := call.failed_dependency()) is not None:
            call.end(failure)
            return
        peer = self.peer
        assert peer is not None
        args, slots, parts = call.compose()
        call.peer = peer
        self.unanswered += 1
        try:
            peer.call(
                call.number,
                call,
                encode(ActorCall(call.number, self.id, call.name, args, call.envelope, slots)),
                *parts,
            )
        except ConnectionLost as error:
            call.lost(error)

    def one_less(self) -> None:
        self.unanswered -= 1
        if self.runtime.room:
            self.runtime.make_room(self)

    # --- its life (on the loop)

    def connected(self, peer: Peer) -> None:
        """Calls may be sent: the actor is being made there, or lives there."""
        self.peer = peer
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
            outbox, self._outbox = self._outbox, None
            for call in outbox or ():
                call.end(self.death_failure(text, call.name, Outcome.NOT_EXECUTED))
            if self.runtime.room:
                self.runtime.make_room(self)
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


def _ran(outcome: Outcome) -> str:
    return "not run" if outcome is Outcome.NOT_EXECUTED else "an unknown outcome"


def unschedulable(error: ActorliteError) -> ActorliteError:
    """The node speaks of tasks; for an actor the same shortfall has its own name."""
    return ActorUnschedulableError(str(error)) if isinstance(error, TaskUnschedulableError) else error
