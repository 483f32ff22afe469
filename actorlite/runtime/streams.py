"""Streams from the reader's side: of calls that this process made, and of calls that another one made.

The process that called a generator owns its stream: it takes the items from the producer, holds those that were not
read, and gives credit for those that were. A reader elsewhere asks it for one item after the other (`StreamNext`) and
owns the values that it got. Whoever may read holds the stream's *anchor*, a reference without a value: so the
accounting of references tells the owner when nobody is left, however that came about.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import weakref
from collections import deque
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from actorlite.context import current_call
from actorlite.errors import (
    ActorliteError,
    ConnectionLost,
    ObjectLostError,
    Outcome,
    OwnerDiedError,
    ProtocolError,
    SessionClosedError,
    TaskCancelledError,
)
from actorlite.ids import ObjectId, ProcessId, owner_of
from actorlite.options import STREAM_WINDOW, STREAM_WINDOW_BYTES, MethodOptions, TaskOptions
from actorlite.refs import ELSEWHERE, Failure, ObjectRef, block_on
from actorlite.rpc.peer import Peer
from actorlite.runtime.payloads import pack, unpack
from actorlite.state.streams import ReceiveWindow
from actorlite.store.client import Holding
from actorlite.streams import ENDED, StreamItem, StreamSource
from actorlite.wire.calls import STREAM_ENDED, Credit, Envelope, Failed, Rejected, Reply, StreamClose, StreamNext
from actorlite.wire.failures import decode_failure, encode_failure
from actorlite.wire.messages import encode
from actorlite.wire.serialize import STORED, Encoded

if TYPE_CHECKING:
    from actorlite.runtime.calls import Outbound
    from actorlite.runtime.runtime import ProcessRuntime

HERE = (ProcessId(""), 0)
"""The reader of a stream in the process that owns it."""


class Intake:
    """A queue of items with one reader, from any thread; filled on the runtime's loop."""

    __slots__ = ("runtime", "number", "name", "ended", "closed", "_items", "_waker", "_reading", "__weakref__")

    def __init__(self, runtime: ProcessRuntime, number: int, name: str) -> None:
        self.runtime = runtime
        self.number = number
        self.name = name
        self.ended = False
        """No more items come; set after the last one was queued."""
        self.closed = False
        self._items: deque[StreamItem] = deque()
        self._waker: Any = None
        self._reading = False

    @property
    def waiting(self) -> int:
        """Items that were not taken yet."""
        return len(self._items)

    @property
    def is_ready(self) -> bool:
        return bool(self._items) or self.ended

    def take(self) -> Any:
        try:
            item = self._items.popleft()
        except IndexError:
            if not self.ended:
                return None
            try:
                item = self._items.popleft()  # it may have come between the two looks
            except IndexError:
                return ENDED
        self._taken(item)
        return item

    async def ready(self) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        here = loop is self.runtime.loop
        waker: Any = partial(_settle, future)
        if not here:
            waker = partial(_settle_elsewhere, loop, future)
        self._begin_reading()
        scope = current_call.get()
        if scope is not None:
            scope.enter_wait()
        try:
            if here:
                self.wait_with(waker)
            else:
                self.runtime.loop.call_soon_threadsafe(self.wait_with, waker)
            await future
        finally:
            self._reading = False
            if scope is not None:
                scope.leave_wait()

    def wait_ready(self) -> None:
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._begin_reading()
        scope = current_call.get()
        if scope is not None:
            scope.enter_wait()
        try:
            self.runtime.loop.call_soon_threadsafe(self.wait_with, partial(_settle, future))
            block_on(future, None)
        finally:
            self._reading = False
            if scope is not None:
                scope.leave_wait()

    def ref_of(self, item: StreamItem) -> ObjectRef[Any]:
        ref: ObjectRef[Any] = ObjectRef(self.runtime, next(self.runtime.hub.numbers))
        ref._outcome = item.outcome
        ref._kept = item.kept
        if item.stored is not None:
            self.runtime.stored.bind(ref, item.stored)
        return ref

    def wait_with(self, waker: Any) -> None:
        """Call `waker()` on the loop, once, when `take` gives something. The last one counts. On the loop."""
        if self.is_ready:
            waker()
        else:
            self._waker = waker
            self._wanted()

    # --- inside

    def _begin_reading(self) -> None:
        if self._reading:
            raise RuntimeError(f"{self!r} is being read already: a stream has one reader at a time")
        self._reading = True

    def _put(self, item: StreamItem) -> None:
        self._items.append(item)
        self._wake()

    def _end(self, failure: Failure | None) -> None:
        """No more items come; `failure` is the last one. On the loop."""
        if self.ended:
            return
        if failure is not None:
            if self.closed:
                failure.retrieved = True
            else:
                self._items.append(StreamItem(failure))
        self.ended = True
        self._wake()

    def _clear(self) -> None:
        """What was not read is not wanted any more, an error included."""
        while True:
            try:
                item = self._items.popleft()
            except IndexError:
                return
            if type(item.outcome) is Failure:
                item.outcome.retrieved = True

    def _wake(self) -> None:
        waker, self._waker = self._waker, None
        if waker is not None:
            waker()

    def _taken(self, item: StreamItem) -> None:
        """An item was taken. From any thread."""

    def _wanted(self) -> None:
        """A reader waits. On the loop."""

    def __repr__(self) -> str:
        state = "closed" if self.closed else "ended" if self.ended else "open"
        return f"<{type(self).__name__} {self.name}() #{self.number} {state} waiting={self.waiting}>"


