"""The node's CPU and who holds it: requests queue in order, grants never exceed what is free. Pure.

Units are 1/10 000 CPU. A request *needs* units to be placed and *holds* some of them until the lease is returned: a
default actor needs one CPU to start and holds none (Ray, R-6). A task that waits for others lends its units out (T-33);
when it goes on, they are taken back at once, so that `free` may be negative for a while.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    number: int
    owner: str
    """The process that asked; a lost owner's leases are freed."""
    needs: int
    holds: int
    purpose: str
    label: str = ""


@dataclass(slots=True)
class HeldLease:
    number: int
    owner: str
    holds: int
    purpose: str
    lent: bool = False


class LeaseTable:
    """Requests and leases of one node."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self.waiting: OrderedDict[int, LeaseRequest] = OrderedDict()
        self.held: dict[int, HeldLease] = {}

    def shortfall(self, needs: int) -> int:
        """Units missing even on an empty node; 0 when the request can be placed some day."""
        return max(0, needs - self.total)

    def request(self, request: LeaseRequest) -> list[LeaseRequest]:
        """Queue a request; returns the requests granted now."""
        self.waiting[request.number] = request
        return self._grant()

    def withdraw(self, number: int) -> list[LeaseRequest] | None:
        """Forget a request; returns the requests granted now, or None when it was not waiting (any more)."""
        if self.waiting.pop(number, None) is None:
            return None
        return self._grant()

    def release(self, number: int) -> list[LeaseRequest]:
        """Return a lease; idempotent. Returns the requests granted now."""
        lease = self.held.pop(number, None)
        if lease is None:
            return []
        if not lease.lent:
            self.free += lease.holds
        return self._grant()

    def lend(self, number: int) -> list[LeaseRequest]:
        """The lease's task waits for others. Returns the requests granted now."""
        lease = self.held.get(number)
        if lease is None or lease.lent:
            return []
        lease.lent = True
        self.free += lease.holds
        return self._grant()

    def take_back(self, number: int) -> None:
        """The lease's task goes on."""
        lease = self.held.get(number)
        if lease is not None and lease.lent:
            lease.lent = False
            self.free -= lease.holds

    def owner_lost(self, owner: str) -> tuple[list[HeldLease], list[LeaseRequest]]:
        """Free everything of a process that is gone: its leases, and the requests granted instead."""
        for number in [n for n, request in self.waiting.items() if request.owner == owner]:
            del self.waiting[number]
        lost = [lease for lease in self.held.values() if lease.owner == owner]
        granted = self._grant()
        for lease in lost:
            granted += self.release(lease.number)
        return lost, granted

    def check(self) -> None:
        """Raise `AssertionError` unless every unit is accounted for."""
        held = sum(lease.holds for lease in self.held.values() if not lease.lent)
        if self.free + held != self.total:
            raise AssertionError(f"free {self.free} + held {held} is not the total {self.total}")

    def _grant(self) -> list[LeaseRequest]:
        granted = []
        while self.waiting:
            request = next(iter(self.waiting.values()))
            if request.needs > self.free:
                break
            del self.waiting[request.number]
            self.free -= request.holds
            self.held[request.number] = HeldLease(request.number, request.owner, request.holds, request.purpose)
            granted.append(request)
        return granted

    def __repr__(self) -> str:
        return f"<LeaseTable free={self.free}/{self.total} held={len(self.held)} waiting={len(self.waiting)}>"
