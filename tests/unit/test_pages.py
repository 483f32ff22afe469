from __future__ import annotations

import mmap
import sys

import pytest

from actorlite.pages import MAX_FILLING_BYTES, fill_holes, give_back_zeros


def resident_kb(address: int) -> int:
    """Private memory of the mapping that `address` lies in."""
    inside = False
    with open("/proc/self/smaps", encoding="ascii") as maps:
        for line in maps:
            first = line.split()[0]
            if "-" in first and not first.endswith(":"):
                low, high = (int(each, 16) for each in first.split("-"))
                inside = low <= address < high
            elif inside and first == "Private_Dirty:":
                return int(line.split()[1])
    raise LookupError(address)


def test_zeros_of_a_large_object_go_back_and_the_rest_stays() -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    try:
        before = resident_kb(id(loop) + mmap.PAGESIZE)
        given = give_back_zeros(loop)
        assert given > type(loop).__basicsize__ * 0.8
        assert resident_kb(id(loop) + mmap.PAGESIZE) <= before - given // 1024
        assert give_back_zeros(object()) == 0

        async def answer() -> int:
            return 42

        assert loop.run_until_complete(answer()) == 42
    finally:
        loop.close()


def test_holes_are_filled_with_a_bounded_number_of_objects() -> None:
    kept = fill_holes()
    assert kept
    sizes: dict[int, int] = {}
    for each in kept:
        size = sys.getsizeof(each)
        sizes[size] = sizes.get(size, 0) + size
    assert all(size % 16 == 0 and size <= 512 for size in sizes)
    assert max(sizes.values()) <= MAX_FILLING_BYTES
