"""An actor: an object that lives in a worker process and answers one call at a time.

python examples/counter_actor.py [ADDRESS]
"""

from __future__ import annotations

import asyncio
import sys

import actorlite as al


class Counter(al.Actor):
    """Counts words. Its calls start in the order in which one caller made them."""

    def __init__(self, start: int = 0) -> None:
        self._total = start
        self._counts: dict[str, int] = {}

    async def total(self) -> int:
        return self._total

    @al.method
    def add(self, text: str) -> int:
        """A plain method runs in the actor's own thread; `@al.method` types its calls, `.remote` included."""
        for word in text.split():
            self._counts[word] = self._counts.get(word, 0) + 1
            self._total += 1
        return self._total

    @al.method
    def most_common(self) -> tuple[str, int]:
        if not self._counts:
            raise LookupError("nothing has been counted")
        return max(self._counts.items(), key=lambda item: item[1])


async def main(address: str) -> None:
    async with al.init(address):
        counter = Counter.remote(start=10)  # a handle, typed as a Counter
        try:
            await counter.most_common()
        except LookupError as error:  # the exception that the actor raised, not a wrapper
            print("no words yet:", error)

        refs = [counter.add.remote(line) for line in ("a rose is", "a rose is", "a rose")]
        print("totals as the calls ran:", await al.get(refs))
        print("total:", await counter.total())
        print("most common:", await counter.most_common())

        # Light actors share one process.
        light = [Counter.options(process="shared").remote(start=n) for n in range(100)]
        totals = await asyncio.gather(*(each.total() for each in light))
        print("sum over 100 light actors:", sum(totals))

        await al.kill(counter)
        try:
            await counter.total()
        except al.errors.ActorDiedError:
            print("the counter is gone")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "local"))
