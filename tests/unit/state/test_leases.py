from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.resources import CPU, GPU, NOTHING, ONE_CPU, UNITS_PER_ONE, ResourceSet
from actorlite.state.asking import wanted_back
from actorlite.state.leases import LeaseTable
from actorlite.state.queues import LeaseRequest
from actorlite.state.turns import PATIENCE

from .leasing import ask, numbers, some, table_of

ONE = UNITS_PER_ONE
HISTORIES = int(os.environ.get("ACTORLITE_HISTORIES", "20"))
"""Random histories of each kind per run; the number that is promised is 10 000."""
MANY = settings(max_examples=HISTORIES, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


def test_what_fits_is_granted_at_once_and_the_rest_in_order():
    table = table_of(2)
    assert [numbers(table.request(ask(n))) for n in (1, 2, 3, 4)] == [[1], [2], [], []]
    assert repr(table) == "<LeaseTable free={nothing} of {CPU: 2} held=2 waiting=2>"
    assert numbers(table.release(1)) == [3]
    assert numbers(table.release(2)) == [4]


def test_a_large_request_does_not_hold_up_small_ones():
    table = table_of(2)
    table.request(ask(1))
    assert table.request(ask(2, some(2))) == []
    assert numbers(table.request(ask(3))) == [3]


def test_a_large_request_is_overtaken_so_often_only():
    table = table_of(2)
    table.request(ask(1))
    table.request(ask(2, some(2)))
    for number in range(3, 3 + PATIENCE):
        assert numbers(table.request(ask(number))) == [number]
        table.release(number)
    assert table.request(ask(100)) == [], "there is room, but it is kept for the large one"
    assert numbers(table.release(1)) == [2]
    assert numbers(table.release(2)) == [100]


def test_what_is_kept_for_requests_is_told_as_far_as_it_is_free_and_without_what_is_kept_for_groups():
    table = table_of(4)
    table.request(ask(1, some(2)))
    assert not table.turns.waited()
    table.request(ask(2, some(3)))
    for number in range(3, 3 + PATIENCE):
        table.request(ask(number))
        table.release(number)
    assert table.turns.waited() == some(2)
    table.turns.keep("g", some(1))
    table.turns.pressing["g"] = None
    assert table.turns.kept() == some(1) and table.turns.waited() == some(1)
    assert numbers(table.release(1)) == [2]
    assert not table.turns.waited()


def test_what_was_kept_for_a_request_is_kept_no_more_when_it_is_served():
    table = table_of(4)
    table.request(ask(1, some(2)))
    table.request(ask(2, some(3)))
    for number in range(3, 3 + PATIENCE):
        table.request(ask(number))
        table.release(number)
    assert table.request(ask(100)) == []
    assert numbers(table.release(1)) == [2, 100]


def test_nothing_is_kept_for_what_will_not_fit_as_long_as_an_actor_lives():
    table = table_of(2)
    table.request(ask(1, purpose="actor"))
    table.request(ask(2, some(2)))
    for number in range(3, 10 + PATIENCE):
        assert numbers(table.request(ask(number))) == [number]
        table.release(number)
    table.request(ask(100))
    assert table.release(1) == [], "now it would fit some day"
    assert table.request(ask(101)) == []
    assert numbers(table.release(100)) == [2]


def test_nothing_is_kept_for_what_will_not_fit_until_a_waiting_task_goes_on():
    table = table_of(2, GPU=1)
    table.request(ask(1, some(1, GPU=1)))
    table.lend(1)
    table.request(ask(2, some(2, GPU=1)))
    for number in range(3, 10 + PATIENCE):
        assert numbers(table.request(ask(number))) == [number], "what the first one waits for may be among them"
        table.release(number)


def test_what_is_kept_leaves_the_rest_to_others():
    table = table_of(4, GPU=1)
    table.request(ask(1, some(1, GPU=1)))
    table.request(ask(2, some(2, GPU=1)))
    for number in range(3, 3 + PATIENCE):
        table.request(ask(number))
        table.release(number)
    assert numbers(table.request(ask(50))) == [50], "two of three are kept"
    assert table.request(ask(51)) == []
    assert numbers(table.request(ask(52, some(0, x=0)))) == [52], "what needs nothing of it goes"


def test_jobs_take_turns():
    table = table_of(1)
    table.request(ask(1))
    for number in range(2, 6):
        table.request(ask(number, job="a"))
    for number in range(6, 9):
        table.request(ask(number, job="b"))
    order = []
    held = 1
    while granted := numbers(table.release(held)):
        (held,) = granted
        order.append(held)
    assert order == [2, 6, 3, 7, 4, 8, 5]


def test_a_job_goes_to_what_fits_and_the_turn_is_not_lost():
    table = table_of(2)
    table.request(ask(1))
    table.request(ask(2))
    table.request(ask(3, some(2), job="a"))
    table.request(ask(4, job="b"))
    table.request(ask(5, job="a"))
    assert numbers(table.release(1)) == [5], "the turn is a's, whose older request does not fit"
    assert numbers(table.release(2)) == [4]


def test_when_the_process_of_a_request_is_lost_those_behind_it_are_granted():
    table = table_of(2)
    table.request(ask(1, owner="a"))
    table.request(ask(2, some(2), owner="b"))
    table.request(ask(3, some(2), owner="c"))
    assert table.owner_lost("b") == ([2], [])
    assert table.owner_lost("a") == ([], []) and list(table.held) == [1], "its worker may still run"
    assert numbers(table.release(1)) == [3]


def test_a_request_that_is_not_waiting_cannot_be_withdrawn():
    table = table_of(1)
    table.request(ask(1))
    assert table.withdraw(1) is None
    assert table.withdraw(7) is None


def test_what_was_kept_for_a_request_is_free_when_it_is_withdrawn():
    table = table_of(2)
    table.request(ask(1))
    table.request(ask(2, some(2)))
    for number in range(3, 3 + PATIENCE):
        table.request(ask(number))
        table.release(number)
    table.request(ask(100))
    assert numbers(table.withdraw(2)) == [100]


def test_an_actor_needs_room_to_start_and_holds_none():
    table = table_of(1)
    assert [numbers(table.request(ask(n, holds=NOTHING))) for n in (1, 2)] == [[1], [2]]
    table.request(ask(3))
    assert table.request(ask(4, holds=NOTHING)) == [], "no room to start"
    assert not table.free_now()


def test_releasing_twice_frees_once():
    table = table_of(1)
    table.request(ask(1))
    table.release(1)
    assert table.release(1) == []
    assert table.free == {CPU: ONE}


def test_a_task_that_waits_lends_its_cpu_and_takes_it_back_at_once():
    table = table_of(1)
    table.request(ask(1))
    table.request(ask(2))
    assert numbers(table.lend(1)) == [2]
    assert table.lend(1) == [], "lent already"
    table.take_back(1)
    table.take_back(1)
    assert table.free == {CPU: -ONE}, "both run for a while"
    assert not table.free_now()
    table.check()
    assert [lease.number for lease in wanted_back(table, 0)] == [2], "the latest, so that it ends soon"
    assert wanted_back(table, 0) == wanted_back(table, 0) == [], "it is expected"
    assert [lease.number for lease in wanted_back(table, 0)] == [1], "what runs there takes long"
    table.release(2)
    assert table.free == {CPU: 0}


def test_only_the_cpu_is_lent():
    table = table_of(1, GPU=1, x=1)
    table.request(ask(1, some(1, GPU=1, x=1)))
    table.lend(1)
    assert table.free == {CPU: ONE, GPU: 0, "x": 0}


def test_a_lent_lease_frees_the_rest_when_it_is_returned():
    table = table_of(1, x=1)
    table.request(ask(1, some(1, x=1)))
    table.lend(1)
    table.release(1)
    assert table.free_now() == table.total


def test_lending_what_nobody_holds_does_nothing():
    table = table_of(1)
    assert table.lend(1) == []
    table.take_back(1)
    assert table.free_now() == table.total


def test_what_a_lost_process_holds_stays_held_until_it_is_released():
    table = table_of(2)
    for number, owner in enumerate("aabba"):
        table.request(ask(number, owner=owner))
    assert table.owner_lost("a") == ([4], [])
    assert list(table.held) == [0, 1]
    assert [numbers(table.release(number)) for number in (0, 1)] == [[2], [3]]
    assert not table.waiting


@pytest.mark.parametrize(
    ("needs", "missing"),
    [
        (some(0), NOTHING),
        (some(2), NOTHING),
        (some(2.5), some(0.5)),
        (some(1, GPU=3, x=1), some(0, GPU=2, x=1)),
    ],
)
def test_the_shortfall_is_what_the_whole_node_lacks(needs, missing):
    table = table_of(2, GPU=1)
    table.request(ask(1))
    assert table.shortfall(needs) == missing


def test_gpus_are_devices():
    table = table_of(8, GPU=2)
    table.request(ask(1, some(0, GPU=0.5)))
    table.request(ask(2, some(0, GPU=0.5)))
    assert [table.held[number].share for number in (1, 2)] == [((0, 5000),), ((0, 5000),)], "packed"
    table.request(ask(3, some(0, GPU=1)))
    assert table.held[3].share == ((1, ONE),)
    table.release(1)
    assert table.request(ask(4, some(0, GPU=1))) == [], "a whole one is not shared"
    assert numbers(table.release(2)) == [4]
    assert table.held[4].share == ((0, ONE),)
    table.check()


def test_half_of_two_devices_is_no_whole_one():
    table = table_of(0, GPU=2)
    for number in range(4):
        table.request(ask(number, some(0, GPU=0.5)))
    table.release(0)
    table.release(2)
    assert table.free == {GPU: ONE}
    assert table.request(ask(9, some(0, GPU=1))) == []
    assert numbers(table.release(1)) == [9]


def test_demand_and_holders_are_told_by_shape():
    table = table_of(2)
    for number in range(4):
        table.request(ask(number))
    table.request(ask(4, some(2, x=1)))
    assert table.room.demand() == [(ONE_CPU.pairs, 2), (some(2, x=1).pairs, 1)]
    table.lend(0)
    assert table.holders() == [("task f", ONE_CPU.pairs, 2)], "and one that holds nothing now"


def test_a_job_that_has_all_is_asked_to_give_some_back():
    table = table_of(2)
    for number in range(1, 5):
        table.request(ask(number, owner="a"))
    assert wanted_back(table, 4) == [], "it waits for itself"
    table.request(ask(5, owner="b", job="other"))
    assert wanted_back(table, 4) == [], "it has not waited long"
    assert [lease.number for lease in wanted_back(table, 5)] == [1]
    assert wanted_back(table, 5) == [], "one is enough"
    table.release(1)
    assert {3, 5} & table.held.keys()


def test_owners_with_equal_shares_keep_them():
    table = table_of(2)
    for number, owner in enumerate("abab"):
        table.request(ask(number, owner=owner, job=owner))
    assert wanted_back(table, 9) == []


def test_another_shape_is_made_room_for():
    table = table_of(2)
    for number in range(1, 5):
        table.request(ask(number))
    table.request(ask(5, some(2)))
    assert [lease.number for lease in wanted_back(table, 5)] == [1, 2]


def test_nobody_is_asked_when_that_would_not_do():
    table = table_of(2)
    table.request(ask(1, purpose="actor"))
    table.request(ask(2))
    table.request(ask(3, some(2), owner="b"))
    assert wanted_back(table, 9) == [], "the actor keeps what it has"


def test_check_finds_a_unit_that_went_astray():
    table = table_of(1)
    table.free[CPU] -= 1
    with pytest.raises(AssertionError, match="CPU: free 9999 . held 0 is not 10000"):
        table.check()


NAMES = (CPU, GPU, "x")
TOTAL = st.fixed_dictionaries({CPU: st.integers(0, 3), GPU: st.integers(0, 2), "x": st.integers(0, 2)})
SHARES = st.sampled_from([0, 1, 2, 3, 4])


class LeaseMachine(RuleBasedStateMachine):
    """Every unit is accounted for, nothing is used twice, and what fits does not wait, unless it is kept for others."""

    lends = True

    @initialize(total=TOTAL)
    def make(self, total: dict[str, int]) -> None:
        self.table = LeaseTable(ResourceSet({name: count * ONE for name, count in total.items()}))
        self.number = 0

    @rule(data=st.data(), owner=st.sampled_from("ab"), job=st.sampled_from("jk"), purpose=st.sampled_from("ta"))
    def request(self, data: st.DataObject, owner: str, job: str, purpose: str) -> None:
        needs = {
            name: data.draw(st.integers(0, 2 * self.table.total.units_of(name) // ONE)) * ONE // 2 for name in NAMES
        }
        if needs[GPU] > ONE:
            needs[GPU] = needs[GPU] // ONE * ONE
        wanted = ResourceSet(needs)
        holds = wanted.without(CPU) if data.draw(st.booleans()) else wanted
        self.number += 1
        before = set(self.table.waiting) | {self.number}
        self.granted(
            before,
            self.table.request(ask(self.number, wanted, holds, owner, {"t": "task", "a": "actor"}[purpose], job)),
        )

    @precondition(lambda self: self.table.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.table.held)))
        before = set(self.table.waiting)
        self.granted(before, self.table.release(number))
        assert number not in self.table.held

    @precondition(lambda self: self.lends and self.table.held)
    @rule(data=st.data(), lend=st.booleans())
    def lend_or_take_back(self, data: st.DataObject, lend: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.table.held)))
        before = set(self.table.waiting)
        if lend:
            self.granted(before, self.table.lend(number))
        else:
            self.table.take_back(number)

    @precondition(lambda self: self.table.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.table.waiting)))
        before = set(self.table.waiting) - {number}
        self.granted(before, self.table.withdraw(number))

    @rule(owner=st.sampled_from("ab"))
    def lose(self, owner: str) -> None:
        before = {number for number, request in self.table.waiting.items() if request.owner != owner}
        waited = self.table.waiting.keys() - before
        held = dict(self.table.held)
        forgotten, granted = self.table.owner_lost(owner)
        self.granted(before, granted)
        assert set(forgotten) == waited and held.items() <= self.table.held.items()
        for number, lease in held.items():
            if lease.owner == owner:
                before = set(self.table.waiting)
                self.granted(before, self.table.release(number))
        assert all(each.owner != owner for each in [*self.table.held.values(), *self.table.waiting.values()])

    @rule(group=st.sampled_from("gh"), cpus=st.integers(0, 3), x=st.integers(0, 2))
    def keep(self, group: str, cpus: int, x: int) -> None:
        """A group waits, or does not any more."""
        before = set(self.table.waiting)
        self.table.turns.keep(group, some(cpus, x=x))
        self.granted(before, self.table.grant())
        kept = self.table.turns.kept()
        assert self.table.turns.for_groups().fits(kept)

    @precondition(lambda self: self.table.turns.keeps)
    @rule(data=st.data(), whole=st.booleans())
    def claim(self, data: st.DataObject, whole: bool) -> None:
        """A group takes what it waits for, or some of it."""
        group = data.draw(st.sampled_from(sorted(self.table.turns.keeps)))
        size = self.table.turns.keeps[group].size
        self.number += 1
        before = set(self.table.waiting)
        size = size if whole else size.only("x")
        if self.table.claim(LeaseRequest(self.number, "a", size, size, "bundle"), group):
            self.table.turns.took(group)
            self.granted(before, self.table.grant())
        assert self.number not in self.table.waiting

    @rule(group=st.sampled_from("gh"))
    def give_back(self, group: str) -> None:
        self.table.turns.gave_back(group)

    @rule()
    def ask_back(self) -> None:
        found = wanted_back(self.table, self.number)
        assert all(not lease.stays and not lease.lent for lease in found)
        again = wanted_back(self.table, self.number)
        assert not {lease.number for lease in found} & {lease.number for lease in again}, "named once"

    def granted(self, waiting: set[int], granted: list[LeaseRequest] | None) -> None:
        assert granted is not None
        given = set(numbers(granted))
        assert len(given) == len(granted)
        assert given <= waiting and self.table.waiting.keys() == waiting - given
        assert all(each.number in self.table.held for each in granted)

    @invariant()
    def accounted_for(self) -> None:
        if not hasattr(self, "table"):
            return
        table = self.table
        table.check()
        assert table.held.keys().isdisjoint(table.waiting)
        assert all(units >= 0 for name, units in table.free.items() if name != CPU), "only CPU is lent"
        assert all(0 <= free <= ONE for free in table.devices.free)
        users = [sum(1 for lease in table.held.values() for i, _ in lease.share if i == index) for index in range(3)]
        for lease in table.held.values():
            whole = lease.request.holds.units_of(GPU) >= ONE
            assert all(users[index] == 1 for index, _ in lease.share if whole), "a whole device is not shared"
        if not table.turns.pressing:
            for request in table.waiting.values():
                assert not fits(table, request), "it fits and waits"

    def teardown(self) -> None:
        if hasattr(self, "table"):
            for group in "gh":
                self.table.turns.keep(group, NOTHING)
            for owner in "ab":
                self.table.owner_lost(owner)
            for number in list(self.table.held):
                self.table.release(number)
            assert self.table.free_now() == self.table.total and not self.table.waiting


