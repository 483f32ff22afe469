from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import mmap
import os
import socket
import stat

import pytest

from actorlite.errors import AuthenticationError, ConnectFailed, ConnectionLost, FrameTooLarge, Outcome
from actorlite.rpc import descriptors
from actorlite.rpc.descriptors import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE_BYTES,
    DescriptorChannel,
    connect_descriptors,
    descriptor_pair,
    listen_descriptors,
)


class Recorder:
    def __init__(self, take=True, fail=False):
        self.packets = []
        self.ends = []
        self.take = take
        self.fail = fail
        self.changed = asyncio.Event()

    def message(self, data, received):
        self.changed.set()
        if self.fail:
            raise LookupError("on purpose")
        self.packets.append((data, received.take() if self.take else len(received)))

    def closed(self, error):
        self.ends.append(error)
        self.changed.set()

    async def until(self, condition):
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def until_packets(self, count):
        await self.until(lambda: len(self.packets) >= count or self.ends)
        assert len(self.packets) >= count, self.ends


def channel_pair(one=None, other=None):
    a, b = (DescriptorChannel(sock) for sock in descriptor_pair())
    a.start(one or Recorder())
    b.start(other or Recorder())
    return a, b


def open_count() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_a_memfd_arrives_open_close_on_exec_and_the_senders_may_be_closed(run):
    async def main():
        sink = Recorder()
        a, b = channel_pair(other=sink)
        memory = os.memfd_create("store")
        os.ftruncate(memory, 4096)
        os.pwrite(memory, b"hello", 0)
        a.send(b"the store", [memory])
        os.close(memory)
        await sink.until_packets(1)
        [(data, [received])] = sink.packets
        assert data == b"the store"
        assert fcntl.fcntl(received, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        with mmap.mmap(received, 4096) as view:
            assert view[:5] == b"hello"
        os.close(received)
        await a.aclose()
        await b.aclose()

    run(main)


def test_an_accepted_tcp_socket_is_adopted_by_the_receivers_loop(run):
    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(b"echo:" + data)

        def connection_lost(self, exc):
            ended.set()

    ended = None

    async def main():
        nonlocal ended
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        sink = Recorder()
        a, b = channel_pair(other=sink)
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            reader, writer = await asyncio.open_connection(*server.getsockname())
            accepted, _ = await loop.sock_accept(server)
        with accepted:
            a.send(b"adopt this", [accepted.fileno()])
        await sink.until_packets(1)
        adopted = socket.socket(fileno=sink.packets[0][1][0])
        adopted.setblocking(False)
        await loop.connect_accepted_socket(Echo, adopted)
        writer.write(b"hi")
        assert await reader.readexactly(7) == b"echo:hi"
        writer.close()
        await writer.wait_closed()
        await ended.wait()
        await a.aclose()
        await b.aclose()

    run(main)


def test_order_is_kept_while_the_socket_is_full_and_nothing_leaks(run):
    async def main():
        before = open_count()
        sink = Recorder(take=False)
        a, b = (DescriptorChannel(sock) for sock in descriptor_pair())
        a.start(Recorder())
        read, write = os.pipe()
        for number in range(600):
            a.send(b"%d" % number, [read, write] if number % 2 else [])
        assert "packets unsent" in repr(a) and a._unsent, "the test needs a full socket"
        os.close(read)
        os.close(write)
        b.start(sink)
        await a.drain()
        await sink.until_packets(600)
        assert sink.packets == [(b"%d" % number, 2 if number % 2 else 0) for number in range(600)]
        assert repr(a) == "<DescriptorChannel open, 0 packets unsent>"
        await a.aclose()
        await b.aclose()
        assert open_count() == before

    run(main)


def test_many_descriptors_travel_in_order(run):
    async def main():
        sink = Recorder()
        a, b = channel_pair(other=sink)
        sent = [os.memfd_create(f"m{number}") for number in range(MAX_DESCRIPTORS)]
        want = [os.fstat(number).st_ino for number in sent]
        a.send(b"x" * MAX_MESSAGE_BYTES, sent)
        await sink.until_packets(1)
        received = sink.packets[0][1]
        assert [os.fstat(number).st_ino for number in received] == want
        for number in sent + received:
            os.close(number)
        await a.aclose()
        await b.aclose()

    run(main)


def test_what_cannot_be_sent_is_refused_and_the_channel_stays(run):
    async def main():
        sink = Recorder()
        a, b = channel_pair(other=sink)
        with pytest.raises(ValueError, match="at least one byte"):
            a.send(b"")
        with pytest.raises(FrameTooLarge, match="16385 bytes"):
            a.send(bytes(MAX_MESSAGE_BYTES + 1))
        with pytest.raises(ValueError, match="17 descriptors"):
            a.send(b"x", [0] * (MAX_DESCRIPTORS + 1))
        with pytest.raises(ValueError, match="not all of .* are open"):
            a.send(b"x", [999_999])
        with pytest.raises(RuntimeError, match="started once"):
            a.start(sink)
        a.send(b"fine")
        await sink.until_packets(1)
        assert sink.packets == [(b"fine", [])]
        await a.aclose()
        await b.aclose()

    run(main)


def test_a_descriptor_that_is_not_open_is_refused_while_the_socket_is_full(run):
    async def main():
        a, b = (DescriptorChannel(sock) for sock in descriptor_pair())
        while not a._unsent:
            a.send(bytes(MAX_MESSAGE_BYTES))
        before = open_count()
        with pytest.raises(ValueError, match="not all of .* are open"):
            a.send(b"x", [0, 999_999])
        assert open_count() == before
        b.start(Recorder())
        await a.drain()
        await a.aclose()
        await b.aclose()

    run(main)


def test_the_end_is_told_once_to_both_sides(run):
    async def main():
        one, other = Recorder(), Recorder()
        a, b = channel_pair(one, other)
        b.send(b"never read by the other side")
        a.send(b"last words")
        await a.aclose()
        await a.aclose()
        assert one.ends == [None]
        await other.until(lambda: other.ends)
        assert other.packets == [(b"last words", [])], "also when the peer left something unread"
        [error] = other.ends
        assert str(error) == "descriptor channel closed by peer"
        with pytest.raises(ConnectionLost, match="closed by peer; nothing was sent") as caught:
            b.send(b"late")
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        with pytest.raises(ConnectionLost, match="closed by peer"):
            await b.drain()
        await b.aclose()
        assert len(other.ends) == 1
        with pytest.raises(ConnectionLost, match="closed by this side"):
            a.send(b"late")

    run(main)


def test_aclose_sends_what_is_queued_but_not_for_ever(run, monkeypatch):
    async def main():
        for reads in (True, False):
            before = open_count()
            monkeypatch.setattr(descriptors, "CLOSE_GRACE_S", 10.0 if reads else 0.02)
            mine, sink = Recorder(), Recorder(take=False)
            a, b = (DescriptorChannel(sock) for sock in descriptor_pair())
            a.start(mine)
            count = 0
            while len(a._unsent) < 3:
                a.send(bytes(MAX_MESSAGE_BYTES), [0])
                count += 1
            if reads:
                b.start(sink)
            await a.aclose()
            assert mine.ends == [None]
            if reads:
                await sink.until(lambda sink=sink: sink.ends)
                assert len(sink.packets) == count
            await b.aclose()
            assert open_count() == before

    run(main)


def test_a_cancelled_aclose_still_closes(run):
    async def main():
        mine = Recorder()
        a, b = (DescriptorChannel(sock) for sock in descriptor_pair())
        a.start(mine)
        while not a._unsent:
            a.send(bytes(MAX_MESSAGE_BYTES), [0])
        closing = asyncio.ensure_future(a.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled() and mine.ends == [None]
        await b.aclose()

    run(main)


@pytest.mark.parametrize("what", ["descriptors", "bytes"])
def test_a_truncated_packet_ends_the_channel_and_closes_what_came(what, run):
    async def main():
        sink = Recorder()
        raw, end = descriptor_pair()
        channel = DescriptorChannel(end)
        channel.start(sink)
        before = open_count()
        size, count = (1, MAX_DESCRIPTORS + 5) if what == "descriptors" else (MAX_MESSAGE_BYTES + 1, 2)
        socket.send_fds(raw, [bytes(size)], [0] * count)
        await sink.until(lambda: sink.ends)
        assert not sink.packets
        assert "truncated" in str(sink.ends[0])
        assert open_count() == before - 1, "only the channel's own socket is gone"
        raw.close()

    run(main)


def test_a_packet_without_a_byte_ends_the_channel(run):
    async def main():
        sink = Recorder()
        raw, end = descriptor_pair()
        channel = DescriptorChannel(end)
        channel.start(sink)
        before = open_count()
        socket.send_fds(raw, [b""], [0])
        await sink.until(lambda: sink.ends)
        assert "without a byte" in str(sink.ends[0])
        assert open_count() == before - 1
        raw.close()

    run(main)


def test_what_a_sink_does_not_take_is_closed_also_when_it_fails(run, caplog):
    async def main():
        sink = Recorder(fail=True)
        a, b = channel_pair(other=sink)
        before = open_count()
        a.send(b"x", [0, 1])
        await sink.until(lambda: sink.ends)
        assert open_count() == before - 1
        assert "LookupError('on purpose')" in str(sink.ends[0])
        [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert record.name == "actorlite.rpc"
        await a.aclose()

    run(main)


def test_listen_and_connect(run, directory):
    path = str(directory / "node.ctl")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as predecessor:
        predecessor.bind(path)

    async def main():
        accepted = []
        sink = Recorder()
        listener = await listen_descriptors(path, lambda channel: accepted.append(channel) or sink)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        client = await connect_descriptors(path, Recorder())
        client.send(b"hello", [0])
        await sink.until_packets(1)
        os.close(sink.packets[0][1][0])
        assert accepted[0].peer_pid == client.peer_pid == os.getpid()
        await listener.aclose()
        await listener.aclose()
        assert not (directory / "node.ctl").exists()
        client.send(b"still open")
        await sink.until_packets(2)
        with pytest.raises(ConnectFailed, match="No such file"):
            await connect_descriptors(path, Recorder())
        await client.aclose()
        await sink.until(lambda: sink.ends)

    run(main)


def test_paths_that_cannot_be_used(run, directory):
    (directory / "file").write_text("precious")

    async def main():
        for path in (f"{directory}/nowhere/at/all", f"{directory}/file", "/" + "x" * 200):
            with pytest.raises(ConnectFailed):
                await listen_descriptors(path, lambda channel: Recorder())
            with pytest.raises(ConnectFailed):
                await connect_descriptors(path, Recorder())
        assert (directory / "file").read_text() == "precious"

    run(main)


def test_another_users_process_is_refused_by_both_sides(run, directory, monkeypatch, caplog):
    path = str(directory / "node.ctl")

    async def main():
        accepted = []
        listener = await listen_descriptors(path, lambda channel: accepted.append(channel) or Recorder())
        sink = Recorder()
        client = await connect_descriptors(path, sink)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        monkeypatch.setattr(descriptors, "ROOT", 12346)
        client.send(b"hello", [0])
        await sink.until(lambda: sink.ends)
        assert not accepted
        assert "this process as user 12345" in caplog.text
        with pytest.raises(AuthenticationError):
            await connect_descriptors(path, Recorder())
        monkeypatch.undo()
        await listener.aclose()

    run(main)


def test_a_failing_accept_refuses_that_channel_only(run, directory, caplog):
    path = str(directory / "node.ctl")

    async def main():
        sinks = [None, Recorder()]
        good = sinks[1]

        def accept(channel):
            sink = sinks.pop(0)
            if sink is None:
                raise LookupError("not this one")
            return sink

        listener = await listen_descriptors(path, accept)
        refused = Recorder()
        await connect_descriptors(path, refused)
        await refused.until(lambda: refused.ends)
        assert "not this one" in caplog.text
        client = await connect_descriptors(path, Recorder())
        client.send(b"x")
        await good.until_packets(1)
        await client.aclose()
        await good.until(lambda: good.ends)
        await listener.aclose()

    run(main)


def test_a_listener_out_of_descriptors_pauses_and_goes_on(run, directory, monkeypatch, caplog):
    path = str(directory / "node.ctl")
    monkeypatch.setattr(descriptors, "ACCEPT_PAUSE_S", 0.01)

    async def main():
        sink = Recorder()
        listener = await listen_descriptors(path, lambda channel: sink)
        accept = listener._sock.accept
        failures = []

        class Exhausted:
            def __getattr__(self, name):
                return getattr(sock, name)

            def accept(self):
                if len(failures) < 2:
                    failures.append(1)
                    raise OSError(24, "Too many open files")
                return accept()

        sock, listener._sock = listener._sock, Exhausted()
        client = await connect_descriptors(path, Recorder())
        client.send(b"x")
        await sink.until_packets(1)
        assert caplog.text.count("Too many open files") == 2
        await client.aclose()
        await sink.until(lambda: sink.ends)
        await listener.aclose()

    run(main)
