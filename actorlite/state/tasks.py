"""Tasks of one resource shape, as their owner sees them: what waits, which workers are leased, who gets what. Pure.

Calls are pipelined to a leased worker, so that it never waits for a round trip. How deep is learned: short tasks double
the depth, long ones halve it, and a worker that hands tasks back (they sat behind one that takes long) resets it to
one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_DEPTH = 128
SHORT_S = 0.001
LONG_S = 0.005


class LeasedWorker(Generic[T]):
    """One lease: the worker runs its calls one after the other."""

    __slots__ = ("lease", "in_flight", "since", "drained")

    def __init__(self, lease: int, now: float) -> None:
        self.lease = lease
        self.in_flight: dict[T, None] = {}
        """In the order sent, which is the order in which the worker runs them."""
        self.since = now
        """When its oldest call became the running one, or when it became idle."""
        self.drained = False
        """Whether its node is about to leave: what is lost with it is run again without being charged for it."""

    def __repr__(self) -> str:
        return f"<LeasedWorker {self.lease} in_flight={len(self.in_flight)}>"


class TaskPool(Generic[T]):
    """The queue and the leases of one shape. `max_leases` bounds the requests for workers that are not granted yet."""

    def __init__(self, max_requests: int) -> None:
        self.max_requests = max_requests
        self.queue: deque[T] = deque()
        """Its first task waits; those of `_gone` behind it do not."""
        self._gone: set[T] = set()
        """Tasks in the queue that were withdrawn."""
        self.leases: dict[int, LeasedWorker[T]] = {}
        self.leaving: dict[int, LeasedWorker[T]] = {}
        """Leases that were asked back: they get no more tasks."""
        self.requested = 0
        self.depth = 1

    def submit(self, task: T) -> bool:
        """Queue a task. True: `assign` may have room for it, and `requests_wanted` may ask for more; False: so many
        wait before it that both have done what they can."""
        self.queue.append(task)
        return len(self.queue) - len(self._gone) <= self.max_requests

    def submit_again(self, task: T) -> None:
        """A task whose worker died keeps its place before those that were submitted later."""
        self.queue.appendleft(task)

    def assign(self, now: float) -> Iterator[tuple[int, T]]:
        """Give waiting tasks to leased workers with room, the least busy first; yields (lease, task) as it goes."""
        while self.queue and self.leases:
            worker = min(self.leases.values(), key=_load)
            if len(worker.in_flight) >= self.depth:
                return
            task = self.queue.popleft()
            self._skip_gone()
            if not worker.in_flight:
                worker.since = now
            worker.in_flight[task] = None
            yield worker.lease, task

    def requests_wanted(self) -> int:
        """How many more workers to ask for now; negative: how many of the requests are no longer needed."""
        return min(self.waiting, self.max_requests) - self.requested

    def granted(self, lease: int, now: float) -> None:
        self.leases[lease] = LeasedWorker(lease, now)

    def finished(self, lease: int, task: T, now: float) -> T | None:
        """The task has ended, well or not. What takes its place is given to the same worker and returned, in the usual
        case, that all workers have as much as they may; None: `assign` must look, if anything waits."""
        worker = self.leases.get(lease)
        if worker is None or task not in worker.in_flight:
            if self.leaving and (worker := self.leaving.get(lease)) is not None:
                worker.in_flight.pop(task, None)
            return None
        in_flight = worker.in_flight
        ran = next(iter(in_flight)) == task
        del in_flight[task]
        if ran:  # else it was taken out of the worker's queue, which says nothing about how long tasks take
            took = now - worker.since
            worker.since = now
            if took < SHORT_S:
                if self.depth < MAX_DEPTH:
                    self.depth = min(MAX_DEPTH, self.depth * 2)
            elif took > LONG_S:
                self.depth = max(1, self.depth // 2)
        if not self.queue or len(in_flight) != self.depth - 1:
            return None
        following = self.queue.popleft()
        if self._gone:
            self._skip_gone()
        in_flight[following] = None
        return following

    def handed_back(self, lease: int, task: T) -> None:
        """The worker did not start the task; it goes to the front of the queue."""
        worker = self.leases.get(lease) or self.leaving.get(lease)
        if worker is not None:
            worker.in_flight.pop(task, None)
        self.depth = 1
        self.queue.appendleft(task)

    def lost(self, lease: int) -> LeasedWorker[T] | None:
        """The worker is gone; who was in flight learns it elsewhere. None but for the first time."""
        return self.leases.pop(lease, None) or self.leaving.pop(lease, None)

    def ask_back(self, lease: int, *, drained: bool = False) -> None:
        """It gets no more tasks; `left` tells when those that it has are done. `drained`: its node will leave."""
        worker = self.leases.pop(lease, None) or self.leaving.get(lease)
        if worker is not None:
            self.leaving[lease] = worker
            worker.drained = worker.drained or drained

    def left(self) -> list[int]:
        """Leases that were asked back and have nothing to do any more; they are dropped here and must be returned."""
        found = [each.lease for each in self.leaving.values() if not each.in_flight]
        for lease in found:
            del self.leaving[lease]
        return found

    def idle(self, now: float, for_s: float) -> list[int]:
        """Leases without work for at least `for_s`; they are dropped here and must be returned."""
        if self.queue:
            return []
        found = [w.lease for w in self.leases.values() if not w.in_flight and now - w.since >= for_s]
        for lease in found:
            del self.leases[lease]
        return found

    def withdraw(self, task: T) -> None:
        """Take a waiting task out: forgotten when its turn comes, or when there are many such."""
        self._gone.add(task)
        if 2 * len(self._gone) >= len(self.queue):
            self.queue = deque([each for each in self.queue if each not in self._gone])
            self._gone.clear()
        self._skip_gone()

    def drain(self) -> list[T]:
        """All waiting tasks, in order; none waits any more."""
        waiting = [each for each in self.queue if each not in self._gone]
        self.queue.clear()
        self._gone.clear()
        return waiting

    def _skip_gone(self) -> None:
        while self._gone and self.queue and self.queue[0] in self._gone:
            self._gone.discard(self.queue.popleft())

    @property
    def waiting(self) -> int:
        return len(self.queue) - len(self._gone)

    def __repr__(self) -> str:
        return f"<TaskPool queue={self.waiting} leases={len(self.leases)} asked={self.requested} depth={self.depth}>"


def _load(worker: LeasedWorker[T]) -> int:
    return len(worker.in_flight)
