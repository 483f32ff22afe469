"""Calls of actors that were lost under way, or that met a worker without the actor: what their callers are told, or
whether they go again, once it is known what became of the actor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actorlite.errors import ActorUnavailableError, ConnectionLost, Outcome
from actorlite.runtime.actor_calls import ActorOut
from actorlite.runtime.calls import fail_with
from actorlite.state.actors import ActorState

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime


class Losses:
    """On the loop only."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self._runtime = runtime

    def disconnected(self, call: ActorOut, error: ConnectionLost) -> None:
        """The connection ended under the call."""
        if not call.ended:
            self._when_known(call, f"its connection was lost: {error}", error.outcome)

    def refused(self, call: ActorOut, text: str, outcome: Outcome) -> None:
        """The worker does not have the actor any more; its creator says whether it is dead or elsewhere."""
        link = call.link
        known = Outcome.UNKNOWN if call.may_have_run else outcome
        if link.life is ActorState.DEAD:
            # What its creator was told says more: why the constructor failed, or who killed it.
            call.end(link.death_failure(link.death, call.name + call.attempts, known))
        elif link.owner_address:
            self._when_known(call, text, outcome)
        elif link.life is ActorState.RESTARTING or link.peer is not call.peer:
            self._settle(call, text, outcome)
        else:
            # It ends: the news is under way.
            call.end(link.death_failure(text, call.name + call.attempts, known))

    def _when_known(self, call: ActorOut, text: str, outcome: Outcome) -> None:
        asking = self._runtime.spawn(self._ask(call))
        # Also when the end of the session cancels it before it has learnt anything.
        asking.add_done_callback(lambda task: self._settle(call, text, outcome, over=task.cancelled()))

    async def _ask(self, call: ActorOut) -> None:
        link, peer = call.link, call.peer
        if link.life is ActorState.DEAD or peer is None:
            return
        if not peer.is_open:
            await self._runtime.worker_lost(peer.identity.process)
        elif peer is link.peer:
            # The worker lives, without the actor.
            await self._runtime.lookups.lost(link, None)

    def _settle(self, call: ActorOut, text: str, outcome: Outcome, *, over: bool = False) -> None:
        if call.ended:
            return
        link = call.link
        if link.life is ActorState.DEAD:
            known = Outcome.UNKNOWN if call.may_have_run else outcome
            call.end(link.death_failure(link.death, call.name + call.attempts, known))
        elif call.unwanted:
            call.peer = None
            call.unsent()
            call.cancel()
        elif not over and not self._runtime.gone and call.goes_again(outcome):
            call.peer = None
            call.unsent()
            link.enqueue(call)
        else:
            outcome = Outcome.UNKNOWN if call.may_have_run else outcome
            what = f"{link!r} was lost while {call.name}() was under way{call.attempts} ({outcome.value})"
            state = "" if over else f"; it is {link.life.value} now"
            call.end(fail_with(ActorUnavailableError, f"{what}: {text}{state}", outcome=outcome))

    def __repr__(self) -> str:
        return "<Losses>"
