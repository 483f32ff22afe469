"""Between encoded user values and the parts of a message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from actorlite.ids import ActorId, ObjectId
from actorlite.refs import ObjectRef
from actorlite.transport import Buffer
from actorlite.wire.calls import ACTOR_MARK, INLINE_PAYLOAD_BYTES, Payload
from actorlite.wire.serialize import STORED, Encoded

RefEntries = tuple[tuple[ObjectId, str], ...]


def pack(encoded: Encoded, own_address: str) -> tuple[Payload, Sequence[Buffer]]:
    """The payload for a struct, and the parts that must follow it in the message."""
    data = encoded.data
    refs = ref_entries(encoded.handles, own_address) if encoded.handles else ()
    if encoded.kind == STORED or (not encoded.buffers and len(data) <= INLINE_PAYLOAD_BYTES):
        return Payload(encoded.kind, data, 0, refs), ()  # type: ignore[arg-type]
    return Payload(encoded.kind, b"", 1 + len(encoded.buffers), refs), (data, *encoded.buffers)


def ref_entries(handles: Iterable[Any], own_address: str) -> RefEntries:
    """What the receiver must know of the references and actor handles inside: id and owner's address."""
    entries: dict[ObjectId, str] = {}
    for each in handles:
        if isinstance(each, ObjectRef):
            entries[each.id] = each.owner_address or own_address
            continue
        actor = getattr(each, "__actorlite_link__", each)  # a handle, or what stands for one
        owner_address = getattr(actor, "owner_address", None)
        if owner_address is not None:
            entries[actor_entry(actor.id)] = owner_address or own_address
    return tuple(entries.items())


def actor_entry(identifier: ActorId) -> ObjectId:
    """An actor's id as it stands among those of objects."""
    return ObjectId(ACTOR_MARK + identifier)


def entry_of_actor(entry: ObjectId) -> ActorId | None:
    """The actor that an entry names; None for an object."""
    return ActorId(entry[len(ACTOR_MARK) :]) if entry.startswith(ACTOR_MARK) else None


def unpack(payload: Payload, parts: Sequence[memoryview], offset: int = 1) -> Encoded:
    """The encoded value of a payload whose parts start at `offset`."""
    if payload.parts == 0:
        return Encoded(payload.kind, payload.data)
    return Encoded(payload.kind, parts[offset], parts[offset + 1 : offset + payload.parts])


def unpack_all(payloads: Iterable[Payload], parts: Sequence[memoryview]) -> list[Encoded]:
    """The encoded values of consecutive payloads of one message."""
    values = []
    offset = 1
    for payload in payloads:
        values.append(unpack(payload, parts, offset))
        offset += payload.parts
    return values
