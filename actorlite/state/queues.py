"""Requests that wait, by what they need and by job; jobs take turns. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection

from msgspec import Struct, field

from actorlite.resources import CPU, ONE_CPU, Pairs, ResourceSet

Kind = tuple[ResourceSet, bool]
"""What requests need, and whether they take CPUs that they do not return by themselves."""


class LeaseRequest(Struct, frozen=True, gc=False):
    number: int
    owner: str
    """The process that asked; a lost owner's leases are freed."""
    needs: ResourceSet = ONE_CPU
    holds: ResourceSet = ONE_CPU
    """Not more than it needs."""
    purpose: str = "task"
    label: str = ""
    job: str = ""

    @property
    def kind(self) -> Kind:
        return self.needs, self.purpose != "task" and bool(self.holds.units_of(CPU))


class Shape(Struct, eq=False):
    """The requests of one kind, by job."""

    kind: Kind
    jobs: dict[str, OrderedDict[int, LeaseRequest]] = field(default_factory=dict)
    passed: int = 0
    """Grants of other shapes since it was served, while it did not fit."""

    @property
    def needs(self) -> ResourceSet:
        return self.kind[0]


class WaitingRoom:
    """Owned by the lease table."""

    def __init__(self) -> None:
        self.requests: dict[int, LeaseRequest] = {}
        self.shapes: dict[Kind, Shape] = {}
        self._turns: OrderedDict[str, int] = OrderedDict()
        """How many requests of each job wait; the next one's turn first."""

    def add(self, request: LeaseRequest) -> None:
        self.requests[request.number] = request
        shape = self.shapes.get(request.kind)
        if shape is None:
            shape = self.shapes[request.kind] = Shape(request.kind)
        shape.jobs.setdefault(request.job, OrderedDict())[request.number] = request
        self._turns[request.job] = self._turns.get(request.job, 0) + 1

    def remove(self, request: LeaseRequest) -> None:
        del self.requests[request.number]
        shape = self.shapes[request.kind]
        requests = shape.jobs[request.job]
        del requests[request.number]
        if not requests:
            del shape.jobs[request.job]
        if not shape.jobs:
            del self.shapes[request.kind]
        self._turns[request.job] -= 1
        if not self._turns[request.job]:
            del self._turns[request.job]

    def serve(self, able: Collection[Shape]) -> LeaseRequest:
        """Take out the oldest request of these shapes of the job whose turn it is, of those that have any; its next
        turn comes after all others.
        """
        for job in self._turns:
            first = [next(iter(requests.values())) for shape in able if (requests := shape.jobs.get(job))]
            if first:
                request = min(first, key=lambda each: each.number)
                self.shapes[request.kind].passed = 0
                self._turns.move_to_end(job)
                self.remove(request)
                return request
        raise ValueError("none of these shapes has a request")

    def of_owner(self, owner: str) -> list[LeaseRequest]:
        return [each for each in self.requests.values() if each.owner == owner]

    def demand(self) -> list[tuple[Pairs, int]]:
        """How many wait, by what they need."""
        found: Counter[Pairs] = Counter()
        for shape in self.shapes.values():
            found[shape.needs.pairs] += sum(map(len, shape.jobs.values()))
        return list(found.items())

    def check(self) -> None:
        """Raise `AssertionError` unless all books agree."""
        queued = [each for shape in self.shapes.values() for jobs in shape.jobs.values() for each in jobs]
        if sorted(queued) != sorted(self.requests) or not all(self._turns.values()):
            raise AssertionError(f"{sorted(self.requests)} wait, but {sorted(queued)} are queued: {self!r}")
        if sum(self._turns.values()) != len(self.requests):
            raise AssertionError(f"{len(self.requests)} wait, but turns are {dict(self._turns)}")

    def __len__(self) -> int:
        return len(self.requests)

    def __repr__(self) -> str:
        return f"<WaitingRoom requests={len(self)} shapes={len(self.shapes)} jobs={len(self._turns)}>"
