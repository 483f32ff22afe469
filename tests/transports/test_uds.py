from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import weakref

import pytest

from actorlite.errors import AuthenticationError, ConnectFailed, ConnectionLost
from actorlite.testing.transport import Recorder
from actorlite.transport import get_transport
from actorlite_transports import _stream, uds


def listen(path, sink=None):
    return get_transport("uds://").listen(f"uds://{path}", lambda connection: sink or Recorder())


def test_the_socket_file_is_private_and_goes_with_the_listener(run, directory):
    path = directory / "s"

    async def main():
        listener = await listen(path)
        assert listener.address == f"uds://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await listener.aclose()
        assert not path.exists()
        await (await listen(path)).aclose()

    run(main)


def test_the_socket_of_a_dead_process_is_replaced(run, directory):
    path = directory / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()

    async def main():
        listener = await listen(path)
        client = await get_transport("uds://").connect(listener.address, Recorder())
        await client.aclose()
        await listener.aclose()

    run(main)


def test_a_live_socket_and_a_file_of_another_kind_are_not_replaced(run, directory):
    (directory / "file").write_text("precious")

    async def main():
        listener = await listen(directory / "s")
        with pytest.raises(ConnectFailed, match="listens there already"):
            await listen(directory / "s")
        with pytest.raises(ConnectFailed, match="not a socket"):
            await listen(directory / "file")
        assert (directory / "file").read_text() == "precious"
        await listener.aclose()

    run(main)


def test_a_listener_removes_no_file_but_its_own(run, directory):
    path = directory / "s"

    async def main():
        listener = await listen(path)
        path.unlink()
        path.write_text("somebody else's")
        await listener.aclose()
        assert path.read_text() == "somebody else's"

    run(main)


def test_two_that_start_at_once_do_not_take_each_others_socket(run, directory):
    path = directory / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main():
        lock = os.open(directory, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        starting = [asyncio.ensure_future(listen(path)) for _ in range(4)]
        await asyncio.wait(starting, timeout=0.02)
        assert not any(start.done() for start in starting), "the directory is locked by another process"
        os.close(lock)
        results = await asyncio.gather(*starting, return_exceptions=True)
        winners = [result for result in results if not isinstance(result, BaseException)]
        assert len(winners) == 1
        assert all(isinstance(result, ConnectFailed) for result in results if result not in winners)
        client = await get_transport("uds://").connect(f"uds://{path}", Recorder())
        await client.aclose()
        await winners[0].aclose()

    run(main)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("uds://relative/path", "uds:///path/to.sock"),
        ("uds://", "uds:///path/to.sock"),
        ("tcp:///path", "uds:///path/to.sock"),
        ("uds:///a\0b", "uds:///path/to.sock"),
        ("uds:///" + "x" * 107, "108 bytes: Linux allows 107"),
        ("uds:///nowhere/at/all", "No such file"),
    ],
)
def test_addresses_that_cannot_be_used(address, text, run):
    async def main():
        with pytest.raises(ConnectFailed, match=text):
            await uds.UdsTransport().connect(address, Recorder())
        with pytest.raises(ConnectFailed, match=text):
            await uds.UdsTransport().listen(address, lambda connection: Recorder())

    run(main)


def test_a_path_of_107_bytes_works(run, directory):
    path = str(directory / "x").ljust(107, "y")

    async def main():
        listener = await listen(path)
        client = await get_transport("uds://").connect(listener.address, Recorder())
        await client.aclose()
        await listener.aclose()

    run(main)


def test_another_users_process_is_refused_by_both_sides_before_a_byte_is_read(run, directory, monkeypatch, caplog):
    async def main():
        sink = Recorder()
        accepted = []
        listener = await uds.UdsTransport().listen(f"uds://{directory}/s", lambda c: accepted.append(c) or sink)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        monkeypatch.setattr(uds, "ROOT", 12346)
        reader, writer = await asyncio.open_unix_connection(f"{directory}/s")
        writer.write(b"\1\0\0\0\1\0x")
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass  # the kernel's word for: closed with your byte unread
        assert not accepted and not sink.messages
        assert f"runs as user {os.getuid()}, this process as user 12345" in caplog.text
        client_sink = Recorder()
        with pytest.raises(AuthenticationError, match="this process as user 12345"):
            await uds.UdsTransport().connect(listener.address, client_sink)
        assert not client_sink.ends
        monkeypatch.undo()
        writer.close()
        await listener.aclose()

    run(main)


def test_the_peers_process_id_is_in_its_address(run, directory):
    async def main():
        accepted = asyncio.Queue()
        listener = await uds.UdsTransport().listen(
            f"uds://{directory}/s", lambda connection: accepted.put_nowait(connection) or Recorder()
        )
        client = await uds.UdsTransport().connect(listener.address, Recorder())
        server = await accepted.get()
        assert server.peer == f"uds://{directory}/s#pid={os.getpid()}"
        assert repr(server) == f"<StreamConnection {server.peer} open, 0 bytes unsent>"
        await client.aclose()
        assert repr(client) == f"<StreamConnection {client.peer} ended, 0 bytes unsent>"
        await listener.aclose()
        assert repr(listener) == f"<StreamListener uds://{directory}/s closed>"

    run(main)


