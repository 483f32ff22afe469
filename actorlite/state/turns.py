"""Whose turn it is on a node, among those who were overtaken too often. Pure.

Two kinds wait: requests, by shape, and placement groups, for which the leading node has others *keep* room. A group
does not get what it waits for here: it is asked for when all its nodes have it. What is kept stays free until then.

Nothing is kept for who waits for what tasks do not return by themselves: for what actors hold, or bundles, or tasks
that wait for others, which may be behind the one for whom it would be kept.

A task that waits for others lends its CPU. An actor or a bundle may have got that, and keeps it: so much is *pledged*.
As long as the task waits, what it may wait for runs in its stead all the same: then the node does as much at a time as
when the task goes on, and takes its CPU back. That is over when the task is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from actorlite.resources import CPU, GPU, NOTHING, ResourceSet
from actorlite.state.devices import Devices
from actorlite.state.queues import Kind, LeaseRequest, Shape

PATIENCE = 16
"""How many grants to others may go past who waits before he is served first."""

MAX_REMEMBERED = 100
"""Groups that do not wait now: most are gone."""

Key = Kind | str
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
        self.lent = 0
        """CPU of tasks that wait for others."""
        self.pledged = 0
        """Of that, what is held by actors and bundles."""
        self._passed: dict[str, int] = {}
        """How often groups were overtaken that do not wait now, but may again."""
        self._total = total
        self._free = free
        self._devices = devices

    # --- placement groups

    def keep(self, group: str, size: ResourceSet) -> None:
        """From now on the group waits for this; with nothing it does not wait any more, or not now: what went past it
        counts when it does again."""
        keep = self.keeps.get(group)
        if size and keep is not None:
            keep.size = size
        elif size:
            passed = self._passed.pop(group, 0)
            self.keeps[group] = Keep(size, passed)
            if passed >= PATIENCE:
                self.pressing.setdefault(group)
        elif keep is not None:
            del self.keeps[group]
            self.pressing.pop(group, None)
            if keep.passed and not keep.taken:
                self._passed[group] = keep.passed
                if len(self._passed) > MAX_REMEMBERED:
                    del self._passed[next(iter(self._passed))]

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
        return ResourceSet({name: max(0, min(units, self.room(name, True))) for name, units in kept.items()})

    def waited(self) -> ResourceSet:
        """What is free and kept for requests that have waited for long."""
        if not self.pressing or all(isinstance(key, str) for key in self.pressing):
            return NOTHING
        kept = list(self.reservations().values())
        if not kept:
            return NOTHING
        groups = self.kept()
        left = {name: min(units, self.room(name, True)) - groups.units_of(name) for name, units in kept[-1].items()}
        return ResourceSet({name: max(0, units) for name, units in left.items()})

    # --- what is lent

    def room(self, name: str, lasts: bool) -> int:
        """What may be granted now of a resource: to who does not return CPU by itself, or to others. Below 0 for what
        is used twice and has to come back."""
        free = self._free.get(name, 0)
        return free + self._in_stead(lasts) if self.pledged and name == CPU else free

    def for_groups(self) -> ResourceSet:
        """What bundles may have."""
        return ResourceSet.in_order({name: units for name in self._free if (units := self.room(name, True)) > 0})

    def _in_stead(self, lasts: bool) -> int:
        """CPU that may be used though it is not there. Who comes to stay may have what others can do without: tasks
        that run now run in the stead of those that wait, as far as that goes."""
        most = min(self.pledged, self.lent)
        if not lasts:
            return most
        running = self._total.units_of(CPU) - self._free[CPU] - self.lasting[CPU] - self.bundled[CPU]
        return min(most, running)

    def pledge(self, units: int) -> int:
        """CPU is about to be held by what does not return it; how much of it is only lent."""
        mine = min(units, max(0, self._free[CPU] - self.lent))
        self.pledged += units - mine
        return units - mine

    def redeem(self, pledged: int = 0) -> None:
        """Something was returned, and so much of it had been pledged: what is there for all is pledged no more."""
        if self.pledged:
            missing = self.lent - self._free[CPU]
            self.pledged = max(0, min(self.pledged - pledged, missing))

    # --- whose turn it is

    def overtaken(self, granted: LeaseRequest, shapes: Iterable[Shape], able: Collection[Shape]) -> None:
        """Shapes that do not fit now, and want something of what was granted, have been overtaken once more; and so
        have groups."""
        for shape in shapes:
            if shape.kind == granted.kind or shape in able or not _overlap(shape.needs, granted.needs):
                continue
            shape.passed += 1
            if shape.passed >= PATIENCE:
                self.pressing.setdefault(shape.kind)
        for group, keep in self.keeps.items():
            if not keep.taken and _overlap(keep.size, granted.needs):
                keep.passed += 1
                if keep.passed >= PATIENCE:
                    self.pressing.setdefault(group)

    def may(self, needs: ResourceSet, who: Key, reserved: Reserved) -> bool:
        """Whether this fits into what is free, and not kept for others than `who`."""
        lasts = isinstance(who, str) or who[1]
        for name, units in needs.items():
            if not self._devices.fits(units) if name == GPU else units > self.room(name, lasts):
                return False
        for key, kept in reserved.items():
            if key == who:
                break  # it comes before the rest
            if any(units > self.room(name, lasts) - kept[name] for name, units in needs.items() if name in kept):
                return False
        return True

    def would_grant(self, needs: ResourceSet, lasts: bool) -> bool:
        """Whether a request that comes now is granted at once. What is free may be parts of devices, or kept."""
        return self.may(needs, (needs, lasts), self.reservations())

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
        stead = min(self.pledged, self.lent)
        for key in self.pressing:
            if isinstance(key, str):
                keep = self.keeps[key]
                if keep.taken:
                    continue
                needs, lasts = keep.size, True
            else:
                needs, lasts = key
            beside = 0 if lasts else stead
            if any(units > room.get(name, 0) + (beside if name == CPU else 0) for name, units in needs.items()):
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
