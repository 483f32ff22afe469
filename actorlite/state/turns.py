"""Whose turn it is on a node, among those who were overtaken too often. Pure.

Two kinds wait: requests, by shape, and placement groups, for which the leading node has others *keep* room. A group
does not get what it waits for here: it is asked for when all its nodes have it. What is kept stays free until then.

Nothing is kept for who waits for what tasks do not return by themselves: for what actors hold, or bundles, or tasks
that wait for others, which may be behind the one for whom it would be kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from actorlite.resources import GPU, NOTHING, ResourceSet
from actorlite.state.devices import Devices
from actorlite.state.queues import LeaseRequest, Shape

PATIENCE = 16
"""How many grants to others may go past who waits before he is served first."""

Key = ResourceSet | str
"""A shape, or a group."""
Reserved = Mapping[Key, Mapping[str, int]]


class Keep(Struct):
    """What a placement group waits for."""

    size: ResourceSet
    passed: int = 0
    taken: bool = False
    """Whether the group has taken its room; it may yet give it back, and waits again then."""


class Turns:
    """Owned by the lease table, whose `free` and `devices` it looks at."""

    def __init__(self, total: ResourceSet, free: Mapping[str, int], devices: Devices) -> None:
        self.keeps: dict[str, Keep] = {}
        self.pressing: dict[Key, None] = {}
        """Those that were overtaken too often, the first of them first."""
        self.lasting: Counter[str] = Counter()
        """Held by what may not end by itself: actors, and tasks that wait for others."""
        self.bundled: Counter[str] = Counter()
        """Held by bundles, which do not either."""
        self._total = total
        self._free = free
        self._devices = devices

    # --- placement groups

    def keep(self, group: str, size: ResourceSet) -> None:
        """From now on the group waits for this; with nothing it does not wait any more."""
        if not size:
            self.keeps.pop(group, None)
            self.pressing.pop(group, None)
        elif group in self.keeps:
            self.keeps[group].size = size
        else:
            self.keeps[group] = Keep(size)

    def took(self, group: str) -> None:
        """The group has what it waited for."""
        if group in self.keeps:
            self.keeps[group].taken = True

    def gave_back(self, group: str) -> None:
        """It waits again, where it waited before."""
        if group in self.keeps:
            self.keeps[group].taken = False

    @property
    def groups_wait(self) -> bool:
        return any(not keep.taken for keep in self.keeps.values())

    def kept(self) -> ResourceSet:
        """What is free and kept for groups."""
        if not any(key in self.keeps for key in self.pressing):
            return NOTHING
        kept: Counter[str] = Counter()
        for key in self.reservations():
            if isinstance(key, str):
                kept.update(dict(self.keeps[key].size.items()))
        return ResourceSet({name: max(0, min(units, self._free.get(name, 0))) for name, units in kept.items()})

    # --- whose turn it is

    def overtaken(self, granted: LeaseRequest, shapes: Iterable[Shape], able: Collection[Shape]) -> None:
        """Shapes that do not fit now, and want something of what was granted, have been overtaken once more; and so
        have groups."""
        for shape in shapes:
            if shape.needs == granted.needs or shape in able or not _overlap(shape.needs, granted.needs):
                continue
            shape.passed += 1
            if shape.passed >= PATIENCE:
                self.pressing.setdefault(shape.needs)
        for group, keep in self.keeps.items():
            if not keep.taken and _overlap(keep.size, granted.needs):
                keep.passed += 1
                if keep.passed >= PATIENCE:
                    self.pressing.setdefault(group)

    def may(self, needs: ResourceSet, who: Key, reserved: Reserved) -> bool:
        """Whether this fits into what is free, and not kept for others than `who`."""
        for name, units in needs.items():
            if not self._devices.fits(units) if name == GPU else units > self._free.get(name, 0):
                return False
        for key, kept in reserved.items():
            if key == who:
                break  # it comes before the rest
            if any(units > self._free.get(name, 0) - kept[name] for name, units in needs.items() if name in kept):
                return False
        return True

    def reservations(self) -> dict[Key, dict[str, int]]:
        """What is kept, as far as it is free, for those who were overtaken too often: for each, with what is kept for
        those before it. Only for those that will fit when all tasks return what they hold, but those that wait
        themselves.
        """
        found: dict[Key, dict[str, int]] = {}
        if not self.pressing:
            return found
        room = {name: units - self.lasting[name] - self.bundled[name] for name, units in self._total.items()}
        kept: dict[str, int] = {}
        for key in self.pressing:
            needs = key
            if isinstance(needs, str):
                keep = self.keeps[needs]
                if keep.taken:
                    continue
                needs = keep.size
            if any(units > room.get(name, 0) for name, units in needs.items()):
                continue
            for name, units in needs.items():
                # Whole devices come of keeping all who share one away.
                units = room[name] if name == GPU and not self._devices.fits(units) else units
                room[name] -= units
                kept[name] = kept.get(name, 0) + units
            found[key] = dict(kept)
        return found

    def __repr__(self) -> str:
        return f"<Turns pressing={len(self.pressing)} keeps={len(self.keeps)}>"


def _overlap(one: ResourceSet, other: ResourceSet) -> bool:
    return any(other.units_of(name) for name, _ in one.items())