def fits(table: LeaseTable, request: LeaseRequest) -> bool:
    return all(
        table.devices.fits(units) if name == GPU else table.turns.room(name, request.kind[1]) >= units
        for name, units in request.needs.items()
    )


class NothingLent(LeaseMachine):
    """Without lending, what is held never exceeds the node."""

    lends = False

    @invariant()
    def within_the_node(self) -> None:
        assert not hasattr(self, "table") or all(units >= 0 for units in self.table.free.values())


TestLeaseMachine = LeaseMachine.TestCase
TestLeaseMachine.settings = MANY
TestNothingLent = NothingLent.TestCase
TestNothingLent.settings = MANY


@given(st.integers(0, 10**9), st.integers(1, 4), st.integers(0, 4))
@MANY
def test_nothing_that_fits_the_node_starves(seed: int, cpus: int, gpus: int) -> None:
    """Small requests keep coming, always more than there is room for; tasks end in any order, but they end."""
    luck = random.Random(seed)
    table = table_of(cpus, GPU=gpus)
    ends: dict[int, int] = {}
    shapes = [some(1), some(0.5), some(cpus, GPU=gpus), some(cpus)]
    shapes += [some(0.5, GPU=0.5), some(0, GPU=1)] if gpus else []
    waited: dict[int, int] = {}
    for step in range(1, 1200):
        kind = luck.choices(shapes, [6, 6, 1, 1, *([4, 1] if gpus else [])])[0]
        if len(table.waiting) < 30:
            waited[step] = step
            granted = table.request(ask(step, kind, owner=luck.choice("ab"), job=luck.choice("jk")))
        else:
            granted = []
        for number in [number for number, end in ends.items() if end <= step]:
            del ends[number]
            granted += table.release(number)
        for each in granted:
            ends[each.number] = step + luck.randint(1, 4)
            del waited[each.number]
        table.check()
        oldest = min(waited, default=step)
        assert step - oldest < 600, f"{table.waiting[oldest]} waits since {oldest}: {table!r}"


def test_many_requests_wait():
    table = table_of(4)
    for number in range(200_000):
        table.request(ask(number, job="jk"[number % 2]))
    for number in range(1_000):
        assert len(table.release(number)) == 1
    assert len(table.waiting) == 200_000 - 4 - 1_000


def test_what_is_free_in_parts_of_devices_is_not_granted_as_a_whole_one():
    table = table_of(4, GPU=3)
    for number in range(3):
        table.request(ask(number, some(0, GPU=0.6)))
    assert table.free_now().fits(some(1, GPU=1)) and not table.turns.would_grant(some(1, GPU=1), lasts=False)
    assert table.turns.would_grant(some(1, GPU=0.4), lasts=False)
    table.release(0)
    assert table.turns.would_grant(some(1, GPU=1), lasts=False)
