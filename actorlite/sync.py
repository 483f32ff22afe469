"""`get`, `put` and `wait` for plain functions and threads: the same as in `actorlite`, but they block.

On a thread that runs an event loop they raise `BlockingCallError` instead of stalling it. Inside a task the CPU goes
back to the node while they wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar, overload

from actorlite.context import Runtime, find_runtime
from actorlite.refs import ObjectRef, block_on, refuse_on_loop
from actorlite.runtime import waiting

T = TypeVar("T")

__all__ = ["get", "put", "wait"]


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: waiting.References[T], *, timeout: float | None = None) -> list[T]: ...
def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of one reference, or the values of a list or tuple of them, in order; see `actorlite.get`."""
    refuse_on_loop("al.sync.get()", "write `await al.get(...)`")
    if isinstance(refs, ObjectRef):
        if not waiting.all_here((refs,)):
            _block(refs.runtime, waiting.until_all((refs,), timeout))
        return refs._take()
    listed = waiting.references("get", refs)
    if not waiting.all_here(listed):
        _block(listed[0].runtime, waiting.until_all(listed, timeout))
    return [ref._take() for ref in listed]


def put(value: T) -> ObjectRef[T]:
    """Store a value and return a reference to it; see `actorlite.put`."""
    refuse_on_loop("al.sync.put()", "write `await al.put(...)`")
    if isinstance(value, ObjectRef):
        raise TypeError(f"put() takes a value, not a reference: {value!r} can be passed on as it is, or in a list")
    runtime = find_runtime()
    return _block(runtime, runtime.put(value))


def wait(
    refs: waiting.References[T], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Wait until `num_returns` references are ready: `(ready, pending)`; see `actorlite.wait`."""
    refuse_on_loop("al.sync.wait()", "write `await al.wait(...)`")
    listed = waiting.checked_wait(refs, num_returns, timeout)
    if listed:
        _block(listed[0].runtime, waiting.until_some(listed, num_returns, timeout, fetch_local))
    return waiting.split(listed, num_returns, fetch_local)


def _block(runtime: Runtime, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the runtime's loop, in this thread's context, and wait for it here."""
    future = asyncio.run_coroutine_threadsafe(work, runtime.loop)
    try:
        return block_on(future, None)
    finally:
        # After an exception raised into this thread nobody wants the answer; else it is there already.
        future.cancel()
