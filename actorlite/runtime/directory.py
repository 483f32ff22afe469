"""The actors that this process created or holds handles of: how they are known, how they end at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from actorlite.definitions import ActorDefinition
from actorlite.errors import ActorliteError, Outcome
from actorlite.ids import ActorId, ProcessId, owner_of
from actorlite.options import ActorOptions
from actorlite.rpc.peer import Peer
from actorlite.runtime.actors import Link, died
from actorlite.state.actors import ActorEvent, ActorState, DeathCause
from actorlite.wire.requests import ActorPlace, KillActor, ResolveActor, StopActor, Yes

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime

_UNDER_WAY = (ActorState.PENDING_CREATION, ActorState.RESTARTING)


class ActorDirectory:
    """Holds no link itself, but those with calls to send: an actor that nobody holds ends after its calls."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime
        self.created: WeakValueDictionary[ActorId, Link] = WeakValueDictionary()
        self.held: WeakValueDictionary[ActorId, Link] = WeakValueDictionary()
        self._weak: WeakValueDictionary[ActorId, Link] = WeakValueDictionary()
        self.with_unsent: set[Link] = set()
        """Whose handle, and the references to whose results, may be gone: the calls are made all the same."""
        self._losses: dict[ProcessId, asyncio.Task[None]] = {}
        runtime.exports.find_actor = self.own

    def own(self, identifier: ActorId) -> Link | None:
        """The link of an actor that this process created, while somebody holds it."""
        return self.created.get(identifier)

    def all(self) -> list[Link]:
        """Also while other threads make actors: `valuerefs` is a copy."""
        known = [*self.created.valuerefs(), *self.held.valuerefs(), *self._weak.valuerefs()]
        return [link for each in known if (link := each()) is not None]

    # --- handles of other processes

    def export_link(self, link: Link) -> tuple[Any, ...]:
        address = link.owner_address or self.runtime.hub.identity.address
        if link.options is link.definition.options:
            return link.id, address
        return link.id, address, link.options

    def import_link(self, data: tuple[Any, ...], definition: ActorDefinition, *, weak: bool = False) -> Link:
        """The link for a handle that came in a message. From any thread. A `weak` one does not hold the actor."""
        identifier, owner_address, *options = data
        return self._imported(identifier, owner_address, (*options, definition.options)[0], definition, weak)

    def _imported(
        self, identifier: ActorId, owner_address: str, options: ActorOptions, definition: ActorDefinition, weak: bool
    ) -> Link:
        runtime = self.runtime
        if owner_of(identifier) == runtime.process:
            link = self.own(identifier)
            if link is None:
                link = Link(runtime, identifier, definition, "", options)
                link.happened(ActorEvent.LOST, "it ended before this handle came back to its creator")
            return link
        known = self._weak if weak else self.held
        link = known.get(identifier)
        if link is None:
            link = Link(runtime, identifier, definition, owner_address, options)
            if not weak:
                link.held = runtime.borrows.hold_actor(identifier, owner_address)
            link = known.setdefault(identifier, link)
        return link

    def holding(self, link: Link) -> Link:
        """A link to the same actor that keeps it alive."""
        if not link.is_weak:
            return link
        return self._imported(link.id, link.owner_address, link.options, link.definition, False)

    async def resolve(self, peer: Peer, body: ResolveActor) -> ActorPlace:
        """Handler: where does the actor live that this process created?"""
        link = self.own(body.target)
        if link is None:
            text = "nobody held a handle any more, so it was ended"
            return ActorPlace(self.runtime.process, "", 0, text, state="DEAD", cause=DeathCause.OUT_OF_SCOPE.value)
        if body.dead is not None and link.place is not None and link.place.process == body.dead:
            await self.worker_lost(body.dead)
        while body.wait and link.life is not ActorState.DEAD and link.place is None:
            await self.next_step(link)
        while body.ready and link.life in _UNDER_WAY:
            await self.next_step(link)
        return self.describe(link)

    def describe(self, link: Link) -> ActorPlace:
        """An own actor as it is now."""
        place = link.place
        process, address, pid = (place.process, place.address, place.pid) if place is not None else (link.id[:0], "", 0)
        cause = link.cause.value if link.cause is not None else ""
        dead = link.life is ActorState.DEAD
        return ActorPlace(
            ProcessId(process),
            "" if dead else address,
            pid,
            (link.death or "it has ended") if dead else "",
            link.init_failed,
            link.state,
            cause,
            link.restarts,
        )

    async def ready(self, link: Link) -> None:
        """Return once the constructor and `on_start` have returned. Raises `ActorDiedError`."""
        link = await self.runtime.names.settled(link)
        while link.claim:
            await self.next_step(link)
        if link.owner_address and link.life is not ActorState.DEAD:
            await self.runtime.lookups.ready(link)
        while not link.owner_address and link.life in _UNDER_WAY:
            await self.next_step(link)
        if link.life is ActorState.DEAD:
            raise died(link.cause)(
                f"{link!r} is dead: {link.death}", actor_init_failed=link.init_failed, outcome=Outcome.NOT_EXECUTED
            )

    async def next_step(self, link: Link) -> None:
        future: asyncio.Future[None] = self.runtime.loop.create_future()
        if link.ready is None:
            link.ready = []
        link.ready.append(future)
        await future

    # --- ends

    async def kill(self, link: Link, *, no_restart: bool = True) -> None:
        """End the actor now; calls under way fail. Idempotent. When this returns, its name is free."""
        link = await self.runtime.names.settled(link)
        if link.owner_address:
            await _ask_owner(self.runtime, link, KillActor(link.id, False, no_restart))
            return
        await self._kill(link, no_restart=no_restart)
        await self.runtime.names.released()

    async def _kill(self, link: Link, *, no_restart: bool) -> None:
        if link.life is ActorState.DEAD:
            return
        runtime = self.runtime
        restarts = not no_restart and runtime.restarter.may_restart(link.id)
        if restarts and link.peer is None:
            return  # it is being made anew already
        peer, place = link.peer, link.place
        if not restarts:
            link.happened(ActorEvent.KILLED, "it was killed by al.kill()", cause=DeathCause.KILLED)
            runtime.restarter.forget(link.id)
        lease = runtime.maker.take_lease(link.id)
        process = place.process if place is not None else runtime.lifetimes.worker_of(link.id)
        if lease is not None and lease.exclusive and process is not None:
            try:
                await runtime.node.kill_worker(process)
            finally:
                # Our node keeps a lease of another one until it is returned; and a kill that is given up goes on.
                runtime.node.return_lease(lease.number, reuse=False)
            if restarts:
                await self.worker_lost(process)
            return
        if lease is not None:
            runtime.node.return_lease(lease.number, reuse=False)
        if restarts:
            link.happened(ActorEvent.CRASHED)  # before its worker answers for the calls under way
        if peer is not None:
            await self.stop(peer, link.id, graceful=False, restarts=restarts)
        if restarts and link.life is ActorState.RESTARTING:
            runtime.restarter.crashed(link, "it was killed by al.kill(no_restart=False)")

    async def terminate(self, link: Link) -> None:
        """End the actor after the calls that were made before. When this returns, its name is free."""
        link = await self.runtime.names.settled(link)
        if link.owner_address:
            await _ask_owner(self.runtime, link, KillActor(link.id, graceful=True))
        else:
            await self.runtime.lifetimes.terminate(link)
            await self.runtime.names.released()

    async def killed(self, peer: Peer, body: KillActor) -> Yes:
        """Handler: another process ends an actor that this one created."""
        link = self.own(body.target)
        if link is not None:
            await (self.terminate(link) if body.graceful else self.kill(link, no_restart=body.no_restart))
        return Yes(link is not None)

    async def worker_lost(self, process: ProcessId) -> None:
        """A worker's connection ended: find out how, and tell the links. Several callers share one inquiry."""
        task = self._losses.get(process)
        if task is None:
            task = self._losses[process] = self.runtime.spawn(self._worker_lost(process))
            task.add_done_callback(lambda _: self._losses.pop(process, None))
        await asyncio.shield(task)

    async def _worker_lost(self, process: ProcessId) -> None:
        death = await self.runtime.node.how_ended(process)
        asking = []
        for link in self.all():
            if link.place is None or link.place.process != process:
                continue
            if not link.owner_address:
                # In case only the connection broke, and the worker lives on.
                self.runtime.maker.end_lease(link.id)
                if link.life is not ActorState.DEAD:
                    self.runtime.restarter.crashed(link, death.text, evicted=death.evicted)
            elif link.life is not ActorState.DEAD:
                link.happened(ActorEvent.CRASHED, death.text)
                asking.append(self.runtime.lookups.lost(link, process if death.known else None))
        if asking:
            await asyncio.gather(*asking)

    async def stop_all(self, grace_s: float) -> None:
        """Run `on_stop` of the actors that have one, all at once, for at most `grace_s`."""
        self.runtime.lifetimes.drain()
        stopping = [
            self.stop(link.peer, link.id, graceful=True)
            for link in self.all()
            if not link.owner_address
            and link.life is ActorState.ALIVE
            and link.peer is not None
            and hasattr(link.definition.cls, "on_stop")
        ]
        stopping += [self.stop(each.peer, each.id, graceful=True) for each in self.runtime.lifetimes.endings.values()]
        if stopping:
            try:
                async with asyncio.timeout(grace_s):
                    await asyncio.gather(*stopping)
            except TimeoutError:
                pass  # the grace is over: what is left is killed with its worker

    async def stop(self, peer: Peer, identifier: ActorId, *, graceful: bool, restarts: bool = False) -> None:
        try:
            await peer.request(next(self.runtime.hub.numbers), StopActor(identifier, graceful, restarts))
        except ActorliteError:
            return  # it died first

    def fail_all(self, text: str) -> None:
        """The session is over: nobody lives on."""
        self.runtime.maker.fail_all(text)
        for link in self.all():
            link.happened(ActorEvent.KILLED, text, cause=DeathCause.SESSION_ENDED)


async def _ask_owner(runtime: ProcessRuntime, link: Link, wish: KillActor) -> None:
    owner = await runtime.hub.connect(link.owner_address)
    await owner.request(next(runtime.hub.numbers), wish)
