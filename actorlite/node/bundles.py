"""Bundles of placement groups on one node, and the leases in them.

A bundle is a lease in the node's own table, held by its group, and has a lease table of its own. To whoever asks for
workers all these tables are one: `Tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from actorlite.errors import BundleMoved
from actorlite.resources import ResourceSet
from actorlite.state.devices import Share
from actorlite.state.leases import BUNDLE, LeaseTable
from actorlite.state.queues import LeaseRequest
from actorlite.state.reservations import Reservations, Reserved

Bundle = Reserved[LeaseTable]


class Tables:
    """Owned by the lease desk. Methods return the requests granted now, as those of `LeaseTable` do."""

    def __init__(self, node: LeaseTable, number: Callable[[], int]) -> None:
        self.node = node
        self.reservations: Reservations[LeaseTable] = Reservations(LeaseTable)
        self._number = number
        self._rooms: dict[tuple[str, int, int], int] = {}
        """The lease in the node's table that each bundle is, by group, index and attempt: one that is given back keeps
        its room until nothing runs in it, and the next attempt may come before."""
        self._queued: dict[int, list[Bundle]] = {}
        """Requests for any of several bundles, and for one."""
        self._held: dict[int, Bundle] = {}
        self.left: dict[tuple[str, int], list[Bundle]] = {}
        """Bundles that are elsewhere now, because this node is drained, and in which something still runs; by group
        and attempt."""

    # --- bundles

    def prepare(
        self, group: str, epoch: int, sizes: Sequence[tuple[int, ResourceSet]]
    ) -> tuple[str, list[LeaseRequest]]:
        """Set bundles aside, all or none. Returns why not, if so, and what others were granted instead."""
        refusal = self.reservations.prepare(group, epoch, sizes, self.node.turns.for_groups())
        if refusal:
            return refusal, []
        for index, size in sizes:
            if (group, index, epoch) in self._rooms:
                continue  # said twice
            number = self._number()
            request = LeaseRequest(number, f"group {group}", size, size, BUNDLE, f"of group {group}")
            if not self.node.claim(request, group):
                # It is kept for others that have waited for long, or devices are shared in another way.
                return f"{size} is free, but others have waited for it", self.give_back(
                    self.reservations.give_back(group, epoch)
                )
            self._rooms[group, index, epoch] = number
            if share := self.node.held[number].share:
                self.reservations.all_of(group)[index].table.devices.free = [part for _, part in share]
        self.node.turns.took(group)
        return "", self.node.grant()

    def keep(self, group: str, size: ResourceSet) -> list[LeaseRequest]:
        """A group waits for room; with no `size`, not any more."""
        self.node.turns.keep(group, size)
        return self.node.grant()

    def give_back(self, bundles: Iterable[Bundle]) -> list[LeaseRequest]:
        """The room of bundles that `reservations` has forgotten is the node's again; nothing runs in them any more."""
        granted: list[LeaseRequest] = []
        for bundle in bundles:
            for lease in bundle.table.held if bundle.is_used else ():
                self._held.pop(lease, None)
            number = self._rooms.pop((bundle.group, bundle.index, bundle.epoch), None)
            self.node.turns.gave_back(bundle.group)
            if number is not None:
                granted += self.node.release(number)
        return granted

    # --- leases

    def request(self, request: LeaseRequest, group: str = "", index: int = -1) -> list[LeaseRequest]:
        """Queue a request, for the node's room or that of a bundle. Raises `BundleMoved`."""
        if not group:
            return self.node.request(request)
        bundles = [
            each for each in self.reservations.bundles_of(group, index) if not each.table.shortfall(request.needs)
        ]
        if not bundles:
            which = f"bundle {index}" if index >= 0 else "a bundle that is large enough"
            raise BundleMoved(f"placement group {group} has no {which} on this node")
        self._queued[request.number] = bundles
        granted: list[LeaseRequest] = []
        for bundle in bundles:
            granted += self._granted(bundle, bundle.table.request(request))
            if request.number in self._held:
                break
        return granted

    def withdraw(self, number: int) -> list[LeaseRequest] | None:
        bundles = self._queued.pop(number, None)
        if bundles is None:
            return self.node.withdraw(number)
        granted: list[LeaseRequest] = []
        for bundle in bundles:
            granted += self._granted(bundle, bundle.table.withdraw(number) or [])
        return granted

    def release(self, number: int) -> list[LeaseRequest]:
        bundle = self._held.pop(number, None)
        return self.node.release(number) if bundle is None else self._granted(bundle, bundle.table.release(number))

    def lend(self, number: int) -> list[LeaseRequest]:
        bundle = self._held.get(number)
        return self.node.lend(number) if bundle is None else self._granted(bundle, bundle.table.lend(number))

    def take_back(self, number: int) -> None:
        bundle = self._held.get(number)
        (self.node if bundle is None else bundle.table).take_back(number)

    def owner_lost(self, owner: str) -> tuple[list[int], list[LeaseRequest]]:
        forgotten, granted = self.node.owner_lost(owner)
        for bundle in self._bundles if self._queued else ():
            if not bundle.is_used:
                continue
            gone, others = bundle.table.owner_lost(owner)
            for number in gone:
                self._queued.pop(number, None)
            forgotten += gone
            granted += self._granted(bundle, others)
        return list(dict.fromkeys(forgotten)), granted  # one may have waited for several bundles

    def held_by(self, owner: str) -> list[int]:
        """The leases of a process."""
        return [number for table in self.each for number, lease in table.held.items() if lease.owner == owner]

    def holds(self, number: int) -> bool:
        """Whether a lease is there; not, when its bundle is gone."""
        return number in self._held or number in self.node.held

    def share_of(self, number: int) -> Share:
        """The devices that go with a lease, by the node's numbers."""
        bundle = self._held.get(number)
        if bundle is None:
            return self.node.held[number].share
        room = self.node.held[self._rooms[bundle.group, bundle.index, bundle.epoch]].share
        return tuple([(room[index][0], part) for index, part in bundle.table.held[number].share])

    def users_of(self, bundle: Bundle) -> tuple[list[int], list[int]]:
        """The requests that wait in a bundle, and the leases held in it."""
        return (list(bundle.table.waiting), list(bundle.table.held)) if bundle.is_used else ([], [])

    @property
    def each(self) -> list[LeaseTable]:
        """The node's table, and those of bundles."""
        return [self.node, *[bundle.table for bundle in self._bundles if bundle.is_used]]

    @property
    def queued(self) -> list[int]:
        """The requests that wait for bundles."""
        return list(self._queued)

    @property
    def _bundles(self) -> list[Bundle]:
        return [*self.reservations.all, *chain(*self.left.values())]

    def _granted(self, bundle: Bundle, granted: list[LeaseRequest]) -> list[LeaseRequest]:
        """Requests that got a bundle wait for no other one any more."""
        for request in list(granted):
            self._held[request.number] = bundle
            for other in self._queued.pop(request.number, ()):
                if other is not bundle and request.number in other.table.waiting:
                    granted += self._granted(other, other.table.withdraw(request.number) or [])
        return granted

    def __repr__(self) -> str:
        return f"<Tables {self.node!r} {self.reservations!r}>"
