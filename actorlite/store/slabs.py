"""A process's leased slabs: values of moderate size are written without asking the node for room first.

Who writes several values soon after one another leases room for more of them, and the next slab before the last is
full. A value is copied there and then, from any thread, and the node hears of it afterwards; what is leased and not
used for a while goes back, and so it does when the node is short of room. Without a slab at hand values take the long
way (`store.client`).
Invariant: what is said to the node is said in the order in which it happened, on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from weakref import WeakSet

from actorlite.errors import ActorliteError
from actorlite.ids import ProcessId
from actorlite.state.slabs import rounded, slab_key
from actorlite.store.attachment import StoreScope
from actorlite.store.segment import Segment, layout
from actorlite.wire.messages import encode
from actorlite.wire.objects import AbandonObject, Leased, LeaseRoom, PlaceObjects, Stored
from actorlite.wire.serialize import Encoded

T = TypeVar("T")
logger = logging.getLogger("actorlite.store")

SLAB_VALUE_BYTES = (1 << 20) + (64 << 10)
"""A MiB and what describes it. Larger values take the long way: the round trip is little beside the copy, which threads
should make."""
VALUES_PER_SLAB = 4
"""At least: values that are larger than this part of a slab take the long way too."""
SEVERAL = 4
SOON_S = 0.1
"""A slab is leased after so many values, each so soon after the one before."""
AT_ONCE = 2
"""Slabs: one to write to, and the next."""
IDLE_S = 0.3
"""What is leased and not used for so long goes back."""
AGAIN_S = 0.5
"""How long after a refusal, or after the node was short of room, a process asks again."""


class _Slab:
    """What is left of one."""

    __slots__ = ("key", "offset", "end")

    def __init__(self, key: str, offset: int, size: int) -> None:
        self.key = key
        self.offset = offset
        self.end = offset + size


class LeasedSlabs:
    """`place` from any thread, the rest on the loop. `prepare` maps a range of the segment, in a thread."""

    def __init__(
        self,
        scope: StoreScope,
        attached: Callable[[], Awaitable[Segment]],
        request: Callable[[Any], Awaitable[Any]],
        prepare: Callable[[int, int], Awaitable[None]],
    ) -> None:
        self._scope = scope
        self._attached = attached
        self._request = request
        self._prepare = prepare
        self._segment: Segment | None = None
        self._largest = SLAB_VALUE_BYTES
        self._slabs: list[_Slab] = []
        """The first is written to."""
        self._lock = threading.Lock()
        """Guards the slabs, held while a value is copied: the loop does not wait for it to write one."""
        self._unsaid: deque[tuple[str, int, str, int, ProcessId] | AbandonObject] = deque()
        self._tending = False
        self._numbers = itertools.count(1)
        self._leasing: asyncio.Task[None] | None = None
        self._streak = 0
        self._last = 0.0
        """When a value was last to be written here."""
        self._not_before = 0.0
        self._returning: asyncio.TimerHandle | None = None
        self._size = 0
        """Of the last slab."""
        self._closed = False
        _all.add(self)

    def place(self, encoded: Encoded, owner: ProcessId) -> Stored | None:
        """Copy an encoded value into a slab, for `owner` to free; None when none is at hand. From any thread."""
        sizes = (len(encoded.data), *[each.nbytes for each in encoded.buffers])
        if sum(sizes) > self._largest:
            return None
        self._note()
        slabs = self._slabs
        if not slabs and not self._due():
            return None
        in_loop = self._scope.in_loop()
        stored = None
        if slabs and not in_loop:
            # No `acquire` and `try`: plain code may be interrupted between the two.
            with self._lock:
                stored = self._place(encoded, owner, sizes)
        elif slabs and self._lock.acquire(blocking=False):
            try:
                stored = self._place(encoded, owner, sizes)
            finally:
                self._lock.release()
        self._tend_soon(in_loop)
        return stored

    def say(self) -> None:
        """Tell the node what was placed, in one message for all since the last. On the loop; it does so by itself, but
        not before what is said now."""
        placed: list[tuple[str, int, str, int, ProcessId]] = []
        unsaid, peer = self._unsaid, self._scope.node_peer
        while unsaid:
            each = unsaid.popleft()
            if type(each) is tuple:
                placed.append(each)
                continue
            if placed:
                peer.tell(encode(PlaceObjects(tuple(placed))))
                placed = []
            peer.tell(encode(each))
        if placed:
            peer.tell(encode(PlaceObjects(tuple(placed))))

    async def coming(self, encoded: Encoded) -> bool:
        """Wait for the slab that is on its way, if one is that could take the value. On the loop."""
        if self._tending:
            self._lease_if_due()
        if self._leasing is None or encoded.total_bytes > self._largest:
            return False
        await asyncio.wait((self._leasing,))
        return True

    def give_back(self) -> None:
        """The node is short of room."""
        self._not_before = time.monotonic() + AGAIN_S
        self._streak = 0
        self._return_all()

    def close(self) -> None:
        """No value is placed any more. Idempotent."""
        self._closed = True
        if self._returning is not None:
            self._returning.cancel()
        self._return_all()

    # --- inside

    def _note(self) -> None:
        now = time.monotonic()
        self._streak = self._streak + 1 if now - self._last < SOON_S else 1
        self._last = now

    def _due(self) -> bool:
        """Whether a slab is worth its lease now."""
        return self._streak >= SEVERAL and self._leasing is None and not self._closed and self._last >= self._not_before

    def _place(self, encoded: Encoded, owner: ProcessId, sizes: tuple[int, ...]) -> Stored | None:
        """With the lock."""
        offsets, total = layout(sizes)
        slab = self._find(rounded(total))
        segment = self._segment
        if slab is None or segment is None:
            return None
        start = slab.offset
        for offset, piece in zip(offsets, (encoded.data, *encoded.buffers), strict=True):
            segment.write(start + offset, piece)
        scope = self._scope
        key = slab_key(scope.process, next(self._numbers))
        # Taken before it is said: whoever is interrupted between the two leaves a gap, which the node sees.
        slab.offset = start + rounded(total)
        self._unsaid.append((slab.key, start, key, total, owner))
        return Stored(scope.node_peer.identity.process, key, total, encoded.kind, sizes)

    def _find(self, size: int) -> _Slab | None:
        slabs = self._slabs
        while slabs:
            slab = slabs[0]
            if slab.offset + size <= slab.end:
                return slab
            if len(slabs) == 1:
                if slab.offset == slab.end:
                    slabs.clear()
                return None
            del slabs[0]
            self._return(slab)
        return None

    def _return(self, slab: _Slab) -> None:
        if slab.offset < slab.end:
            self._unsaid.append(AbandonObject(slab.key))

    def _return_all(self) -> None:
        with self._lock:
            slabs, self._slabs = self._slabs, []
            for slab in slabs:
                self._return(slab)
        self.say()

    def _tend_soon(self, in_loop: bool) -> None:
        if self._tending:
            return
        self._tending = True
        if in_loop:
            self._scope.loop.call_soon(self._tend)
        elif not self._scope.loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it is closed by another thread meanwhile
                self._scope.loop.call_soon_threadsafe(self._tend)

    def _tend(self) -> None:
        """Tell the node what was placed, and see to it that there is room for the next."""
        # Cleared first: what is placed from now on, on another thread, wakes the loop again.
        self._tending = False
        self.say()
        self._lease_if_due()

    def _lease_if_due(self) -> None:
        slabs = self._slabs
        if len(slabs) < AT_ONCE and self._due() and not (slabs and 2 * (slabs[0].end - slabs[0].offset) > self._size):
            self._leasing = self._scope.spawn(self._lease())
            self._leasing.add_done_callback(self._leased)

    async def _lease(self) -> None:
        key = f"{self._scope.process}-{next(self._scope.hub.numbers)}"
        kept = False
        try:
            self._segment = await self._attached()
            leased = await self._request(LeaseRoom(key))
            if not isinstance(leased, Leased):
                raise ActorliteError(f"the node answered a request for room with {leased!r}")
            if not leased.size:
                kept = True
                self._not_before = time.monotonic() + AGAIN_S
                return
            await self._prepare(leased.offset, leased.size)
            kept = self._keep(_Slab(key, leased.offset, leased.size))
        except ActorliteError as error:
            self._not_before = time.monotonic() + AGAIN_S
            logger.debug("no room was leased: %s", error)  # who writes the long way hears what is wrong
        finally:
            if not kept:
                self._scope.node_peer.tell(encode(AbandonObject(key)))

    def _keep(self, slab: _Slab) -> bool:
        if self._closed or time.monotonic() < self._not_before:
            return False
        with self._lock:
            self._slabs.append(slab)
        self._size = slab.end - slab.offset
        self._largest = min(SLAB_VALUE_BYTES, self._size // VALUES_PER_SLAB)
        if self._returning is None:
            self._returning = self._scope.loop.call_later(IDLE_S, self._return_if_idle)
        return True

    def _leased(self, task: asyncio.Task[None]) -> None:
        self._leasing = None

    def _return_if_idle(self) -> None:
        self._returning = None
        left = self._last + IDLE_S - time.monotonic()
        if left <= 0:
            self._return_all()
        elif not self._closed:
            self._returning = self._scope.loop.call_later(left, self._return_if_idle)

    def __repr__(self) -> str:
        left = sum(each.end - each.offset for each in self._slabs)
        return f"<LeasedSlabs {len(self._slabs)} with {left} bytes left>"


_all: WeakSet[LeasedSlabs] = WeakSet()


def _forget_in_child() -> None:
    """What was leased is the parent's: a child that writes there would overwrite the parent's values."""
    for each in list(_all):
        each._slabs, each._closed, each._lock = [], True, threading.Lock()


os.register_at_fork(after_in_child=_forget_in_child)
