"""Where in a segment objects lie: ranges of pages are given out and taken back.

Free ranges are kept by class (TLSF: powers of two, each split in `1 << SPLIT_BITS`), with a bitmap of the classes that
have any, so that a range which is large enough is found without looking at those which are not. Of a class the lowest
range is taken: pages that were written before are written to again, and the end of the segment stays untouched.
Neighbours are joined when a range comes back.
Invariant: no two free ranges touch, and free and used ones together are the segment.
"""

from __future__ import annotations

from heapq import heappop, heappush

GRANULE = 4096
"""Sizes are rounded up to pages: an object never shares one, and the smallest have a hundred kilobytes."""
SPLIT_BITS = 4


class Allocator:
    """Of `capacity` bytes, rounded down to whole granules. `allocate` and `free` take O(log n) for n free ranges, but
    for a request that only ranges of its own class could hold: then all of that class are looked at."""

    def __init__(self, capacity: int) -> None:
        units = capacity // GRANULE
        if units <= 0:
            raise ValueError(f"capacity={capacity}: at least {GRANULE} bytes")
        self.capacity = units * GRANULE
        self.used_bytes = 0
        self.reach = 0
        """The end of the highest range that was ever given out: beyond it nothing was written."""
        self._used: dict[int, int] = {}
        self._free: dict[int, int] = {}
        self._free_by_end: dict[int, int] = {}
        self._classes: dict[int, list[int]] = {}
        """Starts of free ranges, as heaps; one that is not a free range of that class any more is passed over."""
        self._sizes_of: dict[int, int] = {}
        """How many ranges of each class are free."""
        self._bitmap = 0
        self._add(0, units)

    @property
    def free_bytes(self) -> int:
        return self.capacity - self.used_bytes

    @property
    def largest_free(self) -> int:
        """Bytes of the largest object that fits now."""
        if not self._bitmap:
            return 0
        highest = self._bitmap.bit_length() - 1
        return GRANULE * max(size for size in self._free.values() if _class_of(size) == highest)

    @property
    def fragmentation(self) -> float:
        """0 when all free bytes lie together, towards 1 the more they are scattered."""
        free = self.free_bytes
        return 1 - self.largest_free / free if free else 0.0

    @property
    def ranges(self) -> int:
        """How many free ranges there are."""
        return len(self._free)

    def allocate(self, size: int) -> int | None:
        """The offset of `size` bytes; None when no free range is long enough."""
        if size <= 0:
            raise ValueError(f"size={size}: an allocation has at least one byte")
        units = -(-size // GRANULE)
        start = self._find(units)
        if start is None:
            return None
        found = self._remove(start)
        if found > units:
            self._add(start + units, found - units)
        self._used[start] = units
        self.used_bytes += units * GRANULE
        self.reach = max(self.reach, (start + units) * GRANULE)
        return start * GRANULE

    def free(self, offset: int) -> None:
        """Take a range back. Raises `ValueError` for what was not given out."""
        start, rest = divmod(offset, GRANULE)
        units = self._used.pop(start, None) if not rest else None
        if units is None:
            raise ValueError(f"offset={offset} was not allocated, or was freed already")
        self.used_bytes -= units * GRANULE
        after = start + units
        if after in self._free:
            units += self._remove(after)
        before = self._free_by_end.get(start)
        if before is not None:
            units += self._remove(before)
            start = before
        self._add(start, units)

    def cut(self, offset: int, size: int) -> int | None:
        """Make two ranges of one that was given out: the first has `size` bytes. The offset of the other; None when it
        is empty. Raises `ValueError` for what was not given out, or is not that long."""
        start, rest = divmod(offset, GRANULE)
        units = self._used.get(start, 0) if not rest else 0
        first = -(-size // GRANULE)
        if not 0 < first <= units:
            raise ValueError(f"{size} bytes cannot be cut from the {units * GRANULE} that were allocated at {offset}")
        if first == units:
            return None
        self._used[start] = first
        self._used[start + first] = units - first
        return (start + first) * GRANULE

    def size_at(self, offset: int) -> int:
        """Bytes of the range given out at `offset`, rounded as they were."""
        return self._used[offset // GRANULE] * GRANULE

    def _find(self, units: int) -> int | None:
        own = _class_of(units)
        # The lowest of its own class is looked at first: what has the same size again and again reuses its pages.
        if self._bitmap >> own & 1:
            lowest = self._lowest(own)
            if self._free[lowest] >= units:
                return lowest
        # All ranges of a class above are large enough.
        if larger := self._bitmap >> (own + 1):
            return self._lowest(own + (larger & -larger).bit_length())
        fitting = (start for start in self._classes.get(own, ()) if self._free.get(start, 0) >= units)
        return min(fitting, default=None)

    def _lowest(self, number: int) -> int:
        heap = self._classes[number]
        while (size := self._free.get(heap[0])) is None or _class_of(size) != number:
            heappop(heap)
        return heap[0]

    def _add(self, start: int, units: int) -> None:
        number = _class_of(units)
        self._free[start] = units
        self._free_by_end[start + units] = start
        heap = self._classes.setdefault(number, [])
        heappush(heap, start)
        count = self._sizes_of.get(number, 0) + 1
        self._sizes_of[number] = count
        self._bitmap |= 1 << number
        if len(heap) > 2 * count + 16:
            # What was joined with a neighbour leaves its entry behind.
            self._classes[number] = sorted({each for each in heap if _class_of(self._free.get(each, 0)) == number})

    def _remove(self, start: int) -> int:
        units = self._free.pop(start)
        del self._free_by_end[start + units]
        number = _class_of(units)
        self._sizes_of[number] -= 1
        if not self._sizes_of[number]:
            self._bitmap &= ~(1 << number)
            self._classes[number].clear()
        return units

    def __repr__(self) -> str:
        return f"<Allocator used={self.used_bytes} of {self.capacity} free ranges={len(self._free)}>"


def _class_of(units: int) -> int:
    """Sizes below `2 << SPLIT_BITS` have a class each; from there, each power of two has `1 << SPLIT_BITS` classes."""
    shift = units.bit_length() - SPLIT_BITS - 1
    if shift <= 0:
        return units
    return (shift << SPLIT_BITS) + (units >> shift)
