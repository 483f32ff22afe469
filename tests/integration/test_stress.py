"""Everything at once, with random timing from a seed: every wait ends, every CPU comes back, nothing is left."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import ActorliteError

pytestmark = pytest.mark.asyncio

STEPS = 150
EXPECTED = (ActorliteError, asyncio.CancelledError, TimeoutError, ValueError)


@al.remote
async def leaf(x: int) -> int:
    return x


@al.remote
def plain(x: int) -> int:
    return x


@al.remote
async def slow(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@al.remote
async def nested(x: int) -> int:
    return sum(await asyncio.gather(leaf.remote(x), plain(x)))


@al.remote
def nested_plain(refs: list[al.ObjectRef[int]]) -> int:
    return sum(al.sync.get([*refs, leaf.remote(1)]))


@al.remote
def fail() -> None:
    raise ValueError("mine")


class Actor(al.Actor):
    def __init__(self) -> None:
        self.refs: list[Any] = []

    async def call(self, x: int) -> int:
        await asyncio.sleep(0)
        return x

    @al.method
    def plain(self, x: int) -> int:
        return x

    async def keep(self, refs: list[Any]) -> int:
        self.refs = refs
        return len(refs)

    async def give(self) -> list[Any]:
        return [*self.refs, await al.put("own"), leaf.remote(3)]

    async def ask(self, other: Actor) -> int:
        return await other.call(1) + await nested.remote(1)

    async def slow(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds


class Storm:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.actors = [self.actor() for _ in range(3)]
        self.asked = [self.actor() for _ in range(2)]
        """These never ask others: a circle of actors that wait for each other has no end."""
        self.refs: list[Any] = []

    def actor(self) -> Actor:
        return Actor.options(
            process=self.chance.choice(["dedicated", "shared"]), max_concurrency=self.chance.choice([1, 4])
        ).remote()

    def some_ref(self) -> Any:
        return self.chance.choice(self.refs) if self.refs else leaf.remote(1)

    def work(self) -> tuple[Any, Any]:
        """A remote callable and its arguments."""
        chance, actor = self.chance, self.chance.choice(self.actors)
        return chance.choice(
            [
                (leaf, (1,)),
                (plain, (1,)),
                (plain, (self.some_ref(),)),
                (slow, (chance.random() * 0.01,)),
                (slow.options(timeout=0.005), (chance.random() * 0.01,)),
                (nested, (1,)),
                (nested.options(num_cpus=chance.choice([0, 0.5, 2])), (1,)),
                (nested_plain, ([leaf.remote(1)],)),
                (fail, ()),
                (actor.call, (1,)),
                (actor.call, (self.some_ref(),)),
                (actor.plain, (1,)),
                (actor.keep, ([self.some_ref(), leaf.remote(2)],)),
                (actor.give, ()),
                (actor.ask, (chance.choice(self.asked),)),
                (actor.slow, (chance.random() * 0.01,)),
            ]
        )

    async def step(self) -> None:
        chance = self.chance
        await asyncio.sleep(chance.random() * 0.2)
        if chance.random() < 0.06:
            self.actors.append(self.actor())
            await al.kill(self.actors.pop(0))
            return
        call, args = self.work()
        if chance.random() < 0.5:
            waiting = asyncio.ensure_future(call(*args))
        else:
            ref = call.remote(*args)
            if chance.random() < 0.3:
                self.refs = [*self.refs[-5:], ref]
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() * 0.003)
                await al.cancel(ref)
            waiting = asyncio.ensure_future(ref)
        if chance.random() < 0.25:
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            waiting.cancel()
        (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
        assert not isinstance(outcome, BaseException) or isinstance(outcome, EXPECTED), repr(outcome)


@pytest.mark.parametrize("seed", range(2))
async def test_everything_at_once(
    cluster: al.Session, complaints: Any, all_free: Any, eventually: Any, seed: int
) -> None:
    storm = Storm(seed)
    await asyncio.wait_for(asyncio.gather(*(storm.step() for _ in range(STEPS))), 60)
    for actor in (*storm.actors, *storm.asked):
        await al.kill(actor)
    storm.refs.clear()
    storm.actors.clear()
    storm.asked.clear()
    await all_free(cluster)
    runtime: Any = cluster.runtime

    async def nothing_held() -> bool:
        gc.collect()
        return not runtime.exports.is_needed and not runtime.borrows.unregistered

    await eventually(nothing_held)
    complaints.mentions("never retrieved")  # what failed after its waiter was cancelled: that is said, as it should be
    assert await asyncio.wait_for(asyncio.gather(leaf(1), plain(2)), 10) == [1, 2]
