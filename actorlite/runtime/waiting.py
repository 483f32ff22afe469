"""`get`, `wait` and `as_completed`: they count down on references, without a task per reference.

Each call subscribes to the references that it misses, waits on one future of the running loop, and leaves no
subscription behind, also when cancelled; but those of `wait` stay with the list of pending references that it returns,
see `pending`. While it really waits inside a call, the call's CPU goes back to the node.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard, TypeVar, overload

from actorlite.context import current_call
from actorlite.errors import GetTimeoutError
from actorlite.refs import ELSEWHERE, Failure, NotHere, ObjectRef
from actorlite.runtime.pending import Pending, Watch

T = TypeVar("T")
References = list[ObjectRef[T]] | tuple[ObjectRef[T], ...]

TIMER_EARLY_S = 0.002
"""A timer may fire so much too early (uvloop counts in milliseconds): to wait for the rest would turn in circles."""


@overload
async def get(refs: ObjectRef[T], *, timeout: float | None = None, copy: bool = False) -> T: ...
@overload
async def get(refs: References[T], *, timeout: float | None = None, copy: bool = False) -> list[T]: ...
async def get(refs: Any, *, timeout: float | None = None, copy: bool = False) -> Any:
    """The value of one reference, or the values of a list or tuple of them, in order.

    Large arrays are views of the node's object store, which all its processes share: they can only be read. With
    `copy=True` they are copies of your own, which can be written to.

    Raises the error of the first that fails, without waiting for the rest. Raises `GetTimeoutError` after `timeout`
    seconds; the work itself goes on. `timeout=0` asks without waiting.
    """
    if isinstance(refs, ObjectRef):
        if timeout is None and not copy:
            return await refs
        return (await _take_all((refs,), timeout, copy))[0]
    return await _take_all(references("get", refs), timeout, copy)


async def _take_all(refs: Sequence[ObjectRef[T]], timeout: float | None, copy: bool) -> list[T]:
    started = asyncio.get_running_loop().time()
    await until_all(refs, timeout)
    try:
        return [ref._take(copy) for ref in refs]
    except NotHere:
        pass  # the node's store is full, and one of them was let go again: they are taken one by one
    values: list[T] = []
    for place, ref in enumerate(refs):
        while len(values) == place:
            try:
                values.append(ref._take(copy))
            except NotHere:
                left = None if timeout is None else started + timeout - asyncio.get_running_loop().time()
                await until_all((ref,), left if left is None else max(left, 0.0))
    return values


async def wait(
    refs: References[T], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Wait until `num_returns` references are ready, or `timeout` seconds passed: `(ready, pending)`, in input order.

    At most `num_returns` come back as ready; a failed one is ready too. `fetch_local=False` does not fetch the values.
    """
    pending = Pending(checked_wait(refs, num_returns, timeout))  # the caller may change his own list meanwhile
    if not pending:
        return [], []
    loop = asyncio.get_running_loop()
    returned = refs if _is_known(refs) else None
    watch = returned.lend_watch(loop, fetch_local) if returned is not None else None
    ends = None if timeout is None else loop.time() + timeout
    try:
        found: list[int] = []
        if watch is None or watch.here >= num_returns:
            found = pending.find_ready(num_returns, fetch_local)
        while len(found) < num_returns:
            if watch is None:
                watch = pending.open_watch(loop, fetch_local)
            if watch is None:
                await until_some(pending, num_returns, timeout, fetch_local)
            else:
                await _until_here(watch, num_returns, timeout)
            found = pending.find_ready(num_returns, fetch_local)
            if ends is not None:
                timeout = ends - loop.time()
                if timeout <= TIMER_EARLY_S:
                    break
            if len(found) < num_returns and watch is not None:
                # Values that were here were let go: the node's store is full. They are subscribed to anew.
                watch.close(pending)
                watch = None
        ready = pending.take(found)
    except BaseException:
        if watch is not None:
            watch.close(pending)
        raise
    if watch is not None:
        watch.here -= len(ready)
    pending.keep(watch)
    return ready, pending


async def _until_here(watch: Watch, needed: int, timeout: float | None) -> None:
    countdown = _Countdown(needed - watch.here)
    watch.notify = countdown.count
    try:
        await countdown.wait(timeout)
    finally:
        watch.notify = None


def as_completed(refs: Iterable[ObjectRef[T]]) -> AsyncIterator[ObjectRef[T]]:
    """The references in the order in which they become ready: `async for ref in al.as_completed(refs)`."""
    return _in_order_of_completion(references("as_completed", list(refs)))


async def _in_order_of_completion(refs: Sequence[ObjectRef[T]]) -> AsyncIterator[ObjectRef[T]]:
    arrived: deque[ObjectRef[T]] = deque()
    countdown = _Countdown(1, arrived=arrived)
    with _subscribed(refs, countdown, value=True):
        for _ in refs:
            if not arrived:
                countdown.needed = 1
                await countdown.wait(None)
            yield arrived.popleft()


async def until_all(refs: Sequence[ObjectRef[Any]], timeout: float | None) -> None:
    """Return when every value has been here, or one has failed. Raises `GetTimeoutError`: how many are pending.

    A value may have been let go again when this returns: then taking it raises `NotHere`.
    """
    check_timeout("get", timeout)
    missing = [ref for ref in refs if not _ready(ref, True)]
    raise_first_failure(refs)
    if not missing:
        return
    countdown = _Countdown(len(missing), stop_at_failure=True)
    with _subscribed(missing, countdown, value=True):
        await countdown.wait(timeout)
    raise_first_failure(refs)
    if countdown.needed > 0:
        pending = sum(not _ready(ref, True) for ref in missing)
        raise GetTimeoutError(f"{pending} of {len(refs)} references were still pending after {timeout} seconds")


