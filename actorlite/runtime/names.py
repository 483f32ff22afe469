"""Named actors: claiming a name before the actor is made, finding who has one, and letting it go.

A name is claimed at the node that leads the cluster, in one step. Until that has answered, the link of an actor that is
to be made waits with all that is called on it. If the name turns out to be another actor's, the link is dead, or, with
`get_if_exists`, stands for that one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from actorlite.definitions import ActorDefinition
from actorlite.errors import ActorliteError, ActorUnavailableError, ControlUnavailable, Outcome
from actorlite.ids import ActorId
from actorlite.options import ActorOptions
from actorlite.runtime.actors import FIXED, OPEN, Link
from actorlite.runtime.restarts import Recipe
from actorlite.state.actors import ActorEvent, ActorState, DeathCause
from actorlite.state.retries import Backoff
from actorlite.wire.control import ACTOR_KIND, ClaimName, FindName, ListNames, NameHolder, Names, ReleaseName
from actorlite.wire.serialize import decode, encode

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime

logger = logging.getLogger("actorlite.runtime")

ASK_AGAIN = Backoff(first_s=0.01, cap_s=0.5)
"""Between a name's claims while a dead actor has it: its owner is about to let it go."""
DEAD_HOLDER_S = 10.0
"""How long that may take."""


