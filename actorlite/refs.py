"""`ObjectRef`: a plain awaitable for a value that exists, will exist, or exists elsewhere.

Not a Future: a shared Future is poisoned by one awaiter's cancellation. Each awaiter waits on a private future of its
own running loop. The fields of a reference change only on its runtime's loop thread; other threads and loops marshal to
it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar, cast

from actorlite.context import CallScope, Runtime, current_call
from actorlite.errors import BlockingCallError, TaskCancelledError
from actorlite.ids import ObjectId, object_id, owner_of

logger = logging.getLogger("actorlite.refs")

T_co = TypeVar("T_co", covariant=True)
Waker = Callable[[], object]


class Failure:
    """An outcome that raises. `make` builds a fresh exception for each awaiter, so that none shares a traceback."""

    __slots__ = ("make", "retrieved", "depth")

    def __init__(self, make: Callable[[], BaseException], *, quiet: bool = False, depth: int = 0) -> None:
        self.make = make
        self.retrieved = quiet
        self.depth = depth
        """How many calls did not run, one for the other, since the one that failed."""

    def exception(self) -> BaseException:
        self.retrieved = True
        return self.make()

    def __del__(self) -> None:
        if not self.retrieved:
            self.retrieved = True
            logger.error("an error was never retrieved (await its reference, or cancel it): %r", self.make())


class _Elsewhere:
    """The value exists, at its owner or in the node's store, and was not fetched."""

    def __repr__(self) -> str:
        return "elsewhere"


ELSEWHERE = _Elsewhere()


class NotHere(Exception):
    """For the runtime: the value was asked for without waiting, and is `ELSEWHERE`."""


