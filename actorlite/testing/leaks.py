"""What a piece of code left behind: tasks, threads, processes, descriptors, mapped segments, files.

Take a `Snapshot` before and `check` after. What is still going away is waited for, up to a deadline; what stays is
named in a `LeakError`. Linux only: it reads `/proc`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from actorlite.proctree import children

DEADLINE_S = 2.0
POLL_S = 0.005
# Descriptors of the loop's own machinery, opened at first use and closed with the loop.
_LOOP_DESCRIPTORS = frozenset({"anon_inode:[eventpoll]", "anon_inode:[io_uring]"})
# anyio's pytest plugin waits in a task of its own for the fixture or test that runs.
_WAITING_FOR_US = frozenset({"TestRunner._call_in_runner_task"})
_SEGMENTS = ("/memfd:", "/dev/shm/")


class LeakError(AssertionError):
    """Something that was begun since the snapshot still exists; `leaks` has one line for each."""

    def __init__(self, leaks: list[str]) -> None:
        super().__init__("left behind:\n" + "\n".join(f"  {each}" for each in leaks))
        self.leaks = leaks


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What existed at one moment in this process, and in the directories and the family of processes it was told of."""

    tasks: frozenset[asyncio.Task[Any]] = field(repr=False)
    threads: frozenset[threading.Thread] = field(repr=False)
    processes: frozenset[int]
    descriptors: frozenset[tuple[int, str]] = field(repr=False)
    unnamed_sockets: frozenset[int] = field(repr=False)
    """Counted, not told apart: uvloop makes a new pair, for signals, each time it is run."""
    segments: frozenset[str] = field(repr=False)
    paths: frozenset[str]
    directories: tuple[str, ...] = ()
    mark: str = ""

    @classmethod
    def take(cls, directories: Iterable[str | Path] = (), mark: str = "") -> Snapshot:
        """What exists now; tasks are those of the running loop, if there is one.

        `directories` are looked through for `actorlite-*` and what is in it. `mark` is `NAME=value` as set in
        `os.environ` before: every process that inherited it counts, whoever its parent is by now; without it
        children of this process do.
        """
        places = tuple(str(each) for each in directories)
        descriptors = dict(_descriptors())
        unnamed = frozenset(fd for fd, target in descriptors.items() if _is_unnamed(fd, target))
        return cls(
            tasks=frozenset(_tasks()),
            threads=frozenset(_threads()),
            processes=frozenset(_processes(mark)),
            descriptors=frozenset(each for each in descriptors.items() if each[0] not in unnamed),
            unnamed_sockets=unnamed,
            segments=frozenset(_segments()),
            paths=frozenset(_paths(places)),
            directories=places,
            mark=mark,
        )

    def leaks(self) -> list[str]:
        """One line for each thing that exists now and did not then."""
        now = Snapshot.take(self.directories, self.mark)
        more = len(now.unnamed_sockets) - len(self.unnamed_sockets)
        unnamed = [f"{more} more unnamed Unix sockets, now {sorted(now.unnamed_sockets)}"] if more > 0 else []
        return [
            *(f"task {task!r}" for task in now.tasks - self.tasks),
            *(f"thread {thread.name!r} at {_place(thread)}" for thread in now.threads - self.threads),
            *(f"process {pid}: {_command(pid)}" for pid in sorted(now.processes - self.processes)),
            *(f"descriptor {fd}: {_describe(fd, target)}" for fd, target in sorted(now.descriptors - self.descriptors)),
            *unnamed,
            *(f"mapped segment {each}" for each in sorted(now.segments - self.segments)),
            *(f"path {each}" for each in sorted(now.paths - self.paths)),
        ]


async def check(before: Snapshot, within_s: float = DEADLINE_S) -> None:
    """Return once nothing is left that `before` did not have. Raises `LeakError` at the deadline."""
    deadline = time.monotonic() + within_s
    while leaks := before.leaks():
        if time.monotonic() >= deadline:
            raise LeakError(leaks)
        await asyncio.sleep(POLL_S)


def check_blocking(before: Snapshot, within_s: float = DEADLINE_S) -> None:
    """`check` for code that runs on no loop."""
    deadline = time.monotonic() + within_s
    while leaks := before.leaks():
        if time.monotonic() >= deadline:
            raise LeakError(leaks)
        time.sleep(POLL_S)


def _tasks() -> set[asyncio.Task[Any]]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return set()
    others = asyncio.all_tasks(loop) - {asyncio.current_task()}
    return {task for task in others if getattr(task.get_coro(), "__qualname__", "") not in _WAITING_FOR_US}


def _threads() -> Iterator[threading.Thread]:
    # A loop's default executor ends with the loop, and belongs to whoever made that.
    return (thread for thread in threading.enumerate() if not thread.name.startswith(("asyncio_", "uvloop_")))


def _place(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}" if frame else "its start or end"


def _processes(mark: str) -> Iterator[int]:
    if not mark:
        yield from children()
        return
    needle = b"\0" + mark.encode() + b"\0"
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            # Gone meanwhile, or another user's; a zombie has no environment left but is somebody's unreaped child.
            with contextlib.suppress(OSError):
                if needle in b"\0" + Path("/proc", name, "environ").read_bytes() + b"\0":
                    yield int(name)
    yield from children()


def _command(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return command or "no command line: starting, or ended and not reaped"
    except OSError:
        return "gone meanwhile"


def _descriptors() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        # The descriptor that lists the directory is closed by now; other threads close theirs.
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target not in _LOOP_DESCRIPTORS and not _is_reserve(int(name), target):
                yield int(name), target


def _is_reserve(fd: int, target: str) -> bool:
    """Whether this is the spare one that uvloop opens with a loop's first stream, for when there are no more."""
    return target == os.devnull and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def _is_unnamed(fd: int, target: str) -> bool:
    found = _socket_of(fd, target)
    return found is not None and found == (socket.AF_UNIX, socket.SOCK_STREAM, "")


def _describe(fd: int, target: str) -> str:
    found = _socket_of(fd, target)
    if found is None:
        return target
    family, kind, name = found
    return f"{target} {family.name} {kind.name} bound to {name!r}"


def _socket_of(fd: int, target: str) -> tuple[socket.AddressFamily, socket.SocketKind, object] | None:
    if not target.startswith("socket:"):
        return None
    try:
        with socket.socket(fileno=os.dup(fd)) as found:
            return socket.AddressFamily(found.family), socket.SocketKind(found.type), found.getsockname()
    except (OSError, ValueError):
        # Closed meanwhile by another thread, or of a family that Python does not know.
        return None


def _segments() -> Iterator[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            path = line[73:].strip()
            if path.startswith(_SEGMENTS):
                yield f"{line.split(' ', 1)[0]} {path}"


def _paths(directories: Iterable[str]) -> Iterator[str]:
    for directory in directories:
        for top in glob(os.path.join(directory, "actorlite-*")):
            yield top
            for parent, folders, files in os.walk(top):
                yield from (os.path.join(parent, name) for name in (*folders, *files))
