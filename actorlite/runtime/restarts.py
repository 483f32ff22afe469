"""Actors that are made anew when their worker dies: what they are made of is kept while that may be needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from actorlite.ids import ActorId
from actorlite.options import ActorOptions
from actorlite.runtime.actors import Link
from actorlite.runtime.calls import Dependency
from actorlite.runtime.lifetimes import Ending
from actorlite.runtime.placing import NOT_PLACED, Placed
from actorlite.state.actors import RESTART_BACKOFF, ActorEvent, ActorState, DeathCause, Restarts
from actorlite.wire.code import CodeBlob
from actorlite.wire.serialize import Encoded

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime


class Recipe:
    """A constructor call: its arguments as they were when it was made, and the references among them."""

    __slots__ = ("options", "blob", "encoded", "dependencies", "restarts", "placed")

    def __init__(
        self, options: ActorOptions, blob: CodeBlob, encoded: Encoded, dependencies: Sequence[Dependency]
    ) -> None:
        self.options = options
        self.blob = blob
        self.encoded = encoded
        self.dependencies = dependencies
        self.restarts = Restarts(options.max_restarts)
        self.placed: Placed = NOT_PLACED
        """Where it is to be."""


class Restarter:
    """For the actors that this process created. On the loop, but for `keep`."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime
        self.backoff = RESTART_BACKOFF
        self._recipes: dict[ActorId, Recipe] = {}
        self.on_start: Callable[[Link], None] | None = None
        """Hears of each of these actors that was made."""
        self.on_restart: Callable[[Link, Restarts], None] | None = None
        """Hears of each actor that will be made anew."""

    def keep(self, identifier: ActorId, recipe: Recipe) -> None:
        self._recipes[identifier] = recipe
        self.runtime.post(self.runtime.exports.pin, recipe.encoded.handles)

    def forget(self, identifier: ActorId) -> None:
        """It will not be made again. Idempotent."""
        recipe = self._recipes.pop(identifier, None)
        if recipe is not None:
            self.runtime.exports.unpin(recipe.encoded.handles)

    def may_restart(self, identifier: ActorId) -> bool:
        recipe = self._recipes.get(identifier)
        return recipe is not None and recipe.restarts.left

    def started(self, link: Link) -> None:
        recipe = self._recipes.get(link.id)
        if recipe is not None:
            recipe.restarts.started(self.runtime.loop.time())
        if self.on_start is not None:
            self.on_start(link)

    def crashed(self, link: Link, text: str, *, evicted: bool = False) -> None:
        """Its worker is gone: make it anew after a pause, or tell that it is dead. One that was `evicted` has no place
        any more."""
        runtime = self.runtime
        recipe = self._recipes.get(link.id)
        pause_s = None
        if evicted:
            link.happened(ActorEvent.LOST, text, cause=DeathCause.GROUP_REMOVED)
            self.forget(link.id)
            return
        if recipe is not None and not runtime.gone:
            pause_s = recipe.restarts.crashed(runtime.loop.time(), runtime.hub.luck(), self.backoff)
        if recipe is None or pause_s is None:
            done = "" if recipe is None else f" (restarted {recipe.restarts.done} times, no restart left)"
            link.happened(ActorEvent.LOST, text + done, cause=DeathCause.CRASHED)
            self.forget(link.id)
            return
        self._begins_again(link, recipe, text)
        # By id: who lets go of the handle during the pause does not want it back.
        identifier = link.id
        runtime.delays.after(pause_s, lambda: self._again(identifier))

    def drained(self, link: Link) -> None:
        """Its node is about to leave. What may be made anew is, elsewhere, when the calls that it has are done; calls
        that are made meanwhile wait for that. It uses up no restart (Ray, FT-10)."""
        recipe = self._recipes.get(link.id)
        if recipe is None or self.runtime.gone:
            return
        if link.life is not ActorState.ALIVE or link.peer is None:
            recipe.restarts.leaving = True  # it is asked for again, when it has been made
            return
        peer = link.peer
        recipe.restarts.moved()
        self._begins_again(link, recipe, "its node is being drained")
        self.runtime.spawn(self._move(link, recipe, self.runtime.lifetimes.end(link.id, peer)))

    async def _move(self, link: Link, recipe: Recipe, ending: Ending) -> None:
        await self.runtime.lifetimes.over(ending)
        if link.life is ActorState.RESTARTING and not self.runtime.gone and self._recipes.get(link.id) is recipe:
            self.runtime.maker.make(link, recipe)

    def _begins_again(self, link: Link, recipe: Recipe, text: str) -> None:
        link.happened(ActorEvent.CRASHED, text)
        link.restarts = recipe.restarts.done
        if self.on_restart is not None:
            self.on_restart(link, recipe.restarts)

    def _again(self, identifier: ActorId) -> None:
        link = self.runtime.directory.own(identifier)
        recipe = self._recipes.get(identifier)
        if link is None or recipe is None or self.runtime.gone:
            return
        if link.life is ActorState.RESTARTING:
            self.runtime.maker.make(link, recipe)

    def __repr__(self) -> str:
        return f"<Restarter actors={len(self._recipes)}>"
