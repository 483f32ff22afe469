"""Stopping plain code that runs in a thread: its waits at once, then, after a grace, by an exception raised into it.

The exception must hit the code of its own call and nothing behind it. Whoever comes first takes the token that lies in
`call.thread` meanwhile: the end of the code, and the call can no longer be interrupted; or the loop, and the thread
does not leave the call before the exception has come.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import threading
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actorlite.worker.inbound import InboundCall

GRACE_S = 0.5
"""For code that asks `runtime_context().is_cancelled()` and ends by itself."""

_raise_in_thread = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in_thread.argtypes = (ctypes.c_ulong, ctypes.py_object)
_NOTHING = ctypes.py_object()


def stop_plain(call: InboundCall) -> None:
    """On the loop: the call was cancelled while its plain code runs, or is about to."""
    call.worker.loop.call_later(GRACE_S, interrupt, call)


def end_waits(call: InboundCall) -> None:
    """The call was cancelled: threads that block for it, of its plain code or started by its coroutine, go on."""
    for future in list(call.blocked or ()):
        future.cancel()


def interrupt(call: InboundCall) -> None:
    """On the loop: raise `CancelledError` in the thread that runs the call's plain code, if one does."""
    thread = call.thread
    if not thread:
        return  # it has ended
    call.arrival = threading.Event()
    try:
        identity = thread.pop()
    except IndexError:
        return  # it ended just now
    _raise_in_thread(identity, asyncio.CancelledError)
    call.arrival.set()


def run_interruptibly(call: InboundCall, context: Context, code: Callable[..., Any], *args: Any) -> Any:
    """In the thread: the result of `code`, run in `context`; None when the exception came where it was not caught."""
    thread = call.thread = [threading.get_ident()]
    result = None
    try:
        result = context.run(code, call, *args)
        try:
            thread.pop()
        except IndexError:
            # The loop has the token. Either the exception came and the code dealt with it, or it comes now.
            assert call.arrival is not None
            call.arrival.wait()
            _raise_in_thread(threading.get_ident(), _NOTHING)
    except asyncio.CancelledError:
        pass  # between the code and here
    return result


def block(call: InboundCall, future: concurrent.futures.Future[Any]) -> None:
    """In a thread: it waits for `future`, and a cancelled call does not wait."""
    blocked = call.blocked
    if blocked is None:
        blocked = call.blocked = []
    blocked.append(future)
    if call.cancelled:
        future.cancel()


def unblock(call: InboundCall, future: concurrent.futures.Future[Any]) -> None:
    if call.blocked is not None and future in call.blocked:
        call.blocked.remove(future)
