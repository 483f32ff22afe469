"""`get`, `put`, `wait` and `get_actor` for plain functions and threads: the same as in `actorlite`, but they block.

On a thread that runs an event loop they raise `BlockingCallError` instead of stalling it. Inside a task the CPU goes
back to the node while they wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar, overload

from actorlite import api
from actorlite.context import Runtime, find_runtime
from actorlite.refs import NotHere, ObjectRef, block_on, refuse_on_loop
from actorlite.runtime import waiting

T = TypeVar("T")

__all__ = ["get", "get_actor", "put", "wait"]


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None, copy: bool = False) -> T: ...
@overload
def get(refs: waiting.References[T], *, timeout: float | None = None, copy: bool = False) -> list[T]: ...
def get(refs: Any, *, timeout: float | None = None, copy: bool = False) -> Any:
    """The value of one reference, or the values of a list or tuple of them, in order; see `actorlite.get`."""
    refuse_on_loop("al.sync.get()", "write `await al.get(...)`")
    if isinstance(refs, ObjectRef):
        return _take_all((refs,), timeout, copy)[0]
    return _take_all(waiting.references("get", refs), timeout, copy)


def _take_all(refs: Sequence[ObjectRef[T]], timeout: float | None, copy: bool) -> list[T]:
    ends = None if timeout is None else time.monotonic() + timeout
    if not waiting.all_here(refs):
        _block(refs[0].runtime, waiting.until_all(refs, timeout))
    values: list[T] = []
    for place, ref in enumerate(refs):
        while len(values) == place:
            try:
                values.append(ref._take(copy))
            except NotHere:
                # The node was short of room meanwhile, and it is not at hand any more.
                left = None if ends is None else max(ends - time.monotonic(), 0.0)
                _block(ref.runtime, waiting.until_all((ref,), left))
    return values


def put(value: T, *, timeout: float | None = None) -> ObjectRef[T]:
    """Store a value and return a reference to it; see `actorlite.put`."""
    refuse_on_loop("al.sync.put()", "write `await al.put(...)`")
    if isinstance(value, ObjectRef):
        raise TypeError(f"put() takes a value, not a reference: {value!r} can be passed on as it is, or in a list")
    runtime = find_runtime()
    return _block(runtime, runtime.put(value, timeout))


def wait(
    refs: waiting.References[T], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Wait until `num_returns` references are ready: `(ready, pending)`; see `actorlite.wait`."""
    refuse_on_loop("al.sync.wait()", "write `await al.wait(...)`")
    listed = waiting.checked_wait(refs, num_returns, timeout)
    if listed:
        _block(listed[0].runtime, waiting.until_some(listed, num_returns, timeout, fetch_local))
    return waiting.split(listed, num_returns, fetch_local)


@overload
def get_actor(name: str, cls: type[T], /, *, namespace: str | None = None) -> T: ...
@overload
def get_actor(name: str, cls: None = None, /, *, namespace: str | None = None) -> Any: ...
def get_actor(name: str, cls: Any = None, /, *, namespace: str | None = None) -> Any:
    """The handle of the living actor that has the name; see `actorlite.get_actor`."""
    refuse_on_loop("al.sync.get_actor()", "write `await al.get_actor(...)`")
    return _block(find_runtime(), api.get_actor(name, cls, namespace=namespace))


def _block(runtime: Runtime, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the runtime's loop, in this thread's context, and wait for it here."""
    future = asyncio.run_coroutine_threadsafe(work, runtime.loop)
    try:
        return block_on(future, None)
    finally:
        # After an exception raised into this thread nobody wants the answer; else it is there already.
        future.cancel()
