"""What becomes of a call that cannot start at once: it waits, is refused, or drives out another.

A full mailbox whose policy is to wait holds its callers back: see `state.crowd`. Calls whose chain came through the
actor are admitted whether there is room or not: what they wait for would not end before them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from actorlite.ids import ActorId
from actorlite.rpc.peer import Peer
from actorlite.state.crowd import Crowd
from actorlite.state.quota import UNLIMITED
from actorlite.wire.calls import BAD_REQUEST, CYCLE, HELD, MAILBOX_FULL, SHED, CallerWaits, Room
from actorlite.wire.messages import encode
from actorlite.worker.scope import HostedActor

if TYPE_CHECKING:
    from actorlite.worker.host import Worker
    from actorlite.worker.inbound import InboundCall

logger = logging.getLogger("actorlite.worker")

MANY_WAIT = 5000
"""Queued calls of one actor that are worth a warning; again when they have doubled."""


class Admission:
    """On the loop only."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._crowded: dict[ActorId, HostedActor] = {}
        self._warned: dict[ActorId, int] = {}

    def admit(self, actor: HostedActor, call: InboundCall) -> bool:
        """True: it has been counted as started, start it. False: it waits, or has been answered."""
        mailbox = actor.mailbox
        if call.group and call.group not in actor.manner.executors:
            self._refuse(call, BAD_REQUEST, f"{actor.class_name} has no concurrency group {call.group!r}")
            return False
        if call.through:
            if mailbox.try_start(call):
                return True
            mailbox.wait(call)
            self.refuse_cycles(actor, call)
            return False
        box = actor.manner.box
        if actor.crowd is not None:
            fits = not mailbox.is_full(box.calls, box.bytes, call.size)
            if actor.crowd.refuses(call.peer, call.size, fits):
                self._refuse(call, HELD)
                return False
        if mailbox.try_start(call):
            return True
        if actor.crowd is None and not self._has_room(actor, call):
            return False
        mailbox.wait(call)
        if actor.manner.pace is not None:
            actor.manner.pace.waits(self._worker.loop.time())
        if mailbox.waiting >= MANY_WAIT:
            self._warn(actor)
        return False

    def ended(self, actor: HostedActor, call: Any) -> None:
        """A call of a watched actor has ended, or was taken back."""
        if actor.manner.pace is not None:
            now = self._worker.loop.time()
            if call.name == "__init__":
                actor.manner.pace.opened(now)
            else:
                actor.manner.pace.ended(now, actor.mailbox.waiting > 0)
        if actor.manner.is_special:
            self.refuse_cycles(actor, call)
        if actor.crowd is not None:
            self._grant(actor)

    def refuse_cycles(self, actor: HostedActor, call: Any) -> None:
        """Refuse what would wait for ever now that `call` waits, or has ended."""
        turns = self._worker.actors.turns
        for victim in actor.mailbox.deadlocked(call, turns.running(actor)):
            hops = [*victim.chain, None]
            names = [f"{hop.name or 'a task'}()" if hop is not None else f"{victim.function_name}()" for hop in hops]
            self._refuse(
                victim,
                CYCLE,
                f"{names[-1]} would wait for ever: it needs its turn in {actor!r}, which belongs to a call that waits "
                f"for it: {' -> '.join(names)}. Pass what is needed as arguments, call with .remote() and do not wait, "
                "or make the actor reentrant=True",
            )
            for following in actor.mailbox.remove(victim):
                turns.start(following)

    # --- callers that are held back

    def caller_waits(self, peer: Peer, message: CallerWaits, parts: Any) -> None:
        """Handler."""
        actor = self._worker.actors.find(message.target)
        if actor is None or actor.crowd is None:
            if message.more:  # the actor has ended, which each call will be told
                peer.tell(encode(Room(message.target, UNLIMITED, UNLIMITED)))
            return
        if message.more:
            actor.crowd.waits(peer)
        else:
            actor.crowd.leaves(peer)
        self._worker.runner.collect_ended()
        if actor.crowd is not None:
            self._grant(actor)

    def peer_lost(self, peer: Peer) -> None:
        for actor in list(self._crowded.values()):
            if actor.crowd is not None:
                actor.crowd.leaves(peer)
                self._grant(actor)

    def forget(self, actor: HostedActor) -> None:
        """The actor has ended: those who wait for room learn it from the answers to their calls."""
        self._warned.pop(actor.id, None)
        crowd, actor.crowd = actor.crowd, None
        if crowd is not None:
            del self._crowded[actor.id]
            for peer in crowd.callers:
                peer.tell(encode(Room(actor.id, UNLIMITED, UNLIMITED)))

    def _grant(self, actor: HostedActor) -> None:
        crowd = actor.crowd
        assert crowd is not None
        for grant in crowd.grants(actor.mailbox.behind, actor.mailbox.bytes):
            grant.caller.tell(encode(Room(actor.id, grant.calls, grant.bytes)))
        if crowd.is_over:
            actor.crowd = None
            actor.watched = actor.manner.is_watched
            del self._crowded[actor.id]

    # --- a full mailbox

    def _has_room(self, actor: HostedActor, call: InboundCall) -> bool:
        """Whether the call may wait; else it has been answered. A call that ended in its thread makes room first."""
        box, mailbox = actor.manner.box, actor.mailbox
        budget = call.envelope.budget_s if call.envelope is not None else None
        if actor.manner.pace is not None and budget is not None:
            least = actor.manner.pace.least_s(mailbox.behind)
            if least > budget:
                self._refuse(
                    call,
                    SHED,
                    f"{mailbox.behind} calls wait before it and one takes {actor.manner.pace.interval_s:.3g} s, so it "
                    f"would end after {least:.3g} s, and it has {budget:.3g} s",
                )
                return False
        if mailbox.is_full(box.calls, box.bytes, call.size):
            self._worker.runner.collect_ended()
        if not mailbox.is_full(box.calls, box.bytes, call.size):
            return True
        if box.when_full == "wait":
            crowd = actor.crowd = Crowd(box.calls, box.bytes)
            actor.watched = True
            self._crowded[actor.id] = actor
            crowd.refuses(call.peer, call.size, False)
            self._refuse(call, HELD)
            return False
        full = f"the mailbox of {actor!r} is full: {mailbox.behind} calls ({mailbox.bytes} bytes) wait"
        if box.when_full != "drop-oldest":
            self._refuse(call, MAILBOX_FULL, f"refused, not executed: {full} (mailbox={box})")
            return False
        while mailbox.is_full(box.calls, box.bytes, call.size):
            oldest = mailbox.oldest(call.group)
            if oldest is None:
                break
            self._refuse(oldest, MAILBOX_FULL, f"dropped, not executed: {full} and it had waited longest")
            for following in mailbox.remove(oldest):
                self._worker.actors.turns.start(following)
        return True

    def _refuse(self, call: Any, reason: str, text: str = "") -> None:
        self._worker.runner.deliver(call, call.rejection(reason, text))

    def _warn(self, actor: HostedActor) -> None:
        """Once each time the queue has doubled."""
        waiting = actor.mailbox.waiting
        if waiting >= self._warned.get(actor.id, MANY_WAIT):
            self._warned[actor.id] = 2 * waiting
            logger.warning(
                "%r has %d queued calls: it is called faster than it answers. Await results before calling on, set "
                "max_pending_calls or mailbox, or allow more at once with max_concurrency",
                actor,
                waiting,
            )

    def __repr__(self) -> str:
        return f"<Admission crowded={len(self._crowded)}>"
