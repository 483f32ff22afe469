"""The owner of detached actors: a runtime on the leading node, such as any process has that creates actors.

Ownership, restarts and ends are those of every actor. What differs is that it gets class and arguments encoded, and
never decodes them: user code runs in workers only. There is one keeper for each environment (namespace, `sys.path`,
directory) that actors were made in, because that is what their workers are started with.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

from actorlite.control.seat import Seat
from actorlite.definitions import ActorDefinition
from actorlite.errors import ActorliteError, ConnectionLost
from actorlite.ids import PROCESS_ID_BYTES, ActorId, process_id
from actorlite.options import ActorOptions
from actorlite.refs import ObjectRef
from actorlite.rpc.handshake import PYTHON
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.runtime.actors import Link
from actorlite.runtime.node_client import NodeClient
from actorlite.runtime.restarts import Recipe
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.signatures import CallShape
from actorlite.state.actors import ActorEvent
from actorlite.wire.code import rebuilt
from actorlite.wire.control import DetachedActor, EncodedValue
from actorlite.wire.messages import Identity
from actorlite.wire.requests import ActorPlace, NodeInfo, RegisterDriver
from actorlite.wire.serialize import Encoded

logger = logging.getLogger("actorlite.control")

MAY_BE_IN_OPTIONS = frozenset(
    {
        "actorlite.mailboxes:Mailbox",
        "actorlite.options:ActorOptions",
        "actorlite.placement:_group",
        "actorlite.resources:ActorRequest",
        "actorlite.resources:ResourceSet",
        "actorlite.strategies:NodeAffinityStrategy",
        "actorlite.strategies:PlacementGroupStrategy",
        "actorlite.strategies:SpreadStrategy",
        "actorlite.strategies:Where",
        "actorlite.wire.groups:GroupShape",
    }
)
"""What pickled options may name. By the exact name: one with a dot would reach what our modules import."""


class Environment(NamedTuple):
    namespace: str
    sys_path: tuple[str, ...]
    cwd: str

    @classmethod
    def of(cls, actor: DetachedActor) -> Environment:
        return cls(actor.job_namespace, actor.sys_path, actor.cwd)


class Stub:
    """Stands for a class that is not loaded here."""


class StubWithStop:
    async def on_stop(self) -> None: ...


class Keeper:
    """Made by `open_keeper`."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime
        self.links: dict[ActorId, Link] = {}
        """What keeps the actors alive."""
        self.users = 0
        """Requests that are being served by it."""
        self.is_ending = False

    def make(self, actor: DetachedActor, options: ActorOptions) -> None:
        """Have it made, and made anew when it has been before."""
        runtime = self.runtime
        code, args = actor.code, actor.args
        blob = rebuilt(code.data, actor.code_name, self._held(code))
        encoded = self._encoded(args)
        recipe = Recipe(options, blob, encoded, [(place, self._ref(value)) for place, value in actor.slots])
        recipe.placed = actor.place, actor.inside
        definition = ActorDefinition(
            cls=StubWithStop if actor.has_stop else Stub,
            name=actor.class_name,
            constructor=CallShape(),
            methods={},
            options=options,
            has_readonly=actor.has_readonly,
        )
        link = Link(runtime, actor.target, definition, "", options)
        self.links[link.id] = link
        runtime.directory.created[link.id] = link
        if actor.restarts:
            recipe.restarts.done = link.restarts = actor.restarts
            recipe.restarts.moves = actor.moves
            link.happened(ActorEvent.CRASHED)
        if options.max_restarts:
            runtime.restarter.keep(link.id, recipe)
        runtime.maker.make(link, recipe)

    async def registered(self) -> None:
        """Return when the owners of what the actors hold know of it."""
        future = self.runtime.loop.create_future()
        self.runtime.borrows.when_registered(lambda: None if future.done() else future.set_result(None))
        await future

    def described(self, link: Link) -> ActorPlace:
        return self.runtime.directory.describe(link)

    async def aclose(self) -> None:
        """Its actors end, after their `on_stop`."""
        await self.runtime.aclose()

    def _held(self, value: EncodedValue) -> Sequence[object]:
        return self.runtime.borrows.hold_all(value.refs)

    def _encoded(self, value: EncodedValue) -> Encoded:
        return Encoded(value.kind, value.data, [memoryview(each) for each in value.buffers], self._held(value))

    def _ref(self, value: EncodedValue) -> ObjectRef[Any]:
        """A value as an own reference to it."""
        ref: ObjectRef[Any] = ObjectRef(self.runtime, next(self.runtime.hub.numbers))
        ref._kept = self._held(value)
        ref._resolve(self._encoded(value))
        return ref

    def __repr__(self) -> str:
        return f"<Keeper actors={len(self.links)} {self.runtime!r}>"


async def open_keeper(seat: Seat, environment: Environment) -> Keeper:
    """Register with the node as a driver does. Raises what connecting raises; then nothing is left."""
    process = process_id(seat.entropy.token_bytes(PROCESS_ID_BYTES))
    handlers = Handlers()
    runtime: ProcessRuntime | None = None

    def lost(peer: Peer, error: ConnectionLost | None) -> None:
        if runtime is not None:
            runtime.peer_lost(peer, error)

    identity = Identity(process, "driver", "", seat.pid, PYTHON)
    hub = Hub(identity, seat.token, seat.entropy, handlers, on_peer_lost=lost, transports=seat.transports)
    try:
        await hub.listen(seat.listen(process))
        node = await hub.connect(seat.node)
        hub.belongs_to(node)
        job = f"detached-{process}"
        client = NodeClient(hub, node, NodeInfo(node.identity.pid, 0, ""))
        runtime = ProcessRuntime(hub, client, job=job, namespace=environment.namespace, address=seat.node)
        runtime.install(handlers)
        wish = RegisterDriver(job, environment.namespace, environment.sys_path, environment.cwd, True)
        info = await node.request(next(hub.numbers), wish)
        if isinstance(info, NodeInfo):
            client.info = info
    except BaseException:
        await hub.aclose()
        raise
    return Keeper(runtime)


class _OnlyValues(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if f"{module_name}:{global_name}" in MAY_BE_IN_OPTIONS:
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is not loaded here: it cannot be part of options")


def options_of(actor: DetachedActor) -> ActorOptions:
    """Its options, which are values of ours. Raises `ActorliteError` for anything else."""
    try:
        options = _OnlyValues(io.BytesIO(actor.options)).load()
    except Exception as error:  # bytes can be wrong in any way
        raise ActorliteError(f"the options of the detached actor {actor.name!r} cannot be read: {error!r}") from None
    if not isinstance(options, ActorOptions):
        raise ActorliteError(f"the options of the detached actor {actor.name!r} are {options!r}")
    return options
