"""The kernel's view of process trees (Linux): adopting orphans, listing and killing children.

Whoever changes a process or kills its children does so in a process of our own: daemon, zygote or worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# Loaded once, before any fork: a new worker's first lines should not search for a library.
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """From now on orphaned descendants become children of this process, not of init. Not inherited by forks."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: signal.Signals) -> None:
    """This signal for this process when the thread that forked it ends: not if it has ended already, so that the caller
    has to compare `os.getppid()`."""
    _prctl(PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def children() -> list[int]:
    """Pids of this process's children, unreaped ones included.

    A child that ends while the kernel prints the list may hide another one: its end is a reason to look again.
    """
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/self/task/{thread}/children", encoding="ascii") as listing:
                found.extend(map(int, listing.read().split()))
    return found


def kill_process(pid: int) -> None:
    """SIGKILL to one child that may have ended, but has not been reaped by anybody else."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that `pid` leads, which may have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_all_children(within_s: float) -> bool:
    """SIGKILL every child, and whatever becomes a child when those end, until none is left; reaps them all.

    The last act of a subreaper. Returns False when some still exist after `within_s`: processes stuck in the kernel.
    """
    deadline = time.monotonic() + within_s
    while True:
        for pid in children():
            kill_process(pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            return True
        if time.monotonic() >= deadline:
            return False
        # A killed process takes a moment to end; there is no loop left to wait in.
        time.sleep(0.001)
