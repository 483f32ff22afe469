"""Many light actors in one shared worker: how fast they are made and called, and what an idle one weighs.

python tests/benchmarks/light_actors.py [--count 100000]
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Sequence

import uvloop

import actorlite as al

CHUNK = 1000
GOAL_BYTES = 1536


def proportional_bytes() -> int:
    """This process's share of memory (Pss), after a collection."""
    gc.collect()
    with open("/proc/self/smaps_rollup", encoding="utf-8") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) * 1024


class Light(al.Actor, process="shared", num_cpus=0):
    def __init__(self, number: int) -> None:
        self.number = number

    async def get(self) -> int:
        return self.number

    async def pid(self) -> int:
        return os.getpid()


class Probe(al.Actor, process="shared", num_cpus=0):
    async def pid(self) -> int:
        return os.getpid()

    async def memory(self) -> int:
        return proportional_bytes()


def chunks(count: int) -> list[range]:
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


async def call_all(actors: Sequence[Light], numbers: range) -> None:
    values = await al.get([actors[number].get.remote() for number in numbers])  # type: ignore[attr-defined]
    assert values == list(numbers), "an actor answered with another's state"


async def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    count: int = parser.parse_args(argv).count
    async with al.init("local"):
        probe = Probe.remote()
        warm = [Light.remote(number) for number in range(CHUNK)]
        await call_all(warm, range(CHUNK))
        worker_before, driver_before = await probe.memory(), proportional_bytes()

        start = time.perf_counter()
        actors: list[Light] = []
        for numbers in chunks(count):
            made = [Light.remote(number) for number in numbers]
            actors += made
            await al.get([actor.get.remote() for actor in made])  # type: ignore[attr-defined]
        created = time.perf_counter()
        for numbers in chunks(count):
            await call_all(actors, numbers)
        called = time.perf_counter()

        worker_after, driver_after = await probe.memory(), proportional_bytes()
        pids = {await probe.pid(), *[await actor.pid() for actor in actors[:: max(1, count // 50)]]}
    idle_bytes = (worker_after - worker_before) / count
    print(f"{count} light actors, in {len(pids)} worker process")
    print(f"created and first called: {count / (created - start):,.0f} per second")
    print(f"called, {CHUNK} at a time: {count / (called - created):,.0f} per second")
    print(
        f"idle actor in the worker: {idle_bytes:.0f} bytes (goal: at most {GOAL_BYTES}), "
        f"handle in the driver: {(driver_after - driver_before) / count:.0f} bytes"
    )
    del warm


if __name__ == "__main__":
    uvloop.run(main())
