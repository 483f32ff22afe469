"""How soon the end of a call is noticed: a circle of calls is refused, and an abandoned generator is closed.

python tests/benchmarks/promptness.py [--repeats 20]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

import actorlite as al
from actorlite.testing import local_cluster

PLACES = ("inproc", "uds", "tcp", "processes")
CLOCK = "<d"


def tell_the_time(path: str) -> None:
    with open(path, "wb", buffering=0) as pipe:
        pipe.write(struct.pack(CLOCK, time.monotonic()))


class Asking(al.Actor, num_cpus=0):
    async def ask(self, others: list[Any]) -> float:
        """Call through all others; how long it took until the last call was refused, which closes the circle."""
        if len(others) > 1:
            seconds: float = await others[0].ask(others[1:])
            return seconds
        start = time.perf_counter()
        try:
            await others[0].ask([])
        except al.errors.CallCycleError:
            return time.perf_counter() - start
        raise AssertionError("the circle was not refused")


class Streaming(al.Actor, num_cpus=0):
    async def items(self, path: str) -> AsyncIterator[int]:
        try:
            for n in range(10**9):
                yield n
        finally:
            tell_the_time(path)

    @al.method
    def plain_items(self, path: str) -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            tell_the_time(path)


@asynccontextmanager
async def session(place: str) -> AsyncIterator[None]:
    if place == "processes":
        async with al.init("local", num_cpus=2):
            yield
    else:
        async with local_cluster(scheme=place):
            yield


async def closed_after(method: Any, repeats: int) -> list[float]:
    """Seconds from leaving the loop over a stream until the generator's `finally` has run."""
    took = []
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "pipe")
        os.mkfifo(path)
        end = os.open(path, os.O_RDWR)
        try:
            for _ in range(repeats):
                async with aclosing(method(path)) as items:
                    async for _item in items:
                        break
                    left = time.monotonic()
                said: bytes = await asyncio.to_thread(os.read, end, struct.calcsize(CLOCK))
                took.append(struct.unpack(CLOCK, said)[0] - left)
        finally:
            os.close(end)
    return took


def line(place: str, what: str, seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return f"{place:9}  {what:34}  median {ordered[len(ordered) // 2] * 1e3:7.3f} ms  most {ordered[-1] * 1e3:7.3f} ms"


async def measure(place: str, repeats: int) -> None:
    async with session(place):
        a, b, streaming = Asking.remote(), Asking.remote(), Streaming.remote()
        await asyncio.gather(al.ready(a), al.ready(b), al.ready(streaming))
        print(line(place, "circle A -> A refused", [await a.ask([a]) for _ in range(repeats)]))
        print(line(place, "circle A -> B -> A refused", [await a.ask([b, a]) for _ in range(repeats)]))
        print(line(place, "abandoned async generator closed", await closed_after(streaming.items, repeats)))
        print(line(place, "abandoned plain generator closed", await closed_after(streaming.plain_items, repeats)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    for place in PLACES:
        uvloop.run(measure(place, repeats))


if __name__ == "__main__":
    main()
