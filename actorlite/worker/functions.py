"""The functions that tasks run: found by digest, built where plain code runs, and told apart by kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from actorlite.definitions import CallKind
from actorlite.worker.executor import ThreadExecutor
from actorlite.worker.inbound import Answer, InboundCall

if TYPE_CHECKING:
    from actorlite.worker.host import Worker


def run_kind(function: Any) -> bool | CallKind:
    """How a function or method is run: True for a coroutine, False for plain code, else the kind of generator."""
    if inspect.isasyncgenfunction(function):
        return CallKind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(function):
        return CallKind.GENERATOR
    return inspect.iscoroutinefunction(function)


class TaskFunctions:
    def __init__(self, worker: Worker, executor: ThreadExecutor) -> None:
        self._worker = worker
        self._executor = executor
        self._kinds: dict[bytes, bool | CallKind] = {}

    def kind(self, digest: bytes) -> bool | CallKind | None:
        """True for a coroutine function, False for a plain one, else the kind of generator; None when the code was not
        built yet."""
        return self._kinds.get(digest)

    def find(self, call: InboundCall) -> Any:
        """The function of a call, which gets its name from it. Builds it when needed."""
        function = self._worker.runtime.code.find(call.message.code)
        call.name = getattr(function, "__name__", "task")
        return function

    def build(self, call: InboundCall, built: Callable[[InboundCall, Answer | None], None]) -> None:
        """Build the code in the thread: it may import user modules. `built` is called on the loop, with the answer when
        the code cannot be loaded."""
        self._executor.submit(lambda: self._build(call, built))

    def _build(self, call: InboundCall, built: Callable[[InboundCall, Answer | None], None]) -> None:
        answer: Answer | None = None
        try:
            function = self._worker.runner.context_for(call).run(self.find, call)
            self._kinds[call.message.code] = run_kind(function)
        except BaseException as error:
            call.name = "(its code could not be loaded)"
            answer = call.failure(error)
        if not self._worker.loop.is_closed():
            self._worker.loop.call_soon_threadsafe(built, call, answer)


def defined_function(cls: type[Any], name: str) -> FunctionType | None:
    """The function behind a method, bare or with `@al.method`; None for what does more when it is looked up."""
    if inspect.getattr_static(cls, "__getattribute__") is not inspect.getattr_static(object, "__getattribute__"):
        return None
    value = inspect.getattr_static(cls, name, None)
    if isinstance(value, FunctionType):
        return value
    wrapped = getattr(value, "__wrapped__", None) if getattr(value, "__actorlite_method__", False) else None
    return wrapped if isinstance(wrapped, FunctionType) else None
