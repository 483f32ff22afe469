"""The memory of a node's store: one file without a name, mapped by every process of the node.

It is mapped twice: to write, and to read (`PROT_READ`), so that no reader can change what others read. What is read is
kept alive by a *pin*: a ctypes array at the object's address, from which memoryviews are made. Whoever builds a value
on them (numpy, pyarrow) keeps the array alive, whichever view he made and dropped; a finalizer on a view would come too
early. Copies are made without the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import ref as weak

from msgspec import Struct

from actorlite.ids import ProcessId

BACK_STEP_BYTES = 64 << 20
"""How much memory is asked of the kernel at once: each step takes some milliseconds."""
MADV_POPULATE_WRITE = 23
"""Since Linux 5.14: map pages for writing, many in one call. Faults one by one take twice as long."""
POPULATE_BYTES = 2 << 20
"""What is written to first is mapped ahead in pieces of this size."""
ALIGNMENT = 64
"""Of each buffer of an object: what vector instructions want."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.memmove.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.memmove.restype = None
_MAP_FAILED = ctypes.c_void_p(-1).value
_BUFFER_SIMPLE = 0


class _PyBuffer(ctypes.Structure):
    """CPython's `Py_buffer`, to learn the address of a buffer that may not be written to."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("object", ctypes.c_void_p),
        ("length", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("dimensions", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_PyBuffer),)
_release_buffer.restype = None


class _Pin(weak[Any]):
    __slots__ = ("on_release",)

    on_release: Callable[[], None]


class Segment:
    """Owns its descriptor and its mappings. From any thread, but for `close`."""

    def __init__(self, fd: int, capacity: int) -> None:
        self.fd = fd
        self.capacity = capacity
        self.backed = 0
        """Up to where the kernel has promised memory. Only the node, which promises it to writers, counts."""
        self._read_at = _map(fd, capacity, mmap.PROT_READ)
        self._write_at = 0
        self._populated = bytearray(-(-capacity // POPULATE_BYTES))
        """Of each piece: whether it was mapped for writing here."""
        self._pins: set[int] = set()
        self._writing = threading.Lock()
        """Guards the mapping to write to, and `_writers`: threads that copy there now."""
        self._writers = 0
        self._closed = False

    @classmethod
    def create(cls, capacity: int, name: str = "actorlite") -> Segment:
        """A new one, of which nothing takes memory yet. Raises `OSError`."""
        fd = _anonymous_file(name)
        try:
            os.ftruncate(fd, capacity)
            return cls(fd, capacity)
        except BaseException:
            os.close(fd)
            raise

    @property
    def pinned(self) -> int:
        """How many objects are read here now."""
        return len(self._pins)

    def back(self, end: int) -> None:
        """Make sure that all bytes below `end` have memory, so that writing to them never faults. Blocks.

        Raises `OSError` (`ENOSPC`, `ENOMEM`) when the host has no more.
        """
        while self.backed < end:
            begin = self.backed
            step = min(BACK_STEP_BYTES, self.capacity - begin)
            os.posix_fallocate(self.fd, begin, step)
            # Another thread may have done the same: who waits for one can be cancelled, and the thread goes on.
            self.backed = max(self.backed, begin + step)

    def write(self, offset: int, data: Any) -> None:
        """Copy a contiguous buffer, whole, to `offset`. Blocks, without the interpreter's lock."""
        buffer = _PyBuffer()
        _get_buffer(data, ctypes.byref(buffer), _BUFFER_SIMPLE)
        try:
            if offset < 0 or offset + buffer.length > self.capacity:
                raise ValueError(f"{buffer.length} bytes at {offset} do not lie within {self.capacity}")
            if buffer.length:
                self._copy(offset, buffer.address, buffer.length)
        finally:
            _release_buffer(ctypes.byref(buffer))

    def writable(self, offset: int, size: int) -> memoryview:
        """A range to write to, for what fills buffers itself; nothing keeps it alive."""
        with self._writing:
            start = self._writable()
        return memoryview((ctypes.c_ubyte * size).from_address(start + offset)).cast("B")

    def readable(self, offset: int, size: int) -> memoryview:
        """A view that is no pin: for the node, which knows that the object stays while it looks."""
        return memoryview((ctypes.c_ubyte * size).from_address(self._read_at + offset)).cast("B").toreadonly()

    def pin(self, offset: int, size: int, on_release: Callable[[], None]) -> memoryview:
        """A read-only view, which may be sliced and cast. `on_release` is called once nothing made of it is left: in
        any thread, also inside the garbage collector, so it must do next to nothing."""
        if self._closed:
            raise ValueError("the segment is closed")
        if size <= 0 or offset < 0 or offset + size > self.capacity:
            raise ValueError(f"{size} bytes at {offset} do not lie within {self.capacity}")
        array = _array_type(size).from_address(self._read_at + offset)
        pin = _Pin(array, self._released)
        pin.on_release = on_release
        _pins[id(pin)] = pin
        self._pins.add(id(pin))
        return memoryview(array).cast("B")[:size].toreadonly()

    def close(self) -> None:
        """Unmap, now or when the last pin goes: views stay valid. Idempotent."""
        if self._closed:
            return
        with self._writing:
            self._closed = True
            os.close(self.fd)
            self._end_writing()
        if not self._pins:
            self._unmap()

    def is_prepared(self, offset: int, length: int) -> bool:
        """Whether a range was mapped for writing here, as far as it is known."""
        first, end = offset // POPULATE_BYTES, (offset + length) // POPULATE_BYTES
        return bool(self._write_at) and self._populated.find(0, first, end) < 0

    def prepare(self, offset: int, length: int) -> None:
        """Map a range for writing, so that what is written there does not wait for the kernel. Blocks."""
        with self._writing:
            start = self._writable()
            self._writers += 1
        try:
            self._populate(start, offset, length)
        finally:
            with self._writing:
                self._writers -= 1
                self._end_writing()

    def _copy(self, offset: int, source: int, length: int) -> None:
        with self._writing:
            start = self._writable()
            self._writers += 1
        try:
            self._populate(start, offset, length)
            _libc.memmove(start + offset, source, length)
        finally:
            with self._writing:
                self._writers -= 1
                self._end_writing()

    def _writable(self) -> int:
        if self._closed:
            raise ValueError("the segment is closed")
        if not self._write_at:
            self._write_at = _map(self.fd, self.capacity, mmap.PROT_READ | mmap.PROT_WRITE)
        return self._write_at

    def _end_writing(self) -> None:
        """Of a closed segment: unmap when the last thread is done."""
        if self._closed and not self._writers and self._write_at:
            _libc.munmap(self._write_at, self.capacity)
            self._write_at = 0

    def _populate(self, start: int, offset: int, length: int) -> None:
        """Map what is about to be written, if most of it was not before."""
        first, end = offset // POPULATE_BYTES, (offset + length) // POPULATE_BYTES
        missing = self._populated.find(0, first, end)
        if missing < 0:
            return
        begin = max(offset, missing * POPULATE_BYTES) // mmap.PAGESIZE * mmap.PAGESIZE
        _libc.madvise(start + begin, offset + length - begin, MADV_POPULATE_WRITE)  # else it faults: no harm
        self._populated[missing:end] = b"\1" * (end - missing)

    def _released(self, pin: _Pin) -> None:
        if _pins.pop(id(pin), None) is None:
            return  # in a child that was forked with it: it is the parent's
        self._pins.discard(id(pin))
        if self._closed and not self._pins:
            self._unmap()
        pin.on_release()

    def _unmap(self) -> None:
        with self._writing:
            address, self._read_at = self._read_at, 0
        if address:
            _libc.munmap(address, self.capacity)

    def __del__(self) -> None:
        # Of a session that was never shut down. There are no views: their pins would hold this object.
        if hasattr(self, "_closed"):  # else it could not be mapped
            self.close()

    def __repr__(self) -> str:
        return f"<Segment {self.capacity} bytes, {len(self._pins)} pinned{', closed' if self._closed else ''}>"


