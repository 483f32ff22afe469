"""The object store for a long time: values are put, read, passed, kept, dropped and spilled, and workers are killed.

    python tests/benchmarks/soak.py --minutes 30

The values that are alive have three times the bytes of the store. Every value is compared with what it must be whenever
it is read. A line a minute shows what the store holds, how scattered its free memory is, and what the processes take.
In the end everything is dropped, and the store must be empty. Exits with 1 when a value was lost or wrong, or a byte is
left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy
import numpy.typing

import actorlite as al
from actorlite.errors import ActorError, WorkerCrashedError

MiB = 1 << 20
STORE_BYTES = 64 * MiB
LIVE_BYTES = 3 * STORE_BYTES
VIEW_BYTES = STORE_BYTES // 8
SMALLEST, LARGEST = 100 * 1024, 6 * MiB
USERS = 4
KEEPERS = 2
BURST = 8
EMPTY_WITHIN_S = 30.0

Array = numpy.typing.NDArray[numpy.int64]


def content(seed: int, size: int) -> Array:
    """The value of a seed: no two have an element in common."""
    return numpy.arange(size // 8, dtype=numpy.int64) + (seed << 32)


def is_right(array: Array, seed: int, size: int) -> bool:
    return array.nbytes == size // 8 * 8 and bool((array == content(seed, size)).all())


@al.remote(max_retries=5)
def make(seed: int, size: int) -> Array:
    return content(seed, size)


@al.remote(max_retries=5)
def check(array: Array, seed: int, size: int) -> bool:
    return is_right(array, seed, size)


@al.remote(max_retries=5)
async def check_all(values: list[tuple[al.ObjectRef[Array], int, int]]) -> bool:
    return all([is_right(await ref, seed, size) for ref, seed, size in values])


@al.remote
def produce(seed: int, size: int, count: int) -> Iterator[Array]:
    for number in range(count):
        yield content(seed + number, size)


class Keeper(al.Actor):
    """Holds a value for a while."""

    def __init__(self) -> None:
        self.kept: tuple[Array, int, int] | None = None

    def pid(self) -> int:
        return os.getpid()

    def keep(self, array: Array, seed: int, size: int) -> bool:
        was_right = self.kept is None or is_right(*self.kept)
        self.kept = (array, seed, size)
        return was_right and is_right(*self.kept)


@dataclass
class Value:
    ref: al.ObjectRef[Array]
    seed: int
    size: int


@dataclass
class Soak:
    """What the users of one run share."""

    ends: float
    random: random.Random
    values: list[Value] = field(default_factory=list)
    views: list[tuple[Array, int, int]] = field(default_factory=list)
    keepers: list[tuple[Keeper, int]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    seeds: int = 0

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def expect(self, right: bool, what: str) -> None:
        if not right:
            self.wrong.append(what)

    def any_value(self) -> Value | None:
        return self.random.choice(self.values) if self.values else None

    async def run(self) -> None:
        self.keepers = [await new_keeper() for _ in range(KEEPERS)]
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(USERS):
                    group.create_task(self.use())
        finally:
            for view in self.views:
                self.expect(is_right(*view), f"a view of seed {view[1]}")
            self.values.clear()
            self.views.clear()
            for keeper, _ in self.keepers:
                await al.kill(keeper)
            self.keepers.clear()

    async def use(self) -> None:
        actions = [self.put] * 6 + [self.get] * 8 + [self.drop] * 2 + [self.make] * 3 + [self.check] * 4
        actions += [self.check_some, self.look, self.look, self.keep, self.keep, self.burst, self.stream]
        while time.monotonic() < self.ends and not self.wrong:
            action = self.kill if self.random.random() < 0.003 else self.random.choice(actions)
            self.count(action.__name__)
            try:
                await action()
            except (WorkerCrashedError, ActorError):
                self.count("hit by a kill")
            while sum(value.size for value in self.values) > LIVE_BYTES:
                await self.drop()

    def new(self) -> tuple[int, int]:
        self.seeds += 1
        return self.seeds, int(SMALLEST * (LARGEST / SMALLEST) ** self.random.random())

    async def put(self) -> None:
        seed, size = self.new()
        self.values.append(Value(await al.put(content(seed, size)), seed, size))

    async def make(self) -> None:
        seed, size = self.new()
        ref = make.remote(seed, size)
        await ref.ready()
        if ref.exception() is None:
            self.values.append(Value(ref, seed, size))

    async def burst(self) -> None:
        """Several small ones in a row: room for them is leased ahead."""
        for _ in range(BURST):
            seed, size = self.new()[0], self.random.randrange(SMALLEST, 4 * SMALLEST)
            self.values.append(Value(await al.put(content(seed, size)), seed, size))

    async def stream(self) -> None:
        """Items of a generator; some are left where they are."""
        seed, size = self.seeds + 1, self.random.randrange(SMALLEST, MiB)
        self.seeds += BURST
        async with produce.remote(seed, size, BURST) as items:
            async for ref in items:
                self.expect(is_right(await ref, seed, size), f"item {seed} of a stream")
                seed += 1
                if self.random.random() < 1 / BURST:
                    break

    async def get(self) -> None:
        if (value := self.any_value()) is not None:
            self.expect(is_right(await value.ref, value.seed, value.size), f"seed {value.seed}")

    async def check(self) -> None:
        if (value := self.any_value()) is not None:
            self.expect(await check(value.ref, value.seed, value.size), f"seed {value.seed} in a task")

    async def check_some(self) -> None:
        some = [(each.ref, each.seed, each.size) for each in self.random.sample(self.values, min(3, len(self.values)))]
        self.expect(await check_all(some), "one of several in a task")

    async def look(self) -> None:
        """Keep a view, of part of a value, and let the oldest go."""
        if (value := self.any_value()) is not None:
            self.views.append((await value.ref, value.seed, value.size))
        while sum(size for _, _, size in self.views) > VIEW_BYTES:
            view = self.views.pop(0)
            self.expect(is_right(*view), f"a view of seed {view[1]}")

    async def keep(self) -> None:
        if (value := self.any_value()) is not None and self.keepers:
            keeper, _ = self.random.choice(self.keepers)
            self.expect(await keeper.keep(value.ref, value.seed, value.size), f"seed {value.seed} in an actor")

    async def drop(self) -> None:
        if self.values:
            self.values.pop(self.random.randrange(len(self.values)))

    async def kill(self) -> None:
        keeper, pid = self.keepers.pop(self.random.randrange(len(self.keepers))) if self.keepers else (None, 0)
        if keeper is not None:
            os.kill(pid, signal.SIGKILL)
            self.keepers.append(await new_keeper())


async def new_keeper() -> tuple[Keeper, int]:
    keeper = Keeper.remote()
    return keeper, await keeper.pid()


def resident_mb(pids: list[int]) -> float:
    """Anonymous memory of the processes: the store is none of it."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous"))
        except OSError:
            pass  # it was killed meanwhile
    return total / 1024


