from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.ids import ProcessId
from actorlite.state.allocator import GRANULE
from actorlite.state.objects import (
    AskForPins,
    Command,
    Forget,
    Granted,
    Key,
    ObjectTable,
    Place,
    ReadBack,
    Refused,
    SpillOut,
)
from actorlite.state.shortage import too_large, why_full

DRIVER, WORKER, OTHER = ProcessId("driver"), ProcessId("worker"), ProcessId("other")


def pages(count: int) -> int:
    return count * GRANULE


def create(
    table: ObjectTable, request: int, key: Key, size: int = 1, owner: ProcessId = DRIVER, writer: ProcessId = DRIVER
) -> list[Command]:
    """Of so many pages."""
    return table.create(request, key, pages(size), owner, writer)


def put(table: ObjectTable, *keys: Key, size: int = 1, owner: ProcessId = DRIVER, writer: ProcessId = DRIVER) -> None:
    """There is room for them, and they are written."""
    for key in keys:
        [granted] = create(table, 0, key, size, owner, writer)
        assert isinstance(granted, Granted)
        assert table.seal(key) == []


def spilled(capacity: int, *keys: Key) -> ObjectTable:
    """All of these, of a page each, were written and have gone to disk; then the segment is empty again."""
    table = ObjectTable(pages(capacity))
    put(table, *keys)
    create(table, 0, "filler", capacity)
    for key in keys:
        table.spilled(key, f"disk/{key}")
    assert all(table.objects[key].place is Place.DISK for key in keys)
    table.gave_up_writing("filler")
    assert table.allocator.used_bytes == 0
    return table


def full(*keys: Key, spills: bool = True, reader: ProcessId = OTHER) -> ObjectTable:
    """Of objects that somebody reads."""
    table = ObjectTable(pages(len(keys)), spills=spills)
    put(table, *keys)
    for key in keys:
        assert isinstance(table.open(0, key, reader)[0], Granted)
    return table


# An object's life.


def test_an_object_is_created_sealed_opened_closed_and_freed():
    table = ObjectTable(pages(4))
    assert create(table, 1, "a", 2) == [Granted(1, 0)]
    assert table.seal("a") == []
    assert table.open(2, "a", WORKER) == [Granted(2, 0)]
    assert table.close("a", WORKER) == []
    assert table.allocator.used_bytes == pages(2)
    assert table.free("a") == []
    assert not table.objects and table.allocator.used_bytes == 0
    assert repr(table) == "<ObjectTable objects=0 waiting=0>"


def test_whoever_opens_it_before_it_is_sealed_waits():
    table = ObjectTable(pages(4))
    create(table, 1, "a")
    assert table.open(2, "a", WORKER) == []
    assert table.open(3, "a", OTHER) == []
    assert table.seal("a") == [Granted(2, 0), Granted(3, 0)]
    assert table.objects["a"].pins == {WORKER: 1, OTHER: 1}


def test_whoever_opens_it_before_there_is_room_for_it_waits():
    table = full("a")
    assert create(table, 1, "b") == [AskForPins()]
    assert table.open(2, "b", WORKER) == []
    table.free("a")
    assert table.close("a", OTHER) == [Granted(1, 0)]
    assert table.seal("b") == [Granted(2, 0)]


def test_what_was_never_stored_cannot_be_opened():
    assert ObjectTable(pages(1)).open(1, "a", DRIVER) == [Refused(1, "object a is not in this node's store", lost=True)]


def test_a_key_is_used_once_at_a_time():
    table = ObjectTable(pages(2))
    put(table, "a")
    assert create(table, 1, "a") == [Refused(1, "object a exists already")]
    table.free("a")
    assert create(table, 2, "a") == [Granted(2, 0)]


def test_what_is_larger_than_the_store_is_refused_at_once():
    table = ObjectTable(pages(2))
    text = (
        f"a value of {pages(2) + 1} bytes does not fit into the object store, which has {pages(2)} bytes: "
        "split it, or start the node with a larger object_store_memory"
    )
    assert table.create(1, "a", pages(2) + 1, DRIVER, DRIVER) == [Refused(1, text)]
    assert create(table, 2, "a", 2) == [Granted(2, 0)]


@pytest.mark.parametrize("size", [0, -1])
def test_nothing_is_refused_and_holds_up_nobody(size: int):
    table = ObjectTable(pages(2))
    assert table.create(1, "a", size, DRIVER, DRIVER) == [Refused(1, f"size={size}: an object has at least one byte")]
    assert create(table, 2, "a") == [Granted(2, 0)]


def test_a_freed_object_stays_for_those_who_read_it_and_is_closed_to_others():
    table = full("a")
    table.open(2, "a", OTHER)
    assert table.free("a") == table.free("a") == []
    assert table.open(3, "a", WORKER) == [Refused(3, "object a is not in this node's store", lost=True)]
    table.close("a", OTHER)
    assert table.allocator.used_bytes == pages(1), "it is read once more"
    table.close("a", OTHER)
    assert table.allocator.used_bytes == 0


def test_many_reads_are_closed_at_once():
    table = full("a")
    table.open(2, "a", OTHER)
    table.close("a", OTHER, 2)
    assert not table.objects["a"].pins


def test_closing_what_one_has_not_opened_does_nothing():
    table = full("a")
    assert table.close("a", WORKER) == table.close("b", OTHER) == []
    assert table.objects["a"].pins == {OTHER: 1}


