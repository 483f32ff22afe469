"""The node's resources and who holds them: requests queue by shape, grants never exceed what is free. Pure.

A request *needs* resources to be placed and *holds* some of them until the lease is returned: a default actor needs one
CPU to start and holds none (Ray, R-6). A task that waits for others lends its CPU out (T-33); when it goes on, that is
taken back at once, so that `free` may be negative for a while. It is also when what was lent has gone to who keeps it,
and others run in the stead of the task that lends (`state.turns`).

Jobs take turns. Within a job the older request goes first, but one that does not fit holds up none of another shape,
until others have overtaken it so often (`state.turns`): then what it needs is kept for it as it becomes free, as far as
those who hold it will return it. So nothing that fits the node waits for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from msgspec import Struct

from actorlite.resources import CPU, GPU, UNITS_PER_ONE, Pairs, ResourceSet
from actorlite.state.devices import Devices, Share
from actorlite.state.queues import LeaseRequest, Shape, WaitingRoom
from actorlite.state.turns import Reserved, Turns

BUNDLE = "bundle"
"""The purpose of a lease that is a bundle of a placement group."""


class HeldLease(Struct):
    request: LeaseRequest
    share: Share = ()
    """Of the GPUs."""
    lent: bool = False
    pledged: int = 0
    """Of its CPU, what others had only lent."""
    asked: int = 0
    """Above 0: its owner was asked to return it, so many looks ago."""

    @property
    def number(self) -> int:
        return self.request.number

    @property
    def owner(self) -> str:
        return self.request.owner

    @property
    def stays(self) -> bool:
        """Whether it is held for an actor's life; nobody knows how long that is."""
        return self.request.purpose != "task"

    def taken(self) -> Iterator[tuple[str, int]]:
        """What it holds now."""
        for name, units in self.request.holds.items():
            if not (self.lent and name == CPU):
                yield name, units


