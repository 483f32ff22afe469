"""User values to bytes and back: pickle 5, large buffers beside the pickle, references listed.

A value is fixed when `encode` returns: buffers that its owner could still write to were copied, read-only ones were
not. What `decode` builds on a buffer is read-only, so that many readers may share it. Nested `bytes` and `bytearray`
travel inside the pickle, which copies them; at the top of a value, or as an argument, they do not.
"""

from __future__ import annotations

import pickle
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from actorlite.wire.explain import serialization_error
from actorlite.wire.pickling import (
    PROTOCOL,
    Chunks,
    ExportScope,
    Pickler,
    Portable,
    current_import,
    importing,
    loads,
)

__all__ = [
    "EMPTY_CALL",
    "INLINE_LIMIT",
    "PACKED",
    "PICKLE",
    "RAW_BYTEARRAY",
    "RAW_BYTES",
    "STORED",
    "Buffer",
    "Encoded",
    "ExportScope",
    "Portable",
    "copied",
    "current_import",
    "decode",
    "encode",
    "encode_call",
    "importing",
    "settled",
]

Buffer = bytes | bytearray | memoryview

PICKLE: Final = 0
"""`data` is a pickle, `buffers` are its out-of-band buffers."""
PACKED: Final = 1
"""As PICKLE, with the small buffers appended to `data`: see `_pack`."""
RAW_BYTES: Final = 2
"""A `bytes`: in `data`, or in the one buffer."""
RAW_BYTEARRAY: Final = 3
"""A `bytearray`, likewise."""
EMPTY_CALL: Final = 4
"""A call without arguments; nothing else to send."""
STORED: Final = 5
"""Of payloads only: the value lies in a node's store, and `data` says where (`wire.objects.Stored`)."""

INLINE_LIMIT: Final = 4096
"""Buffers below this travel inside `data`: a frame part of their own costs more than the copy."""
_LIFT_LIMIT: Final = 32 * 1024
"""A bytes argument from here on leaves the pickle: the detour costs a microsecond, the copy more."""
MAX_BUFFERS: Final = 60_000
"""Buffers of one value: the parts of a message are counted in 16 bits, and a call may have several values."""
MAX_BYTES: Final = 2**31 - 2**26
_KEEP_LIMIT: Final = 1 << 20
"""A pickler that wrote more is not kept: its memo stays as large as it once was."""
_SMALL_CONTAINER: Final = 16


class Encoded(msgspec.Struct, frozen=True, eq=False):
    """An encoded value. Nothing in it changes any more; send `kind`, `data` and `buffers` as they are."""

    kind: int
    data: Buffer
    buffers: Sequence[memoryview] = ()
    handles: Sequence[object] = ()
    """The references and actor handles found inside, which must stay alive until the receiver holds its own."""
    holding: object = None
    """What keeps the value in the store that a STORED one stands for, if this is to."""

    @property
    def total_bytes(self) -> int:
        return len(self.data) + sum([buffer.nbytes for buffer in self.buffers])


_NO_ARGUMENTS = Encoded(EMPTY_CALL, b"")
_SCALARS = frozenset({type(None), bool, int, float, str})
_ITEMS = _SCALARS | {bytes}


