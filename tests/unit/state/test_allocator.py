from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.state.allocator import GRANULE, Allocator


def pages(count: int) -> int:
    return count * GRANULE


def filled(*sizes: int) -> tuple[Allocator, list[int]]:
    """Full with ranges of so many pages."""
    allocator = Allocator(pages(sum(sizes)))
    offsets = [allocator.allocate(pages(size)) for size in sizes]
    assert None not in offsets and not allocator.free_bytes
    return allocator, [offset for offset in offsets if offset is not None]


def test_ranges_are_given_out_from_the_start_in_whole_pages():
    allocator = Allocator(pages(10))
    assert [allocator.allocate(size) for size in (1, GRANULE, GRANULE + 1)] == [0, pages(1), pages(2)]
    assert allocator.used_bytes == pages(4) and allocator.free_bytes == pages(6)
    assert [allocator.size_at(offset) for offset in (0, pages(1), pages(2))] == [pages(1), pages(1), pages(2)]
    assert repr(allocator) == f"<Allocator used={pages(4)} of {pages(10)} free ranges=1>"


@pytest.mark.parametrize("capacity", [pages(3), pages(3) + 1, pages(4) - 1])
def test_the_capacity_is_rounded_down_and_can_be_given_out_as_a_whole(capacity: int):
    allocator = Allocator(capacity)
    assert allocator.capacity == allocator.largest_free == pages(3)
    assert allocator.allocate(pages(3) + 1) is None
    assert allocator.allocate(pages(3)) == 0
    assert allocator.allocate(1) is None
    assert (allocator.free_bytes, allocator.largest_free, allocator.fragmentation, allocator.ranges) == (0, 0, 0.0, 0)
    allocator.free(0)
    assert (allocator.used_bytes, allocator.largest_free, allocator.ranges) == (0, pages(3), 1)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_neighbours_are_joined_in_whatever_order_they_come_back(order: tuple[int, ...]):
    allocator, offsets = filled(1, 2, 3)
    for each in order:
        allocator.free(offsets[each])
    assert allocator.ranges == 1
    assert allocator.allocate(pages(6)) == 0


def test_ranges_with_a_used_one_between_are_not_joined():
    allocator, offsets = filled(2, 1, 2)
    allocator.free(offsets[0])
    allocator.free(offsets[2])
    assert allocator.ranges == 2
    assert allocator.free_bytes == pages(4) and allocator.largest_free == pages(2)
    assert allocator.fragmentation == 0.5
    assert allocator.allocate(pages(3)) is None


def test_of_equal_ranges_the_lowest_is_taken():
    allocator, offsets = filled(1, 1, 1, 1, 1, 1)
    for each in (4, 0, 2):
        allocator.free(offsets[each])
    assert [allocator.allocate(GRANULE) for _ in range(3)] == [offsets[0], offsets[2], offsets[4]]


def test_a_range_that_fits_exactly_is_taken_before_a_larger_one_below_it():
    allocator, offsets = filled(5, 1, 3, 1, 4)
    for each in (0, 2, 4):
        allocator.free(offsets[each])
    assert allocator.allocate(pages(3)) == offsets[2]
    assert allocator.allocate(pages(3)) == offsets[4], "and then the one of which least is left"


@pytest.mark.parametrize("size", [1, 16, 31, 32, 33, 257, 1000])
def test_what_came_back_is_given_out_again_before_untouched_pages(size: int):
    allocator = Allocator(pages(10 * size))
    offsets = [allocator.allocate(pages(size)) for _ in range(5)]
    assert offsets[1] is not None and offsets[3] is not None
    allocator.free(offsets[3])
    allocator.free(offsets[1])
    assert [allocator.allocate(pages(size)) for _ in range(2)] == [offsets[1], offsets[3]]
    assert allocator.reach == pages(5 * size)


def test_the_reach_stays_where_it_was_when_ranges_come_back():
    allocator = Allocator(pages(8))
    for offset in [allocator.allocate(pages(2)) for _ in range(3)]:
        assert offset is not None
        allocator.free(offset)
    assert allocator.reach == pages(6)
    allocator.allocate(pages(7))
    assert allocator.reach == pages(7)


def test_a_long_range_is_found_among_shorter_ones_of_its_own_class():
    # 40 and 41 pages are of one class, and of that class the shorter range lies lower.
    allocator, offsets = filled(40, 1, 41, 1)
    allocator.free(offsets[0])
    allocator.free(offsets[2])
    assert allocator.largest_free == pages(41)
    assert allocator.allocate(pages(41)) == offsets[2]
    assert allocator.allocate(pages(41)) is None
    assert allocator.allocate(pages(40)) == offsets[0]


def test_what_is_remembered_of_ranges_that_were_joined_is_bounded():
    allocator, offsets = filled(2, 1, 5, 1)
    allocator.free(offsets[0])
    allocator.free(offsets[2])
    for _ in range(1000):
        # The two pages that it leaves are joined again, while two others stay free below.
        assert allocator.allocate(pages(3)) == offsets[2]
        allocator.free(offsets[2])
    assert sum(map(len, allocator._classes.values())) < 100


@pytest.mark.parametrize("capacity", [GRANULE - 1, 0, -1])
def test_a_segment_has_at_least_a_page(capacity: int):
    with pytest.raises(ValueError, match=rf"^capacity={capacity}: at least {GRANULE} bytes$"):
        Allocator(capacity)


@pytest.mark.parametrize("size", [0, -1])
def test_nothing_has_no_place(size: int):
    with pytest.raises(ValueError, match=rf"^size={size}: an allocation has at least one byte$"):
        Allocator(GRANULE).allocate(size)


