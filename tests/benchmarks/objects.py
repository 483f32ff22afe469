"""Large values: `put` and `get` beside a plain memory copy, and beside Ray, in one run.

    python tests/benchmarks/objects.py --against PYTHON

`PYTHON` is an interpreter of another environment with Ray and numpy installed. Each of `--repeats` rounds starts one
process for each of: actorlite with one copying thread, actorlite as it is, Ray. Each of them first copies the array
with numpy, in the same process, so that every rate stands beside the memory's own at that moment. Medians are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

SIZES = [1 << power for power in range(10, 31, 2)]
PUTS = 4
GETS = 5
WORKERS = 8


def memory_copies(array: Any) -> list[float]:
    """Seconds, of copies to memory that was written to before."""
    import numpy

    target = numpy.empty_like(array)
    numpy.copyto(target, array)
    seconds = []
    for _ in range(PUTS):
        started = time.perf_counter()
        numpy.copyto(target, array)
        seconds.append(time.perf_counter() - started)
    return seconds


async def measure_actorlite(size: int, threads: int) -> dict[str, Any]:
    import numpy

    import actorlite as al
    from actorlite.store import client

    if threads:
        client.COPY_THREADS = threads
    array = numpy.arange(size // 8)
    copies = memory_copies(array)
    async with al.init(num_cpus=2, object_store_memory=3 * size):
        puts = []
        for place in range(PUTS + 2):
            started = time.perf_counter()
            ref = await al.put(array)
            if place > 1:  # the first two write to memory that the node never used
                puts.append(time.perf_counter() - started)
        gets = []
        for _ in range(GETS):
            ref = await al.put(array)
            started = time.perf_counter()
            value = await ref
            gets.append(time.perf_counter() - started)
        assert value[-1] == array[-1]
        del ref, value
        table = {} if threads else dict([await get_of(each) for each in SIZES])
    return {"copies": copies, "puts": puts, "gets": gets, "table": table}


async def get_of(size: int) -> tuple[int, float]:
    """Seconds to get an array of so many bytes for the first time."""
    import numpy

    import actorlite as al

    seconds = []
    for _ in range(GETS):
        ref = await al.put(numpy.zeros(size, dtype=numpy.uint8))
        started = time.perf_counter()
        value = await ref
        seconds.append(time.perf_counter() - started)
        assert value.nbytes == size
        del ref, value
    return size, statistics.median(seconds)


def measure_ray(size: int) -> dict[str, Any]:
    import numpy
    import ray

    array = numpy.arange(size // 8)
    copies = memory_copies(array)
    ray.init(num_cpus=2, object_store_memory=3 * size, include_dashboard=False, logging_level="error")
    puts = []
    for place in range(PUTS + 2):
        started = time.perf_counter()
        ref = ray.put(array)
        if place > 1:
            puts.append(time.perf_counter() - started)
    gets = []
    for _ in range(GETS):
        ref = ray.put(array)
        started = time.perf_counter()
        value = ray.get(ref)
        gets.append(time.perf_counter() - started)
    assert value[-1] == array[-1]
    ray.shutdown()
    return {"copies": copies, "puts": puts, "gets": gets, "table": {}}


def resident_kib(pid: int) -> tuple[int, int]:
    """Proportional and anonymous memory of a process."""
    found = {"Pss": 0, "Anonymous": 0}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0])
    return found["Pss"], found["Anonymous"]


async def measure_sharing(size: int) -> tuple[float, float]:
    """GiB by which all processes together grow when `WORKERS` actors read an array, and the array's own."""
    import os

    import numpy

    import actorlite as al

    class Reader(al.Actor):
        def pid(self) -> int:
            return os.getpid()

        def read(self, array: Any) -> float:
            self.array = array
            return float(array.sum())

    async with al.init(num_cpus=WORKERS, object_store_memory=2 * size) as session:
        readers = [Reader.remote() for _ in range(WORKERS)]
        pids = [os.getpid(), session.node_pid, *await al.get([each.pid.remote() for each in readers])]
        array = numpy.ones(size // 8)
        before = sum(resident_kib(pid)[0] for pid in pids)
        ref = await al.put(array)
        assert set(await al.get([each.read.remote(ref) for each in readers])) == {size / 8}
        after = sum(resident_kib(pid)[0] for pid in pids)
    return (after - before) / 2**20, size / 2**30


def rounds(python: str, size: int, repeats: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in range(repeats):
        kinds = [("one", sys.executable, ["--one-thread"]), ("all", sys.executable, [])]
        if python:
            kinds.append(("ray", python, ["--ray"]))
        for name, interpreter, options in kinds:
            print(f"round {number + 1}/{repeats}: {name}", file=sys.stderr)
            command = [interpreter, __file__, "--child", "--size", str(size), *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            yield name, json.loads(done.stdout.strip().splitlines()[-1])


def report(python: str, size: int, repeats: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {"one": [], "all": [], "ray": []}
    for name, each in rounds(python, size, repeats):
        found[name].append(each)

    def rate(name: str, what: str) -> float:
        return size / 1e9 / statistics.median(value for each in found[name] for value in each[what])

    memcpy = statistics.median([rate(name, "copies") for name in found if found[name]])
    print(f"array of {size / 1e6:g} MB; numpy copy {memcpy:.2f} GB/s")
    ray = rate("ray", "puts") if python else 0.0
    for name, label in (("one", "put, one copying thread"), ("all", "put"), ("ray", "put by Ray")):
        if found[name]:
            own = rate(name, "puts")
            beside = f", {own / ray:.2f} x Ray" if ray and name != "ray" else ""
            print(f"{label:25} {own:6.2f} GB/s, {own / rate(name, 'copies'):.2f} of the copy{beside}")
    for name, label in (("all", "get"), ("ray", "get by Ray")):
        if found[name]:
            seconds = statistics.median(value for each in found[name] for value in each["gets"])
            print(f"{label:25} {seconds * 1e3:6.3f} ms")
    print("first get of an array of")
    for each in SIZES:
        seconds = statistics.median(round["table"][str(each)] for round in found["all"])
        print(f"{each:14} bytes {seconds * 1e3:8.3f} ms")
    grown, own = asyncio.run(measure_sharing(1 << 30))
    print(f"an array of {own:.2f} GiB read by {WORKERS} workers: all processes together grew by {grown:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--against", default="", metavar="PYTHON", help="an interpreter with Ray")
    parser.add_argument("--size", type=int, default=800_000_000, help="bytes of the array (default 800 MB)")
    parser.add_argument("--repeats", type=int, default=3)
    for hidden in ("--child", "--one-thread", "--ray"):
        parser.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.child:
        report(options.against, options.size, options.repeats)
    elif options.ray:
        print(json.dumps(measure_ray(options.size)))
    else:
        print(json.dumps(asyncio.run(measure_actorlite(options.size, int(options.one_thread)))))


if __name__ == "__main__":
    main()
