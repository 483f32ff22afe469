"""Actors on their way into being: arguments, a worker, the constructor call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from actorlite.context import current_call
from actorlite.definitions import ActorDefinition
from actorlite.errors import (
    ActorliteError,
    ActorUnavailableError,
    ConnectFailed,
    ConnectionLost,
    Outcome,
    PlacementGroupRemoved,
    WorkerStartError,
)
from actorlite.ids import ActorId, actor_id
from actorlite.options import ActorOptions
from actorlite.resources import NOTHING
from actorlite.rpc.peer import Peer
from actorlite.runtime.actors import Link, unschedulable
from actorlite.runtime.calls import Outbound, encode_arguments
from actorlite.runtime.node_client import NO_NEEDS, Want
from actorlite.runtime.placing import Placed, placed
from actorlite.runtime.restarts import Recipe
from actorlite.state.actors import ActorEvent, ActorState, DeathCause
from actorlite.wire.calls import INTERRUPTED, Conduct, CreateActor, Failed, Rejected, Reply
from actorlite.wire.code import CodeBlob
from actorlite.wire.failures import decode_failure
from actorlite.wire.messages import encode
from actorlite.wire.requests import ActorPlace, Lease

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime


class CreationOut(Outbound):
    """The constructor call of one actor."""

    __slots__ = ("link", "options", "blob", "lease", "maker", "life", "placed")

    link: Link
    options: ActorOptions
    blob: CodeBlob
    lease: Lease | None
    maker: ActorMaker
    life: int
    """How often the actor was made before."""
    placed: Placed

    @property
    def shared(self) -> bool:
        return self.options.process == "shared"

    @property
    def holds_nothing(self) -> bool:
        """A light actor that needs no lease of its own."""
        options = self.options
        return options.process == "shared" and not options.request.lifetime

    def arguments_ready(self) -> None:
        self.maker.place(self)

    def not_stored(self, error: ActorliteError) -> None:
        self.fail(f"its arguments could not be stored: {error}")

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
            options.request.lifetime.cpus,
            _conduct(self.link, options),
            self.link.restarts,
            options.stop_timeout,
            options.request.lifetime.more,
            self.placed[1],
        )
        self.peer = peer
        self.life = self.link.restarts
        peer.call(self.number, self, encode(message), *parts)
        identity = peer.identity
        self.link.place = ActorPlace(identity.process, identity.address, identity.pid)
        self.link.connected(peer)

    def answered(self, message: Any, parts: Any) -> None:
        if self.life != self.link.restarts or type(message) is Rejected and message.reason == INTERRUPTED:
            self.end(None)  # it was ended while it was being made, as the link knows or will be told
            return
        if type(message) is Reply:
            self.link.happened(ActorEvent.STARTED)
            if self.options.max_restarts:
                self.runtime.restarter.started(self.link)
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

    def fail(self, text: str, *, init_failed: bool = False, cause: DeathCause = DeathCause.INIT_FAILED) -> None:
        self.link.happened(ActorEvent.FAILED, text, init_failed=init_failed, cause=cause)
        self.runtime.restarter.forget(self.link.id)
        self.maker.give_back(self.link)
        self.end(None)


def _is_light(link: Link) -> bool:
    """Whether it is an actor of this process that lives, or will, in the process of all such."""
    return not link.owner_address and not link.is_dead and link.options.process == "shared"


def _conduct(link: Link, options: ActorOptions) -> Conduct | None:
    """How the actor takes calls; None for the plain way."""
    definition, limits = link.definition, options.limits
    groups, reentrant = options.concurrency_groups, options.reentrant
    if not (groups or reentrant or definition.has_readonly or limits):
        return None
    return Conduct(tuple(groups.items()), reentrant, definition.has_readonly, limits or None)


class ActorLease(NamedTuple):
    number: int
    exclusive: bool
    """Whether the worker is the actor's own; a light actor only holds CPU."""


