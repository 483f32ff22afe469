"""Copies of objects from other nodes: in chunks, straight into the segment, several at once.

What a pull has already got it keeps when the node that it comes from dies: it goes on with another one that has the
object. No directory says where copies are. It is asked for, of all nodes, only when the node that an object was written
on is gone: that is rare, and what nobody keeps nobody has to keep right.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from actorlite.errors import ActorliteError, ConnectionLost, ObjectLostError
from actorlite.ids import ProcessId
from actorlite.node.members import Members
from actorlite.node.segments import SegmentDesk
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.state.objects import ObjectTable, Pull
from actorlite.wire.messages import encode
from actorlite.wire.nodes import Chunk, HasObject, SendChunk
from actorlite.wire.objects import CloseObjects, OpenObject, Placed
from actorlite.wire.requests import Yes

CHUNK_BYTES = 512 * 1024
WINDOW = 8
"""Chunks that a pull has asked for and not got."""
MAX_PULLS = 16
"""Pulls that get chunks at once; more wait, so that what is under way takes a bounded amount of memory."""
REST_S = 5.0
"""How long the rest of a chunk may take that nobody wants any more."""


class Transfers:
    """Both sides. Owned by the node's store; on the loop."""

    def __init__(self, hub: Hub, members: Members, table: ObjectTable, desk: SegmentDesk) -> None:
        self._hub = hub
        self._members = members
        self._table = table
        self._desk = desk
        self._places = asyncio.Semaphore(MAX_PULLS)

    # --- getting

    async def pull(self, command: Pull, patience_s: float) -> ProcessId:
        """Copy an object; returns the node that the last of it came from. What arrives is written as it comes.

        Raises `ObjectLostError` when no node has it, `ObjectStoreFullError` when one that has it cannot have it in
        memory within `patience_s`, and what else that answers. When it ends, however that is, nothing is written any
        more.
        """
        missing = deque(range(0, command.size, CHUNK_BYTES))
        why = f"the node that it was written on ({command.source}) is gone"
        async for peer in self._holders(command):
            try:
                await self._pull_from(peer, command, missing, patience_s)
            except (ObjectLostError, ConnectionLost) as error:
                why = str(error)
            else:
                return peer.identity.process
        raise ObjectLostError(f"no node has object {command.key}: {why}")

    async def _holders(self, command: Pull) -> AsyncIterator[Peer]:
        """The nodes to ask, one after the other, each once."""
        asked: set[ProcessId] = set()
        peer = self._members.peer(command.source) or await self._find_holder(command.key, asked)
        while peer is not None:
            asked.add(peer.identity.process)
            yield peer
            peer = await self._find_holder(command.key, asked)

    async def _find_holder(self, key: str, asked: set[ProcessId]) -> Peer | None:
        found = await self._members.ask(HasObject(key), _has_it, leave_out=asked)
        return found[0] if found is not None else None

    async def _pull_from(self, peer: Peer, command: Pull, missing: deque[int], patience_s: float) -> None:
        placed = await self._open(peer, command, patience_s)
        self._table.owned_by(command.key, placed.owner, self._here(placed.home))
        try:
            async with self._places:
                await _Incoming(self._hub, self._desk, peer, command, missing).run()
        finally:
            peer.tell(encode(CloseObjects(((command.key, 1),))))

    async def _open(self, peer: Peer, command: Pull, patience_s: float) -> Placed:
        def close(placed: object) -> None:
            peer.tell(encode(CloseObjects(((command.key, 1),))))

        placed = await peer.ask(next(self._hub.numbers), OpenObject(command.key, patience_s), close)
        if not isinstance(placed, Placed):
            raise ActorliteError(f"{peer!r} answered a request for an object with {placed!r}")
        return placed

    def _here(self, node: ProcessId) -> ProcessId:
        return ProcessId("") if node == self._hub.identity.process else node

    # --- giving

    def send_chunk(self, peer: Peer, message: SendChunk, parts: Sequence[memoryview]) -> None:
        """Handler. The view keeps the mapping, and the sender's pin the object, until it is sent."""
        found = self._table.objects.get(message.key)
        end = message.start + message.length
        if found is None or peer.identity.process not in found.pins or not 0 <= message.start < end <= found.size:
            peer.tell(encode(Chunk(message.id, f"object {message.key} is not open for this node, or has no such part")))
            return
        view = self._desk.segment.pin(found.offset + message.start, message.length, _nothing)
        peer.tell(encode(Chunk(message.id)), view)

    def __repr__(self) -> str:
        return f"<Transfers at once={MAX_PULLS - self._places._value}>"


