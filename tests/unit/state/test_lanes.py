from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.state.lanes import READS_AT_ONCE, Lanes


@dataclass(frozen=True)
class Call:
    number: int
    readonly: bool = False
    through: tuple[str, ...] = ()
    group: str = ""
    size: int = 1
    chainable: bool = True

    @property
    def key(self) -> str:
        return str(self.number)


def opened(limit: int = 1, *, reentrant: bool = False, **groups: int) -> Lanes[Call]:
    box: Lanes[Call] = Lanes(groups, reentrant=reentrant)
    constructor = Call(-1)
    assert box.offer(constructor)
    box.open(limit)
    assert box.finished(constructor) == []
    return box


def offer(box: Lanes[Call], *calls: Call) -> list[bool]:
    return [box.offer(each) for each in calls]


def test_each_group_has_its_own_limit_and_order():
    box = opened(1, io=2)
    default = [Call(number) for number in range(2)]
    io = [Call(10 + number, group="io") for number in range(4)]
    assert offer(box, *default) == [True, False]
    assert offer(box, *io) == [True, True, False, False]
    assert box.finished(io[1]) == [io[2]]
    assert box.finished(default[0]) == [default[1]]
    assert repr(box) == "<Lanes running=3 waiting=1>"


def test_the_constructor_has_all_groups_to_itself():
    box: Lanes[Call] = Lanes({"io": 2})
    constructor, io, read, plain = Call(0), Call(1, group="io"), Call(2, readonly=True), Call(3)
    assert offer(box, constructor, io, read, plain) == [True, False, False, False]
    box.open(1)
    assert box.finished(constructor) == [read, io]


def test_reads_run_beside_reads_and_a_write_holds_back_later_reads():
    box = opened()
    reads = [Call(number, readonly=True) for number in range(4)]
    write = Call(9)
    assert offer(box, reads[0], reads[1], write, reads[2], reads[3]) == [True, True, False, False, False]
    assert box.finished(reads[0]) == []
    assert box.finished(reads[1]) == [write]
    assert box.finished(write) == [reads[2], reads[3]]


def test_reads_that_waited_behind_a_write_that_is_taken_back_start():
    box = opened()
    first, write, second = Call(0, readonly=True), Call(1), Call(2, readonly=True)
    assert offer(box, first, write, second) == [True, False, False]
    assert box.remove(write) == [second]


def test_reads_are_bounded():
    box = opened()
    assert sum(offer(box, *[Call(number, readonly=True) for number in range(READS_AT_ONCE + 5)])) == READS_AT_ONCE


def test_a_reentrant_actor_runs_a_call_beside_the_one_it_came_through():
    box = opened(reentrant=True)
    outer, other, inner = Call(0), Call(1), Call(2, through=("0",))
    assert offer(box, outer, other, inner) == [True, False, True]
    assert box.finished(inner) == []
    assert box.finished(outer) == [other]


def test_what_ended_before_the_call_through_it_came_is_no_reason_to_overtake():
    box = opened(reentrant=True)
    assert offer(box, Call(0), Call(1, through=("7",))) == [True, False]


def test_a_nested_write_waits_for_reads_that_are_not_its_own_and_goes_first():
    box = opened(reentrant=True)
    mine, foreign = Call(0, readonly=True), Call(1, readonly=True)
    write, nested = Call(2), Call(3, through=("0",))
    assert offer(box, mine, foreign, write, nested) == [True, True, False, False]
    assert box.deadlocked(nested, ()) == []
    assert box.finished(foreign) == [nested]
    assert box.finished(nested) == []
    assert box.finished(mine) == [write]


def test_two_reads_whose_nested_writes_wait_for_each_other_are_a_cycle():
    box = opened(reentrant=True)
    offer(box, Call(0, readonly=True), Call(1, readonly=True), Call(2, through=("0",)))
    assert box.deadlocked(Call(2, through=("0",)), ()) == []
    last = Call(3, through=("1",))
    assert not box.offer(last)
    assert box.deadlocked(last, ()) == [last]
    assert box.remove(last) == []


def test_a_write_below_a_read_is_a_cycle_at_once():
    box = opened()
    mine, foreign, write = Call(0, readonly=True), Call(1, readonly=True), Call(2, through=("0",))
    assert offer(box, mine, foreign, write) == [True, True, False]
    assert box.deadlocked(write, ()) == [write]


def test_a_read_below_a_read_just_runs():
    box = opened()
    assert offer(box, Call(0, readonly=True), Call(1, readonly=True, through=("0",))) == [True, True]


def test_a_cycle_that_closes_when_another_call_ends():
    box = opened(2)
    waits, other, read, inner = Call(0), Call(1), Call(2, readonly=True), Call(3, through=("0",))
    assert offer(box, waits, other, read, inner) == [True, True, False, False]
    # The read needs both to end; one of them waits for what is queued behind the read.
    assert box.deadlocked(inner, ()) == [inner]


def test_two_groups_that_wait_for_each_other_are_a_cycle():
    box = opened(1, io=1)
    assert offer(box, Call(0), Call(1, group="io"), Call(2, group="io", through=("0",))) == [True, True, False]
    assert box.deadlocked(Call(2, group="io", through=("0",)), ()) == []
    last = Call(3, through=("1",))
    assert not box.offer(last)
    assert box.deadlocked(last, ()) == [last]


