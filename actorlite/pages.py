"""Keeping memory shared between processes that were forked from one another.

A page is shared until somebody writes to it, and in CPython looking at an object writes to it: a reference count, a
collector's mark, an entry of the cache of looked-up attributes. They are for a process with one thread.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
import types
from collections.abc import Collection

MADV_DONTNEED = 4
IMMORTAL = 0xFFFF_FFFF
"""The reference count of objects that count nothing, in CPython 3.12 and 3.13 (PEP 683)."""
ADDRESSES = 1 << 48
CALLED = frozenset(
    (
        types.BuiltinFunctionType,
        types.FunctionType,
        types.GetSetDescriptorType,
        types.MemberDescriptorType,
        types.MethodDescriptorType,
        types.WrapperDescriptorType,
        classmethod,
        property,
        staticmethod,
    )
)

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


def make_immortal(packages: Collection[str]) -> int:
    """Let nobody count references to the classes and functions of these packages; returns how many objects that were.

    A forked process does not write to their pages then when it calls them: a tenth of a worker's memory and of the time
    that it takes to start. They stay for ever, as do what their closures and defaults hold. PEP 683 has this use in
    mind but gives no function for it. Where None is not counted in this way (Python 3.11, and builds with another
    layout) nothing happens.
    """
    if ctypes.c_uint32.from_address(id(None)).value != IMMORTAL or sys.getrefcount(None) != IMMORTAL:
        return 0
    # Writing through a view of all memory takes a fifth of the time of an object of ctypes for each count.
    counts = memoryview((ctypes.c_uint32 * (ADDRESSES // 4)).from_address(0)).cast("B").cast("I")
    called = _what_is_called(packages)
    for each in called:
        counts[id(each) // 4] = IMMORTAL
    return len(called)


def _what_is_called(packages: Collection[str]) -> list[object]:
    """What looking up and calling something in these packages touches; functions come once for each name they have."""
    modules = [
        module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in packages and isinstance(module, types.ModuleType)
    ]
    classes = {each for module in modules for each in vars(module).values() if isinstance(each, type)}
    found: list[object] = [*modules, *map(vars, modules), *classes, *(cls.__mro__ for cls in classes)]
    for owner in (*modules, *classes):
        called = [each for each in vars(owner).values() if type(each) in CALLED]
        found += called
        found += [each.__code__ for each in called if type(each) is types.FunctionType]
    return found


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
