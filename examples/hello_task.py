"""A task: a function that runs in a worker process.

python examples/hello_task.py [ADDRESS]
"""

from __future__ import annotations

import asyncio
import math
import sys

import actorlite as al


@al.remote
def count_primes(start: int, stop: int) -> int:
    """A plain function runs in a thread of a worker process: it may compute for as long as it likes."""
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(max(start, 2), stop))


@al.remote
async def greet(name: str, primes: int) -> str:
    """A coroutine function runs on a worker's event loop. Arguments that are references arrive as values."""
    await asyncio.sleep(0)
    return f"hello {name}, there are {primes} primes below 20000"


async def main(address: str) -> None:
    async with al.init(address):
        # `await f(x)` is a structured call: cancelling it cancels the work.
        print("primes below 100:", await count_primes(0, 100))

        # `f.remote(x)` returns a reference at once: the calls run side by side.
        halves = [count_primes.remote(0, 10_000), count_primes.remote(10_000, 20_000)]
        total = sum(await al.get(halves))

        # A reference may be an argument. `al.arg` gives it its value's type for the type checker.
        primes = await al.put(total)
        print(await greet(name="worker", primes=al.arg(primes)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "local"))