class OwnStream(Intake):
    """The stream of a call that this process made: the call's sink."""

    __slots__ = ("call", "window", "_completed", "_outcome", "_watch", "_reader")

    def __init__(self, runtime: ProcessRuntime, number: int, name: str, window: ReceiveWindow) -> None:
        super().__init__(runtime, number, name)
        self.call: Outbound | None = None
        """Until it has ended."""
        self.window = window
        self._completed: ObjectRef[None] | None = None
        self._outcome: Any = None
        self._watch: weakref.ref[Any] | None = None
        self._reader: tuple[ProcessId, int] | None = None

    # --- the call's sink

    def item(self, index: int, value: Encoded | Holding, kept: Any) -> None:
        """On the loop. Raises `ProtocolError` for an item out of turn, or without room for it."""
        stored = type(value) is Holding
        item = StreamItem(ELSEWHERE, kept, value) if stored else StreamItem(value, kept)
        try:
            self.window.arrive(index, _size_of(item))
        except ValueError as error:
            raise ProtocolError(f"{error} in {self!r}") from None
        self._put(item)

    def _resolve(self, outcome: Any) -> None:
        self.call = None
        self._outcome = outcome
        self._end(outcome if type(outcome) is Failure else None)
        if self._completed is not None:
            self._completed._resolve(outcome)

    # --- the source

    def take(self) -> Any:
        if self._reader is not HERE:
            self.claim(HERE)
        return super().take()

    def claim(self, reader: tuple[ProcessId, int]) -> None:
        """The first who reads is the only one. Raises `RuntimeError` for another."""
        if self._reader is None:
            self._reader = reader
        elif self._reader != reader:
            where = f"process {self._reader[0]}" if self._reader is not HERE else "the process that called it"
            raise RuntimeError(
                f"the stream of {self.name}() is being read in {where} already: a stream is read in one place; read it "
                "there and pass the values on"
            )

    def completed(self) -> ObjectRef[None]:
        ref = self._completed
        if ref is None:
            ref = self._completed = ObjectRef(self.runtime, next(self.runtime.hub.numbers))
            self.runtime.post(self._complete, ref)
        return ref

    def watch(self, reader: object) -> None:
        self._watch = weakref.ref(reader, self._dropped)

    def lend(self, anchor: ObjectRef[Any]) -> None:
        if self._reader is HERE:
            self._reader = None  # read on by whoever it is passed to
        self.runtime.streams.lent[anchor.id] = self

    def close(self) -> None:
        self.runtime.post(self._close)

    def cancel(self, *, force: bool = False, recursive: bool = True) -> bool:
        call = self.call
        return call is not None and call.cancel(force=force, recursive=recursive)

    # --- inside

    def _taken(self, item: StreamItem) -> None:
        if type(item.outcome) is not Failure and not self.ended:
            self.runtime.post(self._give_credit, _size_of(item))

    def _give_credit(self, size: int) -> None:
        call = self.call
        if call is None or self.closed:
            return
        credit = self.window.take(size)
        if credit is not None and call.peer is not None:
            call.peer.tell(encode(Credit(call.number, *credit)))

    def _complete(self, ref: ObjectRef[None]) -> None:
        if self.ended:
            ref._resolve(self._outcome)

    def _dropped(self, _: Any) -> None:
        # Runs anywhere, also inside the collector: the loop does the rest.
        loop = self.runtime.loop
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._clear()
        self.runtime.streams.forget(self)
        if self.call is not None:
            self.call.abandon()
        if not self.ended:
            self._end(None)


