from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.state.crowd import Crowd, Grant
from actorlite.state.pace import Pace


def test_a_refused_caller_is_refused_until_it_was_given_room():
    crowd: Crowd[str] = Crowd(4, 100)
    assert crowd.refuses("a", 1, False)
    assert crowd.refuses("a", 1, True), "its later calls may not overtake"
    crowd.waits("a")
    assert crowd.grants(4, 4) == []
    assert crowd.grants(3, 3) == [Grant("a", 1, 97)]
    assert not crowd.refuses("a", 1, False)
    assert crowd.refuses("a", 1, True), "more than it was given"
    crowd.waits("a")
    crowd.leaves("a")
    assert crowd.is_over


def test_others_wait_behind_those_who_wait_and_room_is_shared():
    crowd: Crowd[str] = Crowd(8, 800)
    assert crowd.refuses("a", 1, False)
    crowd.waits("a")
    assert crowd.refuses("b", 1, True)
    crowd.waits("b")
    assert crowd.grants(0, 0) == [Grant("a", 4, 400), Grant("b", 4, 400)]
    assert crowd.refuses("c", 1, True), "what was given to others is not free"
    assert crowd.callers == ["c"]
    assert repr(crowd) == "<Crowd held=1 waiting=0 granted=2>"


def test_pace_is_learned_from_ends_while_others_wait():
    pace = Pace()
    assert pace.least_s(10) == 0.0
    pace.ended(1.0, False)
    pace.waits(2.0)
    pace.waits(2.5)
    pace.ended(3.0, True)
    assert pace.interval_s == 1.0
    pace.ended(5.0, False)
    assert pace.interval_s == 1.2
    assert pace.least_s(4) == 6.0
    assert repr(pace) == "<Pace 1200.000 ms>"


class CrowdMachine(RuleBasedStateMachine):
    """Callers and a mailbox with messages in flight both ways: the calls of each arrive in order, none is lost, the
    bound holds, and in the end everybody is served."""

    def __init__(self) -> None:
        super().__init__()
        self.crowd: Crowd[int] | None = None
        self.box: deque[tuple[int, int]] = deque()
        self.numbers = [0, 0, 0]
        self.taken = [0, 0, 0]
        self.outbox: list[deque[int]] = [deque() for _ in range(3)]
        self.returned: list[deque[int] | None] = [None] * 3
        self.up: list[deque[tuple[str, int]]] = [deque() for _ in range(3)]
        self.down: list[deque[tuple[str, int]]] = [deque() for _ in range(3)]

    @initialize(bound=st.integers(1, 6))
    def make(self, bound: int) -> None:
        self.bound = bound

    @rule(who=st.integers(0, 2), count=st.integers(1, 4))
    def call(self, who: int, count: int) -> None:
        for _ in range(count):
            self.outbox[who].append(self.numbers[who])
            self.numbers[who] += 1
        self.flush(who)

    def flush(self, who: int) -> None:
        while self.returned[who] is None and self.outbox[who]:
            self.up[who].append(("call", self.outbox[who].popleft()))

    @precondition(lambda self: any(self.up))
    @rule(data=st.data())
    def callee_gets(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from([each for each in range(3) if self.up[each]]))
        kind, number = self.up[who].popleft()
        if kind == "waits":
            assert self.crowd is not None
            self.crowd.waits(who) if number else self.crowd.leaves(who)
            self.grant()
            return
        fits = len(self.box) < self.bound
        if self.crowd is None and not fits:
            self.crowd = Crowd(self.bound, 10**6)
        if self.crowd is not None and self.crowd.refuses(who, 1, fits):
            self.down[who].append(("held", number))
        else:
            assert number == self.taken[who], "not in order"
            self.taken[who] += 1
            self.box.append((who, number))
            assert len(self.box) <= self.bound

    @precondition(lambda self: self.box)
    @rule()
    def callee_runs(self) -> None:
        self.box.popleft()
        self.grant()

    def grant(self) -> None:
        if self.crowd is not None:
            for grant in self.crowd.grants(len(self.box), 0):
                self.down[grant.caller].append(("room", grant.calls))
            if self.crowd.is_over:
                self.crowd = None

    @precondition(lambda self: any(self.down))
    @rule(data=st.data())
    def caller_gets(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from([each for each in range(3) if self.down[each]]))
        kind, number = self.down[who].popleft()
        back = self.returned[who]
        if kind == "held":
            if back is None:
                back = self.returned[who] = deque()
                self.up[who].append(("waits", 1))
            back.append(number)
            return
        assert back is not None
        self.outbox[who] = deque([*back, *self.outbox[who]])
        for _ in range(min(number, len(self.outbox[who]))):
            self.up[who].append(("call", self.outbox[who].popleft()))
        more = bool(self.outbox[who])
        self.returned[who] = deque() if more else None
        self.up[who].append(("waits", int(more)))
        self.flush(who)

    @invariant()
    def somebody_can_do_something(self) -> None:
        kept = any(self.outbox) or any(self.returned)
        assert not kept or self.box or any(self.up) or any(self.down), "calls wait, and nothing will happen"


TestCrowdMachine = CrowdMachine.TestCase
TestCrowdMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