def test_connect_waits_for_a_place_in_the_backlog_but_not_for_ever(run, directory, monkeypatch):
    path = str(directory / "s")
    monkeypatch.setattr(uds, "PATIENCE_S", 0.02)
    monkeypatch.setattr(_stream, "CLOSE_GRACE_S", 0.02)

    async def main():
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
            busy.bind(path)
            busy.listen(0)
            first.connect(path)
            with pytest.raises(ConnectFailed, match="backlog stayed full"):
                await uds.UdsTransport().connect(f"uds://{path}", Recorder())
            monkeypatch.setattr(uds, "PATIENCE_S", 10.0)
            connecting = asyncio.ensure_future(uds.UdsTransport().connect(f"uds://{path}", Recorder()))
            await asyncio.wait([connecting], timeout=0.01)
            assert not connecting.done()
            busy.accept()[0].close()
            client = await connecting
            await client.aclose()

    run(main)


def test_aclose_gives_up_on_a_peer_that_takes_nothing(run, directory, monkeypatch):
    monkeypatch.setattr(_stream, "CLOSE_GRACE_S", 0.03)

    async def main():
        sink = Recorder()
        accepted = asyncio.Queue()
        listener = await uds.UdsTransport().listen(
            f"uds://{directory}/s", lambda connection: accepted.put_nowait(connection) or sink
        )
        for size in (10, 4 * 2**20):
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.connect(f"{directory}/s")
                server = await accepted.get()
                server.send(bytes(size))
                async with asyncio.timeout(5):
                    await server.aclose()
        assert sink.ends == [None, None]
        await listener.aclose()

    run(main)


def test_a_killed_process_ends_the_connection(run, directory):
    child_code = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"\\x05\\0\\0\\0\\1\\0whole" + b"\\xff\\0\\0\\0\\1\\0half")
