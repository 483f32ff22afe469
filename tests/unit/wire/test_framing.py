from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorlite.errors import FrameTooLarge, ProtocolError
from actorlite.wire import framing
from actorlite.wire.framing import HEADER, JOIN_BYTES, RUN_BYTES, FrameReader, encode_frame, joined_runs


@dataclass
class Limit:
    max_message_bytes: int = 2**31


def encoded(*parts) -> bytes:
    return b"".join(encode_frame(parts))


def feed(reader: FrameReader, data: bytes) -> list[list[bytes]]:
    """Hand over `data` as a transport would: never more at once than the reader has room for."""
    messages = []
    while data:
        buffer = reader.get_buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        messages += [[bytes(part) for part in parts] for parts in reader.advance(count)]
    return messages


def test_golden_bytes():
    assert encoded(b"abc") == b"\3\0\0\0\1\0abc"
    assert encoded(b"") == b"\0\0\0\0\1\0"
    assert encoded(b"a", b"", b"bcd") == b"\x10\0\0\0\3\0\1\0\0\0\0\0\0\0\3\0\0\0abcd"


def test_the_stream_may_be_split_at_every_byte():
    messages = [[b"one"], [b""], [b"a", b"", b"b" * 20], [b"x" * 30]]
    stream = b"".join(encoded(*parts) for parts in messages)
    boundaries = {sum(len(encoded(*parts)) for parts in messages[:count]) for count in range(len(messages) + 1)}
    for cut in range(len(stream) + 1):
        reader = FrameReader(Limit())
        before = feed(reader, stream[:cut])
        assert reader.at_boundary == (cut in boundaries)
        assert before + feed(reader, stream[cut:]) == messages
        assert reader.at_boundary


def test_the_stream_may_come_byte_by_byte():
    messages = [[b"one"], [b"", b"two"], [b"three" * 10]]
    reader = FrameReader(Limit())
    assert [
        message for byte in b"".join(encoded(*parts) for parts in messages) for message in feed(reader, bytes([byte]))
    ] == messages


@given(
    st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=20), max_size=12),
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
)
def test_any_messages_in_any_chunks_come_out_as_they_were(messages, chunk_sizes):
    stream = b"".join(encoded(*parts) for parts in messages)
    reader = FrameReader(Limit(), memoryview(bytearray(256)))
    got = []
    turn = 0
    while stream:
        size = chunk_sizes[turn % len(chunk_sizes)]
        turn += 1
        got += feed(reader, stream[:size])
        stream = stream[size:]
    assert got == messages
    assert reader.at_boundary


@given(st.lists(st.integers(0, 2 * RUN_BYTES), max_size=30))
def test_runs_keep_the_bytes_and_hand_on_large_buffers_untouched(sizes):
    buffers = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    runs = list(joined_runs(buffers))
    assert b"".join(runs) == b"".join(buffers)
    large = [buffer for buffer in buffers if len(buffer) >= RUN_BYTES]
    assert all(any(run is buffer for run in runs) for buffer in large)
    assert all(0 < len(run) <= max(framing.RECEIVE_BYTES, 2 * RUN_BYTES) for run in runs)


def test_large_parts_are_handed_on_and_small_messages_are_one_buffer():
    large, view = bytes(JOIN_BYTES), memoryview(bytearray(JOIN_BYTES))
    assert len(encode_frame([b"a", b"b"])) == 1
    buffers = encode_frame([b"head", large, view])
    assert buffers[2] is large and buffers[3] is view
    assert encode_frame([large])[0] is not large  # exactly as long as is joined
    assert encode_frame([bytes(JOIN_BYTES + 1)])[1:] == [bytes(JOIN_BYTES + 1)]


def test_a_large_frame_is_received_into_its_own_memory():
    body = bytes(range(256)) * 4096
    stream = encoded(body)
    reader = FrameReader(Limit())
    first = reader.get_buffer()
    first[:1000] = stream[:1000]
    assert list(reader.advance(1000)) == []
    rest = reader.get_buffer()
    assert len(rest) == len(stream) - 1000
    owner = rest.obj
    assert owner is not first.obj
    rest[:] = stream[1000:]
    [[part]] = reader.advance(len(rest))
    assert part.obj is owner
    assert part.readonly
    assert part == body


