from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorlite.ids import ObjectId
from actorlite.refs import ObjectRef
from actorlite.runtime.payloads import pack, ref_entries, unpack, unpack_all
from actorlite.wire.calls import INLINE_PAYLOAD_BYTES, Payload, Replies
from actorlite.wire.messages import decode, encode
from actorlite.wire.serialize import Encoded

OWN = "uds:///own"
LIMIT = INLINE_PAYLOAD_BYTES


def received(message, *parts):
    """What the other side gets: the message, and its parts as read-only views."""
    views = [memoryview(bytes(part)) for part in (encode(message), *parts)]
    return decode(views[0]), views


@pytest.mark.parametrize(
    ("data", "buffers", "parts"),
    [
        (b"", (), 0),
        (bytes(LIMIT), (), 0),
        (bytes(LIMIT + 1), (), 1),
        (b"small", (memoryview(b"one"),), 2),
        (b"small", (memoryview(b""), memoryview(b"two")), 3),
        (bytes(LIMIT + 1), (memoryview(b"one"),), 2),
    ],
)
def test_small_values_travel_inside_the_message_and_others_behind_it(data, buffers, parts):
    payload, extra = pack(Encoded(3, data, buffers), OWN)
    assert payload.parts == len(extra) == parts
    assert payload.data == (b"" if parts else data)
    message, views = received(Replies(1, (payload,)), *extra)
    value = unpack(message.values[0], views)
    assert (value.kind, bytes(value.data)) == (3, data)
    assert [bytes(each) for each in value.buffers] == [bytes(each) for each in buffers]


def test_packing_copies_nothing():
    data, buffer = bytes(LIMIT + 1), memoryview(bytearray(10))
    _, extra = pack(Encoded(3, data, (buffer,)), OWN)
    assert extra[0] is data and extra[1] is buffer


def test_unpacking_copies_nothing():
    views = [memoryview(b"message"), memoryview(b"data"), memoryview(b"buffer")]
    value = unpack(Payload(3, b"", 2), views)
    assert value.data is views[1] and list(value.buffers) == views[2:]


encodeds = st.builds(
    Encoded,
    st.integers(0, 4) | st.integers(6, 9),  # what lies in the store goes another way
    st.binary(max_size=20) | st.just(bytes(LIMIT + 1)),
    st.lists(st.binary(max_size=20).map(memoryview), max_size=3),
)


@given(st.lists(encodeds, max_size=5))
@settings(deadline=None)
def test_several_values_share_the_parts_of_one_message(values):
    packed = [pack(each, OWN) for each in values]
    message, views = received(
        Replies(1, tuple(payload for payload, _ in packed)), *[part for _, extra in packed for part in extra]
    )
    again = unpack_all(message.values, views)
    assert [(each.kind, bytes(each.data), [bytes(b) for b in each.buffers]) for each in again] == [
        (each.kind, bytes(each.data), [bytes(b) for b in each.buffers]) for each in values
    ]


def ref(number, owner=""):
    return ObjectRef(None, ObjectId(f"0000000000000001-{number:012x}"), owner)


def test_references_inside_are_listed_once_with_their_owner_s_address():
    own, borrowed = ref(1), ref(2, "uds:///other")
    payload, _ = pack(Encoded(3, b"x", (), (own, borrowed, own, object())), OWN)
    assert payload.refs == ((own.id, OWN), (borrowed.id, "uds:///other"))
    assert ref_entries([], OWN) == ()
