"""What is left of leases whose owners or actors are gone: nothing, and not too early."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

import actorlite as al
from actorlite.context import current_runtime
from actorlite.testing import NodeResources, cluster

pytestmark = pytest.mark.asyncio

running: set[str] = set()


@al.remote(num_gpus=1)
async def cleans_up(name: str) -> None:
    running.add(name)
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.2)
        running.discard(name)


@al.remote(num_gpus=1)
async def who_runs() -> set[str]:
    return set(running)


@pytest.mark.parametrize("in_group", [False, True])
async def test_what_a_lost_session_used_is_free_when_its_worker_has_ended(in_group: bool, eventually: Any) -> None:
    async with cluster(nodes=[NodeResources(num_cpus=1, num_gpus=1)]) as made, AsyncExitStack() as stack:
        strategy: Any = "DEFAULT"
        if in_group:
            group = await al.placement_group([{"CPU": 1, "GPU": 1}])
            await group.ready(10)
            strategy = al.PlacementGroupStrategy(group)
        other = await made.connect(made.nodes[0], stack)
        token = current_runtime.set(other)
        ref = cleans_up.options(scheduling_strategy=strategy).remote("lost")
        current_runtime.reset(token)
        desk = made.nodes[0].node.desk

        async def runs() -> bool:
            return running == {"lost"}

        async def waits() -> bool:
            return any(table.waiting for table in desk.tables.each)

        await eventually(runs)
        next_one = who_runs.options(scheduling_strategy=strategy).remote()
        await eventually(waits)
        await other.hub.aclose()
        assert await al.get(next_one, timeout=10) == set()
        del ref


@al.remote
async def waits_for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_request_to_another_node_ends_with_the_session_that_made_it(eventually: Any) -> None:
    async with cluster(nodes=2, num_cpus=1) as made, AsyncExitStack() as stack:
        first, second = made.nodes
        there = al.NodeAffinityStrategy(second.id)
        task = waits_for_ever.options(scheduling_strategy=there)
        ref = task.remote()
        desk = second.node.desk

        async def runs() -> bool:
            return bool(desk.table.held) and not desk._grants

        async def waits() -> bool:
            return len(desk.table.waiting) == 2

        async def forgotten() -> bool:
            left = [desk.table.waiting, desk._grants, desk._tickets, first.node.desk._redirects._late]
            return not any(left)

        await eventually(runs)
        other = await made.connect(first, stack)
        token = current_runtime.set(other)
        refs = [task.remote() for _ in range(2)]
        current_runtime.reset(token)
        await eventually(waits)
        await other.hub.aclose()
        await eventually(forgotten)
        await al.cancel(ref)
        del refs


class Elsewhere(al.Actor):
    async def hello(self) -> None: ...


@pytest.mark.parametrize("no_restart", [True, False])
async def test_the_lease_of_an_actor_that_was_killed_on_another_node_is_returned(
    no_restart: bool, eventually: Any
) -> None:
    async with cluster(nodes=2, num_cpus=1) as made:
        there = al.NodeAffinityStrategy(made.nodes[1].id)
        redirects = made.nodes[0].node.desk._redirects
        for _ in range(3):
            actor = Elsewhere.options(num_cpus=1, max_restarts=1, scheduling_strategy=there).remote()
            await actor.hello()
            await al.kill(actor, no_restart=no_restart)
            if not no_restart:
                await actor.hello()
                await al.kill(actor)

        async def all_returned() -> bool:
            return not redirects._leases and not made.nodes[1].node.table.held

        await eventually(all_returned)


class Owner(al.Actor, num_cpus=1):
    async def hello(self) -> None: ...

    async def make(self) -> list[al.ObjectRef[int]]:
        return [await al.put(1)]


@al.remote
async def forced() -> None:
    await asyncio.sleep(3600)


async def begin_forced() -> Any:
    return forced.remote()


async def begin_actor() -> Any:
    actor = Owner.remote()
    await actor.hello()
    return actor


@pytest.mark.parametrize(
    ("begin", "end"),
    [(begin_forced, lambda ref: al.cancel(ref, force=True)), (begin_actor, al.terminate)],
    ids=["killed", "retired"],
)
async def test_what_a_worker_had_that_is_to_end_is_free_when_it_has_ended(
    begin: Any, end: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(nodes=1, num_cpus=1) as made:
        node = made.nodes[0].node
        monkeypatch.setattr("actorlite.node.retiring.FREE_S", 600)

        async def works() -> bool:
            return any(record.lease for record in node.workers.records.values())

        what = await begin()
        await eventually(works)
        (record,) = [each for each in node.workers.records.values() if each.lease]
        assert record.handle is not None
        kill, asked = record.handle.kill, asyncio.Event()
        monkeypatch.setattr(record.handle, "kill", asked.set)
        ending = asyncio.ensure_future(end(what))
        await asyncio.wait_for(asked.wait(), 10)
        free = node.table.free_now().units_of("CPU")
        kill()
        assert not free, "its process may still run"
        assert await asyncio.wait_for(begin_actor(), 10)
        assert record.ended.is_set()
        await ending
        del what


async def test_a_worker_that_lives_on_for_what_it_owns_holds_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(nodes=1, num_cpus=1):
        monkeypatch.setattr("actorlite.node.retiring.FREE_S", 600)
        owner = await begin_actor()
        refs = await owner.make()
        await al.terminate(owner)
        await asyncio.wait_for(begin_actor(), 10)
        assert await refs[0] == 1