def test_messages_do_not_share_memory_with_the_receive_buffer():
    reader = FrameReader(Limit())
    stream = encoded(b"first") + encoded(b"a", b"b")
    buffer = reader.get_buffer()
    buffer[: len(stream)] = stream
    messages = list(reader.advance(len(stream)))
    buffer[: len(stream)] = bytes(len(stream))
    assert [[bytes(part) for part in parts] for parts in messages] == [[b"first"], [b"a", b"b"]]
    assert all(part.readonly for parts in messages for part in parts)


def test_readers_share_a_receive_buffer():
    scratch = memoryview(bytearray(64))
    one, two = FrameReader(Limit(), scratch), FrameReader(Limit(), scratch)
    assert feed(one, encoded(b"one")[:3]) == []
    assert feed(two, encoded(b"two" * 9)[:20]) == []
    assert feed(one, encoded(b"one")[3:]) == [[b"one"]]
    assert feed(two, encoded(b"two" * 9)[20:]) == [[b"two" * 9]]


def test_parts_may_be_any_contiguous_memory():
    view = memoryview(bytearray(range(48)))
    parts = [bytearray(b"ab"), view.cast("Q"), view.cast("B", [6, 8]), memoryview(b""), view[:0].cast("Q")]
    assert feed(FrameReader(Limit()), encoded(*parts)) == [[b"ab", bytes(view), bytes(view), b"", b""]]
    with pytest.raises(TypeError, match="contiguous"):
        encode_frame([view[::2]])


def test_what_a_frame_cannot_express_is_refused_when_it_is_sent(monkeypatch):
    with pytest.raises(ValueError, match="at least one part"):
        encode_frame([])
    assert len(feed(FrameReader(Limit()), encoded(*[b"x"] * 65535))[0]) == 65535
    with pytest.raises(FrameTooLarge, match="65536 parts"):
        encode_frame([b""] * 65536)
    monkeypatch.setattr(framing, "MAX_BODY_BYTES", 100)
    assert encoded(bytes(100))
    with pytest.raises(FrameTooLarge, match="101 bytes"):
        encode_frame([bytes(101)])
    with pytest.raises(FrameTooLarge, match="101 bytes"):
        encode_frame([bytes(92), b"x"])


def test_a_frame_above_the_limit_is_refused_before_anything_is_allocated():
    reader = FrameReader(Limit(1000))
    assert feed(reader, encoded(bytes(1000))) == [[bytes(1000)]]
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLarge, match="4294967295 bytes .* the limit is 1000"):
            feed(reader, HEADER.pack(2**32 - 1, 1))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_the_limit_covers_the_table_of_part_lengths():
    with pytest.raises(FrameTooLarge):
        feed(FrameReader(Limit(100)), encoded(*[b""] * 26))


def test_what_was_complete_comes_before_the_error_and_the_limit_may_change_between_messages():
    limit = Limit(10)
    reader = FrameReader(limit)
    stream = encoded(b"hello") + encoded(bytes(50)) + encoded(bytes(51))
    buffer = reader.get_buffer()
    buffer[: len(stream)] = stream
    messages = reader.advance(len(stream))
    assert [bytes(part) for part in next(messages)] == [b"hello"]
    limit.max_message_bytes = 50
    assert [bytes(part) for part in next(messages)] == [bytes(50)]
    with pytest.raises(FrameTooLarge, match="51 bytes"):
        next(messages)


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (HEADER.pack(0, 0), "without parts"),
        (HEADER.pack(3, 0) + b"abc", "without parts"),
        (HEADER.pack(7, 2) + bytes(7), "no room for the lengths of 2 parts"),
        (HEADER.pack(9, 2) + pack("<2I", 1, 1) + b"a", "announces parts of 2 bytes"),
        (HEADER.pack(11, 2) + pack("<2I", 1, 1) + b"abc", "announces parts of 2 bytes"),
        (HEADER.pack(9, 2) + pack("<2I", 2**32 - 1, 2**32 - 1) + b"a", "announces parts of 8589934590 bytes"),
    ],
)
def test_malformed_frames_are_refused(frame, text):
    for size in (len(frame), HEADER.size, 1):
        reader = FrameReader(Limit())
        with pytest.raises(ProtocolError, match=text):
            for start in range(0, len(frame), size):
                feed(reader, frame[start : start + size])


