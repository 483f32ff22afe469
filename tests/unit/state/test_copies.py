"""Copies of objects of other nodes, in the tables of those nodes."""

from __future__ import annotations

import pytest

from actorlite.ids import ProcessId
from actorlite.state.allocator import GRANULE
from actorlite.state.objects import (
    HERE,
    AskForPins,
    Command,
    Forget,
    Granted,
    Key,
    ObjectTable,
    Place,
    Pull,
    ReadBack,
    Refused,
    SpillOut,
    StopPull,
)
from actorlite.state.shortage import too_large

DRIVER, WORKER, OTHER = ProcessId("driver"), ProcessId("worker"), ProcessId("other")
FAR, FARTHER = ProcessId("far"), ProcessId("farther")
"""Other nodes."""


def pages(count: int) -> int:
    return count * GRANULE


def wish(
    table: ObjectTable, request: int, key: Key, process: ProcessId = WORKER, size: int = 1, source: ProcessId = FAR
) -> list[Command]:
    """For an object of so many pages that lies on another node."""
    return table.open(request, key, process, pages(size), source)


def pulling(key: Key, request: int = 1, capacity: int = 4) -> ObjectTable:
    """A table whose first page is where an object is copied to, for one request of the worker."""
    table = ObjectTable(pages(capacity))
    assert wish(table, request, key) == [Pull(key, 0, pages(1), FAR)]
    return table


def copied(*keys: Key, capacity: int | None = None, source: ProcessId = FAR) -> ObjectTable:
    """Each of these, of a page, was copied and is read no more."""
    table = ObjectTable(pages(capacity or len(keys)))
    for key in keys:
        [pull] = wish(table, 0, key)
        assert isinstance(pull, Pull)
        table.owned_by(key, DRIVER, HERE)
        assert table.restored(key, source) == [Granted(0, pull.offset)]
        assert table.close(key, WORKER) == []
    return table


def is_empty(table: ObjectTable) -> bool:
    return not (table.objects or table.waiting or table.allocator.used_bytes or table._evictable)


# A copy's life.


def test_an_object_of_another_node_is_copied_once_for_all_who_open_it():
    table = pulling("a")
    assert wish(table, 2, "a", OTHER) == []
    assert table.objects["a"].place is Place.RESTORING
    table.owned_by("a", DRIVER, FARTHER)
    assert table.restored("a", FAR) == [Granted(1, 0), Granted(2, 0)]
    copy = table.objects["a"]
    assert (copy.owner, copy.home, copy.source, copy.place) == (DRIVER, FARTHER, FAR, Place.MEMORY)
    assert wish(table, 3, "a", WORKER) == [Granted(3, 0)]
    assert copy.pins == {WORKER: 2, OTHER: 1}


def test_a_copy_that_is_freed_stays_for_those_who_read_it():
    table = pulling("a")
    table.restored("a", FAR)
    assert table.free("a") == []
    assert wish(table, 2, "a") == [Refused(2, "object a is not in this node's store", lost=True)]
    table.close("a", WORKER)
    assert is_empty(table)


def test_whose_a_copy_is_that_is_gone_does_not_matter():
    table = ObjectTable(pages(1))
    table.owned_by("a", DRIVER, FAR)
    assert is_empty(table)


def test_what_is_larger_than_the_store_is_not_copied():
    table = ObjectTable(pages(2))
    assert wish(table, 1, "a", size=3) == [Refused(1, too_large(pages(2), pages(3)))]
    assert is_empty(table)


@pytest.mark.parametrize("size", [0, -1])
def test_of_an_object_without_a_size_nothing_can_be_copied(size: int):
    table = ObjectTable(pages(2))
    assert table.open(1, "a", WORKER, size, FAR) == [Refused(1, "object a is not in this node's store", lost=True)]
    assert is_empty(table)


def test_what_is_here_is_not_copied_whatever_is_said():
    table = ObjectTable(pages(2))
    table.create(0, "a", pages(1), DRIVER, DRIVER)
    assert wish(table, 1, "a") == []
    assert table.seal("a") == [Granted(1, 0)]
    assert table.objects["a"].source == HERE


def test_only_who_says_where_it_is_gets_a_copy():
    assert ObjectTable(pages(1)).open(1, "a", WORKER, pages(1)) == [
        Refused(1, "object a is not in this node's store", lost=True)
    ]


def test_a_copy_is_no_longer_unclaimed_work_of_anybody():
    table = copied("a")
    assert table.unclaimed_of(HERE) == table.unclaimed_of(DRIVER) == []


