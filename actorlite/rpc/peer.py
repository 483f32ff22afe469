"""One connection to one process: calls with their answers, requests, one-way messages, cancels.

The peer knows ids, not meanings. What arrives is either an answer, given to whoever waits for its id, or goes to the
handler of its type. When the connection ends, everybody who waits is told exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from msgspec import Struct

import actorlite.errors as errors
from actorlite.errors import ActorliteError, ConnectionLost, ProtocolError, TransportError
from actorlite.rpc.handshake import MAX_HANDSHAKE_BYTES, Handshake
from actorlite.transport import Address, Buffer, Connection
from actorlite.wire.calls import Cancel, Credit, Exists, Failed, Rejected, Replies, Reply, StreamItem
from actorlite.wire.messages import DECODE_ERRORS, CancelRequest, Identity, Request, Response, decode, encode
from actorlite.wire.nodes import Chunk

logger = logging.getLogger("actorlite.rpc")

MAX_MESSAGE_BYTES = 2**31
"""What an authenticated peer may send in one message. Larger values belong into the object store."""

MAX_UNANSWERED = 2**20
"""Calls in flight to one process; more wait here. Only a bound on memory: far above what a working program reaches."""

ANSWERS = frozenset({Reply, Replies, Failed, Rejected, Response, Exists, Chunk})


class Pending(Protocol):
    """Somebody who waits for the answer to one id."""

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        """The answer; once. Whoever takes a stream has a method `item` of the same shape, for each `StreamItem`."""

    def lost(self, error: ConnectionLost) -> None:
        """The connection ended first; once, instead of the answer. `error.outcome`: may the work have run?"""


class Credited(Protocol):
    """A stream of items to the peer, which says how many it has room for."""

    def credit(self, items: int, size: int) -> None:
        """The receiver has taken `items` of `size` bytes, and has room for as much again."""

    def lost(self, error: ConnectionLost) -> None:
        """The connection ended first; once."""


MessageHandler = Callable[["Peer", Any, Sequence[memoryview]], None]
RequestHandler = Callable[["Peer", Any], Awaitable[Any] | Struct]
"""Returns the answer, or what is to be awaited for it."""


class Handlers:
    """What a process does with messages that are no answers; shared by all its peers."""

    def __init__(self) -> None:
        self.messages: dict[type, MessageHandler] = {}
        self.requests: dict[type, RequestHandler] = {}

    def on_messages(self, table: Mapping[type, MessageHandler]) -> None:
        self.messages.update(table)

    def on_requests(self, table: Mapping[type, RequestHandler]) -> None:
        self.requests.update(table)


class Peer:
    """The `Sink` of one connection, first for the handshake, then for everything else."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handlers: Handlers,
        handshake: Handshake,
        on_open: Callable[[Peer], None],
        on_closed: Callable[[Peer, ConnectionLost | None], None],
    ) -> None:
        self.max_message_bytes = MAX_HANDSHAKE_BYTES
        self.opened: asyncio.Future[Peer] = loop.create_future()
        self.is_open = False
        self.sent_code: set[bytes] = set()
        """Digests of the code that this peer has been sent."""
        self.inbound: dict[int, Any] = {}
        """The peer's calls that this process has not answered yet, for the callee's side."""
        self.streams: dict[int, Credited] = {}
        """Those of them that are being answered item by item."""
        self._loop = loop
        self._handlers = handlers
        self._handshake: Handshake | None = handshake
        self._identity: Identity | None = None
        self._on_open = on_open
        self._on_closed = on_closed
        self._connection: Connection | None = None
        self.send_from_thread: Callable[..., bool] = _cannot
        """`tell` from a thread, at once; False when it has to be done on the loop."""
        self._pending: dict[int, Pending] = {}
        self._deferred: deque[tuple[int, Pending, tuple[Buffer, ...]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: dict[int, asyncio.Task[None]] = {}
        """The peer's requests that are not answered yet."""
        self._ended = False
        self._refusal: TransportError | None = None

    # --- life

    def attach(self, connection: Connection) -> None:
        """The connection that this is the sink of; the connecting side begins the handshake with it."""
        self._connection = connection
        self.send_from_thread = getattr(connection, "send_from_thread", _cannot)
        if self._handshake is not None and self._handshake.connecting:
            connection.send(self._handshake.start())

    @property
    def identity(self) -> Identity:
        if self._identity is None:
            raise ProtocolError("the handshake is not over")
        return self._identity

    @property
    def address(self) -> Address:
        return self._connection.peer if self._connection is not None else "?"

    async def drain(self) -> None:
        if self._connection is not None:
            await self._connection.drain()

    async def aclose(self) -> None:
        """Close the connection; everybody who waits is told. Idempotent."""
        if self._connection is not None:
            await self._connection.aclose()

    def refuse(self, error: TransportError) -> None:
        """End a connection whose handshake failed or never came; on the loop, without waiting."""
        if self._ended or self._refusal is not None or self._connection is None:
            return
        self._refusal = error
        if self._handshake is not None and (text := self._handshake.refusal(error)) is not None:
            self._connection.send(text)
        self._spawn(self._connection.aclose())

    def __repr__(self) -> str:
        who = "handshaking" if self._identity is None else f"{self._identity.role} {self._identity.process}"
        state = "open" if self.is_open else "closed" if self._ended else "opening"
        return f"<Peer {who} {state} pending={len(self._pending)} deferred={len(self._deferred)}>"

    # --- sending

    def send(self, *parts: Buffer) -> None:
        """One message, without an answer. Raises `ConnectionLost`."""
        if self._connection is None or self._ended:
            raise ConnectionLost(f"the connection to {self.address} is closed", outcome=errors.Outcome.NOT_EXECUTED)
        self._connection.send(*parts)

    def tell(self, *parts: Buffer) -> None:
        """`send` for news that a lost peer need not hear. Never raises."""
        if self.is_open and self._connection is not None:
            try:
                self._connection.send(*parts)
            except ConnectionLost:
                return  # `closed` follows, and tells whoever must know

    def call(self, id: int, pending: Pending, *parts: Buffer) -> None:
        """One message with an answer under `id`. Raises `ConnectionLost` when surely nothing was sent."""
        if self._deferred or len(self._pending) >= MAX_UNANSWERED:
            self._deferred.append((id, pending, parts))
            return
        if self._connection is None or self._ended:
            self.send(*parts)  # raises
        else:
            self._connection.send(*parts)
        self._pending[id] = pending

    def cancel(self, id: int, *, force: bool = False, recursive: bool = True) -> None:
        """Ask for the end of call `id`; its answer still comes. Never raises: a lost connection has told the caller."""
        if id in self._pending:
            self.tell(encode(Cancel(id, force, recursive)))
            return
        for entry in self._deferred:
            if entry[0] == id:
                self._deferred.remove(entry)
                entry[1].answered(Rejected(id, "cancelled"), ())
                return

    async def request(self, id: int, body: Any) -> Any:
        """Ask and await the typed response. Raises the error that the other side answered, or `ConnectionLost`."""
        pending = _RequestPending(self._loop.create_future())
        self.call(id, pending, encode(Request(id, body)))
        try:
            response = await pending.future
        except asyncio.CancelledError:
            self._pending.pop(id, None)
            self._send_deferred()
            raise
        if response.error_kind:
            raise _error_of(response)
        return response.body

    async def ask(self, id: int, body: Any, undo: Callable[[Any], None]) -> Any:
        """`request`, but the other side hears when it is cancelled, and stops. If the answer was under way already,
        `undo` gets it."""
        pending = _AskPending(self._loop.create_future(), undo)
        self.call(id, pending, encode(Request(id, body)))
        try:
            response = await pending.future
        except asyncio.CancelledError:
            if pending.cancelled():
                self._cancel_request(id)
            raise
        if response.error_kind:
            raise _error_of(response)
        return response.body

    def _cancel_request(self, id: int) -> None:
        if id in self._pending:
            self.tell(encode(CancelRequest(id)))  # and its answer, which still comes, is undone
            return
        for entry in self._deferred:
            if entry[0] == id:
                self._deferred.remove(entry)
                return

    # --- receiving (the Sink)

    def message(self, parts: Sequence[memoryview]) -> None:
        if self._handshake is not None:
            self._shake(parts)
            return
        try:
            message = decode(parts[0])
        except DECODE_ERRORS as error:
            raise ProtocolError(f"undecodable message from {self!r}: {error}") from None
        kind = type(message)
        if kind in ANSWERS:
            pending = self._pending.pop(message.id, None)
            if pending is not None:
                try:
                    pending.answered(message, parts)
                except BaseException:
                    # This ends the connection, and whoever could not take his answer is told with the others.
                    self._pending.setdefault(message.id, pending)
                    raise
            if self._deferred:
                self._send_deferred()
            return
        handler = self._handlers.messages.get(kind)
        if handler is not None:
            handler(self, message, parts)
        elif kind is StreamItem:
            pending = self._pending.get(message.id)
            if pending is not None:
                take = getattr(pending, "item", None)
                if take is None:
                    raise ProtocolError(f"{self!r} sent an item in answer to {pending!r}, which is no stream")
                take(message, parts)
        elif kind is Credit:
            stream = self.streams.get(message.id)
            if stream is not None:
                stream.credit(message.items, message.size)
        elif kind is Request:
            self._serve(message)
        elif kind is CancelRequest:
            serving = self._serving.get(message.id)
            if serving is not None:
                serving.cancel()
        else:
            raise ProtocolError(f"this process does not take {kind.__name__}, sent by {self!r}")

    def room_for(self, first: memoryview, size: int) -> memoryview | None:
        """Where the bytes of a `Chunk` shall be received, if whoever waits for it has said so by a method `room`."""
        if self._handshake is not None:
            return None
        try:
            message = decode(first)
        except DECODE_ERRORS:
            return None  # the message will be refused when it is whole
        if type(message) is not Chunk:
            return None
        room: Callable[[int], memoryview | None] | None = getattr(self._pending.get(message.id), "room", None)
        return room(size) if room is not None else None

    def closed(self, error: ConnectionLost | None) -> None:
        self._ended = True
        was_open, self.is_open = self.is_open, False
        lost = error or ConnectionLost(f"the connection to {self.address} was closed here")
        pending, self._pending = self._pending, {}
        deferred, self._deferred = self._deferred, deque()
        streams, self.streams = self.streams, {}
        _tell_lost(pending.values(), lost)
        _tell_lost((each for _, each, _ in deferred), ConnectionLost(str(lost), outcome=errors.Outcome.NOT_EXECUTED))
        _tell_lost(streams.values(), lost)
        for task in self._tasks:
            task.cancel()
        if not self.opened.done():
            self.opened.set_exception(self._refusal or lost)
            self.opened.exception()  # nobody may be waiting: an accepted connection that failed is logged, not raised
        if was_open:
            self._on_closed(self, error)

    # --- inside

    def _shake(self, parts: Sequence[memoryview]) -> None:
        handshake = self._handshake
        if handshake is None or self._refusal is not None:
            return
        try:
            answer = handshake.receive(parts[0])
        except TransportError as error:
            self.refuse(error)
            return
        if answer is not None:
            self.send(answer)
        if handshake.done:
            self._handshake = None
            self._identity = handshake.peer
            self.max_message_bytes = MAX_MESSAGE_BYTES
            self.is_open = True
            self._on_open(self)
            if not self.opened.done():
                self.opened.set_result(self)

    def _serve(self, request: Request) -> None:
        handler = self._handlers.requests.get(type(request.body))
        if handler is None:
            self.tell(encode(_failed(request, ProtocolError(f"{type(request.body).__name__} is not served here"))))
            return
        try:
            answer = handler(self, request.body)
        except Exception as error:
            self.tell(encode(_failed(request, error)))
            return
        if isinstance(answer, Struct):  # known at once: no task is needed
            self.tell(encode(Response(request.id, cast(Any, answer))))
            return
        task = self._serving[request.id] = self._spawn(self._respond(request, answer))
        task.add_done_callback(lambda done: self._served(request.id, answer, done))

    def _served(self, id: int, answer: object, task: asyncio.Task[None]) -> None:
        if self._serving.get(id) is task:
            del self._serving[id]
        if task.cancelled():
            if isinstance(answer, Coroutine):
                answer.close()  # it may not have begun
            self.tell(encode(Response(id, None, "it was cancelled", "ActorliteError")))

    async def _respond(self, request: Request, answering: Awaitable[Any]) -> None:
        try:
            response = Response(request.id, await answering)
        except Exception as error:
            response = _failed(request, error)
        self.tell(encode(response))

    def _send_deferred(self) -> None:
        while self._deferred and len(self._pending) < MAX_UNANSWERED:
            id, pending, parts = self._deferred[0]
            try:
                self.send(*parts)
            except ConnectionLost:
                return  # `closed` follows, and tells those that still wait here
            self._deferred.popleft()
            self._pending[id] = pending

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error, ActorliteError):
        return Response(request.id, None, str(error), type(error).__name__)
    logger.error("request %s failed", type(request.body).__name__, exc_info=error)
    return Response(request.id, None, f"{type(error).__name__}: {error}", "ActorliteError")


class _RequestPending:
    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Response]) -> None:
        self.future = future

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        if not self.future.done():
            self.future.set_result(message)

    def lost(self, error: ConnectionLost) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _AskPending(_RequestPending):
    """Whoever waits may be cancelled at any time, also while the answer comes: then that is undone."""

    __slots__ = ("undo",)

    def __init__(self, future: asyncio.Future[Response], undo: Callable[[Any], None]) -> None:
        super().__init__(future)
        self.undo = undo

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        if not self.future.done():
            self.future.set_result(message)
        elif not message.error_kind:
            self.undo(message.body)

    def cancelled(self) -> bool:
        """Nobody waits any more. Whether the answer is still to come."""
        if not self.future.done() or self.future.cancelled():
            self.future.cancel()
            return True
        if self.future.exception() is None and not self.future.result().error_kind:
            self.undo(self.future.result().body)
        return False


def _cannot(*parts: Buffer) -> bool:
    return False


def _error_of(response: Response) -> ActorliteError:
    kind: Any = getattr(errors, response.error_kind, None)
    known = isinstance(kind, type) and issubclass(kind, ActorliteError)
    error: ActorliteError = kind(response.error) if known else ActorliteError(response.error)
    return error


def _tell_lost(waiting: Iterable[Pending | Credited], error: ConnectionLost) -> None:
    for each in waiting:
        try:
            each.lost(error)
        except Exception:
            logger.exception("%r failed when it was told of a lost connection; the others are told", each)


__all__ = ["Credited", "Handlers", "Peer", "Pending"]