async def watch(session: al.Session, soak: Soak) -> None:
    started = time.monotonic()
    while True:
        await asyncio.sleep(min(60.0, max(soak.ends - started, 1) / 5))
        memory = await al.memory()
        pids = [os.getpid(), session.node_pid]
        print(
            f"{(time.monotonic() - started) / 60:5.1f} min: {sum(soak.counts.values())} actions, {len(soak.values)} "
            f"values, store {memory.used / MiB:.0f} MiB, on disk {memory.spilled / MiB:.0f} MiB, fragmentation "
            f"{memory.fragmentation:.2f}, driver and node {resident_mb(pids):.0f} MB",
            flush=True,
        )


async def empty() -> al.MemoryInfo:
    """What is left when everything was dropped."""
    ends = time.monotonic() + EMPTY_WITHIN_S
    while True:
        gc.collect()
        memory = await al.memory()
        if not (memory.used or memory.spilled or memory.objects) or time.monotonic() > ends:
            return memory
        await asyncio.sleep(0.05)


async def run(minutes: float, seed: int) -> int:
    async with al.init("local", num_cpus=3, object_store_memory=STORE_BYTES) as session:
        soak = Soak(time.monotonic() + minutes * 60, random.Random(seed))
        watcher = asyncio.create_task(watch(session, soak))
        try:
            await soak.run()
        finally:
            watcher.cancel()
        memory = await empty()
    print("actions:", ", ".join(f"{name} {count}" for name, count in sorted(soak.counts.items())))
    print(f"wrong: {soak.wrong or 'nothing'}; left in the store: {memory.objects or 'nothing'}")
    return 1 if soak.wrong or memory.objects or memory.used or memory.spilled else 0


def main() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return asyncio.run(run(options.minutes, options.seed))


if __name__ == "__main__":
    raise SystemExit(main())
