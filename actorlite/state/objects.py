"""What lies in a node's store, for whom, and what has to be written to disk: decisions only.

Events come in, commands come out; nothing here copies a byte. An object is written once, by one process, then read by
any. Whoever reads or writes it holds a *pin* for it, by process: a pinned object does not move. What is not pinned is
written to disk, least recently used first, when others need the room, and comes back when it is opened. The owner frees
it; its memory is used again when the last pin is gone.
Invariant: every byte of the segment is free, or belongs to exactly one object; one that was sealed and not freed is in
memory or on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TypeAlias

from msgspec import Struct, field

from actorlite.ids import ProcessId
from actorlite.state.allocator import Allocator
from actorlite.state.shortage import too_large

Key: TypeAlias = str
"""Names a stored value in its node."""

HERE = ProcessId("")
"""For a node: the one whose table this is."""


class Place(Enum):
    """Where an object is."""

    WRITING = "being written"
    MEMORY = "in memory"
    SPILLING = "in memory, being spilled"
    DISK = "on disk"
    RESTORING = "on disk, being restored"


class StoredObject(Struct):
    key: Key
    size: int
    owner: ProcessId
    """Frees it."""
    writer: ProcessId
    place: Place = Place.WRITING
    offset: int = -1
    location: str = ""
    """Where its copy on disk is; empty without one. An object that was restored keeps its copy until it is freed."""
    home: ProcessId = ProcessId("")
    """The owner's node, when that is another one."""
    source: ProcessId = ProcessId("")
    """Of a copy: the node that has the object itself. It is not written to disk: it can be fetched again. When it is
    not in memory, nor wanted there, it is forgotten: whoever opens it says again where the object is."""
    pins: dict[ProcessId, int] = field(default_factory=dict)
    openers: list[tuple[int, ProcessId]] = field(default_factory=list)
    """Requests that wait until it can be read."""
    claimed: bool = False
    """Whether its owner knows of it."""
    freed: bool = False
    heirs: set[ProcessId] = field(default_factory=set)
    """Others who own it, too: an owner that ended has handed it over. It is freed by the last one."""

    @property
    def in_memory(self) -> bool:
        return self.offset >= 0

    @property
    def is_whole(self) -> bool:
        """Whether all of it can be read now."""
        return self.place in (Place.MEMORY, Place.SPILLING)

    @property
    def is_elsewhere(self) -> bool:
        """Whether its memory can be given back: there is another copy, on disk or on another node."""
        return bool(self.location or self.source)


class Granted(Struct, frozen=True):
    """The request may write, or read, at `offset`: the object is pinned for it."""

    request: int
    offset: int


class Refused(Struct, frozen=True):
    """`lost` tells an object that does not exist from one that there is no room for."""

    request: int
    text: str
    lost: bool = False


class SpillOut(Struct, frozen=True):
    """Write it to disk, then say `spilled` or `spill_failed`."""

    key: Key
    offset: int
    size: int


class ReadBack(Struct, frozen=True):
    """Read it from disk to `offset`, then say `restored` or `restore_failed`."""

    key: Key
    offset: int
    size: int
    location: str


class Pull(Struct, frozen=True):
    """Copy it to `offset` from another node, `source` or one that it knows of; then say `restored` or the like."""

    key: Key
    offset: int
    size: int
    source: ProcessId


class StopPull(Struct, frozen=True):
    """Nobody waits for it any more: end the `Pull`, and say `restore_put_off`."""

    key: Key


class Forget(Struct, frozen=True):
    """Nobody needs the copy on disk any more."""

    location: str


class AskForPins(Struct, frozen=True):
    """Room is short: whoever keeps values only to be quick about them should let them go."""


Command: TypeAlias = Granted | Refused | SpillOut | ReadBack | Pull | StopPull | Forget | AskForPins