def test_closing_does_not_end_the_writing():
    table = ObjectTable(pages(2))
    create(table, 1, "a")
    table.close("a", DRIVER)
    table.free("a")
    assert create(table, 2, "b") == [Granted(2, pages(1))], "the first page is still written to"


def test_what_is_freed_while_it_is_written_is_gone_when_that_is_over():
    table = ObjectTable(pages(2))
    create(table, 1, "a")
    create(table, 2, "b")
    table.open(3, "a", WORKER)
    assert table.free("a") == [Refused(3, "object a was let go by its owner", lost=True)]
    table.free("b")
    assert table.allocator.used_bytes == pages(2)
    table.seal("a")
    table.gave_up_writing("b")
    assert not table.objects and table.allocator.used_bytes == 0


def test_sealing_twice_or_before_there_is_room_does_nothing():
    table = full("a")
    create(table, 1, "b")
    assert table.seal("b") == table.seal("a") == table.seal("c") == []
    assert table.objects["b"].place is Place.WRITING


def test_what_is_given_up_by_its_writer_was_never_written():
    table = ObjectTable(pages(2))
    create(table, 1, "a")
    table.open(2, "a", WORKER)
    assert table.gave_up_writing("a") == [Refused(2, "object a was never written", lost=True)]
    assert not table.objects and table.allocator.used_bytes == 0


def test_what_is_written_is_not_given_up():
    table = ObjectTable(pages(2))
    put(table, "a")
    assert table.gave_up_writing("a") == table.gave_up_writing("b") == []
    assert "a" in table.objects


# Room.


def test_the_least_recently_used_is_spilled_first():
    table = ObjectTable(pages(3))
    put(table, "a", "b", "c")
    table.open(1, "a", WORKER)
    table.close("a", WORKER)
    assert create(table, 2, "d") == [SpillOut("b", pages(1), pages(1))]
    assert table.spilled("b", "disk/b") == [Granted(2, pages(1))]
    assert create(table, 3, "e", 2) == [SpillOut("c", pages(2), pages(1)), SpillOut("a", 0, pages(1))]


def test_only_reading_counts_as_use():
    table = ObjectTable(pages(3))
    put(table, "a", "b", "c")
    table.open(1, "b", WORKER)
    table.close("b", WORKER)
    table.process_gone(OTHER)
    table.close("a", WORKER)
    assert create(table, 2, "d") == [SpillOut("a", 0, pages(1))], "others who end, or close, make it no younger"
    table.spill_failed("a", "no")
    table.process_gone(OTHER)
    assert table.try_again() == [SpillOut("c", pages(2), pages(1))]


def test_what_is_in_use_is_not_spilled():
    table = ObjectTable(pages(3))
    put(table, "a")
    create(table, 0, "b")
    put(table, "c")
    table.open(0, "a", WORKER)
    assert create(table, 1, "d", 2) == [SpillOut("c", pages(2), pages(1))]
    assert table.spilled("c", "disk/c") == [AskForPins()]
    assert table.seal("b") == [SpillOut("b", pages(1), pages(1))]
    assert table.spilled("b", "disk/b") == [Granted(1, pages(1))]


def test_no_more_is_spilled_than_is_needed():
    table = ObjectTable(pages(4))
    for key in "ab":
        table.create(0, key, GRANULE + 1, DRIVER, DRIVER)
        table.seal(key)
    assert create(table, 1, "c", 2) == [SpillOut("a", 0, GRANULE + 1)], "its second page counts as a whole"
    assert create(table, 2, "d", 1) == []
    assert table.spilled("a", "disk/a") == [Granted(1, 0), SpillOut("b", pages(2), GRANULE + 1)]
    assert table.spilled("b", "disk/b") == [Granted(2, pages(2))]


def test_where_free_pages_are_scattered_more_is_spilled_until_a_range_is_long_enough():
    table = ObjectTable(pages(4))
    put(table, *"abcd")
    table.free("b")
    table.free("d")
    assert create(table, 1, "e", 2) == [SpillOut("a", 0, pages(1))]
    assert table.spilled("a", "disk/a") == [Granted(1, 0)]


def test_what_is_opened_while_it_is_spilled_keeps_its_memory():
    table = ObjectTable(pages(2))
    put(table, "a", "b")
    assert create(table, 1, "c") == [SpillOut("a", 0, pages(1))]
    assert table.open(2, "a", WORKER) == [Granted(2, 0)]
    assert table.spilled("a", "disk/a") == [SpillOut("b", pages(1), pages(1))], "another one makes room"
    assert table.objects["a"].offset == 0
    assert table.spilled("b", "disk/b") == [Granted(1, pages(1))]
    assert table.close("a", WORKER) == []
    assert create(table, 3, "d") == [Granted(3, 0)], "it has a copy: nothing is written again"


def test_what_is_opened_and_closed_while_it_is_spilled_makes_room():
    table = ObjectTable(pages(2))
    put(table, "a")
    create(table, 0, "b")
    create(table, 1, "c", 2)
    table.open(2, "a", WORKER)
    assert table.close("a", WORKER) == [], "it is not spilled twice"
    table.gave_up_writing("b")
    assert table.spilled("a", "disk/a") == [Granted(1, 0)]


def test_what_is_freed_while_it_is_spilled_is_forgotten_when_that_is_over():
    table = ObjectTable(pages(1))
    put(table, "a")
    create(table, 1, "b")
    assert table.free("a") == [], "its pages are being read"
    assert table.spilled("a", "disk/a") == [Forget("disk/a"), Granted(1, 0)]