def encode(value: object, name: str = "value", *, copy: bool = True) -> Encoded:
    """Encode one value; `name` is what an error calls it. With `copy=False` buffers that can be written to are not
    copied: the value is fixed only when the caller has done that, or has called `settled`.

    Raises SerializationError whose `path` names the offending member.
    """
    cls = type(value)
    if cls in _SCALARS:
        return Encoded(PICKLE, pickle.dumps(value, PROTOCOL))
    if cls is bytes:
        return _encode_raw(RAW_BYTES, value, copy)  # type: ignore[arg-type]
    if cls is bytearray:
        raw: Any = value
        return _encode_raw(RAW_BYTEARRAY, bytes(raw) if copy else raw, copy)
    if _is_plain(value):
        return Encoded(PICKLE, pickle.dumps(value, PROTOCOL))
    try:
        return _encode_pickled(value, copy)
    except MemoryError:
        raise
    except Exception as error:
        raise serialization_error(error, [(name, value)]) from error


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any], *, copy: bool = True) -> Encoded:
    """Encode the arguments of a call; `decode` gives `(args, kwargs)`. With `copy=False` buffers that can be written to
    are not copied: the value is fixed only when the caller has done that, or has called `copied`.

    Raises SerializationError with a path like `args[0].db._lock` or `kwargs['cfg']._lock`.
    """
    if not args and not kwargs:
        return _NO_ARGUMENTS
    plain = True
    lift = False
    for value in args if not kwargs else (*args, *kwargs.values()):
        if type(value) in _SCALARS:
            continue
        if _is_plain(value):
            continue
        plain = False
        if type(value) in (bytes, bytearray) and len(value) >= _LIFT_LIMIT:
            lift = True
            break
    if plain:
        return Encoded(PICKLE, pickle.dumps((args, kwargs), PROTOCOL))
    call: tuple[Any, Any] = (args, kwargs)
    if lift:
        call = tuple([_lifted(value) for value in args]), {key: _lifted(value) for key, value in kwargs.items()}
    try:
        encoded = _encode_pickled(call, copy)
        if not copy:
            _check_fits(encoded.buffers)
        return encoded
    except MemoryError:
        raise
    except Exception as error:
        named = [(f"args[{index}]", value) for index, value in enumerate(args)]
        named += [(f"kwargs[{key!r}]", value) for key, value in kwargs.items()]
        raise serialization_error(error, named) from error


def decode(kind: int, data: Buffer, buffers: Sequence[Buffer] = (), scope: object = None, *, copy: bool = False) -> Any:
    """The value again. Large buffers are shared with it, not copied, and must not change while it lives; it can only
    be read. With `copy` they are copied, and it can be written to.

    `scope` is what `current_import()` returns to references and handles that are rebuilt meanwhile. What unpickling
    raises is raised: the modules, classes and reducers are the user's.
    """
    if kind == PICKLE:
        if not buffers:
            return loads(data, None, scope)
        return loads(data, [_for_value(buffer, copy) for buffer in buffers], scope)
    if kind == EMPTY_CALL:
        return (), {}
    if kind == RAW_BYTES:
        raw = buffers[0] if buffers else data
        return raw if type(raw) is bytes else bytes(raw)
    if kind == RAW_BYTEARRAY:
        return bytearray(buffers[0] if buffers else data)
    if kind == PACKED:
        return loads(data, _unpack(data, buffers, copy), scope)
    raise ValueError(f"unknown encoding {kind}: the sender is of another version")


def _for_value(buffer: Buffer, copy: bool) -> Buffer:
    return bytearray(buffer) if copy else memoryview(buffer).toreadonly()


def _is_plain(value: Any) -> bool:
    """True for a small value that plain pickle takes: nothing to find inside, nothing to send out of band."""
    cls = type(value)
    if cls is tuple or cls is list:
        items: Iterable[Any] = value
    elif cls is dict:
        items = [*value, *value.values()]
    else:
        return cls in _SCALARS or (cls is bytes and len(value) < _LIFT_LIMIT)
    if len(value) > _SMALL_CONTAINER:
        return False
    for item in items:
        if type(item) not in _ITEMS:
            return False
    return True


def settled(encoded: Encoded, value: object) -> Encoded:
    """What `value` was encoded to with `copy=False`, with copies of the buffers that can be written to.

    Raises SerializationError for what no message takes.
    """
    if encoded.buffers:
        try:
            _check_fits(encoded.buffers)
        except ValueError as error:
            raise serialization_error(error, [("value", value)]) from error
    return copied(encoded)


def copied(encoded: Encoded) -> Encoded:
    """As `settled`, for what goes into no message: of any size."""
    if encoded.buffers:
        buffers = [each if each.readonly else memoryview(bytes(each)) for each in encoded.buffers]
        return Encoded(encoded.kind, encoded.data, buffers, encoded.handles)
    if type(encoded.data) is bytearray:
        return Encoded(encoded.kind, bytes(encoded.data), (), encoded.handles)
    return encoded


def _encode_raw(kind: int, value: bytes, copy: bool) -> Encoded:
    if len(value) < INLINE_LIMIT:
        return Encoded(kind, value)
    if copy and len(value) > MAX_BYTES:
        raise serialization_error(ValueError(f"a message takes {MAX_BYTES} bytes: split it"), [("value", type(value))])
    return Encoded(kind, b"", (memoryview(value),))


