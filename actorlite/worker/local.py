"""Calls from the worker's own loop, answered on the spot: see `runtime/nearby.py` for which, and why those."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dis
import inspect
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from actorlite.context import Args, Kwargs, current_call, current_trace
from actorlite.errors import ActorError
from actorlite.ids import ActorId, ObjectId, object_id
from actorlite.propagation import receive, registered, travelling
from actorlite.runtime.nearby import IMMUTABLE, MUST_SEND
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.wire.calls import MAX_CHAIN, Hop
from actorlite.wire.failures import decode_failure
from actorlite.wire.serialize import decode, encode
from actorlite.worker.scope import HostedActor, RunningCall

if TYPE_CHECKING:
    from actorlite.worker.host import Worker

MAX_STREAK = 32
"""Calls answered on the spot before a caller is suspended once: whoever only calls such methods never is, and nobody
else on the loop would run, not even the caller's own deadline."""

_SUSPENDING = frozenset({"GET_AWAITABLE", "SEND", "YIELD_VALUE", "GET_ANEXT"})


def runs_in_one_step(function: FunctionType) -> bool:
    """Whether it is a coroutine function that awaits nothing: it cannot be suspended, nor cancelled."""
    return inspect.iscoroutinefunction(function) and not any(
        each.opname in _SUSPENDING for each in dis.get_instructions(function)
    )


class LocalCall(RunningCall):
    """A call without a message, over before its caller goes on."""

    __slots__ = ("caller", "number", "hops")

    def __init__(self, worker: Worker, actor: HostedActor, name: str, caller: ProcessRuntime) -> None:
        self.worker = worker
        self.actor = actor
        self.name = name
        self.caller = caller
        self.task: asyncio.Task[Any] | None = None
        self.envelope = None
        self.cancelled = False
        self.deadline = None
        self.chained = False
        self._children = None
        self.number = 0
        scope = current_call.get()
        self.hops = (
            ()
            if scope is None
            else (*scope.chain, Hop(scope.actor_id or "", scope.task_id, scope.function_name))[-MAX_CHAIN:]
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
    def chain(self) -> tuple[Any, ...]:
        return self.hops

    def claim(self) -> bool:
        return False  # it runs already

    def blocks_on(self, future: concurrent.futures.Future[Any]) -> None:
        """Only a thread can, to which it left its context: the call is over by then."""

    def blocks_no_more(self, future: concurrent.futures.Future[Any]) -> None:
        """See `blocks_on`."""

    def interrupt(self, error: ActorError) -> None:
        """Never under way when somebody else has a turn."""

    def worker_ends(self) -> None:
        """Never under way, either."""

    def __repr__(self) -> str:
        return f"<LocalCall {self.name}>"


class LocalCalls:
    """The worker's `LocalHost`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._streak = 0
        self._in_one_step: WeakKeyDictionary[FunctionType, bool] = WeakKeyDictionary()

    def run_now(self, target: ActorId, method: str, caller: Any, args: Args, kwargs: Kwargs) -> Any:
        actor = self._worker.actors.find(target)
        if actor is None or actor.instance is None:
            return MUST_SEND
        bound = getattr(actor.instance, method, None)
        function = getattr(bound, "__func__", None)
        if not inspect.isfunction(function):
            return MUST_SEND
        one_step = self._in_one_step.get(function)
        if one_step is None:
            one_step = self._in_one_step[function] = runs_in_one_step(function)
        if not one_step:
            return MUST_SEND
        call = LocalCall(self._worker, actor, method, caller)
        if not actor.mailbox.would_start(call):
            return MUST_SEND
        return self._run(call, bound, args, kwargs)

    def is_turn_over(self) -> bool:
        self._streak += 1
        if self._streak < MAX_STREAK:
            return False
        self._streak = 0
        return True

    def _run(self, call: LocalCall, method: Any, args: Args, kwargs: Kwargs) -> Any:
        context = self._worker.runner.context_for(call)
        trace = current_trace.get()
        if trace:
            context.run(current_trace.set, trace)
        if registered and (variables := travelling()):
            context.run(receive, variables)
        try:
            context.run(method(*args, **kwargs).send, None)
        except StopIteration as stop:
            value = stop.value
        except BaseException as error:
            raise decode_failure(call.carried(error)) from None
        else:
            raise AssertionError(f"{method!r} was suspended, though it awaits nothing")
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