def test_a_malformed_header_of_a_large_frame_is_refused_before_anything_is_allocated():
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="without parts"):
            feed(FrameReader(Limit(2**32)), HEADER.pack(2**31, 0))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# Room that the sink has for the second of two parts.


@dataclass
class Rooms(Limit):
    """A sink with memory of its own, which has room for what it wants."""

    wants: Callable[[bytes, int], bool] = lambda first, size: True
    given: list[tuple[bytes, memoryview]] = field(default_factory=list)
    asked: int = 0

    def room_for(self, first: memoryview, size: int) -> memoryview | None:
        self.asked += 1
        if not self.wants(bytes(first), size):
            return None
        # In the middle of something larger: no byte beside it may be touched.
        room = memoryview(bytearray(b"#" * (size + 2)))
        self.given.append((bytes(first), room))
        return room[1:-1]


def received(reader: FrameReader, data: bytes, sizes: Sequence[int]) -> list[list[memoryview]]:
    """All messages of `data`, which comes in reads of these sizes, over and over; fewer bytes where there is no room
    for more."""
    messages, turn = [], 0
    while data:
        buffer = reader.get_buffer()
        count = min(len(buffer), len(data), sizes[turn % len(sizes)])
        turn += 1
        buffer[:count] = data[:count]
        data = data[count:]
        messages += reader.advance(count)
    return messages


def contents(messages: Sequence[Sequence[memoryview]]) -> list[list[bytes]]:
    return [[bytes(part) for part in parts] for parts in messages]


def landed(rooms: Rooms, messages: Sequence[Sequence[memoryview]]) -> None:
    """What there was room for is there, and its message is built on that very memory."""
    built_on = [parts for parts in messages if len(parts) == 2]
    for first, room in rooms.given:
        assert room[:1] == room[-1:] == b"#", "bytes beside the room"
        [parts] = [each for each in built_on if each[1].obj is room.obj]
        assert parts[0] == first and parts[1] == room[1:-1] and parts[1].readonly


@given(
    st.lists(
        st.tuples(st.binary(max_size=30), st.binary(max_size=400))
        | st.lists(st.binary(max_size=100), min_size=1, max_size=4).map(tuple),
        max_size=8,
    ),
    st.lists(st.integers(1, 300), min_size=1, max_size=20),
    st.lists(st.booleans(), min_size=1, max_size=5),
)
def test_bytes_land_where_there_is_room_for_them_however_they_come(messages, sizes, answers):
    stream = b"".join(encoded(*parts) for parts in messages)
    rooms = Rooms(wants=lambda first, size: answers[rooms.asked % len(answers)])
    reader = FrameReader(rooms, memoryview(bytearray(256)))
    got = received(reader, stream, sizes)
    assert contents(got) == [list(parts) for parts in messages]
    assert reader.at_boundary
    landed(rooms, got)


def test_room_is_asked_for_when_the_first_part_has_come_with_the_beginning():
    """At every place where the stream may be cut in two."""
    stream, following = encoded(b"head", bytes(range(200))), encoded(b"next", b"one")
    first_is_there = HEADER.size + 8 + 4
    for cut in range(1, len(stream)):
        rooms = Rooms()
        reader = FrameReader(rooms)
        got = received(reader, stream[:cut], [cut])
        assert got == [] and not reader.at_boundary
        assert rooms.asked == (first_is_there <= cut)
        got = received(reader, stream[cut:] + following, [2**20])
        assert contents(got) == [[b"head", bytes(range(200))], [b"next", b"one"]]
        assert len(rooms.given) == (first_is_there <= cut)
        landed(rooms, got)


def test_the_rest_is_received_where_there_is_room_for_it():
    rooms = Rooms()
    stream = encoded(b"head", bytes(1000))
    reader = FrameReader(rooms)
    received(reader, stream[:100], [100])
    [(_, room)] = rooms.given
    assert reader.get_buffer().obj is room.obj
    assert len(reader.get_buffer()) == len(stream) - 100


