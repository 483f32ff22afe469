"""`tcp://host:port`, on the loopback interface only: nothing here encrypts or authenticates."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address

from actorlite.errors import ConnectFailed
from actorlite.transport import Address, Connection, Listener, Sink
from actorlite_transports._stream import StreamConnection, StreamListener

BACKLOG = 1024


class TcpTransport:
    async def connect(self, address: Address, sink: Sink) -> Connection:
        family, host, port = _parse(address)
        loop = asyncio.get_running_loop()
        connection = StreamConnection(address, lambda _, __: sink)
        try:
            sock = _socket(family)
            try:
                await loop.sock_connect(sock, (host, port))
                if sock.getsockname() == sock.getpeername():
                    # The kernel picked the very port that nobody listens on as ours, and connected us to ourselves.
                    raise ConnectionRefusedError("nobody listens there")
            except BaseException:
                sock.close()
                raise
            await loop.create_connection(lambda: connection, sock=sock)
        except OSError as error:
            connection.abandon()
            raise ConnectFailed(f"cannot connect to {address}: {error}") from error
        except BaseException:
            connection.abandon()
            raise
        return connection

    async def listen(self, address: Address, accept: Callable[[Connection], Sink]) -> Listener:
        family, host, port = _parse(address)
        loop = asyncio.get_running_loop()
        listener = StreamListener(accept, _welcome)
        try:
            sock = _socket(family)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((host, port))
                bound = _address(sock.getsockname())
                server = await loop.create_server(listener.protocol, sock=sock, backlog=BACKLOG, start_serving=False)
            except BaseException:
                sock.close()
                raise
            return await listener.serve(bound, server)
        except OSError as error:
            raise ConnectFailed(f"cannot listen on {address}: {error}") from error


def _socket(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # an accepted socket inherits it
    return sock


def _welcome(transport: asyncio.Transport) -> Address:
    return _address(transport.get_extra_info("peername"))


def _address(name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    host, port = name[:2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _parse(address: Address) -> tuple[int, str, int]:
    """Family, numeric host and port. Names are not resolved: that would go through a thread and reach the network."""
    scheme, _, rest = address.partition("://")
    host, separator, port_text = rest.rpartition(":")
    if scheme != "tcp" or not separator or not host or not (port_text.isascii() and port_text.isdigit()):
        raise ConnectFailed(f"{address!r} is not a TCP address; write it as tcp://host:port, e.g. tcp://127.0.0.1:0")
    port = int(port_text)
    if port > 65535:
        raise ConnectFailed(f"{address!r}: ports end at 65535")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        ip = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        ip = None
    if ip is None or not ip.is_loopback:
        raise ConnectFailed(
            f"{address!r}: plain TCP is for this host only, because it neither encrypts nor authenticates; "
            f"use 127.0.0.1, [::1] or localhost"
        )
    return (socket.AF_INET6 if ip.version == 6 else socket.AF_INET), str(ip), port
