"""`inproc://name`: connections inside one event loop, without sockets.

Messages keep the memory that was sent; the receiver gets read-only views of it. Names belong to the loop they were
listened on: another loop of the same process does not see them. Delivery takes one callback per direction and loop
pass, never happens inside `send`, and closing looks as it does on a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from threading import Lock
from weakref import WeakKeyDictionary

from actorlite.errors import ConnectFailed, ConnectionLost, FrameTooLarge, Outcome
from actorlite.transport import Address, Buffer, Connection, Listener, Sink
from actorlite.wire.framing import body_bytes, flatten
from actorlite_transports._flow import HIGH_WATER_BYTES, LOW_WATER_BYTES, Wakeups, logger

_listeners_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Address, InprocListener]] = WeakKeyDictionary()
_registry_lock = Lock()


def _listeners() -> dict[Address, InprocListener]:
    """The listeners of the running loop."""
    loop = asyncio.get_running_loop()
    with _registry_lock:
        listeners = _listeners_of_loop.get(loop)
        if listeners is None:
            # A listener that was never closed may lead to its loop, which the weak key alone would not free then.
            for closed in [other for other in _listeners_of_loop if other.is_closed()]:
                del _listeners_of_loop[closed]
            listeners = _listeners_of_loop[loop] = {}
        return listeners


class InprocTransport:
    async def connect(self, address: Address, sink: Sink) -> Connection:
        listener = _listeners().get(_checked(address))
        if listener is None:
            raise ConnectFailed(f"cannot connect to {address}: nobody listens there in this event loop")
        ours, theirs = InprocConnection(address), InprocConnection(f"{address}#client")
        ours.join(theirs)
        ours.attach(sink)
        try:
            theirs.attach(listener.accept(theirs))
        except Exception:
            logger.exception("%s: accepting a connection failed", address)
            theirs.fail("broken: refused")
        return ours

    async def listen(self, address: Address, accept: Callable[[Connection], Sink]) -> Listener:
        listeners = _listeners()
        if _checked(address) in listeners:
            raise ConnectFailed(f"cannot listen on {address}: taken already in this event loop")
        listener = listeners[address] = InprocListener(address, accept, listeners)
        return listener


class InprocListener:
    def __init__(
        self, address: Address, accept: Callable[[Connection], Sink], registry: dict[Address, InprocListener]
    ) -> None:
        self.address = address
        self.accept = accept
        self._registry = registry

    def __repr__(self) -> str:
        state = "open" if self._registry.get(self.address) is self else "closed"
        return f"<{type(self).__name__} {self.address} {state}>"

    async def aclose(self) -> None:
        if self._registry.get(self.address) is self:
            del self._registry[self.address]


class InprocConnection:
    """One end. What its peer sent waits in `_inbox`, in order; `None` there is the peer's end of stream."""

    def __init__(self, peer: Address) -> None:
        self.peer = peer
        self._loop = asyncio.get_running_loop()
        self._sink: Sink | None = None
        self._other: InprocConnection | None = None
        self._inbox: list[tuple[int, list[memoryview]] | None] = []
        self._inbox_bytes = 0
        self._delivery_scheduled = False
        self._open = True
        self._closed_by_us = False
        self._ended = False
        self._failure: ConnectionLost | None = None
        self._changed = Wakeups()
        # As on a socket: messages are handled in the context of whoever connected, not of whoever sent one.
        self._context = copy_context()

    def __repr__(self) -> str:
        state = "open" if self._open else "ended" if self._ended else "closing"
        return f"<{type(self).__name__} {self.peer} {state}, {self._unsent_bytes()} bytes unsent>"

    def join(self, other: InprocConnection) -> None:
        self._other, other._other = other, self

    def attach(self, sink: Sink) -> None:
        self._sink = sink

    def send(self, *parts: Buffer) -> None:
        other = self._other
        if not self._open or other is None:
            raise ConnectionLost(f"{self._end_text()}; nothing was sent", outcome=Outcome.NOT_EXECUTED)
        views = [memoryview(part) if type(part) is bytes else memoryview(flatten(part)).toreadonly() for part in parts]
        other.receive((body_bytes(views), views))

    async def drain(self) -> None:
        if self._unsent_bytes() > HIGH_WATER_BYTES:
            while self._open and self._unsent_bytes() > LOW_WATER_BYTES:
                await self._changed.wait()
        if not self._open:
            raise ConnectionLost(self._end_text())

    async def aclose(self) -> None:
        if self._open:
            self._closed_by_us = True
            self._stop()
        while not self._ended:
            await self._changed.wait()

    def receive(self, item: tuple[int, list[memoryview]] | None) -> None:
        if self._ended:
            return
        self._inbox.append(item)
        if item is not None:
            self._inbox_bytes += item[0]
        if not self._delivery_scheduled:
            self._delivery_scheduled = True
            self._loop.call_soon(self._deliver, context=self._context)

    def fail(self, why: str, cause: Exception | None = None) -> None:
        """End at once: what is still in the inbox is dropped."""
        if self._open:
            self._failure = ConnectionLost(f"connection to {self.peer} {why}")
            self._failure.__cause__ = cause
            self._stop()
        self._end()

    def _deliver(self) -> None:
        self._delivery_scheduled = False
        inbox, self._inbox = self._inbox, []
        for item in inbox:
            if item is None:
                self.fail("closed by peer")
            if item is None or self._ended:
                return
            size, parts = item
            self._inbox_bytes -= size
            sink = self._sink
            if not self._open or sink is None:
                continue
            try:
                if size > (limit := sink.max_message_bytes):
                    error = FrameTooLarge(f"a message of {size} bytes was refused: the limit is {limit}")
                    self.fail(f"broken: {error}", error)
                else:
                    sink.message(parts)
            except Exception as error:
                logger.exception("%s: the sink failed on a message; closing the connection", self.peer)
                self.fail(f"broken: the sink failed on a message: {error!r}", error)
        if self._other is not None and self._inbox_bytes <= LOW_WATER_BYTES:
            self._other._changed.wake()

    def _stop(self) -> None:
        """Take nothing more, in either direction, and say so to the peer."""
        self._open = False
        self._changed.wake()
        if self._other is not None:
            self._other.receive(None)

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        sink, self._sink, self._other = self._sink, None, None
        self._inbox.clear()
        self._inbox_bytes = 0
        self._changed.wake()
        if sink is not None:
            try:
                sink.closed(None if self._closed_by_us else self._failure)
            except Exception:
                logger.exception("%s: the sink failed when it was told of the end", self.peer)

    def _unsent_bytes(self) -> int:
        return 0 if self._other is None else self._other._inbox_bytes

    def _end_text(self) -> str:
        return str(self._failure) if self._failure is not None else f"connection to {self.peer} closed by this side"


def _checked(address: Address) -> Address:
    scheme, _, name = address.partition("://")
    if scheme != "inproc" or not name:
        raise ConnectFailed(f"{address!r} is not an in-process address; write it as inproc://name")
    return address
