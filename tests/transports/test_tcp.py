from __future__ import annotations

import asyncio
import socket

import pytest

from actorlite.errors import ConnectFailed
from actorlite.testing.transport import Recorder, check_transport
from actorlite_transports.tcp import TcpTransport


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "[::1]"])
def test_loopback_addresses_work_and_port_0_is_resolved(host, run):
    if host == "[::1]" and not has_ipv6():
        pytest.skip("no IPv6 here")

    async def main():
        accepted = asyncio.Queue()
        listener = await TcpTransport().listen(
            f"tcp://{host}:0", lambda connection: accepted.put_nowait(connection) or Recorder()
        )
        port = int(listener.address.rpartition(":")[2])
        assert port > 0
        assert listener.address == f"tcp://{host.replace('localhost', '127.0.0.1')}:{port}"
        client = await TcpTransport().connect(f"tcp://{host}:{port}", Recorder())
        server = await accepted.get()
        assert client.peer == f"tcp://{host}:{port}"
        assert server.peer.startswith("tcp://")
        for connection in (client, server):
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await client.aclose()
        await listener.aclose()

    run(main)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("tcp://0.0.0.0:0", "for this host only"),
        ("tcp://[::]:0", "for this host only"),
        ("tcp://192.0.2.1:80", "for this host only"),
        ("tcp://example.org:80", "for this host only"),
        ("tcp://127.0.0.1", "tcp://host:port"),
        ("tcp://:80", "tcp://host:port"),
        ("tcp://127.0.0.1:http", "tcp://host:port"),
        ("tcp://127.0.0.1:-1", "tcp://host:port"),
        ("tcp://127.0.0.1:65536", "ports end at 65535"),
        ("uds://127.0.0.1:1", "tcp://host:port"),
    ],
)
def test_addresses_that_cannot_be_used(address, text, run):
    async def main():
        with pytest.raises(ConnectFailed, match=text):
            await TcpTransport().connect(address, Recorder())
        with pytest.raises(ConnectFailed, match=text):
            await TcpTransport().listen(address, lambda connection: Recorder())

    run(main)


def test_a_port_can_be_listened_on_again_at_once(run):
    async def main():
        sink = Recorder()
        listener = await TcpTransport().listen("tcp://127.0.0.1:0", lambda connection: sink)
        client = await TcpTransport().connect(listener.address, Recorder())
        client.send(b"x")
        await sink.until_messages(1)
        await listener.aclose()
        again = await TcpTransport().listen(listener.address, lambda connection: Recorder())
        assert again.address == listener.address
        await again.aclose()
        await client.aclose()
        await sink.until_closed(by_us=False)

    run(main)


def test_a_connection_to_oneself_is_refused(run, monkeypatch):
    """What the kernel does when the port it picks for us is the one nobody listens on."""

    async def main():
        loop = asyncio.get_running_loop()

        async def connect_to_itself(sock, address):
            sock.setblocking(True)
            sock.bind(address)
            sock.connect(address)
            sock.setblocking(False)

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        monkeypatch.setattr(type(loop), "sock_connect", lambda self, sock, address: connect_to_itself(sock, address))
        with pytest.raises(ConnectFailed, match="nobody listens"):
            await TcpTransport().connect(f"tcp://127.0.0.1:{port}", Recorder())
        monkeypatch.undo()

    run(main)


def test_the_suite_runs_on_ipv6(run):
    if not has_ipv6():
        pytest.skip("no IPv6 here")
    run(lambda: check_transport(lambda: "tcp://[::1]:0"))