class BorrowedStream(Intake):
    """The stream of a call that another process made; read by asking it."""

    __slots__ = ("id", "owner_address", "_completed", "_asking")

    def __init__(self, runtime: ProcessRuntime, anchor: ObjectRef[Any], completed: ObjectRef[None], name: str) -> None:
        super().__init__(runtime, next(runtime.hub.numbers), name)
        self.id: ObjectId = anchor.id  # not the anchor: whoever reads holds it, and an answer on its way does not
        self.owner_address = anchor.owner_address
        self._completed = completed
        self._asking = False

    def completed(self) -> ObjectRef[None]:
        return self._completed

    def watch(self, reader: object) -> None:
        """Nothing: the owner hears of the end of the anchor."""

    def lend(self, anchor: ObjectRef[Any]) -> None:
        """Nothing: its owner has lent it."""

    def close(self) -> None:
        self.runtime.post(self._close)

    def cancel(self, *, force: bool, recursive: bool) -> bool:
        """The owner sees to it, gently."""
        self._tell(StreamClose(self.id, cancel=True))
        return False

    def ref_of(self, item: StreamItem) -> ObjectRef[Any]:
        return item.stored if item.outcome is ELSEWHERE else super().ref_of(item)

    # --- answers to `StreamNext`

    def answered(self, peer: Peer, message: Any, parts: Sequence[memoryview]) -> None:
        self._asking = False
        if isinstance(message, Reply):
            refs = message.value.refs
            kept = self.runtime.borrows.take(peer, message.id, refs) if refs else None
            if message.value.kind == STORED:
                self._stored_at_owner(kept)
            elif not self.closed:
                self._put(StreamItem(unpack(message.value, parts), kept))
        elif isinstance(message, Failed):
            self._end(Failure(partial(decode_failure, message.failure)))
        else:
            self._end(None)

    def owner_lost(self) -> None:
        if self.runtime.closing:
            self._end(None)
        elif not self.closed:
            self.runtime.spawn(self._owner_gone())

    # --- inside

    def _stored_at_owner(self, kept: Any) -> None:
        """An item that lies in the store stays the owner's: what came is a reference to it."""
        if not kept or type(kept[0]) is not ObjectRef:
            raise ProtocolError(f"a stored item without a reference to it came in answer to {self!r}")
        if not self.closed:
            kept[0]._resolve(ELSEWHERE)
            self._put(StreamItem(ELSEWHERE, None, kept[0]))

    def _wanted(self) -> None:
        if self._asking:
            return
        self._asking = True
        peer = self.runtime.hub.known(self.owner_address)
        if peer is not None:
            self._ask(peer)
        else:
            self.runtime.spawn(self._connect_and_ask())

    async def _connect_and_ask(self) -> None:
        try:
            peer = await self.runtime.hub.connect(self.owner_address)
        except ActorliteError:
            await self._owner_gone()
        else:
            self._ask(peer)

    def _ask(self, peer: Peer) -> None:
        number = next(self.runtime.hub.numbers)
        try:
            peer.call(number, _Next(self, peer), encode(StreamNext(number, self.id, self.number)))
        except ConnectionLost:
            self.owner_lost()

    async def _owner_gone(self) -> None:
        text = "its session was shut down"
        try:
            text = await self.runtime.why_died(owner_of(self.id))
        finally:  # also when the end of the session has cancelled it: nobody waits here for ever
            lost = f"the process that owned the stream of {self.name}() is gone: {text}"
            self._end(Failure(partial(OwnerDiedError, lost, outcome=Outcome.UNKNOWN), quiet=True))

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._clear()
        if not self.ended:
            self._tell(StreamClose(self.id))
            self._end(None)

    def _tell(self, message: StreamClose) -> None:
        peer = self.runtime.hub.known(self.owner_address)
        if peer is not None:  # else it is gone, or has not been asked: the end of the anchor says the same
            peer.tell(encode(message))


class _Next:
    """Waits for the answer to one `StreamNext`."""

    __slots__ = ("stream", "peer")

    def __init__(self, stream: BorrowedStream, peer: Peer) -> None:
        self.stream = stream
        self.peer = peer

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        self.stream.answered(self.peer, message, parts)

    def lost(self, error: ConnectionLost) -> None:
        self.stream.owner_lost()


