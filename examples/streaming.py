"""Streams: generators that run elsewhere and are read item by item, by tasks, actors and plain threads."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Iterator

import actorlite as al


@al.remote
def countdown(start: int) -> Iterator[int]:
    """A plain generator: runs in a thread of a worker, and waits while 16 items were not read."""
    yield from range(start, 0, -1)


class Model(al.Actor):
    def __init__(self) -> None:
        self.closed = 0

    async def tokens(self, prompt: str) -> AsyncIterator[str]:
        """An async generator: runs on the worker's loop."""
        try:
            for word in itertools.cycle(prompt.split()):  # without an end
                yield word.upper()
        except (GeneratorExit, asyncio.CancelledError):
            self.closed += 1  # nobody reads any more
            raise

    async def times_closed(self) -> int:
        return self.closed


@al.remote
async def total(numbers: al.ObjectRefStream[int]) -> int:
    """Reads a stream that another process called."""
    return sum([await ref async for ref in numbers])


@al.remote
def fragile() -> Iterator[str]:
    yield "first"
    raise ValueError("no second one")


async def main(address: str) -> None:
    async with al.init(address):
        print("values:", [value async for value in countdown(5)])
        print("references:", [await ref async for ref in countdown.remote(3)])

        model = Model.remote()
        async for token in model.tokens("a stream of many words"):
            print("token:", token)
            if token == "OF":
                break  # closes the generator
        print("closed:", await model.times_closed())

        print("read elsewhere:", await total(countdown.remote(100)))

        try:
            async for value in fragile():
                print("value:", value)
        except ValueError as error:
            print("error:", error)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "local"))