def test_an_object_is_restored_when_it_is_opened():
    table = spilled(2, "a", "b")
    assert table.open(1, "b", WORKER) == [ReadBack("b", 0, pages(1), "disk/b")]
    assert table.open(2, "b", OTHER) == []
    assert table.restored("b") == [Granted(1, 0), Granted(2, 0)]
    assert table.free("b") == table.close("b", OTHER) == []
    assert table.close("b", WORKER) == [Forget("disk/b")]
    assert table.free("a") == [Forget("disk/a")]


def test_a_restored_object_keeps_its_copy_and_is_evicted_without_a_write():
    table = spilled(1, "a")
    table.open(1, "a", WORKER)
    table.restored("a")
    table.close("a", WORKER)
    assert create(table, 2, "b") == [Granted(2, 0)]
    assert table.objects["a"].place is Place.DISK
    table.seal("b")
    assert table.open(3, "a", WORKER) == [SpillOut("b", 0, pages(1))]
    assert table.spilled("b", "disk/b") == [ReadBack("a", 0, pages(1), "disk/a")]


def test_what_is_restored_for_those_who_wait_no_more_can_be_evicted():
    table = spilled(1, "a")
    table.open(1, "a", WORKER)
    assert table.withdraw(1) == table.restored("a") == []
    assert create(table, 2, "b") == [Granted(2, 0)]


def test_what_is_freed_while_it_is_restored_is_forgotten_when_that_is_over():
    table = spilled(1, "a")
    table.open(1, "a", WORKER)
    create(table, 2, "b")
    assert table.free("a") == [Refused(1, "object a was let go by its owner", lost=True)]
    assert table.restored("a") == [Forget("disk/a"), Granted(2, 0)]


def test_a_copy_that_cannot_be_read_is_a_lost_object():
    table = spilled(1, "a")
    table.open(1, "a", WORKER)
    table.open(2, "a", OTHER)
    create(table, 3, "b")
    text = "object a cannot be restored: it is gone"
    assert table.restore_failed("a", "it is gone") == [
        Refused(1, text, lost=True),
        Refused(2, text, lost=True),
        Forget("disk/a"),
        Granted(3, 0),
    ]
    assert table.open(4, "a", WORKER) == [Refused(4, "object a is not in this node's store", lost=True)]


def test_an_object_that_there_is_no_memory_for_stays_on_disk():
    table = spilled(1, "a")
    table.open(1, "a", WORKER)
    create(table, 2, "b")
    assert table.restore_put_off("a", "no memory") == [Refused(1, "no memory"), Granted(2, 0)]
    assert table.objects["a"].place is Place.DISK
    table.gave_up_writing("b")
    assert table.open(3, "a", WORKER) == [ReadBack("a", 0, pages(1), "disk/a")]
    assert table.free("a") == [Refused(3, "object a was let go by its owner", lost=True)]
    assert table.restore_put_off("a", "no memory") == [Forget("disk/a")]
    assert not table.objects and not table.allocator.used_bytes


# Order.


def test_wishes_are_granted_in_turn_and_small_ones_do_not_overtake():
    table = full("a", "b", "c")
    assert create(table, 1, "d", 3) == [AskForPins()]
    assert create(table, 2, "e") == []
    table.free("a")
    table.free("b")
    table.free("c")
    assert table.close("a", OTHER) == table.close("c", OTHER) == []
    assert table.waiting == 2 and repr(table) == "<ObjectTable objects=3 waiting=2>"
    assert table.close("b", OTHER) == [Granted(1, 0), AskForPins()]
    assert table.seal("d") == [SpillOut("d", 0, pages(3))]


def test_what_is_to_be_restored_comes_before_what_is_new():
    table = spilled(2, "a", "b")
    create(table, 0, "c", 2)
    assert create(table, 1, "d") == [AskForPins()]
    assert table.open(2, "b", WORKER) == table.open(3, "a", WORKER) == []
    assert table.gave_up_writing("c") == [
        ReadBack("b", 0, pages(1), "disk/b"),
        ReadBack("a", pages(1), pages(1), "disk/a"),
        AskForPins(),
    ]


def test_a_request_that_is_withdrawn_holds_up_nobody():
    table = full("a", "b")
    create(table, 1, "c", 2)
    create(table, 2, "d", 1)
    table.open(3, "c", WORKER)
    table.free("a")
    assert table.close("a", OTHER) == []
    assert table.withdraw(1) == [Refused(3, "object c was never written", lost=True), Granted(2, 0)]
    assert table.withdraw(1) == table.withdraw(9) == []


@pytest.mark.parametrize("how", ["withdraw", "process_gone", "owner_gone", "free"])
def test_what_nobody_waits_for_is_not_restored(how: str):
    table = spilled(2, "a")
    create(table, 0, "b", 2)
    assert table.open(1, "a", WORKER) == [AskForPins()]
    create(table, 2, "c", 2)
    if how == "free":
        table.free("a")
    else:
        getattr(table, how)(1 if how == "withdraw" else WORKER)
        assert table.objects["a"].place is Place.DISK
    assert table.gave_up_writing("b") == [Granted(2, 0)], "it would not fit beside the restored object"


def test_of_those_who_wait_for_an_object_one_can_be_withdrawn():
    table = spilled(1, "a")
    create(table, 0, "b")
    table.open(1, "a", WORKER)
    table.open(2, "a", WORKER)
    table.withdraw(1)
    assert table.gave_up_writing("b") == [ReadBack("a", 0, pages(1), "disk/a")]
    assert table.restored("a") == [Granted(2, 0)]


