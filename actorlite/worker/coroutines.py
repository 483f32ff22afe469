"""Coroutine calls on the loop: one task takes one ready call after the other, as long as none is suspended.

So a burst of short calls costs one pass of the loop and not one each. The first that is suspended keeps the task as its
own, to its end, and a new one takes the calls behind it: `asyncio.timeout` and `TaskGroup` inside a call cancel only
that call. Each call has a context of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from types import CoroutineType
from typing import Any

from actorlite.context import current_call, current_trace
from actorlite.deadlines import Deadline, current_deadline
from actorlite.propagation import receive
from actorlite.wire.calls import EXPIRED
from actorlite.worker.inbound import Answer, InboundCall
from actorlite.worker.scope import RunningCall

Done = Callable[[InboundCall, Answer], None]

MAX_BURST = 64
"""Coroutine calls run in one pass of the loop: then what has arrived meanwhile is looked at."""


class Coroutines:
    """On the loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, base: Context) -> None:
        self._loop = loop
        self._base = base
        self._ready: deque[tuple[InboundCall, Callable[..., Any], Done]] = deque()
        """Calls that have not had their first step."""
        self._taker: asyncio.Task[None] | None = None
        """The task that takes them, until one of them keeps it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False

    def start(self, call: InboundCall, function: Callable[..., Any], done: Done) -> None:
        """Decode the arguments and run a coroutine function; `done` follows, with the answer."""
        call.task = None
        self._ready.append((call, function, done))
        if self._taker is None:
            self._make_taker()

    def cancel_all(self) -> list[asyncio.Task[None]]:
        """Nothing starts any more; the tasks of those that were suspended."""
        self._ended = True
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)

    def _make_taker(self) -> None:
        if not self._ended:
            task = self._taker = self._loop.create_task(self._take_ready(), context=self._base)
            self._tasks.add(task)
            task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task is self._taker:
            self._taker = None
            if self._ready:
                self._make_taker()  # it was cancelled between two calls

    async def _take_ready(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        ready = self._ready
        burst = MAX_BURST
        while ready and not task.cancelling():  # cancelled by code that it ran: another one goes on
            call, function, done = ready.popleft()
            if not call.claim():
                continue  # it was taken back, and has been answered
            call.task = task
            context = self._base.copy()
            answer = context.run(_first_step, call, function)
            if isinstance(answer, Suspended):
                await self._stay_with(call, context, answer, done)
                return
            call.task = None
            done(call, answer)
            burst -= 1
            if not burst:
                burst = MAX_BURST
                await asyncio.sleep(0)
        self._taker = None
        if ready:
            self._make_taker()

    async def _stay_with(self, call: InboundCall, context: Context, suspended: Suspended, done: Done) -> None:
        """The running task is this call's from now on."""
        self._taker = None
        if self._ready:
            self._make_taker()
        suspended.context = context
        try:
            value = await suspended
        except asyncio.CancelledError as error:
            answer = call.stopped() if call.cancelled else call.failure(error)
        except BaseException as error:
            # SystemExit too: it would end the loop, which belongs to the caller when in process.
            answer = call.failure(error)
        else:
            answer = context.run(call.success, value)
        done(call, answer)


class Suspended:
    """A coroutine after its first step; awaits the rest, each step in `context`."""

    __slots__ = ("awaited", "context", "coroutine")

    context: Context

    def __init__(self, coroutine: Coroutine[Any, Any, Any], awaited: Any) -> None:
        self.coroutine = coroutine
        self.awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        run = self.context.run
        coroutine = self.coroutine
        awaited = self.awaited
        try:
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


def is_late(call: InboundCall) -> bool:
    """Whether its budget was spent before it began. From any thread."""
    return call.deadline is not None and call.deadline <= call.worker.runtime.now()


def enter_call(call: RunningCall) -> None:
    """In the call's own context, first of all."""
    current_call.set(call)
    envelope = call.envelope
    if envelope is not None:
        if envelope.trace:
            current_trace.set(envelope.trace)
        if envelope.budget_s is not None and (when := call.deadline) is not None:
            current_deadline.set(Deadline(when))
        if envelope.variables:
            receive(envelope.variables)


def _first_step(call: InboundCall, function: Callable[..., Any]) -> Answer | Suspended:
    """In the call's context: run a coroutine function until it ends or is suspended."""
    if is_late(call):
        return call.rejection(EXPIRED)
    try:
        enter_call(call)
        args, kwargs = call.arguments()
        coroutine = function(*args, **kwargs)
        if type(coroutine) is not CoroutineType:
            coroutine = _awaiting(coroutine)
        try:
            awaited = coroutine.send(None)
        except StopIteration as stop:
            return call.success(stop.value)
    except BaseException as error:
        return call.failure(error)
    return Suspended(coroutine, awaited)


async def _awaiting(awaitable: Any) -> Any:
    return await awaitable
