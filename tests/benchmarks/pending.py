"""Memory per pending call at its caller and per queued message at its callee, and of many pipelined calls.

python tests/benchmarks/pending.py [--calls 100000] [--pipelined 1000000]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import threading
import time

import actorlite as al


def resident_kib() -> int:
    """Resident memory of this process."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


class Sink(al.Actor, concurrency_groups={"probe": 1}, max_pending_calls=-1):
    def __init__(self) -> None:
        self.go = threading.Event()

    @al.method
    def block(self) -> None:
        self.go.wait()

    async def take(self, value: int) -> int:
        return value

    @al.method(concurrency_group="probe")
    async def resident(self) -> int:
        return resident_kib()

    @al.method(concurrency_group="probe")
    async def release(self) -> None:
        self.go.set()


@al.remote(num_cpus=0)
async def probe(sink: Sink, release: bool) -> int:
    """From a process of its own: what the driver keeps for a full mailbox is sent in order, whatever its group."""
    if release:
        await sink.release()
    return await sink.resident()


async def queued(calls: int, mailbox: int) -> tuple[float, float]:
    """Bytes per call (at the caller, at the callee) with `calls` behind one that blocks."""
    sink = Sink.options(mailbox=mailbox).remote()
    blocked = sink.block.remote()
    callee, caller = await probe(sink, False), resident_kib()
    refs = [sink.take.remote(n) for n in range(calls)]
    await asyncio.sleep(1)
    after = await probe(sink, False)
    at_caller, at_callee = resident_kib() - caller, after - callee
    await probe(sink, True)
    await al.get([blocked, *refs])
    await al.kill(sink)
    return at_caller * 1024 / calls, at_callee * 1024 / min(calls, mailbox)


async def pipelined(calls: int, most: int) -> tuple[float, int, int]:
    """Calls per second, and how much the caller and the callee have grown after the first tenth."""
    sink = Sink.options(max_pending_calls=most).remote()
    caller = callee = 0
    began = time.perf_counter()
    for n in range(calls):
        ref = await sink.take.submit(n)
        if n == calls // 10:
            caller, callee = resident_kib(), await probe(sink, False)
    await ref
    took = time.perf_counter() - began
    return calls / took, resident_kib() - caller, await sink.resident() - callee


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--pipelined", type=int, default=1_000_000)
    arguments = parser.parse_args()
    async with al.init("local", num_cpus=2):
        caller, callee = await queued(arguments.calls, 10 * arguments.calls)
        kept, _ = await queued(arguments.calls, 100)
        rate, grown, callee_grown = await pipelined(arguments.pipelined, 10_000)
    print(f"{'bytes per pending call, sent (caller)':55}{caller:10.0f}")
    print(f"{'bytes per queued message (callee)':55}{callee:10.0f}")
    print(f"{'bytes per pending call, kept at the caller':55}{kept:10.0f}")
    print(f"{f'{arguments.pipelined} calls by submit, at most 10000 pending: per s':55}{rate:10.0f}")
    print(f"{'  caller grew after the first tenth by KiB':55}{grown:10d}")
    print(f"{'  callee grew after the first tenth by KiB':55}{callee_grown:10d}")


if __name__ == "__main__":
    asyncio.run(main())
