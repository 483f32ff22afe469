from __future__ import annotations

import errno
import fcntl
import importlib
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actorlite.node.launch import package_roots
from actorlite.store import spilling
from actorlite.store.spilling import CHUNK_BYTES, HEADER, SpillError, SpillTarget, open_target

MIB = 1 << 20
SIZE = 2 * CHUNK_BYTES + 3

NODE = """
import sys
from actorlite.store.spilling import open_target
target = open_target(sys.argv[1], sys.argv[2])
print(target.write("key", memoryview(b"x" * 5000)), flush=True)
sys.stdin.read()
"""


@dataclass
class Place:
    """Where to spill, and what a test may do there behind the target's back."""

    where: str
    load: Callable[[str], bytes]
    store: Callable[[str, bytes], object]
    objects: Callable[[], list[str]]
    """The names of all files but the lock."""


@pytest.fixture(params=["directory", "file://", "memory://"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    def load(location: str) -> bytes:
        return Path(location.removeprefix("file://")).read_bytes()

    def store(location: str, data: bytes) -> int:
        return Path(location.removeprefix("file://")).write_bytes(data)

    if request.param == "directory":
        return Place(str(tmp_path / "spill"), load, store, lambda: files_in(tmp_path))
    fsspec: Any = pytest.importorskip("fsspec")
    if request.param == "file://":
        return Place(f"file://{tmp_path}/spill", load, store, lambda: files_in(tmp_path))
    files = fsspec.filesystem("memory")
    where = f"memory://{uuid.uuid4().hex}"
    return Place(
        where, files.cat_file, files.pipe_file, lambda: [path.rpartition("/")[2] for path in files.find(where)]
    )


@pytest.fixture
def target(place: Place) -> Iterator[SpillTarget]:
    target = open_target(place.where, "node")
    yield target
    target.close()
    assert place.objects() == []


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file() and path.name != spilling.LOCK)


def directories_in(where: Path) -> list[str]:
    return sorted(path.name for path in where.iterdir())


def some_bytes(size: int) -> bytes:
    return (os.urandom(1021) * (size // 1021 + 1))[:size]


def read(target: SpillTarget, location: str, size: int) -> bytes:
    into = bytearray(size)
    target.read(location, memoryview(into))
    return bytes(into)


@pytest.mark.parametrize("size", [0, 1, 4096, CHUNK_BYTES, MIB + 3])
def test_what_is_written_is_read_again(target: SpillTarget, size: int) -> None:
    data = some_bytes(size)
    location = target.write("key", memoryview(data))
    other = target.write("key", memoryview(b"of the same key"))
    assert read(target, location, size) == data
    assert read(target, other, 15) == b"of the same key"
    target.delete(other)
    assert read(target, location, size) == data


def test_a_view_of_another_format_counts_its_bytes(target: SpillTarget) -> None:
    location = target.write("key", memoryview(bytes(range(16))).cast("I"))
    into = bytearray(16)
    target.read(location, memoryview(into).cast("H"))
    assert into == bytes(range(16))


@pytest.mark.parametrize(
    "length",
    [0, 1, HEADER.size - 1, HEADER.size, HEADER.size + 1, HEADER.size + CHUNK_BYTES - 1, HEADER.size + CHUNK_BYTES]
    + [HEADER.size + CHUNK_BYTES + 1, HEADER.size + SIZE - 1],
)
def test_a_torn_file_is_an_error(place: Place, target: SpillTarget, length: int) -> None:
    location = target.write("key", memoryview(some_bytes(SIZE)))
    place.store(location, place.load(location)[:length])
    with pytest.raises(SpillError, match="ends early") as raised:
        read(target, location, SIZE)
    assert location in str(raised.value)
    assert "object_spilling_directory=" in str(raised.value)


@pytest.mark.parametrize(
    "offset",
    [*range(HEADER.size), HEADER.size, HEADER.size + CHUNK_BYTES, HEADER.size + SIZE // 2, HEADER.size + SIZE - 1],
)
def test_a_flipped_bit_anywhere_is_an_error(place: Place, target: SpillTarget, offset: int) -> None:
    location = target.write("key", memoryview(some_bytes(SIZE)))
    damaged = bytearray(place.load(location))
    damaged[offset] ^= 1
    place.store(location, bytes(damaged))
    with pytest.raises(SpillError, match="lost"):
        read(target, location, SIZE)


def test_a_longer_file_is_an_error(place: Place, target: SpillTarget) -> None:
    location = target.write("key", memoryview(some_bytes(SIZE)))
    place.store(location, place.load(location) + b"x")
    with pytest.raises(SpillError, match=f"longer than the {SIZE} bytes"):
        read(target, location, SIZE)


@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1])
def test_an_object_of_another_size_is_an_error(target: SpillTarget, size: int) -> None:
    location = target.write("key", memoryview(some_bytes(SIZE)))
    with pytest.raises(SpillError, match=f"holds {SIZE} bytes, not the {size}"):
        read(target, location, size)


def test_a_missing_object_is_an_error_to_read_and_none_to_delete(target: SpillTarget) -> None:
    location = target.write("key", memoryview(b"data"))
    target.delete(location)
    target.delete(location)
    with pytest.raises(SpillError, match="is gone") as raised:
        read(target, location, 4)
    assert location in str(raised.value)


def test_closing_deletes_everything_and_ends_writing(place: Place) -> None:
    target = open_target(place.where, "node")
    locations = [target.write(f"key-{number}", memoryview(b"data")) for number in range(5)]
    assert len(place.objects()) == 5
    target.close()
    target.close()
    assert place.objects() == []
    with pytest.raises(SpillError, match="gone"):
        read(target, locations[0], 4)
    with pytest.raises(SpillError, match="the node is ending"):
        target.write("key", memoryview(b"data"))
    target.delete(locations[0])
    assert "closed" in repr(target)
    assert place.objects() == []


def test_several_threads_write_and_read_at_once(place: Place, target: SpillTarget) -> None:
    values = [some_bytes(5000 + number) for number in range(64)]
    together = threading.Barrier(8)

    def there_and_back(numbers: range) -> list[bytes]:
        together.wait()
        locations = [target.write("key", memoryview(values[number])) for number in numbers]
        assert len(set(locations)) == 8
        found = [read(target, each, 5000 + number) for each, number in zip(locations, numbers, strict=True)]
        target.delete(locations[0])
        return found

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(there_and_back, (range(start, start + 8) for start in range(0, 64, 8))))
    assert [each for some in found for each in some] == values
    assert len(place.objects()) == 56


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "a/b\0c", "ü" * 300, "x" * 300, spilling.LOCK])
def test_any_key_makes_a_file_name(place: Place, target: SpillTarget, key: str) -> None:
    location = target.write(key, memoryview(b"data"))
    assert read(target, location, 4) == b"data"
    assert place.objects() == [location.rpartition("/")[2]]


