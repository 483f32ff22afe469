"""A process's side of its node's object store: it asks for room, writes, reads, and says when it is done.

Nothing happens before the first large value: then the process gets the segment from its node and maps it. Copying is
done in threads. Invariant: what the node has granted is given back, whoever was cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Awaitable, Coroutine, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from actorlite.errors import ActorliteError, ConnectionLost, NodeDiedError, ObjectLostError, SessionClosedError
from actorlite.ids import ProcessId
from actorlite.rpc.descriptors import Descriptors, connect_descriptors
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.store.segment import Segment, layout, segments_here
from actorlite.store.slabs import LeasedSlabs
from actorlite.wire.messages import encode
from actorlite.wire.objects import (
    AbandonObject,
    Attach,
    AttachStore,
    ClaimObjects,
    CloseObjects,
    CreateObject,
    FreeObjects,
    ListObjects,
    Objects,
    OpenObject,
    Placed,
    ReaderLost,
    SealObjects,
    Stored,
    StoreInfo,
    encode_stored,
)
from actorlite.wire.serialize import Encoded

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

STORE_BYTES = 100 * 1024
"""Values from this size on go to the store (Ray: 100 KiB); smaller ones stay with their owner."""
INLINE_COPY_BYTES = 512 * 1024
"""Up to here the loop copies itself: a thread would take as long to wake."""
PIECE_BYTES = 16 << 20
"""A large copy is split into pieces of this size at least, for several threads."""
COPY_THREADS = 4
ATTACH_S = 10.0
DEFAULT_TIMEOUT_S = 60.0
"""How long to wait for room."""


class StoreScope(Protocol):
    """The runtime as the store needs it."""

    loop: asyncio.AbstractEventLoop
    process: ProcessId
    hub: Hub

    @property
    def node_peer(self) -> Peer: ...

    def in_loop(self) -> bool: ...

    async def why_node_gone(self, otherwise: str) -> str: ...

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]: ...


class Holding:
    """A value in the store that this process owns: freed when the last who needs it drops this."""

    __slots__ = ("_store", "stored", "packed", "origin", "what", "ref", "__weakref__")

    def __init__(self, store: StoreClient, stored: Stored, what: str, origin: object) -> None:
        self._store = store
        self.stored = stored
        self.what = what
        """For people."""
        self.ref: Any = None
        """A weak reference to the reference whose value it is, if it is that of one."""
        self.origin: Any = origin
        """How to make it again (`runtime.lineage`)."""
        self.packed = encode_stored(stored)
        """As it stands in payloads."""
        store.holdings[stored.key] = self

    def __del__(self) -> None:
        self._store.dropped(self.stored.key)

    def __repr__(self) -> str:
        return f"<Holding {self.stored.key} {self.stored.size} bytes>"


class StoreClient:
    """On the loop, but for `dropped` and what pins call."""

    def __init__(self, scope: StoreScope) -> None:
        self._scope = scope
        self._segment: Segment | None = None
        self._attaching: asyncio.Task[Segment] | None = None
        self._shared = False
        """Whether the segment belongs to a node in this process."""
        self._threads: ThreadPoolExecutor | None = None
        self._opening: dict[tuple[str, float], asyncio.Task[Encoded]] = {}
        """By key and timeout: who is patient must not share the end of who is not."""
        self._freed: deque[str] = deque()
        self._released: deque[str] = deque()
        self.holdings: WeakValueDictionary[str, Holding] = WeakValueDictionary()
        self._flush_due = False
        self._closed = False
        self.slabs = LeasedSlabs(scope, self._attached, self._request, self._prepare)

    # --- writing

    async def write(self, encoded: Encoded, owner: ProcessId, timeout_s: float = DEFAULT_TIMEOUT_S) -> Stored:
        """Copy an encoded value into the store, for `owner` to free. Its buffers must not change meanwhile.

        Raises `ObjectStoreFullError`, `NodeDiedError`, `SessionClosedError`. Cancelled, it leaves nothing behind.
        """
        stored = self.slabs.place(encoded, owner)
        if stored is None and await self.slabs.coming(encoded):
            stored = self.slabs.place(encoded, owner)
        if stored is not None:
            return stored
        # Owned by the runtime: a cancelled caller must not leave an object that nobody knows of.
        writing = self._scope.spawn(self._write(encoded, owner, timeout_s))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            raise_if_closed(writing)
            writing.cancel()
            writing.add_done_callback(self._unwanted)
            raise

    async def _write(self, encoded: Encoded, owner: ProcessId, timeout_s: float) -> Stored:
        segment = await self._attached()
        pieces = [encoded.data, *encoded.buffers]
        sizes = tuple([memoryview(each).nbytes for each in pieces])
        offsets, total = layout(sizes)
        peer = self._scope.node_peer
        key = f"{self._scope.process}-{next(self._scope.hub.numbers)}"
        try:
            placed = await self._request(CreateObject(key, total, owner, timeout_s))
        except asyncio.CancelledError:
            peer.tell(encode(AbandonObject(key)))  # it stands in the node's queue, or its room is on its way
            raise
        if not isinstance(placed, Placed):
            raise ActorliteError(f"the node answered a request for room with {placed!r}")
        try:
            await self._copy(segment, [placed.offset + offset for offset in offsets], pieces, total)
        except BaseException:
            peer.tell(encode(AbandonObject(key)))
            raise
        peer.tell(encode(SealObjects((key,))))
        return Stored(peer.identity.process, key, total, encoded.kind, sizes)

    async def _prepare(self, offset: int, size: int) -> None:
        """Have a range mapped that is about to be written to."""
        segment = await self._attached()
        if not segment.is_prepared(offset, size):
            with contextlib.suppress(RuntimeError):  # no thread can be started: the pages come one by one
                await self._scope.loop.run_in_executor(self._get_threads(), segment.prepare, offset, size)

    def _unwanted(self, writing: asyncio.Task[Stored]) -> None:
        if not writing.cancelled() and writing.exception() is None:
            self.dropped(writing.result().key)

    async def _copy(self, segment: Segment, offsets: Sequence[int], pieces: Sequence[Any], total: int) -> None:
        if total <= INLINE_COPY_BYTES:
            for offset, piece in zip(offsets, pieces, strict=True):
                segment.write(offset, piece)
            return
        threads = self._get_threads()
        share = max(PIECE_BYTES, -(-total // _copiers()))
        work: list[Awaitable[None]] = []
        for offset, piece in zip(offsets, pieces, strict=True):
            view = memoryview(piece).cast("B") if memoryview(piece).nbytes else memoryview(b"")
            work += [
                self._start_copy(threads, segment, offset + start, view[start : start + share])
                for start in range(0, len(view), share)
            ]
        # All of it, also when this is cancelled or one fails: the memory is not given back while a thread writes to it.
        done = asyncio.gather(*work, return_exceptions=True)
        cancelled = False
        while not done.done():
            try:
                await asyncio.shield(done)
            except asyncio.CancelledError:
                cancelled = True
        for result in done.result():
            if isinstance(result, BaseException):
                raise result
        if cancelled:
            raise asyncio.CancelledError

    def _start_copy(
        self, threads: ThreadPoolExecutor, segment: Segment, offset: int, data: memoryview
    ) -> Awaitable[None]:
        copied: Future[None] = Future()
        unclaimed = [None]

        def copy() -> None:
            try:
                unclaimed.pop()  # atomic
            except IndexError:
                return
            try:
                segment.write(offset, data)
            except BaseException as error:
                copied.set_exception(error)
            else:
                copied.set_result(None)

        try:
            threads.submit(copy)
        except RuntimeError:
            # No thread can be started. It may be queued all the same, for those that there are: who is first does it.
            copy()
        # Shielded: who gives up waiting must not have it marked as cancelled while a thread writes.
        return asyncio.shield(asyncio.wrap_future(copied))

    # --- reading

    async def open(self, stored: Stored, timeout_s: float = DEFAULT_TIMEOUT_S) -> Encoded:
        """The encoded value, on read-only views of the store: it stays in memory while any of them lives.

        Raises `ObjectLostError` when it was freed, `ObjectStoreFullError` when it is on disk and there is no room.
        """
        wish = stored.key, timeout_s
        opening = self._opening.get(wish)
        if opening is None:
            opening = self._opening[wish] = self._scope.spawn(self._open(stored, timeout_s))
            opening.add_done_callback(lambda _: self._opening.pop(wish, None))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            raise_if_closed(opening)
            raise

    async def _open(self, stored: Stored, timeout_s: float) -> Encoded:
        segment = await self._attached()
        self.slabs.say()
        peer = self._scope.node_peer
        if stored.node != peer.identity.process:
            raise ObjectLostError(f"object {stored.key} is in the store of another node ({stored.node})")
        placed = await self._request(OpenObject(stored.key, timeout_s))
        if not isinstance(placed, Placed):
            raise ActorliteError(f"the node answered a request for an object with {placed!r}")
        view = segment.pin(placed.offset, stored.size, partial(self._on_release, stored.key))
        offsets, _ = layout(stored.sizes)
        data, *buffers = [view[offset : offset + size] for offset, size in zip(offsets, stored.sizes, strict=True)]
        return Encoded(stored.kind, data, buffers)

    # --- the end of values

    def claim(self, stored: Stored, what: str, origin: object) -> Holding:
        """A value that another process wrote for this one has arrived."""
        self._scope.node_peer.tell(encode(ClaimObjects((stored.key,))))
        return Holding(self, stored, what, origin)

    def dropped(self, key: str) -> None:
        """Nobody here needs it any more, and this process owns it. From any thread, also inside the collector."""
        self._freed.append(key)
        self._flush_soon()

    def _on_release(self, key: str) -> None:
        self._released.append(key)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_due and not self._closed and not self._scope.loop.is_closed():
            self._flush_due = True
            with contextlib.suppress(RuntimeError):  # the loop is closed by another thread meanwhile
                self._scope.loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        # Cleared first: what is dropped from now on, on another thread, wakes the loop again.
        self._flush_due = False
        self.slabs.say()
        peer = self._scope.node_peer
        reads: dict[str, int] = {}
        while self._released:
            key = self._released.popleft()
            reads[key] = reads.get(key, 0) + 1
        if reads:
            peer.tell(encode(CloseObjects(tuple(reads.items()))))
        freed = []
        while self._freed:
            freed.append(self._freed.popleft())
        if freed:
            peer.tell(encode(FreeObjects(tuple(freed))))

    def reader_lost(self, process: ProcessId) -> None:
        """What was written for it, and did not arrive, is nobody's."""
        if self._segment is not None and not self._closed:
            self.slabs.say()
            self._scope.node_peer.tell(encode(ReaderLost(process)))

    async def list_objects(self) -> Objects:
        self.slabs.say()
        found = await self._request(ListObjects())
        if not isinstance(found, Objects):
            raise ActorliteError(f"the node answered a question about its store with {found!r}")
        return found

    def close(self) -> None:
        """The session is over. Views stay valid. Idempotent."""
        if self._closed:
            return
        self.slabs.close()
        if self._freed or self._released:
            self._flush()
        self._closed = True
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        if self._segment is not None and not self._shared:
            self._segment.close()

    # --- inside

    async def _attached(self) -> Segment:
        if self._segment is not None:
            return self._segment
        if self._attaching is None or (self._attaching.done() and self._segment is None):
            self._attaching = self._scope.spawn(self._attach())
        return await asyncio.shield(self._attaching)

    async def _attach(self) -> Segment:
        info = await self._request(AttachStore())
        if not isinstance(info, StoreInfo):
            raise ActorliteError(f"the node answered a question for its store with {info!r}")
        if not info.path:
            self._shared = True
            self._segment = segments_here[self._scope.node_peer.identity.process]
            return self._segment
        arrival = _Arrival(self._scope.loop)
        channel = await connect_descriptors(info.path, arrival)
        try:
            channel.send(encode_stored(Attach(self._scope.process)))
            async with asyncio.timeout(ATTACH_S):
                await arrival.arrived
            self._segment = Segment(arrival.fd, info.capacity)
            arrival.fd = -1  # the segment's from now on
        finally:
            arrival.close()
            await channel.aclose()
        return self._segment

    async def _request(self, body: Any) -> Any:
        try:
            return await self._scope.node_peer.request(next(self._scope.hub.numbers), body)
        except ConnectionLost as error:
            raise NodeDiedError(await self._scope.why_node_gone(str(error)), outcome=error.outcome) from None

    def _get_threads(self) -> ThreadPoolExecutor:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(_copiers(), "actorlite copy")
        return self._threads

    def __repr__(self) -> str:
        return f"<StoreClient {self._segment!r}>"


