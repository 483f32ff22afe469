"""Answers that go out item by item: the sender's end of a stream.

A stream is a call whose answer is preceded by `StreamItem`s. Its sender starts with room for a window of items and
bytes, which the call says, and waits for `Credit` when it is used up (`state/streams.py`). The answer of the call ends
the stream, once, and so does a lost connection. The receiver's end is `runtime/streams.py`.

A sender asks for room before it makes the next item: so no more is made than was asked for.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from actorlite.errors import ConnectionLost, ProtocolError
from actorlite.rpc.peer import Peer
from actorlite.state.streams import SendWindow
from actorlite.transport import Buffer
from actorlite.wire.calls import Payload, StreamItem
from actorlite.wire.messages import encode


class OutboundStream(ABC):
    """What both kinds have: the room, and the end. Registered with its peer until `forget`."""

    def __init__(self, peer: Peer, id: int, window: SendWindow) -> None:
        self.id = id
        self.peer = peer
        self.window = window
        self.stopped = False
        """Nobody reads any more: the connection was lost, or the call is to end."""
        self.storing: Any = None
        """While an item is copied into the store: what is cancelled with the stream."""
        peer.streams[id] = self
        if not peer.is_open:  # it may have closed a moment before, without telling this one
            self.stopped = True

    def credit(self, items: int, size: int) -> None:
        """Raises `ProtocolError` for room that the receiver cannot have."""
        try:
            self.window.credit(items, size)
        except ValueError as error:
            raise ProtocolError(f"{error} in {self!r}") from None
        self._wake()

    def lost(self, error: ConnectionLost) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more; whoever waits for room, here or in the store, is woken. On the loop; idempotent."""
        self.stopped = True
        if self.storing is not None:
            self.storing.cancel()
        self._wake()

    def forget(self) -> None:
        """The stream has ended: its peer need not know it any more. On the loop."""
        if self.peer.streams.get(self.id) is self:
            del self.peer.streams[self.id]

    @abstractmethod
    def send_now(self, payload: Payload, size: int, hold: int) -> None:
        """One item without parts, for which there was `room`. On the loop, while the sender waits for that."""

    @abstractmethod
    def _wake(self) -> None:
        """Let whoever waits for room look again."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {'stopped' if self.stopped else 'open'} {self.window!r}>"


class LoopStream(OutboundStream):
    """For a coroutine on the loop, one at a time."""

    def __init__(self, peer: Peer, id: int, window: SendWindow) -> None:
        self._sender: asyncio.Future[None] | None = None
        super().__init__(peer, id, window)

    async def room(self) -> bool:
        """Wait until the receiver has room and the connection's queue is short. False: nobody reads any more."""
        try:
            await self.peer.drain()
        except ConnectionLost:
            self.stopped = True
        while not self.stopped and not self.window.has_room:
            if self._sender is not None:
                raise RuntimeError(f"{self!r} has a sender that waits already")
            self._sender = asyncio.get_running_loop().create_future()
            try:
                await self._sender
            finally:
                self._sender = None
        return not self.stopped

    def send(self, payload: Payload, parts: Sequence[Buffer], size: int, hold: int = 0) -> None:
        """One item, for which there was `room`. Nothing is sent once nobody reads."""
        index = self.window.send(size)
        if not self.stopped:
            self.peer.tell(encode(StreamItem(self.id, index, payload, hold)), *parts)

    def send_now(self, payload: Payload, size: int, hold: int) -> None:
        self.send(payload, (), size, hold)

    def _wake(self) -> None:
        if self._sender is not None and not self._sender.done():
            self._sender.set_result(None)


class ThreadStream(OutboundStream):
    """For a plain thread, one at a time, which it may hold up; the loop is never held up."""

    def __init__(self, peer: Peer, id: int, window: SendWindow, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = threading.Condition(threading.Lock())
        self._unsent: deque[Callable[[], None]] = deque()
        """What the loop has to send, in order."""
        self._flush_due = False
        super().__init__(peer, id, window)

    def room(self, waiting: Callable[[], None], goes_on: Callable[[], None]) -> bool:
        """Block until the receiver has room; False: nobody reads any more. Calls `waiting` and `goes_on` around it."""
        if self.stopped or self.window.has_room:
            return not self.stopped
        waiting()
        try:
            with self._changed:
                while not self.stopped and not self.window.has_room:
                    self._changed.wait()
        finally:
            goes_on()
        return not self.stopped

    def send(self, payload: Payload, parts: Sequence[Buffer], size: int) -> None:
        """One item, for which there was `room`: written from this thread when nothing is queued, else by the loop."""
        with self._changed:
            index = self.window.send(size)
        message = encode(StreamItem(self.id, index, payload))
        if self.stopped or (not self._unsent and self.peer.send_from_thread(message, *parts)):
            return
        self._later(lambda: self.peer.tell(message, *parts))

    def send_held(self, payload: Payload, parts: Sequence[Buffer], size: int, hold: Callable[[], int]) -> None:
        """One item with references: `hold` keeps them for the receiver, on the loop, and says under which number."""
        with self._changed:
            index = self.window.send(size)
        self._later(lambda: self.peer.tell(encode(StreamItem(self.id, index, payload, hold())), *parts))

    def send_now(self, payload: Payload, size: int, hold: int) -> None:
        self.flush()  # what came before it
        with self._changed:
            index = self.window.send(size)
        if not self.stopped:
            self.peer.tell(encode(StreamItem(self.id, index, payload, hold)))

    def credit(self, items: int, size: int) -> None:
        with self._changed:
            super().credit(items, size)

    def stop(self) -> None:
        with self._changed:
            super().stop()

    def flush(self) -> None:
        """On the loop: send what the thread left to it."""
        self._flush_due = False  # first: what is added from now on wakes the loop again
        while self._unsent:
            if not self.stopped:
                self._unsent[0]()
            self._unsent.popleft()  # last: the thread writes by itself only when everything before it is sent

    def _later(self, send: Callable[[], None]) -> None:
        self._unsent.append(send)
        if not self._flush_due and not self._loop.is_closed():
            self._flush_due = True
            self._loop.call_soon_threadsafe(self.flush)

    def _wake(self) -> None:
        self._changed.notify_all()  # whoever calls it has the lock


__all__ = ["LoopStream", "OutboundStream", "ThreadStream"]
