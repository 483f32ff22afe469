from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.state.quota import Quota


def test_room_goes_to_the_one_who_waited_longest_and_nobody_barges_in():
    quota: Quota[str] = Quota(1, 100)
    quota.take(10)
    quota.wait("first", 10)
    quota.wait("second", 10)
    assert not quota.fits(0)
    quota.give(10)
    assert quota.turns() == ["first"]
    assert not quota.fits(0)
    assert repr(quota) == "<Quota calls=1/1 bytes=10 waiting=1>"


def test_what_is_larger_than_all_goes_alone():
    quota: Quota[str] = Quota(10, 100)
    assert quota.fits(1000)
    quota.take(1000)
    assert not quota.fits(1)


def test_who_leaves_lets_those_behind_go():
    quota: Quota[str] = Quota(10, 100)
    quota.take(90)
    quota.wait("large", 100)
    quota.wait("small", 10)
    assert quota.turns() == []
    assert quota.leave("large")
    assert quota.turns() == ["small"]
    assert not quota.leave("small"), "its turn had come: it holds room"


def test_calls_on_their_way_from_threads_count():
    quota: Quota[str] = Quota(2, 100)
    quota.posted = 2
    assert not quota.fits(1)


class QuotaMachine(RuleBasedStateMachine):
    """Within the bounds, in turn, and what was given back is used as long as somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.names = 0
        self.held: list[int] = []
        self.line: list[tuple[int, int]] = []

    @initialize(calls=st.integers(1, 4), size=st.integers(1, 30))
    def make(self, calls: int, size: int) -> None:
        self.quota: Quota[int] = Quota(calls, size)

    @rule(size=st.integers(0, 40))
    def ask(self, size: int) -> None:
        if self.quota.fits(size):
            assert not self.line
            self.quota.take(size)
            self.held.append(size)
        else:
            self.names += 1
            self.quota.wait(self.names, size)
            self.line.append((self.names, size))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        self.quota.give(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))
        self.turns()

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.line))
        self.line.remove(entry)
        assert self.quota.leave(entry[0])
        self.turns()

    def turns(self) -> None:
        for name in self.quota.turns():
            expected, size = self.line.pop(0)
            assert name == expected
            self.held.append(size)

    @invariant()
    def within_bounds(self) -> None:
        if hasattr(self, "quota"):
            assert (self.quota.calls, self.quota.bytes) == (len(self.held), sum(self.held))
            assert len(self.held) <= self.quota.max_calls
            assert sum(self.held) <= self.quota.max_bytes or len(self.held) == 1 or self.held.count(0)
            assert self.held or not self.line, "all wait for nobody"


TestQuotaMachine = QuotaMachine.TestCase
TestQuotaMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