class ObjectRef(Generic[T_co]):
    """A reference to a value of type `T`.

    Await it for the value; await `ready()` to wait without fetching. It works in `gather`, `wait`, `wait_for`,
    `as_completed`, `shield` and `ensure_future`; in a `TaskGroup` write `tg.create_task(ref.get())`. Cancelling whoever
    awaits cancels only the waiting: `await al.cancel(ref)` cancels the work. Errors are raised as in `al.get`.
    """

    __slots__ = ("runtime", "owner_address", "_id", "_outcome", "_waiters", "_kept", "_call", "_stored", "__weakref__")

    def __init__(self, runtime: Runtime, id: ObjectId | int, owner_address: str = "") -> None:
        self.runtime = runtime
        self._id = id
        self.owner_address = owner_address
        """Empty for a reference that this process owns."""
        self._outcome: Any = None
        self._waiters: Any = None
        self._kept: Any = None
        """References contained in the value, kept alive as long as it."""
        self._call: Any = None
        """The unanswered call that makes the value, for `al.cancel`."""
        self._stored: Any = None
        """Of an own reference whose value lies in the node's store: what keeps it there."""

    @property
    def id(self) -> ObjectId:
        number = self._id
        if isinstance(
            number, int
        ):  # an id is text, made when somebody looks: most references of a busy program never show it
            self._id = number = object_id(self.runtime.process, number)
        return number

    # --- awaiting

    def __await__(self) -> Generator[Any, None, T_co]:
        while (outcome := self._outcome) is None or outcome is ELSEWHERE:
            yield from self._wait(value=True)
        return cast(T_co, self.runtime.unwrap(outcome))

    async def get(self) -> T_co:
        """The value; a coroutine, for `tg.create_task(ref.get())`."""
        return await self

    async def ready(self) -> None:
        """Wait until the value or its error exists, without fetching it and without raising it."""
        while self._outcome is None:
            await _Waiting(self, value=False)

    def _wait(self, value: bool) -> Generator[Any, None, None]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        runtime = self.runtime
        waker: Any = future if loop is runtime.loop else _Marshalled(loop, _settle, future)
        elsewhere = self.owner_address or self._outcome is ELSEWHERE
        if value and (elsewhere or loop is not runtime.loop):
            waker = _WhenHere(self, waker)
        elif not value:
            waker = _WhenReady(waker)
        if loop is runtime.loop:
            self._add(waker)
        else:
            runtime.loop.call_soon_threadsafe(self._add, waker)
        if elsewhere:
            runtime.want(self, value=value)
        scope = current_call.get()
        if scope is not None:
            scope.enter_wait()
        try:
            yield from future
        except BaseException:
            self._remove_soon(waker)
            raise
        finally:
            if scope is not None:
                scope.leave_wait()

    # --- the look of a future

    def done(self) -> bool:
        """Whether the value or its error exists; perhaps elsewhere."""
        return self._outcome is not None

    def cancelled(self) -> bool:
        outcome = self._outcome
        return isinstance(outcome, Failure) and isinstance(outcome.make(), TaskCancelledError)

    def exception(self) -> BaseException | None:
        """The error, or None. Raises `asyncio.InvalidStateError` while pending."""
        if self._outcome is None:
            raise asyncio.InvalidStateError(f"{self!r} is not ready")
        return self._outcome.exception() if isinstance(self._outcome, Failure) else None

    def result(self, timeout: float | None = None) -> T_co:
        """The value, waiting for at most `timeout` seconds; for plain threads.

        On a thread that runs an event loop it returns a value that is already here and raises `BlockingCallError`
        instead of waiting. Raises `TimeoutError`.
        """
        outcome = self._outcome
        if outcome is not None and outcome is not ELSEWHERE:
            return cast(T_co, self.runtime.unwrap(outcome))
        refuse_on_loop("ref.result()", "await the reference")
        scope = current_call.get()
        if scope is not None:
            scope.enter_wait()
        future = self.future()
        try:
            return block_on(future, timeout)
        finally:
            future.cancel()
            if scope is not None:
                scope.leave_wait()

    def future(self) -> concurrent.futures.Future[T_co]:
        """A `concurrent.futures.Future` for the value. Cancelling it does not cancel the work."""
        future: concurrent.futures.Future[T_co] = concurrent.futures.Future()
        settling = _Settling(self, future)
        future.add_done_callback(settling.given_up)
        self.runtime.loop.call_soon_threadsafe(settling.step)
        return future

    def add_done_callback(
        self, callback: Callable[[ObjectRef[T_co]], object], *, context: Context | None = None
    ) -> None:
        """Call `callback(ref)` soon on the running loop (else the runtime's) once done, as `asyncio.Future` does."""
        loop = _running_loop() or self.runtime.loop
        self._subscribe_waker(_DoneCallback(loop, callback, self, context or copy_context()), value=False)

    def remove_done_callback(self, callback: Callable[[ObjectRef[T_co]], object]) -> int:
        waiters = self._waiters
        each = waiters if type(waiters) is list else (waiters,)
        found = [w for w in each if isinstance(w, _DoneCallback) and w.callback == callback]
        for waker in found:
            self._remove_soon(waker)
        return len(found)

    # --- for the runtime and for al.get, al.wait, al.as_completed

    def _subscribe(self, callback: Waker, *, value: bool) -> None:
        """Call `callback()` once on the running loop's thread when done; with `value`, when the value is here."""
        loop = _running_loop()
        waker = callback if loop is None or loop is self.runtime.loop else _Marshalled(loop, callback)
        self._subscribe_waker(waker, value=value)

    def _subscribe_waker(self, waker: Any, *, value: bool) -> None:
        elsewhere = self.owner_address or self._outcome is ELSEWHERE
        if value and (elsewhere or not self.runtime.in_loop()):
            waker = _WhenHere(self, waker)
        elif not value and type(waker) is not _DoneCallback:
            waker = _WhenReady(waker)
        if self.runtime.in_loop():
            self._add(waker)
        else:
            self.runtime.loop.call_soon_threadsafe(self._add, waker)
        if elsewhere:
            self.runtime.want(self, value=value)

    def _unsubscribe(self, callback: Waker) -> None:
        loop = _running_loop()
        waker = callback if loop is None or loop is self.runtime.loop else _Marshalled(loop, callback)
        self._remove_soon(waker)

    @property
    def _is_wanted(self) -> bool:
        """Whether somebody waits for the value itself."""
        waiters = self._waiters
        if type(waiters) is list:
            return any(type(each) not in _CONTENT for each in waiters)
        return waiters is not None and type(waiters) not in _CONTENT

    def _take(self, copy: bool = False) -> T_co:
        return cast(T_co, self.runtime.unwrap(self._outcome, copy=copy) if copy else self.runtime.unwrap(self._outcome))

    def _resolve(self, outcome: Any) -> None:
        """Set the outcome, once, and wake everybody. On the runtime's loop thread."""
        if self._outcome is not None and self._outcome is not ELSEWHERE:
            return
        self._outcome = outcome
        waiters = self._waiters
        if waiters is None:
            return
        self._waiters = None
        for waker in waiters if type(waiters) is list else (waiters,):
            if isinstance(waker, asyncio.Future):
                if not waker.done():
                    waker.set_result(None)
            else:
                waker()

    def _add(self, waker: Any) -> None:
        outcome = self._outcome
        wanted = outcome is ELSEWHERE and isinstance(waker, _WhenHere)
        if outcome is not None and not wanted:
            _wake(waker)
            return
        if wanted:
            self.runtime.want(self, value=True)
        if self._waiters is None:
            self._waiters = waker
        elif type(self._waiters) is list:
            self._waiters.append(waker)
        else:
            self._waiters = [self._waiters, waker]

    def _remove_soon(self, waker: Any) -> None:
        if self.runtime.in_loop():
            self._remove(waker)
        elif not self.runtime.loop.is_closed():
            self.runtime.loop.call_soon_threadsafe(self._remove, waker)

    def _remove(self, waker: Any) -> None:
        waiters = self._waiters
        if type(waiters) is list:
            self._waiters = [each for each in waiters if each != waker] or None
        elif waiters is not None and waiters == waker:
            self._waiters = None

    # --- identity

    def hex(self) -> str:
        return self.id.replace("-", "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        outcome = self._outcome
        state = (
            "pending"
            if outcome is None
            else "elsewhere"
            if outcome is ELSEWHERE
            else "failed"
            if isinstance(outcome, Failure)
            else "ready"
        )
        owner = "" if not self.owner_address else f" owner={owner_of(self.id)}"
        return f"<ObjectRef {self.id} {state}{owner}>"

    def __actorlite_export__(self, scope: Any) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.runtime.export(self)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"{self!r} cannot be pickled outside a call: the owner would not know who holds it. Pass it as an "
            "argument, return it, or put it into a value given to al.put"
        )