@pytest.mark.parametrize("offset", [pages(2), pages(1), pages(9), 1, -GRANULE])
def test_only_what_was_given_out_comes_back_and_only_once(offset: int):
    allocator = Allocator(pages(4))
    assert [allocator.allocate(pages(2)), allocator.allocate(pages(1))] == [0, pages(2)]
    allocator.free(pages(2))
    with pytest.raises(ValueError, match=rf"^offset={offset} was not allocated, or was freed already$"):
        allocator.free(offset)
    assert allocator.used_bytes == pages(2)


def test_a_range_is_cut_into_ranges_that_come_back_one_by_one():
    allocator = Allocator(pages(8))
    assert allocator.allocate(pages(6)) == 0
    assert allocator.cut(0, GRANULE + 1) == pages(2)
    assert allocator.cut(pages(2), pages(4)) is None, "nothing is left"
    assert (allocator.size_at(0), allocator.size_at(pages(2))) == (pages(2), pages(4))
    assert allocator.used_bytes == pages(6)
    allocator.free(0)
    assert allocator.allocate(pages(2)) == 0
    allocator.free(pages(2))
    assert allocator.largest_free == pages(6)


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 0), (0, pages(3)), (pages(1), 1), (1, 1), (pages(5), 1), (0, -GRANULE)]
)
def test_only_what_was_given_out_is_cut_and_not_beyond_its_end(offset: int, size: int):
    allocator = Allocator(pages(8))
    allocator.allocate(pages(2))
    with pytest.raises(ValueError, match=rf"^{size} bytes cannot be cut from the \d+ that were allocated at {offset}$"):
        allocator.cut(offset, size)
    assert allocator.size_at(0) == allocator.used_bytes == pages(2)


LENGTHS = [st.integers(1, 3), st.sampled_from([40, 41]), st.integers(1, 700)]
"""In pages; 40 and 41 are of one class."""


class AllocatorMachine(RuleBasedStateMachine):
    """Against a list of intervals, in pages: what is given out overlaps nothing, and what is free lies together."""

    @initialize(
        lengths=st.sampled_from(LENGTHS).flatmap(lambda each: st.lists(each, min_size=4, max_size=12)),
        above=st.sampled_from([0, 12, 600]),
        rest=st.integers(0, GRANULE - 1),
    )
    def make(self, lengths: list[int], above: int, rest: int) -> None:
        self.units = sum(lengths) + above
        self.allocator = Allocator(pages(self.units) + rest)
        self.used: dict[int, int] = {}
        for length in lengths:
            self.allocate(length, 0)

    def gaps(self) -> list[tuple[int, int]]:
        """Start and length of each free interval."""
        found, end = [], 0
        for start, length in [*sorted(self.used.items()), (self.units, 0)]:
            if start > end:
                found.append((end, start - end))
            end = start + length
        return found

    @rule(length=st.one_of(LENGTHS), less=st.integers(0, GRANULE - 1))
    def allocate(self, length: int, less: int) -> None:
        fitting = [gap for gap in self.gaps() if gap[1] >= length]
        offset = self.allocator.allocate(pages(length) - less)
        if offset is None:
            assert not fitting, "an interval is long enough"
            return
        start, rest = divmod(offset, GRANULE)
        assert rest == 0
        assert start in [gap[0] for gap in fitting], "not the beginning of an interval that is long enough"
        shortest = min(gap[1] for gap in fitting)
        if shortest < 32:
            assert start == min(gap[0] for gap in fitting if gap[1] == shortest), "not the lowest of the shortest"
        self.used[start] = length

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        start = data.draw(st.sampled_from(sorted(self.used)))
        assert self.allocator.size_at(pages(start)) == pages(self.used.pop(start))
        self.allocator.free(pages(start))

    @precondition(lambda self: self.used)
    @rule(data=st.data(), less=st.integers(0, GRANULE - 1))
    def cut(self, data: st.DataObject, less: int) -> None:
        start = data.draw(st.sampled_from(sorted(self.used)))
        length = self.used[start]
        first = data.draw(st.integers(1, length))
        rest = self.allocator.cut(pages(start), pages(first) - less)
        assert rest == (pages(start + first) if first < length else None)
        if first < length:
            self.used[start], self.used[start + first] = first, length - first

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def free_many(self, data: st.DataObject) -> None:
        for start in data.draw(st.lists(st.sampled_from(sorted(self.used)), unique=True)):
            self.allocator.free(pages(start))
            del self.used[start]

    @rule(offset=st.integers(-GRANULE, pages(10)))
    def free_what_is_not_used(self, offset: int) -> None:
        if offset not in map(pages, self.used):
            with pytest.raises(ValueError, match="was not allocated"):
                self.allocator.free(offset)

    @invariant()
    def as_the_intervals_say(self) -> None:
        if not hasattr(self, "allocator"):
            return
        gaps = self.gaps()
        assert self.allocator.ranges == len(gaps), "neighbours are not joined"
        free, largest = sum(gap[1] for gap in gaps), max((gap[1] for gap in gaps), default=0)
        assert self.allocator.free_bytes == pages(free)
        assert self.allocator.used_bytes == pages(self.units - free)
        assert self.allocator.largest_free == pages(largest)
        assert self.allocator.fragmentation == (1 - largest / free if free else 0.0)
        assert self.allocator.reach >= max((pages(start + length) for start, length in self.used.items()), default=0)

    def teardown(self) -> None:
        if hasattr(self, "allocator"):
            for start in self.used:
                self.allocator.free(pages(start))
            assert (self.allocator.used_bytes, self.allocator.ranges) == (0, 1)
            assert self.allocator.allocate(self.allocator.capacity) == 0


TestAllocatorMachine = AllocatorMachine.TestCase
TestAllocatorMachine.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