class LeaseTable:
    """Requests and leases of one node."""

    def __init__(self, total: ResourceSet) -> None:
        self.total = total
        self.free: dict[str, int] = dict(total.items())
        """In the order of the names."""
        self.devices = Devices(total.units_of(GPU) // UNITS_PER_ONE)
        self.held: dict[int, HeldLease] = {}
        self.room = WaitingRoom()
        self.turns = Turns(total, self.free, self.devices)

    # --- what is asked of it

    @property
    def waiting(self) -> Mapping[int, LeaseRequest]:
        return self.room.requests

    def request(self, request: LeaseRequest) -> list[LeaseRequest]:
        """Queue a request; returns the requests granted now."""
        self.room.add(request)
        return self.grant()

    def claim(self, request: LeaseRequest, group: str) -> bool:
        """Grant a request of a placement group now, or not at all."""
        if not self.turns.may(request.needs, group, self.turns.reservations()):
            return False
        self._hold(request)
        self.turns.overtaken(request, self.room.shapes.values(), self._able(self.turns.reservations()))
        return True

    def withdraw(self, number: int) -> list[LeaseRequest] | None:
        """Forget a request; returns the requests granted now, or None when it was not waiting (any more)."""
        request = self.waiting.get(number)
        if request is None:
            return None
        self._forget(request)
        return self.grant()

    def release(self, number: int) -> list[LeaseRequest]:
        """Return a lease; idempotent. Returns the requests granted now."""
        lease = self.held.pop(number, None)
        if lease is None:
            return []
        self._free(lease)
        return self.grant()

    def lend(self, number: int) -> list[LeaseRequest]:
        """The lease's task waits for others: its CPU is free, and nothing else. Returns the requests granted now."""
        lease = self.held.get(number)
        if lease is None or lease.lent:
            return []
        self._weigh(lease, -1)
        lease.lent = True
        self._weigh(lease, 1)
        if units := lease.request.holds.units_of(CPU):
            self.free[CPU] += units
            self.turns.lent += units
        return self.grant()

    def take_back(self, number: int) -> None:
        """The lease's task goes on."""
        lease = self.held.get(number)
        if lease is not None and lease.lent:
            self._weigh(lease, -1)
            lease.lent = False
            self._weigh(lease, 1)
            if units := lease.request.holds.units_of(CPU):
                self.free[CPU] -= units
                self.turns.lent -= units

    def owner_lost(self, owner: str) -> tuple[list[int], list[LeaseRequest]]:
        """Forget the requests of a process that is gone: these, and the requests granted now. What it holds stays held
        until nothing runs there any more."""
        forgotten = list(self.room.of_owner(owner))
        for request in forgotten:
            self._forget(request)
        return [request.number for request in forgotten], self.grant()

    # --- what it says

    def shortfall(self, needs: ResourceSet) -> ResourceSet:
        """What is missing even on an empty node; nothing when the request can be placed some day."""
        return self.total.shortfall(needs)

    def free_now(self) -> ResourceSet:
        """What is lent and used all the same counts as nothing."""
        return ResourceSet.in_order({name: units for name, units in self.free.items() if units > 0})

    def holders(self) -> list[tuple[str, Pairs, int]]:
        """Who holds what: for whom, of each how much, and how many of them there are. The most first."""
        found = Counter(
            (f"{lease.request.purpose} {lease.request.label}".strip(), tuple(lease.taken()))
            for lease in self.held.values()
        )
        return [(what, pairs, count) for (what, pairs), count in found.most_common() if pairs]

    def check(self) -> None:
        """Raise `AssertionError` unless every unit is accounted for."""
        held: Counter[str] = Counter()
        lasting: Counter[str] = Counter()
        for lease in self.held.values():
            for name, units in lease.taken():
                held[name] += units
                lasting[name] += units if lease.stays or lease.lent else 0
        for name in {*self.free, *held}:
            if self.free.get(name, 0) + held[name] != self.total.units_of(name):
                total = self.total.units_of(name)
                raise AssertionError(f"{name}: free {self.free.get(name, 0)} + held {held[name]} is not {total}")
        if sum(self.devices.free) != self.free.get(GPU, 0):
            raise AssertionError(f"{self.devices!r} do not add up to {self.free.get(GPU, 0)}")
        lent = sum(lease.request.holds.units_of(CPU) for lease in self.held.values() if lease.lent)
        pledged = sum(lease.pledged for lease in self.held.values())
        if lent != self.turns.lent or not 0 <= self.turns.pledged <= min(pledged, max(0, lent - self.free.get(CPU, 0))):
            raise AssertionError(f"{lent} are lent, {pledged} pledged; counted: {self.turns!r}")
        if lasting != self.turns.lasting + self.turns.bundled:
            raise AssertionError(f"{dict(lasting)} is held by what lasts, {self.turns.lasting} is counted")
        self.room.check()

    # --- granting

    def grant(self) -> list[LeaseRequest]:
        """Whatever can be granted now. For those who have changed `turns`."""
        granted: list[LeaseRequest] = []
        if not self.room.shapes:
            return granted
        turns = self.turns
        reserved = turns.reservations()
        able = self._able(reserved)
        while able:
            request = self.room.serve(able)
            turns.pressing.pop(request.kind, None)
            self._hold(request)
            granted.append(request)
            kept, reserved = reserved, turns.reservations()
            # What is free only becomes less, but a shape that was served keeps nothing from others any more.
            able = self._able(reserved, None if kept or reserved else able)
            turns.overtaken(request, self.room.shapes.values(), able)
        return granted

    def _able(self, reserved: Reserved, among: list[Shape] | None = None) -> list[Shape]:
        """Shapes of which a request can be granted."""
        shapes = self.room.shapes.values() if among is None else among
        return [shape for shape in shapes if shape.jobs and self.turns.may(shape.needs, shape.kind, reserved)]

    def _hold(self, request: LeaseRequest) -> None:
        lease = self.held[request.number] = HeldLease(request, self.devices.take(request.holds.units_of(GPU)))
        if lease.stays and (cpu := request.holds.units_of(CPU)):
            lease.pledged = self.turns.pledge(cpu)
        for name, units in request.holds.items():
            self.free[name] -= units
        self._weigh(lease, 1)

    def _weigh(self, lease: HeldLease, sign: int) -> None:
        """Count what a lease holds that may not end by itself."""
        if lease.stays or lease.lent:
            total = self.turns.bundled if lease.request.purpose == BUNDLE else self.turns.lasting
            for name, units in lease.taken():
                total[name] += sign * units

    def _forget(self, request: LeaseRequest) -> None:
        self.room.remove(request)
        if request.kind not in self.room.shapes:
            self.turns.pressing.pop(request.kind, None)

    def _free(self, lease: HeldLease) -> None:
        self._weigh(lease, -1)
        for name, units in lease.taken():
            self.free[name] += units
        if lease.lent:
            self.turns.lent -= lease.request.holds.units_of(CPU)
        self.turns.redeem(lease.pledged)
        self.devices.give(lease.share)

    def __repr__(self) -> str:
        free = f"{{{self.free_now()}}} of {{{self.total}}}"
        return f"<LeaseTable free={free} held={len(self.held)} waiting={len(self.waiting)}>"
