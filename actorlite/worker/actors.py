"""The actors of one worker: constructors, calls, ends. A constructor is the first call in an actor's mailbox."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from actorlite.errors import ActorDiedError, ActorError, ActorUnavailableError, Outcome
from actorlite.ids import ActorId, ProcessId
from actorlite.rpc.peer import Peer
from actorlite.wire.calls import ACTOR_DIED, INTERRUPTED, NO_SUCH_ACTOR, CreateActor, EndActor, Exists, Rejected
from actorlite.wire.messages import encode
from actorlite.wire.requests import StopActor, Yes
from actorlite.worker.constructors import Constructors
from actorlite.worker.endings import Endings
from actorlite.worker.executor import ThreadExecutor
from actorlite.worker.inbound import Answer, InboundCall
from actorlite.worker.scope import PLAIN, HostedActor, Manner
from actorlite.worker.turns import Turns

if TYPE_CHECKING:
    from actorlite.worker.host import Worker

logger = logging.getLogger("actorlite.worker")

SHARED_THREADS = 32
"""Threads for the plain methods of all light actors of a worker; one actor's calls still run one at a time."""


class ActorShelf:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._actors: dict[ActorId, HostedActor] = {}
        self._shared_executor: ThreadExecutor | None = None
        self.endings = Endings(worker, self._forget)
        self.turns = Turns(worker, self.endings)
        self._constructors = Constructors(worker, self._open, self._failed_to_start)

    def __len__(self) -> int:
        return len(self._actors) + len(self.endings.ending)

    # --- handlers

    def create(self, peer: Peer, message: CreateActor, parts: Any) -> None:
        if message.shared:
            executor = self._shared_executor
            if executor is None:
                executor = self._shared_executor = ThreadExecutor(SHARED_THREADS, "actorlite-shared")
        else:
            executor = ThreadExecutor(message.max_concurrency, f"actorlite-{message.name or 'actor'}")
        manner = Manner(message.conduct, message.name or "actor") if message.conduct is not None else PLAIN
        # The constructor has the mailbox to itself, whatever the limit is.
        actor = HostedActor(message.target, manner.inbox(message), executor, peer, message.name, manner)
        actor.units = message.units
        actor.more = message.more
        actor.inside = message.inside
        actor.restarts = message.restarts
        actor.stop_timeout_s = message.stop_timeout_s
        self._actors[actor.id] = actor
        call = InboundCall(self._worker, peer, message, parts, actor, "__init__")
        peer.inbound[call.id] = call
        self.turns.note_constructor(actor, call)
        self._constructors.start(call)

    def arrived(self, peer: Peer, message: Any, parts: Any) -> None:
        """Handler of `ActorCall`."""
        actor = self._actors.get(message.target)
        if actor is None:
            peer.send(encode(Rejected(message.id, NO_SUCH_ACTOR, self.endings.why(message.target))))
            return
        envelope = message.envelope
        repeatable = envelope is not None and envelope.execution
        if repeatable and self._worker.repeats.is_known(peer, message):
            return
        call = InboundCall(self._worker, peer, message, parts, actor, message.method)
        peer.inbound[call.id] = call
        if repeatable:
            self._worker.repeats.begin(call)
        self.turns.offer(call)

    def end(self, peer: Peer, message: EndActor, parts: Any) -> None:
        """Handler: end an actor once the calls that came before are done."""
        actor = self._actors.pop(message.target, None)
        if actor is not None:
            ending = self.endings.begin(actor, "it ends")
            if ending.actor.id in self.endings.ending:
                ending.asked.append((peer, message.id))
                return
        elif self.endings.ask(message.target, peer, message.id):
            return
        peer.tell(encode(Exists(message.id)))

    def exit(self, actor: HostedActor) -> None:
        """The actor wants to end: what runs may finish, what waits never runs."""
        if self._actors.pop(actor.id, None) is None:
            return
        text = f"it left with al.exit_actor() in {actor.class_name}"
        self._begin_no_more(actor, text)
        self.endings.begin(actor, text, left=True)

    async def stop(self, peer: Peer, body: StopActor) -> Yes:
        """Handler: end an actor now; gracefully with `on_stop`, else at once."""
        actor = self._actors.pop(body.target, None)
        if actor is None and body.graceful:
            ending = self.endings.ending.get(body.target)
            if ending is not None:
                self._begin_no_more(ending.actor, "it was stopped")
            return Yes(await self.endings.hurry(body.target))
        if actor is None:
            ending = self.endings.ending.get(body.target)
            if ending is None:
                return Yes(False)
            self._forget(ending.actor, "it was killed")
            return Yes(self.endings.drop(ending.actor))
        if body.graceful:
            self._begin_no_more(actor, "it was stopped")
            self.endings.begin(actor, "it was stopped")
            return Yes(await self.endings.hurry(actor.id) or True)
        self._forget(actor, "it was killed", restarts=body.restarts)
        return Yes(True)

    def find(self, identifier: ActorId) -> HostedActor | None:
        return self._actors.get(identifier)

    # --- constructors

    def _open(self, call: InboundCall, answer: Answer) -> None:
        actor = call.actor
        assert actor is not None
        if self._is_over(actor):
            self._too_late(call, answer)
            return
        actor.mailbox.open(max(1, call.message.max_concurrency))
        self.turns.done(call, answer)

    def _failed_to_start(self, call: InboundCall, answer: Answer) -> None:
        actor = call.actor
        assert actor is not None
        if self._is_over(actor):
            self._too_late(call, answer)
            return
        self._actors.pop(actor.id, None)
        self._worker.runner.deliver(call, answer)
        self._forget(actor, "its constructor or on_start raised")
        self.endings.drop(actor)

    def _is_over(self, actor: HostedActor) -> bool:
        """Whether it was ended while it was being made; another one may have its id by now."""
        return self._actors.get(actor.id) is not actor and not self.endings.has(actor)

    def _too_late(self, call: InboundCall, answer: Answer) -> None:
        if call.peer.inbound.get(call.id) is call:
            self._worker.runner.deliver(call, answer)

    # --- ends

    def caller_lost(self, peer: Peer) -> None:
        """Nobody waits at the other end of a connection any more."""
        self.turns.admission.peer_lost(peer)

    def creator_lost(self, process: ProcessId) -> None:
        """An actor dies with its creator (Ray, A-41)."""
        for actor in [each for each in self._actors.values() if each.creator.identity.process == process]:
            del self._actors[actor.id]
            self._forget(actor, "its creator is gone")
        for actor in self.endings.of_creator(process):
            self._forget(actor, "its creator is gone")
            self.endings.drop(actor)

    def _reject_waiting(self, actor: HostedActor, text: str) -> None:
        for call in actor.mailbox.withdraw(lambda each: True):
            self._worker.runner.deliver(call, call.rejection(ACTOR_DIED, text))

    def _begin_no_more(self, actor: HostedActor, text: str) -> None:
        """Only what runs goes on: not what waits, nor what is queued in a thread."""
        self._reject_waiting(actor, text)
        self.turns.take_back(actor, text)

    def _forget(self, actor: HostedActor, text: str, *, restarts: bool = False) -> None:
        """Answer what is waiting and what runs; coroutines are cancelled, threads cannot be."""
        self._reject_waiting(actor, text)
        kind: type[ActorError] = ActorUnavailableError if restarts else ActorDiedError
        for call in self.turns.take_started(actor):
            if call.name == "__init__" and isinstance(call, InboundCall):
                self._too_late(call, call.rejection(INTERRUPTED, text))
                if call.task is not None and call.task is not asyncio.current_task():
                    call.task.cancel()
            else:
                what = f"{actor.class_name}.{call.name}() was under way"
                call.interrupt(kind(f"{what}: {text}", outcome=Outcome.UNKNOWN))
        self.turns.admission.forget(actor)
        self._close_threads(actor)

    def _close_threads(self, actor: HostedActor) -> None:
        if actor.executor is not self._shared_executor:
            actor.executor.close()
        actor.manner.close()

    def close(self) -> None:
        for call in self.turns.take_all_started():
            call.worker_ends()
        for actor in self._actors.values():
            self._close_threads(actor)
        self._actors.clear()
        if self._shared_executor is not None:
            self._shared_executor.close()

    def __repr__(self) -> str:
        return f"<ActorShelf actors={len(self._actors)}>"
