"""Nodes in one loop that are cut off from each other, and come back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

import actorlite as al
from actorlite import errors
from actorlite.context import current_runtime
from actorlite.testing import Cluster

pytestmark = pytest.mark.asyncio


class Member(al.Actor):
    async def node(self) -> str:
        return al.runtime_context().node_id

    async def echo(self, value: Any) -> Any:
        return value

    async def hold(self) -> None:
        await asyncio.Event().wait()


@al.remote
async def where() -> str:
    return al.runtime_context().node_id


@al.remote
async def hold() -> None:
    await asyncio.Event().wait()


def on(node: Any, *, soft: bool = False) -> Any:
    return {"scheduling_strategy": al.NodeAffinityStrategy(node.id, soft=soft)}


def knows(made: Cluster) -> list[set[int]]:
    ids = [node.id for node in made.nodes]
    return [{ids.index(each) for each in node.views} for node in made.nodes]


async def test_both_sides_take_the_other_for_lost_until_they_are_healed(three: Cluster) -> None:
    first, second, third = three.nodes
    await three.partition([first], [second, third])
    assert knows(three) == [set(), {2}, {1}]
    with pytest.raises(errors.TaskUnschedulableError, match=f"node {second.id} is not in the cluster"):
        await where.options(**on(second))()
    assert await where.options(**on(second, soft=True))() == first.id
    await three.heal()
    assert knows(three) == [{1, 2}, {0, 2}, {0, 1}]
    for node in three.nodes:
        assert await where.options(**on(node))() == node.id
        assert await Member.options(**on(node)).remote().node() == node.id


def leaders(made: Cluster) -> list[int]:
    """Who leads, as each node has it: its place among them, or -1."""
    ids = ["", *[node.id for node in made.nodes]]
    return [ids.index(node.node.members.leader) - 1 for node in made.nodes]


async def test_who_is_cut_off_from_the_leader_has_none_until_it_is_back(three: Cluster) -> None:
    first, second, third = three.nodes
    assert leaders(three) == [0, 0, 0]
    await three.partition([first], [second, third])
    assert leaders(three) == [0, -1, -1]
    await three.heal()
    assert leaders(three) == [0, 0, 0]
    # Whoever asks the other: the leader goes on leading, and one that it lost knows it again.
    await three.partition([first], [second], [third])
    assert leaders(three) == [0, -1, -1]
    three._network.heal()
    await third.node.join(second.address)
    assert leaders(three) == [0, -1, -1]
    await first.node.join(second.address)
    assert leaders(three) == [0, 0, 0]
    assert knows(three) == [{1, 2}, {0, 2}, {0, 1}]


async def test_calls_under_way_end_with_the_reason(three: Cluster, eventually: Any) -> None:
    first, second, third = three.nodes
    actor = Member.options(num_cpus=1, **on(second)).remote()
    assert await actor.node() == second.id
    task = hold.options(max_retries=0, **on(third)).remote()
    call = actor.hold.remote()

    async def both_run() -> bool:
        busy = [node.node.table.free_now() != node.node.options.total for node in (second, third)]
        return all(busy)

    await eventually(both_run)
    async with asyncio.timeout(30):
        await three.partition([first], [second, third])
        with pytest.raises(errors.ActorDiedError, match="its node .* is gone"):
            await call
        with pytest.raises((errors.WorkerCrashedError, errors.TaskUnschedulableError), match="node"):
            await task
        with pytest.raises(errors.ActorDiedError, match="its node .* is gone"):
            await actor.echo(2)
        await three.heal()
        with pytest.raises(errors.ActorDiedError, match="its node .* is gone"):
            await actor.echo(3)


async def test_actors_and_tasks_move_to_the_side_of_their_driver(three: Cluster, eventually: Any) -> None:
    first, second, third = three.nodes
    actor = Member.options(max_restarts=1, max_task_retries=1, **on(second, soft=True)).remote()
    assert await actor.node() == second.id
    await three.partition([first, third], [second])
    assert await actor.node() in (first.id, third.id)

    async def nothing_is_left() -> bool:
        return second.node.table.free_now() == second.node.options.total

    # What it did there for a driver of the other side has ended: nothing runs twice.
    await eventually(nothing_is_left)


async def test_a_group_that_lost_bundles_moves_and_what_it_had_is_free_after_healing(
    three: Cluster, eventually: Any
) -> None:
    first, second, third = three.nodes
    group = await al.placement_group([{"CPU": 2}, {"CPU": 2}], strategy="STRICT_SPREAD")
    await group.ready(10)
    await three.partition([first], [second, third])

    async def state() -> str:
        found: str = (await al.placement_group_table(group))[group.id].state
        return found

    async def is_rescheduling() -> bool:
        return await state() == "RESCHEDULING"

    await eventually(is_rescheduling)
    await three.heal()
    await group.ready(10)
    await al.remove_placement_group(group)

    async def all_is_free() -> bool:
        return all(node.node.table.free_now() == node.node.options.total for node in three.nodes)

    await eventually(all_is_free)


async def test_drivers_on_both_sides_go_on(three: Cluster) -> None:
    first, second, third = three.nodes
    async with AsyncExitStack() as stack:
        runtime = await three.connect(second, stack)
        await three.partition([first], [second, third])
        assert await where() == first.id
        token = current_runtime.set(runtime)
        try:
            assert await where.options(**on(third))() == third.id
            assert await where.options(**on(first, soft=True))() in (second.id, third.id)
            with pytest.raises(errors.ControlUnavailable, match="the node that leads the cluster is gone"):
                await al.placement_group([{"CPU": 1}])
            await three.heal()
            assert await where.options(**on(first))() == first.id
            group = await al.placement_group([{"CPU": 1}])
            await group.ready(10)
        finally:
            current_runtime.reset(token)


async def test_objects_of_the_other_side_are_lost_with_a_reason(three: Cluster) -> None:
    first, second, third = three.nodes
    big = await (await al.put(b"x" * 3_000_000))
    actor = Member.options(**on(second)).remote()
    ref = actor.echo.remote(big)
    await al.wait([ref])
    async with asyncio.timeout(30):
        await three.partition([first], [second, third])
        try:
            assert await ref == big
        except (errors.ObjectLostError, errors.OwnerDiedError, errors.ActorDiedError) as error:
            assert "node" in str(error) or "gone" in str(error)


async def test_cut_and_healed_again_and_again(three: Cluster) -> None:
    first, second, third = three.nodes
    for _ in range(3):
        await three.partition([first], [second], [third])
        assert knows(three) == [set(), set(), set()]
        await three.heal()
        assert knows(three) == [{1, 2}, {0, 2}, {0, 1}]
        assert await where.options(**on(third))() == third.id


async def test_a_delay_is_in_both_directions_and_ends(three: Cluster) -> None:
    first, second, third = three.nodes
    loop = asyncio.get_running_loop()
    actor, other = Member.options(**on(second)).remote(), Member.options(**on(third)).remote()
    assert await actor.echo(1) == await other.echo(1) == 1
    three.delay(first, second, 0.2)
    began = loop.time()
    assert await asyncio.gather(*[actor.echo(n) for n in range(5)]) == list(range(5))
    assert loop.time() - began >= 0.4
    assert await other.echo(2) == 2
    three.delay(first, second, 0)
    assert await actor.echo(3) == 3


async def test_a_node_added_during_a_partition_is_on_the_first_side(three: Cluster) -> None:
    first, second, third = three.nodes
    await three.partition([first, second], [third])
    fourth = await three.add_node(1)
    assert knows(three) == [{1, 3}, {0, 3}, set(), {0, 1}]
    await three.heal()
    assert all(len(known) == 3 for known in knows(three))
    assert await where.options(**on(fourth))() == fourth.id


async def test_bad_sides_are_refused(three: Cluster) -> None:
    first, second, third = three.nodes
    for sides in ([], [[first]], [[first], []], [[first], [first, second]]):
        with pytest.raises(ValueError, match=r"sides=\[.*each node once"):
            await three.partition(*sides)
    await three.kill_node(third)
    with pytest.raises(ValueError, match="no running node"):
        await three.partition([first], [third])
    with pytest.raises(ValueError, match="seconds=-1"):
        three.delay(first, second, -1)


async def test_who_cannot_reach_a_bundle_asks_again_after_pauses(
    three: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, asks, other = three.nodes
    group = await al.placement_group([{"CPU": 2}] * 3, strategy="STRICT_SPREAD")
    index = (await (await group.ready(10)).state()).nodes.index(other.id)
    coordinator = leader.node.groups.coordinator
    created, asked = coordinator.created, 0

    async def counted(name: str) -> Any:
        nonlocal asked
        asked += 1
        return await created(name)

    monkeypatch.setattr(coordinator, "created", counted)
    async with AsyncExitStack() as stack:
        token = current_runtime.set(await three.connect(asks, stack))
        await three.partition([asks], [other])
        there = al.PlacementGroupStrategy(group, index)
        with pytest.raises(errors.ActorliteError):
            await al.get(where.options(scheduling_strategy=there, schedule_timeout=0.5).remote(), timeout=10)
        current_runtime.reset(token)
    assert 1 < asked < 30


async def test_a_node_that_came_while_the_leading_node_was_cut_off_obeys_it_when_it_is_back(three: Cluster) -> None:
    first, second, third = three.nodes
    await three.partition([first], [second, third])
    three.nodes[:] = [second, third, first]  # the next one joins through the second, and the first one joins that
    fourth = await three.add_node(2)
    assert not fourth.node.members.leader and first.id not in fourth.views
    await three.heal()
    assert [node.node.members.leader for node in three.nodes] == [first.id] * 4
    group = await al.placement_group([{"CPU": 2}] * 4, strategy="STRICT_SPREAD")
    await group.ready(10)
