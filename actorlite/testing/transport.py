"""The conformance suite for transports; with `FaultyTransport`, which misbehaves on purpose.

`check_transport` holds an implementation of `actorlite.transport.Transport` to the guarantees of the seam. Each entry
of `CHECKS` is one of them, so that a test can be parametrised over the list. Those of `STREAM_CHECKS` speak to the
listener in bytes of their own: they are for transports that put `actorlite.wire.framing` on a byte stream.
"""

from __future__ import annotations

import asyncio
import functools
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from actorlite.errors import ConnectFailed, ConnectionLost, Outcome
from actorlite.testing.faults import Faults, FaultyTransport
from actorlite.transport import Address, Buffer, Connection, Listener, Sink, Transport, get_transport
from actorlite.wire.framing import HEADER

__all__ = [
    "CHECKS",
    "STREAM_CHECKS",
    "Bench",
    "Faults",
    "FaultyTransport",
    "Recorder",
    "check_transport",
    "run_check",
]

MIB = 2**20
IN_FLIGHT_BYTES = 8 * MIB
"""More than this between a sender that drains and its receiver is taken for missing back-pressure."""

RawConnect: TypeAlias = Callable[[Address], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a plain byte stream to a listener, e.g. by `asyncio.open_unix_connection`."""


class Recorder:
    """A sink that keeps everything, and lets a test wait for a condition on it."""

    def __init__(
        self, max_message_bytes: int = 256 * MIB, on_message: Callable[[Sequence[memoryview]], None] | None = None
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self.messages: list[Sequence[memoryview]] = []
        self.ends: list[ConnectionLost | None] = []
        self.late = 0
        """Messages that came after the end."""
        self.received_bytes = 0
        self._on_message = on_message
        self._changed = asyncio.Event()

    def message(self, parts: Sequence[memoryview]) -> None:
        self.messages.append(parts)
        self.received_bytes += sum(part.nbytes for part in parts)
        self.late += bool(self.ends)
        self._changed.set()
        if self._on_message is not None:
            self._on_message(parts)

    def closed(self, error: ConnectionLost | None) -> None:
        self.ends.append(error)
        self._changed.set()

    def contents(self) -> list[list[bytes]]:
        return [[bytes(part) for part in parts] for parts in self.messages]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def until_messages(self, count: int) -> None:
        await self.until(lambda: len(self.messages) >= count or bool(self.ends))
        _require(len(self.messages) >= count, f"ended after {len(self.messages)} of {count} messages: {self.ends}")

    async def until_closed(self, by_us: bool) -> None:
        """Wait for the end, and a little longer for anything that must not follow."""
        await self.until(lambda: bool(self.ends))
        await passes(20)
        _require(len(self.ends) == 1, f"`closed` was called {len(self.ends)} times: {self.ends}")
        _require(self.late == 0, "a message came after `closed`")
        end = self.ends[0]
        _require((end is None) == by_us, f"closed by {'this side' if by_us else 'the other side'}, but told {end!r}")


@dataclass(frozen=True)
class Pair:
    """Both ends of one connection."""

    client: Connection
    client_sink: Recorder
    server: Connection
    server_sink: Recorder
    listener: Listener


@dataclass(frozen=True)
class Bench:
    """What a check works on."""

    transport: Transport
    make_address: Callable[[], Address]
    connect_raw: RawConnect | None = None

    @asynccontextmanager
    async def listening(self, sink: Recorder) -> AsyncIterator[tuple[Listener, asyncio.Queue[Connection]]]:
        """A listener whose connections all go to `sink`."""
        accepted: asyncio.Queue[Connection] = asyncio.Queue()

        def accept(connection: Connection) -> Sink:
            accepted.put_nowait(connection)
            stack.push_async_callback(connection.aclose)
            return sink

        async with AsyncExitStack() as stack:
            listener = await self.transport.listen(self.make_address(), accept)
            stack.push_async_callback(listener.aclose)
            yield listener, accepted

    @asynccontextmanager
    async def pair(self, client: Recorder | None = None, server: Recorder | None = None) -> AsyncIterator[Pair]:
        client_sink, server_sink = client or Recorder(), server or Recorder()
        async with self.listening(server_sink) as (listener, accepted):
            connection = await self.transport.connect(listener.address, client_sink)
            try:
                yield Pair(connection, client_sink, await accepted.get(), server_sink, listener)
            finally:
                await connection.aclose()

    @asynccontextmanager
    async def raw(self, sink: Recorder) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, Connection]]:
        """A listener's connection to a peer that is a plain byte stream."""
        if self.connect_raw is None:
            raise ValueError("this check needs `connect_raw`")
        async with self.listening(sink) as (listener, accepted):
            reader, writer = await self.connect_raw(listener.address)
            try:
                yield reader, writer, await accepted.get()
            finally:
                writer.transport.abort()


Check: TypeAlias = Callable[[Bench], Awaitable[None]]


async def check_transport(
    make_address: Callable[[], Address],
    *,
    transport: Transport | None = None,
    connect_raw: RawConnect | None = None,
    deadline_s: float = 30.0,
) -> None:
    """Run all checks on the running loop; raise `AssertionError` naming the first that fails.

    `make_address` returns an address that is free to listen on, a new one at each call unless it has a part that the
    transport resolves, such as port 0. `STREAM_CHECKS` run only when `connect_raw` is given.
    """
    bench = Bench(transport or get_transport(make_address()), make_address, connect_raw)
    for check in (*CHECKS, *(STREAM_CHECKS if connect_raw is not None else ())):
        await run_check(check, bench, deadline_s=deadline_s)


async def run_check(check: Check, bench: Bench, *, deadline_s: float = 30.0) -> None:
    """Run one check under a deadline, and see that nothing was left to the loop's exception handler."""
    name = getattr(check, "__name__", repr(check))
    loop = asyncio.get_running_loop()
    stray: list[dict[str, Any]] = []
    previous = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: stray.append(context))
    try:
        async with asyncio.timeout(deadline_s):
            await check(bench)
    except TimeoutError as error:
        raise AssertionError(f"{name}: not done after {deadline_s} s, something waits for ever") from error
    except Exception as error:
        raise AssertionError(f"{name}: {error}") from error
    finally:
        loop.set_exception_handler(previous)
    _require(not stray, f"{name}: the loop's exception handler was called: {stray}")