# A directory


def test_what_cannot_be_read_now_is_not_said_to_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, flags: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    target = open_target(str(tmp_path), "node")
    location = target.write("key", memoryview(b"data"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(SpillError, match="Too many open files; raise `ulimit -n`"):
            read(target, location, 4)
    assert read(target, location, 4) == b"data"
    target.close()


def test_a_node_has_a_directory_of_its_own_that_nobody_else_reads(tmp_path: Path) -> None:
    target = open_target(str(tmp_path / "made" / "here"), "no/de")
    location = Path(target.write("key", memoryview(b"data")))
    own = tmp_path / "made" / "here" / "actorlite-spill-no_de"
    assert location.parent == own
    assert location.name.startswith("key")
    assert own.stat().st_mode & 0o777 == 0o700
    assert location.stat().st_mode & 0o777 == 0o600
    assert repr(target) == f"<DirectoryTarget {own}>"
    target.close()
    assert directories_in(own.parent) == []


def failing_write(code: int, *, after: int) -> Callable[[int, memoryview], int]:
    """An os.write that fails when so many bytes are written; with no code it writes nothing instead."""
    real, left = os.write, after

    def write(fd: int, data: memoryview) -> int:
        nonlocal left
        if left:
            written = real(fd, data[:left])
            left -= written
            return written
        if code:
            raise OSError(code, os.strerror(code))
        return 0

    return write


@pytest.mark.parametrize("after", [0, 1, HEADER.size, HEADER.size + 1000])
@pytest.mark.parametrize(
    ("code", "text"),
    [
        (errno.ENOSPC, r"disk full: 5000 bytes needed, \d+ bytes free; free space or set object_spilling_directory="),
        (errno.EDQUOT, "disk quota exceeded: 5000 bytes needed; free space, ask for a larger quota, or set"),
        (errno.EIO, "Input/output error; check"),
        (0, "nothing more was written; check"),
    ],
)
def test_a_failed_write_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, text: str, after: int
) -> None:
    target = open_target(str(tmp_path), "node")
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", failing_write(code, after=after))
        with pytest.raises(SpillError, match=text) as raised:
            target.write("key", memoryview(bytes(5000)))
    assert str(tmp_path) in str(raised.value)
    assert files_in(tmp_path) == []
    data = some_bytes(5000)
    assert read(target, target.write("key", memoryview(data)), 5000) == data
    target.close()


def test_what_is_written_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    target = open_target(str(tmp_path), "node")
    data = some_bytes(5000)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
        location = target.write("key", memoryview(data))
    assert read(target, location, 5000) == data
    target.close()


def test_a_disk_that_turns_out_full_when_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.close

    def close(fd: int) -> None:
        real(fd)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = open_target(str(tmp_path), "node")
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", close)
        with pytest.raises(SpillError, match="disk full"):
            target.write("key", memoryview(b"data"))
    assert files_in(tmp_path) == []
    target.close()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_kernel_that_refuses_in_the_middle_of_a_file(tmp_path: Path) -> None:
    target = open_target(str(tmp_path), "node")
    data = memoryview(bytes(MIB))
    with largest_file(64 * 1024), pytest.raises(SpillError, match=f"{MIB} bytes needed; raise `ulimit -f` or set"):
        target.write("key", data)
    assert files_in(tmp_path) == []
    target.close()


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(fd: int, data: memoryview) -> int:
        raise KeyboardInterrupt

    target = open_target(str(tmp_path), "node")
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        with pytest.raises(KeyboardInterrupt):
            target.write("key", memoryview(b"data"))
    assert files_in(tmp_path) == []
    target.close()


def test_closing_does_not_wait_for_a_write_and_lets_it_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun, closed = os.write, threading.Event(), threading.Event()

    def write(fd: int, data: memoryview) -> int:
        begun.set()
        closed.wait()
        return real(fd, data)

    target = open_target(str(tmp_path), "node")
    monkeypatch.setattr(os, "write", write)
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(target.write, "key", memoryview(b"data"))
        begun.wait()
        target.close()
        assert directories_in(tmp_path) == []
        closed.set()
        with pytest.raises(SpillError, match="the node is ending"):
            writing.result()
    assert directories_in(tmp_path) == []


@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_is_no_place_to_spill_to(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpillError, match="file.*: it is not a directory; set object_spilling_directory="):
        open_target(f"{tmp_path}/file{below}", "node")


def test_a_directory_that_nothing_can_be_made_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(path: str, mode: int) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(SpillError, match="Permission denied; make it writable") as raised:
        open_target(str(tmp_path), "node")
    assert str(tmp_path) in str(raised.value)


def test_a_directory_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(SpillError, match="mount it so that files can be locked"):
        open_target(str(tmp_path), "node")
    assert directories_in(tmp_path) == []


def test_what_cannot_be_deleted_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = open_target(str(tmp_path), "node")
    location = Path(target.write("key", memoryview(b"data")))
    strange = location.parent / "strange.0"
    strange.mkdir()
    with caplog.at_level(logging.WARNING, "actorlite.store"):
        target.delete(str(strange))
        assert "cannot delete a spilled object" in caplog.text
        target.close()
    assert f"cannot remove all of {location.parent}" in caplog.text
    assert not location.exists()
    strange.rmdir()
    open_target(str(tmp_path), "other").close()
    assert directories_in(tmp_path) == []


# Nodes beside and after each other


@contextmanager
def other_node(where: Path, name: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a target in which one object is."""
    process = subprocess.Popen(
        [sys.executable, "-c", NODE, str(where), name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(package_roots())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_what_a_killed_node_left_is_removed_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    with other_node(tmp_path, "living") as (_, kept), other_node(tmp_path, "dead") as (process, left):
        (left.parent / "key.9.part").write_bytes(b"killed in the middle")
        own = open_target(str(tmp_path), "own")
        mine = own.write("key", memoryview(b"data"))
        assert left.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()

        later = open_target(str(tmp_path), "later")
        assert directories_in(tmp_path) == [f"actorlite-spill-{name}" for name in ("later", "living", "own")]
        assert kept.stat().st_size == HEADER.size + 5000
        assert read(own, mine, 4) == b"data"
        later.close()
        own.close()
        assert directories_in(tmp_path) == ["actorlite-spill-living"]


def test_a_node_may_have_the_name_of_a_dead_one_but_not_of_a_living_one(tmp_path: Path) -> None:
    with other_node(tmp_path, "name") as (process, left):
        with pytest.raises(SpillError, match="actorlite-spill-name: it belongs to a living node.*; name each node"):
            open_target(str(tmp_path), "name")
        assert directories_in(tmp_path) == ["actorlite-spill-name"]
        assert left.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        target = open_target(str(tmp_path), "name")
        assert files_in(tmp_path) == []
        target.close()


def test_half_made_and_half_removed_directories_are_left_overs(tmp_path: Path) -> None:
    (tmp_path / "actorlite-spill-node.0123").mkdir()
    (tmp_path / "actorlite-spill-other").mkdir()
    (tmp_path / "actorlite-spill-other" / "key.0").touch()
    open_target(str(tmp_path), "node").close()
    assert directories_in(tmp_path) == []


def test_what_only_looks_like_a_nodes_directory_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    where = tmp_path / "where"
    where.mkdir()
    (where / "unrelated").mkdir()
    (where / "actorlite-spill-file").touch()
    (where / "actorlite-spill-link").symlink_to(elsewhere)
    before = directories_in(where)
    open_target(str(where), "node").close()
    assert directories_in(where) == before
    assert directories_in(elsewhere) == ["file"]
    assert caplog.text.count("cannot tell whether") == 2


def test_nodes_that_start_at_the_same_time_take_nothing_from_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    others: list[SpillTarget] = []

    def flock(fd: int, operation: int) -> None:
        # Our directory has its lock file, but the lock is not ours yet: to others we are dead.
        monkeypatch.setattr(fcntl, "flock", real)
        others.append(open_target(str(tmp_path), "other"))
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    target = open_target(str(tmp_path), "node")
    assert directories_in(tmp_path) == ["actorlite-spill-node", "actorlite-spill-other"]
    third = open_target(str(tmp_path), "third")
    for each in (target, *others, third):
        data = some_bytes(100)
        assert read(each, each.write("key", memoryview(data)), 100) == data
        each.close()
    assert directories_in(tmp_path) == []


def test_a_lock_that_was_unlinked_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock
    target = open_target(str(tmp_path), "node")
    mine = target.write("key", memoryview(b"data"))
    lock = Path(mine).parent / spilling.LOCK
    descriptor = os.open(lock, os.O_RDWR)
    lock.unlink()
    os.close(os.open(lock, os.O_RDWR | os.O_CREAT))

    def flock(fd: int, operation: int) -> None:
        # Somebody opened the file before it was another.
        os.dup2(descriptor, fd)
        monkeypatch.setattr(fcntl, "flock", real)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert spilling.Claim.take(str(lock.parent)) is None
    assert read(target, mine, 4) == b"data"
    os.close(descriptor)
    target.close()


# A URL


def test_a_url_without_fsspec_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(SpillError, match=r"s3://bucket/prefix: .*; install it with: pip install 'actorlite\[spill\]'"):
        open_target("s3://bucket/prefix", "node")


def test_a_url_whose_package_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SpillError, match="s3://bucket/prefix: .*s3fs.*; install what is missing"):
        open_target("s3://bucket/prefix", "node")


def test_a_url_that_means_nothing(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(SpillError, match="nothing://x: .*nothing.*; check that it exists"):
        open_target("nothing://x", "node")
    (tmp_path / "file").touch()
    with pytest.raises(SpillError, match="file://.*; .*object_spilling_directory="):
        open_target(f"file://{tmp_path}/file", "node")


def test_a_store_that_fails_in_the_middle_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    memory: Any = importlib.import_module("fsspec.implementations.memory")
    target = open_target(f"memory://{uuid.uuid4().hex}", "node")
    real = memory.MemoryFile.write
    failure: Exception = OSError(errno.ENOSPC, "full")

    def write(file: Any, data: memoryview) -> object:
        if len(data) > HEADER.size:
            raise failure
        return real(file, data)

    monkeypatch.setattr(memory.MemoryFile, "write", write, raising=False)
    with pytest.raises(SpillError, match=f"memory://.*disk full: {SIZE} bytes needed; free space"):
        target.write("key", memoryview(bytes(SIZE)))
    failure = RuntimeError("no such credentials")
    with pytest.raises(SpillError, match="memory://.*RuntimeError: no such credentials; check"):
        target.write("key", memoryview(bytes(SIZE)))
    assert not any(path.endswith((".1", ".2")) for path in memory.MemoryFileSystem().store)
    target.close()


def test_what_a_store_does_not_delete_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("fsspec")
    memory: Any = importlib.import_module("fsspec.implementations.memory")

    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("no answer")

    target = open_target(f"memory://{uuid.uuid4().hex}", "node")
    location = target.write("key", memoryview(b"data"))
    with monkeypatch.context() as patched:
        for name in ("rm", "rm_file"):
            patched.setattr(memory.MemoryFileSystem, name, fail)
        target.delete(location)
        target.close()
    assert f"cannot delete the spilled object {location}: RuntimeError: no answer" in caplog.text
    assert "cannot delete the spilled objects at memory://" in caplog.text
    memory.MemoryFileSystem().rm_file(location)


def test_importing_it_imports_little() -> None:
    code = (
        "import sys, asyncio; before = set(sys.modules); import actorlite.store.spilling;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(package_roots())},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"fsspec", "hashlib", "pathlib", "shutil", "tempfile", "zlib"} & set(done.stdout.split())