_pins: dict[int, _Pin] = {}
"""Of all segments. Views do not know of their pin: were it only its segment's, both could be collected before them."""


class SharedSegment(Struct, frozen=True):
    """The segment of a node that is an object in this process, as its readers are. Its functions are for any thread,
    also inside the garbage collector: a view outlives its reader, and is released when nobody is left to send that."""

    segment: Segment
    released: Callable[[ProcessId, str], None]
    """A read of the process, by key, is over."""
    left: Callable[[ProcessId, Callable[[], Mapping[str, int]]], None]
    """The process reads nothing more than the function says: reads by key."""


segments_here: dict[ProcessId, SharedSegment] = {}
"""By the process id of the node."""


_held: list[object] = []


def _hold_for_children() -> None:
    """A child that was forked looks at what its parent looked at, and nobody hears when it has done so: what was pinned
    at the fork stays, until this process ends."""
    _held.extend([array for array in [pin() for pin in list(_pins.values())] if array is not None])


os.register_at_fork(after_in_parent=_hold_for_children, after_in_child=_pins.clear)


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where buffers of these sizes begin in one object, each aligned, and the size of the whole."""
    offsets = []
    end = 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, end


_array_types: dict[int, Any] = {}


def _array_type(size: int) -> Any:
    """A ctypes type of at least `size` bytes. Each is kept for ever: so sizes are rounded, by an eighth at most."""
    step = 1 << max(size.bit_length() - 4, 0)
    rounded = -(-size // step) * step
    found = _array_types.get(rounded)
    if found is None:
        found = _array_types[rounded] = ctypes.c_ubyte * rounded
    return found


def _anonymous_file(name: str) -> int:
    if sys.platform == "linux":
        return os.memfd_create(name, os.MFD_CLOEXEC)
    import tempfile  # with what it imports it would take memory in every worker

    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    fd, path = tempfile.mkstemp(prefix=f"{name}-", dir=folder)
    os.unlink(path)
    return fd


def _map(fd: int, length: int, protection: int) -> int:
    address = _libc.mmap(None, length, protection, mmap.MAP_SHARED, fd, 0)
    if address is None or address == _MAP_FAILED:
        number = ctypes.get_errno() or errno.ENOMEM
        raise OSError(number, f"cannot map {length} bytes: {os.strerror(number)}")
    return int(address)
