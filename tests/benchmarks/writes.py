"""Values that are large enough for the store and no larger: how many can be written and read per second.

    python tests/benchmarks/writes.py

Each rate is the median of `--repeats` rounds in one session; beside it how many copies by numpy of that size the same
process makes per second, to memory that was written to before, and how many empty round trips to the node.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy

import actorlite as al
from actorlite.wire.objects import AttachStore

SIZES = [128 << 10, 256 << 10, 512 << 10, 1 << 20]
WINDOW = 16
"""Of the rows that have several under way."""


class Plain(al.Actor):
    def __init__(self, size: int = 0) -> None:
        self.array = numpy.ones(size, dtype=numpy.uint8)

    def take(self, array: Any) -> int:
        return len(array)

    def make(self) -> Any:
        return self.array


class Coroutine(al.Actor):
    def __init__(self, size: int = 0) -> None:
        self.array = numpy.ones(size, dtype=numpy.uint8)

    async def take(self, array: Any) -> int:
        return len(array)

    async def make(self) -> Any:
        return self.array


Row = Callable[[], Awaitable[None]]
"""Does `WINDOW` of what it measures."""


def copies(array: Any) -> Row:
    target = numpy.ones_like(array)

    async def row() -> None:
        for _ in range(WINDOW):
            numpy.copyto(target, array)

    return row


def round_trips(runtime: Any) -> Row:
    async def row() -> None:
        for _ in range(WINDOW):
            await runtime.node_peer.request(next(runtime.hub.numbers), AttachStore())

    return row


def one_by_one(work: Callable[[], Awaitable[Any]]) -> Row:
    async def row() -> None:
        for _ in range(WINDOW):
            await work()

    return row


def together(work: Callable[[], Awaitable[Any]]) -> Row:
    async def row() -> None:
        await asyncio.gather(*[work() for _ in range(WINDOW)])

    return row


async def rows(runtime: Any, size: int) -> dict[str, Row]:
    array = numpy.ones(size, dtype=numpy.uint8)
    plain, coroutine = Plain.remote(size), Coroutine.remote(size)

    async def put() -> None:
        await al.put(array)

    async def put_and_get() -> None:
        await (await al.put(array))

    found = {
        "copy by numpy": copies(array),
        "round trip to the node": round_trips(runtime),
        "put, one at a time": one_by_one(put),
        f"put, {WINDOW} together": together(put),
        "put and get, one at a time": one_by_one(put_and_get),
        f"put and get, {WINDOW} together": together(put_and_get),
    }
    for name, actor in (("plain", plain), ("coroutine", coroutine)):

        async def take(actor: Any = actor) -> None:
            await actor.take.remote(array)

        async def make(actor: Any = actor) -> None:
            await actor.make.remote()

        found[f"{name} method, argument, one at a time"] = one_by_one(take)
        found[f"{name} method, argument, {WINDOW} together"] = together(take)
        found[f"{name} method, result, one at a time"] = one_by_one(make)
        found[f"{name} method, result, {WINDOW} together"] = together(make)
    return found


async def rate(row: Row, seconds: float) -> float:
    count = 0
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        await row()
        count += WINDOW
    return count / (now - started)


async def measure(sizes: list[int], repeats: int, seconds: float) -> None:
    async with al.init(num_cpus=4, object_store_memory=1 << 30) as session:
        for size in sizes:
            named = await rows(session.runtime, size)
            for row in named.values():
                await row()
            rates: dict[str, list[float]] = {name: [] for name in named}
            for _ in range(repeats):
                for name, row in named.items():
                    rates[name].append(await rate(row, seconds))
            print(f"{size >> 10} KiB")
            copy = statistics.median(rates["copy by numpy"])
            for name, found in rates.items():
                own = statistics.median(found)
                print(f"  {name:45} {own:10.0f} 1/s  {1e6 / own:8.1f} us  {own / copy:6.3f} of the copy")
            del named, row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default=",".join(str(size >> 10) for size in SIZES), help="KiB, with commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each row in each round")
    options = parser.parse_args()
    sizes = [int(size) << 10 for size in options.sizes.split(",")]
    asyncio.run(measure(sizes, options.repeats, options.seconds))


if __name__ == "__main__":
    main()
