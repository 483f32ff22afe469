"""A loop that turns only when told, and a connection that keeps what was sent."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actorlite.errors import ConnectionLost, Outcome
from actorlite.ids import ProcessId
from actorlite.rpc.handshake import PYTHON, Handshake
from actorlite.rpc.peer import Handlers, Peer
from actorlite.wire.messages import Identity, decode, encode

TOKEN = b"the token of the cluster"


class Numbered:
    """Entropy that repeats itself: 1, 1, 1, ...; then 2, 2, 2, ..."""

    def __init__(self) -> None:
        self.calls = 0

    def token_bytes(self, size: int) -> bytes:
        self.calls += 1
        return bytes([self.calls]) * size


class ManualLoop:
    """What futures and tasks need of a loop. Nothing runs before `turn`."""

    def __init__(self) -> None:
        self.ready: deque[tuple[Callable[..., object], tuple[Any, ...], Any]] = deque()
        self.problems: list[dict[str, Any]] = []

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def create_task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.Task(work, loop=self)  # type: ignore[arg-type]

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> None:
        self.ready.append((callback, args, context))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(context)

    def turn(self) -> None:
        """Run until nothing is ready."""
        asyncio._set_running_loop(self)  # type: ignore[arg-type]
        try:
            while self.ready:
                callback, args, context = self.ready.popleft()
                context.run(callback, *args) if context is not None else callback(*args)
        finally:
            asyncio._set_running_loop(None)

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start `work` and run until it waits for something that only the test can bring."""
        task = self.create_task(work)
        self.turn()
        return task


class FakeConnection:
    """Keeps what is sent. `end` is the peer's doing, `aclose` this side's."""

    peer = "fake://peer"

    def __init__(self, loop: ManualLoop) -> None:
        self.sink: Peer | None = None
        self.raw: list[tuple[Any, ...]] = []
        self.closing = False
        self.ended = False
        self.full: asyncio.Future[None] | None = None
        """While it is set, `drain` waits for it."""
        self._loop = loop

    def send(self, *parts: Any) -> None:
        if self.closing or self.ended:
            raise ConnectionLost("closed", outcome=Outcome.NOT_EXECUTED)
        self.raw.append(parts)

    async def drain(self) -> None:
        if self.full is not None:
            await self.full
        if self.ended:
            raise ConnectionLost("closed")

    async def aclose(self) -> None:
        self.closing = True
        self.end(None)

    def end(self, error: ConnectionLost | None) -> None:
        if not self.ended:
            self.ended = True
            assert self.sink is not None
            self.sink.closed(error)

    @property
    def sent(self) -> list[Any]:
        """The messages sent and not looked at yet."""
        sent, self.raw = self.raw, []
        return [decode(parts[0]) for parts in sent]


class Fixture:
    """An open peer, as its process and as the other side see it."""

    def __init__(self, loop: ManualLoop, *, connecting: bool = True) -> None:
        self.loop = loop
        self.handlers = Handlers()
        self.opened: list[Peer] = []
        self.lost: list[ConnectionLost | None] = []
        self.handshake = Handshake(identity("driver", 1), TOKEN, Numbered(), connecting=connecting)
        self.other = Handshake(identity("worker", 2), TOKEN, Numbered(), connecting=not connecting)
        self.connection = FakeConnection(loop)
        self.peer = Peer(
            loop,  # type: ignore[arg-type]
            self.handlers,
            self.handshake,
            self.opened.append,
            lambda peer, error: self.lost.append(error),
        )
        self.connection.sink = self.peer

    def attach(self) -> None:
        self.peer.attach(self.connection)

    def open(self) -> Fixture:
        self.attach()
        if not self.handshake.connecting:
            self.receive_raw(self.other.start())
        while not (self.handshake.done and self.other.done):
            parts = self.connection.raw.pop(0)
            answer = self.other.receive(parts[0])
            if answer is not None:
                self.receive_raw(answer)
        self.loop.turn()
        return self

    def receive(self, message: Any, *parts: bytes) -> None:
        self.receive_raw(encode(message), *parts)

    def receive_raw(self, *parts: bytes) -> None:
        self.peer.message([memoryview(part) for part in parts])

    def lose(self, text: str = "the peer is gone") -> None:
        self.connection.end(ConnectionLost(text))
        self.loop.turn()


def identity(role: str, number: int, *, python: str = PYTHON) -> Identity:
    return Identity(ProcessId(f"{number:016x}"), role, f"fake://{number}", os.getpid(), python)


@pytest.fixture
def loop() -> ManualLoop:
    return ManualLoop()


@pytest.fixture
def link(loop: ManualLoop) -> Fixture:
    """An open connection."""
    return Fixture(loop).open()


@pytest.fixture
def new_link(loop: ManualLoop) -> Callable[..., Fixture]:
    """Makes a connection without handshake."""
    return lambda **options: Fixture(loop, **options)
