"""The node's resources and who holds them: requests queue by shape, grants never exceed what is free. Pure.

A request *needs* resources to be placed and *holds* some of them until the lease is returned: a default actor needs one
CPU to start and holds none (Ray, R-6). A task that waits for others lends its CPU out (T-33); when it goes on, that is
taken back at once, so that `free` may be negative for a while.

Jobs take turns. Within a job the older request goes first, but one that does not fit holds up none of another shape,
until others have overtaken it `PATIENCE` times: then what it needs is kept for it as it becomes free, as far as those
who hold it will return it. So nothing that fits the node waits for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from actorlite.resources import CPU, GPU, UNITS_PER_ONE, Pairs, ResourceSet
from actorlite.state.devices import Devices, Share
from actorlite.state.queues import LeaseRequest, Shape, WaitingRoom

PATIENCE = 16
"""How many grants of other shapes may go past a request before it is served first."""


@dataclass(slots=True)
class HeldLease:
    request: LeaseRequest
    share: Share = ()
    """Of the GPUs."""
    lent: bool = False
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
        self.devices = Devices(total.units_of(GPU) // UNITS_PER_ONE)
        self.held: dict[int, HeldLease] = {}
        self.room = WaitingRoom()
        self._pressing: dict[ResourceSet, None] = {}
        """Shapes that were overtaken too often, the first of them first."""

    # --- what is asked of it

    @property
    def waiting(self) -> Mapping[int, LeaseRequest]:
        return self.room.requests

    def request(self, request: LeaseRequest) -> list[LeaseRequest]:
        """Queue a request; returns the requests granted now."""
        self.room.add(request)
        return self._grant()

    def withdraw(self, number: int) -> list[LeaseRequest] | None:
        """Forget a request; returns the requests granted now, or None when it was not waiting (any more)."""
        request = self.waiting.get(number)
        if request is None:
            return None
        self._forget(request)
        return self._grant()

    def release(self, number: int) -> list[LeaseRequest]:
        """Return a lease; idempotent. Returns the requests granted now."""
        lease = self.held.pop(number, None)
        if lease is None:
            return []
        self._free(lease)
        return self._grant()

    def lend(self, number: int) -> list[LeaseRequest]:
        """The lease's task waits for others: its CPU is free, and nothing else. Returns the requests granted now."""
        lease = self.held.get(number)
        if lease is None or lease.lent:
            return []
        lease.lent = True
        if units := lease.request.holds.units_of(CPU):
            self.free[CPU] += units
        return self._grant()

    def take_back(self, number: int) -> None:
        """The lease's task goes on."""
        lease = self.held.get(number)
        if lease is not None and lease.lent:
            lease.lent = False
            if units := lease.request.holds.units_of(CPU):
                self.free[CPU] -= units

    def owner_lost(self, owner: str) -> tuple[list[HeldLease], list[LeaseRequest]]:
        """Free everything of a process that is gone: its leases, and the requests granted instead."""
        for request in self.room.of_owner(owner):
            self._forget(request)
        lost = [lease for lease in self.held.values() if lease.owner == owner]
        for lease in lost:
            del self.held[lease.number]
            self._free(lease)
        return lost, self._grant()

    # --- what it says

    def shortfall(self, needs: ResourceSet) -> ResourceSet:
        """What is missing even on an empty node; nothing when the request can be placed some day."""
        return self.total.shortfall(needs)

    def free_now(self) -> ResourceSet:
        """What is lent and used all the same counts as nothing."""
        return ResourceSet({name: max(0, units) for name, units in self.free.items()})

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
        for lease in self.held.values():
            for name, units in lease.taken():
                held[name] += units
        for name in {*self.free, *held}:
            if self.free.get(name, 0) + held[name] != self.total.units_of(name):
                total = self.total.units_of(name)
                raise AssertionError(f"{name}: free {self.free.get(name, 0)} + held {held[name]} is not {total}")
        if sum(self.devices.free) != self.free.get(GPU, 0):
            raise AssertionError(f"{self.devices!r} do not add up to {self.free.get(GPU, 0)}")
        self.room.check()

    # --- granting

    def _grant(self) -> list[LeaseRequest]:
        granted: list[LeaseRequest] = []
        if not self.room.shapes:
            return granted
        reserved = self._reservations() if self._pressing else {}
        able = [shape for shape in self.room.shapes.values() if self._may(shape, reserved)]
        while able:
            request = self._give(able)
            granted.append(request)
            if self._pressing:
                reserved = self._reservations()
            # What is free only becomes less, but a shape that was served keeps nothing from others any more.
            around = self.room.shapes.values() if self._pressing or reserved else able
            able = [shape for shape in around if shape.jobs and self._may(shape, reserved)]
            self._overtaken(request, able)
        return granted

    def _give(self, able: list[Shape]) -> LeaseRequest:
        request = self.room.serve(able)
        self._pressing.pop(request.needs, None)
        for name, units in request.holds.items():
            self.free[name] -= units
        self.held[request.number] = HeldLease(request, self.devices.take(request.holds.units_of(GPU)))
        return request

    def _forget(self, request: LeaseRequest) -> None:
        self.room.remove(request)
        if request.needs not in self.room.shapes:
            self._pressing.pop(request.needs, None)

    def _overtaken(self, granted: LeaseRequest, able: list[Shape]) -> None:
        """Shapes that do not fit now, and want something of what was granted, have been overtaken once more."""
        for shape in self.room.shapes.values():
            if shape.needs == granted.needs or shape in able or not _overlap(shape.needs, granted.needs):
                continue
            shape.passed += 1
            if shape.passed >= PATIENCE:
                self._pressing.setdefault(shape.needs)

    def _may(self, shape: Shape, reserved: Mapping[ResourceSet, Mapping[str, int]]) -> bool:
        """Whether a request of this shape fits into what is free, and not kept for another one."""
        for name, units in shape.needs.items():
            if not self.devices.fits(units) if name == GPU else units > self.free.get(name, 0):
                return False
        for needs, kept in reserved.items():
            if needs == shape.needs:
                break  # it comes before the rest
            if any(units > self.free[name] - kept[name] for name, units in shape.needs.items() if name in kept):
                return False
        return True

    def _reservations(self) -> dict[ResourceSet, dict[str, int]]:
        """What is kept, as far as it is free, for shapes that were overtaken too often: for each, with what is kept for
        those before it. Only for those that will fit when all tasks return what they hold, but those that wait
        themselves.
        """
        room = dict(self.total.items())
        for lease in self.held.values():
            if lease.stays or lease.lent:
                for name, units in lease.taken():
                    room[name] -= units
        found: dict[ResourceSet, dict[str, int]] = {}
        kept: dict[str, int] = {}
        for needs in self._pressing:
            if any(units > room.get(name, 0) for name, units in needs.items()):
                continue
            for name, units in needs.items():
                # Whole devices come of keeping all who share one away.
                units = room[name] if name == GPU and not self.devices.fits(units) else units
                room[name] -= units
                kept[name] = kept.get(name, 0) + units
            found[needs] = dict(kept)
        return found

    def _free(self, lease: HeldLease) -> None:
        for name, units in lease.taken():
            self.free[name] += units
        self.devices.give(lease.share)

    def __repr__(self) -> str:
        free = f"{{{self.free_now()}}} of {{{self.total}}}"
        return f"<LeaseTable free={free} held={len(self.held)} waiting={len(self.waiting)}>"


def _overlap(one: ResourceSet, other: ResourceSet) -> bool:
    return any(other.units_of(name) for name, _ in one.items())
