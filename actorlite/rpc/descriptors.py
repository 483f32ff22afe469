"""The channel on which open descriptors travel between processes of one host.

asyncio and uvloop transports drop descriptors silently, so these have a socket of their own: one end of a
`SOCK_SEQPACKET` pair, or a connection to a `<node>.ctl` listener. A packet is one small message with its descriptors:
it arrives whole or not at all. Every descriptor has one owner at any time: the sender keeps its own and may close it
when `send` returns, and what the receiving sink does not take is closed for it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from struct import Struct
from typing import Protocol

from actorlite.errors import (
    AuthenticationError,
    ConnectFailed,
    ConnectionLost,
    FrameTooLarge,
    Outcome,
    TransportError,
)

MAX_MESSAGE_BYTES = 16 * 1024
"""A packet tells what its descriptors are for; anything longer belongs on an ordinary connection."""
MAX_DESCRIPTORS = 16
BACKLOG = 128
CLOSE_GRACE_S = 2.0
"""How long `aclose` bears a peer that takes nothing."""
CONNECT_PATIENCE_S = 5.0
"""How long to wait for a place in the backlog of a listener that does not accept."""
ACCEPT_PAUSE_S = 1.0
ROOT = 0

_CREDENTIALS = Struct("3i")
_ANCILLARY_BYTES = socket.CMSG_LEN(MAX_DESCRIPTORS * array("i").itemsize)
_PACKETS_PER_PASS = 16
_RETRY_S = 0.002

logger = logging.getLogger("actorlite.rpc")


class Descriptors:
    """The descriptors of one packet. What was not taken when `DescriptorSink.message` returns is closed."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = list(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.numbers}>"

    def take(self) -> list[int]:
        """All descriptors, in the order sent; from here on the caller closes them."""
        taken, self.numbers = self.numbers, []
        return taken

    def close(self) -> None:
        for number in self.take():
            os.close(number)


class DescriptorSink(Protocol):
    """Receives what arrives on one channel; called on the loop."""

    def message(self, data: bytes, descriptors: Descriptors) -> None:
        """One packet. An exception ends the channel."""

    def closed(self, error: ConnectionLost | None) -> None:
        """The channel has ended; exactly once, last. `None` when this side called `aclose`."""


