"""Actors from the caller's side: what a process knows of one, its calls in order, and the news of its life.

The creator leases a worker, sends `CreateActor` and then its calls on the same connection: the worker's mailbox keeps
them behind the constructor, so nothing waits for a round trip. Other processes learn the place from the creator.
"""

from __future__ import annotations

import asyncio
import operator
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from actorlite.deadlines import time_left
from actorlite.definitions import ActorDefinition, MethodDefinition
from actorlite.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorliteError,
    ActorPlacementGroupRemoved,
    ActorUnschedulableError,
    ConnectionLost,
    Outcome,
    PendingCallsLimitExceeded,
    TaskUnschedulableError,
)
from actorlite.ids import ActorId
from actorlite.options import (
    MAX_PENDING_BYTES,
    ActorOptions,
    MethodOptions,
)
from actorlite.refs import Failure
from actorlite.rpc.peer import Peer
from actorlite.runtime.actor_calls import (
    ActorOut,
    came_through,
    make_call,
    quick_call,
)
from actorlite.runtime.calls import StructuredResult, envelope_now, fail_with
from actorlite.runtime.held import HeldBack
from actorlite.runtime.nearby import MUST_SEND, LocalHost, are_immutable, hosts_in
from actorlite.runtime.room import RoomQuota, open_wide
from actorlite.runtime.streams import OwnStream
from actorlite.runtime.submission import Submitter
from actorlite.state.actors import ActorEvent, ActorState, DeathCause, after
from actorlite.state.quota import UNLIMITED, Quota
from actorlite.wire.calls import ActorCall, CallerWaits
from actorlite.wire.messages import encode
from actorlite.wire.requests import ActorPlace

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime


FIXED = "fixed"
"""It will be this actor, or dead."""
OPEN = "open"
"""It may turn out to be another one: `get_if_exists`."""


