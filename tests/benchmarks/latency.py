"""How long a call takes while an actor is half busy: calls at random moments, at half the rate that it can take.

python tests/benchmarks/latency.py [--seconds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

import actorlite as al

CALLERS = 32
"""Calls under way at a time while the rate is measured that the actor can take."""


class Answering(al.Actor, num_cpus=0):
    async def coroutine(self) -> bytes:
        return b"ok"

    @al.method
    def plain(self) -> bytes:
        return b"ok"


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


async def rate_of(method: Any, seconds: float) -> float:
    """Calls per second with `CALLERS` callers that each await one call after the other."""
    until = time.perf_counter() + seconds
    calls = 0

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < until:
            await method()
            calls += 1

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return calls / (time.perf_counter() - start)


async def latencies_at(method: Any, rate: float, seconds: float) -> list[float]:
    """Seconds from the moment that a call was due, so that a call that starts late counts as slow."""
    rng = random.Random(1)
    loop = asyncio.get_running_loop()
    took: list[float] = []
    running: set[asyncio.Task[None]] = set()

    async def one(due: float) -> None:
        await method()
        took.append(time.perf_counter() - due)

    due = time.perf_counter()
    until = due + seconds
    while (due := due + rng.expovariate(rate)) < until:
        while (rest := due - time.perf_counter()) > 0:
            await asyncio.sleep(rest if rest > 0.001 else 0)
        task = loop.create_task(one(due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return took


async def measure(seconds: float) -> dict[str, dict[str, float]]:
    found = {}
    async with al.init("local", num_cpus=2):
        actor = Answering.remote()
        for name in ("coroutine", "plain"):
            method = getattr(actor, name)
            await rate_of(method, 0.5)
            rate = await rate_of(method, seconds / 2)
            took = await latencies_at(method, rate / 2, seconds)
            found[name] = {
                "rate_per_s": rate,
                "p50_ms": percentile(took, 0.5) * 1e3,
                "p99_ms": percentile(took, 0.99) * 1e3,
                "calls": len(took),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, for each kind of method")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    options = parser.parse_args()
    found = uvloop.run(measure(options.seconds))
    for name, row in found.items():
        print(
            f"{name:10} {row['rate_per_s']:8.0f} calls/s with {CALLERS} callers; at half of that: "
            f"p50 {row['p50_ms']:.3f} ms, p99 {row['p99_ms']:.3f} ms ({row['calls']:.0f} calls)"
        )
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
