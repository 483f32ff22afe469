"""A large value from one node to another, beside a plain memory copy, in one loop.

    python tests/benchmarks/transfer.py [--mib 256] [--repeats 5]

Two nodes in this process, over each transport. Both ends share one core and one loop here: on two machines each has its
own. Printed are medians: bytes per second of the first copy (memory that the node never wrote to) and of later ones.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from typing import Any

import numpy
import uvloop

from actorlite.testing import Cluster, cluster

MIB = 1 << 20


def memory_rate(array: Any) -> float:
    target = numpy.empty_like(array)
    numpy.copyto(target, array)
    started = time.perf_counter()
    numpy.copyto(target, array)
    return float(array.nbytes / (time.perf_counter() - started))


async def measure(scheme: str, mib: int, repeats: int) -> tuple[float, float]:
    array = numpy.arange(mib * MIB // 8)
    rates = []
    async with cluster(nodes=2, scheme=scheme, object_store_memory=2 * array.nbytes + 64 * MIB) as pair:
        async with AsyncExitStack() as stack:
            writer = await pair.connect(pair.nodes[1], stack)
            ref = await writer.put(array)
            rates += [array.nbytes / await _seconds(pair, ref) for _ in range(repeats + 1)]
    return rates[0], statistics.median(rates[1:])


async def _seconds(pair: Cluster, ref: Any) -> float:
    stored = ref._stored.stored
    started = time.perf_counter()
    encoded = await pair.session.runtime.stored.client.open(stored)
    took = time.perf_counter() - started
    del encoded
    store: Any = pair.nodes[0].node.store
    while store._store.table.objects[stored.key].pins:
        await asyncio.sleep(0)
    store._store.table._evict(store._store.table.objects[stored.key])
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    copy = memory_rate(numpy.arange(options.mib * MIB // 8))
    print(f"numpy copy          {copy / 1e9:6.2f} GB/s")
    for scheme in ("inproc", "uds", "tcp"):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            first, later = runner.run(measure(scheme, options.mib, options.repeats))
        print(f"{scheme:8} first     {first / 1e9:6.2f} GB/s  {first / copy:5.2f} of the copy")
        print(f"{scheme:8} later     {later / 1e9:6.2f} GB/s  {later / copy:5.2f} of the copy")


if __name__ == "__main__":
    main()
