"""Where work runs that names a node, labels, or wants to be spread."""

from __future__ import annotations

import pytest

import actorlite as al
from actorlite import errors
from actorlite.resources import NodeResources
from actorlite.testing import Cluster, cluster

pytestmark = pytest.mark.asyncio


class Somewhere(al.Actor):
    async def node(self) -> str:
        return al.runtime_context().node_id


@al.remote
async def where() -> str:
    return al.runtime_context().node_id


async def test_affinity_to_a_node(three: Cluster) -> None:
    for node in three.nodes:
        strategy = al.NodeAffinityStrategy(node.id)
        assert await where.options(scheduling_strategy=strategy)() == node.id
        actor = Somewhere.options(scheduling_strategy=strategy).remote()
        assert await actor.node() == node.id
    gone = three.nodes[2]
    await three.kill_node(gone)
    with pytest.raises(errors.TaskUnschedulableError, match=f"node {gone.id} is not in the cluster"):
        await where.options(scheduling_strategy=al.NodeAffinityStrategy(gone.id))()
    soft = al.NodeAffinityStrategy(gone.id, soft=True)
    assert await where.options(scheduling_strategy=soft)() != gone.id
    with pytest.raises(errors.TaskUnschedulableError, match="lacks CPU: 1"):
        await where.options(num_cpus=3, scheduling_strategy=al.NodeAffinityStrategy(three.nodes[0].id))()


async def test_spread_goes_round_all_nodes(three: Cluster) -> None:
    actors = [Somewhere.options(num_cpus=1, scheduling_strategy="SPREAD").remote() for _ in range(3)]
    assert {await actor.node() for actor in actors} == {node.id for node in three.nodes}


async def test_labels_select_nodes(scheme: str) -> None:
    kinds = ({"zone": "a"}, {"zone": "b", "disk": "fast"}, {"zone": "b"})
    nodes = [NodeResources(num_cpus=2, labels=labels) for labels in kinds]
    async with cluster(nodes=nodes, scheme=scheme) as made:
        ids = [node.id for node in made.nodes]

        async def found(selector: dict[str, str], *fallback: dict[str, str]) -> str:
            strategies = [{"label_selector": each} for each in fallback]
            return await where.options(label_selector=selector, fallback_strategy=strategies)()

        assert await found({"zone": "a"}) == ids[0]
        assert await found({"zone": "b", "disk": "fast"}) == ids[1]
        assert await found({"zone": "!a", "disk": "!in(fast, slow)"}) == ids[2]
        assert await found({"zone": "c"}, {"zone": "in(b)", "disk": "!fast"}) == ids[2]
        with pytest.raises(
            errors.TaskUnschedulableError, match=r"where needs CPU: 1 and no node .*not \[zone in \(c\)\]"
        ):
            await found({"zone": "c"})
        assert [await found({"actorlite.io/node-id": each}) for each in ids] == ids, "every node says who it is"
        group = await al.placement_group(
            [{"CPU": 1}, {"CPU": 1}], bundle_label_selector=[{"zone": "a"}, {"disk": "fast"}]
        )
        await group.ready(10)
        assert (await group.state()).nodes == (ids[0], ids[1])