def test_what_is_freed_before_there_was_room_for_it_waits_no_more():
    table = full("a", "b")
    create(table, 1, "c", 2)
    create(table, 2, "d")
    table.free("a")
    table.close("a", OTHER)
    assert table.free("c") == [Refused(1, "object c was let go by its owner", lost=True), Granted(2, 0)]


# Shortage.


def test_those_who_hold_pins_are_asked_once_in_a_shortage():
    table = full("a", "b")
    assert create(table, 1, "c") == [AskForPins()]
    assert create(table, 2, "d") == []
    assert table.open(3, "a", WORKER) == [Granted(3, 0)]
    table.free("a")
    table.close("a", OTHER)
    assert table.close("a", WORKER) == [Granted(1, 0), AskForPins()], "the second is a shortage of its own"
    assert table.withdraw(2) == []
    assert create(table, 4, "e") == [AskForPins()]


def test_nobody_is_asked_while_spilling_may_help():
    table = full("a")
    table.close("a", OTHER)
    assert create(table, 1, "b") == [SpillOut("a", 0, pages(1))]
    table.open(2, "a", OTHER)
    assert table.spilled("a", "disk/a") == [AskForPins()]
    assert table.close("a", OTHER) == [Granted(1, 0)]


def test_without_a_disk_nothing_is_spilled():
    table = ObjectTable(pages(2), spills=False)
    put(table, "a", "b")
    assert create(table, 1, "c") == [AskForPins()]
    assert table.free("b") == [Granted(1, pages(1))]


def test_after_a_failure_nothing_is_spilled_until_it_is_tried_again():
    table = ObjectTable(pages(2))
    put(table, "a", "b")
    create(table, 1, "c")
    assert table.spill_failed("a", "the disk is full") == [AskForPins()]
    assert table.objects["a"].place is Place.MEMORY
    assert create(table, 2, "d") == []
    assert table.try_again() == [SpillOut("b", pages(1), pages(1))], "not the one that failed"
    assert table.spill_error == "the disk is full", "until one succeeds"
    assert table.spilled("b", "disk/b") == [Granted(1, pages(1)), SpillOut("a", 0, pages(1))]
    assert table.spill_error == ""


def test_a_disk_that_takes_another_one_is_tried_at_once():
    table = ObjectTable(pages(3))
    put(table, *"abc")
    assert len(create(table, 1, "d", 2)) == 2
    assert table.spill_failed("a", "too slow") == []
    assert table.spilled("b", "disk/b") == [SpillOut("c", pages(2), pages(1))]
    assert "too slow" not in why_full(table, 1)


def test_copies_are_evicted_even_while_nothing_can_be_spilled():
    table = spilled(2, "a")
    put(table, "b")
    table.open(1, "a", WORKER)
    table.restored("a")
    create(table, 2, "c", 2)
    table.spill_failed("b", "the disk is full")
    table.withdraw(2)
    table.close("a", WORKER)
    assert create(table, 3, "d") == [Granted(3, pages(1))]


def test_who_is_short_of_room_is_told_who_holds_it():
    table = ObjectTable(pages(8))
    put(table, "a", size=2)
    create(table, 0, "b", 3, owner=DRIVER, writer=WORKER)
    put(table, "c", "d")
    for process in (OTHER, DRIVER, OTHER):
        table.open(0, "a", process)
    table.free("c")
    assert why_full(table, pages(5)) == (
        f"no room for {pages(5)} bytes: {pages(2)} of {pages(8)} bytes are free, "
        f"the largest free range has {pages(1)}; "
        f"object b of {pages(3)} bytes, being written, is in use by worker (1); "
        f"object a of {pages(2)} bytes, in memory, is in use by other (2), driver (1)"
    )


def test_who_is_short_of_room_is_told_what_hinders_spilling():
    assert "spilling" not in why_full(full("a"), 1)
    table = full("a", spills=False)
    assert "; spilling to disk is off; object a" in why_full(table, 1)
    table = full("a")
    table.close("a", OTHER)
    create(table, 1, "b")
    table.spill_failed("a", "the disk is full")
    assert why_full(table, 1).endswith("; spilling to disk failed: the disk is full")


def test_not_more_than_eight_holders_are_listed():
    table = full(*"abcdefghij")
    text = why_full(table, 1)
    assert text.count("is in use by other (1)") == 8 and text.endswith("; and 2 more in use")


# Processes that end.


def test_what_a_lost_process_was_writing_is_gone():
    table = ObjectTable(pages(2))
    create(table, 1, "a", 2, owner=DRIVER, writer=WORKER)
    create(table, 2, "b", 2, owner=DRIVER, writer=WORKER)
    create(table, 3, "c", 2, owner=DRIVER, writer=OTHER)
    table.open(4, "a", DRIVER)
    table.open(5, "a", WORKER)
    table.open(6, "b", DRIVER)
    assert table.process_gone(WORKER) == [
        Refused(6, "object b was never written", lost=True),
        Refused(4, "the process that wrote object a died before it was done", lost=True),
        Granted(3, 0),
    ], "and what it has asked for is not answered"
    assert list(table.objects) == ["c"]


def test_what_a_lost_process_has_written_for_others_stays():
    table = ObjectTable(pages(2))
    put(table, "a", owner=DRIVER, writer=WORKER)
    table.process_gone(WORKER)
    assert table.open(1, "a", DRIVER) == [Granted(1, 0)]


