"""Room that processes lease from a node's store ahead of what they will write: decisions only.

A slab is an object that its writer is writing, as far as the table is concerned. The writer fills it from its start,
and says afterwards what it has placed there: each value is cut off, and is an object like any other from then on. So
others may hear of a value before the node does: what they want of it meanwhile is kept until its writer has announced
it, or has lost its connection.
Invariant: the writer's numbers only grow, so that what is not there is known to be lost, or to be on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct, field

from actorlite.ids import ProcessId
from actorlite.state.allocator import GRANULE
from actorlite.state.objects import HERE, Command, Key, ObjectTable, Place, Refused, StoredObject

SLAB_BYTES = 8 << 20
SHARE_OF_SLAB = 32
"""A slab is at most this part of the store,"""
MIN_SLAB_BYTES = 512 << 10
"""and smaller ones are not lent: no value would fit in;"""
SHARE_OF_SLABS = 8
"""all together are this,"""
SHARE_TO_SPARE = 4
"""and this is left free: room is lent only while there is plenty."""
SCATTERED = 1 / 3
"""While free memory is more scattered than this nothing is lent: values of their own fill the gaps."""
_MARK = "-s"


def slab_key(writer: ProcessId, number: int) -> Key:
    """Of the value that `writer` places as its `number`th in slabs."""
    return f"{writer}{_MARK}{number}"


def rounded(size: int) -> int:
    """Bytes that a value takes in a slab."""
    return -(-size // GRANULE) * GRANULE


class PlacedValue(Struct, frozen=True):
    """What a writer has placed in a slab."""

    slab: Key
    offset: int
    """Within the segment. What lies before it in the slab, and was not placed, is free."""
    key: Key
    size: int
    owner: ProcessId


class _Awaited(Struct):
    """What others want of a value that is not there yet."""

    openers: list[tuple[int, ProcessId]] = field(default_factory=list)
    claimed: bool = False
    heirs: list[ProcessId] = field(default_factory=list)
    freed: list[ProcessId | None] = field(default_factory=list)
    """By whom; None: by all."""


class Slabs:
    """Of one table. `is_here` tells which processes have a connection."""

    def __init__(self, table: ObjectTable, is_here: Callable[[ProcessId], bool]) -> None:
        self._table = table
        self._is_here = is_here
        self._leased: dict[Key, None] = {}
        self._announced: dict[ProcessId, int] = {}
        self._awaited: dict[ProcessId, dict[Key, _Awaited]] = {}
        """By writer."""
        capacity = table.allocator.capacity
        self.slab_bytes = min(SLAB_BYTES, capacity // SHARE_OF_SLAB // GRANULE * GRANULE)
        self._most = capacity // SHARE_OF_SLABS
        self._spare = capacity // SHARE_TO_SPARE

    @property
    def leased(self) -> dict[Key, int]:
        """Keys of slabs, and the bytes of each that hold no value."""
        objects = self._table.objects
        for key in [key for key in self._leased if key not in objects]:
            del self._leased[key]
        return {key: objects[key].size for key in self._leased}

    # --- events of the writer

    def lease(self, key: Key, writer: ProcessId) -> StoredObject | None:
        """A slab for `writer`, pinned; None when there is no room to spare. To give it back is to abandon it."""
        table = self._table
        size = self.slab_bytes
        if (
            size < MIN_SLAB_BYTES
            or table.waiting
            or key in table.objects
            or sum(self.leased.values()) + size > self._most
        ):
            return None
        if table.allocator.free_bytes - size < self._spare or table.allocator.fragmentation > SCATTERED:
            return None
        offset = table.allocator.allocate(size)
        if offset is None:
            return None
        slab = StoredObject(key, size, writer, writer, offset=offset, pins={writer: 1}, claimed=True)
        table.objects[key] = slab
        self._leased[key] = None
        return slab

    def place(self, value: PlacedValue, writer: ProcessId) -> list[Command]:
        """A value has been written. In a slab that is not the writer's it is lost, and so are its numbers before."""
        table, key = self._table, value.key
        named, number = _writer_of(key)
        if named != writer or key in table.objects:
            return []
        self._announced[writer] = max(number, self._announced.get(writer, 0))
        awaited = self._pop_awaited(writer, key)
        slab = table.objects.get(value.slab)
        if value.slab not in self._leased or slab is None or slab.writer != writer or not _is_within(slab, value):
            return [_not_there(request, key) for request, _ in awaited.openers]
        self._cut(slab, value, writer)
        out = table.seal(key)
        if awaited.claimed:
            table.claim(key)
        for request, process in awaited.openers:
            out += table.open(request, key, process)
        if awaited.heirs:
            table.inherit(key, awaited.heirs)
        if not self._is_here(value.owner):
            awaited.freed.append(value.owner)
        for by in awaited.freed:
            out += table.free(key, by)
        return out

    def lost(self, process: ProcessId) -> list[Command]:
        """It has no connection any more, and announces nothing."""
        self._announced.pop(process, None)
        awaited = self._awaited.pop(process, {})
        return [_not_there(request, key) for key, each in awaited.items() for request, _ in each.openers]

    # --- events of others

    def open(
        self, request: int, key: Key, process: ProcessId, size: int = 0, source: ProcessId = HERE
    ) -> list[Command]:
        """`ObjectTable.open`, which waits for what may be on its way."""
        if source or (awaited := self._await(key)) is None:
            return self._table.open(request, key, process, size, source)
        awaited.openers.append((request, process))
        return []

    def claim(self, key: Key) -> None:
        if (awaited := self._await(key)) is None:
            self._table.claim(key)
        else:
            awaited.claimed = True

    def free(self, key: Key, by: ProcessId | None = None) -> list[Command]:
        if (awaited := self._await(key)) is None:
            return self._table.free(key, by)
        awaited.freed.append(by)
        return []

    def inherit(self, key: Key, heirs: Iterable[ProcessId]) -> None:
        if (awaited := self._await(key)) is None:
            self._table.inherit(key, heirs)
        else:
            awaited.heirs += heirs

    def withdraw(self, request: int) -> list[Command]:
        for awaited in [each for values in self._awaited.values() for each in values.values()]:
            awaited.openers = [each for each in awaited.openers if each[0] != request]
        return self._table.withdraw(request)

    def is_awaited(self, key: Key) -> bool:
        """Whether its writer has not announced it yet, and may."""
        return key in self._awaited.get(_writer_of(key)[0], ())

    # --- inside

    def _cut(self, slab: StoredObject, value: PlacedValue, writer: ProcessId) -> None:
        allocator = self._table.allocator
        before, start = slab.offset, slab.offset
        if value.offset > start:  # room that its writer passed over: it was interrupted
            allocator.cut(start, value.offset - start)
            allocator.free(start)
        rest = allocator.cut(value.offset, value.size)
        if rest is None:
            del self._table.objects[slab.key], self._leased[slab.key]
        else:
            slab.offset, slab.size = rest, slab.size - (rest - before)
        self._table.objects[value.key] = StoredObject(
            value.key,
            value.size,
            value.owner,
            writer,
            offset=value.offset,
            pins={writer: 1},
            claimed=value.owner == writer,
        )

    def _await(self, key: Key) -> _Awaited | None:
        """What is wanted of a value that is not there yet; None for others."""
        if key in self._table.objects:
            return None
        writer, number = _writer_of(key)
        if not number or number <= self._announced.get(writer, 0) or not self._is_here(writer):
            return None
        return self._awaited.setdefault(writer, {}).setdefault(key, _Awaited())

    def _pop_awaited(self, writer: ProcessId, key: Key) -> _Awaited:
        values = self._awaited.get(writer)
        found = values.pop(key, None) if values else None
        if not values:
            self._awaited.pop(writer, None)
        return found or _Awaited()

    def __repr__(self) -> str:
        return f"<Slabs {len(self.leased)} awaited={sum(map(len, self._awaited.values()))}>"


def _writer_of(key: Key) -> tuple[ProcessId, int]:
    """Who has placed it, and as which number; 0 for what lies in no slab."""
    writer, mark, number = key.rpartition(_MARK)
    return (ProcessId(writer), int(number)) if mark and number.isdecimal() else (ProcessId(""), 0)


def _is_within(slab: StoredObject, value: PlacedValue) -> bool:
    if slab.place is not Place.WRITING or value.size <= 0 or value.offset % GRANULE:
        return False
    return slab.offset <= value.offset and value.offset + rounded(value.size) <= slab.offset + slab.size


def _not_there(request: int, key: Key) -> Refused:
    return Refused(request, f"object {key} was never written", lost=True)
