"""Requests and tables of leases for tests of the pure state."""

from __future__ import annotations

from actorlite.resources import CPU, ONE_CPU, ResourceSet
from actorlite.state.leases import LeaseTable
from actorlite.state.queues import LeaseRequest


def some(cpus: float = 0, **others: float) -> ResourceSet:
    return ResourceSet.from_floats({CPU: cpus, **others})


def table_of(cpus: float, **others: float) -> LeaseTable:
    return LeaseTable(some(cpus, **others))


def ask(
    number: int,
    needs: ResourceSet = ONE_CPU,
    holds: ResourceSet | None = None,
    owner: str = "driver",
    purpose: str = "task",
    job: str = "job",
) -> LeaseRequest:
    return LeaseRequest(number, owner, needs, needs if holds is None else holds, purpose, "f", job)


def numbers(requests: list[LeaseRequest] | None) -> list[int]:
    assert requests is not None
    return [request.number for request in requests]
