"""What waits in the whole cluster, as whoever starts nodes reads it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

import actorlite as al
from actorlite.node.demands import Demands
from actorlite.testing import Cluster, cluster
from actorlite.wire.requests import Demand

pytestmark = pytest.mark.asyncio


class Holder(al.Actor, num_cpus=1):
    async def hello(self) -> None: ...


async def fill(made: Cluster) -> list[Any]:
    """All CPUs are held, and one more is waited for on each node."""
    held: list[Any] = []
    for node in made.nodes:
        there = Holder.options(scheduling_strategy=al.NodeAffinityStrategy(node.id))
        held.append(there.remote())
        await held[-1].hello()
        held.append(there.remote())
    return held


@pytest.mark.parametrize("asked", [0, 1])
async def test_the_demand_of_all_nodes_is_told_by_any(asked: int, eventually: Any) -> None:
    async with cluster(nodes=2, num_cpus=1) as made, AsyncExitStack() as stack:
        held = await fill(made)
        client = await made.connect(made.nodes[asked], stack)
        expected = [{"resources": {"CPU": 1.0}, "count": 2, "feasible": True}]

        async def told() -> bool:
            return bool((await client.node.status())["demand"] == expected)

        await eventually(told)
        del held


async def test_a_group_that_waits_is_told_with_what_it_needs(eventually: Any) -> None:
    async with cluster(nodes=2, num_cpus=1) as made:
        there = await al.placement_group([{"CPU": 1}])
        await there.ready(10)
        group = await al.placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD", name="pair")
        status = await made.session.status()
        (pending,) = status["pending_groups"]
        reason = pending.pop("reason")
        assert "CPU" in reason, reason
        bundle = {"resources": {"CPU": 1.0}, "label_selector": {}, "node": None}
        assert pending == {
            "id": group.id,
            "namespace": made.session.namespace,
            "name": "pair",
            "strategy": "STRICT_SPREAD",
            "state": "PENDING",
            "bundles": [bundle, bundle],
        }
        assert status["demand"] == [] and status["silent"] == []
        await al.remove_placement_group(there)
        await group.ready(10)
        assert (await made.session.status())["pending_groups"] == []


async def test_a_node_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def deaf(*ignored: Any) -> Demand:
        await asyncio.Event().wait()
        return Demand()

    monkeypatch.setattr(Demands, "_asked", deaf)
    monkeypatch.setattr("actorlite.node.demands.ANSWER_S", 0.01)
    async with cluster(nodes=3, num_cpus=1) as made:
        assert sorted((await made.session.status())["silent"]) == sorted(each.id for each in made.nodes[1:])