class _Waiting:
    """Awaitable around `ObjectRef._wait`."""

    __slots__ = ("ref", "value")

    def __init__(self, ref: ObjectRef[Any], *, value: bool) -> None:
        self.ref = ref
        self.value = value

    def __await__(self) -> Generator[Any, None, None]:
        return self.ref._wait(self.value)


class _Marshalled:
    """Calls a function on another loop's thread. Equal by function, so that it can be found again."""

    __slots__ = ("loop", "function", "args")

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: object) -> None:
        self.loop = loop
        self.function = function
        self.args = args

    def __call__(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.function, *self.args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Marshalled) and (other.function, other.args) == (self.function, self.args)

    __hash__ = None  # type: ignore[assignment]


class _WhenHere:
    """Wakes only when the value has been fetched: being ready at the owner is not enough."""

    __slots__ = ("ref", "waker")

    def __init__(self, ref: ObjectRef[Any], waker: Any) -> None:
        self.ref = ref
        self.waker = waker

    def __call__(self) -> None:
        if self.ref._outcome is ELSEWHERE:
            self.ref._add(self)
            self.ref.runtime.want(self.ref, value=True)
        else:
            _wake(self.waker)

    def __eq__(self, other: object) -> bool:
        return self is other or bool(self.waker == other)

    __hash__ = None  # type: ignore[assignment]


class _WhenReady:
    """Wakes when the value exists, wherever: it need not be fetched for this one."""

    __slots__ = ("waker",)

    def __init__(self, waker: Any) -> None:
        self.waker = waker

    def __call__(self) -> None:
        _wake(self.waker)

    def __eq__(self, other: object) -> bool:
        return self is other or bool(self.waker == other)

    __hash__ = None  # type: ignore[assignment]


class _DoneCallback:
    __slots__ = ("loop", "callback", "ref", "context")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[[Any], object],
        ref: ObjectRef[Any],
        context: Context,
    ) -> None:
        self.loop = loop
        self.callback = callback
        self.ref = ref
        self.context = context

    def __call__(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.callback, self.ref, context=self.context)


_CONTENT = (_WhenReady, _DoneCallback)
"""Waiters that are content when the value exists."""


class _Settling:
    """Moves a reference's outcome into a `concurrent.futures.Future`, on the runtime's loop."""

    __slots__ = ("ref", "future")

    def __init__(self, ref: ObjectRef[Any], future: concurrent.futures.Future[Any]) -> None:
        self.ref = ref
        self.future = future

    def step(self) -> None:
        ref = self.ref
        if ref._outcome is None or ref._outcome is ELSEWHERE:
            ref._subscribe_waker(self.step, value=True)
            return
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            value = ref._take()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(value)

    def given_up(self, future: concurrent.futures.Future[Any]) -> None:
        """Whoever asks again and again with a timeout must not leave a waiter behind each time."""
        if future.cancelled():
            self.ref._remove_soon(self.step)


def block_on(future: concurrent.futures.Future[T_co], timeout: float | None) -> T_co:
    """Wait in a plain thread. Raises `asyncio.CancelledError` when the call that waits here is cancelled: as a
    coroutine is at its next await."""
    scope = current_call.get()
    if scope is None:
        return future.result(timeout)
    scope.blocks_on(future)
    try:
        if scope.cancelled:  # whatever came of what it would wait for
            raise asyncio.CancelledError("the call was cancelled before it waited")
        return future.result(timeout)
    except concurrent.futures.CancelledError:
        raise asyncio.CancelledError("the call was cancelled while it waited") from None
    finally:
        scope.blocks_no_more(future)


def refuse_on_loop(what: str, remedy: str) -> None:
    """Raise `BlockingCallError` on a thread that runs an event loop: blocking it would stall everybody on it."""
    if _running_loop() is not None:
        raise BlockingCallError(f"{what} would block the event loop of this thread: {remedy} instead")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _wake(waker: Any) -> None:
    if isinstance(waker, asyncio.Future):
        _settle(waker)
    else:
        waker()


__all__ = ["ELSEWHERE", "CallScope", "Failure", "ObjectRef", "block_on", "refuse_on_loop"]