class ActorMaker:
    """Creates this process's actors; the directory keeps them."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime
        self._leases: dict[ActorId, ActorLease] = {}
        self._creating: dict[ActorId, tuple[CreationOut, asyncio.Task[None]]] = {}
        self._shared: asyncio.Task[Peer] | None = None
        self._shared_lease = 0
        """The lease of that worker; 0 when there is none."""

    def create(
        self, definition: ActorDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> Link:
        """The link at once; the rest happens behind it. From any thread. Raises `SerializationError`."""
        runtime = self.runtime
        if options.name:
            link, obtain = runtime.names.prepare(definition, args, kwargs, options)
            runtime.post(runtime.names.begin, link, obtain)
            return link
        link, recipe, number = self.prepare(definition, args, kwargs, options)
        runtime.directory.created[link.id] = link
        if options.max_restarts:
            runtime.restarter.keep(link.id, recipe)
        runtime.post(self.make, link, recipe, number)
        return link

    def prepare(
        self, definition: ActorDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> tuple[Link, Recipe, int]:
        """What is needed to make an actor, which begins with `make`. From any thread. Raises `SerializationError`."""
        runtime = self.runtime
        runtime.check_open()
        blob = runtime.code.blob_of(definition)
        encoded, dependencies = encode_arguments(args, kwargs)
        number = next(runtime.hub.numbers)
        link = Link(runtime, actor_id(runtime.process, number), definition, "", options)
        recipe = Recipe(options, blob, encoded, dependencies)
        if options.process != "shared":
            recipe.placed = placed(options, options.request.placement, current_call.get(), definition.name)
        return link, recipe, number

    def make(self, link: Link, recipe: Recipe, number: int = 0) -> None:
        """Call the constructor, on a worker to be found."""
        name = f"{link.definition.name}.__init__"
        number = number or next(self.runtime.hub.numbers)
        creation = CreationOut(self.runtime, number, name, None, recipe.encoded, recipe.dependencies, None)
        creation.link = link
        creation.options = recipe.options
        creation.blob = recipe.blob
        creation.placed = recipe.placed
        creation.lease = None
        creation.maker = self
        self._start(creation)

    def _start(self, creation: CreationOut) -> None:
        creation.begin()
        if not creation.missing:
            self.place(creation)

    def place(self, creation: CreationOut) -> None:
        """Find a worker for a creation whose arguments exist."""
        if creation.link.life is ActorState.DEAD:
            creation.end(None)  # killed while its arguments were pending
            return
        failure = creation.failed_dependency()
        if failure is not None:
            creation.fail(f"an argument of its constructor failed: {failure.exception()!r}", init_failed=True)
            return
        shared = self._shared
        if creation.holds_nothing and shared is not None and shared.done():
            # The hot path of light actors: the job's shared worker is known.
            if not shared.cancelled() and shared.exception() is None and shared.result().is_open:
                creation.send(shared.result())
                return
        link = creation.link
        task = self.runtime.spawn(self._create(creation))
        self._creating[link.id] = (creation, task)
        task.add_done_callback(partial(self._created, link.id))

    def _created(self, identifier: ActorId, task: asyncio.Task[None]) -> None:
        creating = self._creating.get(identifier)
        if creating is not None and creating[1] is task:  # else it is being made again already
            del self._creating[identifier]

    async def _create(self, creation: CreationOut) -> None:
        try:
            if creation.holds_nothing:
                peer = await self._share_worker(creation)
            else:
                peer = await self._lease_worker(creation)
            creation.send(peer)
        except ActorliteError as error:
            error = unschedulable(error)
            crash = isinstance(error, ConnectFailed | ConnectionLost | WorkerStartError)
            if crash and self.runtime.restarter.may_restart(creation.link.id):
                self.give_back(creation.link)
                creation.end(None)
                self.runtime.restarter.crashed(creation.link, str(error))
                return
            if isinstance(error, PlacementGroupRemoved):
                creation.fail(str(error), cause=DeathCause.GROUP_REMOVED)
                return
            creation.fail(f"no worker could be had ({type(error).__name__}): {error}")
        except asyncio.CancelledError:
            self.give_back(creation.link)
            creation.end(None)
            raise

    async def _lease_worker(self, creation: CreationOut) -> Peer:
        runtime = self.runtime
        runtime.tasks.reclaim()
        request = creation.options.request
        want = Want(request.placement, request.lifetime, creation.options.schedule_timeout, creation.placed[0])
        purpose, name = "shared" if creation.shared else "actor", creation.link.definition.name
        try:
            async with asyncio.timeout(want.timeout_s):
                lease = await runtime.node.lease(next(runtime.hub.numbers), want, purpose, name)
        except TimeoutError:
            raise await runtime.node.why_no_lease(want, name) from None
        if lease is None:
            raise ActorUnavailableError("the request for a worker was withdrawn", outcome=Outcome.NOT_EXECUTED)
        self._leases[creation.link.id] = ActorLease(lease.lease, not creation.shared)
        return await runtime.hub.connect(lease.address)

    async def _share_worker(self, creation: CreationOut) -> Peer:
        timeout = creation.options.schedule_timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._shared_worker()
        except TimeoutError:  # the worker is waited for all the same, for the light actors that come
            want = Want(NOTHING, NOTHING, timeout)
            raise await self.runtime.node.why_no_lease(want, creation.link.definition.name) from None

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
        lease = await runtime.node.lease(next(runtime.hub.numbers), NO_NEEDS, "shared", "light actors")
        if lease is None:
            raise ActorUnavailableError("the request for a worker was withdrawn", outcome=Outcome.NOT_EXECUTED)
        self._shared_lease = lease.lease
        return await runtime.hub.connect(lease.address)

    def give_back(self, link: Link) -> None:
        """The worker of an actor that failed to start is not clean."""
        lease = self._leases.pop(link.id, None)
        if lease is not None:
            self.runtime.node.return_lease(lease.number, reuse=False)

    def take_lease(self, identifier: ActorId) -> ActorLease | None:
        """The lease of an actor that has ended, or is to end: the caller's to return."""
        creating = self._creating.get(identifier)
        if creating is not None:
            creating[1].cancel()
        return self._leases.pop(identifier, None)

    def end_lease(self, identifier: ActorId, *, retire: bool = False) -> None:
        """Its worker is not clean. One that ended in good order lives (`retire`) while others hold what it owns."""
        lease = self.take_lease(identifier)
        if lease is not None:
            self.runtime.node.return_lease(lease.number, reuse=False, retire=retire)

    def drained(self, number: int) -> None:
        """The node that this lease is of is about to leave: an actor that it is for may have to move. It is asked again
        and again: what light actors have is given back when none is left."""
        if number == self._shared_lease:
            if not any(_is_light(link) for link in self.runtime.directory.all()):
                self._shared, self._shared_lease = None, 0
                self.runtime.node.return_lease(number, reuse=False, retire=True)
            return
        for identifier, lease in self._leases.items():
            if lease.number == number and lease.exclusive:
                if (link := self.runtime.directory.own(identifier)) is not None:
                    self.runtime.restarter.drained(link)
                return

    def fail_all(self, text: str) -> None:
        """The session is over: what is not made yet never will be."""
        for creation, task in list(self._creating.values()):
            task.cancel()
            creation.fail(text)

    def __repr__(self) -> str:
        return f"<ActorMaker creating={len(self._creating)} leases={len(self._leases)}>"
