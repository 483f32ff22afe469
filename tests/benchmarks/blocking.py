"""Two loops that must stay responsive: a worker's, while a plain method blocks, and the driver's, while tasks burn CPU.

python tests/benchmarks/blocking.py [--seconds 5] [--tasks 8]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

import uvloop

import actorlite as al

TICK_S = 0.005
GOAL_LAG_S = 0.020


class Blocker(al.Actor, process="shared", num_cpus=0):
    @al.method
    def pid(self) -> int:
        return os.getpid()

    @al.method
    def block(self, seconds: float) -> None:
        time.sleep(seconds)


class Neighbour(al.Actor, process="shared", num_cpus=0):
    async def pid(self) -> int:
        return os.getpid()

    @al.method
    def plain(self) -> bytes:
        return b"ok"

    async def coroutine(self) -> bytes:
        return b"ok"


@al.remote
def burn(seconds: float) -> int:
    """Pure-Python work that uses this much processor time."""
    count = 0
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        count += 1
    return count


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def line(label: str, values: Sequence[float]) -> str:
    shown = [f"{name} {value * 1000:.2f} ms" for name, value in _points(values)]
    return f"{label}: {len(values)} readings, {', '.join(shown)}"


def _points(values: Sequence[float]) -> list[tuple[str, float]]:
    return [("p50", percentile(values, 0.5)), ("p99", percentile(values, 0.99)), ("max", max(values))]


async def call_until(done: asyncio.Event, method: Any) -> list[float]:
    """Call one at a time until the event; how long each call took."""
    took = []
    while not done.is_set():
        start = time.perf_counter()
        await method()
        took.append(time.perf_counter() - start)
    return took


async def blocked_worker(seconds: float) -> None:
    blocker, neighbours = Blocker.remote(), [Neighbour.remote() for _ in range(4)]
    pids = {await blocker.pid(), *[await neighbour.pid() for neighbour in neighbours]}
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        coroutine = group.create_task(call_until(done, neighbours[0].coroutine))
        plain = group.create_task(call_until(done, neighbours[1].plain))
        start = time.perf_counter()
        await blocker.block(seconds)
        blocked = time.perf_counter() - start
        done.set()
    print(f"a plain method blocked for {blocked:.2f} s; its {len(neighbours)} neighbours and it in {len(pids)} process")
    print(line("coroutine method of a neighbour, answered meanwhile", coroutine.result()))
    print(line("plain method of a neighbour, answered meanwhile", plain.result()))


async def lag_until(done: asyncio.Event) -> list[float]:
    """How late a timer of 5 ms fires, until the event."""
    late = []
    while not done.is_set():
        start = time.perf_counter()
        await asyncio.sleep(TICK_S)
        late.append(max(0.0, time.perf_counter() - start - TICK_S))
    return late


async def busy_driver(tasks: int, seconds: float) -> None:
    await burn(0)
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        lag = group.create_task(lag_until(done))
        counts = await al.get([burn.remote(seconds) for _ in range(tasks)])
        done.set()
    late = lag.result()
    print(line(f"loop lag of the driver while {len(counts)} tasks of {seconds:g} s ran", late))
    verdict = "ok" if percentile(late, 0.99) < GOAL_LAG_S else "MISSED"
    print(f"goal: p99 under {GOAL_LAG_S * 1000:g} ms: {verdict}")


async def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the plain method blocks")
    parser.add_argument("--tasks", type=int, default=8, help="CPU-bound tasks")
    parser.add_argument("--task-seconds", type=float, default=1.0, help="how long each of them runs")
    parser.add_argument(
        "--num-cpus", type=int, help="of the session; default: one per task, so that they all run at once"
    )
    options = parser.parse_args(argv)
    async with al.init("local", num_cpus=options.num_cpus or options.tasks):
        await blocked_worker(options.seconds)
        await busy_driver(options.tasks, options.task_seconds)


if __name__ == "__main__":
    uvloop.run(main())
