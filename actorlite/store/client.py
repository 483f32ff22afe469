"""A process's side of its node's object store: it asks for room, writes, reads, and says when it is done.

Nothing happens before the first large value: then the process gets the segment from its node and maps it. Copying is
done in threads. Invariant: what the node has granted is given back, whoever was cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from actorlite.errors import ActorliteError, ConnectionLost, NodeDiedError, SessionClosedError
from actorlite.ids import ProcessId
from actorlite.store.attachment import Attachment, StoreScope
from actorlite.store.segment import Segment, layout
from actorlite.store.slabs import LeasedSlabs
from actorlite.wire.messages import encode
from actorlite.wire.objects import (
    AbandonObject,
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
DEFAULT_TIMEOUT_S = 60.0
"""How long to wait for room."""


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
        self._store.dropped(self.stored)

    def __repr__(self) -> str:
        return f"<Holding {self.stored.key} {self.stored.size} bytes>"


class StoreClient:
    """On the loop, but for `dropped` and what pins call."""

    def __init__(self, scope: StoreScope) -> None:
        self._scope = scope
        self._attachment = Attachment(scope, self._request)
        self._reading: dict[int, str] = {}
        """Of a node in this process: the keys of what is read, by the number of the read."""
        self._threads: ThreadPoolExecutor | None = None
        self._opening: dict[tuple[str, float], _Opening] = {}
        """By key and timeout: who is patient must not share the end of who is not."""
        self._freed: deque[Stored] = deque()
        self._released: deque[str] = deque()
        self.holdings: WeakValueDictionary[str, Holding] = WeakValueDictionary()
        self._flush_due = False
        self._closed = False
        self.slabs = LeasedSlabs(scope, self._attachment.get, self._request, self._prepare)

    # --- writing

    async def write(self, encoded: Encoded, owner: ProcessId, timeout_s: float = DEFAULT_TIMEOUT_S) -> Stored:
        """Copy an encoded value into the store, for `owner` to free. Its buffers must not change meanwhile.

        Raises `ObjectStoreFullError`, `NodeDiedError`, `SessionClosedError`. Cancelled, it leaves nothing behind.
        """
        stored = self.place(encoded, owner)
        if stored is None and await self.slabs.coming(encoded):
            stored = self.place(encoded, owner)
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
        finally:
            del writing, encoded  # its error knows this frame: neither would be freed before a collection

    async def _write(self, encoded: Encoded, owner: ProcessId, timeout_s: float) -> Stored:
        segment = await self._attachment.get()
        pieces = [encoded.data, *encoded.buffers]
        sizes = tuple([memoryview(each).nbytes for each in pieces])
        offsets, total = layout(sizes)
        peer = self._scope.node_peer
        key = f"{self._scope.process}-{next(self._scope.hub.numbers)}"
        try:
            placed = await self._request(CreateObject(key, total, owner, timeout_s, self._home_of(owner)))
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

    def place(self, encoded: Encoded, owner: ProcessId) -> Stored | None:
        """Write it at once, where room is at hand; None where it is not. From any thread."""
        # Whether an owner on another node is there is asked when room is.
        return None if self._home_of(owner) else self.slabs.place(encoded, owner)

    async def _prepare(self, offset: int, size: int) -> None:
        """Have a range mapped that is about to be written to."""
        segment = await self._attachment.get()
        if not segment.is_prepared(offset, size):
            with contextlib.suppress(RuntimeError):  # no thread can be started: the pages come one by one
                await self._scope.loop.run_in_executor(self._get_threads(), segment.prepare, offset, size)

    def _unwanted(self, writing: asyncio.Task[Stored]) -> None:
        if not writing.cancelled() and writing.exception() is None:
            self.dropped(writing.result())

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

        Raises `ObjectLostError` when it was freed, `ObjectStoreFullError` when it is not here and there is no room. The
        node hears when all who wanted it were cancelled: then it is not copied or restored for nobody.
        """
        wish = stored.key, timeout_s
        opening = self._opening.get(wish)
        if opening is None:
            opening = self._opening[wish] = _Opening(self._scope.spawn(self._open(stored, timeout_s)))
            opening.task.add_done_callback(partial(self._opened, wish, opening))
        opening.waiting += 1
        try:
            return await asyncio.shield(opening.task)
        except asyncio.CancelledError:
            raise_if_closed(opening.task)
            if opening.waiting == 1:
                self._opened(wish, opening)
                opening.task.cancel()
            raise
        finally:
            opening.waiting -= 1
            del opening  # its error knows this frame: neither would be freed before a collection

    def _opened(self, wish: tuple[str, float], opening: _Opening, _: object = None) -> None:
        """Who comes now begins anew."""
        if self._opening.get(wish) is opening:
            del self._opening[wish]

    async def _open(self, stored: Stored, timeout_s: float) -> Encoded:
        segment = await self._attachment.get()
        self.slabs.say()
        peer = self._scope.node_peer
        wish = (
            OpenObject(stored.key, timeout_s)
            if stored.node == peer.identity.process
            else OpenObject(stored.key, timeout_s, stored.size, stored.node)
        )
        placed = await self._request(wish, lambda _: self._on_release(stored.key))
        if not isinstance(placed, Placed):
            raise ActorliteError(f"the node answered a request for an object with {placed!r}")
        on_release = partial(self._on_release, stored.key)
        if self._attachment.shared is not None:
            number = next(self._scope.hub.numbers)
            self._reading[number] = stored.key
            on_release = partial(self._on_release_here, number, stored.key)
        view = segment.pin(placed.offset, stored.size, on_release)
        offsets, _ = layout(stored.sizes)
        data, *buffers = [view[offset : offset + size] for offset, size in zip(offsets, stored.sizes, strict=True)]
        return Encoded(stored.kind, data, buffers)

    # --- the end of values

    def claim(self, stored: Stored, what: str, origin: object) -> Holding:
        """A value that another process wrote for this one has arrived."""
        self._scope.node_peer.tell(encode(ClaimObjects((stored.key,), self._elsewhere(stored.node))))
        return Holding(self, stored, what, origin)

    def dropped(self, stored: Stored) -> None:
        """Nobody here needs it any more, and this process owns it. From any thread, also inside the collector."""
        self._freed.append(stored)
        self._flush_soon()

    def _on_release(self, key: str) -> None:
        self._released.append(key)
        self._flush_soon()

    def _on_release_here(self, number: int, key: str) -> None:
        shared = self._attachment.shared
        assert shared is not None
        # In this order: who reads `_living`, and then what was released, misses none.
        shared.released(self._scope.process, key)
        self._reading.pop(number, None)

    def _living(self) -> Counter[str]:
        return Counter(list(self._reading.values()))

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
        freed: dict[ProcessId, list[str]] = {}
        while self._freed:
            stored = self._freed.popleft()
            freed.setdefault(stored.node, []).append(stored.key)
        for node, keys in freed.items():
            peer.tell(encode(FreeObjects(tuple(keys), self._elsewhere(node))))

    def reader_lost(self, process: ProcessId) -> None:
        """What was written for it, and did not arrive, is nobody's."""
        if self._attachment.segment is not None and not self._closed:
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
        self._attachment.close(self._living)

    # --- inside

    def _elsewhere(self, node: ProcessId) -> ProcessId:
        """For messages: nothing for this process's own node."""
        return node if node != self._scope.node_peer.identity.process else ProcessId("")

    def _home_of(self, process: ProcessId) -> ProcessId:
        """The node of another process, if that is another one."""
        home = self._scope.hub.homes.get(process)
        return self._elsewhere(home) if home is not None else ProcessId("")

    async def _request(self, body: Any, undo: Callable[[Any], None] | None = None) -> Any:
        """With `undo` the node hears when this is cancelled."""
        peer, number = self._scope.node_peer, next(self._scope.hub.numbers)
        try:
            return await (peer.request(number, body) if undo is None else peer.ask(number, body, undo))
        except ConnectionLost as error:
            raise NodeDiedError(await self._scope.why_node_gone(str(error)), outcome=error.outcome) from None

    def _get_threads(self) -> ThreadPoolExecutor:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(_copiers(), "actorlite copy")
        return self._threads

    def __repr__(self) -> str:
        return f"<StoreClient {self._attachment!r}>"


class _Opening:
    """A value that is being opened, and how many wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[Encoded]) -> None:
        self.task = task
        self.waiting = 0


def raise_if_closed(work: asyncio.Task[Any]) -> None:
    """Where waiting for `work` was cancelled: raise `SessionClosedError` if nobody has cancelled the waiting, but the
    end of the session the work."""
    task = asyncio.current_task()
    if work.cancelled() and task is not None and not task.cancelling():
        raise SessionClosedError("the session was shut down meanwhile") from None


def _copiers() -> int:
    """Threads that copy at once: more than a few do not make memory faster."""
    return min(COPY_THREADS, len(os.sched_getaffinity(0)))
