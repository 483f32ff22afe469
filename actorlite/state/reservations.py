"""Bundles of placement groups on one node: set aside, committed, given back. Pure.

What comes late or twice changes nothing: an attempt that was given back cannot be prepared any more, also when the two
messages change places. What is set aside is missing from the node's free resources; leases inside a bundle come from a
table of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from msgspec import Struct

from actorlite.resources import ResourceSet

_Table = TypeVar("_Table")

MAX_REMEMBERED = 10_000
"""Attempts that were given back, of which a late message may still come."""


class Reserved(Struct, Generic[_Table], eq=False):
    """One bundle."""

    group: str
    index: int
    epoch: int
    size: ResourceSet
    make: Callable[[ResourceSet], _Table]
    committed: bool = False
    _table: _Table | None = None

    @property
    def is_used(self) -> bool:
        """Whether anybody has asked for its table yet."""
        return self._table is not None

    @property
    def table(self) -> _Table:
        """Who holds, and who waits for, what is in it. Made when it is first used."""
        if self._table is None:
            self._table = self.make(self.size)
        return self._table


class Reservations(Generic[_Table]):
    """Owned by the node. `table` makes the lease table of a bundle."""

    def __init__(self, table: Callable[[ResourceSet], _Table]) -> None:
        self._make_table = table
        self._bundles: dict[str, dict[int, Reserved[_Table]]] = {}
        self._given_back: dict[tuple[str, int], None] = {}

    def prepare(self, group: str, epoch: int, bundles: Iterable[tuple[int, ResourceSet]], free: ResourceSet) -> str:
        """Set bundles aside, all or none; `free` is what the node has left. Returns why not, empty when it is done."""
        if (group, epoch) in self._given_back:
            return f"attempt {epoch} was given back"
        wanted = list(bundles)
        mine = self._bundles.get(group, {})
        if wanted and all(index in mine and mine[index].epoch == epoch for index, _ in wanted):
            return ""  # said twice
        for index, _ in wanted:
            if index in mine:
                return f"bundle {index} is here already, by attempt {mine[index].epoch}"
        total = ResourceSet()
        for _, size in wanted:
            total = total.release(size)
        if not free.fits(total):
            return f"{total} was asked for, {free} is free"
        mine = self._bundles.setdefault(group, {})
        for index, size in wanted:
            mine[index] = Reserved(group, index, epoch, size, self._make_table)
        return ""

    def commit(self, group: str, epoch: int) -> bool:
        """What was prepared is the group's from now on; False when there is none of it."""
        found = [each for each in self._bundles.get(group, {}).values() if each.epoch == epoch]
        for each in found:
            each.committed = True
        return bool(found)

    def give_back(self, group: str, epoch: int) -> list[Reserved[_Table]]:
        """Returns the bundles that are the node's again; what runs in them, or waits for them, is to end."""
        self._given_back[group, epoch] = None
        if len(self._given_back) > MAX_REMEMBERED:
            del self._given_back[next(iter(self._given_back))]
        mine = self._bundles.get(group, {})
        found = [each for each in mine.values() if each.epoch == epoch]
        for each in found:
            del mine[each.index]
        if not mine:
            self._bundles.pop(group, None)
        return found

    def bundles_of(self, group: str, index: int = -1) -> list[Reserved[_Table]]:
        """Those that are committed: the one with the index, or all of the group."""
        mine = self._bundles.get(group, {})
        found = mine.values() if index < 0 else [mine[index]] if index in mine else []
        return [each for each in found if each.committed]

    def all_of(self, group: str) -> Mapping[int, Reserved[_Table]]:
        """By index, those that are only prepared included."""
        return self._bundles.get(group, {})

    @property
    def total(self) -> ResourceSet:
        """What is set aside."""
        total = ResourceSet()
        for mine in self._bundles.values():
            for each in mine.values():
                total = total.release(each.size)
        return total

    @property
    def all(self) -> list[Reserved[_Table]]:
        return [each for mine in self._bundles.values() for each in mine.values()]

    def __repr__(self) -> str:
        return f"<Reservations groups={len(self._bundles)} bundles={len(self.all)}>"
