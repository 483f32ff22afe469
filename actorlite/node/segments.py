"""The node's segment: who may map it, and who may still be reading it.

It goes to processes that have registered, over the descriptor channel. The node keeps a pidfd of each: only its end
says that a process reads no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from actorlite.errors import ConnectionLost
from actorlite.ids import ProcessId
from actorlite.rpc.descriptors import DescriptorChannel, DescriptorListener, Descriptors, listen_descriptors
from actorlite.rpc.hub import Hub
from actorlite.store.segment import Segment, SharedSegment, segments_here
from actorlite.wire.objects import decode_attach


class OnGone(Protocol):
    def __call__(self, process: ProcessId, living: Mapping[str, int] | None = ..., /) -> None: ...


class SegmentDesk:
    """Owns the segment; makes it when somebody asks. `on_gone` hears of each process that has ended. On the loop."""

    def __init__(self, hub: Hub, capacity: int, channel: str, on_gone: OnGone) -> None:
        self.channel = channel
        """The path of the socket that hands it out; empty where all processes of the node are this one."""
        self._hub = hub
        self._capacity = capacity
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._segment: Segment | None = None
        self._listener: DescriptorListener | None = None
        self._pidfds: dict[ProcessId, int] = {}
        self.here = ReadersHere(hub, on_gone)

    async def start(self) -> None:
        if self.channel:
            self._listener = await listen_descriptors(self.channel, lambda channel: _Handout(self, channel))

    @property
    def segment(self) -> Segment:
        if self._segment is None:
            self._segment = Segment.create(self._capacity)
            if not self.channel:
                shared = SharedSegment(self._segment, self.here.released, self.here.left)
                segments_here[self._hub.identity.process] = shared
        return self._segment

    def may_read(self, process: ProcessId) -> bool:
        """Whether what a process without a connection has pinned may still be read: until it has ended; where it
        is an object in this process, `here` knows."""
        return process in self._pidfds or not self.channel

    def forget(self, process: ProcessId) -> None:
        """It reads nothing, and has no connection to ask for anything."""
        if process in self._pidfds:
            self._close_pidfd(process)

    def hand_out(self, process: ProcessId, channel: DescriptorChannel) -> bool:
        """Send the descriptor to a process that has registered, and watch that process. False for a stranger."""
        peer = self._hub.peers.get(process)
        if peer is None or peer.identity.pid != channel.peer_pid:
            return False
        if process not in self._pidfds:
            try:
                pidfd = os.pidfd_open(channel.peer_pid)
            except OSError:
                return False  # it is gone
            self._pidfds[process] = pidfd
            self._loop.add_reader(pidfd, self._ended, process)
        channel.send(b"segment", [self.segment.fd])
        return True

    async def aclose(self) -> None:
        """Views that live in this process stay valid."""
        self.here.close()
        if self._listener is not None:
            await self._listener.aclose()
        for process in list(self._pidfds):
            self._close_pidfd(process)
        if self._segment is not None:
            segments_here.pop(self._hub.identity.process, None)
            self._segment.close()

    def _ended(self, process: ProcessId) -> None:
        self._close_pidfd(process)
        # What it said last may not have been read yet: then the end of its connection says that it is gone.
        if process not in self._hub.peers:
            self._on_gone(process)

    def _close_pidfd(self, process: ProcessId) -> None:
        pidfd = self._pidfds.pop(process)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)

    def __repr__(self) -> str:
        return f"<SegmentDesk {self._segment!r} processes={len(self._pidfds)}>"


class ReadersHere:
    """Readers that are objects in this process: their views outlive them, and no pidfd tells when they are gone.

    A reader is gone when its connection has ended and it has said what of its views is left. On the loop, but for
    `released` and `left`.
    """

    def __init__(self, hub: Hub, on_gone: OnGone) -> None:
        self.on_release: Callable[[ProcessId, str], None] = lambda process, key: None
        self._hub = hub
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._released: deque[tuple[ProcessId, str]] = deque()
        self._flush_due = False
        self._left: dict[ProcessId, Callable[[], Mapping[str, int]]] = {}
        self._closed = False

    def released(self, process: ProcessId, key: str) -> None:
        self._released.append((process, key))
        if not self._flush_due:
            self._flush_due = True
            self._soon(self._flush)

    def left(self, process: ProcessId, living: Callable[[], Mapping[str, int]]) -> None:
        self._soon(self._has_left, process, living)

    def connection_lost(self, process: ProcessId) -> None:
        """Nothing that it sent is on its way any more."""
        if (living := self._left.pop(process, None)) is not None:
            self._settle(process, living)

    def close(self) -> None:
        self._closed = True

    def _has_left(self, process: ProcessId, living: Callable[[], Mapping[str, int]]) -> None:
        if process in self._hub.peers:
            self._left[process] = living
        else:
            self._settle(process, living)

    def _settle(self, process: ProcessId, living: Callable[[], Mapping[str, int]]) -> None:
        # In this order: a view that goes on another thread meanwhile is counted as living, or was noted as released.
        left = living()
        self._flush()
        self._on_gone(process, left)

    def _flush(self) -> None:
        # Cleared first: what is released from now on, on another thread, wakes the loop again.
        self._flush_due = False
        while self._released:
            process, key = self._released.popleft()
            self.on_release(process, key)

    def _soon(self, work: Callable[..., None], *args: object) -> None:
        if not self._closed and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop is closed by another thread meanwhile
                self._loop.call_soon_threadsafe(work, *args)

    def __repr__(self) -> str:
        return f"<ReadersHere leaving={len(self._left)}>"


class _Handout:
    """The sink of one descriptor channel: it hands out the segment to a process that may have it."""

    def __init__(self, desk: SegmentDesk, channel: DescriptorChannel) -> None:
        self._desk = desk
        self._channel = channel

    def message(self, data: bytes, descriptors: Descriptors) -> None:
        if not self._desk.hand_out(decode_attach(data).process, self._channel):
            self._channel.refuse()

    def closed(self, error: ConnectionLost | None) -> None:
        pass  # it has what it came for, or is gone
