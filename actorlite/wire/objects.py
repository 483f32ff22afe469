"""Messages about the values in a node's store; part of the union in `wire.messages`.

A process says on one connection what it does with objects, so the node hears it in order: that it wants room, that it
has written, that it reads, that it is done.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from actorlite.ids import ProcessId


class _StoreMessage(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    pass


class Stored(_StoreMessage, frozen=True):
    """Stands for a value that lies in a store: the data of a payload of kind `STORED`."""

    node: ProcessId
    key: str
    size: int
    kind: int
    """Of the encoding; see `wire.serialize`."""
    sizes: tuple[int, ...]
    """Of the in-band data, then of each buffer; where each lies follows from that (`store.segment.layout`)."""


class SealObjects(_StoreMessage, tag=60, frozen=True):
    """The sender has written them."""

    keys: tuple[str, ...]


class AbandonObject(_StoreMessage, tag=61, frozen=True):
    """The sender has room for an object that it will not write."""

    key: str


class ClaimObjects(_StoreMessage, tag=62, frozen=True):
    """The sender owns them, and knows."""

    keys: tuple[str, ...]
    node: ProcessId = ProcessId("")
    """Where they were written, when that is another node than the sender's."""


class FreeObjects(_StoreMessage, tag=63, frozen=True):
    """Nobody will open them any more. A node passes it on to those that have copies."""

    keys: tuple[str, ...]
    node: ProcessId = ProcessId("")
    """Where they were written, when that is another node than the sender's."""


class CloseObjects(_StoreMessage, tag=64, frozen=True):
    """So many reads are over."""

    reads: tuple[tuple[str, int], ...]


class ReaderLost(_StoreMessage, tag=65, frozen=True):
    """The sender has lost its connection to a process, for which it wrote results that may not have arrived."""

    process: ProcessId


class PinsWanted(_StoreMessage, tag=66, frozen=True):
    """The store is full: who keeps values only to have them at hand should let them go."""


class PlaceObjects(_StoreMessage, tag=69, frozen=True):
    """The sender has written them into slabs that it leased: slab, offset in the segment, key, size, owner of each."""

    objects: tuple[tuple[str, int, str, int, ProcessId], ...]


class AttachStore(_StoreMessage, tag=130, frozen=True):
    """Where is the segment?"""


class CreateObject(_StoreMessage, tag=131, frozen=True):
    """Room for an object of `size` bytes, which the sender writes and `owner` frees. Answered when there is room."""

    key: str
    size: int
    owner: ProcessId
    timeout_s: float
    home: ProcessId = ProcessId("")
    """The owner's node, when that is another one."""


class OpenObject(_StoreMessage, tag=132, frozen=True):
    """The sender wants to read. Answered when the object is in memory, where it stays until `CloseObjects`."""

    key: str
    timeout_s: float
    size: int = 0
    node: ProcessId = ProcessId("")
    """Where it was written, when that is another node than the sender's: then it is copied from there."""


class LeaseRoom(_StoreMessage, tag=138, frozen=True):
    """Room for values that the sender will write: it says afterwards which (`PlaceObjects`), and gives the rest back as
    what it abandons. Answered at once."""

    key: str


class ListObjects(_StoreMessage, tag=133, frozen=True):
    """What is in the stores of all nodes?"""

    here: bool = False
    """Only the receiver's is asked for."""


class ExplainObjects(_StoreMessage, tag=134, frozen=True):
    """Node to owner: what are they, and who holds them?"""

    keys: tuple[str, ...]
    owner: ProcessId = ProcessId("")
    """Whom to ask, where the owner's node is told to."""


class HandOverObjects(_StoreMessage, tag=137, frozen=True):
    """The sender ends in good order, and asks which of `processes` live on. Those become owners of the objects that are
    named with them: each frees its share, and the last one the object."""

    processes: tuple[ProcessId, ...]
    objects: tuple[tuple[str, tuple[ProcessId, ...]], ...] = ()


class Heirs(_StoreMessage, tag=146, frozen=True):
    """Those that live on."""

    processes: tuple[ProcessId, ...]


class Explained(_StoreMessage, tag=143, frozen=True):
    """Of each object: its key, what it is, and who holds it."""

    objects: tuple[tuple[str, str, tuple[str, ...]], ...]


class StoreInfo(_StoreMessage, tag=140, frozen=True):
    """`path` is where a channel hands out the descriptor."""

    capacity: int
    path: str


class Placed(_StoreMessage, tag=141, frozen=True):
    """The object is at `offset`."""

    offset: int
    owner: ProcessId = ProcessId("")
    """For another node, which copies it: who frees it, and on which node that is."""
    home: ProcessId = ProcessId("")


class Leased(_StoreMessage, tag=148, frozen=True):
    """`size` is 0 when there is no room to spare."""

    offset: int
    size: int


class ListedObject(_StoreMessage, frozen=True):
    key: str
    size: int
    owner: ProcessId
    place: str
    pins: tuple[tuple[ProcessId, int], ...]
    what: str = ""
    held_by: tuple[str, ...] = ()
    node: ProcessId = ProcessId("")
    """Where it is."""
    is_copy: bool = False
    """Whether another node has the object itself."""


class Objects(_StoreMessage, tag=142, frozen=True):
    capacity: int
    used: int
    fragmentation: float
    spilled: int
    """Bytes on disk."""
    waiting: int
    """Requests that wait for room."""
    objects: tuple[ListedObject, ...]
    processes: tuple[tuple[ProcessId, str, int], ...]
    """Those that are connected: id, role, pid."""
    leased: int = 0
    """Bytes that processes hold for values to come."""


class Attach(_StoreMessage, frozen=True):
    """On the descriptor channel: who asks. Answered by one packet with the descriptor."""

    process: ProcessId


encode_stored = msgspec.msgpack.Encoder().encode
decode_stored = msgspec.msgpack.Decoder(Stored).decode
decode_attach = msgspec.msgpack.Decoder(Attach).decode
