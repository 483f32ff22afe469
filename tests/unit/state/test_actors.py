from __future__ import annotations

import itertools

import pytest

from actorlite.state.actors import TRANSITIONS, ActorEvent, ActorState, IllegalTransition, after

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
