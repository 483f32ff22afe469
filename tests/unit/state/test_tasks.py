from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.state.tasks import LONG_S, MAX_DEPTH, SHORT_S, TaskPool


def pool_with(leases: int = 1, tasks: int = 0, max_requests: int = 4) -> TaskPool[str]:
    pool: TaskPool[str] = TaskPool(max_requests)
    for lease in range(1, leases + 1):
        pool.granted(lease, 0.0)
    for number in range(tasks):
        pool.submit(f"t{number}")
    return pool


def assigned(pool: TaskPool[str], now: float = 0.0) -> list[tuple[int, str]]:
    return list(pool.assign(now))


def test_tasks_go_to_the_least_busy_worker_in_order():
    pool = pool_with(leases=2, tasks=5)
    pool.depth = 2
    assert assigned(pool) == [(1, "t0"), (2, "t1"), (1, "t2"), (2, "t3")]
    assert list(pool.queue) == ["t4"]
    assert repr(pool) == "<TaskPool queue=1 leases=2 asked=0 depth=2>"
    assert repr(pool.leases[1]) == "<LeasedWorker 1 in_flight=2>"


def test_nothing_is_assigned_without_a_lease():
    assert assigned(pool_with(leases=0, tasks=2)) == []


@pytest.mark.parametrize(
    ("before", "took", "after"),
    [
        (1, 0.0, 2),
        (4, SHORT_S * 0.9, 8),
        (MAX_DEPTH, 0.0, MAX_DEPTH),
        (4, SHORT_S, 4),
        (4, LONG_S, 4),
        (4, LONG_S * 1.1, 2),
        (1, 60.0, 1),
    ],
)
def test_the_depth_follows_how_long_tasks_take(before, took, after):
    pool = pool_with(tasks=1)
    pool.depth = before
    [(lease, task)] = assigned(pool, 0.0)
    pool.finished(lease, task, took)
    assert pool.depth == after


def test_the_next_task_takes_the_place_of_one_that_has_ended():
    pool = pool_with(tasks=4)
    pool.depth = 2
    assigned(pool, 0.0)
    between = (SHORT_S + LONG_S) / 2
    assert pool.finished(1, "t0", between) == "t2"
    assert list(pool.leases[1].in_flight) == ["t1", "t2"]
    assert pool.finished(1, "t1", between + SHORT_S / 2) is None, "its worker may have four now: more than one"
    assert assigned(pool, between) == [(1, "t3")]
    assert pool.finished(1, "t2", 2 * between) is None, "nothing waits"


def test_a_task_that_comes_behind_many_need_not_be_looked_after():
    pool = pool_with(leases=0, max_requests=2)
    assert [pool.submit(f"t{number}") for number in range(4)] == [True, True, False, False]
    pool.withdraw("t1")
    pool.withdraw("t2")
    assert pool.submit("t4") is False
    pool.withdraw("t3")
    assert pool.submit("t5") is False
    assert pool.drain() == ["t0", "t4", "t5"]


def test_a_task_is_timed_from_the_end_of_the_one_before_it():
    pool = pool_with(tasks=2)
    pool.depth = 2
    assigned(pool, 0.0)
    pool.finished(1, "t0", 1.0)
    assert pool.depth == 1
    pool.finished(1, "t1", 1.0 + SHORT_S / 2)
    assert pool.depth == 2


def test_a_task_that_was_cancelled_behind_the_running_one_teaches_nothing():
    pool = pool_with(tasks=2)
    pool.depth = 2
    assigned(pool, 0.0)
    pool.finished(1, "t1", 0.0)
    assert pool.depth == 2
    pool.finished(1, "t0", 1.0)
    assert pool.depth == 1


def test_a_task_that_is_handed_back_is_the_next_and_resets_the_depth():
    pool = pool_with(tasks=3)
    pool.depth = 2
    assigned(pool)
    pool.handed_back(1, "t1")
    assert pool.depth == 1
    assert list(pool.queue) == ["t1", "t2"]
    assert assigned(pool) == [], "its worker is busy"
    pool.granted(2, 0.0)
    assert assigned(pool) == [(2, "t1")]


def test_a_task_handed_back_by_a_worker_that_was_given_up_is_kept():
    pool = pool_with(tasks=1)
    assigned(pool)
    assert pool.lost(1)
    pool.handed_back(1, "t0")
    assert list(pool.queue) == ["t0"]


@pytest.mark.parametrize(
    ("tasks", "requested", "wanted"), [(0, 0, 0), (3, 0, 3), (9, 0, 4), (9, 4, 0), (3, 1, 2), (1, 3, -2)]
)
def test_as_many_workers_are_asked_for_as_tasks_wait_within_the_bound(tasks, requested, wanted):
    pool = pool_with(tasks=tasks, max_requests=4)
    pool.requested = requested
    assert pool.requests_wanted() == wanted


def test_idle_leases_are_given_back_once_and_only_when_nothing_waits():
    pool = pool_with(leases=3, tasks=1)
    assert pool.idle(9.0, 1.0) == [], "a task waits"
    assigned(pool, 5.0)
    assert pool.idle(9.0, 10.0) == []
    assert pool.idle(9.0, 9.0) == [2, 3]
    assert pool.idle(9.0, 0.0) == []
    pool.finished(1, "t0", 9.0)
    assert pool.idle(9.0, 0.0) == [1]


