from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import numpy
import pytest

from actorlite.store import segment as module
from actorlite.store.capacity import SMALLEST_BYTES, default_capacity
from actorlite.store.segment import ALIGNMENT, Segment, layout

MiB = 1 << 20


def mappings() -> int:
    return sum("memfd:actorlite" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_what_is_written_is_read_and_cannot_be_changed() -> None:
    segment = Segment.create(4 * MiB)
    segment.back(MiB)
    segment.write(4096, b"hello")
    segment.write(8192, memoryview(numpy.arange(1000.0)).toreadonly())
    view = segment.pin(4096, 5, lambda: None)
    assert bytes(view) == b"hello" and view.readonly
    with pytest.raises(TypeError):
        view[0] = 1
    array = numpy.frombuffer(segment.pin(8192, 8000, lambda: None))
    assert (array == numpy.arange(1000.0)).all() and not array.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    assert segment.pinned == 2
    del view, array
    assert segment.pinned == 0
    segment.close()


@pytest.mark.parametrize(("offset", "size"), [(-1, 4), (0, 4 * MiB + 1), (4 * MiB, 1)])
def test_nothing_outside_is_touched(offset: int, size: int) -> None:
    segment = Segment.create(4 * MiB)
    with pytest.raises(ValueError, match="do not lie within"):
        segment.write(offset, bytes(size))
    with pytest.raises(ValueError, match="do not lie within"):
        segment.pin(offset, size, lambda: None)
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        segment.write(0, b"x")
    with pytest.raises(ValueError, match="closed"):
        segment.pin(0, 1, lambda: None)


def test_a_pin_lasts_as_long_as_anything_made_of_it() -> None:
    segment = Segment.create(MiB)
    segment.write(0, numpy.arange(1000))
    released: list[str] = []
    view = segment.pin(0, 8000, lambda: released.append("gone"))
    array = numpy.frombuffer(view, dtype=int)
    part = array[10:20].reshape(2, 5).T
    cast = view[80:160].cast("q")
    del view, array
    assert not released
    del cast
    assert not released and part[0, 0] == 10
    del part
    assert released == ["gone"]
    segment.close()


def test_views_of_a_closed_segment_stay_valid_and_the_last_one_unmaps_it() -> None:
    before = mappings()
    segment = Segment.create(MiB)
    segment.write(0, b"abc" * 100)
    views = [segment.pin(0, 300, lambda: None), segment.pin(0, 3, lambda: None)]
    segment.close()
    segment.close()
    del segment
    gc.collect()
    assert bytes(views[0]) == b"abc" * 100
    views.pop()
    assert mappings() == before + 1
    views.pop()
    assert mappings() == before


def test_a_segment_that_nobody_closes_is_closed_when_it_is_dropped() -> None:
    before = mappings(), len(os.listdir("/proc/self/fd"))
    segment = Segment.create(MiB)
    segment.write(0, b"abc")
    view = segment.pin(0, 3, lambda: None)
    del segment
    gc.collect()
    assert bytes(view) == b"abc"
    del view
    gc.collect()
    assert (mappings(), len(os.listdir("/proc/self/fd"))) == before


def test_threads_write_at_once_and_closing_waits_for_none_of_them() -> None:
    before = mappings()
    segment = Segment.create(64 * MiB)
    start = threading.Barrier(5)
    wrong: list[BaseException] = []

    def work(place: int) -> None:
        data = bytes([place]) * MiB
        start.wait()
        try:
            for round in range(16):
                segment.write((place * 16 + round) * MiB, data)
        except ValueError as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    segment.close()
    for thread in threads:
        thread.join()
    assert all("closed" in str(error) for error in wrong)
    assert mappings() == before


def test_buffers_are_aligned() -> None:
    offsets, end = layout((1, 64, 0, 65))
    assert offsets == [0, 64, 128, 128] and end == 256
    assert all(offset % ALIGNMENT == 0 for offset in offsets)


def test_few_array_types_are_made_whatever_the_sizes() -> None:
    module._array_types.clear()
    for size in range(100_000, 1_000_000, 997):
        assert module._array_type(size)._length_ >= size
    assert len(module._array_types) < 60


def test_memory_is_backed_in_steps_up_to_the_end() -> None:
    segment = Segment.create(100 * MiB)
    segment.back(1)
    assert segment.backed == module.BACK_STEP_BYTES
    segment.back(100 * MiB)
    assert segment.backed == 100 * MiB
    assert os.fstat(segment.fd).st_blocks * 512 == 100 * MiB
    segment.close()


def test_memory_that_two_threads_back_at_once_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment.create(1000 * MiB)
    fallocate = os.posix_fallocate

    def meanwhile(fd: int, offset: int, size: int) -> None:
        monkeypatch.setattr(os, "posix_fallocate", fallocate)
        segment.back(1)
        fallocate(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", meanwhile)
    segment.back(1)
    assert segment.backed == os.fstat(segment.fd).st_blocks * 512 == module.BACK_STEP_BYTES
    segment.close()


def test_without_memfd_a_file_without_a_name_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "platform", "darwin")
    segment = Segment.create(MiB)
    segment.write(0, b"abc")
    assert bytes(segment.pin(0, 3, lambda: None)) == b"abc"
    assert os.fstat(segment.fd).st_nlink == 0
    segment.close()


def test_the_default_capacity_is_a_part_of_the_memory() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert SMALLEST_BYTES <= default_capacity() <= max(0.3 * total, SMALLEST_BYTES)
