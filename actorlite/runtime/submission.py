"""Submitting calls where only so many may be pending: at once or in turn, structured, as streams, from any thread."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import structs

from actorlite.context import current_call, current_trace
from actorlite.definitions import FunctionDefinition, MethodDefinition
from actorlite.errors import PendingCallsLimitExceeded
from actorlite.options import STREAMING, MethodOptions, TaskOptions
from actorlite.propagation import anything_travels, registered
from actorlite.runtime.calls import Outbound, StructuredResult, await_structured, bind_call
from actorlite.runtime.nearby import IMMUTABLE, MUST_SEND
from actorlite.runtime.room import RoomQuota, take_turn, wake
from actorlite.runtime.streams import OwnStream, streaming, window_of
from actorlite.streams import ObjectRefStream

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime

What = TypeVar("What", FunctionDefinition, MethodDefinition)
Options = TypeVar("Options", TaskOptions, MethodOptions)
Call = TypeVar("Call", bound=Outbound)

SIZED = frozenset({str, bytes})
SHORT = 2048
"""Longer arguments go the long way, so that none is encoded twice."""


class Submitter(ABC, Generic[What, Options, Call]):
    """Takes the calls of one process, of tasks or of one actor."""

    __slots__ = ()

    runtime: ProcessRuntime
    quota: RoomQuota
    """What this process has pending here."""

    # --- from any thread

    def call(self, what: What, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options) -> Any:
        """References at once. Raises `PendingCallsLimitExceeded`."""
        call, result = self.make(what, args, kwargs, options)
        self._submit_if_room(call)
        return result

    async def submit(self, what: What, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options) -> Any:
        """`call` that waits for room."""
        result: Any
        if what.kind.streams and options.num_returns in (1, STREAMING):
            stream, call = self._make_stream(what, args, kwargs, options, structured=False)
            result = ObjectRefStream.begin(stream)
        else:
            call, result = self.make(what, args, kwargs, options)
        await self.runtime.on_own_loop(self._submit_in_turn(call))
        return result

    async def run(self, what: What, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options) -> Any:
        """Structured call: the value; cancelling the awaiting task cancels the work."""
        runtime = self.runtime
        runtime.check_open()
        if not runtime.in_loop() or options.num_returns != 1:
            call, refs = self.make(what, args, kwargs, options, structured=True)
            try:
                await runtime.on_own_loop(self._submit_in_turn(call))
            except asyncio.CancelledError:
                runtime.post(call.abandon)
                raise
            return await runtime.run_elsewhere(refs)
        value = self.answered_here(what, args, kwargs, options)
        if value is not MUST_SEND:
            if self.is_turn_over():
                await asyncio.sleep(0)
            return value
        result = StructuredResult(runtime.loop)
        call, _ = self.make(what, args, kwargs, options, structured=True, sink=result)
        if not self._begin_if_room(call):
            await self._submit_in_turn(call)
        return await await_structured(runtime, result, call)

    def open_stream(
        self, what: What, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options, *, structured: bool
    ) -> OwnStream:
        """Call a generator. Without room it raises, or waits when structured."""
        stream, call = self._make_stream(what, args, kwargs, options, structured=structured)
        if structured:
            self.runtime.post(self._begin_stream, call)
        else:
            self._submit_if_room(call)
        return stream

    # --- what differs

    @abstractmethod
    def make(
        self,
        what: What,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        *,
        structured: bool = False,
        sink: StructuredResult | OwnStream | None = None,
    ) -> tuple[Call, Any]:
        """The call, and the references to its results unless it has a sink. Raises when the session is over."""

    @abstractmethod
    def begin(self, call: Call) -> None:
        """Send a call that has room, or queue it. On the loop."""

    @abstractmethod
    def too_many(self, call: Call) -> PendingCallsLimitExceeded:
        """Why there is no room."""

    def answered_here(self, what: What, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options) -> Any:
        """The value of a structured call that needs no message; `MUST_SEND` for others."""
        return MUST_SEND

    def is_turn_over(self) -> bool:
        """After `answered_here`: whether others on the loop must have a turn now."""
        return False

    # --- inside

    def _make_stream(
        self, what: What, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options, *, structured: bool
    ) -> tuple[OwnStream, Call]:
        runtime = self.runtime
        runtime.check_open()
        window = window_of(options)
        stream = OwnStream(runtime, next(runtime.hub.numbers), what.name, window)
        once = replace(options, num_returns=1)
        call, _ = self.make(what, args, kwargs, once, structured=structured, sink=stream)
        call.envelope = streaming(call.envelope, window)
        stream.call = call
        return stream, call

    def _begin_if_room(self, call: Call) -> bool:
        """On the loop."""
        quota = self.quota
        if not quota.fits(call.size):
            return False
        quota.take(call.size)
        call.quota = quota
        self.begin(call)
        return True

    def _submit_if_room(self, call: Call) -> None:
        runtime, quota = self.runtime, self.quota
        if runtime.in_loop():
            if not quota.fits(call.size):
                raise self.too_many(call)
            quota.take(call.size)
            call.quota = quota
            bind_call(call.sink, call)
            self.begin(call)
            return
        with runtime.posting:
            if not quota.fits(call.size):
                raise self.too_many(call)
            quota.posted += 1
        bind_call(call.sink, call)
        runtime.post(self._begin_posted, call)

    def _begin_posted(self, call: Call) -> None:
        """Begin a call that another thread made."""
        with self.runtime.posting:
            self.quota.posted -= 1
        if call.ended:
            return  # it was cancelled on its way here
        self.quota.take(call.size)
        call.quota = self.quota
        self.begin(call)

    def _begin_stream(self, call: Call) -> None:
        if not self._begin_if_room(call):
            self.runtime.streams.begin_later(call, self._submit_in_turn(call))

    async def _submit_in_turn(self, call: Call) -> None:
        """Begin the call when there is room, after those who wait for it already."""
        timeout_s = call.envelope.budget_s if call.envelope is not None else None
        left = await take_turn(self.runtime, self.quota, call.size, timeout_s, self.described(call))
        call.quota = self.quota
        if call.ended:  # given up meanwhile
            self.quota.give(call.size)
            wake(self.quota)
            return
        if left != timeout_s and call.envelope is not None:
            call.envelope = structs.replace(call.envelope, budget_s=left)
        if type(call.sink) is not StructuredResult:
            bind_call(call.sink, call)
        self.begin(call)

    def described(self, call: Call) -> str:
        """The call in texts of errors."""
        return f"{call.name}()"


SPECIAL: Any = object()


def origin_of(runtime: ProcessRuntime, args: tuple[Any, ...]) -> Any:
    """Where a call comes from that is made here and now with nothing special about it: it is one of those that another
    call has `Submitted`, or None: no call did. `SPECIAL` where more must go with it, or a look at its arguments is
    needed."""
    if not runtime.in_loop() or runtime.gone or current_trace.get():
        return SPECIAL
    for value in args:
        if type(value) not in IMMUTABLE or (type(value) in SIZED and len(value) > SHORT):
            return SPECIAL
    scope = current_call.get()
    if scope is None:
        return SPECIAL if registered else None
    return SPECIAL if scope.captures or anything_travels() else scope.children