class ObjectTable:
    """Of one node. Requests are numbers that the caller chooses."""

    def __init__(self, capacity: int, *, spills: bool = True) -> None:
        self.allocator = Allocator(capacity)
        self.objects: dict[Key, StoredObject] = {}
        self.spills = spills
        """Whether there is a disk to spill to."""
        self.spill_error = ""
        """Why the last attempt to spill failed; empty when it went well."""
        self._paused = False
        self._evictable: dict[Key, None] = {}
        """In memory, whole, unpinned; least recently used first."""
        self._restores: dict[Key, None] = {}
        """Have openers and wait for room, in turn."""
        self._creates: dict[Key, int] = {}
        """Requests that wait for room for a new object, in turn; all restores come before them."""
        self._spilling_bytes = 0
        self._asked_for_pins = False
        self._out: list[Command] = []

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._creates) + len(self._restores)

    # --- events of processes

    def create(
        self,
        request: int,
        key: Key,
        size: int,
        owner: ProcessId,
        writer: ProcessId,
        home: ProcessId = HERE,
    ) -> list[Command]:
        """Room for an object of `size` bytes that `writer` will write and `owner`, on the node `home`, will free."""
        if key in self.objects:
            return [Refused(request, f"object {key} exists already")]
        if size <= 0:
            return [Refused(request, f"size={size}: an object has at least one byte")]
        if size > self.allocator.capacity:
            return [Refused(request, too_large(self.allocator.capacity, size))]
        self.objects[key] = StoredObject(key, size, owner, writer, home=home, claimed=owner == writer)
        self._creates[key] = request
        return self._settled()

    def seal(self, key: Key) -> list[Command]:
        """It has been written. Its writer pins it no more."""
        found = self.objects.get(key)
        if found is None or found.place is not Place.WRITING or not found.in_memory:
            return []
        found.place = Place.MEMORY
        self._unpin(found, found.writer, 1)
        self._serve_openers(found)
        return self._settled()

    def open(
        self, request: int, key: Key, process: ProcessId, size: int = 0, source: ProcessId = HERE
    ) -> list[Command]:
        """Read it: granted when it is in memory, and pinned until `close`. One that is on the node `source`, and has
        `size` bytes, is copied first, once for all who open it."""
        found = self.objects.get(key)
        if found is None and source and size > 0:
            if size > self.allocator.capacity:
                return [Refused(request, too_large(self.allocator.capacity, size))]
            found = StoredObject(key, size, HERE, HERE, Place.DISK, source=source, claimed=True)
            self.objects[key] = found
        if found is None or found.freed:
            return [Refused(request, f"object {key} is not in this node's store", lost=True)]
        found.openers.append((request, process))
        if found.place is Place.DISK:
            found.place = Place.RESTORING
            self._restores[key] = None
        elif found.is_whole:
            self._serve_openers(found)
        return self._settled()

    def close(self, key: Key, process: ProcessId, count: int = 1) -> list[Command]:
        """So many reads of a process are over."""
        found = self.objects.get(key)
        # What is being written is pinned until it is sealed or given up, whatever its writer closes.
        if found is not None and process in found.pins and found.place is not Place.WRITING:
            self._unpin(found, process, count)
        return self._settled()

    def claim(self, key: Key) -> None:
        """Its owner knows of it: it is not given up when its writer dies."""
        if (found := self.objects.get(key)) is not None:
            found.claimed = True

    def free(self, key: Key, by: ProcessId | None = None) -> list[Command]:
        """Nobody will open it any more; of several owners, `by` will not. Those who read or write it may go on."""
        found = self.objects.get(key)
        if found is not None and (by is None or not self._passes_on(found, by)):
            self._free(found)
        return self._settled()

    def is_needed(self, key: Key) -> bool:
        """Whether it has an owner, who has not let it go."""
        found = self.objects.get(key)
        return found is not None and not found.freed

    def inherit(self, key: Key, heirs: Iterable[ProcessId]) -> None:
        """They own it as its owner does. Not what an owner on another node has here: that ends with its owner."""
        found = self.objects.get(key)
        if found is not None and not found.freed and not found.home:
            found.claimed = True
            found.heirs.update(heirs)
            found.heirs.discard(found.owner)

    def withdraw(self, request: int) -> list[Command]:
        """Whoever asked for room, or for an object, waits no more."""
        for key in [key for key, waiting in self._creates.items() if waiting == request]:
            self._give_up(self.objects[key], f"object {key} was never written")
        for found in list(self.objects.values()):
            self._keep_openers(found, [each for each in found.openers if each[0] != request])
        return self._settled()

    def gave_up_writing(self, key: Key) -> list[Command]:
        """The writer will not seal it."""
        found = self.objects.get(key)
        if found is not None and found.place is Place.WRITING and found.in_memory:
            self._give_up(found, f"object {key} was never written")
        return self._settled()

    def unclaimed_of(self, writer: ProcessId, owner: ProcessId | None = None) -> list[Key]:
        """What a process wrote for others (for `owner`) who have not said that they know."""
        return [
            each.key
            for each in self.objects.values()
            if not each.claimed and each.writer == writer and owner in (None, each.owner)
        ]

    def free_unclaimed(self, keys: list[Key]) -> list[Command]:
        for key in keys:
            if (found := self.objects.get(key)) is not None and not found.claimed:
                self._free(found)
        return self._settled()

    def owner_gone(self, process: ProcessId) -> list[Command]:
        """It has no connection any more: it frees nothing itself, and asks for nothing. It may still read and write."""
        self._disown(process)
        return self._settled()

    def is_used_by(self, process: ProcessId) -> bool:
        """Whether it reads or writes anything."""
        return any(process in each.pins for each in self.objects.values())

    def process_gone(self, process: ProcessId, living: Mapping[Key, int] | None = None) -> list[Command]:
        """It maps the segment no more: what it pinned, wrote or owned is nobody's. But for `living`: so many reads by
        key go on without it, and are closed one by one."""
        living = living or {}
        self._disown(process)
        for found in list(self.objects.values()):
            if found.place is Place.WRITING and found.writer == process:
                self._give_up(found, f"the process that wrote object {found.key} died before it was done")
            elif (over := found.pins.get(process, 0) - living.get(found.key, 0)) > 0:
                self._unpin(found, process, over)
        return self._settled()

    # --- events of other nodes

    def owned_by(self, key: Key, owner: ProcessId, home: ProcessId) -> None:
        """Whose a copy is: said by the node that it comes from."""
        if (found := self.objects.get(key)) is not None:
            found.owner, found.home = owner, home

    def has(self, key: Key) -> bool:
        """Whether another node can have all of it from here."""
        found = self.objects.get(key)
        return found is not None and not found.freed and (found.is_whole or bool(found.location))

    def copies_of(self, node: ProcessId) -> list[Key]:
        """What is here, whole, of what another node has."""
        return [each.key for each in self.objects.values() if each.source == node and each.is_whole and not each.freed]

    def node_gone(self, node: ProcessId) -> list[Command]:
        """What processes of another node owned is freed; copies of what it had are the objects themselves now."""
        for found in list(self.objects.values()):
            if found.home == node:
                self._free(found)
            elif found.source == node and found.is_whole:
                found.source = HERE
        return self._settled()

    def pull_stopped(self, key: Key) -> list[Command]:
        """A `Pull` has ended early, as was asked for. Who has come meanwhile gets another one."""
        found = self.objects[key]
        self.allocator.free(found.offset)
        found.offset = -1
        if found.openers:
            self._restores[key] = None
        else:
            found.place = Place.DISK
            self._drop(found)
        return self._settled()

    def pull_paused(self, key: Key) -> list[Command]:
        """The other node has no room to have it in memory: give this room to others, who may be what that one waits
        for. Those who wait wait on, until `pull_resumed`."""
        found = self.objects[key]
        self.allocator.free(found.offset)
        found.offset = -1
        if not found.openers:
            found.place = Place.DISK
            self._drop(found)
        return self._settled()

    def pull_resumed(self, key: Key) -> list[Command]:
        """After a pause, if anybody still waits: it stands in the queue again."""
        found = self.objects.get(key)
        if found is not None and found.place is Place.RESTORING and not found.in_memory:
            self._restores[key] = None
        return self._settled()

    # --- events of the disk, and the end of a copy from another node

    def spilled(self, key: Key, location: str) -> list[Command]:
        """Its copy on disk is whole."""
        found = self._spill_ended(key)
        self.spill_error = ""
        self._paused = False
        found.location = location
        self._rest(found)
        if key in self._evictable:  # nobody has opened or freed it meanwhile
            self._evict(found)
        return self._settled()

    def spill_failed(self, key: Key, text: str) -> list[Command]:
        """It stays in memory. Nothing is spilled until `try_again`, or until another one that is under way succeeds."""
        found = self._spill_ended(key)
        self.spill_error = text
        self._paused = True
        self._rest(found)
        return self._settled()

    def try_again(self) -> list[Command]:
        """After a failure, perhaps there is room on the disk now."""
        self._paused = False
        return self._settled()

    def restored(self, key: Key, source: ProcessId = HERE) -> list[Command]:
        """All of it is in memory; `source`: of a copy that came from the object itself, the node that has it, if that
        still is there. A copy of a copy stands for itself: nobody knows how long the other one stays."""
        found = self.objects[key]
        found.place = Place.MEMORY
        found.source = source
        self._serve_openers(found)
        self._rest(found)
        return self._settled()

    def restore_failed(self, key: Key, text: str) -> list[Command]:
        """Its copy on disk cannot be read, or no node has it any more: the object is lost."""
        found = self.objects[key]
        self._refuse_openers(found, f"object {key} cannot be restored: {text}")
        found.place = Place.MEMORY
        self._free(found)
        return self._settled()

    def restore_put_off(self, key: Key, text: str) -> list[Command]:
        """It is not in memory after all; its copy elsewhere is as it was."""
        found = self.objects[key]
        self._out += [Refused(request, text) for request, _ in found.openers]
        found.openers = []
        self.allocator.free(found.offset)
        found.offset = -1
        found.place = Place.DISK
        if found.freed or not found.location:
            self._drop(found)
        return self._settled()

    # --- inside

    def _settled(self) -> list[Command]:
        """What is to be done after an event."""
        self._grant()
        out, self._out = self._out, []
        return out

    def _grant(self) -> None:
        while queue := self._restores or self._creates:
            key = next(iter(queue))
            found = self.objects[key]
            offset = self.allocator.allocate(found.size)
            if offset is None:
                if self._make_room(found.size):
                    continue
                # In turn: a small wish must not overtake a large one for ever.
                return
            found.offset = offset
            self._asked_for_pins = False
            if found.place is Place.RESTORING:
                del self._restores[key]
                if found.location:
                    self._out.append(ReadBack(key, offset, found.size, found.location))
                else:
                    self._out.append(Pull(key, offset, found.size, found.source))
            else:
                found.pins[found.writer] = 1
                self._out.append(Granted(self._creates.pop(key), offset))
        self._asked_for_pins = False

    def _make_room(self, size: int) -> bool:
        """Evict copies and spill others until `size` bytes may be free; True when there is more room already."""
        coming = self.allocator.free_bytes + self._spilling_bytes
        if coming >= size and self._spilling_bytes:
            return False
        made = False
        for key in list(self._evictable):
            found = self.objects[key]
            room = self.allocator.size_at(found.offset)
            if found.is_elsewhere:
                self._evict(found)
                made = True
            elif self.spills and not self._paused:
                del self._evictable[key]
                found.place = Place.SPILLING
                self._spilling_bytes += room
                self._out.append(SpillOut(key, found.offset, found.size))
            else:
                continue
            coming += room
            # Free bytes may be scattered: then more is spilled when this is done and was not enough.
            if coming >= size:
                break
        if not made and not self._spilling_bytes and not self._asked_for_pins:
            self._asked_for_pins = True
            self._out.append(AskForPins())
        return made

    def _evict(self, found: StoredObject) -> None:
        """Give back the memory of an object that is elsewhere as well."""
        del self._evictable[found.key]
        self.allocator.free(found.offset)
        found.offset = -1
        found.place = Place.DISK
        if not found.location:
            self._drop(found)

    def _spill_ended(self, key: Key) -> StoredObject:
        found = self.objects[key]
        self._spilling_bytes -= self.allocator.size_at(found.offset)
        found.place = Place.MEMORY
        return found

    def _serve_openers(self, found: StoredObject) -> None:
        for request, process in found.openers:
            found.pins[process] = found.pins.get(process, 0) + 1
            self._out.append(Granted(request, found.offset))
        if found.openers:
            found.openers = []
            self._evictable.pop(found.key, None)

    def _refuse_openers(self, found: StoredObject, text: str) -> None:
        self._out += [Refused(request, text, lost=True) for request, _ in found.openers]
        found.openers = []

    def _keep_openers(self, found: StoredObject, openers: list[tuple[int, ProcessId]]) -> None:
        """The others wait no more. When nobody does, no room is made for it: that would hold up those behind."""
        left = len(openers) < len(found.openers)
        found.openers = openers
        if openers or not left or found.place is not Place.RESTORING:
            return
        if found.key in self._restores or not found.in_memory:
            self._restores.pop(found.key, None)
            found.place = Place.DISK
            if not found.location:
                self._drop(found)
        elif not found.location:
            self._out.append(StopPull(found.key))

    def _unpin(self, found: StoredObject, process: ProcessId, count: int) -> None:
        left = found.pins.pop(process) - count
        if left > 0:
            found.pins[process] = left
        self._rest(found)

    def _rest(self, found: StoredObject) -> None:
        """Nobody may need it now: it can be evicted, or, when it was freed, it is gone."""
        if found.freed:
            self._drop(found)
        elif not found.pins and found.place is Place.MEMORY:
            self._evictable[found.key] = None

    def _give_up(self, found: StoredObject, text: str) -> None:
        """It will not be sealed: nobody writes it, or waits for room to."""
        self._creates.pop(found.key, None)
        found.pins.clear()
        self._refuse_openers(found, text)
        self._free(found)

    def _disown(self, process: ProcessId) -> None:
        for found in list(self.objects.values()):
            self._keep_openers(found, [each for each in found.openers if each[1] != process])
            if found.writer == process and found.key in self._creates:
                self._give_up(found, f"object {found.key} was never written")
            elif found.source:
                pass  # the node that has the object itself knows who else owns it, and tells those that have copies
            elif (found.owner == process or found.heirs) and found.key in self.objects:
                if not self._passes_on(found, process):
                    self._free(found)

    def _passes_on(self, found: StoredObject, process: ProcessId) -> bool:
        """`process` does not own it any more: whether others do."""
        if not found.heirs:
            return False
        if found.owner == process:
            found.owner = min(found.heirs)
        found.heirs.discard(process)
        found.heirs.discard(found.owner)
        return True

    def _free(self, found: StoredObject) -> None:
        if not found.freed:
            found.freed = True
            self._evictable.pop(found.key, None)
            text = f"object {found.key} was let go by its owner"
            self._refuse_openers(found, text)
            if found.place is Place.RESTORING and found.in_memory and not found.location:
                self._out.append(StopPull(found.key))
            if found.key in self._creates:
                self._out.append(Refused(self._creates.pop(found.key), text, lost=True))
        self._drop(found)

    def _drop(self, found: StoredObject) -> None:
        """Forget a freed object, unless somebody reads, writes, spills or restores it: then when that is over. Or a
        copy that nobody reads."""
        being_read_back = found.place is Place.RESTORING and found.in_memory
        if found.pins or found.place is Place.SPILLING or being_read_back:
            return
        if found.in_memory:
            self.allocator.free(found.offset)
            found.offset = -1
        if found.location:
            self._out.append(Forget(found.location))
        self._restores.pop(found.key, None)
        del self.objects[found.key]

    def __repr__(self) -> str:
        return f"<ObjectTable objects={len(self.objects)} waiting={self.waiting}>"
