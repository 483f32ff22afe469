from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorlite.state.actors import (
    SETTLED_S,
    TRANSITIONS,
    ActorEvent,
    ActorState,
    IllegalTransition,
    Restarts,
    after,
)
from actorlite.state.retries import Backoff

S, E = ActorState, ActorEvent

LIVES = [
    ([], S.PENDING_CREATION),
    ([E.STARTED], S.ALIVE),
    ([E.FAILED], S.DEAD),
    ([E.LOST], S.DEAD),
    ([E.KILLED], S.DEAD),
    ([E.STARTED, E.LOST], S.DEAD),
    ([E.STARTED, E.KILLED], S.DEAD),
    ([E.KILLED, E.STARTED], S.DEAD),
    ([E.STARTED, E.KILLED, E.LOST], S.DEAD),
    ([E.CRASHED], S.RESTARTING),
    ([E.STARTED, E.CRASHED, E.STARTED], S.ALIVE),
    ([E.STARTED, E.CRASHED, E.CRASHED, E.LOST], S.DEAD),
    ([E.STARTED, E.CRASHED, E.FAILED], S.DEAD),
    ([E.STARTED, E.ENDED, E.CRASHED], S.DEAD),
]
ILLEGAL = {(S.ALIVE, E.STARTED), (S.ALIVE, E.FAILED)}


@pytest.mark.parametrize(("events", "end"), LIVES)
def test_lives(events, end):
    state = S.PENDING_CREATION
    for event in events:
        state = after(state, event)
    assert state is end


def test_the_table_says_something_about_every_pair():
    assert set(itertools.product(ActorState, ActorEvent)) - TRANSITIONS.keys() == ILLEGAL


@pytest.mark.parametrize(("state", "event"), sorted(ILLEGAL, key=repr))
def test_illegal_events_name_state_and_event(state, event):
    with pytest.raises(IllegalTransition, match=f"{state.value} cannot be {event.value}"):
        after(state, event)


@pytest.mark.parametrize("event", ActorEvent)
def test_the_dead_stay_dead(event):
    assert after(S.DEAD, event) is S.DEAD


def test_every_state_can_be_reached_and_every_life_can_end():
    reached = {S.PENDING_CREATION} | set(TRANSITIONS.values())
    assert reached == set(ActorState)
    assert all(TRANSITIONS[state, E.KILLED] is S.DEAD for state in ActorState)


PAUSES = Backoff(1.0, 8.0, 1)


@given(st.integers(0, 20), st.lists(st.tuples(st.booleans(), st.floats(0, 2 * SETTLED_S)), max_size=40))
def test_restarts_are_counted_and_paced(allowed, lives):
    restarts = Restarts(allowed)
    now = 0.0
    granted = 0
    for started, lived in lives:
        began = now
        if started:
            restarts.started(now)
        now += lived
        pause = restarts.crashed(now, 0.0, PAUSES)
        if pause is None:
            assert granted == allowed
            continue
        granted += 1
        assert 0 <= pause <= PAUSES.cap_s
        if started and now - began >= SETTLED_S:  # as it is rounded
            assert pause == 0
        now += pause
    assert restarts.done == granted <= allowed


def test_crashes_in_a_row_pause_longer_and_a_settled_life_forgives():
    restarts = Restarts(-1)
    assert [restarts.crashed(0.0, 0.0, PAUSES) for _ in range(5)] == [0.0, 0.5, 1.0, 2.0, 4.0]
    restarts.started(100.0)
    assert restarts.crashed(100.0 + SETTLED_S, 0.0, PAUSES) == 0.0


def test_a_move_to_another_node_uses_up_no_restart():
    restarts = Restarts(1)
    for _ in range(5):
        restarts.moved()
    assert restarts.left
    assert restarts.done == restarts.moves == 5
    assert restarts.crashed(0.0, 0.0) == 0.0
    assert not restarts.left
    # Its node is about to leave: that it is lost before it has moved does not count either.
    restarts.leaving = True
    assert restarts.crashed(0.0, 0.0) == 0.0
    assert not restarts.leaving
    assert restarts.crashed(0.0, 0.0) is None


def test_what_may_never_be_made_anew_does_not_move_either():
    restarts = Restarts(0, leaving=True)
    assert not restarts.left
    assert restarts.crashed(0.0, 0.0) is None
