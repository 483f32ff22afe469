"""The actors that this process created or holds handles of: how they come to be, where they live, how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from actorlite.definitions import ActorDefinition
from actorlite.errors import ActorDiedError, ActorliteError, ActorUnavailableError, ConnectionLost, Outcome
from actorlite.ids import ActorId, ProcessId, actor_id, owner_of
from actorlite.options import ActorOptions
from actorlite.resources import CPU, actor_request
from actorlite.rpc.peer import Peer
from actorlite.runtime.actors import Link, unschedulable
from actorlite.runtime.calls import Outbound, encode_arguments
from actorlite.state.actors import ActorEvent, ActorState
from actorlite.wire.code import CodeBlob
from actorlite.wire.failures import decode_failure
from actorlite.wire.messages import (
    ActorPlace,
    CreateActor,
    Failed,
    KillActor,
    Lease,
    Reply,
    ResolveActor,
    StopActor,
    Yes,
    encode,
)

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime


class CreationOut(Outbound):
    """The constructor call of one actor."""

    __slots__ = ("link", "options", "blob", "lease", "directory")

    link: Link
    options: ActorOptions
    blob: CodeBlob
    lease: Lease | None
    directory: ActorDirectory

    @property
    def shared(self) -> bool:
        return self.options.process == "shared"

    def arguments_ready(self) -> None:
        self.directory.place(self)

    def send(self, peer: Peer) -> None:
        """Send the constructor call, then whatever was called meanwhile. Raises `ConnectionLost`."""
        if self.ended:
            return
        self.runtime.code.ensure_sent(peer, self.blob, self.runtime.hub.identity.address)
        args, slots, parts = self.compose()
        options = self.options
        message = CreateActor(
            self.number,
            self.link.id,
            self.blob.digest,
            args,
            options.max_concurrency,
            self.shared,
            options.name or "",
            slots,
        )
        self.peer = peer
        peer.call(self.number, self, encode(message), *parts)
        identity = peer.identity
        self.link.place = ActorPlace(identity.process, identity.address, identity.pid)
        self.link.connected(peer)

    def answered(self, message: Any, parts: Any) -> None:
        if type(message) is Reply:
            self.link.happened(ActorEvent.STARTED)
            self.end(None)
            return
        if type(message) is Failed:
            error = decode_failure(message.failure)
            notes = "\n".join(getattr(error, "__notes__", ()))
            text = f"its constructor or on_start raised {type(error).__name__}: {error}\n{notes}"
        else:
            text = f"its worker refused it: {message.text}"
        self.fail(text, init_failed=type(message) is Failed)

    def lost(self, error: ConnectionLost) -> None:
        self.end(None)  # the loss of the worker is told to the link

    def fail(self, text: str, *, init_failed: bool = False) -> None:
        self.link.happened(ActorEvent.FAILED, text, init_failed=init_failed)
        self.directory.give_back(self.link)
        self.end(None)


class ActorDirectory:
    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime
        self.created: dict[ActorId, Link] = {}
        self._held: WeakValueDictionary[ActorId, Link] = WeakValueDictionary()
        self._leases: dict[ActorId, int] = {}
        self._creating: dict[ActorId, tuple[CreationOut, asyncio.Task[None]]] = {}
        self._finding: set[ActorId] = set()
        self._shared: asyncio.Task[Peer] | None = None
        self._losses: dict[ProcessId, asyncio.Task[None]] = {}

    # --- creation

    def create(
        self, definition: ActorDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> Link:
        """The link at once; the rest happens behind it. From any thread. Raises `SerializationError`."""
        runtime = self.runtime
        runtime.check_open()
        blob = runtime.code.blob_of(definition)
        encoded, dependencies = encode_arguments(args, kwargs)
        number = next(runtime.hub.numbers)
        link = Link(runtime, actor_id(runtime.process, number), definition, "", options.max_pending_calls)
        creation = CreationOut(runtime, number, f"{definition.name}.__init__", None, encoded, dependencies, None)
        creation.link = link
        creation.options = options
        creation.blob = blob
        creation.lease = None
        creation.directory = self
        self.created[link.id] = link
        runtime.post(self._start, creation)
        return link

    def _start(self, creation: CreationOut) -> None:
        creation.begin()
        if not creation.missing:
            self.place(creation)

    def place(self, creation: CreationOut) -> None:
        """Find a worker for a creation whose arguments exist."""
        failure = creation.failed_dependency()
        if failure is not None:
            creation.fail(f"an argument of its constructor failed: {failure.exception()!r}", init_failed=True)
            return
        shared = self._shared
        if creation.shared and not creation.options.num_cpus and shared is not None and shared.done():
            # The hot path of light actors: the job's shared worker is known.
            if not shared.cancelled() and shared.exception() is None and shared.result().is_open:
                creation.send(shared.result())
                return
        link = creation.link
        task = self.runtime.spawn(self._create(creation))
        self._creating[link.id] = (creation, task)
        task.add_done_callback(lambda _: self._creating.pop(link.id, None))

    async def _create(self, creation: CreationOut) -> None:
        try:
            if creation.shared and not creation.options.num_cpus:
                peer = await self._shared_worker()
            else:
                peer = await self._lease_worker(creation)
            creation.send(peer)
        except ActorliteError as error:
            error = unschedulable(error)
            creation.fail(f"no worker could be had ({type(error).__name__}): {error}")
        except asyncio.CancelledError:
            self.give_back(creation.link)
            creation.end(None)
            raise

    async def _lease_worker(self, creation: CreationOut) -> Peer:
        runtime = self.runtime
        runtime.reclaim()
        request = actor_request(creation.options.num_cpus)
        needs, holds = request.placement.units_of(CPU), request.lifetime.units_of(CPU)
        purpose = "shared" if creation.shared else "actor"
        lease = await runtime.node.lease(
            next(runtime.hub.numbers), needs, holds, purpose, creation.link.definition.name
        )
        if lease is None:
            raise ActorUnavailableError("the request for a worker was withdrawn", outcome=Outcome.NOT_EXECUTED)
        self._leases[creation.link.id] = lease.lease
        return await runtime.hub.connect(lease.address)

    async def _shared_worker(self) -> Peer:
        """The job's worker for light actors; a new one when the last is gone."""
        task = self._shared
        if task is not None and task.done():
            failed = task.cancelled() or task.exception() is not None or not task.result().is_open
            task = None if failed else task
        if task is None:
            task = self._shared = self.runtime.spawn(self._lease_shared())
        return await asyncio.shield(task)

    async def _lease_shared(self) -> Peer:
        runtime = self.runtime
        lease = await runtime.node.lease(next(runtime.hub.numbers), 0, 0, "shared", "light actors")
        if lease is None:
            raise ActorUnavailableError("the request for a worker was withdrawn", outcome=Outcome.NOT_EXECUTED)
        return await runtime.hub.connect(lease.address)

    # --- handles of other processes

    def export_link(self, link: Link) -> tuple[ActorId, str]:
        return link.id, link.owner_address or self.runtime.hub.identity.address

    def import_link(self, identifier: ActorId, owner_address: str, definition: ActorDefinition) -> Link:
        """The link for a handle that came in a message. From any thread."""
        link = self.created.get(identifier) or self._held.get(identifier)
        if link is None:
            link = Link(self.runtime, identifier, definition, owner_address, definition.options.max_pending_calls)
            if owner_of(identifier) == self.runtime.process:
                link.happened(ActorEvent.LOST, "it ended before this handle came back to its creator")
            link = self._held.setdefault(identifier, link)
        return link

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
        creating = self._creating.get(link.id)
        if creating is not None:
            creating[1].cancel()
        lease = self._leases.pop(link.id, None)
        place = link.place
        if lease is not None and place is not None:
            await self.runtime.node.kill_worker(place.process)
        elif lease is not None:
            self.runtime.node.return_lease(lease, reuse=False)
        elif peer is not None and peer.is_open:
            await peer.request(next(self.runtime.hub.numbers), StopActor(link.id, False))
        self.created.pop(link.id, None)

    async def killed(self, peer: Peer, body: KillActor) -> Yes:
        """Handler: another process kills an actor that this one created."""
        link = self.created.get(body.target)
        if link is not None:
            await self.kill(link)
        return Yes(link is not None)

    def give_back(self, link: Link) -> None:
        """The worker of an actor that failed to start is not clean."""
        lease = self._leases.pop(link.id, None)
        if lease is not None:
            self.runtime.node.return_lease(lease, reuse=False)

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
                self._leases.pop(link.id, None)

    async def stop_all(self, grace_s: float) -> None:
        """Run `on_stop` of the actors that have one, all at once, for at most `grace_s`."""
        stopping = [
            self._stop(link)
            for link in self.created.values()
            if link.life is ActorState.ALIVE and link.peer is not None and hasattr(link.definition.cls, "on_stop")
        ]
        if stopping:
            try:
                async with asyncio.timeout(grace_s):
                    await asyncio.gather(*stopping)
            except TimeoutError:
                pass  # the grace is over: what is left is killed with its worker

    async def _stop(self, link: Link) -> None:
        peer = link.peer
        if peer is None:
            return
        try:
            await peer.request(next(self.runtime.hub.numbers), StopActor(link.id, True))
        except ActorliteError:
            return  # it died first

    def fail_all(self, text: str) -> None:
        """The session is over: nobody lives on."""
        for creation, task in list(self._creating.values()):
            task.cancel()
            creation.fail(text)
        for link in [*self.created.values(), *self._held.values()]:
            link.happened(ActorEvent.KILLED, text)
        self.created.clear()
