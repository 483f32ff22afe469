"""CPU leases: exact, whatever happens to the work that holds them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

import actorlite as al
from actorlite.testing.cluster import local_cluster

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def four(scheme: str) -> AsyncIterator[al.Session]:
    async with local_cluster(scheme=scheme, num_cpus=4) as session:
        yield session


@al.remote
def hold(gate: Any) -> None:
    gate.hold()


@al.remote
async def quick(x: int) -> int:
    return x


class Holder(al.Actor):
    async def ping(self) -> str:
        return "pong"


async def free(session: al.Session) -> float:
    return float((await session.status())["free_cpus"])


async def test_tasks_hold_what_they_ask_for(four: al.Session, gate: Any, all_free: Any) -> None:
    for cpus, at_once in ((1, 4), (2, 2), (4, 1), (3, 1), (0.5, 8)):
        refs = [hold.options(num_cpus=cpus).remote(gate) for _ in range(9)]
        await gate.arrived(at_once)
        assert await free(four) == 4 - cpus * at_once
        status = await four.status()
        assert status["waiting"] >= 1
        gate.open(9)
        await al.get(refs)
        await gate.arrived(9 - at_once)
        await all_free(four)


async def test_tasks_that_need_all_cpus_run_alone(four: al.Session, all_free: Any) -> None:
    class Census(al.Actor):
        def __init__(self) -> None:
            self.inside = 0
            self.most = 0

        async def enter(self) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)

        async def leave(self) -> int:
            self.inside -= 1
            return self.most

    census = Census.remote()

    @al.remote(num_cpus=4)
    def alone() -> int:
        # Not awaited: a task that waits would lend its CPUs to the next one.
        census.enter.remote()
        import time

        time.sleep(0.001)
        census.leave.remote()
        return 1

    assert sum(await al.get([alone.remote() for _ in range(20)])) == 20
    await census.enter()
    assert await census.leave() == 1
    await all_free(four)


async def test_actors_hold_what_they_ask_for_as_long_as_they_live(four: al.Session, gate: Any, all_free: Any) -> None:
    default = [Holder.remote() for _ in range(6)]
    await asyncio.gather(*(actor.ping() for actor in default))
    assert await free(four) == 4  # by default: one CPU to be placed, none while alive
    held = [Holder.options(num_cpus=1.5).remote() for _ in range(2)]
    await asyncio.gather(*(actor.ping() for actor in held))
    assert await free(four) == 1
    waits = Holder.options(num_cpus=2).remote()
    pong = waits.ping.remote()
    assert await al.wait([pong], timeout=0.02) == ([], [pong])
    await al.kill(held[0])
    assert await pong == "pong"
    assert await free(four) == 0.5
    await al.kill(held[1])
    await al.kill(waits)
    await all_free(four)
    assert await asyncio.gather(*(actor.ping() for actor in default)) == ["pong"] * 6


async def test_a_light_actor_with_cpus_leaves_its_neighbours_alone(four: al.Session, all_free: Any) -> None:
    light = Holder.options(process="shared")
    one, two, free_one = light.options(num_cpus=1).remote(), light.options(num_cpus=1).remote(), light.remote()
    await asyncio.gather(one.ping(), two.ping(), free_one.ping())
    assert await free(four) == 2
    await al.kill(one)
    assert await two.ping() == await free_one.ping() == "pong"
    assert await free(four) == 3
    await al.kill(two)
    assert await free_one.ping() == "pong"
    await all_free(four)


async def test_cancelled_requests_hold_nothing(four: al.Session, gate: Any, all_free: Any) -> None:
    holding = [hold.options(num_cpus=2).remote(gate) for _ in range(2)]
    await gate.arrived(2)
    queued = [quick.options(num_cpus=3).remote(n) for n in range(10)]
    actors = [Holder.options(num_cpus=3).remote() for _ in range(5)]
    structured = [asyncio.ensure_future(quick.options(num_cpus=2)(n)) for n in range(5)]
    await asyncio.sleep(0)
    for ref in queued:
        await al.cancel(ref)
    for call in structured:
        call.cancel()
    for actor in actors:
        await al.kill(actor)
    await asyncio.wait(structured)
    gate.open(2)
    await al.get(holding)
    await all_free(four)
    assert await quick.options(num_cpus=4)(1) == 1


async def test_failing_work_holds_nothing(four: al.Session, all_free: Any) -> None:
    @al.remote(num_cpus=2)
    def fail() -> None:
        raise ValueError("mine")

    outcomes = await asyncio.gather(*(fail.remote() for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, ValueError) for each in outcomes)
    await all_free(four)


async def test_idle_leases_make_way_at_once(four: al.Session) -> None:
    await al.get([quick.remote(n) for n in range(50)])
    # The four workers still linger for more tasks of one CPU each.
    assert await asyncio.wait_for(quick.options(num_cpus=4)(1), 10) == 1
    assert await asyncio.wait_for(Holder.options(num_cpus=4).remote().ping(), 10) == "pong"


async def test_after_a_random_load_every_unit_is_back(four: al.Session, all_free: Any) -> None:
    chance = random.Random(7)

    async def one(number: int) -> None:
        await asyncio.sleep(chance.random() * 0.05)
        kind = chance.choice(["task", "nested", "structured", "cancel", "actor", "kill"])
        cpus = chance.choice([0, 0.5, 1, 2, 4])
        if kind == "task":
            assert await quick.options(num_cpus=cpus).remote(number) == number
        elif kind == "nested":
            assert await nested.options(num_cpus=cpus)(number) == number
        elif kind == "structured":
            await asyncio.wait_for(quick.options(num_cpus=cpus)(number), 20)
        elif kind == "cancel":
            ref = nested.options(num_cpus=cpus).remote(number)
            await asyncio.sleep(chance.random() * 0.01)
            await al.cancel(ref)
            await asyncio.gather(ref, return_exceptions=True)
        else:
            actor = Holder.options(num_cpus=cpus, process=chance.choice(["dedicated", "shared"])).remote()
            if kind == "actor":
                assert await actor.ping() == "pong"
            await al.kill(actor)

    @al.remote
    async def nested(x: int) -> int:
        return await quick.options(num_cpus=0.5).remote(x)

    await asyncio.wait_for(asyncio.gather(*(one(n) for n in range(120))), 50)
    await all_free(four)