s.recv(1)
"""

    async def main():
        sink = Recorder()
        listener = await listen(directory / "s", sink)
        child = subprocess.Popen([sys.executable, "-c", child_code, f"{directory}/s"])  # noqa: ASYNC220
        try:
            await sink.until_messages(1)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        await sink.until_closed(by_us=False)
        assert "closed by peer in the middle of a frame" in str(sink.ends[0])
        await listener.aclose()

    run(main)


def test_a_failing_sink_is_logged_and_named(run, directory, caplog):
    def fail(parts):
        raise LookupError("on purpose")

    async def main():
        sink = Recorder(on_message=fail)
        listener = await listen(directory / "s", sink)
        client = await get_transport("uds://").connect(listener.address, Recorder())
        client.send(b"x")
        await sink.until_closed(by_us=False)
        assert "the sink failed on a message: LookupError('on purpose')" in str(sink.ends[0])
        assert isinstance(sink.ends[0].__cause__, LookupError)
        [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert record.name == "actorlite.transport"
        assert isinstance(record.exc_info[1], LookupError)
        await client.aclose()
        await listener.aclose()

    run(main)


def test_a_failing_accept_refuses_that_connection_only(run, directory, caplog):
    async def main():
        sinks = [None, Recorder()]

        def accept(connection):
            sink = sinks.pop(0)
            if sink is None:
                raise LookupError("not this one")
            return sink

        listener = await uds.UdsTransport().listen(f"uds://{directory}/s", accept)
        good = sinks[1]
        refused = Recorder()
        await uds.UdsTransport().connect(listener.address, refused)
        await refused.until_closed(by_us=False)
        assert "not this one" in caplog.text
        client = await uds.UdsTransport().connect(listener.address, Recorder())
        client.send(b"hello")
        await good.until_messages(1)
        await client.aclose()
        await listener.aclose()

    run(main)


def test_a_sink_that_fails_at_the_end_is_logged(run, directory, caplog):
    class Failing(Recorder):
        def closed(self, error):
            super().closed(error)
            raise LookupError("at the end")

    async def main():
        sink = Failing()
        listener = await listen(directory / "s", sink)
        client = await get_transport("uds://").connect(listener.address, Recorder())
        client.send(b"x")
        await client.aclose()
        await sink.until_closed(by_us=False)
        assert "at the end" in caplog.text
        await listener.aclose()

    run(main)


def test_small_messages_of_one_pass_are_written_together(run, directory):
    async def main():
        sink = Recorder()
        listener = await listen(directory / "s", sink)
        client = await get_transport("uds://").connect(listener.address, Recorder())
        writes = []
        write = client._transport.write

        class Spy:
            def __getattr__(self, name):
                return getattr(transport, name)

            def write(self, data):
                writes.append(len(data))
                write(data)

        transport, client._transport = client._transport, Spy()
        for _ in range(100):
            client.send(b"abcd")
        await sink.until_messages(100)
        assert writes == [1000]
        large = bytes(100_000)
        client.send(b"abcd", large, b"efgh")
        await sink.until_messages(101)
        assert writes == [1000, 6 + 12 + 4, 100_000, 4]
        client._transport = transport
        await client.aclose()
        await listener.aclose()

    run(main)


def test_a_closed_connection_keeps_nothing_alive(run, directory):
    async def main():
        sink = Recorder()
        listener = await listen(directory / "s", sink)
        client_sink = Recorder()
        client = await get_transport("uds://").connect(listener.address, client_sink)
        sink_gone, connection_gone = weakref.ref(client_sink), weakref.ref(client)
        await client.aclose()
        del client_sink
        await sink.until_closed(by_us=False)
        gc.collect()
        assert sink_gone() is None
        with pytest.raises(ConnectionLost, match="closed by this side; nothing was sent"):
            client.send(b"x")
        del client
        gc.collect()
        assert connection_gone() is None
        await listener.aclose()

    run(main)


def test_a_cancelled_aclose_does_not_wait_for_a_peer_that_takes_nothing(run, directory, monkeypatch):
    monkeypatch.setattr(_stream, "CLOSE_GRACE_S", 1000.0)

    async def main():
        sink = Recorder()
        accepted = asyncio.Queue()
        listener = await uds.UdsTransport().listen(
            f"uds://{directory}/s", lambda connection: accepted.put_nowait(connection) or sink
        )
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(f"{directory}/s")
            server = await accepted.get()
            server.send(bytes(4 * 2**20))
            closing = asyncio.ensure_future(server.aclose())
            await asyncio.sleep(0)
            closing.cancel()
            await sink.until_closed(by_us=True)
            assert closing.cancelled()
        await listener.aclose()

    run(main)


def test_the_peers_end_of_stream_ends_the_connection_whatever_is_unsent(run, directory):
    async def main():
        sink = Recorder()
        accepted = asyncio.Queue()
        listener = await uds.UdsTransport().listen(
            f"uds://{directory}/s", lambda connection: accepted.put_nowait(connection) or sink
        )
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(f"{directory}/s")
            server = await accepted.get()
            server.send(bytes(4 * 2**20))
            draining = asyncio.ensure_future(server.drain())
            await asyncio.sleep(0)
            deaf.shutdown(socket.SHUT_WR)
            await sink.until_closed(by_us=False)
            with pytest.raises(ConnectionLost, match="closed by peer"):
                await draining
        await listener.aclose()

    run(main)


@pytest.mark.parametrize("taken", [None, 0, 3], ids=["all of it", "nothing", "a part"])
def test_the_answer_to_a_short_message_is_written_at_once_and_keeps_its_place(run, directory, monkeypatch, taken):
    unsent = []
    write = os.write

    def write_some(fd, data):
        if taken is None:
            return write(fd, data)
        if taken == 0:
            raise BlockingIOError
        return write(fd, data[:taken])

    async def main():
        accepted = []

        def answer(parts):
            for text in (b"first", b"second", b"third"):
                accepted[0].send(text)
                unsent.append(accepted[0]._unsent_bytes())

        def accept(connection):
            accepted.append(connection)
            return Recorder(on_message=answer)

        listener = await get_transport("uds://").listen(f"uds://{directory}/s", accept)
        recorder = Recorder()
        client = await get_transport("uds://").connect(listener.address, recorder)
        monkeypatch.setattr(_stream.os, "write", write_some)
        try:
            client.send(b"x")
            await recorder.until_messages(3)
            # The answer to a long message waits for the end of the pass, with what follows it.
            client.send(b"x" * 2 * _stream.PROMPT_BYTES)
            await recorder.until_messages(6)
        finally:
            monkeypatch.undo()
        assert recorder.contents() == [[b"first"], [b"second"], [b"third"]] * 2
        await client.aclose()
        await listener.aclose()

    run(main)
    assert (unsent[0] == 0) and all(unsent[1:])


def test_a_write_past_the_transport_that_fails_is_left_to_it(run, directory, monkeypatch):
    def write_nothing(fd, data):
        raise BrokenPipeError

    async def main():
        recorder = Recorder()
        listener = await listen(directory / "s", recorder)
        client = await get_transport("uds://").connect(listener.address, Recorder())
        client._prompt = True
        monkeypatch.setattr(_stream.os, "write", write_nothing)
        try:
            client.send(b"x")
            await recorder.until_messages(1)
        finally:
            monkeypatch.undo()
        assert recorder.contents() == [[b"x"]]
        await client.aclose()
        await listener.aclose()

    run(main)


@pytest.mark.parametrize("passes", range(4))
def test_what_is_accepted_while_the_listener_closes_is_closed_too(run, directory, passes):
    async def main():
        await (await listen(directory / "s")).aclose()  # with its first listener libuv opens a descriptor to keep
        open_before = len(os.listdir("/proc/self/fd"))
        listener = await listen(directory / "s")
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(directory / "s"))
            for _ in range(passes):
                await asyncio.sleep(0)
            await listener.aclose()
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == open_before

    run(main)
