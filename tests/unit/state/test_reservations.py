from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from actorlite.resources import ResourceSet
from actorlite.state.reservations import Reservations


def cpus(number: float) -> ResourceSet:
    return ResourceSet.from_floats({"CPU": number})


def reservations() -> Reservations[ResourceSet]:
    return Reservations(lambda size: size)


def test_bundles_are_set_aside_committed_and_given_back() -> None:
    mine = reservations()
    assert mine.prepare("g", 1, [(0, cpus(1)), (2, cpus(2))], cpus(4)) == ""
    assert mine.total == cpus(3)
    assert mine.bundles_of("g") == [], "nobody may use what is not committed"
    assert mine.commit("g", 1)
    assert [each.index for each in mine.bundles_of("g")] == [0, 2]
    assert [each.table for each in mine.bundles_of("g", 2)] == [cpus(2)]
    assert mine.bundles_of("g", 1) == []
    assert [each.index for each in mine.give_back("g", 1)] == [0, 2]
    assert not mine.total
    assert mine.bundles_of("g") == []


def test_all_or_none_of_what_is_asked_for() -> None:
    mine = reservations()
    assert mine.prepare("g", 1, [(0, cpus(1)), (1, cpus(2))], cpus(2)) == "CPU: 3 was asked for, CPU: 2 is free"
    assert not mine.total


def test_what_is_said_twice_or_too_late_changes_nothing() -> None:
    mine = reservations()
    for _ in range(2):
        assert mine.prepare("g", 1, [(0, cpus(2))], cpus(2)) == ""
    assert mine.total == cpus(2)
    assert mine.prepare("g", 2, [(0, cpus(2))], cpus(2)) == "bundle 0 is here already, by attempt 1"
    assert mine.commit("g", 1)
    assert mine.commit("g", 1)
    assert not mine.commit("g", 2)
    assert len(mine.give_back("g", 1)) == 1
    assert mine.give_back("g", 1) == []
    assert mine.prepare("g", 1, [(0, cpus(2))], cpus(2)) == "attempt 1 was given back"
    mine.give_back("g", 2)
    assert mine.prepare("g", 2, [(0, cpus(2))], cpus(2)) == "attempt 2 was given back", "the return came first"
    assert mine.prepare("g", 3, [(0, cpus(2))], cpus(2)) == ""
    assert mine.give_back("g", 2) == []
    assert mine.total == cpus(2)


@given(st.integers(0, 2**64))
def test_in_whatever_order_messages_come_what_was_given_back_is_free(seed: int) -> None:
    luck = random.Random(seed)
    mine, total = reservations(), cpus(8)
    messages = [(what, group, epoch) for group in "ab" for epoch in (1, 2) for what in ("prepare", "commit", "return")]
    messages += luck.choices(messages, k=4)
    luck.shuffle(messages)
    for what, group, epoch in messages:
        if what == "prepare":
            mine.prepare(group, epoch, [(epoch, cpus(luck.randint(1, 4)))], total.acquire(mine.total))
        elif what == "commit":
            mine.commit(group, epoch)
        else:
            mine.give_back(group, epoch)
        assert total.fits(mine.total)
    assert not mine.total
