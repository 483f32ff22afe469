"""The functions that tasks run: found by digest, built where plain code runs, and told apart by kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actorlite.worker.executor import ThreadExecutor
from actorlite.worker.inbound import Answer, InboundCall

if TYPE_CHECKING:
    from actorlite.worker.host import Worker


class TaskFunctions:
    def __init__(self, worker: Worker, executor: ThreadExecutor) -> None:
        self._worker = worker
        self._executor = executor
        self._coroutines: dict[bytes, bool] = {}

    def kind(self, digest: bytes) -> bool | None:
        """True for a coroutine function, False for a plain one, None when the code was not built yet."""
        return self._coroutines.get(digest)

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
            self._coroutines[call.message.code] = inspect.iscoroutinefunction(function)
        except BaseException as error:
            call.name = "(its code could not be loaded)"
            answer = call.failure(error)
        if not self._worker.loop.is_closed():
            self._worker.loop.call_soon_threadsafe(built, call, answer)
