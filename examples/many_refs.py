"""Many references at once: results in order, as they come, the first few, and under a deadline.

python examples/many_refs.py [ADDRESS]
"""

from __future__ import annotations

import asyncio
import sys

import actorlite as al


@al.remote
def square(n: int) -> int:
    return n * n


class Gate(al.Actor, max_concurrency=100):
    """Calls wait here until the gate opens. Waiting beside each other is asked for by `max_concurrency`."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()

    @al.method
    async def open(self) -> None:
        self._opened.set()

    @al.method
    async def pass_through(self, n: int) -> int:
        await self._opened.wait()
        return n


async def main(address: str) -> None:
    async with al.init(address):
        refs = [square.remote(n) for n in range(100)]
        print("in order:", (await al.get(refs))[:5])

        total = 0
        async for ref in al.as_completed([square.remote(n) for n in range(100)]):
            total += await ref
        print("as they come:", total)

        # References are awaitables: asyncio's own tools take them.
        print("gathered:", await asyncio.gather(*(square.remote(n) for n in range(5))))

        gate = Gate.remote()
        waiting = [gate.pass_through.remote(n) for n in range(3)]
        ready, pending = await al.wait([square.remote(7), *waiting], num_returns=1)
        print("first:", await ready[0], "and", len(pending), "still wait")
        try:
            await al.get(waiting, timeout=0.05)
        except TimeoutError:
            print("nothing came through the closed gate in time")
        await gate.open()
        print("opened:", await al.get(waiting))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "local"))
