"""Answers that come item by item: both ends of one stream.

A stream is a call whose answer is preceded by `StreamItem`s. Its sender starts with room for a window of items, whose
size both sides know beforehand, and waits for `Credit` when it is used up; the receiver gives credit as items are
taken, so that it never holds more than a window. `Reply`, `Failed` or `Rejected` ends the stream, once, and so does a
lost connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from actorlite.errors import ConnectionLost, ProtocolError
from actorlite.rpc.peer import Peer
from actorlite.transport import Buffer
from actorlite.wire.messages import Credit, Failed, Payload, Rejected, Reply, StreamItem, encode

WINDOW = 16
"""Items under way or not yet taken, unless the two sides agree on another number."""

Item = tuple[Payload, Sequence[memoryview]]


class InboundStream:
    """The receiver: the `Pending` of its call, and an async iterator for one reader at a time.

    It yields payloads with the message parts that they came in. It ends when the answer has come: `end` says which, and
    what it means is for the reader to say. Items that came before the end are yielded before it. When the connection is
    lost first, every further step raises `ConnectionLost`: a broken stream never looks like one that ended.
    """

    def __init__(self, peer: Peer, id: int, *, window: int = WINDOW) -> None:
        self.id = id
        self.end: Reply | Failed | Rejected | None = None
        """The message that ended the stream."""
        self._peer = peer
        self._window = window
        self._items: deque[Item] = deque()
        self._next_index = 0
        self._taken = 0
        """Items taken that the sender has no credit for yet."""
        self._lost: ConnectionLost | None = None
        self._closed = False
        self._reader: asyncio.Future[None] | None = None

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        """An item, or the answer. Raises `ProtocolError` for an item out of turn, or without room for it."""
        if type(message) is not StreamItem:
            self.end = message
        elif message.index != self._next_index:
            raise ProtocolError(f"item {message.index} of stream {self.id} came in place of item {self._next_index}")
        elif self._closed:
            self._next_index += 1
        elif len(self._items) + self._taken >= self._window:
            raise ProtocolError(f"stream {self.id} sent more than the {self._window} items that it had room for")
        else:
            self._next_index += 1
            self._items.append((message.value, parts))
        self._wake()

    def lost(self, error: ConnectionLost) -> None:
        self._lost = error
        self._wake()

    def __aiter__(self) -> InboundStream:
        return self

    async def __anext__(self) -> Item:
        while not self._items:
            if self._closed or self.end is not None:
                raise StopAsyncIteration
            if self._lost is not None:
                raise ConnectionLost(str(self._lost), outcome=self._lost.outcome)
            await self._wait()
        item = self._items.popleft()
        self._give_credit()
        return item

    async def aclose(self) -> None:
        """Read no more: ask for the end of the call and drop what was not taken. Does not wait; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._items.clear()
        if self.end is None and self._lost is None:
            self._peer.cancel(self.id)
        self._wake()

    def __repr__(self) -> str:
        state = (
            "closed"
            if self._closed
            else f"ended by {type(self.end).__name__}"
            if self.end is not None
            else "lost"
            if self._lost is not None
            else "open"
        )
        return (
            f"<InboundStream {self.id} {state} received={self._next_index} waiting={len(self._items)}/{self._window}>"
        )

    def _give_credit(self) -> None:
        # Half a window at a time: few messages, and a sender that is never stopped by a reader who keeps up.
        self._taken += 1
        if 2 * self._taken >= self._window and self.end is None and self._lost is None:
            taken, self._taken = self._taken, 0
            self._peer.tell(encode(Credit(self.id, taken)))

    async def _wait(self) -> None:
        if self._reader is not None:
            raise RuntimeError(f"{self!r} is being read already")
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class OutboundStream:
    """The sender: for one task at a time, from the arrival of the call to its answer."""

    def __init__(self, peer: Peer, id: int, *, window: int = WINDOW) -> None:
        self.id = id
        self._peer = peer
        self._window = window
        self._room = window
        self._sent = 0
        self._lost: ConnectionLost | None = None
        self._ended = False
        self._sender: asyncio.Future[None] | None = None
        peer.streams[id] = self

    async def send(self, payload: Payload, *parts: Buffer) -> None:
        """Send one item, once the receiver has room and the connection's queue is short.

        A cancelled `send` has sent nothing. Raises `ConnectionLost`, and `RuntimeError` after `finish`.
        """
        await self._peer.drain()
        while not self._room and self._lost is None and not self._ended:
            await self._wait()
        if self._ended:
            raise RuntimeError(f"{self!r} takes no more items")
        if self._lost is not None:
            raise ConnectionLost(str(self._lost), outcome=self._lost.outcome)
        self._peer.send(encode(StreamItem(self.id, self._sent, payload)), *parts)
        self._room -= 1
        self._sent += 1

    def finish(self, *parts: Buffer) -> None:
        """End the stream with its answer: `Reply`, `Failed` or `Rejected`, encoded, and its payload.

        Only the first answer counts. Never raises: a lost peer needs none.
        """
        if self._ended:
            return
        self._ended = True
        if self._peer.streams.get(self.id) is self:
            del self._peer.streams[self.id]
        self._peer.tell(*parts)
        self._wake()

    def credit(self, items: int) -> None:
        """Raises `ProtocolError` for room that the receiver cannot have."""
        if items <= 0 or self._room + items > self._window:
            raise ProtocolError(f"a credit of {items} items for {self!r}")
        self._room += items
        self._wake()

    def lost(self, error: ConnectionLost) -> None:
        self._lost = error
        self._wake()

    def __repr__(self) -> str:
        state = "ended" if self._ended else "lost" if self._lost is not None else "open"
        return f"<OutboundStream {self.id} {state} sent={self._sent} room={self._room}/{self._window}>"

    async def _wait(self) -> None:
        if self._sender is not None:
            raise RuntimeError(f"{self!r} has a sender that waits already")
        self._sender = asyncio.get_running_loop().create_future()
        try:
            await self._sender
        finally:
            self._sender = None

    def _wake(self) -> None:
        if self._sender is not None and not self._sender.done():
            self._sender.set_result(None)


__all__ = ["WINDOW", "InboundStream", "OutboundStream"]
