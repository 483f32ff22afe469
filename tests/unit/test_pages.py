from __future__ import annotations

import mmap
import struct
import sys
import textwrap
import types

import pytest

from actorlite.pages import MAX_FILLING_BYTES, fill_holes, give_back_zeros, make_immortal


def present(instance: object) -> int:
    """How many of an object's pages take memory."""
    first = id(instance) // mmap.PAGESIZE + 1
    count = type(instance).__basicsize__ // mmap.PAGESIZE - 1
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(first * 8)
        return sum(entry >> 63 for (entry,) in struct.iter_unpack("=Q", pages.read(count * 8)))


def test_zeros_of_a_large_object_go_back_and_the_rest_stays() -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    try:
        before = present(loop)
        given = give_back_zeros(loop)
        assert given > type(loop).__basicsize__ * 0.8
        assert present(loop) <= before - given // mmap.PAGESIZE + 1
        assert give_back_zeros(object()) == 0

        async def answer() -> int:
            return 42

        assert loop.run_until_complete(answer()) == 42
    finally:
        loop.close()


def test_holes_are_filled_with_a_bounded_number_of_objects() -> None:
    kept = fill_holes()
    assert kept
    sizes: dict[int, int] = {}
    for each in kept:
        size = sys.getsizeof(each)
        sizes[size] = sizes.get(size, 0) + size
    assert all(size % 16 == 0 and size <= 512 for size in sizes)
    assert max(sizes.values()) <= MAX_FILLING_BYTES


def test_what_a_package_calls_is_counted_no_more_and_nothing_else_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> types.ModuleType:
        module = types.ModuleType(name)
        source = """
            class Base:
                __slots__ = ("value",)
                def method(self): return self.value
                @property
                def twice(self): return 2 * self.value
            def function(): return Base
            DATA = object()
        """
        exec(textwrap.dedent(source), vars(module))
        monkeypatch.setitem(sys.modules, name, module)
        return module

    ours, deeper, other = load("some_package"), load("some_package.inner"), load("some_package_too")
    made = make_immortal({"some_package", "missing"})
    if sys.getrefcount(None) < 1 << 31:
        assert made == 0, "this Python counts references to None"
        return
    immortal = sys.getrefcount(None)
    for module in (ours, deeper):
        called = (module, vars(module), module.Base, module.Base.__mro__, module.function, module.function.__code__)
        members = [vars(module.Base)[name] for name in ("value", "method", "twice")]
        assert {sys.getrefcount(each) for each in (*called, *members)} == {immortal}
        assert sys.getrefcount(module.DATA) < immortal
    assert sys.getrefcount(other) < immortal
    assert sys.getrefcount(other.Base) < immortal
    one = ours.function()()
    one.value = 21
    assert (one.method(), one.twice) == (21, 42)
    del ours.Base.method
    assert not hasattr(one, "method")