def test_what_a_lost_process_owned_is_freed():
    table = ObjectTable(pages(3))
    put(table, "a", "b", owner=DRIVER, writer=WORKER)
    create(table, 0, "c", owner=DRIVER, writer=WORKER)
    create(table, 1, "d", owner=DRIVER, writer=WORKER)
    table.spilled("a", "disk/a")
    table.open(2, "c", OTHER)
    table.open(3, "b", OTHER)
    table.seal("d")
    assert table.process_gone(DRIVER) == [
        Forget("disk/a"),
        Refused(2, "object c was let go by its owner", lost=True),
    ]
    assert set(table.objects) == {"b", "c"}, "one is read, and one written"
    table.close("b", OTHER)
    table.seal("c")
    assert not table.objects


def test_what_was_handed_over_is_freed_by_the_last_of_its_owners():
    table = ObjectTable(pages(4))
    put(table, "a")
    table.inherit("a", [WORKER, OTHER, DRIVER])
    table.owner_gone(DRIVER)
    table.free("a", DRIVER)  # it comes late
    assert table.objects["a"].owner == min(WORKER, OTHER)
    table.free("a", WORKER)
    assert [type(each) for each in table.open(1, "a", OTHER)] == [Granted]
    table.close("a", OTHER)
    table.free("a", OTHER)
    assert not table.objects and not table.allocator.used_bytes


@pytest.mark.parametrize("end", ["owner_gone", "process_gone"])
def test_an_heir_that_is_lost_owns_nothing(end: str):
    table = ObjectTable(pages(4))
    put(table, "a")
    table.inherit("a", [WORKER])
    getattr(table, end)(WORKER)
    assert "a" in table.objects
    getattr(table, end)(DRIVER)
    assert not table.objects


def test_what_is_gone_is_not_inherited():
    table = ObjectTable(pages(4))
    put(table, "a")
    table.open(1, "a", OTHER)
    table.free("a", DRIVER)
    table.inherit("a", [WORKER])
    table.inherit("b", [WORKER])
    table.close("a", OTHER)
    assert not table.objects


def test_what_a_lost_process_was_reading_is_unpinned():
    table = full("a", "b", reader=WORKER)
    table.open(1, "a", WORKER)
    table.open(2, "b", OTHER)
    table.free("a")
    assert create(table, 3, "c") == [AskForPins()]
    assert table.process_gone(WORKER) == [Granted(3, 0)]
    assert table.objects["b"].pins == {OTHER: 1}


def test_a_lost_process_waits_for_nothing():
    table = spilled(2, "a")
    create(table, 0, "b", 2, owner=DRIVER, writer=OTHER)
    create(table, 1, "c", owner=DRIVER, writer=WORKER)
    table.open(2, "a", WORKER)
    table.open(3, "b", WORKER)
    assert table.process_gone(WORKER) == []
    assert table.waiting == 0 and set(table.objects) == {"a", "b"}
    assert table.seal("b") == []


def test_without_its_connection_a_process_owns_nothing_and_reads_and_writes_on():
    table = full("a", "b")
    put_by_other = table.open(1, "b", WORKER)
    assert put_by_other == [Granted(1, pages(1))]
    create(table, 2, "c", owner=OTHER, writer=WORKER)
    table.open(3, "c", WORKER)
    assert table.owner_gone(DRIVER) == []
    assert table.owner_gone(WORKER) == []
    assert set(table.objects) == {"a", "b"} and table.waiting == 0
    assert table.objects["b"].pins == {OTHER: 1, WORKER: 1}
    table.process_gone(OTHER)
    assert create(table, 4, "d", owner=OTHER, writer=WORKER) == [Granted(4, 0)]
    table.owner_gone(WORKER)
    assert table.objects["d"].place is Place.WRITING
    table.seal("d")
    assert "d" in table.objects


def test_reads_that_outlive_their_process_are_closed_one_by_one():
    table = ObjectTable(pages(8))
    put(table, "a", "b")
    put(table, "own", owner=WORKER, writer=WORKER)
    for request, key in enumerate(("a", "a", "a", "b", "own")):
        table.open(request, key, WORKER)
    create(table, 6, "c", writer=WORKER)
    assert table.process_gone(WORKER, {"a": 2, "own": 1}) == []
    assert table.objects["a"].pins == {WORKER: 2} and table.objects["b"].pins == {}
    assert set(table.objects) == {"a", "b", "own"}, "what it was writing is given up, what it owned is still read"
    table.close("own", WORKER)
    assert "own" not in table.objects
    table.close("a", WORKER)
    assert table.is_used_by(WORKER)
    table.close("a", WORKER)
    assert not table.is_used_by(WORKER) and table.objects["a"].place is Place.MEMORY


def test_what_was_written_for_others_is_unclaimed_until_they_know():
    table = ObjectTable(pages(8))
    put(table, "own", owner=WORKER, writer=WORKER)
    put(table, "a", "b", owner=DRIVER, writer=WORKER)
    put(table, "c", owner=OTHER, writer=WORKER)
    put(table, "d", owner=DRIVER, writer=OTHER)
    assert table.unclaimed_of(WORKER) == ["a", "b", "c"]
    assert table.unclaimed_of(WORKER, DRIVER) == ["a", "b"]
    table.claim("a")
    table.claim("z")
    assert table.unclaimed_of(WORKER) == ["b", "c"]
    assert table.free_unclaimed(["a", "b", "own", "z"]) == []
    assert set(table.objects) == {"own", "a", "c", "d"}


# Everything, in any order.


