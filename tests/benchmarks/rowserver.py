"""What every row runner shares: the line protocol, the clock, the sizes and the memory reading.

A runner is a child process that lives for the whole run. It says hello with one JSON line, then answers each
request line `{"row": name, "repeat": k}` with `{"row": name, "value": number}` or `{"row": name, "error": text}`, and
ends at the end of its input. The set-up of a row stays open while its repeats go on; the session that the rows share is
opened by the first row that needs it. Standard library only: runners are started by interpreters that have nothing but
their own peer installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, TextIO

CPUS = max(2, os.cpu_count() or 2)
SERVERS = max(1, CPUS // 2)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much one call of a row does; the same for every peer. Ray's own sizes, where they differ, are in brackets."""

    batch: int = 1000
    clients: int = 4
    tasks_per_client: int = 1000  # [10 000]
    calls_per_client: int = 1000  # [5 000]
    put_tasks: int = 10
    puts_per_task: int = 100
    large_items: int = 100 * 1024 * 1024  # of 8 bytes
    large_put_tasks: int = 4  # [10]
    large_puts_per_task: int = 5  # [10]
    large_put_items: int = 10 * 1024 * 1024  # of 8 bytes
    contained_refs: int = 10_000
    waited_refs: int = 1000
    groups: int = 100
    fresh_actors: int = 20
    warm_s: float = 1.0
    again_s: float = 0.2
    measure_s: float = 2.0


QUICK = Sizes(
    batch=50,
    clients=2,
    tasks_per_client=20,
    calls_per_client=50,
    put_tasks=2,
    puts_per_task=10,
    large_items=1024 * 1024,
    large_put_tasks=2,
    large_puts_per_task=2,
    large_put_items=128 * 1024,
    contained_refs=100,
    waited_refs=50,
    groups=5,
    fresh_actors=2,
    warm_s=0.05,
    again_s=0.02,
    measure_s=0.2,
)


class Work(NamedTuple):
    """One row made ready: `call` does it once, plain or awaitable, and counts as `units` of the row's unit."""

    call: Callable[[], Any]
    units: float = 1.0


RowSetup = Callable[[], AbstractAsyncContextManager[Work] | AbstractContextManager[Work]]
Session = Callable[[], AbstractAsyncContextManager[Any] | AbstractContextManager[Any]]


class Group(NamedTuple):
    """Rows that are measured together, once per repeat; `run` gives a value for each name."""

    names: Sequence[str]
    run: Callable[[], Awaitable[Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Peer:
    """What one runner offers. `alone` rows need no shared session."""

    name: str
    version: str
    session: Session
    rows: Mapping[str, RowSetup]
    alone: Mapping[str, RowSetup]
    groups: Sequence[Group]


async def _repeat(call: Callable[[], Any], seconds: float, step: int) -> tuple[int, float]:
    """Call for at least `seconds`, `step` calls between two looks at the clock; (calls, seconds)."""
    count = 0
    start = time.perf_counter()
    if asyncio.iscoroutinefunction(call):
        while (spent := time.perf_counter() - start) < seconds or not count:
            for _ in range(step):
                await call()
            count += step
    else:
        while (spent := time.perf_counter() - start) < seconds or not count:
            for _ in range(step):
                call()
            count += step
    return count, spent


async def measure(work: Work, sizes: Sizes, first: bool) -> float:
    """Units per second, after a warm-up: a long one the first time, a short one when the row is repeated."""
    warm_s = sizes.warm_s if first else sizes.again_s
    warm, spent = await _repeat(work.call, warm_s, 1)
    step = max(1, int(warm / max(spent, 1e-9) * sizes.measure_s / 20))
    count, spent = await _repeat(work.call, sizes.measure_s, step)
    return work.units * count / spent


class _Rows:
    """The open session and the open row of one runner."""

    def __init__(self, peer: Peer, sizes: Sizes) -> None:
        self._peer = peer
        self._sizes = sizes
        self._session = AsyncExitStack()
        self._session_open = False
        self._row = AsyncExitStack()
        self._open: tuple[str, Work] | None = None
        self._grouped: dict[tuple[str, int], float] = {}

    async def aclose(self) -> None:
        try:
            await self._close_row()
        finally:
            await self._session.aclose()

    async def value(self, name: str, repeat: int) -> float:
        for group in self._peer.groups:
            if name in group.names:
                return await self._of_group(group, name, repeat)
        first = self._open is None or self._open[0] != name
        if first:
            await self._close_row()
            await self._open_row(name)
        assert self._open is not None
        return await measure(self._open[1], self._sizes, first)

    async def _of_group(self, group: Group, name: str, repeat: int) -> float:
        if (name, repeat) not in self._grouped:
            for key, value in (await group.run()).items():
                self._grouped[key, repeat] = value
        return self._grouped[name, repeat]

    async def _open_row(self, name: str) -> None:
        setup = self._peer.alone.get(name)
        if setup is None:
            setup = self._peer.rows[name]
            if not self._session_open:
                await _enter(self._session, self._peer.session())
                self._session_open = True
        self._open = name, await _enter(self._row, setup())

    async def _close_row(self) -> None:
        self._open = None
        stack, self._row = self._row, AsyncExitStack()
        await stack.aclose()


async def _enter(stack: AsyncExitStack, manager: AbstractAsyncContextManager[Any] | AbstractContextManager[Any]) -> Any:
    if isinstance(manager, AbstractAsyncContextManager):
        return await stack.enter_async_context(manager)
    return stack.enter_context(manager)


def settings(argv: Sequence[str] | None = None) -> tuple[Sizes, bool]:
    """The sizes asked for, and whether this process is the fresh child that times its own session."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args(argv)
    return (QUICK if options.quick else Sizes()), options.fresh


def take_stdout() -> TextIO:
    """The real standard output, for the protocol alone; whatever else prints goes to standard error from now on."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def tell(stream: TextIO, message: Mapping[str, object]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


async def serve(peer: Peer, sizes: Sizes) -> None:
    """Answer requests from standard input until it ends."""
    stream = take_stdout()
    names = [*peer.rows, *peer.alone, *(name for group in peer.groups for name in group.names)]
    tell(stream, {"peer": peer.name, "version": peer.version, "python": sys.version.split()[0], "rows": names})
    rows = _Rows(peer, sizes)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            request = json.loads(line)
            name = request["row"]
            try:
                tell(stream, {"row": name, "value": await rows.value(name, request["repeat"])})
            except Exception as error:
                traceback.print_exc()
                tell(stream, {"row": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]})
    finally:
        await rows.aclose()


async def fresh_child(script: str, sizes: Sizes) -> dict[str, float]:
    """What a new interpreter measures about its own new session: it runs `script --fresh` and prints one JSON line."""
    argv = [sys.executable, script, "--fresh", *(["--quick"] if sizes is QUICK else [])]
    done = await asyncio.to_thread(subprocess.run, argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def import_seconds(modules: Sequence[str]) -> float:
    """How long a new interpreter takes to import these modules, its own start excluded, files in the page cache."""
    code = f"import time; t = time.perf_counter(); import {', '.join(modules)}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    return float(done.stdout)


def proportional_mb() -> float:
    """Proportional memory (Pss) of this process and everything that descends from it, in MB of 10^6 bytes."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stat:
                    parent = int(stat.read().rpartition(")")[2].split()[1])
            except OSError:  # it ended between the listing and the reading
                continue
            children.setdefault(parent, []).append(int(entry))
    total_kb = 0
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as rollup:
                total_kb += sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        except OSError:  # ended meanwhile, or not ours
            continue
    return total_kb * 1024 / 1e6
