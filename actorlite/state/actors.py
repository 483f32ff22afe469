"""An actor's life as its creator sees it: a transition table (Ray's states, A-43), and when it gets another one."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from actorlite.state.retries import Backoff


class ActorState(Enum):
    PENDING_CREATION = "PENDING_CREATION"
    """No worker yet, or the constructor has not returned."""
    ALIVE = "ALIVE"
    RESTARTING = "RESTARTING"
    """Its worker is gone, and it is being made anew; in a process that did not create it: perhaps."""
    DEAD = "DEAD"


class ActorEvent(Enum):
    STARTED = "started"
    """The constructor and `on_start` returned."""
    FAILED = "failed"
    """The constructor or `on_start` raised, or no worker could be had."""
    CRASHED = "crashed"
    """The worker ended, and the actor may restart."""
    LOST = "lost"
    """The worker ended, and no restart is left; or the owner is gone."""
    KILLED = "killed"
    """`al.kill`, or the end of the session."""
    ENDED = "ended"
    """It left by itself, was terminated, or nobody held it any more."""


class DeathCause(Enum):
    """Why an actor is dead."""

    INIT_FAILED = "INIT_FAILED"
    """Its constructor or `on_start` raised, or no worker could be had for it."""
    CRASHED = "CRASHED"
    """Its worker ended, and no restart was left."""
    KILLED = "KILLED"
    """`al.kill`."""
    TERMINATED = "TERMINATED"
    """`al.terminate`."""
    EXITED = "EXITED"
    """`al.exit_actor` in one of its methods."""
    OUT_OF_SCOPE = "OUT_OF_SCOPE"
    """Nobody held a handle any more."""
    OWNER_DIED = "OWNER_DIED"
    """The process that created it is gone."""
    SESSION_ENDED = "SESSION_ENDED"
    NAME_TAKEN = "NAME_TAKEN"
    """Another actor had its name: it was never made."""
    GROUP_REMOVED = "PLACEMENT_GROUP_REMOVED"
    """The placement group that it was in, or was to be made in, is gone."""


_S, _E = ActorState, ActorEvent

TRANSITIONS: dict[tuple[ActorState, ActorEvent], ActorState] = {
    (_S.PENDING_CREATION, _E.STARTED): _S.ALIVE,
    (_S.PENDING_CREATION, _E.FAILED): _S.DEAD,
    (_S.PENDING_CREATION, _E.CRASHED): _S.RESTARTING,
    (_S.PENDING_CREATION, _E.LOST): _S.DEAD,
    (_S.PENDING_CREATION, _E.KILLED): _S.DEAD,
    (_S.PENDING_CREATION, _E.ENDED): _S.DEAD,
    (_S.ALIVE, _E.CRASHED): _S.RESTARTING,
    (_S.ALIVE, _E.LOST): _S.DEAD,
    (_S.ALIVE, _E.KILLED): _S.DEAD,
    (_S.ALIVE, _E.ENDED): _S.DEAD,
    (_S.RESTARTING, _E.STARTED): _S.ALIVE,
    (_S.RESTARTING, _E.FAILED): _S.DEAD,
    (_S.RESTARTING, _E.CRASHED): _S.RESTARTING,
    (_S.RESTARTING, _E.LOST): _S.DEAD,
    (_S.RESTARTING, _E.KILLED): _S.DEAD,
    (_S.RESTARTING, _E.ENDED): _S.DEAD,
    # What is dead stays dead: late news from a worker that was killed meanwhile.
    (_S.DEAD, _E.STARTED): _S.DEAD,
    (_S.DEAD, _E.FAILED): _S.DEAD,
    (_S.DEAD, _E.CRASHED): _S.DEAD,
    (_S.DEAD, _E.LOST): _S.DEAD,
    (_S.DEAD, _E.KILLED): _S.DEAD,
    (_S.DEAD, _E.ENDED): _S.DEAD,
}


class IllegalTransition(ValueError):
    """A state machine met an event that its table does not allow: a bug."""


def after(state: ActorState, event: ActorEvent) -> ActorState:
    """The state after `event`. Raises `IllegalTransition` with both in the text."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"an actor that is {state.value} cannot be {event.value}") from None


# --- restarts

RESTART_BACKOFF = Backoff(first_s=0.1, cap_s=10.0, free=1)
"""The first restart comes at once: most crashes are single ones."""

SETTLED_S = 10.0
"""An actor that lived this long has recovered: its next crash counts as a first one."""


class Restarts(Struct):
    """How often an actor may still be made anew, and how soon. `allowed` is -1 for without end."""

    allowed: int
    done: int = 0
    in_a_row: int = 0
    """Crashes without a settled life between them."""
    alive_since: float | None = None
    moves: int = 0
    """Of those done, because its node was drained: they do not count (Ray, FT-10)."""
    leaving: bool = False
    """Whether its node is about to leave."""

    @property
    def left(self) -> bool:
        """Whether it may be made anew once more."""
        return self.allowed < 0 or self.done - self.moves < self.allowed

    def moved(self) -> None:
        """It is made anew elsewhere, at once."""
        self.alive_since = None
        self.leaving = False
        self.done += 1
        self.moves += 1

    def started(self, now: float) -> None:
        self.alive_since = now

    def crashed(self, now: float, luck: float, backoff: Backoff = RESTART_BACKOFF) -> float | None:
        """The pause before it is made anew; None when no restart is left."""
        if self.leaving and self.allowed:
            self.moved()
            return 0.0
        if not self.left:
            return None
        if self.alive_since is not None and now - self.alive_since >= SETTLED_S:
            self.in_a_row = 0
        self.alive_since = None
        self.done += 1
        self.in_a_row += 1
        return backoff.delay_s(self.in_a_row, luck)
