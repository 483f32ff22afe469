"""Keeping memory shared between processes that were forked from one another.

A page is shared until somebody writes to it, and in CPython looking at an object writes to it: a reference count, a
collector's mark, an entry of the cache of looked-up attributes. They are for a process with one thread.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys

MADV_DONTNEED = 4

LARGEST_SMALL_OBJECT = 512
ALIGNMENT = 16
POOL_BYTES = 16 * 1024
POOL_HEADER_BYTES = 48
"""CPython's allocator for objects of up to 512 bytes: pools of one size each, which begin with a header."""
MAX_FILLING_BYTES = 64 * 1024
"""Per size, where no end of the holes is seen: another allocator, or another layout."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def before_fork() -> None:
    """Make what exists now cheap to share: to be called right before a fork, when imports are done.

    The collector never looks at it again, in this process and in the forked one. The attribute cache forgets the names
    that only imports looked up: replacing an entry later would write to the page of the old name too, in every child.
    """
    gc.freeze()
    sys._clear_type_cache()


def fill_holes() -> list[object]:
    """Objects in the gaps that imports left, to be kept: what a forked process makes lies together then, on few pages.

    Otherwise it starts with the gaps, which are spread over everything that was ever imported, and copies a page for
    each. A size is full when two objects in a row lie at the start of a pool.
    """
    kept: list[object] = []
    smallest = sys.getsizeof(b"")
    for size in range((smallest // ALIGNMENT + 1) * ALIGNMENT, LARGEST_SMALL_OBJECT + 1, ALIGNMENT):
        first = 0
        for _ in range(MAX_FILLING_BYTES // size):
            kept.append(filling := bytes(size - smallest))
            if first and id(filling) == first + size:
                break
            first = id(filling) if id(filling) % POOL_BYTES == POOL_HEADER_BYTES else 0
    return kept


def give_back_zeros(instance: object) -> int:
    """Return those pages of a large object to the kernel that hold zeros only; how many bytes that were.

    They read as zeros again and take memory when they are written to. A uvloop loop contains a buffer of 256 KB, all of
    which its allocation has written to, and of which a process with small messages uses a page or two.
    """
    page = mmap.PAGESIZE
    zeros = bytes(page)
    start = (id(instance) + page - 1) // page * page
    end = (id(instance) + type(instance).__basicsize__) // page * page
    given = 0
    run = start
    for address in (*range(start, end, page), end):
        if address < end and ctypes.string_at(address, page) == zeros:
            continue
        if address > run and _libc.madvise(run, address - run, MADV_DONTNEED) == 0:
            given += address - run
        run = address + page
    return given
