"""What a host provides and a test injects: processes, threads, entropy.

Product code takes these from what it is given, so that a whole cluster can run in one loop, deterministically.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from actorlite.ids import ProcessId
from actorlite.transport import Address


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a new worker needs to know; everything else it learns from its node."""

    process: ProcessId
    node: Address
    """Where the worker registers."""
    listen: Address
    """Where the worker accepts direct calls."""
    token: bytes = field(repr=False)
    """The cluster token; never on a command line, in the environment or in a log."""
    job: str = ""
    namespace: str = ""
    sys_path: tuple[str, ...] = ()
    """Entries of the driver's `sys.path`, so that code goes by reference where it can."""
    cwd: str = ""
    loop: str = "uvloop"
    """`"uvloop"` or `"asyncio"`."""
    gpus: tuple[str, ...] = ()
    """The devices that it is to see; empty: those that its node sees."""
    threads: int = 0
    """`OMP_NUM_THREADS`; 0 leaves it as it is."""


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How a process ended, as told by its parent's `wait4`."""

    pid: int
    exit_code: int | None = None
    signal: int | None = None
    max_rss_bytes: int = 0
    stderr_tail: str = ""
    reason: str = ""
    """Why, when the host itself knows: "killed by the node", "the zygote died", ..."""

    def describe(self) -> str:
        """For humans: `pid 17 was killed by signal 9 (SIGKILL), peak memory 31 MiB; last stderr lines: ...`."""
        how = (
            f"was killed by signal {self.signal}{_signal_name(self.signal)}"
            if self.signal is not None
            else f"exited with code {self.exit_code}"
            if self.exit_code is not None
            else "ended"
        )
        text = f"pid {self.pid} {how}"
        if self.reason:
            text += f" ({self.reason})"
        if self.max_rss_bytes:
            text += f", peak memory {self.max_rss_bytes / 2**20:.0f} MiB"
        if self.stderr_tail:
            text += f"; last stderr lines:\n{self.stderr_tail}"
        return text


_SIGNAL_NAMES = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
    11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS",
}  # fmt: skip


def _signal_name(number: int) -> str:
    name = _SIGNAL_NAMES.get(number)
    return f" ({name})" if name else ""


class ProcessHandle(Protocol):
    """One started worker."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> ExitReport:
        """How it ended. May be awaited by several, and after the end."""
        ...

    def kill(self) -> None:
        """End it at once, with everything it started. Idempotent."""


class Spawner(Protocol):
    """Starts workers: by forking a zygote, or as objects in this loop."""

    async def start(self, spec: WorkerSpec) -> ProcessHandle: ...

    async def aclose(self) -> None:
        """Kill what still runs and wait until it is gone."""


class Executor(Protocol):
    """Runs plain functions away from the loop."""

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work` soon; calls to one executor of size 1 run in order, on the same thread."""

    def close(self) -> None:
        """Take no more work; threads end when idle. Never waits for a blocked thread."""


class Entropy(Protocol):
    def token_bytes(self, size: int) -> bytes: ...


class SystemEntropy:
    """The operating system's randomness; the only place that reads it."""

    def token_bytes(self, size: int) -> bytes:
        return os.urandom(size)
