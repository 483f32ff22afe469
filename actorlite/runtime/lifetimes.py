"""Good ends of the actors that this process created: when nobody holds one any more, when it is told to, or by itself.

The worker lets the calls that came before end, runs `on_stop`, and says that the actor is gone; then its lease goes
back. Letting go of an actor may happen in any thread and inside the collector, so it is only noted there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from actorlite.errors import ConnectionLost
from actorlite.ids import ActorId, ProcessId
from actorlite.rpc.peer import Peer
from actorlite.runtime.actors import Link
from actorlite.state.actors import ActorEvent, ActorState, DeathCause
from actorlite.wire.calls import ActorEnded, EndActor
from actorlite.wire.messages import encode

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime


class Ending:
    """Waits for the worker's word that an actor is gone."""

    __slots__ = ("lifetimes", "id", "peer", "waiters")

    def __init__(self, lifetimes: Lifetimes, id: ActorId, peer: Peer) -> None:
        self.lifetimes = lifetimes
        self.id = id
        self.peer = peer
        self.waiters: list[asyncio.Future[None]] = []

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        self.lifetimes._gone(self)

    def lost(self, error: ConnectionLost) -> None:
        self.lifetimes._gone(self)


class Lifetimes:
    """On the loop, but for `let_go`."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime
        self.endings: dict[ActorId, Ending] = {}
        self._dropped: deque[tuple[ActorId, Peer | None]] = deque()
        self._due = False

    def let_go(self, identifier: ActorId, peer: Peer | None) -> None:
        """Nobody holds the actor any more. From anywhere."""
        self._dropped.append((identifier, peer))
        if not self._due and not self.runtime.loop.is_closed():
            self._due = True
            self.runtime.loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """End what nobody holds."""
        # Cleared first: what is dropped from now on, on another thread, wakes the loop again.
        self._due = False
        while self._dropped:
            identifier, peer = self._dropped.popleft()
            self.runtime.restarter.forget(identifier)
            self.runtime.names.release(identifier)
            if peer is not None and peer.is_open and not self.runtime.gone:
                self.end(identifier, peer)
            else:
                self.runtime.maker.end_lease(identifier)

    def end(self, identifier: ActorId, peer: Peer) -> Ending:
        """Have the actor end after the calls that were sent before; idempotent."""
        ending = self.endings.get(identifier)
        if ending is None:
            ending = self.endings[identifier] = Ending(self, identifier, peer)
            number = next(self.runtime.hub.numbers)
            try:
                peer.call(number, ending, encode(EndActor(number, identifier)))
            except ConnectionLost as error:
                ending.lost(error)
        return ending

    async def terminate(self, link: Link) -> None:
        """End the actor in good order; returns when it is gone. Its worker's death meanwhile is its end too."""
        self.runtime.restarter.forget(link.id)
        while link.life is not ActorState.DEAD and link.peer is None:
            if link.life is ActorState.RESTARTING:
                link.happened(ActorEvent.ENDED, "al.terminate() ended it", cause=DeathCause.TERMINATED)
            else:
                await self.runtime.directory.next_step(link)
        if link.life is ActorState.DEAD or link.peer is None:
            return
        # What was called before is sent first: it may wait here for room in the mailbox, or for its arguments.
        last = link.last_unsent
        while last is not None and last.peer is None and not last.ended and not link.is_dead:
            await self.runtime.directory.next_step(link)
        if link.is_dead or link.peer is None:
            return
        ending = self.end(link.id, link.peer)
        await self.over(ending)
        link.happened(ActorEvent.ENDED, "al.terminate() ended it", cause=DeathCause.TERMINATED)

    def worker_of(self, identifier: ActorId) -> ProcessId | None:
        """Where an actor is that is to end: it may be about to be made anew elsewhere."""
        ending = self.endings.get(identifier)
        return None if ending is None else ending.peer.identity.process

    async def over(self, ending: Ending) -> None:
        """Return when that actor is gone."""
        if self.endings.get(ending.id) is ending:
            future: asyncio.Future[None] = self.runtime.loop.create_future()
            ending.waiters.append(future)
            await future

    def ended(self, peer: Peer, message: ActorEnded, parts: Sequence[memoryview]) -> None:
        """Handler: an actor leaves by itself."""
        link = self.runtime.directory.own(message.target)
        if link is not None:
            link.happened(ActorEvent.ENDED, message.text, cause=DeathCause.EXITED)
        self.runtime.restarter.forget(message.target)
        if message.gone:
            self.runtime.maker.end_lease(message.target, retire=True)

    async def wait(self) -> None:
        """Return when all that are ending now are gone."""
        waiting = []
        for ending in self.endings.values():
            future: asyncio.Future[None] = self.runtime.loop.create_future()
            ending.waiters.append(future)
            waiting.append(future)
        await asyncio.gather(*waiting)

    def _gone(self, ending: Ending) -> None:
        self.endings.pop(ending.id, None)
        for future in ending.waiters:
            if not future.done():
                future.set_result(None)
        self.runtime.maker.end_lease(ending.id, retire=True)

    def __repr__(self) -> str:
        return f"<Lifetimes ending={len(self.endings)} dropped={len(self._dropped)}>"
