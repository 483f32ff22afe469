"""A transport that misbehaves on purpose: it delays, loses messages, and cuts connections. Nothing in it is random."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actorlite.errors import ConnectionLost, Outcome
from actorlite.transport import Address, Buffer, Connection, Listener, Sink, Transport
from actorlite.wire.framing import body_bytes, flatten


@dataclass
class Faults:
    """What goes wrong on the connections that share this object; may be changed at any time."""

    delay_s: float | Callable[[int], float] = 0.0
    """How long each message sent waits here, or a function of its number on its connection (from 0). Order is kept."""
    cut_after: int | None = None
    """Cut a connection once it has sent so many messages; those still arrive."""
    lose_sent: bool = False
    """Half open: what is sent vanishes, and nobody is told."""
    lose_received: bool = False
    """Half open: what arrives vanishes."""
    delay_received_s: float = 0.0
    """How long each message waits here before it arrives. Order is kept; what waits when the other side ends the
    connection arrives first, and what waits when this side does, or cuts it, is lost."""


class FaultyTransport:
    """Wraps a transport and does to its connections what `faults` says; without faults it changes nothing.

    `connections` lists the open connections of both kinds, connected and accepted, oldest first. Give one of them
    `faults` of its own to harm only that one.
    """

    def __init__(self, inner: Transport, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.connections: list[FaultyConnection] = []
        self._inner = inner

    async def connect(self, address: Address, sink: Sink) -> Connection:
        connection = FaultyConnection(self, sink)
        connection.wrap(await self._inner.connect(address, connection))
        return connection

    async def listen(self, address: Address, accept: Callable[[Connection], Sink]) -> Listener:
        def accept_wrapped(inner: Connection) -> Sink:
            connection = FaultyConnection(self)
            connection.wrap(inner)
            connection.attach(accept(connection))
            return connection

        return await self._inner.listen(address, accept_wrapped)

    def cut(self) -> None:
        """Cut all open connections."""
        for connection in list(self.connections):
            connection.cut()


class FaultyConnection:
    """The connection for the user of the transport, and the sink for the wrapped transport."""

    def __init__(self, owner: FaultyTransport, sink: Sink | None = None) -> None:
        self.faults = owner.faults
        self.peer: Address = ""
        self._owner = owner
        self._sink = sink
        self._inner: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._delayed: deque[tuple[float, tuple[Buffer, ...]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._arriving: deque[tuple[float, list[memoryview]]] = deque()
        self._arrival: asyncio.TimerHandle | None = None
        self._nothing_delayed = asyncio.Event()
        self._nothing_delayed.set()
        self._sent = 0
        self._open = True
        self._lost: ConnectionLost | None = None
        self._cutting: asyncio.Future[None] | None = None
        self._ended = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._delayed)} messages delayed, around {self._inner!r}>"

    def wrap(self, inner: Connection) -> None:
        self.peer = inner.peer
        self._inner = inner
        if not self._ended:
            self._owner.connections.append(self)

    def attach(self, sink: Sink) -> None:
        self._sink = sink

    def send(self, *parts: Buffer) -> None:
        inner, faults = self._inner, self.faults
        if not self._open or inner is None:
            why = self._lost or f"connection to {self.peer} closed by this side"
            raise ConnectionLost(f"{why}; nothing was sent", outcome=Outcome.NOT_EXECUTED)
        body_bytes([flatten(part) for part in parts])
        if not faults.lose_sent:
            delay_s = faults.delay_s(self._sent) if callable(faults.delay_s) else faults.delay_s
            if delay_s > 0 or self._delayed:
                self._delay(parts, delay_s)
            else:
                inner.send(*parts)
        self._sent += 1
        if faults.cut_after is not None and self._sent >= faults.cut_after:
            self._send_delayed()
            self.cut()

    async def drain(self) -> None:
        await self._nothing_delayed.wait()
        if self._lost is not None:
            raise ConnectionLost(str(self._lost))
        if self._inner is not None:
            await self._inner.drain()

    async def aclose(self) -> None:
        if self._cutting is not None:
            await asyncio.wait([self._cutting])
        elif self._inner is not None:
            self._send_delayed()
            self._arriving.clear()
            self._open = False
            await self._inner.aclose()

    def cut(self) -> None:
        """End the connection for both sides, as if the network had done it."""
        if not self._open or self._inner is None:
            return
        self._open = False
        self._lost = ConnectionLost(f"connection to {self.peer} broken: cut on purpose")
        self._arriving.clear()
        self._forget_delayed()
        self._cutting = asyncio.ensure_future(self._inner.aclose())
        self._loop.call_soon(self.closed, self._lost)

    @property
    def max_message_bytes(self) -> int:
        return self._sink.max_message_bytes if self._sink is not None else 0

    def message(self, parts: Sequence[memoryview]) -> None:
        if self._sink is None or self._lost is not None or self.faults.lose_received:
            return
        if self.faults.delay_received_s > 0 or self._arriving:
            self._delay_arrival(parts)
        else:
            self._sink.message(parts)

    def closed(self, error: ConnectionLost | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._open = False
        self._lost = self._lost or error
        self._forget_delayed()
        self._arrive_last()
        if self in self._owner.connections:
            self._owner.connections.remove(self)
        if self._sink is not None:
            self._sink.closed(self._lost)

    def _delay(self, parts: tuple[Buffer, ...], delay_s: float) -> None:
        due = self._loop.time() + delay_s
        if self._delayed:
            due = max(due, self._delayed[-1][0])
        self._delayed.append((due, parts))
        self._nothing_delayed.clear()
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._send_due)

    def _delay_arrival(self, parts: Sequence[memoryview]) -> None:
        due = self._loop.time() + self.faults.delay_received_s
        if self._arriving:
            due = max(due, self._arriving[-1][0])
        # What a sink is given is only there while it is called.
        self._arriving.append((due, [memoryview(bytes(part)) for part in parts]))
        if self._arrival is None:
            self._arrival = self._loop.call_at(due, self._arrive)

    def _arrive(self) -> None:
        self._arrival = None
        now = self._loop.time()
        while self._sink is not None and self._arriving and self._arriving[0][0] <= now:
            self._sink.message(self._arriving.popleft()[1])
        if self._arriving and self._arrival is None:
            self._arrival = self._loop.call_at(self._arriving[0][0], self._arrive)

    def _arrive_last(self) -> None:
        arriving = list(self._arriving)
        self._arriving.clear()
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None
        if self._sink is not None:
            for _, parts in arriving:
                self._sink.message(parts)

    def _send_due(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._open and self._inner is not None and self._delayed and self._delayed[0][0] <= now:
            self._inner.send(*self._delayed.popleft()[1])
        if self._delayed:
            self._timer = self._loop.call_at(self._delayed[0][0], self._send_due)
        else:
            self._nothing_delayed.set()

    def _send_delayed(self) -> None:
        while self._open and self._inner is not None and self._delayed:
            self._inner.send(*self._delayed.popleft()[1])
        self._forget_delayed()

    def _forget_delayed(self) -> None:
        self._delayed.clear()
        self._nothing_delayed.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