class DescriptorChannel:
    """One end of the channel, on the running loop. It owns the socket that it is given; `start` begins to receive."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._sink: DescriptorSink | None = None
        self._unsent: deque[tuple[bytes, Descriptors]] = deque()
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self._reset = False
        self._closing = False
        self._end: str | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._end or 'open'}, {len(self._unsent)} packets unsent>"

    @property
    def peer_pid(self) -> int:
        """The process that connected, listened, or made the socket pair."""
        return _credentials(self._sock)[0]

    def start(self, sink: DescriptorSink) -> None:
        if self._end is not None or self._sink is not None:
            raise RuntimeError("a descriptor channel is started once, while it is open")
        self._sink = sink
        # By number: uvloop and asyncio treat a number alike, a socket object not.
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Queue one packet, without waiting. The caller may close its descriptors at once.

        Raises `ConnectionLost` once the channel has ended, `FrameTooLarge`, and `ValueError` for too many descriptors,
        for one that is not open, and for an empty message: nobody could tell that from the end of the channel.
        """
        if self._closing or self._end is not None:
            why = self._end or "closed by this side"
            raise ConnectionLost(f"descriptor channel {why}; nothing was sent", outcome=Outcome.NOT_EXECUTED)
        if not data:
            raise ValueError("a packet has at least one byte")
        if len(data) > MAX_MESSAGE_BYTES:
            raise FrameTooLarge(f"a packet of {len(data)} bytes: at most {MAX_MESSAGE_BYTES} travel with descriptors")
        if len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"{len(descriptors)} descriptors: at most {MAX_DESCRIPTORS} travel in one packet")
        if self._unsent or not self._sent(data, descriptors):
            kept = _duplicates(descriptors)
            if not self._unsent:
                self._loop.add_writer(self._sock.fileno(), self._writable)
                self._all_sent.clear()
            self._unsent.append((data, kept))

    async def drain(self) -> None:
        """Return once the kernel has taken everything. Raises `ConnectionLost`."""
        await self._all_sent.wait()
        if self._end is not None:
            raise ConnectionLost(f"descriptor channel {self._end}")

    async def aclose(self) -> None:
        """Send what is queued, for a while at most, then close. Idempotent; a cancelled `aclose` still closes."""
        self._closing = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_GRACE_S):
                    await self._all_sent.wait()
        finally:
            self._finish("closed by this side", None)

    def refuse(self) -> None:
        """Close at once, before a sink is known."""
        self._finish("refused by this side", None)

    def _readable(self) -> None:
        for _ in range(_PACKETS_PER_PASS):
            if self._end is not None:
                return
            try:
                # Not `socket.recv_fds`: it ignores its flags, and what it returns survives an exec.
                data, ancillary, flags, _address = self._sock.recvmsg(
                    MAX_MESSAGE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except ConnectionResetError as error:
                # Says that the peer left something unread; what it sent before is still to be read, after this error.
                if self._reset:
                    self._finish(f"broken: {error}", error)
                self._reset = True
                continue
            except OSError as error:
                self._finish(f"broken: {error}", error)
                return
            received = Descriptors(_numbers(ancillary))
            try:
                self._take(data, received, flags)
            finally:
                received.close()

    def _take(self, data: bytes, received: Descriptors, flags: int) -> None:
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            self._finish("broken: a packet came truncated: too long, or no room for its descriptors", None)
        elif not data:
            self._finish("closed by peer" if not received else "broken: a packet without a byte", None)
        elif self._sink is not None and not self._closing:
            try:
                self._sink.message(data, received)
            except Exception as error:
                logger.exception("the sink of a descriptor channel failed on a message; closing the channel")
                self._finish(f"broken: the sink failed on a message: {error!r}", error)

    def _writable(self) -> None:
        while self._unsent:
            data, kept = self._unsent[0]
            if not self._sent(data, kept.numbers):
                return
            self._unsent.popleft()
            kept.close()
        self._loop.remove_writer(self._sock.fileno())
        self._all_sent.set()

    def _sent(self, data: bytes, descriptors: Sequence[int]) -> bool:
        """False when the socket is full."""
        try:
            if descriptors:
                socket.send_fds(self._sock, [data], descriptors)
            else:
                self._sock.send(data)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EBADF:
                raise ValueError(f"not all of {list(descriptors)} are open descriptors") from error
            # Not from inside `send`. Where the peer is gone, what it sent before comes first.
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                self._loop.call_soon(self._finish, f"broken: {error}", error)
        return True

    def _finish(self, end: str, cause: Exception | None) -> None:
        if self._end is not None:
            return
        self._end = end
        number = self._sock.fileno()
        self._loop.remove_reader(number)
        self._loop.remove_writer(number)
        self._sock.close()
        for _, kept in self._unsent:
            kept.close()
        self._unsent.clear()
        self._all_sent.set()
        sink, self._sink = self._sink, None
        if sink is None:
            return
        error = None
        if not self._closing:
            error = ConnectionLost(f"descriptor channel {end}")
            error.__cause__ = cause
        try:
            sink.closed(error)
        except Exception:
            logger.exception("the sink of a descriptor channel failed when it was told of the end")


class DescriptorListener:
    """Accepts channels from processes of the same user, until closed; those it has accepted live on."""

    def __init__(self, sock: socket.socket, path: str, accept: Callable[[DescriptorChannel], DescriptorSink]) -> None:
        self.path = path
        self._sock = sock
        self._accept = accept
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        self._resume()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} {'closed' if self._closed else 'open'}>"

    async def aclose(self) -> None:
        """Stop accepting and remove the socket file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock.fileno())
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self._sock.close()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._acceptable)

    def _acceptable(self) -> None:
        for _ in range(_PACKETS_PER_PASS):
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors or memory: the caller stays in the backlog, and the loop would spin on it.
                logger.error("%s: accepting failed, next try in %s s: %s", self.path, ACCEPT_PAUSE_S, error)
                self._loop.remove_reader(self._sock.fileno())
                self._pause = self._loop.call_later(ACCEPT_PAUSE_S, self._resume)
                return
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        try:
            _check_peer(sock)
        except AuthenticationError as error:
            logger.warning("%s: %s", self.path, error)
            sock.close()
            return
        channel = DescriptorChannel(sock)
        try:
            channel.start(self._accept(channel))
        except Exception:
            logger.exception("%s: accepting a channel failed", self.path)
            channel.refuse()


async def listen_descriptors(path: str, accept: Callable[[DescriptorChannel], DescriptorSink]) -> DescriptorListener:
    """Listen at `path`, with mode 0600. Raises `ConnectFailed`.

    The caller owns the name, as a node that listens on `<node>` owns `<node>.ctl`: a socket file found there is taken
    for that of a predecessor and replaced.
    """
    sock = _socket()
    try:
        _bind(sock, path)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConnectFailed(f"cannot listen for descriptors on {path}: {error}") from error
    return DescriptorListener(sock, path, accept)


async def connect_descriptors(path: str, sink: DescriptorSink) -> DescriptorChannel:
    """A channel to the listener at `path`. Raises `ConnectFailed`, or `AuthenticationError`."""
    loop = asyncio.get_running_loop()
    patience_ends = loop.time() + CONNECT_PATIENCE_S
    sock = _socket()
    try:
        while True:
            try:
                sock.connect(path)
                break
            except BlockingIOError:  # the backlog is full
                if loop.time() >= patience_ends:
                    raise
            await asyncio.sleep(_RETRY_S)
        _check_peer(sock)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and not isinstance(error, AuthenticationError):
            raise ConnectFailed(f"cannot connect for descriptors to {path}: {error}") from error
        raise
    channel = DescriptorChannel(sock)
    channel.start(sink)
    return channel


def descriptor_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a channel, for two processes of which one starts the other; neither is inherited by accident."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    return sock


def _numbers(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    numbers = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return list(numbers)


def _bind(sock: socket.socket, path: str) -> None:
    if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
        os.unlink(path)
    sock.bind(path)
    os.chmod(path, 0o600)  # nobody can connect before `listen`


def _credentials(sock: socket.socket) -> tuple[int, int]:
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(pid), int(uid)


def _check_peer(sock: socket.socket) -> None:
    pid, uid = _credentials(sock)
    if uid not in (os.geteuid(), ROOT):
        raise AuthenticationError(f"the peer (pid {pid}) runs as user {uid}, this process as user {os.geteuid()}")


def _duplicates(descriptors: Sequence[int]) -> Descriptors:
    kept = Descriptors(())
    try:
        for number in descriptors:
            kept.numbers.append(os.dup(number))
    except OSError as error:
        kept.close()
        if error.errno == errno.EBADF:
            raise ValueError(f"not all of {list(descriptors)} are open descriptors") from error
        raise TransportError(f"cannot keep {len(descriptors)} descriptors until they can be sent: {error}") from error
    return kept
