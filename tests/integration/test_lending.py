"""Tasks that wait for others lend their CPU: also to placement groups, which keep it, and nobody is stuck."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorlite as al
from actorlite.testing import cluster

pytestmark = pytest.mark.asyncio


class Member(al.Actor):
    async def node(self) -> str:
        return al.runtime_context().node_id


@al.remote
async def where() -> str:
    return al.runtime_context().node_id


class Bell(al.Actor, process="shared", max_concurrency=100):
    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self) -> None:
        await self.event.wait()

    async def ring(self) -> None:
        self.event.set()


@al.remote
async def waits_twice(bell: Bell) -> list[str]:
    """Lends its CPU to whoever comes, and then waits for tasks and actors of its own."""
    await bell.wait()
    first = await where()
    light = Member.remote()
    return [first, await where.options(num_cpus=1)(), await light.node()]


@pytest.mark.parametrize("cpus", [1, 2])
async def test_what_a_waiting_task_waits_for_runs_though_a_group_got_its_cpu(
    scheme: str, cpus: int, eventually: Any
) -> None:
    """The group is removed only when the task has ended."""
    async with cluster(nodes=1, num_cpus=cpus, scheme=scheme) as made:
        bell = Bell.remote()
        parents = [waits_twice.remote(bell) for _ in range(cpus)]
        table = made.nodes[0].node.table

        async def all_lent() -> bool:
            return sum(lease.lent for lease in table.held.values()) == cpus

        async def all_returned() -> bool:
            return table.free["CPU"] == 0

        await eventually(all_lent)
        group = await al.placement_group([{"CPU": 1}] * cpus)
        await group.ready(10)
        inside = al.PlacementGroupStrategy(group)
        members = [Member.options(num_cpus=1, scheduling_strategy=inside).remote() for _ in range(cpus)]
        await al.get([each.node.remote() for each in members], timeout=10)
        await bell.ring()
        node = made.nodes[0].id
        assert await al.get(parents, timeout=20) == [[node] * 3] * cpus
        await eventually(all_returned)
        behind = where.remote()
        assert not (await al.wait([behind], timeout=0.05))[0], "nobody waits any more: the group has it all"
        await al.remove_placement_group(group)
        assert await behind == node
        assert (table.turns.pledged, table.turns.lent) == (0, 0)


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("first", [True, False], ids=["the-group", "what-is-in-it"])
async def test_a_group_that_a_waiting_task_waits_for_gets_its_cpu(scheme: str, cpus: int, first: bool) -> None:
    @al.remote
    async def gang() -> list[str]:
        group = await al.placement_group([{"CPU": 1}] * cpus)
        if first:
            await group.ready()
        inside = al.PlacementGroupStrategy(group)
        members = [Member.options(num_cpus=1, scheduling_strategy=inside).remote() for _ in range(cpus)]
        nodes = await al.get([each.node.remote() for each in members])
        nodes.append(await where())
        await al.remove_placement_group(group)
        return nodes

    async with cluster(nodes=1, num_cpus=cpus, scheme=scheme) as made:
        assert await al.get(gang.remote(), timeout=20) == [made.nodes[0].id] * (cpus + 1)


@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "plain"])
async def test_an_actor_that_a_waiting_task_waits_for_gets_its_cpu(scheme: str, plain: bool) -> None:
    @al.remote
    async def makes() -> None:
        await al.ready(Member.remote())

    @al.remote
    def makes_plainly() -> None:
        asyncio.run(al.ready(Member.remote()))

    async with cluster(nodes=1, num_cpus=1, scheme=scheme):
        await al.get(makes_plainly.remote() if plain else makes.remote(), timeout=10)
