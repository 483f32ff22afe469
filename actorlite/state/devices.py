"""Which GPUs of a node are whose: a share of one device, or whole devices. Pure.

A device is shared only by requests for less than one. They are packed, so that whole ones stay free.
"""

from __future__ import annotations

from actorlite.resources import UNITS_PER_ONE, shown

Share = tuple[tuple[int, int], ...]
"""Indices of devices, and the units of each."""


class Devices:
    """Owned by the lease table."""

    def __init__(self, count: int) -> None:
        self.free = [UNITS_PER_ONE] * count
        """Of each device, in units."""

    def fits(self, units: int) -> bool:
        return not units or self._find(units) is not None

    def take(self, units: int) -> Share:
        """Raises `ValueError` when it does not fit."""
        if not units:
            return ()
        found = self._find(units)
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

    def _find(self, units: int) -> list[int] | None:
        """The fullest device that has room for a part; the first whole ones, for more."""
        if units < UNITS_PER_ONE:
            able = [index for index, free in enumerate(self.free) if free >= units]
            return [min(able, key=lambda index: (self.free[index], index))] if able else None
        whole = [index for index, free in enumerate(self.free) if free == UNITS_PER_ONE]
        count = -(-units // UNITS_PER_ONE)
        return whole[:count] if len(whole) >= count else None

    def __repr__(self) -> str:
        return f"<Devices free={[shown(each) for each in self.free]}>"