# Whoever waits for it goes.


@pytest.mark.parametrize("how", ["withdraw", "process_gone", "owner_gone"])
def test_a_copy_that_nobody_waits_for_is_stopped(how: str):
    table = pulling("a")
    wish(table, 2, "a", OTHER)
    assert table.withdraw(2) == [], "somebody waits still"
    assert getattr(table, how)(1 if how == "withdraw" else WORKER) == [StopPull("a")]
    assert table.withdraw(1) == table.process_gone(OTHER) == table.owner_gone(OTHER) == [], "once"
    assert table.allocator.used_bytes == pages(1), "it may still be written to"
    assert table.pull_stopped("a") == []
    assert is_empty(table)


def test_whoever_comes_before_it_has_stopped_gets_another_one():
    table = pulling("a")
    assert table.withdraw(1) == [StopPull("a")]
    assert wish(table, 2, "a", OTHER) == []
    assert table.pull_stopped("a") == [Pull("a", 0, pages(1), FAR)]
    assert table.restored("a", FAR) == [Granted(2, 0)]


def test_whoever_comes_and_goes_before_it_has_stopped_leaves_nothing():
    table = pulling("a")
    table.withdraw(1)
    wish(table, 2, "a")
    assert table.withdraw(2) == [StopPull("a")]
    table.pull_stopped("a")
    assert is_empty(table)


def test_one_that_has_stopped_waits_in_turn_for_room():
    table = pulling("a", capacity=2)
    table.create(0, "b", pages(1), DRIVER, DRIVER)
    assert wish(table, 2, "c") == [AskForPins()]
    table.withdraw(1)
    wish(table, 3, "a")
    assert table.pull_stopped("a") == [Pull("c", 0, pages(1), FAR), AskForPins()]
    assert table.gave_up_writing("b") == [Pull("a", pages(1), pages(1), FAR)]


def test_one_that_ends_though_it_was_to_stop_is_a_copy():
    table = pulling("a")
    table.withdraw(1)
    assert table.restored("a", FAR) == []
    assert wish(table, 2, "a") == [Granted(2, 0)]


@pytest.mark.parametrize("how", ["withdraw", "process_gone", "owner_gone", "free", "node_gone"])
def test_a_copy_that_waits_for_room_and_is_wanted_no_more_is_forgotten(how: str):
    table = ObjectTable(pages(1))
    table.create(0, "b", pages(1), DRIVER, DRIVER)
    assert wish(table, 1, "a") == [AskForPins()]
    argument = {"withdraw": 1, "free": "a", "node_gone": FARTHER}.get(how, WORKER)
    table.owned_by("a", DRIVER, FARTHER)
    lost = [Refused(1, "object a was let go by its owner", lost=True)] if how in ("free", "node_gone") else []
    assert getattr(table, how)(argument) == lost
    assert list(table.objects) == ["b"] and table.waiting == 0
    assert table.gave_up_writing("b") == []
    assert is_empty(table)


@pytest.mark.parametrize("how", ["process_gone", "owner_gone"])
def test_an_owner_that_waits_for_its_own_object_and_ends_leaves_nothing(how: str):
    table = ObjectTable(pages(1))
    table.create(0, "b", pages(1), DRIVER, DRIVER)
    wish(table, 1, "a")
    table.owned_by("a", WORKER, HERE)
    assert getattr(table, how)(WORKER) == []
    assert list(table.objects) == ["b"]
    table.gave_up_writing("b")
    wish(table, 2, "a")
    table.owned_by("a", WORKER, HERE)
    assert StopPull("a") in getattr(table, how)(WORKER)
    table.pull_stopped("a")
    assert is_empty(table)


# It is freed while it is copied.


def test_what_is_freed_while_it_is_copied_is_stopped_and_gone_when_that_is_over():
    table = pulling("a")
    assert table.free("a") == [Refused(1, "object a was let go by its owner", lost=True), StopPull("a")]
    assert table.free("a") == table.withdraw(1) == []
    assert wish(table, 2, "a") == [Refused(2, "object a is not in this node's store", lost=True)]
    assert table.allocator.used_bytes == pages(1)
    assert table.pull_stopped("a") == []
    assert is_empty(table)


@pytest.mark.parametrize("how", ["restored", "restore_failed", "restore_put_off"])
def test_what_is_freed_while_it_is_copied_is_gone_however_that_ends(how: str):
    table = pulling("a", capacity=1)
    table.free("a")
    table.create(2, "b", pages(1), DRIVER, DRIVER)
    assert getattr(table, how)("a", *([] if how == "restored" else ["text"])) == [Granted(2, 0)]
    assert list(table.objects) == ["b"]


