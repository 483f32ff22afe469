"""Calls from the worker's own loop, without a message: see `runtime/nearby.py` for what they keep of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from actorlite.context import Args, Kwargs, current_call, current_trace
from actorlite.errors import ActorDiedError
from actorlite.ids import ActorId, ObjectId, object_id
from actorlite.runtime.nearby import IMMUTABLE
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.wire.failures import decode_failure
from actorlite.wire.messages import MAX_CHAIN, Hop
from actorlite.wire.serialize import decode, encode
from actorlite.worker.scope import HostedActor, RunningCall

if TYPE_CHECKING:
    from actorlite.worker.host import Worker


class LocalCall(RunningCall):
    """A call without a message; it runs in the caller's task, in a context of its own."""

    __slots__ = ("caller", "number", "death", "hops")

    def __init__(self, worker: Worker, actor: HostedActor, name: str, caller: ProcessRuntime) -> None:
        self.worker = worker
        self.actor = actor
        self.name = name
        self.caller = caller
        self.task: asyncio.Task[Any] | None = None
        self.number = 0
        self.death: ActorDiedError | None = None
        scope = current_call.get()
        self.hops = (
            () if scope is None else (*scope.chain, Hop(scope.info.actor_id or "", scope.info.task_id))[-MAX_CHAIN:]
        )

    @property
    def task_id(self) -> ObjectId:
        if not self.number:
            self.number = next(self.caller.hub.numbers)
        return object_id(self.caller.process, self.number)

    @property
    def chainable(self) -> bool:
        return False

    @property
    def trace(self) -> str:
        return current_trace.get()

    @property
    def chain(self) -> tuple[Any, ...]:
        return self.hops

    def claim(self) -> bool:
        return False  # it runs already

    def interrupt(self, error: ActorDiedError) -> None:
        """The actor ends under the call."""
        self.death = error
        if self.task is not None:
            self.task.cancel()

    worker_ends = interrupt

    def __repr__(self) -> str:
        return f"<LocalCall {self.name}>"


def _hops() -> tuple[Hop, ...]:
    """The structured calls that wait for one made here, outermost first."""
    scope = current_call.get()
    if scope is None:
        return ()
    info = scope.info
    return (*scope.chain, Hop(info.actor_id or "", info.task_id))[-MAX_CHAIN:]


class LocalCalls:
    """The worker's `LocalHost`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def admit(
        self, target: ActorId, method: str, caller: Any, args: Args, kwargs: Kwargs
    ) -> Coroutine[Any, Any, Any] | None:
        shelf = self._worker.actors
        actor = shelf.find(target)
        if actor is None or actor.instance is None or not shelf.turns.is_coroutine(actor, method):
            return None
        call = LocalCall(self._worker, actor, method, caller)
        return self._run(call, args, kwargs) if shelf.turns.try_start(call) else None

    async def _run(self, call: LocalCall, args: Args, kwargs: Kwargs) -> Any:
        call.task = task = asyncio.current_task()
        actor = call.actor
        assert actor is not None and task is not None
        try:
            context = self._worker.runner.context_for(call)
            value = await _InContext(context, getattr(actor.instance, call.name)(*args, **kwargs))
        except asyncio.CancelledError as error:
            if call.death is not None:
                task.uncancel()
                raise call.death from None
            if task.cancelling():
                raise
            raise decode_failure(call.carried(error)) from None
        except BaseException as error:
            raise decode_failure(call.carried(error)) from None
        finally:
            call.task = None
            self._worker.actors.turns.local_ended(call)
        return value if type(value) in IMMUTABLE else self._copied(call, value)

    def _copied(self, call: LocalCall, value: Any) -> Any:
        try:
            encoded = encode(value)
        except Exception as error:
            raise decode_failure(call.carried(error)) from None
        if not encoded.handles:
            return decode(encoded.kind, encoded.data, encoded.buffers, call.caller)
        exports = self._worker.runtime.exports
        exports.pin(encoded.handles)
        try:
            return decode(encoded.kind, encoded.data, encoded.buffers, call.caller)
        finally:
            # By then the caller's runtime has told the owners, perhaps this worker, that it holds the references.
            call.caller.borrows.when_registered(partial(exports.unpin, encoded.handles))


class _InContext:
    """Awaits a coroutine in the running task, each of its steps in `context`."""

    __slots__ = ("context", "coroutine")

    def __init__(self, context: Context, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.context = context
        self.coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        run = self.context.run
        coroutine = self.coroutine
        try:
            awaited = run(coroutine.send, None)
            while True:
                try:
                    sent = yield awaited
                except GeneratorExit:
                    run(coroutine.close)
                    raise
                except BaseException as error:
                    awaited = run(coroutine.throw, error)
                else:
                    awaited = run(coroutine.send, sent)
        except StopIteration as stop:
            return stop.value
