from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.ids import ProcessId
from actorlite.state.allocator import GRANULE
from actorlite.state.objects import AskForPins, Command, Granted, Key, ObjectTable, Place, Refused
from actorlite.state.slabs import (
    MIN_SLAB_BYTES,
    SHARE_OF_SLAB,
    SLAB_BYTES,
    PlacedValue,
    Slabs,
    rounded,
    slab_key,
)

DRIVER, WORKER, OTHER = ProcessId("driver"), ProcessId("worker-1"), ProcessId("other")
CAPACITY = MIN_SLAB_BYTES * SHARE_OF_SLAB
PLENTY = SLAB_BYTES * SHARE_OF_SLAB


class Store:
    """A table, its slabs, and who is connected."""

    def __init__(self, capacity: int = CAPACITY, *, spills: bool = True) -> None:
        self.here = {DRIVER, WORKER, OTHER}
        self.table = ObjectTable(capacity, spills=spills)
        self.slabs = Slabs(self.table, lambda process: process in self.here)

    def lease(self, key: Key = "slab", writer: ProcessId = WORKER) -> int:
        slab = self.slabs.lease(key, writer)
        assert slab is not None
        return slab.offset

    def place(
        self, offset: int, number: int, size: int = 1, owner: ProcessId = DRIVER, slab: Key = "slab"
    ) -> list[Command]:
        """By the worker; so many pages."""
        return self.slabs.place(PlacedValue(slab, offset, key(number), size * GRANULE, owner), WORKER)


def key(number: int, writer: ProcessId = WORKER) -> Key:
    return slab_key(writer, number)


def lost(request: int, number: int) -> Refused:
    return Refused(request, f"object {key(number)} was never written", lost=True)


# Leases.


@pytest.mark.parametrize(
    ("capacity", "size"), [(CAPACITY, MIN_SLAB_BYTES), (PLENTY, SLAB_BYTES), (8 * PLENTY, SLAB_BYTES)]
)
def test_a_slab_is_a_small_part_of_the_store_and_no_larger_than_it_helps(capacity: int, size: int):
    store = Store(capacity)
    store.lease()
    assert store.slabs.leased == {"slab": size} and store.table.allocator.used_bytes == size
    assert repr(store.slabs) == "<Slabs 1 awaited=0>"


def test_a_small_store_lends_nothing():
    assert Store(CAPACITY - GRANULE).slabs.lease("slab", WORKER) is None


def test_all_slabs_together_are_a_part_of_the_store():
    store = Store()
    for number in range(4):
        store.lease(f"slab {number}")
    assert store.slabs.lease("one more", WORKER) is None
    store.table.gave_up_writing("slab 0")
    store.lease("one more")