# It cannot be copied.


def test_what_no_node_has_is_lost():
    table = pulling("a", capacity=1)
    wish(table, 2, "a", OTHER)
    table.create(3, "b", pages(1), DRIVER, DRIVER)
    text = "object a cannot be restored: no node has it"
    assert table.restore_failed("a", "no node has it") == [
        Refused(1, text, lost=True),
        Refused(2, text, lost=True),
        Granted(3, 0),
    ]
    table.gave_up_writing("b")
    assert is_empty(table)
    assert wish(table, 4, "a", source=FARTHER) == [Pull("a", 0, pages(1), FARTHER)], "it may have been made again"


def test_what_cannot_be_copied_now_is_not_lost():
    table = pulling("a", capacity=1)
    table.create(2, "b", pages(1), DRIVER, DRIVER)
    assert table.restore_put_off("a", "the other node has no room") == [
        Refused(1, "the other node has no room"),
        Granted(2, 0),
    ]
    table.gave_up_writing("b")
    assert is_empty(table)
    assert wish(table, 3, "a") == [Pull("a", 0, pages(1), FAR)]


# Room.


def test_a_copy_is_evicted_without_a_write_and_forgotten():
    table = copied("a", "b")
    assert table.create(1, "c", pages(1), DRIVER, DRIVER) == [Granted(1, 0)]
    assert set(table.objects) == {"b", "c"}
    assert wish(table, 2, "a") == [Pull("a", pages(1), pages(1), FAR)], "the least recently used again"
    assert set(table.objects) == {"a", "c"}


def test_copies_are_evicted_where_there_is_no_disk():
    table = ObjectTable(pages(1), spills=False)
    wish(table, 0, "a")
    table.restored("a", FAR)
    assert table.create(1, "b", pages(1), DRIVER, DRIVER) == [AskForPins()]
    assert table.close("a", WORKER) == [Granted(1, 0)]


def test_free_after_eviction_does_nothing():
    table = copied("a")
    table.create(1, "b", pages(1), DRIVER, DRIVER)
    assert table.free("a") == table.close("a", WORKER) == table.node_gone(FAR) == []
    table.gave_up_writing("b")
    assert is_empty(table)


def test_a_copy_of_a_copy_stands_for_itself():
    table = copied("a", source=HERE)
    assert table.create(1, "b", pages(1), DRIVER, DRIVER) == [SpillOut("a", 0, pages(1))]
    assert table.spilled("a", "disk/a") == [Granted(1, 0)]
    table.gave_up_writing("b")
    assert wish(table, 2, "a") == [ReadBack("a", 0, pages(1), "disk/a")], "not from a node that may not have it"
    table.restored("a")
    table.free("a")
    assert table.close("a", WORKER) == [Forget("disk/a")]
    assert is_empty(table)


# What other nodes can have.


def test_another_node_can_have_what_is_whole_here():
    table = ObjectTable(pages(1))
    assert not table.has("a")
    table.create(0, "a", pages(1), DRIVER, DRIVER)
    assert not table.has("a"), "it is being written"
    table.seal("a")
    assert table.has("a")
    table.create(0, "b", pages(1), DRIVER, DRIVER)
    assert table.objects["a"].place is Place.SPILLING and table.has("a")
    table.spilled("a", "disk/a")
    assert table.has("a"), "it can be read back"
    table.gave_up_writing("b")
    table.open(1, "a", FAR)
    assert table.objects["a"].place is Place.RESTORING and table.has("a")
    table.restored("a")
    table.free("a")
    assert table.objects["a"].pins and not table.has("a")


def test_another_node_cannot_have_what_is_being_copied_here():
    table = pulling("a")
    assert not table.has("a")
    table.restored("a", FAR)
    assert table.has("a")
    table.close("a", WORKER)
    table.create(0, "b", pages(4), DRIVER, DRIVER)
    assert not table.has("a"), "it was evicted"


def test_what_another_node_reads_is_unpinned_when_that_is_gone():
    table = copied("a")
    table.open(1, "a", FARTHER)
    assert table.create(2, "b", pages(1), DRIVER, DRIVER) == [AskForPins()]
    assert table.process_gone(FARTHER) == [Granted(2, 0)]


# Nodes that are lost.


