"""Where the actors of others live: asked of their creators, and again when the place is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from actorlite.errors import ActorliteError, TransportError
from actorlite.ids import ActorId, ProcessId, owner_of
from actorlite.runtime.actors import Link
from actorlite.state.actors import ActorEvent, ActorState, DeathCause
from actorlite.state.retries import Backoff
from actorlite.wire.control import CONTROL
from actorlite.wire.requests import ActorPlace, ResolveActor

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime

ASK_AGAIN = Backoff(first_s=0.02, cap_s=1.0)
"""A creator may hear of its actor's death later than those who ask it."""

MAX_TRIES = 30
"""Places told by the creator in a row that could not be reached, before the actor is given up for dead."""


class Lookups:
    """For links that this process did not create. On the loop."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime
        self._finding: set[ActorId] = set()

    def find(self, link: Link) -> None:
        """Learn where the actor lives, and connect."""
        if link.id not in self._finding:
            self._finding.add(link.id)
            self.runtime.spawn(self._find(link))

    async def _find(self, link: Link) -> None:
        reason = ""
        try:
            for tries in range(1, MAX_TRIES + 1):
                place = await self._ask(link, wait=True)
                if place is None:
                    return
                try:
                    peer = await self.runtime.hub.connect(place.address)
                except TransportError as error:
                    reason = f"{await self.runtime.why_died(place.process)} ({error})"
                else:
                    link.place = place
                    if link.life is not ActorState.DEAD:
                        if link.life is not ActorState.ALIVE:
                            link.happened(ActorEvent.STARTED)
                        link.restarts = place.restarts
                        link.connected(peer)
                    return
                await asyncio.sleep(ASK_AGAIN.delay_s(tries, self.runtime.hub.luck()))
            link.happened(ActorEvent.LOST, reason, cause=DeathCause.CRASHED)
        except ActorliteError as error:
            text = await self._why(link, error)
            link.happened(ActorEvent.LOST, text, cause=DeathCause.OWNER_DIED)
        finally:
            self._finding.discard(link.id)

    async def lost(self, link: Link, process: ProcessId | None) -> None:
        """Its worker is gone (`process`), or does not have it any more: is it dead, or elsewhere?"""
        try:
            place = await self._ask(link, wait=False, dead=process)
        except ActorliteError as error:
            text = await self._why(link, error)
            link.happened(ActorEvent.LOST, text, cause=DeathCause.OWNER_DIED)
            return
        if place is not None and link.life is not ActorState.DEAD:
            link.happened(ActorEvent.CRASHED)

    async def ready(self, link: Link) -> None:
        """Return when its creator says that it has been made, or that it never will be: then the link is dead."""
        try:
            await self._ask(link, wait=True, ready=True)
        except ActorliteError as error:
            link.happened(ActorEvent.LOST, await self._why(link, error), cause=DeathCause.OWNER_DIED)

    async def _ask(
        self, link: Link, *, wait: bool, dead: ProcessId | None = None, ready: bool = False
    ) -> ActorPlace | None:
        """What its creator says; None when it is dead, and the link knows. Raises when the creator is gone."""
        owner = await self.runtime.hub.connect(link.owner_address)
        place = await owner.request(next(self.runtime.hub.numbers), ResolveActor(link.id, wait, dead, ready))
        if not isinstance(place, ActorPlace) or place.error:
            text = place.error if isinstance(place, ActorPlace) else "its creator does not know it"
            cause = DeathCause(place.cause) if isinstance(place, ActorPlace) and place.cause else None
            link.happened(ActorEvent.LOST, text, init_failed=bool(place and place.init_failed), cause=cause)
            return None
        return place

    async def described(self, link: Link) -> ActorPlace:
        """What its creator says of it now, which may be this process."""
        link = await self.runtime.names.settled(link)
        return await self.describe(link) if link.owner_address else self.runtime.directory.describe(link)

    async def _why(self, link: Link, error: ActorliteError) -> str:
        """How its owner ended, which has answered with an error."""
        if link.owner_address == CONTROL:
            return f"control, which owns it, did not answer: {error}"
        return f"{await self.runtime.why_died(owner_of(link.id))} ({error})"

    async def describe(self, link: Link) -> ActorPlace:
        """What its creator says of it now."""
        try:
            place = await self._ask(link, wait=False)
        except ActorliteError as error:
            text = await self._why(link, error)
            link.happened(ActorEvent.LOST, text, cause=DeathCause.OWNER_DIED)
            place = None
        cause = link.cause.value if link.cause is not None else ""
        return place or ActorPlace(self.runtime.process, "", 0, link.death, link.init_failed, "DEAD", cause)

    def __repr__(self) -> str:
        return f"<Lookups finding={len(self._finding)}>"