class NamedActors:
    """On the loop."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime
        self._mine: dict[ActorId, tuple[str, str]] = {}
        """Names that actors of this process have."""
        self._claiming: dict[ActorId, asyncio.Future[None]] = {}
        """Claims made with `.remote()` that were not answered yet."""
        self.on_end: Callable[[ActorId], None] | None = None
        """Hears of each named actor that has ended, for whoever keeps actors that others have made."""
        self._releasing: set[asyncio.Task[None]] = set()

    # --- making

    def begin(self, link: Link, obtain: Callable[[], Coroutine[Any, Any, Link]]) -> None:
        """Have `link` be what `obtain` returns; on the loop, at once after it was made."""
        self._claiming[link.id] = self.runtime.loop.create_future()
        self.runtime.spawn(self._settle(link, obtain)).add_done_callback(lambda _: self._answered(link.id))

    async def _settle(self, link: Link, obtain: Callable[[], Coroutine[Any, Any, Link]]) -> None:
        try:
            found = await obtain()
        except Exception as error:  # also what unpickling raises: whoever waits for the link must be told
            fail(link, f"its name could not be claimed ({type(error).__name__}): {error}", DeathCause.INIT_FAILED)
            return
        if found is link:
            return
        if link.options.get_if_exists:
            link.become(found)
        else:
            fail(link, _taken(link, found), DeathCause.NAME_TAKEN)

    def _answered(self, identifier: ActorId) -> None:
        claiming = self._claiming.pop(identifier, None)
        if claiming is not None and not claiming.done():
            claiming.set_result(None)

    async def _earlier(self) -> None:
        """Return when control knows of the names that were claimed here before: whoever made an actor can find it."""
        if self._claiming:
            await asyncio.wait(list(self._claiming.values()))

    async def get_or_create(
        self, definition: ActorDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> tuple[Link, bool]:
        """Who has the name, which this link keeps alive, and whether it was made for this call.

        Raises `ControlUnavailable`, `SerializationError`. From any loop.
        """
        return await self.runtime.on_own_loop(self._get_or_create(definition, args, kwargs, options))

    async def _get_or_create(
        self, definition: ActorDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> tuple[Link, bool]:
        link, obtain = self.prepare(definition, args, kwargs, options)
        try:
            found = await obtain()
        except BaseException:
            link.claim = ""
            link.happened(ActorEvent.ENDED, "it was not made")
            raise
        if found is not link:
            link.happened(ActorEvent.ENDED, "another actor has its name", cause=DeathCause.NAME_TAKEN)
        return found, found is link

    def prepare(
        self, definition: ActorDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> tuple[Link, Callable[[], Coroutine[Any, Any, Link]]]:
        """A link, and what makes it an actor. From any thread. Raises `SerializationError`, `ValueError`."""
        runtime = self.runtime
        if options.is_detached:
            link, obtain = runtime.detached.prepare(definition, args, kwargs, options)
        else:
            link, recipe, number = runtime.maker.prepare(definition, args, kwargs, options)
            runtime.directory.created[link.id] = link
            obtain = partial(self.obtain, link, recipe, number)
        link.claim = OPEN if options.get_if_exists else FIXED
        return link, obtain

    async def obtain(self, link: Link, recipe: Recipe, number: int) -> Link:
        """Make the actor of `link`, or return the living one that has its name. Raises `ControlUnavailable`."""
        found = await self.first(link, partial(self._claim, link))
        if found is link:
            self._claimed(link, recipe, number)
        return found

    async def first(self, link: Link, ask: Callable[[], Awaitable[NameHolder]]) -> Link:
        """Who has the name of `link`, which `ask` claims: `link`, or another living actor."""
        loop = self.runtime.loop
        give_up, tries = loop.time() + DEAD_HOLDER_S, 0
        while True:
            try:
                holder = await ask()
            finally:
                self._answered(link.id)
            if holder.claimed:
                return link
            found = from_entry(self.runtime, holder.entry, weak=not link.options.get_if_exists)
            found = await self.settled(found)  # this process may be about to hear that it is its own
            if not await is_dead(found):
                return found
            if loop.time() >= give_up:
                text = f"{found!r}, which is dead, still has the name {link.options.name!r}: try again later"
                raise ActorUnavailableError(text, outcome=Outcome.NOT_EXECUTED)
            tries += 1
            await asyncio.sleep(ASK_AGAIN.delay_s(tries, self.runtime.hub.luck()))

    async def _claim(self, link: Link) -> NameHolder:
        namespace, name = name_of(link)
        self._mine[link.id] = namespace, name  # before: whatever happens now, it is let go of
        claim = ClaimName(ACTOR_KIND, namespace, name, link.id, entry_of(link))
        try:
            holder = holder_in(await self._ask(claim))
        except BaseException:
            self.release(link.id)
            raise
        if not holder.claimed:
            del self._mine[link.id]
        return holder

    def _claimed(self, link: Link, recipe: Recipe, number: int) -> None:
        link.claim = ""
        if link.life is ActorState.DEAD:  # killed meanwhile
            self.release(link.id)
        else:
            if link.options.max_restarts:
                self.runtime.restarter.keep(link.id, recipe)
            self.runtime.maker.make(link, recipe, number)
        link.step()

    async def settled(self, link: Link) -> Link:
        """The actor that `link` is, once control has said whose its name is."""
        while link.claim == OPEN or link.claim and link.owner_address:
            await self.runtime.directory.next_step(link)
        return link.alias or link

    # --- letting go

    def release(self, identifier: ActorId) -> None:
        """The actor has ended, or will take no more calls: others may have its name. Idempotent."""
        if self.on_end is not None:
            self.on_end(identifier)
        named = self._mine.pop(identifier, None)
        if named is not None and not self.runtime.gone:
            task = self.runtime.spawn(self._release(ReleaseName(ACTOR_KIND, *named, identifier)))
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    async def _release(self, wish: ReleaseName) -> None:
        try:
            await self._ask(wish)
        except ActorliteError as error:
            # Names end with their owner at the latest.
            logger.info("the name %r in namespace %r was not released: %s", wish.name, wish.namespace, error)

    async def released(self) -> None:
        """Return when all names that were let go of can be claimed again."""
        if self._releasing:
            await asyncio.wait(self._releasing)

    # --- finding

    async def find(self, name: str, namespace: str) -> Link | None:
        """Who has the name, which this link does not keep alive. Raises `ControlUnavailable`."""
        await self._earlier()
        holder = await self._ask(FindName(ACTOR_KIND, namespace or self.runtime.namespace, name))
        if not isinstance(holder, NameHolder):
            return None
        return await self.settled(from_entry(self.runtime, holder.entry, weak=True))

    async def listed(self, namespace: str) -> list[tuple[str, str]]:
        """Namespaces and names; of all namespaces when it is empty. Raises `ControlUnavailable`."""
        await self._earlier()
        found = await self._ask(ListNames(ACTOR_KIND, namespace))
        return list(found.names) if isinstance(found, Names) else []

    async def _ask(self, body: Any) -> Any:
        self.runtime.check_open()
        return await self.runtime.node_peer.request(next(self.runtime.hub.numbers), body)

    def __repr__(self) -> str:
        return f"<NamedActors names={len(self._mine)} releasing={len(self._releasing)}>"


def fail(link: Link, text: str, cause: DeathCause, *, init_failed: bool = False) -> None:
    """It is not made, and whoever waits for it is told."""
    link.claim = ""
    link.happened(ActorEvent.FAILED, text, init_failed=init_failed, cause=cause)


def holder_in(answer: object) -> NameHolder:
    """Raises `ControlUnavailable`."""
    if isinstance(answer, NameHolder):
        return answer
    raise ControlUnavailable("the node did not say who has the name")


def _taken(link: Link, found: Link) -> str:
    return (
        f"the name {link.options.name!r} belongs to {found!r}: choose another one, end that actor first, or say "
        "get_if_exists=True to get it"
    )


def entry_of(link: Link) -> bytes:
    """What control keeps of an actor, for those who find it."""
    definition = link.definition if link.definition.cls is None else structs.replace(link.definition, cls=None)
    encoded = encode((link.id, link.owner_address or link.runtime.hub.identity.address, link.options, definition))
    return bytes((encoded.kind,)) + bytes(encoded.data)


def from_entry(runtime: ProcessRuntime, entry: bytes, *, weak: bool) -> Link:
    """Raises what unpickling raises: the exceptions that a method is retried after may be of the user's classes."""
    *data, definition = decode(entry[0], memoryview(entry)[1:], (), runtime)
    return runtime.directory.import_link(tuple(data), definition, weak=weak)


def name_of(link: Link) -> tuple[str, str]:
    """Its namespace and name."""
    return link.options.namespace or link.runtime.namespace, link.options.name or ""


async def is_dead(link: Link) -> bool:
    """What its creator says."""
    if not link.owner_address:
        return link.is_dead
    try:
        return bool((await link.runtime.lookups.describe(link)).error)
    except ActorliteError:
        return True