class Streams:
    """The streams of this process that others may read, and what they ask for. On the loop, but for `lent`."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self._runtime = runtime
        self.lent: dict[ObjectId, OwnStream] = {}

    def find(self, anchor: ObjectRef[Any], completed: ObjectRef[None], name: str) -> StreamSource:
        """The source of a stream that came in a message; perhaps one that came home."""
        if anchor.owner_address:
            return BorrowedStream(self._runtime, anchor, completed, name)
        stream = self.lent.get(anchor.id)
        if stream is None:
            raise ObjectLostError(f"the stream of {name}() came back to its owner after it was closed")
        return stream

    def begin_later(self, call: Outbound, in_turn: Coroutine[Any, Any, None]) -> None:
        """There is no room for the call of a structured stream yet: `in_turn` waits for it."""
        self._runtime.spawn(in_turn).add_done_callback(partial(_begun, call))

    def forget(self, stream: OwnStream) -> None:
        for key in [key for key, each in self.lent.items() if each is stream]:
            del self.lent[key]

    def next(self, peer: Peer, message: StreamNext, parts: Sequence[memoryview]) -> None:
        """Handler: another process reads a stream."""
        stream = self.lent.get(message.stream)
        try:
            if stream is None:
                error = "the stream was closed, or its producer cancelled, where it was called"
                raise TaskCancelledError(error, outcome=Outcome.UNKNOWN)
            stream.claim((peer.identity.process, message.reader))
        except (TaskCancelledError, RuntimeError) as error:
            peer.tell(encode(Failed(message.id, encode_failure(error, "the owner of the stream"))))
            return
        stream.wait_with(partial(self._answer, peer, message.id, stream))

    def close(self, peer: Peer, message: StreamClose, parts: Sequence[memoryview]) -> None:
        """Handler: another process reads no more."""
        stream = self.lent.get(message.stream)
        if stream is None:
            return
        if message.cancel:
            stream.cancel()
        else:
            stream.close()

    def _answer(self, peer: Peer, id: int, stream: OwnStream) -> None:
        if not peer.is_open:
            return
        item = Intake.take(stream)
        if item is ENDED and stream.closed:
            error: BaseException = TaskCancelledError(
                f"the stream of {stream.name}() was closed where it was called", outcome=Outcome.UNKNOWN
            )
            peer.tell(encode(Failed(id, encode_failure(error, "the owner of the stream"))))
        elif item is ENDED:
            peer.tell(encode(Rejected(id, STREAM_ENDED)))
        elif type(item.outcome) is Failure:
            peer.tell(encode(Failed(id, encode_failure(item.outcome.exception(), "the owner of the stream"))))
        else:
            kept = item.kept or ()
            if item.stored is not None:
                kept = (stream.ref_of(item),)  # which the reader borrows
                value = Encoded(STORED, item.stored.packed, (), kept)
            else:
                value = Encoded(item.outcome.kind, item.outcome.data, item.outcome.buffers, kept)
            payload, extra = pack(value, self._runtime.hub.identity.address)
            if kept:
                self._runtime.exports.hold_for_reply(peer, id, kept)
            peer.tell(encode(Reply(id, payload)), *extra)

    def __repr__(self) -> str:
        return f"<Streams lent={len(self.lent)}>"


def _begun(call: Outbound, beginning: asyncio.Task[None]) -> None:
    """Nobody awaits it: what it raised is the outcome of the call."""
    error = None if beginning.cancelled() else beginning.exception()
    if isinstance(error, ActorliteError):
        call.end(Failure(partial(type(error), str(error), outcome=error.outcome)))
    elif error is not None or beginning.cancelled():
        text = f"{call.name}() waited for room, and was given up: {error or 'the session ends'}"
        call.end(Failure(partial(SessionClosedError, text)))


def window_of(options: TaskOptions | MethodOptions) -> ReceiveWindow:
    """The window that a generator's options ask for."""
    items = STREAM_WINDOW if options.stream_window is None else options.stream_window
    size = STREAM_WINDOW_BYTES if options.stream_window_bytes is None else options.stream_window_bytes
    return ReceiveWindow(items, size)


def streaming(envelope: Envelope | None, window: ReceiveWindow) -> Envelope:
    """The envelope of a call that is answered item by item."""
    return msgspec.structs.replace(envelope or Envelope(), num_returns=1, window=window.items, window_bytes=window.size)


def _size_of(item: StreamItem) -> int:
    """What it counts in the window: where it lies makes no difference, so that the store has a bound too."""
    size: int = item.outcome.total_bytes if item.stored is None else item.stored.stored.size
    return size


def _settle(future: Any) -> None:
    if not future.done():
        future.set_result(None)


def _settle_elsewhere(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(_settle, future)
