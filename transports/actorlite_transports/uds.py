"""`uds:///path/to.sock`: Unix sockets between processes of one user.

The socket file has mode 0600, and both sides ask the kernel who the other one is before a byte is read.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from struct import Struct

from actorlite.errors import AuthenticationError, ConnectFailed
from actorlite.transport import Address, Connection, Listener, Sink
from actorlite_transports._stream import StreamConnection, StreamListener

BACKLOG = 1024
MAX_PATH_BYTES = 107
"""What fits into `sun_path` with its final zero."""
PATIENCE_S = 5.0
"""How long to wait for a place in the backlog of a listener that does not accept, or for the lock of `listen`."""

ROOT = 0

_CREDENTIALS = Struct("3i")
_RETRY_S = 0.002


class UdsTransport:
    async def connect(self, address: Address, sink: Sink) -> Connection:
        path = _parse(address)
        loop = asyncio.get_running_loop()
        connection = StreamConnection(address, lambda _, __: sink)
        try:
            sock = _socket()
            try:
                await _connect(sock, path)
                _check_peer(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            except BaseException:
                sock.close()
                raise
            await loop.create_unix_connection(lambda: connection, sock=sock)
        except BaseException as error:
            connection.abandon()
            if isinstance(error, OSError) and not isinstance(error, AuthenticationError):
                raise ConnectFailed(f"cannot connect to {address}: {error}") from error
            raise
        return connection

    async def listen(self, address: Address, accept: Callable[[Connection], Sink]) -> Listener:
        path = _parse(address)
        loop = asyncio.get_running_loop()
        listener = StreamListener(accept, lambda transport: _welcome(address, transport))
        try:
            sock = await _listening(path)
            identity = _identity(path)
            try:
                server = await loop.create_unix_server(
                    listener.protocol, sock=sock, backlog=BACKLOG, start_serving=False
                )
            except BaseException:
                sock.close()
                _remove(path, identity)
                raise
            return await listener.serve(address, server, lambda: _remove(path, identity))
        except OSError as error:
            raise ConnectFailed(f"cannot listen on {address}: {error}") from error


def _parse(address: Address) -> str:
    scheme, _, path = address.partition("://")
    if scheme != "uds" or not path.startswith("/") or "\0" in path:
        raise ConnectFailed(f"{address!r} is not the address of a Unix socket; write it as uds:///path/to.sock")
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise ConnectFailed(
            f"the socket path {path!r} has {size} bytes: Linux allows {MAX_PATH_BYTES}; use a shorter directory"
        )
    return path


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


async def _connect(sock: socket.socket, path: str) -> None:
    """Not `loop.sock_connect`: it takes a full backlog (EAGAIN) for a connection under way, and calls it made."""
    loop = asyncio.get_running_loop()
    patience_ends = loop.time() + PATIENCE_S
    while True:
        try:
            return sock.connect(path)
        except BlockingIOError:
            if loop.time() >= patience_ends:
                raise ConnectFailed("the listener does not accept: its backlog stayed full") from None
        await asyncio.sleep(_RETRY_S)


def _check_peer(credentials: bytes) -> int:
    """The peer's process id. Raises `AuthenticationError` for another user's process, except root's."""
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    if uid not in (os.geteuid(), ROOT):
        raise AuthenticationError(f"the peer (pid {pid}) runs as user {uid}, this process as user {os.geteuid()}")
    return int(pid)


def _welcome(address: Address, transport: asyncio.Transport) -> Address:
    sock = transport.get_extra_info("socket")
    return f"{address}#pid={_check_peer(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))}"


async def _listening(path: str) -> socket.socket:
    """A listening socket at `path`. A socket file that nobody listens on is replaced."""
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        # A file is bound before it listens and looks stale meanwhile; without the lock, of two processes that start at
        # once, one could remove the socket of the other.
        await _lock(directory)
        sock = _socket()
        try:
            _bind(sock, path)
            os.chmod(path, 0o600)  # nobody can connect before `listen`
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock
    finally:
        os.close(directory)


async def _lock(directory: int) -> None:
    loop = asyncio.get_running_loop()
    patience_ends = loop.time() + PATIENCE_S
    while True:
        try:
            return fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() >= patience_ends:
                raise ConnectFailed("another process keeps the directory of the socket locked") from None
        await asyncio.sleep(_RETRY_S)


def _bind(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(path)
    except OSError:
        if not os.path.lexists(path):
            raise
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConnectFailed("the file exists and is not a socket") from None
        if _answers(path):
            raise ConnectFailed("a process listens there already") from None
        os.unlink(path)
        sock.bind(path)


def _answers(path: str) -> bool:
    with _socket() as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # alive, with a full backlog
        except ConnectionRefusedError:
            return False
        return True


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _remove(path: str, identity: tuple[int, int]) -> None:
    """Remove the socket file, unless somebody has put another one in its place."""
    try:
        if _identity(path) == identity:
            os.unlink(path)
    except FileNotFoundError:
        return
