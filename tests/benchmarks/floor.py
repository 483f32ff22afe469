"""The floor under a call: a bare uvloop and msgspec echo over a Unix socket, with none of the runtime around it.

Three servers: one answers inside the protocol callback, one in a coroutine behind a queue (as a coroutine method is),
one in a thread (as a plain method is). Needs uvloop and msgspec, nothing else.
"""

from __future__ import annotations

import asyncio
import pickle
import queue
import struct
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import cast

import msgspec
import uvloop
from rowserver import Peer, RowSetup, Work, serve, settings


class Call(msgspec.Struct, array_like=True, tag=1):
    id: int
    actor: int
    method: str
    args: bytes


class Reply(msgspec.Struct, array_like=True, tag=2):
    id: int
    value: bytes


Message = Call | Reply
Receive = Callable[["Framed", Message], None]
LENGTH = struct.Struct("<I")
ENCODER = msgspec.msgpack.Encoder()
DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Framed(asyncio.Protocol):
    """Length-prefixed messages; the writes of one loop pass are joined into one."""

    _transport: asyncio.Transport

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        end, at = len(buffer), 0
        messages: list[Message] = []
        with memoryview(buffer) as view:
            while end - at >= 4:
                size = LENGTH.unpack_from(buffer, at)[0]
                if end - at - 4 < size:
                    break
                messages.append(DECODER.decode(view[at + 4 : at + 4 + size]))
                at += 4 + size
        del buffer[:at]
        for message in messages:
            self._receive(self, message)

    def send(self, message: Message) -> None:
        data = ENCODER.encode(message)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += (LENGTH.pack(len(data)), data)

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()

    def close(self) -> None:
        self._transport.close()


class Actor:
    def small_value(self) -> bytes:
        return b"ok"

    async def small_value_async(self) -> bytes:
        return b"ok"


def _answer(actor: Actor, call: Call) -> Reply:
    return Reply(call.id, pickle.dumps(getattr(actor, call.method)(*pickle.loads(call.args)), 5))


def inline(actor: Actor) -> Receive:
    def receive(peer: Framed, message: Message) -> None:
        assert isinstance(message, Call)
        peer.send(_answer(actor, message))

    return receive


def coroutine(actor: Actor) -> Receive:
    waiting: deque[tuple[Framed, Call]] = deque()
    pumping: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    async def pump() -> None:
        while waiting:
            peer, call = waiting.popleft()
            value = await actor.small_value_async(*pickle.loads(call.args))
            peer.send(Reply(call.id, pickle.dumps(value, 5)))

    def receive(peer: Framed, message: Message) -> None:
        assert isinstance(message, Call)
        waiting.append((peer, message))
        if not pumping:
            task = loop.create_task(pump())
            pumping.add(task)
            task.add_done_callback(pumping.discard)

    return receive


def thread(actor: Actor) -> Receive:
    calls: queue.SimpleQueue[tuple[Framed, Call]] = queue.SimpleQueue()
    done: list[tuple[Framed, Reply]] = []
    lock = threading.Lock()
    loop = asyncio.get_running_loop()

    def flush() -> None:
        with lock:
            ready = done[:]
            done.clear()
        for peer, reply in ready:
            peer.send(reply)

    def work() -> None:
        while True:
            peer, call = calls.get()
            reply = _answer(actor, call)
            with lock:
                wake = not done
                done.append((peer, reply))
            if wake:
                loop.call_soon_threadsafe(flush)

    threading.Thread(target=work, daemon=True).start()

    def receive(peer: Framed, message: Message) -> None:
        assert isinstance(message, Call)
        calls.put((peer, message))

    return receive


KINDS: dict[str, Callable[[Actor], Receive]] = {"inline": inline, "coroutine": coroutine, "thread": thread}


async def serve_echo(path: str, kind: str) -> None:
    """Listen, say so on standard output, and end when standard input does: then the parent is gone."""
    receive = KINDS[kind](Actor())
    server = await asyncio.get_running_loop().create_unix_server(lambda: Framed(receive), path)
    async with server:
        print("listening", flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextmanager
def server_process(kind: str) -> Iterator[str]:
    """A server in a process of its own; gives the path of its socket."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "echo"))
        argv = [sys.executable, __file__, "--server", path, kind]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None and process.stdout.readline() == b"listening\n"
                yield path
            finally:
                process.kill()


@asynccontextmanager
async def echo(kind: str) -> AsyncIterator[Callable[[], asyncio.Future[bytes]]]:
    """A server and a connection to it; gives the function that sends one call."""
    with server_process(kind) as path:
        loop = asyncio.get_running_loop()
        pending: dict[int, asyncio.Future[bytes]] = {}

        def receive(_peer: Framed, message: Message) -> None:
            assert isinstance(message, Reply)
            pending.pop(message.id).set_result(pickle.loads(message.value))

        _transport, peer = await loop.create_unix_connection(lambda: Framed(receive), path)
        last = 0

        def call() -> asyncio.Future[bytes]:
            nonlocal last
            last += 1
            future = pending[last] = loop.create_future()
            peer.send(Call(last, 1, "small_value", pickle.dumps((), 5)))
            return future

        try:
            yield call
        finally:
            peer.close()


def calls_sync(kind: str) -> RowSetup:
    @asynccontextmanager
    async def setup() -> AsyncIterator[Work]:
        async with echo(kind) as send:

            async def call() -> None:
                await send()

            yield Work(call)

    return setup


def calls_async(kind: str) -> RowSetup:
    @asynccontextmanager
    async def setup() -> AsyncIterator[Work]:
        async with echo(kind) as send:

            async def call() -> None:
                for future in [send() for _ in range(SIZES.batch)]:
                    await future

            yield Work(call, SIZES.batch)

    return setup


@asynccontextmanager
async def no_session() -> AsyncIterator[None]:
    yield


ROWS: dict[str, RowSetup] = {
    "1:1 actor calls sync": calls_sync("thread"),
    "1:1 actor calls async": calls_async("thread"),
    "1:1 async-actor calls sync": calls_sync("coroutine"),
    "1:1 async-actor calls async": calls_async("coroutine"),
    "1:1 inline calls sync": calls_sync("inline"),
    "1:1 inline calls async": calls_async("inline"),
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--server"]:
        uvloop.run(serve_echo(sys.argv[2], sys.argv[3]))
    else:
        SIZES, _ = settings()
        uvloop.run(serve(Peer("floor", f"msgspec {msgspec.__version__}", no_session, {}, ROWS, []), SIZES))
