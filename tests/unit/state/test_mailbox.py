from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.state.mailbox import CHAIN_DEPTH, Mailbox


@dataclass(unsafe_hash=True)
class Call:
    number: int
    chainable: bool = False
    chained: bool = field(default=False, compare=False)
    size: int = 10
    through: tuple[str, ...] = ()
    group: str = ""
    readonly: bool = False

    @property
    def key(self) -> str:
        return str(self.number)


def calls(*kinds: bool) -> list[Call]:
    return [Call(number, chainable) for number, chainable in enumerate(kinds)]


def test_calls_run_one_at_a_time_in_order():
    first, second, third = calls(False, False, False)
    box: Mailbox[Call] = Mailbox()
    assert [box.offer(each) for each in (first, second, third)] == [True, False, False]
    assert box.finished(first) == [second]
    assert box.finished(second) == [third]
    assert box.finished(third) == []
    assert (box.running, box.waiting) == (0, 0)


def test_the_limit_bounds_what_runs_at_once():
    every = calls(*[False] * 5)
    box: Mailbox[Call] = Mailbox(3)
    assert [box.offer(each) for each in every] == [True, True, True, False, False]
    assert box.finished(every[1]) == [every[3]]
    assert box.finished(every[0]) == [every[4]]
    assert box.running == 3


@pytest.mark.parametrize(
    ("kinds", "started"),
    [
        ((True, True, True), [True, True, True]),
        ((True, True, False, True), [True, True, False, False]),
        ((False, True), [True, False]),
        ((True, False), [True, False]),
    ],
)
def test_a_chain_takes_chainable_calls_behind_one_another_until_another_kind_waits(kinds, started):
    box: Mailbox[Call] = Mailbox(chain=True)
    assert [box.offer(each) for each in calls(*kinds)] == started


def test_a_chain_begins_again_behind_a_call_that_is_none():
    plain, first, second, third, other = calls(False, True, True, True, False)
    box: Mailbox[Call] = Mailbox(chain=True)
    box.offer(plain)
    assert not any([box.offer(each) for each in (first, second, other, third)])
    assert box.finished(plain) == [first, second]
    assert box.finished(first) == []
    assert box.finished(second) == [other]
    assert box.finished(other) == [third]


def test_without_chain_chainable_calls_wait_like_others():
    box: Mailbox[Call] = Mailbox()
    assert [box.offer(each) for each in calls(True, True)] == [True, False]


def test_waiting_calls_are_withdrawn_in_order_and_running_ones_are_not():
    every = calls(*[False] * 5)
    box: Mailbox[Call] = Mailbox()
    for each in every:
        box.offer(each)
    assert box.withdraw(lambda call: call.number % 2 == 0) == [every[2], every[4]]
    assert box.withdraw(lambda call: call.number == 0) == []
    assert repr(box) == "<Mailbox running=1/1 waiting=2>"
    assert box.finished(every[0]) == [every[1]]


def test_one_waiting_call_is_removed_wherever_it_is():
    every = calls(*[False] * 6)
    box: Mailbox[Call] = Mailbox()
    for each in every:
        box.offer(each)
    assert (box.remove(every[3]), box.remove(every[1]), box.waiting, box.bytes) == ([], [], 3, 30)
    assert box.finished(every[0]) == [every[2]]
    assert (box.remove(every[4]), box.remove(every[5]), box.waiting, box.bytes) == ([], [], 0, 0)
    assert box.finished(every[2]) == []
    assert box.offer(every[1]), "nothing waits any more"


def test_removing_what_does_not_wait_is_a_bug():
    with pytest.raises(ValueError, match="does not wait"):
        Mailbox[Call]().remove(Call(0))


def test_many_calls_are_removed_in_linear_time():
    counted = 0

    class Counted(Call):
        def __hash__(self) -> int:
            nonlocal counted
            counted += 1
            return self.number

    every = [Counted(number) for number in range(10_000)]
    box: Mailbox[Call] = Mailbox()
    for each in every:
        box.offer(each)
    for each in reversed(every[1:]):
        box.remove(each)
    assert box.waiting == 0
    assert counted < 100_000


def test_a_mailbox_is_full_by_calls_or_bytes_and_takes_anything_when_nothing_waits():
    box: Mailbox[Call] = Mailbox()
    box.offer(Call(0))
    assert not box.is_full(1, 100, 1000)
    box.offer(Call(1, size=1000))
    assert box.is_full(1, 5000, 1) and not box.is_full(2, 5000, 1)
    assert box.is_full(2, 1000, 1)