class Link(Submitter[MethodDefinition, MethodOptions, ActorOut]):
    """One actor as this process sees it. Slim: a process may hold a hundred thousand.

    Handles, bound methods and calls under way hold it, and nothing else for longer than it works on it: when the link
    that the creator made goes, nobody holds the actor any more, and it ends. Other processes are holders too: for them
    `exports` holds it.
    """

    __slots__ = (
        "runtime", "id", "definition", "owner_address", "options", "life", "peer", "unanswered", "quota", "box",
        "death", "init_failed", "cause", "restarts", "ready", "place", "held", "_nearby", "outbox", "_stale",
        "sent_bytes", "held_back", "claim", "alias", "__weakref__",
    )  # fmt: skip

    def __init__(
        self,
        runtime: ProcessRuntime,
        id: ActorId,
        definition: ActorDefinition,
        owner_address: str,
        options: ActorOptions,
    ) -> None:
        self.runtime = runtime
        self.id = id
        self.definition = definition
        self.owner_address = owner_address
        """Empty when this process created the actor."""
        self.options = options
        self.life = ActorState.PENDING_CREATION
        self.peer: Peer | None = None
        """The hosting worker, once calls may be sent to it."""
        self.unanswered = 0
        """Calls that were sent and have no answer yet."""
        most = options.max_pending_calls
        self.quota: RoomQuota = Quota(*((UNLIMITED, UNLIMITED) if most == -1 else (most, MAX_PENDING_BYTES)))
        """Calls that this process has pending."""
        self.box = options.box
        self.death = ""
        self.init_failed = False
        self.cause: DeathCause | None = None
        self.restarts = 0
        self.ready: list[asyncio.Future[None]] | None = None
        """Those who wait for the end of creation."""
        self.place: ActorPlace | None = None
        """Where it lives, once that is known."""
        self.held: object = None
        """What its owner counts this process for, as one that holds the actor; None for a weak handle."""
        self._nearby: LocalHost | None = None
        """The hosting worker, when it lives in this loop."""
        self.outbox: deque[ActorOut] | None = None
        """Calls that were not sent, in order."""
        self._stale = 0
        """About how many calls in the outbox have ended."""
        self.sent_bytes = 0
        self.held_back: HeldBack | None = None
        """While the mailbox is full."""
        self.claim = ""
        """While control has not said yet whose its name is: `FIXED`, or `OPEN`."""
        self.alias: Link | None = None
        """The actor that had the name, which this one was not made for."""

    def __del__(self) -> None:
        # Anywhere, also inside the collector: only note it. What a borrower held is released by `held`.
        if not self.owner_address and self.life is not ActorState.DEAD:
            self.runtime.lifetimes.let_go(self.id, self.peer)

    @property
    def state(self) -> str:
        return self.life.value

    @property
    def is_dead(self) -> bool:
        return self.life is ActorState.DEAD

    @property
    def is_weak(self) -> bool:
        """Whether it does not keep the actor alive."""
        return bool(self.owner_address) and self.held is None

    # --- calls

    def call(
        self, what: MethodDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: MethodOptions
    ) -> Any:
        if options.is_plain and not kwargs:
            ref = quick_call(self, what.name, args)
            if ref is not None:
                return ref
        return super().call(what, args, kwargs, options)

    def make(
        self,
        what: MethodDefinition,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: MethodOptions,
        *,
        structured: bool = False,
        sink: StructuredResult | OwnStream | None = None,
    ) -> tuple[ActorOut, Any]:
        return make_call(self, what, args, kwargs, options, structured=structured, sink=sink)

    def answered_here(
        self, what: MethodDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: MethodOptions
    ) -> Any:
        # Nothing of this process is under way to the actor, so the shortcut overtakes no earlier call.
        if self._nearby is None or self.unanswered or self.outbox or self.held_back is not None:
            return MUST_SEND
        # Neither retries nor a deadline, and no turn of its own kind.
        if not options.is_plain or self.options.max_task_retries or not are_immutable(args, kwargs):
            return MUST_SEND
        if time_left(None, self.runtime.loop.time()) is not None:
            return MUST_SEND
        return self._nearby.run_now(self.id, what.name, self.runtime, args, kwargs)

    def is_turn_over(self) -> bool:
        return self._nearby is not None and self._nearby.is_turn_over()

    def too_many(self, call: ActorOut) -> PendingCallsLimitExceeded:
        quota = self.quota
        return PendingCallsLimitExceeded(
            f"{self!r} already has {quota.calls} pending calls of this process ({quota.bytes} bytes of arguments; "
            f"max_pending_calls={quota.max_calls}): await some first, or write `await handle.{call.name}.submit(...)`"
            ", which waits for room"
        )

    def described(self, call: ActorOut) -> str:
        return f"{self!r}.{call.name}()"

    def begin(self, call: ActorOut) -> None:
        if self.life is ActorState.DEAD:
            if self.alias is not None:
                call.link = self.alias
                self.alias.begin(call)
                return
            call.end(self.death_failure(self.death, call.name, Outcome.NOT_EXECUTED))
            return
        call.begin()
        if not call.ended:
            self.enqueue(call)

    def enqueue(self, call: ActorOut) -> None:
        """Send a call that has begun, or let it wait. Also for one that goes again."""
        if call.ended:
            return
        if self.alias is not None:
            call.link = self.alias
            self.alias.enqueue(call)
            return
        if self.life is ActorState.DEAD or self.runtime.gone:
            outcome = Outcome.UNKNOWN if call.may_have_run else Outcome.NOT_EXECUTED
            text = self.death or self.runtime.gone
            call.end(self.death_failure(text, call.name + call.attempts, outcome))
            return
        if self.peer is not None and not call.missing:
            if not self.outbox and self._may_send(call) or came_through(call):
                self.send(call)
                return
        if self.outbox is None:
            self.outbox = deque()
            self.runtime.directory.with_unsent.add(self)
        self.outbox.append(call)
        if self.peer is not None:
            self.flush()
        elif self.owner_address and not self.claim:
            self.runtime.lookups.find(self)

    def _may_send(self, call: ActorOut) -> bool:
        """Whether the mailbox takes it for sure, as long as others do not fill it: more would only come back."""
        if self.held_back is not None:
            return False
        if self.unanswered >= self.box.calls or self.sent_bytes + call.size > self.box.bytes:
            return not self.unanswered or self.box.when_full != "wait"
        return True

    def flush(self) -> None:
        """Send what waits, in order: a call whose arguments are pending holds back those behind it (Ray, A-20)."""
        while self.outbox and self.peer is not None and self.peer.is_open:
            call = self.outbox[0]
            if not call.ended:
                if call.missing or not self._may_send(call):
                    return
                self.outbox.popleft()
                self.send(call)
            else:
                self.outbox.popleft()
        if not self.outbox:
            self._all_sent()
            if self.ready:
                self._wake_ready()

    def flush_one(self, call: ActorOut) -> None:
        """A call has its arguments. One that the actor waits for overtakes: what is before it may wait for it."""
        if came_through(call) and self.outbox and call in self.outbox and self.peer is not None and self.peer.is_open:
            self.outbox.remove(call)
            self.send(call)
        self.flush()

    def _all_sent(self) -> None:
        self.outbox = None
        self._stale = 0
        self.runtime.directory.with_unsent.discard(self)

    @property
    def last_unsent(self) -> ActorOut | None:
        """Of the calls that wait here, the one that was made last."""
        if self.outbox:
            return self.outbox[-1]
        return self.held_back.last if self.held_back is not None else None

    def _wake_ready(self) -> None:
        ready, self.ready = self.ready, None
        for future in ready or ():
            if not future.done():
                future.set_result(None)

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
            self.outbox = deque([each for each in outbox if not each.ended and each is not call])
            self._stale = 0
            if not self.outbox:
                self._all_sent()

    def came_back(self, call: ActorOut) -> None:
        """The mailbox is full: the call, and those behind it, wait until there is room."""
        peer = call.peer
        call.peer = None
        call.unsent()
        self.unanswered -= 1
        self.sent_bytes -= call.size
        if self.life is ActorState.DEAD or peer is None:
            outcome = Outcome.UNKNOWN if call.may_have_run else Outcome.NOT_EXECUTED
            call.end(self.death_failure(self.death, call.name + call.attempts, outcome))
            return
        if peer is not self.peer:
            self.enqueue(call)  # the actor is elsewhere by now
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
                encode(ActorCall(call.number, self.id, call.name, args, envelope_now(call), slots)),
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
        if self.outbox:
            # Calls that go again stand where they were: before those that were made later.
            self.outbox = deque(sorted(self.outbox, key=operator.attrgetter("number")))
        self.flush()

    def happened(
        self, event: ActorEvent, text: str = "", *, init_failed: bool = False, cause: DeathCause | None = None
    ) -> None:
        """A step of its life; the first death is the one that counts."""
        before = self.life
        self.life = after(before, event)
        if self.life is ActorState.RESTARTING:
            self.peer = self._nearby = self.place = None
            if self.owner_address and (self.outbox or self.held_back is not None):
                self.runtime.lookups.find(self)
        if self.life is ActorState.DEAD and before is not ActorState.DEAD:
            self.death = text
            self.init_failed = init_failed
            self.cause = cause
            self.peer = self._nearby = None
            if self.options.name:
                self.runtime.names.release(self.id)
            if self.held_back is not None:
                self.held_back.release()
            outbox = self.outbox
            self._all_sent()
            for call in outbox or ():
                outcome = Outcome.UNKNOWN if call.may_have_run else Outcome.NOT_EXECUTED
                call.end(self.death_failure(text, call.name, outcome))
            open_wide(self.quota, UNLIMITED)
        self._wake_ready()

    def become(self, other: Link) -> None:
        """Stand for another actor, which had the name: what was called here is called there."""
        self.claim, self.alias = "", other
        waiting, self.outbox = self.outbox, None
        for call in waiting or ():
            call.link = other
            other.enqueue(call)
        self.happened(ActorEvent.ENDED, f"{other!r} had its name")

    def step(self) -> None:
        """Wake those who wait for a change."""
        self._wake_ready()

    def death_failure(self, text: str, method: str, outcome: Outcome) -> Failure:
        message = f"{self!r} is dead, {method}() has {_ran(outcome)}: {text}"
        kind = died(self.cause)
        return fail_with(kind, message, actor_init_failed=self.init_failed, outcome=outcome)

    def __repr__(self) -> str:
        return f"Actor({self.definition.name}, {self.id})"


def died(cause: DeathCause | None) -> type[ActorDiedError]:
    """The error of an actor that is dead for this."""
    if cause is DeathCause.GROUP_REMOVED:
        return ActorPlacementGroupRemoved
    return ActorAlreadyExistsError if cause is DeathCause.NAME_TAKEN else ActorDiedError


def _ran(outcome: Outcome) -> str:
    return "not run" if outcome is Outcome.NOT_EXECUTED else "an unknown outcome"


def unschedulable(error: ActorliteError) -> ActorliteError:
    """The node speaks of tasks; for an actor the same shortfall has its own name."""
    return ActorUnschedulableError(str(error)) if isinstance(error, TaskUnschedulableError) else error
