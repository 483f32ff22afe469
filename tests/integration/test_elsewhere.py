"""Requests of one node that others could serve: what nodes believe of each other, and who waits where."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorlite as al
from actorlite.context import find_runtime
from actorlite.state.queues import LeaseRequest
from actorlite.state.turns import PATIENCE
from actorlite.testing import NodeResources, cluster

pytestmark = pytest.mark.asyncio


@al.remote
async def where() -> str:
    return al.runtime_context().node_id


class Member(al.Actor):
    async def node(self) -> str:
        return al.runtime_context().node_id


async def test_what_a_node_assumes_of_another_one_does_not_outlive_the_request(scheme: str, eventually: Any) -> None:
    """Whether it is cancelled before it is sent, on its way, or when it is granted; or holds nothing once it is."""
    async with cluster(nodes=2, num_cpus=1, scheme=scheme) as made:
        here, there = (each.node for each in made.nodes)
        index, node = here.members.index, made.nodes[1].id
        strategy = al.NodeAffinityStrategy(node)

        async def believes_what_is() -> bool:
            return there.table.free["CPU"] == there.table.total.units_of("CPU") and (
                index.views[node].free == there.table.free_now()
            )

        for passes in range(20):
            ref = where.options(scheduling_strategy=strategy).remote()
            for _ in range(passes):
                await asyncio.sleep(0)
            await al.cancel(ref)
            await eventually(believes_what_is)
        member = Member.options(scheduling_strategy=strategy).remote()
        assert await member.node() == node
        await eventually(believes_what_is)


def at(node: Any) -> al.NodeAffinityStrategy:
    return al.NodeAffinityStrategy(node.id)


async def parts_of_all_devices(node: Any) -> list[Member]:
    """Of three, so that more than one is free, but no whole one."""
    some = [Member.options(num_gpus=0.6, num_cpus=0, scheduling_strategy=at(node)).remote() for _ in range(3)]
    assert [await each.node() for each in some] == [node.id] * 3
    return some


async def test_parts_of_devices_do_not_keep_a_request_from_a_whole_one_elsewhere(scheme: str) -> None:
    sizes = [NodeResources(num_cpus=8, num_gpus=3), NodeResources(num_cpus=4, num_gpus=1)]
    async with cluster(nodes=sizes, scheme=scheme) as made:
        here, there = made.nodes
        some = await parts_of_all_devices(here)
        busy = Member.options(num_cpus=3, scheduling_strategy=at(there)).remote()
        assert await busy.node() == there.id  # more in use than the other one, which is preferred then
        assert await al.get(where.options(num_gpus=1).remote(), timeout=10) == there.id
        del some


@pytest.mark.parametrize("which", [0, 1])
async def test_a_request_that_finds_parts_of_devices_everywhere_gets_the_first_whole_one(
    scheme: str, which: int, eventually: Any
) -> None:
    """Wherever it waits, if its own node has it."""
    async with cluster(nodes=[NodeResources(num_gpus=3), NodeResources(num_gpus=3)], scheme=scheme) as made:
        some = [await parts_of_all_devices(each) for each in made.nodes]
        ref = where.options(num_gpus=1).remote()

        async def waits() -> bool:
            return any(each.node.table.waiting for each in made.nodes)

        await eventually(waits)
        await al.kill(some[which][0])
        assert await al.get(ref, timeout=10) == made.nodes[which].id


async def test_room_that_is_kept_for_a_larger_request_does_not_keep_others_from_room_elsewhere(
    scheme: str, gate: Any, eventually: Any
) -> None:
    @al.remote
    def holds() -> None:
        gate.hold()

    async with cluster(nodes=2, num_cpus=[8, 4], scheme=scheme) as made:
        here, there = made.nodes
        table = here.node.table
        held = [holds.options(scheduling_strategy=at(here)).remote() for _ in range(3)]
        await gate.arrived(3)
        large = where.options(num_cpus=6).remote()

        async def waits() -> bool:
            return len(table.waiting) == 1

        await eventually(waits)
        for hundredths in range(1, PATIENCE + 5):  # each of another shape, so that no lease is used again
            if not table.turns.pressing:
                await where.options(scheduling_strategy=at(here), num_cpus=hundredths / 100)()

        async def leases_are_back() -> bool:
            return bool(table.free["CPU"] == table.total.units_of("CPU") * 5 // 8)

        await eventually(leases_are_back)
        assert table.turns.pressing
        assert await al.get(where.options(num_cpus=1).remote(), timeout=10) == there.id
        gate.open(3)
        assert await al.get(large, timeout=10) == here.id
        await al.get(held)


async def test_nodes_know_of_each_other_what_is_free_of_each_device_and_what_is_kept(
    gate: Any, eventually: Any
) -> None:
    @al.remote
    def holds() -> None:
        gate.hold()

    async with cluster(nodes=[NodeResources(num_cpus=4), NodeResources(num_cpus=8, num_gpus=3)]) as made:
        here, there = made.nodes
        index, table = here.node.members.index, there.node.table
        some = await parts_of_all_devices(there)
        held = [holds.options(scheduling_strategy=at(there)).remote() for _ in range(3)]
        await gate.arrived(3)
        large = where.options(num_cpus=6, scheduling_strategy=at(there)).remote()

        async def waits() -> bool:
            return len(table.waiting) == 1

        await eventually(waits)
        for hundredths in range(1, PATIENCE + 5):
            if not table.turns.pressing:
                await where.options(scheduling_strategy=at(there), num_cpus=hundredths / 100)()

        async def known() -> bool:
            view = index.views[there.id]
            return view.devices == (4_000, 4_000, 4_000) and view.waited.to_floats() == {"CPU": 5.0}

        await eventually(known)
        gate.open(3)
        assert await al.get(large, timeout=10) == there.id
        await al.get(held)
        del some


async def test_a_request_for_a_whole_device_is_not_sent_where_only_parts_are_free(
    eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [NodeResources(num_cpus=1), NodeResources(num_cpus=8, num_gpus=3), NodeResources(num_cpus=4, num_gpus=1)]
    async with cluster(nodes=sizes) as made:
        here, parts, whole = made.nodes
        views = here.node.members.index.views
        some = await parts_of_all_devices(parts)
        busy = Member.options(num_cpus=3, scheduling_strategy=at(whole)).remote()
        assert await busy.node() == whole.id  # more in use than the other one, which is preferred then

        async def known() -> bool:
            return all(views[each.id].free == each.node.table.free_now() for each in (parts, whole))

        await eventually(known)
        asked: list[LeaseRequest] = []
        request = parts.node.table.request

        def noted(one: LeaseRequest) -> list[LeaseRequest]:
            asked.append(one)
            return request(one)

        monkeypatch.setattr(parts.node.table, "request", noted)
        assert await al.get(where.options(num_gpus=1).remote(), timeout=10) == whole.id
        assert not asked
        del some


async def test_how_a_worker_ended_is_known_when_it_was_returned_before_its_node_was_lost(scheme: str) -> None:
    async with cluster(nodes=2, num_cpus=1, scheme=scheme) as found:
        second = found.nodes[1]
        member = Member.options(scheduling_strategy=al.NodeAffinityStrategy(second.id)).remote()
        assert await member.node() == second.id
        (worker,) = [each.process for each in second.node.workers.records.values() if each.lease]
        await al.kill(member)
        await found.kill_node(second)
        assert "its node (pid" in await find_runtime().node.why_died(worker)
