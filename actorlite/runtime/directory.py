"""The actors that this process created or holds handles of: how they come to be, where they live, how they end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from actorlite.definitions import ActorDefinition
from actorlite.errors import ActorDiedError, ActorliteError, Outcome
from actorlite.ids import ActorId, ProcessId, owner_of
from actorlite.rpc.peer import Peer
from actorlite.runtime.actors import Link
from actorlite.runtime.held import HeldBack
from actorlite.state.actors import ActorEvent, ActorState
from actorlite.wire.messages import (
    ActorPlace,
    KillActor,
    ResolveActor,
    Room,
    StopActor,
    Yes,
)

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime


class ActorDirectory:
    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime
        self.created: dict[ActorId, Link] = {}
        self._held: WeakValueDictionary[ActorId, Link] = WeakValueDictionary()
        self._finding: set[ActorId] = set()
        self.held_back: dict[ActorId, HeldBack] = {}
        """Those whose mailbox is full, and that keep calls until there is room."""
        self._losses: dict[ProcessId, asyncio.Task[None]] = {}

    # --- handles of other processes

    def export_link(self, link: Link) -> tuple[Any, ...]:
        return link.id, link.owner_address or self.runtime.hub.identity.address, *link.limits

    def import_link(
        self, identifier: ActorId, owner_address: str, definition: ActorDefinition, limits: tuple[Any, ...]
    ) -> Link:
        """The link for a handle that came in a message. From any thread."""
        link = self.created.get(identifier) or self._held.get(identifier)
        if link is None:
            link = Link(self.runtime, identifier, definition, owner_address, limits)
            if owner_of(identifier) == self.runtime.process:
                link.happened(ActorEvent.LOST, "it ended before this handle came back to its creator")
            link = self._held.setdefault(identifier, link)
        return link

    def room(self, message: Room) -> None:
        """Handler: a full mailbox has places again."""
        held = self.held_back.get(message.target)
        if held is not None and held.link.peer is not None:
            held.room(held.link.peer, message.calls, message.bytes)

    def find(self, link: Link) -> None:
        """Learn where the actor lives, and connect. On the loop."""
        if link.id not in self._finding:
            self._finding.add(link.id)
            self.runtime.spawn(self._find(link))

    async def _find(self, link: Link) -> None:
        try:
            if link.place is None:
                owner = await self.runtime.hub.connect(link.owner_address)
                place = await owner.request(next(self.runtime.hub.numbers), ResolveActor(link.id))
                if not isinstance(place, ActorPlace) or place.error:
                    text = place.error if isinstance(place, ActorPlace) else "its creator does not know it"
                    link.happened(ActorEvent.LOST, text, init_failed=bool(place and place.init_failed))
                    return
                link.place = place
            peer = await self.runtime.hub.connect(link.place.address)
            if link.life is ActorState.PENDING_CREATION and link.owner_address:
                link.happened(ActorEvent.STARTED)
            link.connected(peer)
        except ActorliteError as error:
            process = link.place.process if link.place is not None else owner_of(link.id)
            link.happened(ActorEvent.LOST, f"{await self.runtime.why_died(process)} ({error})")
        finally:
            self._finding.discard(link.id)

    async def resolve(self, peer: Peer, body: ResolveActor) -> ActorPlace:
        """Handler: where does the actor live that this process created?"""
        link = self.created.get(body.target)
        if link is None:
            return ActorPlace(self.runtime.process, "", 0, "it has ended")
        while link.place is None and link.life is ActorState.PENDING_CREATION:
            await self._next_step(link)
        if link.place is None or link.life is ActorState.DEAD:
            return ActorPlace(self.runtime.process, "", 0, link.death or "it has ended", link.init_failed)
        return link.place

    async def ready(self, link: Link) -> None:
        """Return once the constructor and `on_start` have returned. Raises `ActorDiedError`."""
        if link.owner_address and link.peer is None and link.life is not ActorState.DEAD:
            self.find(link)
        while link.life is ActorState.PENDING_CREATION:
            await self._next_step(link)
        if link.life is ActorState.DEAD:
            raise ActorDiedError(
                f"{link!r} is dead: {link.death}", actor_init_failed=link.init_failed, outcome=Outcome.NOT_EXECUTED
            )

    async def _next_step(self, link: Link) -> None:
        future: asyncio.Future[None] = self.runtime.loop.create_future()
        if link.ready is None:
            link.ready = []
        link.ready.append(future)
        await future

    # --- ends

    async def kill(self, link: Link) -> None:
        """End the actor now; calls under way fail. Idempotent."""
        if link.owner_address:
            owner = await self.runtime.hub.connect(link.owner_address)
            await owner.request(next(self.runtime.hub.numbers), KillActor(link.id))
            return
        if link.life is ActorState.DEAD:
            return
        peer = link.peer
        link.happened(ActorEvent.KILLED, "it was killed by al.kill()")
        lease = self.runtime.maker.take_lease(link)
        place = link.place
        if lease is not None and lease.exclusive and place is not None:
            await self.runtime.node.kill_worker(place.process)
        else:
            if lease is not None:
                self.runtime.node.return_lease(lease.number, reuse=False)
            if peer is not None:
                await self._stop(peer, link, graceful=False)
        self.created.pop(link.id, None)

    async def killed(self, peer: Peer, body: KillActor) -> Yes:
        """Handler: another process kills an actor that this one created."""
        link = self.created.get(body.target)
        if link is not None:
            await self.kill(link)
        return Yes(link is not None)

    async def worker_lost(self, process: ProcessId) -> None:
        """A worker's connection ended: find out how, and tell the links. Several callers share one inquiry."""
        task = self._losses.get(process)
        if task is None:
            task = self._losses[process] = self.runtime.spawn(self._worker_lost(process))
            task.add_done_callback(lambda _: self._losses.pop(process, None))
        await asyncio.shield(task)

    async def _worker_lost(self, process: ProcessId) -> None:
        text = await self.runtime.why_died(process)
        for link in [*self.created.values(), *self._held.values()]:
            if link.place is not None and link.place.process == process and link.life is not ActorState.DEAD:
                link.happened(ActorEvent.LOST, text)
                lease = self.runtime.maker.take_lease(link)
                if lease is not None:  # in case only the connection broke, and the worker lives on
                    self.runtime.node.return_lease(lease.number, reuse=False)

    async def stop_all(self, grace_s: float) -> None:
        """Run `on_stop` of the actors that have one, all at once, for at most `grace_s`."""
        stopping = [
            self._stop(link.peer, link, graceful=True)
            for link in self.created.values()
            if link.life is ActorState.ALIVE and link.peer is not None and hasattr(link.definition.cls, "on_stop")
        ]
        if stopping:
            try:
                async with asyncio.timeout(grace_s):
                    await asyncio.gather(*stopping)
            except TimeoutError:
                pass  # the grace is over: what is left is killed with its worker

    async def _stop(self, peer: Peer, link: Link, *, graceful: bool) -> None:
        try:
            await peer.request(next(self.runtime.hub.numbers), StopActor(link.id, graceful))
        except ActorliteError:
            return  # it died first

    def fail_all(self, text: str) -> None:
        """The session is over: nobody lives on."""
        self.runtime.maker.fail_all(text)
        for link in [*self.created.values(), *self._held.values()]:
            link.happened(ActorEvent.KILLED, text)
        self.created.clear()
