"""The segment of a process's node: got from it when the process first needs it, over the descriptor channel."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from actorlite.errors import ActorliteError, ConnectionLost
from actorlite.ids import ProcessId
from actorlite.rpc.descriptors import Descriptors, connect_descriptors
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.store.segment import Segment, SharedSegment, segments_here
from actorlite.wire.objects import Attach, AttachStore, StoreInfo, encode_stored

T = TypeVar("T")

ATTACH_S = 10.0


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


class Attachment:
    """On the loop."""

    def __init__(self, scope: StoreScope, request: Callable[[Any], Awaitable[Any]]) -> None:
        self.segment: Segment | None = None
        self.shared: SharedSegment | None = None
        """If the segment belongs to a node in this process."""
        self._scope = scope
        self._request = request
        self._attaching: asyncio.Task[Segment] | None = None

    async def get(self) -> Segment:
        """Raises what the request raises, `ConnectionLost`, `TimeoutError`, `OSError`."""
        if self.segment is not None:
            return self.segment
        if self._attaching is None or (self._attaching.done() and self.segment is None):
            self._attaching = self._scope.spawn(self._attach())
        return await asyncio.shield(self._attaching)

    def close(self, living: Callable[[], Mapping[str, int]]) -> None:
        """Views stay valid; `living` tells which are left."""
        if self.shared is not None:
            self.shared.left(self._scope.process, living)
        elif self.segment is not None:
            self.segment.close()

    async def _attach(self) -> Segment:
        info = await self._request(AttachStore())
        if not isinstance(info, StoreInfo):
            raise ActorliteError(f"the node answered a question for its store with {info!r}")
        if not info.path:
            self.shared = segments_here[self._scope.node_peer.identity.process]
            self.segment = self.shared.segment
            return self.segment
        arrival = _Arrival(self._scope.loop)
        channel = await connect_descriptors(info.path, arrival)
        try:
            channel.send(encode_stored(Attach(self._scope.process)))
            async with asyncio.timeout(ATTACH_S):
                await arrival.arrived
            self.segment = Segment(arrival.fd, info.capacity)
            arrival.fd = -1  # the segment's from now on
        finally:
            arrival.close()
            await channel.aclose()
        return self.segment

    def __repr__(self) -> str:
        return f"<Attachment {self.segment!r}>"


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