def test_calls_queued_in_a_thread_count_as_waiting_and_are_bounded():
    box: Mailbox[Call] = Mailbox(chain=True)
    every = calls(*[True] * (CHAIN_DEPTH + 2))
    assert [box.offer(each) for each in every] == [True] * CHAIN_DEPTH + [False] * 2
    assert box.behind == CHAIN_DEPTH + 1
    assert box.finished(every[0]) == [every[CHAIN_DEPTH]]


def test_several_threads_share_a_chain_and_another_kind_waits_for_room_among_them():
    box: Mailbox[Call] = Mailbox(2, chain=True)
    every = calls(True, True, True, True, False, True)
    assert [box.offer(each) for each in every] == [True, True, True, True, False, False]
    assert (box.behind, box.waiting) == (4, 2), "two threads have begun two calls"
    assert [box.finished(each) for each in every[:3]] == [[], [], [every[4]]]
    assert box.finished(every[3]) == [every[5]], "beside the one of another kind, within the limit"
    assert (box.running, box.chained, box.behind) == (2, 1, 0)


def test_a_call_that_came_through_the_running_one_would_wait_for_ever():
    box: Mailbox[Call] = Mailbox()
    outer, other, inner = Call(0), Call(1), Call(2, through=("0",))
    for each in (outer, other, inner):
        box.offer(each)
    assert box.deadlocked(other, [outer]) == []
    assert box.deadlocked(inner, [outer]) == [inner]


def test_with_several_at_once_only_when_all_that_run_wait_for_one_that_waits():
    box: Mailbox[Call] = Mailbox(2)
    first, second = Call(0), Call(1)
    inner, also_inner = Call(2, through=("0",)), Call(3, through=("1",))
    for each in (first, second, inner):
        box.offer(each)
    assert box.deadlocked(inner, [first, second]) == []
    box.offer(also_inner)
    assert box.deadlocked(also_inner, [first, second]) == [also_inner]


def test_calls_that_are_queued_in_threads_do_not_hide_that_all_threads_wait_for_ever():
    box: Mailbox[Call] = Mailbox(2, chain=True)
    every = calls(True, True, True, True)
    inner, also_inner = Call(4, through=("0",)), Call(5, through=("1",))
    assert [box.offer(each) for each in (*every, inner)] == [True] * 4 + [False]
    assert box.deadlocked(inner, every) == []
    box.offer(also_inner)
    assert box.deadlocked(also_inner, every) == [also_inner]


def test_an_idle_mailbox_withdraws_nothing():
    assert Mailbox[Call]().withdraw(lambda call: True) == []


def test_finished_without_a_running_call_is_a_bug():
    with pytest.raises(ValueError, match="without a running call"):
        Mailbox[Call]().finished(Call(0))


class MailboxMachine(RuleBasedStateMachine):
    """Whatever happens, calls start in the order of arrival, each once, within the limit or in one chain."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0
        self.running: list[Call] = []
        self.waiting: deque[Call] = deque()

    @initialize(limit=st.integers(1, 3), chain=st.booleans())
    def make(self, limit: int, chain: bool) -> None:
        self.box: Mailbox[Call] = Mailbox(limit, chain=chain)

    @rule(chainable=st.booleans())
    def offer(self, chainable: bool) -> None:
        call = Call(self.numbers, chainable)
        self.numbers += 1
        if self.box.offer(call):
            assert not self.waiting, "it overtook the calls that wait"
            self.start(call)
        else:
            self.waiting.append(call)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.running))
        self.running.remove(call)
        for started in self.box.finished(call):
            assert started == self.waiting.popleft(), "not the one that waited longest"
            self.start(started)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sets(st.sampled_from(list(self.waiting))))
        assert self.box.withdraw(lambda call: call in chosen) == [call for call in self.waiting if call in chosen]
        self.waiting = deque(call for call in self.waiting if call not in chosen)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(list(self.waiting)))
        self.waiting.remove(call)
        for started in self.box.remove(call):
            assert started == self.waiting.popleft()
            self.start(started)

    def start(self, call: Call) -> None:
        if len(self.running) >= self.box.limit:
            assert self.box.chain and call.chainable
            assert all(each.chainable for each in self.running), "chained behind a call that is not in the chain"
        self.running.append(call)

    @invariant()
    def counts(self) -> None:
        if hasattr(self, "box"):
            assert self.box.running == len(self.running)
            assert self.box.waiting == len(self.waiting)
            assert self.box.bytes == 10 * len(self.waiting)
            assert self.box.oldest("") == (self.waiting[0] if self.waiting else None)
            assert self.running or not self.waiting, "calls wait for nobody"


TestMailboxMachine = MailboxMachine.TestCase
TestMailboxMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
