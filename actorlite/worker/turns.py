"""Whose turn it is: the calls of each actor that have started, and those that may start when one has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from actorlite.definitions import CallKind
from actorlite.errors import ObjectLostError
from actorlite.wire.calls import ACTOR_DIED, LOST_ARGUMENT
from actorlite.worker.admission import Admission
from actorlite.worker.endings import Endings
from actorlite.worker.functions import defined_function, run_kind
from actorlite.worker.inbound import Answer, InboundCall
from actorlite.worker.scope import HostedActor, RunningCall

if TYPE_CHECKING:
    from actorlite.worker.host import Worker

UNKNOWN: Any = object()


class Turns:
    """On the loop only. A call ends by `done`."""

    def __init__(self, worker: Worker, endings: Endings) -> None:
        self._worker = worker
        self._kinds: dict[tuple[type[Any], str], bool | CallKind] = {}
        self._functions: dict[tuple[type[Any], str], FunctionType | None] = {}
        self._endings = endings
        self._started: dict[HostedActor, set[RunningCall]] = {}
        """By actor, not by its id: one that was made anew here is another one."""
        self.admission = Admission(worker)

    def offer(self, call: InboundCall) -> None:
        """Start the call, or let it wait in its actor's mailbox."""
        actor = call.actor
        assert actor is not None
        if actor.watched:
            started = self.admission.admit(actor, call)
        elif not (started := actor.mailbox.try_start(call)):
            box, envelope = actor.manner.box, call.envelope
            special = envelope is not None and (envelope.chain or envelope.group)
            if special or not actor.mailbox.wait_among_few(call, box.calls, box.bytes):
                started = self.admission.admit(actor, call)
        # After the offer: a call that is answered from its thread looks for those that wait once it is noted here.
        self._worker.runner.collect_ended()
        if started:
            self.start(call)

    def running(self, actor: HostedActor) -> Collection[RunningCall]:
        return self._started.get(actor, ())

    def kind(self, actor: HostedActor, method: str) -> bool | CallKind:
        """True for a coroutine method, False for a plain one, else the kind of generator."""
        key = (type(actor.instance), method)
        known = self._kinds.get(key)
        if known is None:
            known = self._kinds[key] = run_kind(getattr(actor.instance, method, None))
        return known

    def _method(self, actor: HostedActor, name: str) -> MethodType | None:
        """A plain method as its class defines it, without running any code of the user's; None when it may be more."""
        instance = actor.instance
        key = (type(instance), name)
        function = self._functions.get(key, UNKNOWN)
        if function is UNKNOWN:
            function = self._functions[key] = defined_function(type(instance), name)
        if function is None or name in getattr(instance, "__dict__", ()):
            return None
        return MethodType(function, instance)

    def _note_start(self, actor: HostedActor, call: RunningCall) -> None:
        started = self._started.get(actor)
        if started is None:
            self._started[actor] = {call}
        else:
            started.add(call)

    def start(self, call: InboundCall) -> None:
        """Run a call that its mailbox counts as started."""
        actor = call.actor
        assert actor is not None
        started = self._started.get(actor)
        if started is None:
            self._started[actor] = {call}
        else:
            started.add(call)
        if call.must_fetch:
            self._worker.runner.start_work(call, self._fetch_and_start(call), self.done)
        else:
            self._start_now(call)

    def _start_now(self, call: InboundCall) -> None:
        actor = call.actor
        assert actor is not None
        runner = self._worker.runner
        kind = call.kind
        if kind is None:
            kind = call.kind = self.kind(actor, call.name)
        if kind is True:
            runner.coroutines.start(call, getattr(actor.instance, call.name), self.done)
            return
        executor = actor.manner.executor_for(call, actor.executor) if actor.watched else actor.executor
        if kind is False:
            call.function = self._method(actor, call.name)
            runner.start_plain(call, lambda: getattr(actor.instance, call.name), executor, self.done)
        else:
            self._worker.producers.start(call, kind, lambda: getattr(actor.instance, call.name), executor, self.done)

    async def _fetch_and_start(self, call: InboundCall) -> None:
        try:
            await self._worker.fetch_slots(call)
        except ObjectLostError as error:
            self.done(call, call.rejection(LOST_ARGUMENT, str(error)))
        except asyncio.CancelledError:
            self.done(call, call.cancellation())
        except BaseException as error:
            self.done(call, call.failure(error))
        else:
            self._start_now(call)

    def done(self, call: InboundCall, answer: Answer) -> None:
        actor = call.actor
        assert actor is not None
        if self._worker.repeats.running:
            self._worker.repeats.ended(call, answer)
        if call.peer.inbound.get(call.id) is call:  # else it was answered when the actor ended
            self._worker.runner.deliver(call, answer)
        elif call.written is not None:
            call.written.drop()
        self._ended(actor, call)

    def _ended(self, actor: HostedActor, call: RunningCall) -> None:
        started = self._started.get(actor)
        if started is not None:
            started.discard(call)
            if not started:
                del self._started[actor]
        for following in actor.mailbox.finished(call):
            self.start(following)
        if actor.watched:
            self.admission.ended(actor, call)
        if self._endings.ending:
            self._endings.idle(actor)

    def note_constructor(self, actor: HostedActor, call: InboundCall) -> None:
        """The constructor has the mailbox to itself until it is `done`."""
        actor.mailbox.offer(call)
        self._note_start(actor, call)

    def withdraw(self, call: InboundCall) -> bool:
        """Cancel a call that has not started; False when it has."""
        actor = call.actor
        assert actor is not None
        if call in self._started.get(actor, ()):
            if call.task is None and call.name != "__init__" and call.claim():
                self.done(call, call.cancellation())
                return True
            return False
        if call.is_begun:
            return False  # its actor was ended under it
        following = actor.mailbox.remove(call)
        self._worker.runner.deliver(call, call.cancellation())
        for each in following:
            self.start(each)
        if actor.crowd is not None:
            self.admission.ended(actor, call)
        if self._endings.ending:
            self._endings.idle(actor)
        return True

    def take_back(self, actor: HostedActor, text: str) -> None:
        """Answer for the calls that count as started and have not run: they never will."""
        for call in list(self._started.get(actor, ())):
            if isinstance(call, InboundCall) and call.task is None and call.name != "__init__" and call.claim():
                self.done(call, call.rejection(ACTOR_DIED, text))

    def take_started(self, actor: HostedActor) -> set[RunningCall]:
        """The calls that run now, of an actor that ends."""
        self._worker.runner.collect_ended()
        return self._started.pop(actor, set())

    def take_all_started(self) -> list[RunningCall]:
        calls = [call for calls in self._started.values() for call in calls]
        self._started.clear()
        return calls

    def __repr__(self) -> str:
        return f"<Turns actors={len(self._started)}>"
