"""A numpy pipeline over worker processes that copies nothing it need not.

    python examples/shared_array.py            # 256 MB, on worker processes
    python examples/shared_array.py --address inproc:// --megabytes 8

An image stack is put into the node's object store once. Each stage reads views of what the stage before it made, in
whichever process it runs, and only what it computes is written: the program prints how much that was, and how much
would have been copied if every task had got its arguments, and given its result, in a message.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import numpy as np
import numpy.typing as npt

import actorlite as al

Floats = npt.NDArray[np.float32]


@al.remote
def normalise(stack: Floats, first: int, last: int) -> Floats:
    """Images `first` to `last` with mean 0 and deviation 1: new data, written once, into the store."""
    part = stack[first:last]
    centred: Floats = part - part.mean(axis=(1, 2), keepdims=True)
    centred /= part.std(axis=(1, 2), keepdims=True)
    return centred


@al.remote
def spectrum(part: Floats) -> Floats:
    """The mean power spectrum: small, so it travels in the answer."""
    return np.asarray(np.abs(np.fft.rfft2(part)).mean(axis=0)[:8, :8], dtype=np.float32)


class Statistics(al.Actor):
    """Keeps views of all parts that it has seen: they cost it no memory."""

    def __init__(self) -> None:
        self.parts: list[Floats] = []

    @al.method
    def add(self, part: Floats) -> tuple[int, bool]:
        """Images seen so far, and whether the part may be written to."""
        self.parts.append(part)
        return sum(len(each) for each in self.parts), part.flags.writeable

    @al.method
    def extremes(self) -> tuple[float, float]:
        return min(float(each.min()) for each in self.parts), max(float(each.max()) for each in self.parts)

    @al.method
    def own_bytes(self) -> int:
        """What this process has for itself."""
        with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
            return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous")) * 1024


async def pipeline(megabytes: float, parts: int) -> dict[str, Any]:
    side = 256
    images = max(int(megabytes * 1e6 / (side * side * 4)) // parts, 1) * parts
    stack = np.random.default_rng(1).random((images, side, side), dtype=np.float32)
    started = time.perf_counter()
    whole = await al.put(stack)
    put_s = time.perf_counter() - started

    statistics = Statistics.remote()
    size = images // parts
    normalised = [normalise.remote(al.arg(whole), n * size, (n + 1) * size) for n in range(parts)]
    spectra = [spectrum.remote(al.arg(part)) for part in normalised]
    seen = await al.get([statistics.add.remote(al.arg(part)) for part in normalised])
    low, high = await statistics.extremes()
    mean_spectrum = np.mean(await al.get(spectra), axis=0)
    elapsed_s = time.perf_counter() - started

    memory = await al.memory()
    # Every task that normalises would get the whole stack; the parts would come back, and go to two readers.
    in_messages = stack.nbytes * (parts + 3)
    return {
        "images": images,
        "put_s": put_s,
        "elapsed_s": elapsed_s,
        "written": sum(each.size for each in memory.objects),
        "in_messages": in_messages,
        "seen": seen[-1][0],
        "writeable": any(each[1] for each in seen),
        "range": (low, high),
        "spectrum": float(mean_spectrum[0, 1]),
        "actor_bytes": await statistics.own_bytes(),
        "array_bytes": stack.nbytes,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description="A numpy pipeline over worker processes without copies")
    parser.add_argument("--address", default=None, help='"local" (default), "inproc://", "auto" or "uds://..."')
    parser.add_argument("--megabytes", type=float, default=256)
    parser.add_argument("--parts", type=int, default=8)
    options = parser.parse_args()
    async with al.init(options.address):
        found = await pipeline(options.megabytes, options.parts)
    mb = 1e6
    print(f"{found['images']} images, {found['array_bytes'] / mb:.0f} MB, in {options.parts} parts")
    print(f"put: {found['put_s']:.2f} s; the whole pipeline: {found['elapsed_s']:.2f} s")
    print(f"written to the store: {found['written'] / mb:.0f} MB (the stack once, the normalised parts once)")
    print(f"in messages {found['in_messages'] / mb:.0f} MB would have been copied")
    print(f"the actor holds views of {found['seen']} images, writeable: {found['writeable']}")
    print(f"its process has {found['actor_bytes'] / mb:.0f} MB of its own")
    print(f"values from {found['range'][0]:.2f} to {found['range'][1]:.2f}; spectrum {found['spectrum']:.1f}")


if __name__ == "__main__":
    asyncio.run(main())
