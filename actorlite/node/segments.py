"""The node's segment: who may map it, and who may still be reading it.

It goes to processes that have registered, over the descriptor channel. The node keeps a pidfd of each: only its end
says that a process reads no more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from actorlite.errors import ConnectionLost
from actorlite.ids import ProcessId
from actorlite.rpc.descriptors import DescriptorChannel, DescriptorListener, Descriptors, listen_descriptors
from actorlite.rpc.hub import Hub
from actorlite.store.segment import Segment, segments_here
from actorlite.wire.objects import decode_attach


class SegmentDesk:
    """Owns the segment; makes it when somebody asks. `on_gone` hears of each process that has ended. On the loop."""

    def __init__(self, hub: Hub, capacity: int, channel: str, on_gone: Callable[[ProcessId], None]) -> None:
        self.channel = channel
        """The path of the socket that hands it out; empty where all processes of the node are this one."""
        self._hub = hub
        self._capacity = capacity
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._segment: Segment | None = None
        self._listener: DescriptorListener | None = None
        self._pidfds: dict[ProcessId, int] = {}

    async def start(self) -> None:
        if self.channel:
            self._listener = await listen_descriptors(self.channel, lambda channel: _Handout(self, channel))

    @property
    def segment(self) -> Segment:
        if self._segment is None:
            self._segment = Segment.create(self._capacity)
            if not self.channel:
                segments_here[self._hub.identity.process] = self._segment
        return self._segment

    def may_read(self, process: ProcessId) -> bool:
        """Whether what a process without a connection has pinned may still be read: until it has ended, or, where it is
        an object in this process, as long as the node."""
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
        if self._listener is not None:
            await self._listener.aclose()
        for process in list(self._pidfds):
            self._close_pidfd(process)
        if self._segment is not None:
            segments_here.pop(self._hub.identity.process, None)
            self._segment.close()

    def _ended(self, process: ProcessId) -> None:
        self._close_pidfd(process)
        self._on_gone(process)

    def _close_pidfd(self, process: ProcessId) -> None:
        pidfd = self._pidfds.pop(process)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)

    def __repr__(self) -> str:
        return f"<SegmentDesk {self._segment!r} processes={len(self._pidfds)}>"


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