@dataclass
class Item:
    """An object as whoever uses the store knows it."""

    key: Key
    units: int
    owners: set[ProcessId]
    writer: ProcessId
    claimed: bool
    state: str = "waits"
    """Then "is written", then "sealed"."""
    offset: int = -1
    """Where it is pinned."""
    location: str = ""
    pins: Counter[ProcessId] = field(default_factory=Counter)
    openers: list[int] = field(default_factory=list)
    freed: bool = False


class TableMachine(RuleBasedStateMachine):
    """Processes come and go, and the disk answers when it likes. Memory and disk are modelled by content: each page
    has the key of what was written to it last."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0
        self.alive = [DRIVER, WORKER, OTHER]
        self.items: dict[Key, Item] = {}
        self.keys: list[Key] = []
        self.requests: dict[int, tuple[Key, ProcessId]] = {}
        """Those that are not answered."""
        self.creates: list[int] = []
        self.restores: list[Key] = []
        self.resting: list[Key] = []
        """Least recently used first."""
        self.under_way: dict[Key, SpillOut | ReadBack] = {}
        self.on_disk: dict[str, Key] = {}
        self.paused = False
        self.asked = False

    @initialize(units=st.integers(1, 5), full=st.booleans(), spills=st.sampled_from([True, True, True, False]))
    def make(self, units: int, full: bool, spills: bool) -> None:
        self.table = ObjectTable(pages(units), spills=spills)
        self.memory = [""] * units
        # Where it begins full, as many lie on disk.
        for _ in range(2 * units if full and spills else 0):
            self.ask_for_room(1, DRIVER, WORKER)
            self.finish()

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def sealed(self) -> list[Item]:
        return [item for item in self.items.values() if item.state == "sealed"]

    def written_now(self) -> list[Key]:
        return [item.key for item in self.items.values() if item.state == "is written"]

    def pinned(self) -> list[tuple[Key, ProcessId]]:
        return [(item.key, process) for item in self.sealed() for process in item.pins]

    # Rules of processes.

    @rule(data=st.data(), less=st.integers(0, GRANULE - 1), write=st.booleans())
    def create(self, data: st.DataObject, less: int, write: bool) -> None:
        units = data.draw(st.integers(1, 2) | st.integers(1, len(self.memory) + 1))
        owner, writer = data.draw(st.sampled_from(self.alive)), data.draw(st.sampled_from(self.alive))
        self.ask_for_room(units, owner, writer, less)
        if write and self.keys and self.keys[-1] in self.written_now():
            self.seal_or_give_up(self.keys[-1], does=True)

    def ask_for_room(self, units: int, owner: ProcessId, writer: ProcessId, less: int = 0) -> None:
        request = self.number()
        key, size = f"k{request}", pages(units) - less
        if size > self.table.allocator.capacity:
            assert self.table.create(request, key, size, owner, writer) == [
                Refused(request, too_large(self.table.allocator.capacity, size))
            ]
            return
        self.keys.append(key)
        self.items[key] = Item(key, units, {owner}, writer, claimed=owner == writer)
        self.requests[request] = key, writer
        self.creates.append(request)
        self.do(self.table.create(request, key, size, owner, writer))

    @precondition(lambda self: self.written_now())
    @rule(data=st.data(), does=st.sampled_from([True, True, True, False]))
    def seal(self, data: st.DataObject, does: bool) -> None:
        self.seal_or_give_up(data.draw(st.sampled_from(self.written_now())), does)

    def seal_or_give_up(self, key: Key, does: bool) -> None:
        self.items[key].pins.clear()
        if does:
            self.items[key].state = "sealed"
            self.do(self.table.seal(key))
        else:
            self.items[key].freed = True
            self.do(self.table.gave_up_writing(key))

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        self.ask_to_read(data.draw(st.sampled_from([*self.items, *self.keys[-3:]])), data)

    def idle_on_disk(self) -> list[Key]:
        return [key for key, found in self.table.objects.items() if found.place is Place.DISK]

    @precondition(idle_on_disk)
    @rule(data=st.data())
    def open_on_disk(self, data: st.DataObject) -> None:
        self.ask_to_read(data.draw(st.sampled_from(self.idle_on_disk())), data)

    def ask_to_read(self, key: Key, data: st.DataObject) -> None:
        process, request = data.draw(st.sampled_from(self.alive)), self.number()
        item = self.items.get(key)
        if item is None or item.freed:
            lost = [Refused(request, f"object {key} is not in this node's store", lost=True)]
            assert self.table.open(request, key, process) == lost
            return
        self.requests[request] = key, process
        item.openers.append(request)
        if self.table.objects[key].place is Place.DISK:
            self.restores.append(key)
        self.do(self.table.open(request, key, process))

    @precondition(lambda self: self.pinned())
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        key, process = data.draw(st.sampled_from(self.pinned()))
        count = data.draw(st.integers(1, self.items[key].pins[process]))
        self.items[key].pins -= Counter({process: count})
        self.do(self.table.close(key, process, count))

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(list(self.items)))
        by = data.draw(st.sampled_from([None, *self.alive]))
        if by is None or not self.others_own(self.items[key], by):
            self.let_go(self.items[key])
        self.do(self.table.free(key, by))

    def others_own(self, item: Item, process: ProcessId) -> bool:
        """It does not any more."""
        if len(item.owners) == 1:
            return False
        item.owners.discard(process)
        return True

    def let_go(self, item: Item) -> None:
        item.freed = True
        self.restores = [key for key in self.restores if key != item.key]

    # One rule for what would otherwise end most objects before they have seen anything.
    @precondition(lambda self: self.keys)
    @rule(
        data=st.data(),
        what=st.sampled_from(["nothing_happens", "claim", "inherit", "withdraw", "lose", "lose_connection"]),
    )
    def seldom(self, data: st.DataObject, what: str) -> None:
        getattr(self, what)(data)

    def nothing_happens(self, data: st.DataObject) -> None:
        """What comes too late, or twice, or from those whom it does not concern."""
        key, process = data.draw(st.sampled_from(self.keys)), data.draw(st.sampled_from(self.alive))
        if (key, process) not in self.pinned():
            assert self.table.close(key, process) == []
        if key not in self.written_now():
            assert self.table.seal(key) == self.table.gave_up_writing(key) == []
        if key in self.items:
            assert self.table.create(0, key, 1, DRIVER, DRIVER) == [Refused(0, f"object {key} exists already")]
        else:
            assert self.table.free(key) == []
        assert self.table.withdraw(0) == self.table.process_gone(ProcessId("stranger")) == []

    def claim(self, data: st.DataObject) -> None:
        unclaimed = [item for item in self.items.values() if not item.claimed]
        for item in unclaimed[::2]:
            item.claimed = True
            self.table.claim(item.key)
        keys = data.draw(st.lists(st.sampled_from(self.keys), unique=True, max_size=2))
        for key in keys:
            if key in self.items and not self.items[key].claimed:
                self.let_go(self.items[key])
        self.do(self.table.free_unclaimed(keys))

    def inherit(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.keys))
        heirs = data.draw(st.lists(st.sampled_from(self.alive), unique=True))
        self.table.inherit(key, heirs)
        if key in self.items and not self.items[key].freed:
            self.items[key].claimed = True
            self.items[key].owners.update(heirs)

    def withdraw(self, data: st.DataObject) -> None:
        if self.requests:
            request = data.draw(st.sampled_from(list(self.requests)))
            self.forget_request(request)
            self.do(self.table.withdraw(request))

    def forget_request(self, request: int) -> None:
        """Whoever asked wants no answer."""
        key, _ = self.requests.pop(request)
        if request in self.creates:
            self.creates.remove(request)
            del self.items[key]
        elif (item := self.items.get(key)) is not None:
            item.openers.remove(request)
            if not item.openers and key in self.restores:
                self.restores.remove(key)

    def lose(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.alive))
        self.alive[self.alive.index(process)] = ProcessId(f"p{self.number()}")
        self.disown(process)
        for item in self.items.values():
            item.pins.pop(process, None)
            if item.state == "is written" and item.writer == process:
                self.let_go(item)
        self.do(self.table.process_gone(process))

    def lose_connection(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.alive))
        self.disown(process)
        self.do(self.table.owner_gone(process))

    def disown(self, process: ProcessId) -> None:
        for request in [request for request, (_, asking) in self.requests.items() if asking == process]:
            self.forget_request(request)
        for item in self.items.values():
            if process in item.owners and not self.others_own(item, process):
                self.let_go(item)

    # Rules of the disk.

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), works=st.sampled_from([True, True, True, False]))
    def answer(self, data: st.DataObject, works: bool) -> None:
        command = self.under_way.pop(data.draw(st.sampled_from(list(self.under_way))))
        if isinstance(command, SpillOut):
            self.paused = not works
            if works:
                self.spilled(command)
            else:
                self.do(self.table.spill_failed(command.key, "no"))
        elif works:
            self.restored(command)
        else:
            self.let_go(self.items[command.key])
            self.do(self.table.restore_failed(command.key, "no"))

    def spilled(self, command: SpillOut) -> None:
        self.holds(command.key, command.offset)
        location = f"{command.key}/{self.number()}"
        self.items[command.key].location = location
        self.on_disk[location] = command.key
        self.do(self.table.spilled(command.key, location))

    def restored(self, command: ReadBack) -> None:
        item = self.items[command.key]
        self.fill(item, command.offset, self.on_disk[item.location])
        self.do(self.table.restored(command.key))

    @precondition(lambda self: self.paused)
    @rule()
    def try_again(self) -> None:
        self.paused = False
        self.do(self.table.try_again())

    # What the table wants done.

    def do(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Granted(request, offset):
                    self.granted(request, offset)
                case Refused(request, _, lost):
                    key, _ = self.requests.pop(request)
                    assert lost and (key not in self.items or self.items[key].freed), "there is no reason"
                    if request in self.creates:
                        self.creates.remove(request)
                    elif key in self.items:
                        self.items[key].openers.remove(request)
                case SpillOut(key, offset):
                    item = self.items[key]
                    assert self.table.spills and not self.paused
                    assert not item.freed and not item.pins and not item.location and key not in self.under_way
                    self.holds(key, offset)
                    self.under_way[key] = command
                case ReadBack(key, offset, _, location):
                    assert self.restores.pop(0) == key and key not in self.under_way
                    assert self.items[key].openers and self.items[key].location == location
                    self.fill(self.items[key], offset, "half read")
                    self.under_way[key] = command
                    self.asked = False
                case Forget(location):
                    item = self.items[self.on_disk.pop(location)]
                    assert item.freed and not item.pins and item.key not in self.under_way
                case AskForPins():
                    assert not self.asked, "twice in a shortage"
                    self.asked = True
        self.asked = self.asked and bool(self.creates or self.restores)
        for item in list(self.items.values()):
            if item.freed and not item.pins and item.key not in self.under_way:
                del self.items[item.key]
        self.least_recently_used_first()

    def granted(self, request: int, offset: int) -> None:
        key, process = self.requests.pop(request)
        item = self.items[key]
        if request in self.creates:
            assert self.creates.pop(0) == request, "not in turn"
            assert not self.restores, "before one that is to be restored"
            self.asked = False
            item.state = "is written"
            self.fill(item, offset, key)
        else:
            item.openers.remove(request)
            assert item.state == "sealed" and not item.freed
            assert not item.pins or item.offset == offset, "it has moved under its readers"
            self.holds(key, offset)
        item.offset = offset
        item.pins[process] += 1

    def fill(self, item: Item, offset: int, content: str) -> None:
        first = offset // GRANULE
        assert offset % GRANULE == 0 and 0 <= first <= len(self.memory) - item.units
        self.memory[first : first + item.units] = [content] * item.units

    def holds(self, key: Key, offset: int) -> None:
        first, units = offset // GRANULE, self.items[key].units
        assert self.memory[first : first + units] == [key] * units, "others have written to its pages"

    def can_be_moved(self, key: Key) -> bool:
        return bool(self.items[key].location) or self.table.spills and not self.paused

    def least_recently_used_first(self) -> None:
        """What was evicted or spilled now was used before all that could have been instead."""
        places = {key: found.place for key, found in self.table.objects.items() if not found.freed and not found.pins}
        still = [key for key in self.resting if places.get(key) is Place.MEMORY]
        moved = [key for key in self.resting if places.get(key) in (Place.SPILLING, Place.DISK)]
        instead = [key for key in still if self.can_be_moved(key)]
        if moved and instead:
            assert self.resting.index(moved[-1]) < self.resting.index(instead[0])
        self.resting = still + [key for key in places if places[key] is Place.MEMORY and key not in still]

    # What always holds.

    @invariant()
    def every_byte_belongs_to_one(self) -> None:
        if not hasattr(self, "table"):
            return
        end = 0
        in_memory = [found for found in self.table.objects.values() if found.in_memory]
        for found in sorted(in_memory, key=lambda each: each.offset):
            assert found.offset >= end
            end = found.offset + pages(self.items[found.key].units)
        assert end <= self.table.allocator.capacity
        assert self.table.allocator.used_bytes == sum(pages(self.items[found.key].units) for found in in_memory)

    @invariant()
    def as_the_model_says(self) -> None:
        if not hasattr(self, "table"):
            return
        assert self.table.objects.keys() == self.items.keys()
        for key, item in self.items.items():
            found, command = self.table.objects[key], self.under_way.get(key)
            assert (found.freed, found.claimed, found.location) == (item.freed, item.claimed, item.location)
            assert found.pins == item.pins
            assert [request for request, _ in found.openers] == item.openers
            assert (found.place is Place.WRITING) == (item.state != "sealed")
            assert (found.place is Place.SPILLING) == isinstance(command, SpillOut)
            assert (found.place is Place.RESTORING) == (isinstance(command, ReadBack) or key in self.restores)
            if item.pins:
                assert found.offset == item.offset
            if item.state == "sealed":
                assert found.in_memory or self.on_disk[item.location] == key, "lost"
            if item.state != "waits" and found.in_memory and not isinstance(command, ReadBack):
                self.holds(key, found.offset)
        for writer in self.alive:
            mine = [item for item in self.items.values() if item.writer == writer and not item.claimed]
            assert self.table.unclaimed_of(writer) == [item.key for item in mine]
            assert self.table.unclaimed_of(writer, DRIVER) == [item.key for item in mine if DRIVER in item.owners]

    @invariant()
    def nobody_waits_without_a_reason(self) -> None:
        if not hasattr(self, "table"):
            return
        opened = [request for item in self.items.values() for request in item.openers]
        assert sorted(self.requests) == sorted([*opened, *self.creates])
        for item in self.sealed():
            assert not item.openers or item.key in self.restores or isinstance(self.under_way[item.key], ReadBack)
        assert self.table.waiting == len(self.creates) + len(self.restores)
        if self.table.waiting:
            first = self.restores[0] if self.restores else self.requests[self.creates[0]][0]
            assert pages(self.items[first].units) > self.table.allocator.largest_free, "there is room"
            if not any(isinstance(each, SpillOut) for each in self.under_way.values()):
                assert self.asked and not any(map(self.can_be_moved, self.resting)), "room can be made"

    # The end: everybody does what is expected of them.

    def finish(self) -> None:
        """The disk works, all that is written is sealed, and nobody reads for ever."""
        while self.under_way or self.written_now() or self.pinned():
            for key in list(self.under_way):
                command = self.under_way.pop(key)
                if isinstance(command, SpillOut):
                    self.paused = False
                    self.spilled(command)
                else:
                    self.restored(command)
            for key in self.written_now():
                self.seal_or_give_up(key, does=True)
            for key, process in self.pinned():
                count = self.items[key].pins.pop(process)
                self.do(self.table.close(key, process, count))

    def teardown(self) -> None:
        if not hasattr(self, "table"):
            return
        self.paused = False
        self.do(self.table.try_again())
        self.finish()
        assert not self.requests or not self.table.spills, "asked, and never answered"
        while self.items:
            assert self.sealed(), "there is room, and they wait"
            for item in self.sealed():
                self.let_go(item)
                self.do(self.table.free(item.key))
            self.finish()
        assert not self.requests
        assert not self.table.objects and self.table.allocator.used_bytes == 0
        assert not self.on_disk, "a copy that is not forgotten"


TestTableMachine = TableMachine.TestCase
TestTableMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