def test_a_lost_worker_is_lost_once_and_what_it_says_later_is_ignored():
    pool = pool_with(tasks=1)
    assigned(pool)
    assert pool.lost(1)
    assert not pool.lost(1)
    pool.finished(1, "t0", 0.0)
    assert pool.depth == 1


def test_withdrawn_tasks_are_forgotten_wherever_they_wait():
    pool = pool_with(tasks=6)
    assert assigned(pool)[0][1] == "t0"
    for name in ("t4", "t1", "t5"):
        pool.withdraw(name)
    assert pool.waiting == 2
    assert pool.drain() == ["t2", "t3"]
    assert (pool.waiting, len(pool.queue)) == (0, 0)


def test_what_was_withdrawn_does_not_count_as_waiting():
    pool = pool_with(tasks=4)
    pool.withdraw("t3")
    pool.finished(*assigned(pool)[0], 0.0)
    pool.finished(*assigned(pool)[0], 0.0)
    while not pool.leases[1].in_flight and assigned(pool):
        pass
    assert not pool.queue


class PoolMachine(RuleBasedStateMachine):
    """Every task is in exactly one place: it waits, or is with one worker, or has ended."""

    @initialize(max_requests=st.integers(1, 5))
    def make(self, max_requests: int) -> None:
        self.pool: TaskPool[int] = TaskPool(max_requests)
        self.now = 0.0
        self.tasks = 0
        self.leases = 0
        self.ended: list[int] = []

    @rule(count=st.integers(1, 6))
    def submit(self, count: int) -> None:
        for _ in range(count):
            self.pool.submit(self.tasks)
            self.tasks += 1

    @rule()
    def grant(self) -> None:
        self.leases += 1
        self.pool.granted(self.leases, self.now)

    @rule()
    def assign(self) -> None:
        before = self.waiting()
        given = [task for _, task in self.pool.assign(self.now)]
        assert given == before[: len(given)], "not in order"
        full = all(len(worker.in_flight) >= self.pool.depth for worker in self.pool.leases.values())
        assert not self.pool.queue or full, "a worker with room was left out"

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), took=st.sampled_from([0.0, 0.002, 1.0]), handed_back=st.booleans())
    def answer(self, data: st.DataObject, took: float, handed_back: bool) -> None:
        lease, task = data.draw(st.sampled_from(self.busy()))
        self.now += took
        if handed_back:
            self.pool.handed_back(lease, task)
            assert self.pool.queue[0] == task and self.pool.depth == 1
        else:
            before, worker = self.waiting(), self.pool.leases[lease]
            following = self.pool.finished(lease, task, self.now)
            self.ended.append(task)
            if following is not None:
                assert following == before[0] and following in worker.in_flight, "not the next one"
                assert len(worker.in_flight) == self.pool.depth, "its worker has more than it may, or room for more"

    @precondition(lambda self: self.pool.leases)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.pool.leases)))
        self.ended += self.pool.leases[lease].in_flight
        assert self.pool.lost(lease)

    @rule()
    def give_back_idle(self) -> None:
        busy = self.busy()
        self.pool.idle(self.now, 0.0)
        assert self.busy() == busy

    @precondition(lambda self: self.pool.queue)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.waiting()))
        self.pool.withdraw(task)
        self.ended.append(task)

    def waiting(self) -> list[int]:
        return [task for task in self.pool.queue if task not in self.pool._gone]

    def busy(self) -> list[tuple[int, int]]:
        return [(lease, task) for lease, worker in self.pool.leases.items() for task in worker.in_flight]

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if hasattr(self, "pool"):
            seen = Counter([*self.waiting(), *(task for _, task in self.busy()), *self.ended])
            assert seen == Counter(range(self.tasks))
            assert bool(self.pool.queue) == bool(self.waiting()), "nothing waits, but the queue does not look empty"
            assert self.pool.waiting == len(self.waiting())
            assert 1 <= self.pool.depth <= MAX_DEPTH
            assert self.pool.requests_wanted() <= self.pool.max_requests


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_lease_that_is_asked_back_gets_no_more_tasks_and_is_returned_when_it_is_done():
    pool: TaskPool[str] = TaskPool(4)
    pool.granted(1, 0.0)
    pool.granted(2, 0.0)
    for task in "abcd":
        pool.submit(task)
    assert dict(pool.assign(0.0)) == {1: "a", 2: "b"}
    pool.ask_back(1)
    pool.ask_back(9)
    assert pool.left() == [], "it has one to run"
    assert pool.finished(1, "a", 0.1) is None, "nothing follows"
    assert pool.left() == [1] and pool.left() == []
    pool.ask_back(2)
    pool.handed_back(2, "b")
    assert pool.left() == [2]
    assert list(pool.queue) == ["b", "c", "d"] and not pool.lost(2)


def test_a_lease_that_was_asked_back_may_be_lost():
    pool: TaskPool[str] = TaskPool(4)
    pool.granted(1, 0.0)
    pool.ask_back(1)
    assert pool.lost(1) and not pool.lost(1)
    assert pool.left() == []


def test_a_lease_that_was_asked_back_for_a_drain_says_so_when_it_is_lost():
    pool = pool_with(tasks=2)
    assigned(pool)
    pool.ask_back(1)
    pool.ask_back(1, drained=True)
    pool.ask_back(1)
    pool.ask_back(99, drained=True)
    assert list(pool.leaving) == [1]
    worker = pool.lost(1)
    assert worker is not None and worker.drained
    assert pool.lost(1) is None
