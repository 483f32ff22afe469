"""Requests of one node that others could serve: what nodes believe of each other, and who waits where."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorlite as al
from actorlite.testing import cluster

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=["inproc", "uds", "tcp"])
def scheme(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


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
