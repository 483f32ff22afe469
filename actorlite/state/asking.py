"""Which leases their owners are to return, though they have more to run: so that others get their share. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from actorlite.resources import ResourceSet
from actorlite.state.leases import HeldLease, LeaseTable
from actorlite.state.queues import LeaseRequest

SOON = 3
"""For so many looks a lease that was asked back is expected; then what runs there takes long, and another is asked."""


def wanted_back(table: LeaseTable, latest: int) -> list[HeldLease]:
    """Leases of tasks that are to come back when what runs has ended: for requests up to number `latest`, which wait
    for them, for placement groups, and for what was lent and is used twice. Each lease is named once.
    """
    found = _Asking(table)
    found.make_good()
    for keep in table.turns.keeps.values():
        if not keep.taken:
            found.make_room(keep.size, lambda lease: True)
    for shape in list(table.room.shapes.values()):
        for requests in shape.jobs.values():
            first = next(iter(requests.values()))
            if first.number <= latest:
                found.serve(first)
    return found.leases


class _Asking:
    """One look for leases to ask back."""

    def __init__(self, table: LeaseTable) -> None:
        self._table = table
        self.leases: list[HeldLease] = []
        self._coming: Counter[str] = Counter()
        """Units of those asked for, now or before."""
        self._candidates: list[HeldLease] = []
        """Oldest first."""
        self._counts: Counter[tuple[str, ResourceSet]] = Counter()
        """Of tasks, by owner and shape."""
        for lease in table.held.values():
            if lease.stays or lease.lent:
                continue
            if lease.asked:
                lease.asked += 1
                if lease.asked <= SOON:
                    self._coming.update(dict(lease.taken()))
            else:
                self._candidates.append(lease)
                self._counts[lease.owner, lease.request.needs] += 1

    def make_good(self) -> None:
        """For what is used twice: the latest leases, and some of it is better than nothing."""
        free = {name: self._table.turns.room(name, True) for name in self._table.free}
        self._candidates.reverse()
        self._cover({name: -units - self._coming[name] for name, units in free.items() if units < 0}, None)
        self._candidates.reverse()

    def serve(self, request: LeaseRequest) -> None:
        """For a request that waits. Of the same shape an owner gets no more than others have."""
        mine = self._counts[request.owner, request.needs]
        self.make_room(request.needs, lambda lease: self._is_fair(lease, request, mine))

    def make_room(self, needs: ResourceSet, fair: Callable[[HeldLease], bool]) -> None:
        room, coming = self._table.turns.room, self._coming
        missing = {name: units - room(name, True) - coming[name] for name, units in needs.items()}
        self._cover({name: units for name, units in missing.items() if units > 0}, fair)

    def _is_fair(self, lease: HeldLease, request: LeaseRequest, mine: int) -> bool:
        if lease.request.needs != request.needs:
            return True
        return lease.owner != request.owner and self._counts[lease.owner, request.needs] > mine

    def _cover(self, missing: dict[str, int], fair: Callable[[HeldLease], bool] | None) -> None:
        """Ask for leases with what is missing, or for none when they do not have enough."""
        chosen = []
        for lease in self._candidates:
            if not any(units > 0 for units in missing.values()):
                break
            taken = dict(lease.taken())
            if any(missing.get(name, 0) > 0 for name in taken) and (fair is None or fair(lease)):
                chosen.append(lease)
                missing = {name: units - taken.get(name, 0) for name, units in missing.items()}
        if any(units > 0 for units in missing.values()) and fair is not None:
            return
        for lease in chosen:
            lease.asked = 1
            self.leases.append(lease)
            self._candidates.remove(lease)
            self._counts[lease.owner, lease.request.needs] -= 1
            self._coming.update(dict(lease.taken()))