async def passes(count: int) -> None:
    """Let the loop run `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise AssertionError(text)


async def keeps_order(bench: Bench) -> None:
    sent = [[b"%d" % number, bytes(number % 700)] for number in range(1000)]
    async with bench.pair() as pair:
        for parts in sent:
            pair.client.send(*parts)
            pair.server.send(*parts)
        await pair.client.drain()
        for sink in (pair.client_sink, pair.server_sink):
            await sink.until_messages(len(sent))
            _require(sink.contents() == sent, "messages are not what was sent, in the order sent")


async def carries_any_parts(bench: Bench) -> None:
    """Empty parts, many parts, bytearrays and views, also views that are not of bytes."""
    view = memoryview(bytearray(range(80)))
    sent: list[list[Buffer]] = [
        [b""],
        [b"", b"a", b""],
        [b"%d" % number for number in range(5000)],
        [bytearray(b"abc"), view[8:16], view.cast("Q"), view.cast("B", [8, 10])],
        [memoryview(b"")],
        [bytes(100_000)] * 40,
    ]
    async with bench.pair() as pair:
        for message in sent:
            pair.client.send(*message)
        await pair.server_sink.until_messages(len(sent))
        want = [[bytes(part) for part in message] for message in sent]
        _require(pair.server_sink.contents() == want, "parts are not what was sent")
        for parts in pair.server_sink.messages:
            _require(all(part.format == "B" and part.ndim == 1 for part in parts), "a part is not flat bytes")
        for refused, error in (((), ValueError), ((view[::2],), TypeError)):
            try:
                pair.client.send(*refused)
            except error:
                continue
            raise AssertionError(f"send{refused!r} raised no {error.__name__}")


async def carries_large_messages(bench: Bench) -> None:
    large = bytes(range(256)) * (64 * MIB // 256)
    async with bench.pair() as pair:
        pair.client.send(b"before")
        pair.client.send(large)
        pair.client.send(b"head", memoryview(large)[: 10 * MIB], b"tail")
        pair.client.send(b"after")
        await pair.client.drain()
        await pair.server_sink.until_messages(4)
        before, one, three, after = pair.server_sink.messages
        _require(bytes(before[0]) == b"before" and bytes(after[0]) == b"after", "neighbours of a large message differ")
        _require(one[0] == large, "a message of 64 MiB differs")
        _require(list(three) == [b"head", large[: 10 * MIB], b"tail"], "a large part between small ones differs")


async def parts_belong_to_the_sink(bench: Bench) -> None:
    """Nothing that comes later, not even the end, changes a part that was handed over."""
    sent = [[bytes([number % 251]) * 3000] for number in range(300)]
    async with bench.pair() as pair:
        for parts in sent:
            pair.client.send(*parts)
            await pair.client.drain()
        await pair.server_sink.until_messages(len(sent))
        await pair.client.aclose()
        await pair.server_sink.until_closed(by_us=False)
        _require(pair.server_sink.contents() == sent, "a part changed after it was handed over")


async def drain_bounds_what_is_under_way(bench: Bench) -> None:
    chunk = bytes(64 * 1024)
    async with bench.pair() as pair:
        sent = 0
        for burst in [16 * MIB, *[len(chunk)] * 256]:
            for _ in range(burst // len(chunk)):
                pair.client.send(chunk)
                sent += len(chunk)
            await pair.client.drain()
            under_way = sent - pair.server_sink.received_bytes
            _require(under_way <= IN_FLIGHT_BYTES, f"`drain` returned with {under_way} bytes under way")
        await pair.server_sink.until_messages(sent // len(chunk))


async def refuses_to_send_after_close(bench: Bench) -> None:
    async with bench.pair() as pair:
        await pair.client.aclose()
        await pair.server_sink.until_closed(by_us=False)
        for connection in (pair.client, pair.server):
            try:
                connection.send(b"late")
            except ConnectionLost as error:
                _require(error.outcome is Outcome.NOT_EXECUTED, "a refused send says that the work may have run")
            else:
                raise AssertionError("`send` after the end raised nothing")
            try:
                await connection.drain()
            except ConnectionLost:
                continue
            raise AssertionError("`drain` after the end raised nothing")


async def delivers_before_it_closes(bench: Bench) -> None:
    """What was queued before `aclose` arrives, then the end; from either side."""
    for closer in ("client", "server"):
        async with bench.pair() as pair:
            ours, theirs = (pair.client_sink, pair.server_sink)
            connection = pair.client
            if closer == "server":
                ours, theirs, connection = theirs, ours, pair.server
            for number in range(100):
                connection.send(b"%d" % number, bytes(50_000))
            await connection.aclose()
            await theirs.until_closed(by_us=False)
            await ours.until_closed(by_us=True)
            numbers = [bytes(parts[0]) for parts in theirs.messages]
            _require(numbers == [b"%d" % number for number in range(100)], f"{len(numbers)} of 100 messages arrived")


async def closes_from_both_sides_at_once(bench: Bench) -> None:
    async with bench.pair() as pair:
        pair.client.send(bytes(300_000))
        pair.server.send(bytes(300_000))
        await asyncio.gather(pair.client.aclose(), pair.server.aclose())
        await pair.client_sink.until_closed(by_us=True)
        await pair.server_sink.until_closed(by_us=True)


async def closes_once(bench: Bench) -> None:
    async with bench.pair() as pair:
        await asyncio.gather(pair.client.aclose(), pair.client.aclose())
        await pair.client.aclose()
        await pair.client_sink.until_closed(by_us=True)
        await pair.server_sink.until_closed(by_us=False)
        await pair.server.aclose()
        await pair.server_sink.until_closed(by_us=False)
        await pair.listener.aclose()
        await pair.listener.aclose()


async def closes_when_cancelled(bench: Bench) -> None:
    for count in range(1, 4):
        async with bench.pair() as pair:
            pair.client.send(bytes(20 * MIB))
            closing = asyncio.ensure_future(pair.client.aclose())
            await passes(count)
            closing.cancel()
            await asyncio.wait([closing])
            await pair.client_sink.until_closed(by_us=True)
            await pair.server_sink.until_closed(by_us=False)


async def sends_and_closes_from_inside_message(bench: Bench) -> None:
    def answer(parts: Sequence[memoryview]) -> None:
        pair.server.send(b"answer to", *parts)
        if bytes(parts[0]) == b"last":
            closing.append(asyncio.ensure_future(pair.server.aclose()))

    closing: list[asyncio.Future[None]] = []
    async with bench.pair(server=Recorder(on_message=answer)) as pair:
        for text in (b"first", b"second", b"last"):
            pair.client.send(text)
        await pair.client_sink.until_closed(by_us=False)
        await asyncio.gather(*closing)
        want = [[b"answer to", text] for text in (b"first", b"second", b"last")]
        _require(pair.client_sink.contents() == want, f"the answers are {pair.client_sink.contents()}")
        await pair.server_sink.until_closed(by_us=True)


async def survives_a_failing_sink(bench: Bench) -> None:
    """An exception in `message` ends that connection and no other."""

    def fail(parts: Sequence[memoryview]) -> None:
        raise LookupError("the sink fails on purpose")

    async with bench.pair(server=Recorder(on_message=fail)) as broken, bench.pair() as sound:
        for _ in range(3):
            broken.client.send(b"x")
        await broken.server_sink.until_closed(by_us=False)
        await broken.client_sink.until_closed(by_us=False)
        _require(len(broken.server_sink.messages) == 1, "the sink got messages after it had failed")
        sound.client.send(b"still here")
        await sound.server_sink.until_messages(1)


async def refuses_large_messages(bench: Bench) -> None:
    """A message above `Sink.max_message_bytes` ends the connection; what came before it is delivered."""
    async with bench.pair(server=Recorder(max_message_bytes=1000)) as pair:
        pair.client.send(bytes(1000))
        pair.client.send(bytes(1001))
        pair.client.send(b"never")
        await pair.server_sink.until_closed(by_us=False)
        await pair.client_sink.until_closed(by_us=False)
        _require([len(parts[0]) for parts in pair.server_sink.messages] == [1000], "not exactly the small message came")


async def reads_the_limit_for_every_message(bench: Bench) -> None:
    def trust(parts: Sequence[memoryview]) -> None:
        sink.max_message_bytes = MIB

    sink = Recorder(max_message_bytes=10, on_message=trust)
    async with bench.pair(server=sink) as pair:
        pair.client.send(b"hello")
        pair.client.send(bytes(5000))
        await sink.until_messages(2)


async def fails_to_connect_to_nobody(bench: Bench) -> None:
    async with bench.pair() as pair:
        await pair.listener.aclose()
        pair.client.send(b"open connections stay")
        await pair.server_sink.until_messages(1)
        sink = Recorder()
        try:
            await bench.transport.connect(pair.listener.address, sink)
        except ConnectFailed:
            _require(not sink.ends and not sink.messages, "the sink was called although `connect` failed")
            return
        raise AssertionError("`connect` succeeded although nobody listens")


async def refuses_to_listen_twice(bench: Bench) -> None:
    async with bench.pair() as pair:
        try:
            await bench.transport.listen(pair.listener.address, lambda connection: Recorder())
        except ConnectFailed:
            pair.client.send(b"the first listener is unharmed")
            await pair.server_sink.until_messages(1)
            return
        raise AssertionError("two listeners have the same address")


def _all_ended(sink: Recorder, accepted: asyncio.Queue[Connection]) -> bool:
    return len(sink.ends) == accepted.qsize() >= 1


async def leaves_nothing_of_a_cancelled_connect(bench: Bench) -> None:
    for count in range(6):
        server, client = Recorder(), Recorder()
        async with bench.listening(server) as (listener, accepted):
            connecting = asyncio.ensure_future(bench.transport.connect(listener.address, client))
            await passes(count)
            connecting.cancel()
            await asyncio.wait([connecting])
            if not connecting.cancelled():
                await connecting.result().aclose()
                await client.until_closed(by_us=True)
            # A second connection comes after whatever the first one caused at the listener.
            other = await bench.transport.connect(listener.address, Recorder())
            await other.aclose()
            await server.until(functools.partial(_all_ended, server, accepted))
            _require(not connecting.cancelled() or not client.ends, "the sink of a cancelled `connect` was called")


async def notices_a_half_written_frame(bench: Bench) -> None:
    for cut in (b"\1", HEADER.pack(100, 1), HEADER.pack(100, 1) + bytes(99)):
        sink = Recorder()
        async with bench.raw(sink) as (_, writer, _):
            writer.write(HEADER.pack(5, 1) + b"whole" + cut)
            writer.close()
            await sink.until_closed(by_us=False)
            _require(sink.contents() == [[b"whole"]], f"the messages are {sink.contents()}")


async def notices_a_killed_peer(bench: Bench) -> None:
    sink = Recorder()
    async with bench.raw(sink) as (_, writer, _):
        writer.write(HEADER.pack(5, 1) + b"whole" + HEADER.pack(50 * MIB, 1) + bytes(10 * 1024))
        await sink.until_messages(1)
        writer.transport.abort()
        await sink.until_closed(by_us=False)


async def refuses_a_large_frame_unread(bench: Bench) -> None:
    """The announcement alone ends the connection, and nothing is allocated for the frame."""
    sink = Recorder(max_message_bytes=64 * MIB)
    async with bench.raw(sink) as (_, writer, _):
        tracemalloc.start()
        try:
            writer.write(HEADER.pack(2**32 - 1, 1))
            await sink.until_closed(by_us=False)
            _require(tracemalloc.get_traced_memory()[1] < 64 * MIB, "memory was allocated for a refused frame")
        finally:
            tracemalloc.stop()


async def refuses_malformed_frames(bench: Bench) -> None:
    for frame in (HEADER.pack(0, 0), HEADER.pack(4, 2) + bytes(4), HEADER.pack(9, 2) + bytes(9)):
        sink = Recorder()
        async with bench.raw(sink) as (_, writer, _):
            writer.write(frame)
            await sink.until_closed(by_us=False)
            _require(not sink.messages, f"{frame!r} was taken for a message")


async def holds_back_for_a_slow_reader(bench: Bench) -> None:
    """A peer that does not read stops the sender at `drain`; when it reads, the sender goes on."""
    chunk = bytes(64 * 1024)
    frames = 64 * MIB // len(chunk)
    sent = 0

    async def send_all() -> None:
        nonlocal sent
        for _ in range(frames):
            connection.send(chunk)
            sent += len(chunk)
            await connection.drain()

    sink = Recorder()
    async with bench.raw(sink) as (reader, _, connection):
        sending = asyncio.ensure_future(send_all())
        try:
            stopped_at = -1
            while sent != stopped_at:
                stopped_at = sent
                await passes(200)
            _require(sent <= IN_FLIGHT_BYTES, f"{sent} bytes were sent to a peer that reads nothing")
            await reader.readexactly(frames * (HEADER.size + len(chunk)))
            await sending
        finally:
            sending.cancel()


CHECKS: tuple[Check, ...] = (
    keeps_order,
    carries_any_parts,
    carries_large_messages,
    parts_belong_to_the_sink,
    drain_bounds_what_is_under_way,
    refuses_to_send_after_close,
    delivers_before_it_closes,
    closes_from_both_sides_at_once,
    closes_once,
    closes_when_cancelled,
    sends_and_closes_from_inside_message,
    survives_a_failing_sink,
    refuses_large_messages,
    reads_the_limit_for_every_message,
    fails_to_connect_to_nobody,
    refuses_to_listen_twice,
    leaves_nothing_of_a_cancelled_connect,
)
STREAM_CHECKS: tuple[Check, ...] = (
    notices_a_half_written_frame,
    notices_a_killed_peer,
    refuses_a_large_frame_unread,
    refuses_malformed_frames,
    holds_back_for_a_slow_reader,
)
