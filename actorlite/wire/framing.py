"""Framing: messages of one or more buffers on a byte stream. Bytes in, messages out; no I/O.

A frame is `u32 body length | u16 part count | body`, little endian. The body of a message of one part is that part;
with more parts it is a table of `count` u32 part lengths, then the parts. The body length covers the table, so a
reader knows from the fixed header how much follows, and refuses a frame above the limit before it allocates anything.

Large buffers are never copied: the encoder hands them on, and the reader receives the rest of an incomplete frame
straight into the memory that the message keeps; or, when the sink has a place for it, into that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from struct import Struct
from typing import Protocol, TypeAlias

from actorlite.errors import FrameTooLarge, ProtocolError

Buffer: TypeAlias = bytes | bytearray | memoryview

RoomFor: TypeAlias = Callable[[memoryview, int], "memoryview | None"]

HEADER = Struct("<IH")
HEADER_BYTES = HEADER.size
MAX_BODY_BYTES = 2**32 - 1
MAX_PARTS = 2**16 - 1
JOIN_BYTES = 16 * 1024
"""A message up to this size becomes one buffer: copying it costs less than carrying its parts around."""
RUN_BYTES = 64 * 1024
"""Buffers from this size on are written as they are; smaller neighbours are joined."""
RECEIVE_BYTES = 256 * 1024
"""Size of a receive buffer: more than a Unix socket holds by default, so one read empties it."""

_LENGTH_BYTES = 4


class SizeLimit(Protocol):
    """May have a method `room_for(first: memoryview, size: int) -> memoryview | None` besides: where the second of two
    parts shall be received, given the first one. It is asked for large messages only."""

    @property
    def max_message_bytes(self) -> int:
        """The largest body accepted now; read at every frame header."""
        ...


@lru_cache(maxsize=256)
def _table(count: int) -> Struct:
    return Struct(f"<{count}I")


def flatten(part: Buffer) -> Buffer:
    """The same memory as flat bytes, so that `len` is its size. `TypeError` when it is not contiguous."""
    if type(part) is not memoryview:
        return part
    if part.ndim == 1 and part.format == "B" and part.c_contiguous:
        return part
    if not part.c_contiguous:
        raise TypeError("a message part must be contiguous; copy it first, e.g. with bytes(part)")
    return part.cast("B") if part.nbytes else b""


def body_bytes(parts: Sequence[Buffer]) -> int:
    """The size of the body of a message of flat parts. Raises `ValueError` for no parts, `FrameTooLarge`."""
    count = len(parts)
    if count == 1:
        size = len(parts[0])
    elif count == 0:
        raise ValueError("a message has at least one part")
    elif count > MAX_PARTS:
        raise FrameTooLarge(f"a message of {count} parts: at most {MAX_PARTS} fit into a frame")
    else:
        size = sum(map(len, parts)) + _LENGTH_BYTES * count
    if size > MAX_BODY_BYTES:
        raise FrameTooLarge(f"a message of {size} bytes: at most {MAX_BODY_BYTES} fit into a frame")
    return size


def encode_frame(parts: Sequence[Buffer]) -> list[Buffer]:
    """The buffers of one frame: a single one for a small message, else a header and the very parts given.

    The buffers are flat. Raises `ValueError` for no parts, `TypeError` for a part that is not contiguous and
    `FrameTooLarge` for what the format cannot express.
    """
    for part in parts:
        if type(part) is not bytes:
            parts = [flatten(part) for part in parts]
            break
    size = body_bytes(parts)
    count = len(parts)
    if count == 1:
        header = HEADER.pack(size, 1)
        if size <= JOIN_BYTES:
            return [header + parts[0]]
    else:
        header = HEADER.pack(size, count) + _table(count).pack(*map(len, parts))
        if size <= JOIN_BYTES:
            return [b"".join((header, *parts))]
    return [header, *parts]


def joined_runs(buffers: Sequence[Buffer]) -> Iterator[Buffer]:
    """The same bytes in few buffers: small neighbours joined, up to about `RECEIVE_BYTES`; large ones untouched."""
    run: list[Buffer] = []
    run_bytes = 0
    for buffer in buffers:
        size = len(buffer)
        if size >= RUN_BYTES or run_bytes + size > RECEIVE_BYTES:
            if run:
                yield run[0] if len(run) == 1 else b"".join(run)
                run, run_bytes = [], 0
            if size >= RUN_BYTES:
                yield buffer
                continue
        if size:
            run.append(buffer)
            run_bytes += size
    if run:
        yield run[0] if len(run) == 1 else b"".join(run)


class FrameReader:
    """Turns received bytes into messages; made for `asyncio.BufferedProtocol`.

    Usage: receive into `get_buffer()`, then iterate over `advance(n)` to its end before the next `get_buffer`. Every
    message is a list of read-only views over memory that the reader never touches again. The size limit is read after
    the message before was handed out, so a sink that raises its limit while it handles a message has it applied to the
    next one.

    `scratch` holds nothing between `advance` and the next `get_buffer`: readers used from one thread may share it, and
    an idle reader costs nothing.
    """

    __slots__ = ("_body", "_count", "_filled", "_first", "_head", "_limit", "_room_for", "_scratch")

    def __init__(self, limit: SizeLimit, scratch: memoryview | None = None) -> None:
        self._limit = limit
        self._scratch = memoryview(bytearray(RECEIVE_BYTES)) if scratch is None else scratch
        self._head = b""  # the beginning of a header, cut off by the end of a read
        self._body: memoryview | None = None  # the body of an incomplete frame
        self._first: memoryview | None = None  # the first part of a message whose second one goes where the sink said
        self._filled = 0
        self._count = 0
        self._room_for: RoomFor | None = getattr(limit, "room_for", None)

    @property
    def at_boundary(self) -> bool:
        """False when the stream would end inside a frame now."""
        return self._body is None and not self._head

    def get_buffer(self) -> memoryview:
        """Where to receive next; never empty."""
        if self._body is not None:
            return self._body[self._filled :]
        return self._scratch[len(self._head) :] if self._head else self._scratch

    def advance(self, received: int) -> Iterator[list[memoryview]]:
        """The messages completed by `received` more bytes. Raises `ProtocolError`, or `FrameTooLarge`."""
        if self._body is not None:
            self._filled += received
            if self._filled == len(self._body):
                body, self._body = self._body, None
                first, self._first = self._first, None
                yield _split(body.toreadonly(), self._count) if first is None else [first, body.toreadonly()]
            return
        scratch = self._scratch
        end = received
        if self._head:
            end += len(self._head)
            scratch[: len(self._head)] = self._head
            self._head = b""
        limit = self._limit
        unpack_from = HEADER.unpack_from
        # One copy for all messages of one part: they are read at once. Those of several parts get memory of their own,
        # because a part is kept as long as the value that is built on it.
        data = memoryview(bytes(scratch[:end]))
        position = 0
        while (begin := position + HEADER_BYTES) <= end:
            size, count = unpack_from(data, position)
            if size > limit.max_message_bytes:
                raise FrameTooLarge(
                    f"a frame of {size} bytes was announced and refused: the limit is {limit.max_message_bytes}"
                )
            position = begin + size
            if position > end:
                _check_count(size, count)
                self._receive_rest(size, count, data[begin:])
                return
            body = data[begin:position]
            if count == 1:
                yield [body]
            else:
                yield _split(memoryview(bytes(body)), count)
        self._head = bytes(data[position:])

    def _receive_rest(self, size: int, count: int, begun: memoryview) -> None:
        if count == 2 and self._room_for is not None and self._has_room(self._room_for, size, begun):
            return
        self._body = memoryview(bytearray(size))
        self._filled = len(begun)
        self._body[: len(begun)] = begun
        self._count = count

    def _has_room(self, room_for: RoomFor, size: int, begun: memoryview) -> bool:
        """Whether the second of two parts goes where the sink wants it."""
        start = 2 * _LENGTH_BYTES
        if len(begun) < start:
            return False
        first, second = _table(2).unpack_from(begun)
        start += first
        if len(begun) < start or start + second != size:
            return False
        room = room_for(begun[start - first : start], second)
        if room is None:
            return False
        self._first = begun[start - first : start]
        self._body = room
        self._filled = len(begun) - start
        room[: self._filled] = begun[start:]
        return True


def _check_count(size: int, count: int) -> None:
    if count == 0:
        raise ProtocolError("a frame without parts")
    if count > 1 and size < _LENGTH_BYTES * count:
        raise ProtocolError(f"a frame of {size} bytes has no room for the lengths of {count} parts")


def _split(body: memoryview, count: int) -> list[memoryview]:
    if count == 1:
        return [body]
    size = len(body)
    _check_count(size, count)
    lengths = _table(count).unpack_from(body)
    position = _LENGTH_BYTES * count
    if position + sum(lengths) != size:
        raise ProtocolError(
            f"a frame of {size} bytes announces parts of {sum(lengths)} bytes and a table of {position}"
        )
    parts = []
    for length in lengths:
        parts.append(body[position : position + length])
        position += length
    return parts