def test_without_room_a_message_is_as_without_a_sink_that_has_some():
    stream = encoded(b"head", bytes(1000))
    rooms = Rooms(wants=lambda first, size: False)
    [[head, data]] = received(FrameReader(rooms), stream, [100])
    assert rooms.asked == 1, "once for each message"
    assert head.obj is data.obj and data == bytes(1000)


@pytest.mark.parametrize("parts", [[b"a" * 500], [b"a", b"b", b"c" * 500], [b"a" * 500, b""], [b"small", b"message"]])
def test_for_other_messages_nobody_is_asked_for_room(parts):
    rooms = Rooms()
    stream = encoded(*parts)
    assert contents(received(FrameReader(rooms), stream, [len(stream), 100])) == [parts]
    if len(parts) != 2 or not parts[1]:
        received(FrameReader(rooms), stream, [100])
    assert rooms.asked == 0


@pytest.mark.parametrize(
    ("size", "first", "second"),
    [(300, 4, 100), (300, 4, 400), (300, 300, 300), (300, 2**32 - 1, 2**32 - 1), (300, 2**32 - 1, 300 - 7)],
)
@pytest.mark.parametrize("read", [7, 40, 1000])
def test_with_lengths_that_do_not_fit_there_is_no_room_and_the_message_is_refused(size, first, second, read):
    rooms = Rooms()
    frame = HEADER.pack(size, 2) + pack("<2I", first, second) + bytes(size - 8)
    with pytest.raises(ProtocolError, match=f"announces parts of {first + second} bytes"):
        received(FrameReader(rooms), frame, [read])
    assert rooms.asked == 0


@given(st.binary(max_size=400), st.lists(st.integers(1, 100), min_size=1, max_size=10))
def test_any_bytes_are_messages_or_refused_and_none_is_written_beside_a_room(data, sizes):
    rooms = Rooms(1000)
    try:
        received(FrameReader(rooms), HEADER.pack(300, 2) + data, sizes)
    except ProtocolError:
        pass  # `FrameTooLarge` is one
    assert all(room[:1] == room[-1:] == b"#" for _, room in rooms.given)


def test_a_frame_above_the_limit_is_refused_before_anybody_is_asked_for_room():
    rooms = Rooms(1000)
    assert contents(received(FrameReader(rooms), encoded(b"head", bytes(988)), [100])) == [[b"head", bytes(988)]]
    assert rooms.asked == 1
    size = 2**32 - 1
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLarge, match="the limit is 1000"):
            received(FrameReader(rooms), HEADER.pack(size, 2) + pack("<2I", 4, size - 12) + b"head", [100])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert rooms.asked == 1


def test_with_room_nothing_else_of_its_size_is_allocated():
    size = 2**23
    room = memoryview(bytearray(size))

    @dataclass
    class Sink(Limit):
        def room_for(self, first: memoryview, size: int) -> memoryview:
            return room

    stream = encoded(b"head", bytes(size))
    reader = FrameReader(Sink())
    tracemalloc.start()
    try:
        [[_, data]] = received(reader, stream[:100], [100]) + _rest(reader, memoryview(stream)[100:])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert data.obj is room.obj and len(data) == size


def _rest(reader: FrameReader, data: memoryview) -> list[list[memoryview]]:
    reader.get_buffer()[:] = data
    return list(reader.advance(len(data)))


def test_the_first_part_does_not_share_memory_with_the_receive_buffer():
    reader = FrameReader(Rooms())
    stream = encoded(b"head", bytes(1000))
    scratch = reader.get_buffer()
    assert received(reader, stream[:100], [100]) == []
    scratch[:] = bytes(len(scratch))
    [[head, _]] = received(reader, stream[100:], [2**20])
    assert head == b"head" and head.readonly


def test_what_the_sink_raises_comes_out():
    class Sink(Limit):
        def room_for(self, first: memoryview, size: int) -> memoryview:
            raise LookupError("on purpose")

    with pytest.raises(LookupError):
        received(FrameReader(Sink()), encoded(b"head", bytes(1000)), [100])
