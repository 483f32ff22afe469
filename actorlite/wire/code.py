"""Functions and classes: by name when a worker can import them, else by value, with the globals they use now.

A blob is named by its content, so that each worker is sent it once.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from actorlite.wire.explain import serialization_error
from actorlite.wire.importable import bound_object, importable, is_missing, load_global, unwrapped
from actorlite.wire.pickling import Chunks, Pickler, loads

__all__ = [
    "ERROR_BYTES",
    "WARN_BYTES",
    "CodeBlob",
    "decode_code",
    "encode_code",
    "importable",
    "load_global",
    "rebuilt",
    "unwrapped",
]

WARN_BYTES: Final = 10 * 1024 * 1024
ERROR_BYTES: Final = 100 * 1024 * 1024
DIGEST_BYTES: Final = 16

_BY_NAME: Final = b"N"
_BY_VALUE: Final = b"V"


class CodeBlob(msgspec.Struct, frozen=True, eq=False):
    """An encoded function or class."""

    digest: bytes
    """16 bytes; equal digests mean equal `data`."""
    data: bytes
    name: str
    """`module.qualname`, for humans."""
    handles: Sequence[object] = ()
    """References and actor handles that the code captured; they must live as long as the blob is in use."""

    @property
    def by_value(self) -> bool:
        return self.data[:1] == _BY_VALUE

    @property
    def is_large(self) -> bool:
        """Above 10 MiB: it probably captured data that belongs in `put`; worth a warning."""
        return len(self.data) > WARN_BYTES


def encode_code(code: Any) -> CodeBlob:
    """Encode a function or class. By value it is what it is now: later changes to its globals are not seen.

    Raises SerializationError naming the captured member at fault, ValueError from 100 MiB on.
    """
    module_name = getattr(code, "__module__", None)
    qualname = getattr(code, "__qualname__", None)
    name = f"{module_name}.{qualname or type(code).__qualname__}"
    if not is_missing(bound_object(module_name, qualname, code)):
        return _blob(_BY_NAME + f"{module_name}\0{qualname}".encode(), name, ())
    chunks = Chunks([_BY_VALUE])
    pickler = Pickler(chunks)
    try:
        pickler.dump(code)
    except MemoryError:
        raise
    except Exception as error:
        lead = f"could not serialize {name}, which is sent by value:\n"
        raise serialization_error(error, [(getattr(code, "__name__", name), code)], lead) from error
    data = chunks.take()
    if len(data) >= ERROR_BYTES:
        raise ValueError(
            f"{name} is {len(data) / 2**20:.0f} MiB when serialized, the limit is {ERROR_BYTES >> 20} MiB: "
            "it captured large data in a global, closure or default; pass that as an argument or with put()"
        )
    return _blob(data, name, pickler.scope.handles)


def decode_code(data: bytes | bytearray | memoryview, scope: object = None) -> Any:
    """The function or class again; a name leads to the code itself, not to the `@remote` wrapper bound to it.

    Raises what importing or unpickling raises.
    """
    view = memoryview(data)
    form = bytes(view[:1])
    if form == _BY_NAME:
        module_name, _, qualname = bytes(view[1:]).decode().partition("\0")
        return load_global(module_name, qualname)
    if form != _BY_VALUE:
        raise pickle.UnpicklingError(f"unknown form of code: {form!r}")
    return loads(view[1:], None, scope)


def rebuilt(data: bytes, name: str, handles: Sequence[object]) -> CodeBlob:
    """The blob whose parts came in a message, in a process that does not decode it."""
    return _blob(data, name, handles)


def _blob(data: bytes, name: str, handles: Sequence[object]) -> CodeBlob:
    return CodeBlob(hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest(), data, name, handles)
