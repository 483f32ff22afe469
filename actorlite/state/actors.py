"""An actor's life as its creator sees it: a transition table (Ray's states, A-43)."""

from __future__ import annotations

from enum import Enum


class ActorState(Enum):
    PENDING_CREATION = "PENDING_CREATION"
    """No worker yet, or the constructor has not returned."""
    ALIVE = "ALIVE"
    DEAD = "DEAD"


class ActorEvent(Enum):
    STARTED = "started"
    """The constructor and `on_start` returned."""
    FAILED = "failed"
    """The constructor or `on_start` raised, or no worker could be had."""
    LOST = "lost"
    """The worker ended."""
    KILLED = "killed"
    """`al.kill`, or the end of the session."""


_S, _E = ActorState, ActorEvent

TRANSITIONS: dict[tuple[ActorState, ActorEvent], ActorState] = {
    (_S.PENDING_CREATION, _E.STARTED): _S.ALIVE,
    (_S.PENDING_CREATION, _E.FAILED): _S.DEAD,
    (_S.PENDING_CREATION, _E.LOST): _S.DEAD,
    (_S.PENDING_CREATION, _E.KILLED): _S.DEAD,
    (_S.ALIVE, _E.LOST): _S.DEAD,
    (_S.ALIVE, _E.KILLED): _S.DEAD,
    # What is dead stays dead: late news from a worker that was killed meanwhile.
    (_S.DEAD, _E.STARTED): _S.DEAD,
    (_S.DEAD, _E.FAILED): _S.DEAD,
    (_S.DEAD, _E.LOST): _S.DEAD,
    (_S.DEAD, _E.KILLED): _S.DEAD,
}


class IllegalTransition(ValueError):
    """A state machine met an event that its table does not allow: a bug."""


def after(state: ActorState, event: ActorEvent) -> ActorState:
    """The state after `event`. Raises `IllegalTransition` with both in the text."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"an actor that is {state.value} cannot be {event.value}") from None