def test_without_its_source_a_whole_copy_is_the_object_itself():
    table = copied("a", "b")
    wish(table, 1, "b")
    assert table.node_gone(FARTHER) == []
    assert table.objects["a"].source == FAR
    assert table.node_gone(FAR) == []
    assert table.objects["a"].source == table.objects["b"].source == HERE
    assert table.create(2, "c", pages(1), DRIVER, DRIVER) == [SpillOut("a", 0, pages(1))], "the last one is not dropped"


def test_the_last_copy_stays_where_there_is_no_disk():
    table = ObjectTable(pages(1), spills=False)
    wish(table, 0, "a")
    table.restored("a", FAR)
    table.close("a", WORKER)
    table.node_gone(FAR)
    assert table.create(1, "b", pages(1), DRIVER, DRIVER) == [AskForPins()]
    assert table.has("a")


def test_when_the_source_is_lost_the_copying_goes_on_or_fails():
    table = pulling("a")
    assert table.node_gone(FAR) == []
    assert wish(table, 2, "a") == []
    assert table.restored("a") == [Granted(1, 0), Granted(2, 0)]
    assert table.objects["a"].source == HERE

    table = pulling("a")
    table.node_gone(FAR)
    assert isinstance(table.restore_failed("a", "no node has it")[0], Refused)
    assert is_empty(table)


def test_when_the_source_is_lost_while_a_copy_waits_for_room_others_are_asked():
    table = ObjectTable(pages(1))
    table.create(0, "b", pages(1), DRIVER, DRIVER)
    wish(table, 1, "a")
    assert table.node_gone(FAR) == []
    assert table.gave_up_writing("b") == [Pull("a", 0, pages(1), FAR)]


def test_when_the_source_is_lost_after_the_copy_was_evicted_others_are_asked():
    table = copied("a")
    table.create(0, "b", pages(1), DRIVER, DRIVER)
    assert table.node_gone(FAR) == []
    table.gave_up_writing("b")
    assert wish(table, 1, "a") == [Pull("a", 0, pages(1), FAR)]


def test_what_processes_of_a_lost_node_owned_is_freed():
    table = ObjectTable(pages(4))
    table.create(0, "own", pages(1), OTHER, WORKER, FARTHER)
    table.seal("own")
    for key in ("idle", "read", "pulled"):
        wish(table, 1, key)
        table.owned_by(key, OTHER, FARTHER)
        if key != "pulled":
            table.restored(key, FAR)
    table.close("idle", WORKER)
    assert table.node_gone(FARTHER) == [
        Refused(1, "object pulled was let go by its owner", lost=True),
        StopPull("pulled"),
    ]
    assert set(table.objects) == {"read", "pulled"}
    table.pull_stopped("pulled")
    table.close("read", WORKER)
    assert is_empty(table)


@pytest.mark.parametrize("how", ["process_gone", "owner_gone"])
def test_copies_of_what_a_lost_process_owned_are_freed_by_the_node_that_has_the_object(how: str):
    table = ObjectTable(pages(2))
    wish(table, 1, "a")
    table.owned_by("a", OTHER, FARTHER)
    table.restored("a", FAR)
    wish(table, 2, "b")
    table.owned_by("b", OTHER, FARTHER)
    assert getattr(table, how)(OTHER) == []  # it may have passed to others, who live on
    assert table.free("a") == []
    assert table.free("b") == [Refused(2, "object b was let go by its owner", lost=True), StopPull("b")]
    table.close("a", WORKER)
    table.pull_stopped("b")
    assert is_empty(table)


# The other node has no room to have it in memory.


def test_a_paused_pull_gives_its_room_to_others_and_begins_anew():
    table = pulling("a", capacity=1)
    table.create(2, "b", pages(1), DRIVER, DRIVER)
    assert [type(each) for each in table.pull_paused("a")] == [Granted]
    assert table.objects["a"].openers and not table.objects["a"].in_memory
    assert table.pull_resumed("a") == [AskForPins()]
    assert [type(each) for each in table.gave_up_writing("b")] == [Pull]
    assert [type(each) for each in table.restored("a", FAR)] == [Granted]


@pytest.mark.parametrize("how", ["withdraw", "free"])
def test_what_nobody_waits_for_during_a_pause_is_forgotten(how: str):
    table = pulling("a")
    table.pull_paused("a")
    getattr(table, how)({"withdraw": 1, "free": "a"}[how])
    assert is_empty(table)
    assert table.pull_resumed("a") == []


def test_a_pull_that_pauses_when_nobody_waits_is_forgotten():
    table = pulling("a")
    assert table.withdraw(1) == [StopPull("a")]
    assert table.pull_paused("a") == []
    assert is_empty(table)
