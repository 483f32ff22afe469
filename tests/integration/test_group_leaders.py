"""The node that leads placement groups: whose they are, when it is gone, and when others join."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

import actorlite as al
from actorlite import errors
from actorlite.context import current_runtime
from actorlite.ids import ProcessId
from actorlite.testing import Cluster, cluster
from actorlite.wire.groups import CreateGroup, GroupShape

pytestmark = pytest.mark.asyncio


@al.remote
async def where() -> str:
    return al.runtime_context().node_id


@al.remote
async def make_group(bundles: int) -> Any:
    group = await al.placement_group([{"CPU": 1}] * bundles, strategy="STRICT_SPREAD")
    await group.ready(10)
    return group


def on(node: Any) -> Any:
    return {"scheduling_strategy": al.NodeAffinityStrategy(node.id)}


async def test_a_group_outlives_the_node_of_the_worker_that_made_it(three: Cluster, eventually: Any) -> None:
    _, second, _ = three.nodes
    group = await make_group.options(**on(second))(3)
    await three.kill_node(second)

    async def has_lost_a_bundle() -> bool:
        info = await group.state()
        assert info.state != "REMOVED"
        return info.state == "RESCHEDULING"

    await eventually(has_lost_a_bundle)


async def test_a_group_ends_with_the_node_of_the_driver_of_whoever_made_it(three: Cluster, eventually: Any) -> None:
    _, second, third = three.nodes
    async with AsyncExitStack() as stack:
        runtime = await three.connect(second, stack)
        token = current_runtime.set(runtime)
        group = await make_group.options(**on(third))(1)
        current_runtime.reset(token)
        await three.kill_node(second)

        async def ended() -> bool:
            return (await al.placement_group_table())[group.id].state == "REMOVED"

        await eventually(ended)


async def test_no_group_is_made_for_a_driver_whose_node_is_gone(three: Cluster) -> None:
    first, second, _ = three.nodes
    await three.kill_node(second)
    body = CreateGroup(GroupShape("late", ((("CPU", 10_000),),)), owner="job", home=ProcessId(second.id))
    with pytest.raises(errors.PlacementGroupError, match=f"node {second.id} of the driver of job job is gone"):
        first.node.groups.coordinator.create(body)


async def test_without_the_leading_node_groups_stay_but_none_is_made(scheme: str, eventually: Any) -> None:
    async with cluster(nodes=2, num_cpus=2, scheme=scheme) as made, AsyncExitStack() as stack:
        runtime = await made.connect(made.nodes[1], stack)
        token = current_runtime.set(runtime)
        group = await al.placement_group(
            [{"CPU": 1}], lifetime="detached", bundle_label_selector=None, strategy="STRICT_PACK"
        )
        await group.ready(10)
        await made.kill_node(made.nodes[0])
        with pytest.raises(errors.ControlUnavailable, match="the node that leads the cluster is gone"):
            await al.placement_group([{"CPU": 1}])
        current_runtime.reset(token)


async def test_nothing_is_kept_for_a_group_when_the_leading_node_is_gone(
    scheme: str, gate: Any, eventually: Any
) -> None:
    @al.remote(num_cpus=2)
    def hold() -> None:
        gate.hold()

    async with cluster(nodes=2, num_cpus=2, scheme=scheme) as made, AsyncExitStack() as stack:
        runtime = await made.connect(made.nodes[1], stack)
        token = current_runtime.set(runtime)
        held = hold.options(scheduling_strategy=al.NodeAffinityStrategy(made.nodes[1].id)).remote()
        await gate.arrived()
        await al.placement_group([{"CPU": 2}] * 2, strategy="STRICT_SPREAD")
        turns = made.nodes[1].node.table.turns

        async def is_kept() -> bool:
            return turns.groups_wait

        async def is_over() -> bool:
            return not turns.keeps

        await eventually(is_kept)
        await made.kill_node(made.nodes[0])
        await eventually(is_over)
        gate.open()
        await al.get(held, timeout=20)
        current_runtime.reset(token)


async def test_a_node_that_joins_is_asked_for_room_when_it_knows_who_asks(
    scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(nodes=1, num_cpus=1, scheme=scheme) as made:
        group = await al.placement_group([{"CPU": 2}])
        node = await made.add_node(2)
        await group.ready(10)
        assert (await group.state()).nodes == (node.id,)
        assert not [each for each in caplog.messages if "could not do" in each]


async def test_a_node_that_joins_keeps_room_for_a_group_that_waits(scheme: str, gate: Any, eventually: Any) -> None:
    @al.remote(num_cpus=2)
    def hold() -> None:
        gate.hold()

    async with cluster(nodes=1, num_cpus=2, scheme=scheme) as made:
        held = hold.remote()
        await gate.arrived()
        group = await al.placement_group([{"CPU": 2}] * 2, strategy="STRICT_SPREAD")
        node = await made.add_node(2)

        async def is_kept() -> bool:
            return list(node.node.table.turns.keeps) == [group.id]

        await eventually(is_kept)
        gate.open()
        await al.get(held, timeout=20)
        await group.ready(10)


async def test_nothing_is_kept_when_no_group_is_left(scheme: str) -> None:
    async with cluster(nodes=1, num_cpus=1, scheme=scheme) as made:
        first = await al.placement_group([{"CPU": 1}])
        await first.ready(10)
        second = await al.placement_group([{"CPU": 1}])
        assert (await second.state()).state == "PENDING"
        await al.remove_placement_group(first)
        await second.ready(10)
        await al.remove_placement_group(second)
        assert [node.node.table.turns.keeps for node in made.nodes] == [{}]


async def test_work_whose_bundle_goes_before_it_has_a_worker_looks_again(scheme: str, monkeypatch: Any) -> None:
    async with cluster(nodes=1, num_cpus=1, scheme=scheme) as found:
        desk = found.nodes[0].node.desk
        group = await al.placement_group([{"CPU": 1}])
        await group.ready(10)
        granted = desk._granted

        async def granted_and_gone(peer: Any, body: Any, request: Any) -> bool:
            answer = await granted(peer, body, request)
            await al.remove_placement_group(group)
            return answer

        monkeypatch.setattr(desk, "_granted", granted_and_gone)
        with pytest.raises(errors.TaskPlacementGroupRemoved):
            await where.options(scheduling_strategy=al.PlacementGroupStrategy(group))()