def test_a_call_through_another_group_takes_its_turn():
    box = opened(1, io=1)
    outer = Call(0, group="io")
    assert offer(box, outer, Call(1, through=("0",))) == [True, True]
    waiting = Call(2, group="io", through=("0", "1"))
    assert not box.offer(waiting)
    assert box.deadlocked(waiting, ()) == [waiting]


def test_withdrawing_and_counting():
    box = opened(1, io=1)
    every = [Call(0), Call(1), Call(2, group="io"), Call(3, group="io", size=5)]
    offer(box, *every)
    assert (box.waiting, box.behind, box.bytes, box.running, box.limit) == (2, 2, 6, 2, 2)
    assert box.is_full(2, 100, 1) and box.is_full(10, 6, 1) and not box.is_full(10, 7, 1)
    assert box.oldest("io") == every[3] and box.oldest("") == every[1]
    assert box.withdraw(lambda call: call.group == "io") == [every[3]]
    assert (box.waiting, box.bytes) == (1, 1)
    assert box.oldest("io") == every[1], "where nothing waits in the group, it is the oldest of another one"


def test_a_group_that_does_not_exist_starts_nothing():
    assert not opened().try_start(Call(0, group="none"))


def test_finished_without_a_running_call_is_a_bug():
    with pytest.raises(ValueError, match="without a running call"):
        opened().finished(Call(0))


class LanesMachine(RuleBasedStateMachine):
    """Within each group: order, limits, reads only beside reads, nested calls only beside what they came through;
    no call waits without a reason, and none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0
        self.running: list[Call] = []
        self.waiting: dict[str, deque[Call]] = {"": deque(), "io": deque()}
        self.jumped: set[Call] = set()

    @initialize(limit=st.integers(1, 3), io=st.integers(1, 2), reentrant=st.booleans())
    def make(self, limit: int, io: int, reentrant: bool) -> None:
        self.limits = {"": limit, "io": io}
        self.reentrant = reentrant
        self.box = opened(limit, reentrant=reentrant, io=io)

    def those(self, group: str) -> list[Call]:
        return [each for each in self.running if each.group == group]

    def parents(self, call: Call) -> list[Call]:
        return [each for each in self.those(call.group) if each.key in call.through]

    @rule(readonly=st.booleans(), group=st.sampled_from(["", "io"]), data=st.data())
    def offer(self, readonly: bool, group: str, data: st.DataObject) -> None:
        through: tuple[str, ...] = ()
        if self.running and data.draw(st.booleans()):
            parent = data.draw(st.sampled_from(self.running))
            through = (*parent.through, parent.key)
        call = Call(self.numbers, readonly, through, group)
        self.numbers += 1
        nested = self.reentrant and bool(self.parents(call))
        if self.box.offer(call):
            assert nested or not self.waiting[group], "it overtook the calls that wait"
            self.start(call)
            return
        self.waiting[group].append(call)
        if nested:
            self.jumped.add(call)
        self.refuse(call)

    def refuse(self, call: Call) -> None:
        for victim in self.box.deadlocked(call, ()):
            held = {each.key for each in self.running}
            assert held.intersection(victim.through), "refused, though nothing that runs waits for it"
            self.waiting[victim.group].remove(victim)
            self.started(self.box.remove(victim))

    def started(self, calls: list[Call]) -> None:
        for call in calls:
            queue = self.waiting[call.group]
            assert call in queue
            if call not in self.jumped:
                assert call == next(each for each in queue if each not in self.jumped), "not in order"
                assert not self.jumped.intersection(queue), "before a nested one"
            queue.remove(call)
            self.start(call)

    @precondition(lambda self: self.leaves())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.leaves()))
        self.running.remove(call)
        self.started(self.box.finished(call))
        self.refuse(call)

    def leaves(self) -> list[Call]:
        """What can end: a call does not end before those that came through it."""
        below = [*self.running, *(each for queue in self.waiting.values() for each in queue)]
        return [call for call in self.running if not any(call.key in each.through for each in below)]

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from([each for queue in self.waiting.values() for each in queue]))
        self.waiting[call.group].remove(call)
        self.started(self.box.remove(call))

    def start(self, call: Call) -> None:
        others = self.those(call.group)
        if self.reentrant:
            others = [each for each in others if each.key not in call.through]
        if call.readonly:
            assert all(each.readonly for each in others)
        else:
            assert not any(each.readonly for each in others)
            assert len(others) < self.limits[call.group]
        self.running.append(call)

    @invariant()
    def nothing_is_lost_or_stuck(self) -> None:
        if not hasattr(self, "box"):
            return
        assert self.box.running == len(self.running)
        assert self.box.waiting == sum(len(queue) for queue in self.waiting.values())
        assert self.box.bytes == self.box.waiting
        for group, queue in self.waiting.items():
            assert not queue or self.those(group), "calls wait for nobody"
        if any(self.waiting.values()):
            assert self.leaves(), "a deadlock that was not found"


TestLanesMachine = LanesMachine.TestCase
TestLanesMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
