from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.state.leases import LeaseRequest, LeaseTable

CPU = 10_000


def ask(number: int, needs: int = CPU, holds: int | None = None, owner: str = "driver") -> LeaseRequest:
    return LeaseRequest(number, owner, needs, needs if holds is None else holds, "task")


def numbers(requests: list[LeaseRequest] | None) -> list[int]:
    assert requests is not None
    return [request.number for request in requests]


def test_what_fits_is_granted_at_once_and_the_rest_in_order():
    table = LeaseTable(2 * CPU)
    assert [numbers(table.request(ask(n))) for n in (1, 2, 3, 4)] == [[1], [2], [], []]
    assert repr(table) == "<LeaseTable free=0/20000 held=2 waiting=2>"
    assert numbers(table.release(1)) == [3]
    assert numbers(table.release(2)) == [4]


def test_a_large_request_is_not_overtaken_by_small_ones():
    table = LeaseTable(2 * CPU)
    table.request(ask(1))
    assert table.request(ask(2, needs=2 * CPU)) == []
    assert table.request(ask(3)) == [], "there is room for it, but it came later"
    assert numbers(table.release(1)) == [2]
    assert numbers(table.release(2)) == [3]


def test_when_a_large_request_is_withdrawn_those_behind_it_are_granted():
    table = LeaseTable(2 * CPU)
    table.request(ask(1))
    table.request(ask(2, needs=2 * CPU))
    table.request(ask(3))
    assert numbers(table.withdraw(2)) == [3]


def test_when_the_process_of_a_large_request_is_lost_those_behind_it_are_granted():
    table = LeaseTable(2 * CPU)
    table.request(ask(1, owner="a"))
    table.request(ask(2, needs=2 * CPU, owner="b"))
    table.request(ask(3, owner="a"))
    lost, granted = table.owner_lost("b")
    assert lost == [] and numbers(granted) == [3]


def test_a_request_that_is_not_waiting_cannot_be_withdrawn():
    table = LeaseTable(CPU)
    table.request(ask(1))
    assert table.withdraw(1) is None
    assert table.withdraw(7) is None


def test_an_actor_needs_room_to_start_and_holds_none():
    table = LeaseTable(CPU)
    assert [numbers(table.request(ask(n, needs=CPU, holds=0))) for n in (1, 2)] == [[1], [2]]
    table.request(ask(3))
    assert table.request(ask(4, needs=CPU, holds=0)) == [], "no room to start"
    assert table.free == 0


def test_releasing_twice_frees_once():
    table = LeaseTable(CPU)
    table.request(ask(1))
    table.release(1)
    assert table.release(1) == []
    assert table.free == CPU


def test_a_task_that_waits_lends_its_units_and_takes_them_back_at_once():
    table = LeaseTable(CPU)
    table.request(ask(1))
    table.request(ask(2))
    assert numbers(table.lend(1)) == [2]
    assert table.lend(1) == [], "lent already"
    table.take_back(1)
    table.take_back(1)
    assert table.free == -CPU, "both run for a while"
    table.check()
    table.release(2)
    assert table.free == 0


def test_a_lent_lease_frees_nothing_when_it_is_returned():
    table = LeaseTable(CPU)
    table.request(ask(1))
    table.lend(1)
    table.release(1)
    assert table.free == CPU


def test_lending_what_nobody_holds_does_nothing():
    table = LeaseTable(CPU)
    assert table.lend(1) == []
    table.take_back(1)
    assert table.free == CPU


def test_everything_of_a_lost_process_is_freed():
    table = LeaseTable(2 * CPU)
    for number, owner in enumerate("aabba"):
        table.request(ask(number, owner=owner))
    lost, granted = table.owner_lost("a")
    assert [lease.number for lease in lost] == [0, 1]
    assert numbers(granted) == [2, 3], "and not the request of the lost process"
    assert not table.waiting


@pytest.mark.parametrize(("needs", "missing"), [(0, 0), (2 * CPU, 0), (2 * CPU + 1, 1)])
def test_the_shortfall_is_what_the_whole_node_lacks(needs, missing):
    table = LeaseTable(2 * CPU)
    table.request(ask(1))
    assert table.shortfall(needs) == missing


def test_check_finds_a_unit_that_went_astray():
    table = LeaseTable(CPU)
    table.free -= 1
    with pytest.raises(AssertionError, match="free 9999 . held 0 is not the total 10000"):
        table.check()


class LeaseMachine(RuleBasedStateMachine):
    """Every unit is accounted for, grants come in order, and nobody waits while the first in the queue fits."""

    @initialize(total=st.integers(1, 6))
    def make(self, total: int) -> None:
        self.table = LeaseTable(total)
        self.number = 0
        self.owners: dict[int, str] = {}

    @rule(data=st.data(), owner=st.sampled_from("ab"))
    def request(self, data: st.DataObject, owner: str) -> None:
        needs = data.draw(st.integers(0, self.table.total))
        holds = data.draw(st.integers(0, needs))
        self.number += 1
        before = [*self.table.waiting, self.number]
        self.in_order(before, self.table.request(ask(self.number, needs, holds, owner)))

    @precondition(lambda self: self.table.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.table.held)))
        before = list(self.table.waiting)
        self.in_order(before, self.table.release(number))
        assert number not in self.table.held

    @precondition(lambda self: self.table.held)
    @rule(data=st.data(), lend=st.booleans())
    def lend_or_take_back(self, data: st.DataObject, lend: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.table.held)))
        before = list(self.table.waiting)
        if lend:
            self.in_order(before, self.table.lend(number))
        else:
            self.table.take_back(number)

    @precondition(lambda self: self.table.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.table.waiting)))
        before = [each for each in self.table.waiting if each != number]
        granted = self.table.withdraw(number)
        assert granted is not None
        self.in_order(before, granted)

    @rule(owner=st.sampled_from("ab"))
    def lose(self, owner: str) -> None:
        before = [number for number, request in self.table.waiting.items() if request.owner != owner]
        lost, granted = self.table.owner_lost(owner)
        self.in_order(before, granted)
        assert all(lease.owner == owner for lease in lost)
        everything = [*self.table.held.values(), *self.table.waiting.values()]
        assert all(each.owner != owner for each in everything)

    def in_order(self, waiting: list[int], granted: list[LeaseRequest]) -> None:
        assert numbers(granted) == waiting[: len(granted)]
        assert list(self.table.waiting) == waiting[len(granted) :]

    @invariant()
    def accounted_for(self) -> None:
        if hasattr(self, "table"):
            self.table.check()
            taken = sum(lease.holds for lease in self.table.held.values() if not lease.lent)
            lent = sum(lease.holds for lease in self.table.held.values() if lease.lent)
            assert taken <= self.table.total or self.table.free < 0
            assert lent >= 0 and self.table.held.keys().isdisjoint(self.table.waiting)
            first = next(iter(self.table.waiting.values()), None)
            assert first is None or first.needs > self.table.free, "the first in the queue fits and waits"


class NothingLent(LeaseMachine):
    """Without lending, what is held never exceeds the node."""

    @rule()
    def lend_or_take_back(self) -> None:
        assert 0 <= self.table.free <= self.table.total


TestLeaseMachine = LeaseMachine.TestCase
TestLeaseMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestNothingLent = NothingLent.TestCase
TestNothingLent.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
