from __future__ import annotations

import asyncio
import mmap
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from actorlite.testing import leaks
from actorlite.testing.leaks import LeakError, Snapshot


@contextmanager
def waiting_thread() -> Iterator[None]:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="left-over")
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextmanager
def waiting_process() -> Iterator[None]:
    command = [sys.executable, "-S", "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield


@contextmanager
def bound_socket() -> Iterator[None]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield


@contextmanager
def socket_pair() -> Iterator[None]:
    one, other = socket.socketpair()
    with one, other:
        yield


@contextmanager
def mapped_segment() -> Iterator[None]:
    fd = os.memfd_create("actorlite-test")
    try:
        os.truncate(fd, 4096)
        with mmap.mmap(fd, 4096):
            yield
    finally:
        os.close(fd)


LEFT_OVERS: tuple[tuple[Callable[[], AbstractContextManager[None]], str], ...] = (
    (waiting_thread, r"thread 'left-over' at .*threading\.py:\d+"),
    (waiting_process, r"process \d+: .*sys\.stdin\.read"),
    (bound_socket, r"descriptor \d+: socket:\[\d+\] AF_INET SOCK_STREAM bound to \('127\.0\.0\.1', \d+\)"),
    (socket_pair, r"2 more unnamed Unix sockets, now \[\d+, "),
    (mapped_segment, r"mapped segment [0-9a-f-]+ /memfd:actorlite-test"),
)


@pytest.mark.parametrize(("leave", "line"), LEFT_OVERS, ids=lambda each: getattr(each, "__name__", ""))
def test_what_is_left_behind_is_named(leave: Callable[[], AbstractContextManager[None]], line: str) -> None:
    before = Snapshot.take()
    with leave():
        with pytest.raises(LeakError) as raised:
            leaks.check_blocking(before, within_s=0)
        assert any(re.match(line, each) for each in raised.value.leaks), raised.value.leaks
    leaks.check_blocking(before)


def test_a_new_path_is_named(tmp_path: Path) -> None:
    before = Snapshot.take([tmp_path])
    (tmp_path / "actorlite-1").mkdir()
    (tmp_path / "actorlite-1" / "node.sock").touch()
    assert before.leaks() == [f"path {tmp_path}/actorlite-1", f"path {tmp_path}/actorlite-1/node.sock"]


def test_an_orphan_is_found_by_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORLITE_LEAK_TEST", str(os.getpid()))
    before = Snapshot.take(mark=f"ACTORLITE_LEAK_TEST={os.getpid()}")
    # The shell starts a child of its own and ends: the child is nobody's that we know.
    command = ["sh", "-c", "exec 3<&0; cat <&3 >&2 & echo $!"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        orphan = int(shell.stdout.readline())
        os.waitid(os.P_PID, shell.pid, os.WEXITED | os.WNOWAIT)
        # In the middle of its exec it has no environment to be known by.
        deadline = time.monotonic() + 5
        while not any(each.startswith(f"process {orphan}: ") for each in before.leaks()):
            assert time.monotonic() < deadline, before.leaks()
    leaks.check_blocking(before)


def test_a_task_is_left_behind_or_waited_for() -> None:
    async def main() -> None:
        before = Snapshot.take()
        hold = asyncio.Event()
        task = asyncio.create_task(hold.wait(), name="left-over")
        with pytest.raises(LeakError, match="task .*left-over"):
            await leaks.check(before, within_s=0)
        asyncio.get_running_loop().call_soon(hold.set)
        await leaks.check(before)
        assert task.done()

    asyncio.run(main())


def test_what_was_there_before_is_no_leak() -> None:
    with bound_socket(), waiting_thread():
        before = Snapshot.take()
        assert before.leaks() == []
