"""Detached actors on the node that leads the cluster: kept, written down, and brought back when the node is.

An actor is written down before its creator hears that it will be made, and forgotten before anybody hears that it was
ended. Without a file to write to, the actors end with the node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from actorlite.control.persistence import Persistence
from actorlite.control.seat import Seat
from actorlite.errors import ActorliteError
from actorlite.ids import ActorId
from actorlite.loading import load
from actorlite.rpc.handshake import PYTHON
from actorlite.rpc.peer import Peer
from actorlite.state.actors import DeathCause, Restarts
from actorlite.state.directory import Directory, Holder
from actorlite.wire.control import ACTOR_KIND, NOBODY, CreateDetached, DetachedActor, NameHolder
from actorlite.wire.requests import ActorPlace, KillActor, ResolveActor, Yes

if TYPE_CHECKING:
    from actorlite.control.keeper import Environment, Keeper
    from actorlite.runtime.actors import Link

logger = logging.getLogger("actorlite.control")

KEEPER = "actorlite.control.keeper:{}"
"""Loaded when the first detached actor is made: most nodes have none."""

NOT_YET_S = 30.0
"""How long an actor that nobody has asked for yet may take to be: a handle may be quicker than its creator."""
MAX_ENDED = 10_000
"""Ends that are remembered."""
NEVER_MADE = frozenset(each.value for each in (DeathCause.INIT_FAILED, DeathCause.CRASHED, DeathCause.GROUP_REMOVED))
"""Ends of an actor that was to be brought back, and was not: nobody asked for them."""
LINGER_S = 1.0
"""How long a keeper without actors stays."""
PREFIX = "detached/"


class DetachedActors:
    """Owned by control; on the loop. Serves nothing while another node leads."""

    def __init__(self, seat: Seat, directory: Directory, persistence: Persistence) -> None:
        self.not_restored: list[str] = []
        self._seat = seat
        self._directory = directory
        self._persistence = persistence
        self._loop = asyncio.get_running_loop()
        self._keepers: dict[Environment, asyncio.Task[Keeper]] = {}
        self._actors: dict[ActorId, DetachedActor] = {}
        """All that live, or are being made."""
        self._kept: dict[ActorId, asyncio.Future[Keeper]] = {}
        """By whom, once that is decided."""
        self._ended: dict[ActorId, ActorPlace] = {}
        self._expected: dict[ActorId, asyncio.Event] = {}
        """Actors that were asked for before they were to be made."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._restoring: set[ActorId] = set()
        self._closing = False

    # --- handlers, on the leading node

    async def create(self, peer: Peer, body: CreateDetached) -> NameHolder:
        actor = body.actor
        load(KEEPER.format("options_of"))(actor)  # what cannot be read is refused here
        holder = Holder(ACTOR_KIND, actor.namespace, actor.name, actor.target, actor.entry)
        found = self._directory.claim(holder)
        if found is not holder:
            return NameHolder(found.target, found.entry, False)
        self._begin(actor)
        try:
            await self._persistence.put(PREFIX + actor.target, msgspec.msgpack.encode(actor))
        except BaseException as error:
            self._end(actor.target, _dead(f"it could not be written down: {error}", DeathCause.INIT_FAILED))
            raise
        # Whoever asked may be gone by now: it is made all the same.
        await asyncio.shield(self._spawn(self._make(actor)))
        return NameHolder(actor.target, actor.entry, True)

    async def resolve(self, peer: Peer, body: ResolveActor) -> ActorPlace:
        keeper = await self._keeper_of(body.target)
        if keeper is not None:
            return await keeper.runtime.directory.resolve(peer, body)
        gone = _dead("control does not know it: it ended long ago, or with an earlier node", DeathCause.OWNER_DIED)
        return self._ended.get(body.target, gone)

    async def kill(self, peer: Peer, body: KillActor) -> Yes:
        """Answered when it will not come back. Raises `ControlUnavailable` when it has ended, but would."""
        keeper = await self._keeper_of(body.target)
        if keeper is None:
            await self._persistence.deleted(PREFIX + body.target)
            return Yes(False)
        keeper.users += 1
        try:
            done: Yes = await keeper.runtime.directory.killed(peer, body)
            await self._persistence.deleted(PREFIX + body.target)
        finally:
            keeper.users -= 1
        return done

    async def _keeper_of(self, target: ActorId) -> Keeper | None:
        """None when it is dead, or was never heard of."""
        if target not in self._kept and target not in self._ended:
            expected = self._expected.setdefault(target, asyncio.Event())
            try:
                async with asyncio.timeout(NOT_YET_S):
                    await expected.wait()
            except TimeoutError:
                self._expected.pop(target, None)
        kept = self._kept.get(target)
        if kept is None:
            return None
        try:
            return await asyncio.shield(kept)
        except ActorliteError:
            return None

    # --- their life

    def _begin(self, actor: DetachedActor) -> None:
        self._actors[actor.target] = actor
        self._kept[actor.target] = self._loop.create_future()
        expected = self._expected.pop(actor.target, None)
        if expected is not None:
            expected.set()

    async def _make(self, actor: DetachedActor) -> None:
        try:
            options = load(KEEPER.format("options_of"))(actor)
            environment = load(KEEPER.format("Environment")).of(actor)
            while (keeper := await self._keeper_for(environment)).is_ending:
                continue
            keeper.make(actor, options)
            await keeper.registered()
        except Exception as error:
            logger.exception("the detached actor %r could not be made", actor.name)
            self._end(actor.target, _dead(f"control could not make it: {error}", DeathCause.INIT_FAILED))
            return
        kept = self._kept.get(actor.target)
        if kept is not None and not kept.done():
            kept.set_result(keeper)

    async def _keeper_for(self, environment: Environment) -> Keeper:
        task = self._keepers.get(environment)
        if task is not None and task.done() and (task.cancelled() or task.exception() or task.result().runtime.gone):
            task = None
        if task is None:
            task = self._keepers[environment] = self._spawn(self._open(environment))
        return await asyncio.shield(task)

    async def _open(self, environment: Environment) -> Keeper:
        keeper: Keeper = await load(KEEPER.format("open_keeper"))(self._seat, environment)
        keeper.runtime.names.on_end = lambda target: self._link_ended(keeper, environment, target)
        keeper.runtime.restarter.on_start = lambda link: self._restoring.discard(link.id)
        keeper.runtime.restarter.on_restart = self._restarted
        return keeper

    def _restarted(self, link: Link, restarts: Restarts) -> None:
        actor = self._actors.get(link.id)
        if actor is not None:
            actor = self._actors[link.id] = msgspec.structs.replace(actor, restarts=restarts.done, moves=restarts.moves)
            self._persistence.put_soon(PREFIX + link.id, msgspec.msgpack.encode(actor))

    def _link_ended(self, keeper: Keeper, environment: Environment, target: ActorId) -> None:
        link = keeper.links.pop(target, None)
        if link is None:
            return
        self._end(target, keeper.described(link))
        if not keeper.links and not self._closing:
            self._loop.call_later(LINGER_S, self._close_idle, keeper, environment)

    def _close_idle(self, keeper: Keeper, environment: Environment) -> None:
        if keeper.links or keeper.is_ending or self._closing:
            return
        if keeper.users:
            self._loop.call_later(LINGER_S, self._close_idle, keeper, environment)
            return
        keeper.is_ending = True
        self._keepers.pop(environment, None)
        self._spawn(keeper.aclose())

    def _end(self, target: ActorId, place: ActorPlace) -> None:
        actor = self._actors.pop(target, None)
        kept = self._kept.pop(target, None)
        if actor is None:
            return
        if kept is not None and not kept.done():
            kept.set_exception(ActorliteError(place.error))
            kept.exception()  # whoever waits has it
        self._ended[target] = place
        while len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._directory.release(ACTOR_KIND, actor.namespace, actor.name, target)
        self._persistence.delete_soon(PREFIX + target)
        if target in self._restoring and place.cause in NEVER_MADE:
            self._not_restored(actor, place.error)
        self._restoring.discard(target)

    # --- a node that is started again

    async def restore(self) -> None:
        """Find what was written down, and give it its names: nobody may take them before `resume`."""
        for _, value in await self._persistence.read(PREFIX):
            try:
                actor = msgspec.msgpack.decode(value, type=DetachedActor)
            except msgspec.DecodeError as error:
                self.not_restored.append(f"a detached actor that cannot be read any more: {error}")
                continue
            reason = _why_not(actor)
            if reason:
                self._not_restored(actor, reason)
                self._persistence.delete_soon(PREFIX + actor.target)
                self._ended[actor.target] = _dead(reason, DeathCause.CRASHED)
                continue
            self._directory.claim(Holder(ACTOR_KIND, actor.namespace, actor.name, actor.target, actor.entry))
            self._begin(actor)
            self._restoring.add(actor.target)

    def resume(self, groups: Container[str]) -> None:
        """Make anew what was found: its node's end was a crash of its worker. `groups`: those that are there again."""
        for target in list(self._restoring):
            actor = self._actors[target]
            group = actor.place.group if actor.place is not None else ""
            if group and group not in groups:
                reason = f"its placement group {group} was not detached, or was not brought back"
                self._end(target, _dead(reason, DeathCause.GROUP_REMOVED))
                continue
            actor = self._actors[target] = msgspec.structs.replace(actor, restarts=actor.restarts + 1)
            self._persistence.put_soon(PREFIX + target, msgspec.msgpack.encode(actor))
            logger.warning("the detached actor %r in namespace %r is made anew", actor.name, actor.namespace)
            self._spawn(self._make(actor))

    def _not_restored(self, actor: DetachedActor, reason: str) -> None:
        text = f"actor {actor.name!r} ({actor.class_name}) in namespace {actor.namespace!r}: {reason}"
        logger.warning("not brought back: %s", text)
        self.not_restored.append(text)

    # --- for people, and the end

    def listed(self) -> tuple[tuple[ActorId, str, str, str], ...]:
        """Id, namespace, name and state of each."""
        found = []
        for target, actor in self._actors.items():
            kept = self._kept[target]
            link = kept.result().links.get(target) if kept.done() and kept.exception() is None else None
            state = link.state if link is not None else "PENDING_CREATION"
            found.append((target, actor.namespace, actor.name, state))
        return tuple(found)

    async def aclose(self) -> None:
        """All end, in good order. Completes when cancelled."""
        self._closing = True
        opened = [each.result() for each in self._keepers.values() if _succeeded(each)]
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*[keeper.aclose() for keeper in opened], return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work, name="actorlite control work")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def __repr__(self) -> str:
        return f"<DetachedActors actors={len(self._actors)} keepers={len(self._keepers)}>"


def _succeeded(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _dead(text: str, cause: DeathCause) -> ActorPlace:
    return ActorPlace(NOBODY, "", 0, text, cause is DeathCause.INIT_FAILED, "DEAD", cause.value)


def _why_not(actor: DetachedActor) -> str:
    """Why it cannot be made anew by another node; empty when it can."""
    try:
        allowed = load(KEEPER.format("options_of"))(actor).max_restarts
    except (ActorliteError, AttributeError) as error:
        return str(error)
    if not Restarts(allowed, actor.restarts, moves=actor.moves).left:
        return f"its node ended, and max_restarts={allowed} does not let it be made anew"
    if actor.python != PYTHON:
        return f"it was made with Python {actor.python}, and this is {PYTHON}"
    if any(each.refs for each in (actor.code, actor.args, *[value for _, value in actor.slots])):
        return "its constructor was given references or handles whose owners ended with the node"
    return ""
