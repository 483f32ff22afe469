"""What TCP and Unix sockets share: a connection over an asyncio stream transport, and its listener.

Closing is a conversation: whoever closes sends what is queued and then its end of stream, reads and drops until the
peer's end of stream has come, and only then gives up the socket. Closing a socket with unread data would make the
kernel throw away what the peer has not read yet.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from mmap import mmap
from typing import TypeAlias, cast
from weakref import WeakKeyDictionary

from actorlite.errors import AuthenticationError, ConnectionLost, Outcome, ProtocolError
from actorlite.transport import Address, Buffer, Connection, Sink
from actorlite.wire.framing import HEADER, JOIN_BYTES, RECEIVE_BYTES, RUN_BYTES, FrameReader, encode_frame, joined_runs
from actorlite_transports._flow import HIGH_WATER_BYTES, LOW_WATER_BYTES, Wakeups, logger

pack_header = HEADER.pack

CLOSE_GRACE_S = 2.0
"""How long `aclose` bears a peer that takes nothing; then what it did not take is dropped."""

EARLY_FLUSH_BYTES = 2 * 1024
"""A pass that sends many messages does not wait for its end: the peer can begin with the first ones meanwhile."""

PROMPT_BYTES = 256
"""A read of so little is one message, most likely: its answer, or the call that follows an answer, is written at once.
Waiting for what else the pass may send would be in vain, and costs a turn of the loop on either side."""

_scratch_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def _scratch(loop: asyncio.AbstractEventLoop) -> memoryview:
    """The receive buffer that all connections of a loop share; each read is taken out before the next begins."""
    scratch = _scratch_of_loop.get(loop)
    if scratch is None:
        # A mapping, not a bytearray: only the pages that reads have reached take memory.
        scratch = _scratch_of_loop[loop] = memoryview(mmap(-1, RECEIVE_BYTES))
    return scratch


class StreamConnection(asyncio.BufferedProtocol):
    """One connection. `attach` is called once the socket is ready and names the sink, or `None` to refuse the peer."""

    def __init__(self, peer: Address, attach: Callable[[StreamConnection, asyncio.Transport], Sink | None]) -> None:
        self.peer = peer
        self._loop = asyncio.get_running_loop()
        self._attach: Callable[[StreamConnection, asyncio.Transport], Sink | None] | None = attach
        self._sink: Sink | None = None
        self._transport: asyncio.Transport | None = None
        self._reader: FrameReader | None = None
        self._scratch = _scratch(self._loop)
        self._queue: list[Buffer] = []
        self._queued_bytes = 0
        self._flush_scheduled = False
        self._prompt = False
        """Whether the next message goes at once."""
        self._paused = False
        self._open = False
        self._closed_by_us = False
        self._ended = False
        self._failure: ConnectionLost | None = None
        self._changed = Wakeups()
        self._grace: asyncio.TimerHandle | None = None
        self._write_lock = threading.Lock()
        self._direct: socket.socket | None = None
        """The socket once more, for `send_from_thread`."""
        self._rest: memoryview | None = None
        """What the kernel did not take of a message past the transport; goes before everything else."""

    def __repr__(self) -> str:
        state = "open" if self._open else "ended" if self._ended else "closing"
        return f"<{type(self).__name__} {self.peer} {state}, {self._unsent_bytes()} bytes unsent>"

    def send(self, *parts: Buffer) -> None:
        if not self._open:
            raise ConnectionLost(f"{self._end_text()}; nothing was sent", outcome=Outcome.NOT_EXECUTED)
        if len(parts) == 1 and type(parts[0]) is bytes and (size := len(parts[0])) <= JOIN_BYTES:
            if self._prompt:
                self._prompt = False
                if not self._queue and self._write_now(pack_header(size, 1) + parts[0], self._write_own):
                    return
            # Most messages: the header goes into the run that is joined anyway.
            self._queue += (pack_header(size, 1), parts[0])
            self._queued_bytes += size
        else:
            buffers = encode_frame(parts)
            self._queue += buffers
            self._queued_bytes += sum(map(len, buffers))
        if self._queued_bytes > EARLY_FLUSH_BYTES:
            self._flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_pass)

    def send_from_thread(self, *parts: Buffer) -> bool:
        """Write one message to the socket, now, from a thread other than the loop's.

        False when it is not sent, because something else is queued before it or the connection has ended: then it must
        go through `send`. Saves waking the loop only to write a few bytes.
        """
        if self._queue or not self._open:
            return False
        return self._write_now(b"".join(encode_frame(parts)), self._write_copy)

    def _write_now(self, data: bytes, write: Callable[[bytes], int]) -> bool:
        """Write past the transport; False when something else must go first, or `write` cannot."""
        if not self._write_lock.acquire(blocking=False):
            return False
        try:
            transport = self._transport
            if not self._open or self._queue or self._rest is not None or transport is None or self._paused:
                return False
            if transport.is_closing() or transport.get_write_buffer_size():
                return False
            try:
                sent = write(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return False  # no descriptor left, or the loop finds out by itself
            if sent < len(data):
                self._rest = memoryview(data)[sent:]
                self._loop.call_soon_threadsafe(self._flush)
            return True
        finally:
            self._write_lock.release()

    def _write_own(self, data: bytes) -> int:
        """On the loop, which alone closes the transport."""
        assert self._transport is not None
        return os.write(self._transport.get_extra_info("socket").fileno(), data)

    def _write_copy(self, data: bytes) -> int:
        """With a descriptor of our own: the transport may close its one at any time, and the number be given away."""
        if self._direct is None:
            assert self._transport is not None
            self._direct = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
        return self._direct.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    async def drain(self) -> None:
        while self._open and self._paused:
            await self._changed.wait()
        if not self._open:
            raise ConnectionLost(self._end_text())

    async def aclose(self) -> None:
        transport = self._transport
        if self._ended or transport is None:
            return
        if self._open:
            self._flush()
            self._open = False
            self._closed_by_us = True
            self._grace = self._loop.call_later(CLOSE_GRACE_S, self._grace_over, self._unsent_bytes())
            self._changed.wake()
            try:
                if not transport.is_closing():
                    transport.write_eof()
            except OSError:
                transport.abort()  # the peer has reset the connection already
        try:
            while not self._ended:
                await self._changed.wait()
        except asyncio.CancelledError:
            transport.abort()
            raise

    def abandon(self) -> None:
        """End without a word to the sink: `connect` did not succeed."""
        self._sink = None
        self._fail("given up while connecting")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        attach, self._attach = self._attach, None
        if self._failure is not None or attach is None:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(HIGH_WATER_BYTES, LOW_WATER_BYTES)
        self._open = True
        sink = attach(self, self._transport)
        if sink is None:
            self._fail("refused")
        else:
            self._sink = sink
            self._reader = FrameReader(sink, self._scratch)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.get_buffer() if self._open and self._reader is not None else self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        reader, sink = self._reader, self._sink
        if not self._open or reader is None or sink is None:
            return
        self._prompt = nbytes <= PROMPT_BYTES
        try:
            for parts in reader.advance(nbytes):
                try:
                    sink.message(parts)
                except Exception as error:
                    logger.exception("%s: the sink failed on a message; closing the connection", self.peer)
                    self._fail(f"the sink failed on a message: {error!r}", error)
                if not self._open:
                    return
        except ProtocolError as error:
            self._fail(str(error), error)

    def eof_received(self) -> None:
        if self._open and self._reader is not None:
            where = "" if self._reader.at_boundary else " in the middle of a frame"
            self._failure = ConnectionLost(f"connection to {self.peer} closed by peer{where}")
            self._open = False
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._changed.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._open:
            self._failure = ConnectionLost(f"connection to {self.peer} broken: {exc or 'the transport was closed'}")
            self._failure.__cause__ = exc
        self._open = False
        self._ended = True
        self._queue.clear()
        self._queued_bytes = 0
        if self._grace is not None:
            self._grace.cancel()
        with self._write_lock:
            if self._direct is not None:
                self._direct.close()
                self._direct = None
        sink, self._sink, self._reader = self._sink, None, None
        self._changed.wake()
        if sink is not None:
            try:
                sink.closed(None if self._closed_by_us else self._failure)
            except Exception:
                logger.exception("%s: the sink failed when it was told of the end", self.peer)

    def _fail(self, why: str, cause: Exception | None = None) -> None:
        if self._failure is None and not self._closed_by_us:
            self._failure = ConnectionLost(f"connection to {self.peer} broken: {why}")
            self._failure.__cause__ = cause
        self._open = False
        if self._transport is not None:
            self._transport.abort()
        self._changed.wake()

    def _flush_pass(self) -> None:
        self._flush_scheduled = False
        self._flush()

    def _flush(self) -> None:
        queue, transport = self._queue, self._transport
        if transport is None or not self._open or not (queue or self._rest):
            return
        with self._write_lock:
            queued = self._queued_bytes
            self._queue, self._queued_bytes = [], 0
            if self._rest is not None:
                queue.insert(0, self._rest)
                queued += len(self._rest)
                self._rest = None
            if transport.is_closing():
                return
            if queued <= RUN_BYTES:
                transport.write(queue[0] if len(queue) == 1 else b"".join(queue))
                return
            for run in joined_runs(queue):
                if not transport.is_closing():
                    transport.write(run)

    def _grace_over(self, unsent_before: int) -> None:
        unsent = self._unsent_bytes()
        if unsent < unsent_before:
            self._grace = self._loop.call_later(CLOSE_GRACE_S, self._grace_over, unsent)
        else:
            self._fail("the peer takes nothing")

    def _unsent_bytes(self) -> int:
        transport = self._transport
        alive = transport is not None and not self._ended and not transport.is_closing()
        return self._queued_bytes + (transport.get_write_buffer_size() if transport is not None and alive else 0)

    def _end_text(self) -> str:
        return str(self._failure) if self._failure is not None else f"connection to {self.peer} closed by this side"


Welcome: TypeAlias = Callable[[asyncio.Transport], Address]
"""Names the peer of an accepted socket; raises `AuthenticationError` to refuse it before a byte is read."""


class StreamListener:
    """Accepts connections until closed; those it has accepted live on."""

    def __init__(self, accept: Callable[[Connection], Sink], welcome: Welcome) -> None:
        self.address: Address = ""
        self._accept = accept
        self._welcome = welcome
        self._server: asyncio.Server | None = None
        self._at_close: Callable[[], None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} {'closed' if self._closed else 'open'}>"

    def protocol(self) -> StreamConnection:
        return StreamConnection(self.address, self._attach)

    async def serve(
        self, address: Address, server: asyncio.Server, at_close: Callable[[], None] | None = None
    ) -> StreamListener:
        """Start accepting on a server made with `start_serving=False`. When this fails, the server is closed."""
        self.address = address
        self._server = server
        self._at_close = at_close
        try:
            await server.start_serving()
        except BaseException:
            self._close_server(server)
            raise
        return self

    async def aclose(self) -> None:
        server = self._server
        if self._closed or server is None:
            return
        self._closed = True
        try:
            # What asyncio has accepted it attaches to the server in its next pass. When that is closed by then, an
            # assertion fails there, in silence, and the socket is left open.
            loop = asyncio.get_running_loop()
            for each in server.sockets:
                loop.remove_reader(each.fileno())
            await asyncio.sleep(0)
        finally:
            self._close_server(server)

    def _close_server(self, server: asyncio.Server) -> None:
        self._closed = True
        if self._at_close is not None:
            self._at_close()
        # Not `wait_closed`: since Python 3.12 it waits for the connections too, which live on.
        server.close()

    def _attach(self, connection: StreamConnection, transport: asyncio.Transport) -> Sink | None:
        if self._closed:
            return None
        try:
            connection.peer = self._welcome(transport)
            return self._accept(connection)
        except AuthenticationError as error:
            logger.warning("%s: %s", self.address, error)
        except Exception:
            logger.exception("%s: accepting a connection failed", self.address)
        return None