async def until_some(
    refs: Sequence[ObjectRef[Any]], num_returns: int, timeout: float | None, fetch_local: bool
) -> None:
    """Return when `num_returns` of the references are ready, or after `timeout` seconds."""
    missing = [ref for ref in refs if not _ready(ref, fetch_local)]
    needed = min(num_returns, len(refs)) - (len(refs) - len(missing))
    if needed > 0:
        countdown = _Countdown(needed)
        with _subscribed(missing, countdown, value=fetch_local):
            await countdown.wait(timeout)


def split(
    refs: Sequence[ObjectRef[T]], num_returns: int, fetch_local: bool
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    ready: list[ObjectRef[T]] = []
    pending: list[ObjectRef[T]] = []
    for ref in refs:
        (ready if len(ready) < num_returns and _ready(ref, fetch_local) else pending).append(ref)
    return ready, pending


def all_here(refs: Sequence[ObjectRef[Any]]) -> bool:
    return all(_ready(ref, True) for ref in refs)


def raise_first_failure(refs: Sequence[ObjectRef[Any]]) -> None:
    failed = [ref for ref in refs if isinstance(ref._outcome, Failure)]
    for ref in failed:
        ref._outcome.retrieved = True  # one is raised for all of them, as in asyncio.gather()
    if failed:
        failed[0]._take()


def references(what: str, refs: Any) -> Sequence[ObjectRef[Any]]:
    """A list or tuple of references; raises `TypeError` for anything else."""
    if not isinstance(refs, list | tuple):
        raise TypeError(f"{what}() takes a list of ObjectRefs, not {refs!r} of type {type(refs).__name__}")
    for ref in refs:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"{what}() takes a list of ObjectRefs; it contains {ref!r} of type {type(ref).__name__}")
    return refs


def checked_wait(refs: Any, num_returns: int, timeout: float | None) -> Sequence[ObjectRef[Any]]:
    """The arguments of `wait`, by Ray's rules."""
    known = _is_known(refs)
    listed = refs if known else references("wait", refs)
    check_timeout("wait", timeout)
    if isinstance(num_returns, bool) or not isinstance(num_returns, int):
        raise TypeError(f"num_returns must be an int, not {num_returns!r} of type {type(num_returns).__name__}")
    if not known and len(set(listed)) != len(listed):
        raise ValueError("wait() takes each ObjectRef once: the list contains duplicates")
    if listed and not 0 < num_returns <= len(listed):
        raise ValueError(f"num_returns={num_returns} must be between 1 and the number of references, {len(listed)}")
    return listed


def _is_known(refs: Any) -> TypeGuard[Pending[Any]]:
    """Whether the list came from `wait` and is as it was."""
    return type(refs) is Pending and refs.is_known()


def check_timeout(what: str, timeout: float | None) -> None:
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout of {what}() must be a number of seconds, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout={timeout!r} of {what}() must not be negative: give seconds, or leave it out")


def _ready(ref: ObjectRef[Any], value: bool) -> bool:
    outcome = ref._outcome
    return outcome is not None and not (value and outcome is ELSEWHERE)


class _Countdown:
    """Wakes one waiter of the running loop after `needed` arrivals, or at the first failure."""

    __slots__ = ("needed", "stop_at_failure", "arrived", "_future")

    def __init__(
        self, needed: int, *, stop_at_failure: bool = False, arrived: deque[ObjectRef[Any]] | None = None
    ) -> None:
        self.needed = needed
        self.stop_at_failure = stop_at_failure
        self.arrived = arrived
        self._future: asyncio.Future[None] | None = None

    def count(self) -> None:
        self.needed -= 1
        if self.needed <= 0:
            self._wake()

    def arrive(self, ref: ObjectRef[Any]) -> None:
        self.needed -= 1
        if self.arrived is not None:
            self.arrived.append(ref)
        if self.stop_at_failure and isinstance(ref._outcome, Failure):
            self.needed = 0
        if self.needed <= 0:
            self._wake()

    async def wait(self, timeout: float | None) -> None:
        """Return when the count is down or the time is over. Zero seconds are one pass of the loop."""
        if self.needed <= 0:
            return
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        timer: asyncio.Handle | None = None
        if timeout is not None:
            timer = loop.call_later(timeout, self._wake) if timeout else loop.call_soon(self._wake)
        scope = current_call.get()
        if scope is not None:
            scope.enter_wait()
        try:
            await self._future
        finally:
            if timer is not None:
                timer.cancel()
            if scope is not None:
                scope.leave_wait()

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


@contextmanager
def _subscribed(refs: Sequence[ObjectRef[Any]], countdown: _Countdown, *, value: bool) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    arrivals: list[partial[None]] = []
    try:
        for ref in refs:
            arrival = partial(countdown.arrive, ref)
            arrivals.append(arrival)
            if ref.runtime.loop is loop:
                ref._subscribe_waker(arrival, value=value)
            else:
                ref._subscribe(arrival, value=value)
        yield
    finally:
        for arrival, ref in zip(arrivals, refs, strict=False):
            # Most have arrived. On another loop the subscription may still be on its way, and what ends it follows it.
            if ref._waiters is not None or ref.runtime.loop is not loop:
                ref._unsubscribe(arrival)
