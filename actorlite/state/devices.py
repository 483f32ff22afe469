"""Which GPUs of a node are whose: a share of one device, or whole devices. Pure.

A device is shared only by requests for less than one. They are packed, so that whole ones stay free.
"""

from __future__ import annotations

from collections.abc import Sequence

from actorlite.resources import UNITS_PER_ONE, shown

Share = tuple[tuple[int, int], ...]
"""Indices of devices, and the units of each."""


class Devices:
    """Owned by the lease table."""

    def __init__(self, count: int) -> None:
        self.free = [UNITS_PER_ONE] * count
        """Of each device, in units."""

    def fits(self, units: int) -> bool:
        return fits(self.free, units)

    def take(self, units: int) -> Share:
        """Raises `ValueError` when it does not fit."""
        if not units:
            return ()
        found = _find(self.free, units)
        if found is None:
            raise ValueError(f"no room for {shown(units)} GPUs: {self!r}")
        share = tuple([(index, min(units, UNITS_PER_ONE)) for index in found])
        for index, part in share:
            self.free[index] -= part
        return share

    def give(self, share: Share) -> None:
        for index, part in share:
            self.free[index] += part
            if self.free[index] > UNITS_PER_ONE:
                raise ValueError(f"more of device {index} was given back than was taken")

    def __repr__(self) -> str:
        return f"<Devices free={[shown(each) for each in self.free]}>"


def fits(free: Sequence[int], units: int) -> bool:
    """Whether devices of which so much is free have room for that."""
    return not units or _find(free, units) is not None


def without(free: Sequence[int], units: int) -> tuple[int, ...]:
    """What is free of devices that have room for that, once it is taken."""
    taken = dict.fromkeys(_find(free, units) or () if units else (), min(units, UNITS_PER_ONE))
    return tuple([each - taken.get(index, 0) for index, each in enumerate(free)])


def _find(free: Sequence[int], units: int) -> list[int] | None:
    """The fullest device that has room for a part; the first whole ones, for more."""
    if units < UNITS_PER_ONE:
        able = [index for index, each in enumerate(free) if each >= units]
        return [min(able, key=lambda index: (free[index], index))] if able else None
    whole = [index for index, each in enumerate(free) if each == UNITS_PER_ONE]
    count = -(-units // UNITS_PER_ONE)
    return whole[:count] if len(whole) >= count else None