def _check_fits(buffers: Sequence[memoryview]) -> None:
    """Raise `ValueError` for what no message takes."""
    size = sum([buffer.nbytes for buffer in buffers])
    if len(buffers) > MAX_BUFFERS:
        raise ValueError(
            f"it has {len(buffers)} buffers of {INLINE_LIMIT} bytes or more; a message takes {MAX_BUFFERS}: join them"
        )
    if size > MAX_BYTES:
        raise ValueError(f"its buffers have {size} bytes, and a message takes {MAX_BYTES}: split the value")


class _Lifted:
    """A large bytes or bytearray argument on its way out of band."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.value), (pickle.PickleBuffer(self.value),)


def _lifted(value: Any) -> Any:
    return _Lifted(value) if type(value) in (bytes, bytearray) and len(value) >= _LIFT_LIMIT else value


class _Encoder:
    """A pickler with what it writes to; used by one dump at a time."""

    __slots__ = ("buffers", "chunks", "dump", "pickler")

    def __init__(self) -> None:
        self.chunks = Chunks()
        self.buffers: list[pickle.PickleBuffer] = []
        self.pickler = Pickler(self.chunks, self.buffers.append)
        self.dump = self.pickler.dump


class _Free(threading.local):
    """Idle encoders of a thread. A stack, because pickling runs user code, which may encode another value."""

    def __init__(self) -> None:
        self.encoders: list[_Encoder] = []


_free = _Free()


def _encode_pickled(value: object, copy: bool = True) -> Encoded:
    encoders = _free.encoders
    encoder = encoders.pop() if encoders else _Encoder()
    # After an error the encoder is dropped: what is left inside it does not matter.
    encoder.dump(value)
    pickler = encoder.pickler
    data = encoder.chunks.take()
    kind = PICKLE
    buffers: Sequence[memoryview] = ()
    if encoder.buffers:
        kind, data, buffers = _pack(data, encoder.buffers, copy)
        encoder.buffers.clear()
        if copy:
            _check_fits(buffers)
    handles: Sequence[object] = ()
    if pickler.scope.handles:
        handles = pickler.scope.handles
        pickler.scope = ExportScope()
    if len(data) <= _KEEP_LIMIT:
        pickler.reset()
        encoders.append(encoder)
    return Encoded(kind, data, buffers, handles)


# PACKED data is: the pickle (which ends itself), the small buffers, one u32 for every buffer in order (its length, or
# _EXTERNAL for one that travels beside `data`), and their number as u32. Pickle's own in-band buffers will not do: a
# small array would then come out writable and a large one read-only.

_EXTERNAL: Final = 0xFFFFFFFF
_COUNT: Final = struct.Struct("<I")


def _pack(data: bytes, found: Sequence[pickle.PickleBuffer], copy: bool) -> tuple[int, bytes, Sequence[memoryview]]:
    lengths: list[int] = []
    small: list[memoryview] = []
    large: list[memoryview] = []
    for buffer in found:
        raw = buffer.raw()
        if raw.nbytes < INLINE_LIMIT:
            small.append(raw)
            lengths.append(raw.nbytes)
        else:
            large.append(raw if raw.readonly or not copy else memoryview(bytes(raw)))
            lengths.append(_EXTERNAL)
    if not small:
        return PICKLE, data, large
    trailer = struct.pack(f"<{len(lengths) + 1}I", *lengths, len(lengths))
    return PACKED, b"".join((data, *small, trailer)), large


def _unpack(data: Buffer, buffers: Sequence[Buffer], copy: bool) -> list[Buffer]:
    view = memoryview(data)
    (count,) = _COUNT.unpack_from(view, len(view) - _COUNT.size)
    end = len(view) - _COUNT.size * (count + 1)
    lengths = struct.unpack_from(f"<{count}I", view, end)
    position = end - sum([length for length in lengths if length != _EXTERNAL])
    external = iter(buffers)
    unpacked: list[Buffer] = []
    for length in lengths:
        if length == _EXTERNAL:
            unpacked.append(_for_value(next(external), copy))
        else:
            # A copy: aligned, and it does not keep the whole frame alive.
            small = view[position : position + length]
            unpacked.append(bytearray(small) if copy else bytes(small))
            position += length
    return unpacked