def test_nothing_is_lent_when_there_is_little_to_spare_or_somebody_waits():
    store = Store(spills=False)
    store.table.create(1, "a", CAPACITY * 3 // 4, DRIVER, DRIVER)
    assert store.slabs.lease("slab", WORKER) is None
    store.table.gave_up_writing("a")
    store.table.create(2, "b", CAPACITY // 4, DRIVER, DRIVER)
    assert store.table.create(3, "c", CAPACITY, DRIVER, DRIVER) == [AskForPins()]
    assert store.slabs.lease("slab", WORKER) is None
    store.table.withdraw(3)
    store.lease()


def test_nothing_is_lent_while_free_memory_is_scattered():
    store = Store(spills=False)
    parts = 32
    for number in range(parts):
        store.table.create(0, f"{number}", CAPACITY // parts, DRIVER, DRIVER)
    for number in range(0, parts, 2):
        store.table.gave_up_writing(f"{number}")
    assert store.slabs.lease("slab", WORKER) is None, "a gap would do, but others need one as well"
    for number in range(1, parts, 2):
        store.table.gave_up_writing(f"{number}")
    store.lease()


def test_a_key_is_used_once():
    store = Store()
    store.lease()
    assert store.slabs.lease("slab", OTHER) is None


# Values.


def test_a_value_is_an_object_like_any_other():
    store = Store()
    offset = store.lease()
    assert store.place(offset, 1, 2) == []
    placed = store.table.objects[key(1)]
    assert (placed.offset, placed.place, placed.pins, placed.claimed) == (offset, Place.MEMORY, {}, False)
    assert store.slabs.leased == {"slab": MIN_SLAB_BYTES - 2 * GRANULE}
    assert store.slabs.open(1, key(1), OTHER) == [Granted(1, offset)]
    store.table.close(key(1), OTHER)
    store.slabs.claim(key(1))
    assert store.table.unclaimed_of(WORKER) == []
    store.slabs.free(key(1))
    assert store.table.allocator.used_bytes == MIN_SLAB_BYTES - 2 * GRANULE
    store.table.gave_up_writing("slab")
    assert not store.table.objects and store.table.allocator.used_bytes == 0 and store.slabs.leased == {}


def test_a_slab_that_is_full_is_gone():
    store = Store()
    offset = store.lease()
    units = MIN_SLAB_BYTES // GRANULE
    store.place(offset, 1, units)
    assert store.slabs.leased == {} and list(store.table.objects) == [key(1)]
    assert store.place(offset, 2) == [] and key(2) not in store.table.objects


def test_what_its_writer_passed_over_is_free():
    store = Store()
    offset = store.lease()
    store.place(offset + 3 * GRANULE, 1)
    assert store.slabs.leased == {"slab": MIN_SLAB_BYTES - 4 * GRANULE}
    assert store.table.allocator.used_bytes == MIN_SLAB_BYTES - 3 * GRANULE
    store.place(offset + 4 * GRANULE, 2)
    assert store.table.objects[key(2)].offset == offset + 4 * GRANULE


@pytest.mark.parametrize(
    ("slab", "start", "size"),
    [
        ("another", 0, 1),
        ("slab", -1, 1),
        ("slab", 0, 0),
        ("slab", 0, -1),
        ("slab", 0, MIN_SLAB_BYTES // GRANULE + 1),
        ("slab", MIN_SLAB_BYTES // GRANULE, 1),
        ("of other", 0, 1),
        ("object", 0, 1),
    ],
)
def test_what_lies_in_no_slab_of_the_writer_is_lost(slab: Key, start: int, size: int):
    store = Store()
    offset = store.lease()
    store.lease("of other", OTHER)
    store.table.create(0, "object", GRANULE, WORKER, WORKER)
    used = store.table.allocator.used_bytes
    assert store.slabs.open(1, key(1), DRIVER) == []
    where = store.table.objects[slab].offset if slab in store.table.objects else offset
    assert store.place(where + start * GRANULE, 1, size, slab=slab) == [lost(1, 1)]
    assert store.table.allocator.used_bytes == used
    assert store.slabs.open(2, key(1), DRIVER) == [
        Refused(2, f"object {key(1)} is not in this node's store", lost=True)
    ], "nobody waits for it once more"


def test_a_writer_speaks_for_itself_only_and_once_of_each():
    store = Store()
    offset = store.lease()
    assert store.slabs.place(PlacedValue("slab", offset, key(1, OTHER), GRANULE, DRIVER), WORKER) == []
    assert store.slabs.place(PlacedValue("slab", offset, "a", GRANULE, DRIVER), WORKER) == []
    assert not set(store.table.objects) - {"slab"}
    store.place(offset, 1)
    assert store.place(offset + GRANULE, 1) == []
    assert store.slabs.leased == {"slab": MIN_SLAB_BYTES - GRANULE}


def test_a_value_for_a_process_that_is_gone_is_nobodys():
    store = Store()
    offset = store.lease()
    store.here.discard(DRIVER)
    store.place(offset, 1)
    assert key(1) not in store.table.objects


def test_values_of_a_slab_are_spilled_one_by_one():
    store = Store()
    offset = store.lease()
    store.place(offset, 1)
    store.place(offset + GRANULE, 2)
    commands = store.table.create(9, "large", CAPACITY - MIN_SLAB_BYTES + 2 * GRANULE, DRIVER, DRIVER)
    assert [each.key for each in commands] == [key(1), key(2)]  # type: ignore[union-attr]
    store.table.spilled(key(1), "disk/1")
    assert store.table.spilled(key(2), "disk/2") == [AskForPins()], "the rest of the slab is in the way"
    store.table.gave_up_writing("slab")
    assert store.table.waiting == 0


# Before the writer has said so.


def test_whoever_opens_a_value_before_it_was_announced_waits():
    store = Store()
    offset = store.lease()
    assert store.slabs.open(1, key(1), DRIVER) == store.slabs.open(2, key(1), OTHER) == []
    assert store.slabs.is_awaited(key(1)) and not store.slabs.is_awaited(key(2))
    assert store.place(offset, 1) == [Granted(1, offset), Granted(2, offset)]
    assert not store.slabs.is_awaited(key(1))
    assert store.table.objects[key(1)].pins == {DRIVER: 1, OTHER: 1}


def test_what_was_announced_and_is_gone_is_lost_at_once():
    store = Store()
    offset = store.lease()
    store.place(offset, 2)
    store.slabs.free(key(2))
    for number in (1, 2):
        [refused] = store.slabs.open(1, key(number), DRIVER)
        assert isinstance(refused, Refused) and refused.lost


@pytest.mark.parametrize("unknown", ["worker-1-7", "a", "worker-1-s", "worker-1-sx", "s1", "-s1"])
def test_nobody_waits_for_what_lies_in_no_slab(unknown: Key):
    store = Store()
    [refused] = store.slabs.open(1, unknown, DRIVER)
    assert isinstance(refused, Refused) and refused.lost
    store.slabs.claim(unknown)
    assert store.slabs.free(unknown) == []
    assert repr(store.slabs) == "<Slabs 0 awaited=0>"


def test_what_was_claimed_before_it_was_announced_stays():
    store = Store()
    offset = store.lease()
    store.slabs.claim(key(1))
    store.place(offset, 1)
    assert store.table.unclaimed_of(WORKER) == []


def test_what_was_freed_before_it_was_announced_is_gone():
    store = Store()
    offset = store.lease()
    store.slabs.claim(key(1))
    assert store.slabs.free(key(1)) == []
    assert store.place(offset, 1) == []
    assert key(1) not in store.table.objects
    assert store.table.allocator.used_bytes == MIN_SLAB_BYTES - GRANULE
    assert repr(store.slabs) == "<Slabs 1 awaited=0>"


def test_who_waits_no_more_is_not_answered():
    store = Store()
    offset = store.lease()
    store.slabs.open(1, key(1), DRIVER)
    store.slabs.open(2, key(1), OTHER)
    assert store.slabs.withdraw(1) == []
    assert store.place(offset, 1) == [Granted(2, offset)]


def test_what_a_lost_writer_has_not_announced_is_lost():
    store = Store()
    store.lease()
    store.slabs.open(1, key(1), DRIVER)
    store.here.discard(WORKER)
    assert store.slabs.lost(WORKER) == [lost(1, 1)]
    [refused] = store.slabs.open(2, key(2), DRIVER)
    assert isinstance(refused, Refused) and refused.lost
    store.table.owner_gone(WORKER)
    assert store.table.is_used_by(WORKER), "it may be writing there"
    store.table.process_gone(WORKER)
    assert store.table.allocator.used_bytes == 0


# Everything, in any order.


class SlabMachine(RuleBasedStateMachine):
    """A writer that places values, and readers that hear of them before or after the node does. Every page is free, or
    belongs to a slab or to one object; every reader is answered once, with the place of the value that it asked for."""

    @initialize()
    def make(self) -> None:
        self.store = Store()
        self.numbers = 0
        self.requests = 0
        self.slab: tuple[Key, int, int] | None = None
        """Key, and what is left of it, as its writer sees it."""
        self.unsaid: list[PlacedValue | Key] = []
        self.placed: dict[Key, int] = {}
        """Where values lie."""
        self.waiting: dict[int, Key] = {}
        self.pins: dict[Key, int] = {}
        self.freed: set[Key] = set()

    def hear(self, commands: list[Command]) -> None:
        for command in commands:
            assert isinstance(command, Granted | Refused)
            wanted = self.waiting.pop(command.request)
            if isinstance(command, Granted):
                assert command.offset == self.placed[wanted]
                self.pins[wanted] = self.pins.get(wanted, 0) + 1
            else:
                assert wanted in self.freed and command.lost

    @precondition(lambda self: self.slab is None)
    @rule()
    def lease(self) -> None:
        self.numbers += 1
        found = self.store.slabs.lease(f"slab {self.numbers}", WORKER)
        if found is not None:
            self.slab = found.key, found.offset, found.offset + found.size

    @precondition(lambda self: self.slab is not None)
    @rule(size=st.integers(1, MIN_SLAB_BYTES // 2), passed_over=st.sampled_from([0, 0, 0, GRANULE]))
    def write(self, size: int, passed_over: int) -> None:
        slab, start, end = self.slab  # type: ignore[misc]
        start += passed_over
        if start + rounded(size) > end:
            return
        self.numbers += 1
        value = PlacedValue(slab, start, key(self.numbers), size, DRIVER)
        self.placed[value.key] = start
        self.unsaid.append(value)
        self.slab = (slab, start + rounded(size), end) if start + rounded(size) < end else None

    @precondition(lambda self: self.slab is not None)
    @rule()
    def give_back(self) -> None:
        self.unsaid.append(self.slab[0])  # type: ignore[index]
        self.slab = None

    @precondition(lambda self: self.unsaid)
    @rule()
    def say(self) -> None:
        said = self.unsaid.pop(0)
        if isinstance(said, PlacedValue):
            self.hear(self.store.slabs.place(said, WORKER))
        else:
            self.hear(self.store.table.gave_up_writing(said))

    @precondition(lambda self: self.placed)
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        self.requests += 1
        wanted = data.draw(st.sampled_from(sorted(self.placed)))
        self.waiting[self.requests] = wanted
        self.hear(self.store.slabs.open(self.requests, wanted, OTHER))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[request]
        self.hear(self.store.slabs.withdraw(request))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        found = data.draw(st.sampled_from(sorted(self.pins)))
        self.pins[found] -= 1
        if not self.pins[found]:
            del self.pins[found]
        self.hear(self.store.table.close(found, OTHER))

    @precondition(lambda self: self.placed.keys() - self.freed)
    @rule(data=st.data(), claims=st.booleans())
    def free(self, data: st.DataObject, claims: bool) -> None:
        found = data.draw(st.sampled_from(sorted(self.placed.keys() - self.freed)))
        if claims:
            self.store.slabs.claim(found)
        self.freed.add(found)
        self.hear(self.store.slabs.free(found))

    @invariant()
    def every_page_belongs_to_one(self) -> None:
        if not hasattr(self, "store"):
            return
        table = self.store.table
        ranges = sorted((each.offset, rounded(each.size)) for each in table.objects.values())
        assert all(start + size <= after for (start, size), (after, _) in zip(ranges, ranges[1:], strict=False))
        assert sum(size for _, size in ranges) == table.allocator.used_bytes
        assert all(table.allocator.size_at(start) == size for start, size in ranges)
        unsaid = {each.key for each in self.unsaid if isinstance(each, PlacedValue)}
        assert all(wanted in unsaid for wanted in self.waiting.values()), "nobody waits for what was announced"

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        if self.slab is not None:
            self.give_back()
        while self.unsaid:
            self.say()
        for found in self.placed.keys() - self.freed:
            self.store.slabs.free(found)
        for found, count in self.pins.items():
            self.store.table.close(found, OTHER, count)
        assert not self.store.table.objects and not self.store.table.allocator.used_bytes
        assert repr(self.store.slabs) == "<Slabs 0 awaited=0>"


TestSlabMachine = SlabMachine.TestCase
TestSlabMachine.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)


# Owners that end before it is announced.


@pytest.mark.parametrize("owner_is_here", [True, False])
def test_what_is_handed_over_before_it_is_announced_is_freed_by_the_last_heir(owner_is_here: bool):
    store = Store()
    offset = store.lease()
    store.slabs.inherit(key(1), [OTHER])
    if not owner_is_here:
        store.here.discard(DRIVER)
    assert store.place(offset, 1) == []
    if owner_is_here:
        assert store.slabs.free(key(1), DRIVER) == []
    assert store.table.is_needed(key(1))
    assert store.slabs.free(key(1), OTHER) == []
    assert not store.table.is_needed(key(1))


def test_heirs_that_let_it_go_before_it_is_announced_are_no_owners():
    store = Store()
    offset = store.lease()
    store.slabs.inherit(key(1), [OTHER])
    store.slabs.free(key(1), OTHER)
    store.place(offset, 1)
    assert store.table.is_needed(key(1))
    store.slabs.free(key(1), DRIVER)
    assert not store.table.is_needed(key(1))