class _Arrival:
    """The sink of the channel on which the segment's descriptor comes; owns it until somebody takes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.arrived: asyncio.Future[None] = loop.create_future()
        self.fd = -1

    def message(self, data: bytes, descriptors: Descriptors) -> None:
        if not self.arrived.done():
            (self.fd,) = descriptors.take()
            self.arrived.set_result(None)

    def closed(self, error: ConnectionLost | None) -> None:
        if not self.arrived.done():
            self.arrived.set_exception(error or ConnectionLost("the node did not hand out its store"))

    def close(self) -> None:
        if not self.arrived.cancel() and not self.arrived.cancelled():
            self.arrived.exception()  # whoever waited for it has it, or was cancelled
        if self.fd >= 0:
            os.close(self.fd)


def raise_if_closed(work: asyncio.Task[Any]) -> None:
    """Where waiting for `work` was cancelled: raise `SessionClosedError` if nobody has cancelled the waiting, but the
    end of the session the work."""
    task = asyncio.current_task()
    if work.cancelled() and task is not None and not task.cancelling():
        raise SessionClosedError("the session was shut down meanwhile") from None


def _copiers() -> int:
    """Threads that copy at once: more than a few do not make memory faster."""
    return min(COPY_THREADS, len(os.sched_getaffinity(0)))