class _Incoming:
    """One object from one node."""

    def __init__(self, hub: Hub, desk: SegmentDesk, peer: Peer, command: Pull, missing: deque[int]) -> None:
        self._hub = hub
        self._segment = desk.segment
        self._peer = peer
        self._command = command
        self._missing = missing
        """Where chunks begin that nobody was asked for yet."""
        self._asked: set[int] = set()
        """Those that are under way."""
        self._receiving = 0
        """Those of which a part is there, in the segment: its memory cannot be given back before the rest has come."""
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = loop.create_future()
        self._quiet: asyncio.Future[None] = loop.create_future()

    async def run(self) -> None:
        """Returns when all chunks are there. What was asked for and has not come by its end is missing again."""
        try:
            while self._missing and len(self._asked) < WINDOW:
                self._ask_for_next()
            if self._asked:
                await self._over
        finally:
            self._missing.extend(self._asked)
            self._asked.clear()
            if self._receiving:
                await _to_the_end(self._received())

    def _ask_for_next(self) -> None:
        start = self._missing.popleft()
        self._asked.add(start)
        number = next(self._hub.numbers)
        length = min(CHUNK_BYTES, self._command.size - start)
        awaited = _Awaited(self, start, length)
        self._peer.call(number, awaited, encode(SendChunk(number, self._command.key, start, length)))

    def room(self, start: int, length: int) -> memoryview | None:
        if start not in self._asked:
            return None
        self._receiving += 1
        return self._segment.writable(self._command.offset + start, length)

    def received(self) -> None:
        """One whose beginning was in the segment is there, or will not come."""
        self._receiving -= 1
        if not self._receiving and not self._quiet.done():
            self._quiet.set_result(None)

    def arrived(self, start: int, data: memoryview | None) -> None:
        """`data` is None when it is in its place already."""
        if start not in self._asked:
            return
        if data is not None:
            self._segment.write(self._command.offset + start, data)
        self._asked.discard(start)
        try:
            if self._missing:
                self._ask_for_next()
            elif not self._asked and not self._over.done():  # it may have been cancelled in this very pass
                self._over.set_result(None)
        except ConnectionLost as error:
            self.failed(error)

    def failed(self, error: ActorliteError) -> None:
        if not self._over.done():
            self._over.set_exception(error)
            self._over.exception()  # nobody may be waiting yet

    async def _received(self) -> None:
        """Nothing is written to the segment any more. A peer that stalls in the middle of a chunk is cut off."""
        try:
            async with asyncio.timeout(REST_S):
                while self._receiving:
                    self._quiet = asyncio.get_running_loop().create_future()
                    await self._quiet
        except TimeoutError:
            await self._peer.aclose()


class _Awaited:
    """One chunk."""

    __slots__ = ("incoming", "start", "length", "in_place")

    def __init__(self, incoming: _Incoming, start: int, length: int) -> None:
        self.incoming = incoming
        self.start = start
        self.length = length
        self.in_place = False

    def room(self, size: int) -> memoryview | None:
        """Where it shall be received; asked when its beginning is there."""
        if size != self.length:
            return None
        room = self.incoming.room(self.start, size)
        self.in_place = room is not None
        return room

    def answered(self, message: Chunk, parts: Sequence[memoryview]) -> None:
        in_place = self._is_received()
        if message.error:
            self.incoming.failed(ObjectLostError(message.error))
        elif len(parts) != 2 or len(parts[1]) != self.length:
            self.incoming.failed(ObjectLostError("a chunk came with other bytes than were asked for"))
        else:
            self.incoming.arrived(self.start, None if in_place else parts[1])

    def lost(self, error: ConnectionLost) -> None:
        self._is_received()
        self.incoming.failed(error)

    def _is_received(self) -> bool:
        """Nothing more comes. Whether its place was in the segment."""
        in_place, self.in_place = self.in_place, False
        if in_place:
            self.incoming.received()
        return in_place


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await it, also when this is cancelled, which is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


def _has_it(answer: object) -> bool:
    return isinstance(answer, Yes) and answer.value


def _nothing() -> None:
    pass
