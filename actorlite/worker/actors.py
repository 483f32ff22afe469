"""The actors of one worker: constructors, calls, ends. A constructor is the first call in an actor's mailbox."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

from actorlite.definitions import ActorDefinition
from actorlite.errors import ActorDiedError, Outcome
from actorlite.ids import ActorId
from actorlite.options import ActorOptions
from actorlite.rpc.peer import Peer
from actorlite.signatures import CallShape
from actorlite.state.mailbox import Mailbox
from actorlite.wire.messages import ACTOR_DIED, NO_SUCH_ACTOR, CreateActor, Rejected, StopActor, Yes, encode
from actorlite.worker.constructors import Constructors
from actorlite.worker.executor import ThreadExecutor
from actorlite.worker.inbound import Answer, HostedActor, InboundCall

if TYPE_CHECKING:
    from actorlite.worker.host import Worker

logger = logging.getLogger("actorlite.worker")

SHARED_THREADS = 32
"""Threads for the plain methods of all light actors of a worker; one actor's calls still run one at a time."""


class ActorShelf:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._actors: dict[ActorId, HostedActor] = {}
        self._coroutines: dict[tuple[type[Any], str], bool] = {}
        self._shared_executor: ThreadExecutor | None = None
        self._started: dict[ActorId, set[InboundCall]] = {}
        self._constructors = Constructors(worker, self._open, self._failed_to_start)

    def __len__(self) -> int:
        return len(self._actors)

    # --- handlers

    def create(self, peer: Peer, message: CreateActor, parts: Any) -> None:
        if message.shared:
            executor = self._shared_executor
            if executor is None:
                executor = self._shared_executor = ThreadExecutor(SHARED_THREADS, "actorlite-shared")
        else:
            executor = ThreadExecutor(message.max_concurrency, f"actorlite-{message.name or 'actor'}")
        # Only a single thread keeps calls in order by itself.
        chain = not message.shared and message.max_concurrency == 1
        mailbox: Mailbox[InboundCall] = Mailbox(message.max_concurrency, chain=chain)
        actor = HostedActor(message.target, mailbox, executor, peer, message.name)
        self._actors[actor.id] = actor
        call = InboundCall(self._worker, peer, message, parts, actor, "__init__")
        peer.inbound[call.id] = call
        # The constructor has the mailbox to itself, whatever the limit is.
        mailbox.limit = 1
        mailbox.offer(call)
        self._started[actor.id] = {call}
        self._constructors.start(call)

    def arrived(self, peer: Peer, message: Any, parts: Any) -> None:
        """Handler of `ActorCall`."""
        actor = self._actors.get(message.target)
        if actor is None:
            peer.send(encode(Rejected(message.id, NO_SUCH_ACTOR, "the actor has ended")))
            return
        call = InboundCall(self._worker, peer, message, parts, actor, message.method)
        peer.inbound[call.id] = call
        if actor.mailbox.offer(call):
            self._start(call)

    async def stop(self, peer: Peer, body: StopActor) -> Yes:
        """Handler: end an actor; gracefully with `on_stop`, else at once."""
        actor = self._actors.pop(body.target, None)
        if actor is None:
            return Yes(False)
        self._reject_waiting(actor, "it was stopped")
        if body.graceful and hasattr(actor.instance, "on_stop"):
            try:
                await actor.instance.on_stop()
            except Exception:
                logger.exception("on_stop of %r failed", actor)
        self._forget(actor, "it was stopped" if body.graceful else "it was killed")
        return Yes(True)

    # --- starting calls

    def is_coroutine(self, actor: HostedActor, method: str) -> bool:
        key = (type(actor.instance), method)
        known = self._coroutines.get(key)
        if known is None:
            function = getattr(actor.instance, method, None)
            known = self._coroutines[key] = inspect.iscoroutinefunction(function)
        return known

    def find(self, identifier: ActorId) -> HostedActor | None:
        return self._actors.get(identifier)

    def try_start(self, call: InboundCall) -> bool:
        """Count a call from this loop as started, if it may start now; `local_ended` follows."""
        actor = call.actor
        assert actor is not None
        if not actor.mailbox.try_start(call):
            return False
        self._note_start(actor, call)
        return True

    def local_ended(self, call: InboundCall) -> None:
        actor = call.actor
        assert actor is not None
        self._ended(actor, call)

    def _note_start(self, actor: HostedActor, call: InboundCall) -> None:
        started = self._started.get(actor.id)
        if started is None:
            self._started[actor.id] = {call}
        else:
            started.add(call)

    def _start(self, call: InboundCall) -> None:
        actor = call.actor
        assert actor is not None
        self._note_start(actor, call)
        if call.message.slots and call.foreign_slots:
            self._worker.runner.start_work(call, self._fetch_and_start(call))
        else:
            self._start_now(call)

    def _start_now(self, call: InboundCall) -> None:
        actor = call.actor
        assert actor is not None
        runner = self._worker.runner
        if self.is_coroutine(actor, call.name):
            runner.start_coroutine(call, getattr(actor.instance, call.name), self._done)
        else:
            runner.start_plain(call, lambda: getattr(actor.instance, call.name), actor.executor, self._done)

    async def _fetch_and_start(self, call: InboundCall) -> None:
        try:
            await self._worker.fetch_slots(call)
        except asyncio.CancelledError:
            self._done(call, call.cancellation())
        except BaseException as error:
            self._done(call, call.failure(error))
        else:
            self._start_now(call)

    def _done(self, call: InboundCall, answer: Answer) -> None:
        actor = call.actor
        assert actor is not None
        if call.id in call.peer.inbound:  # else it was answered when the actor ended
            self._worker.runner.deliver(call, answer)
        self._ended(actor, call)

    def _ended(self, actor: HostedActor, call: InboundCall) -> None:
        started = self._started.get(actor.id)
        if started is not None:
            started.discard(call)
            if not started:
                del self._started[actor.id]
        for following in actor.mailbox.finished(call):
            self._start(following)

    # --- constructors

    def _open(self, call: InboundCall, answer: Answer) -> None:
        actor = call.actor
        assert actor is not None
        actor.mailbox.limit = max(1, call.message.max_concurrency)
        self._done(call, answer)

    def _failed_to_start(self, call: InboundCall, answer: Answer) -> None:
        actor = call.actor
        assert actor is not None
        self._actors.pop(actor.id, None)
        self._worker.runner.deliver(call, answer)
        self._forget(actor, "its constructor or on_start raised")

    # --- ends

    def withdraw(self, call: InboundCall) -> bool:
        """Cancel a call that has not started; False when it has."""
        actor = call.actor
        assert actor is not None
        if actor.mailbox.withdraw(lambda each: each is call):
            self._worker.runner.deliver(call, call.cancellation())
            return True
        if call.task is None and call.name != "__init__" and call in self._started.get(actor.id, ()) and call.claim():
            self._done(call, call.cancellation())
            return True
        return False

    def creator_lost(self, peer: Peer) -> None:
        """An actor dies with its creator (Ray, A-41)."""
        for actor in [each for each in self._actors.values() if each.creator is peer]:
            del self._actors[actor.id]
            self._forget(actor, "its creator is gone")

    def link_of(self, actor: HostedActor) -> Any:
        """The actor as others see it, for `runtime_context().current_actor`."""
        definition = ActorDefinition(
            actor.cls, actor.class_name, CallShape(varargs=True, varkw=True), {}, ActorOptions()
        )
        address = actor.creator.identity.address
        return self._worker.runtime.directory.import_link(actor.id, address, definition)

    def _reject_waiting(self, actor: HostedActor, text: str) -> None:
        for call in actor.mailbox.withdraw(lambda each: True):
            self._worker.runner.deliver(call, call.rejection(ACTOR_DIED, text))

    def _forget(self, actor: HostedActor, text: str) -> None:
        """Answer what is waiting and what runs; coroutines are cancelled, threads cannot be."""
        self._reject_waiting(actor, text)
        for call in self._started.pop(actor.id, ()):
            if call.name != "__init__":
                what = f"{actor.class_name}.{call.name}() was under way"
                call.interrupt(ActorDiedError(f"{what}: {text}", outcome=Outcome.UNKNOWN))
        if actor.executor is not self._shared_executor:
            actor.executor.close()

    def close(self) -> None:
        for calls in list(self._started.values()):
            for call in list(calls):
                call.worker_ends(ActorDiedError("its worker was ended under the call", outcome=Outcome.UNKNOWN))
        for actor in self._actors.values():
            if actor.executor is not self._shared_executor:
                actor.executor.close()
        self._actors.clear()
        if self._shared_executor is not None:
            self._shared_executor.close()

    def __repr__(self) -> str:
        return f"<ActorShelf actors={len(self._actors)}>"
