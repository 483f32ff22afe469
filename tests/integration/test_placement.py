"""Placement groups, over nodes in this loop."""

from __future__ import annotations

import asyncio
import logging
import pickle
from contextlib import AsyncExitStack
from typing import Any

import pytest

import actorlite as al
from actorlite import errors
from actorlite.context import current_runtime
from actorlite.resources import NodeResources
from actorlite.testing import Cluster, cluster

pytestmark = pytest.mark.asyncio


class Member(al.Actor):
    def __init__(self) -> None:
        self.calls = 0

    async def node(self) -> str:
        self.calls += 1
        return al.runtime_context().node_id

    async def hold(self) -> None:
        await asyncio.Event().wait()


@al.remote
async def where() -> str:
    return al.runtime_context().node_id


def free(made: Cluster) -> list[float]:
    return [node.node.table.free_now().to_floats().get("CPU", 0.0) for node in made.nodes if node.is_running]


async def test_a_group_is_made_used_and_removed(three: Cluster, eventually: Any) -> None:
    group = await al.placement_group([{"CPU": 1}, {"CPU": 2}], strategy="STRICT_SPREAD", name="pair")
    assert await group.ready(10) is group
    assert await group.wait(0.1)
    assert group.bundles == [{"CPU": 1.0}, {"CPU": 2.0}]
    assert sorted(free(three)) == [0.0, 1.0, 2.0]
    info = await group.state()
    assert (info.state, info.reason, info.history) == ("CREATED", "", ("PENDING", "PREPARED", "CREATED"))
    assert len(set(info.nodes)) == 2
    for index in (0, 1):
        inside = al.PlacementGroupStrategy(group, index)
        assert await where.options(scheduling_strategy=inside)() == info.nodes[index]
    anywhere = al.PlacementGroupStrategy(group)
    found = {await where.options(scheduling_strategy=anywhere)() for _ in range(8)}
    assert found <= set(info.nodes)
    actor = Member.options(num_cpus=2, scheduling_strategy=anywhere).remote()
    assert await actor.node() == info.nodes[1]
    assert sorted(free(three)) == [0.0, 1.0, 2.0], "what runs in a group uses its bundles"
    assert await al.get_placement_group("pair") == group
    assert pickle.loads(pickle.dumps(group)) == group
    await al.remove_placement_group(group)
    await al.remove_placement_group(group)
    assert free(three) == [2.0, 2.0, 2.0]
    with pytest.raises(errors.ActorPlacementGroupRemoved, match="placement group .* was removed"):
        await actor.node()
    with pytest.raises(errors.TaskPlacementGroupRemoved, match="was removed"):
        await where.options(scheduling_strategy=anywhere)()
    with pytest.raises(errors.PlacementGroupRemoved):
        await group.ready(10)
    table = await al.placement_group_table()
    assert table[group.id].state == "REMOVED"
    with pytest.raises(ValueError, match="name='pair': no placement group has it"):
        await al.get_placement_group("pair")


async def test_many_short_tasks_in_a_group(three: Cluster) -> None:
    """More leases are asked for than are needed in the end: those requests are withdrawn."""
    for strategy in ("STRICT_PACK", "SPREAD"):
        group = await al.placement_group([{"CPU": 1}] * 2, strategy=strategy)
        inside = al.PlacementGroupStrategy(group)
        for _ in range(5):
            nodes = await al.get([where.options(scheduling_strategy=inside).remote() for _ in range(50)], timeout=20)
            assert set(nodes) <= set((await group.state()).nodes)
        await al.remove_placement_group(group)
    assert free(three) == [2.0, 2.0, 2.0]


async def test_what_two_nodes_granted_at_once_is_given_back_by_the_one_that_is_not_needed(
    scheme: str, eventually: Any
) -> None:
    async with cluster(nodes=3, num_cpus=1, scheme=scheme) as found:
        first = Member.options(num_cpus=1, scheduling_strategy=al.NodeAffinityStrategy(found.nodes[0].id)).remote()
        await first.node()
        group = await al.placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD")
        await group.ready(10)

        def inside(index: int = -1) -> Any:
            return Member.options(num_cpus=1, scheduling_strategy=al.PlacementGroupStrategy(group, index)).remote()

        async def nothing_is_held() -> bool:
            desks = [node.node.desk for node in found.nodes]
            return not any(each.table.held for desk in desks for each in desk.tables._bundles)

        for _ in range(3):
            both = inside(0), inside(1)
            await asyncio.gather(*(each.node() for each in both))
            third = inside()
            waits = asyncio.ensure_future(third.node())
            await asyncio.sleep(0.05)  # both nodes have been asked
            await asyncio.gather(*(al.kill(each) for each in both))
            await waits
            await al.kill(third)
            await eventually(nothing_is_held)


async def test_removal_waits_for_workers_that_were_returned_and_had_gpus(scheme: str, eventually: Any) -> None:
    @al.remote(num_gpus=1, num_cpus=0)
    async def train() -> list[al.ObjectRef[bytes]]:
        return [await al.put(b"x" * 300_000)]

    async with cluster(nodes=[NodeResources(num_cpus=1, num_gpus=1)], scheme=scheme) as found:
        node = found.nodes[0].node
        group = await al.placement_group([{"GPU": 1}])
        (held,) = await train.options(scheduling_strategy=al.PlacementGroupStrategy(group)).remote()

        async def is_returned() -> bool:
            return any(record.use == "retiring" for record in node.workers.records.values())

        await eventually(is_returned)
        await al.remove_placement_group(group)
        assert not [record for record in node.workers.records.values() if record.setting.gpus]
        assert len(await held) == 300_000, "it was handed over"


async def test_who_has_a_deadline_does_not_wait_for_the_reason_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(nodes=2, num_cpus=1) as found:
        first, second = found.nodes
        group = await al.placement_group([{"CPU": 5}])

        @al.remote(num_cpus=0)
        async def wait(group: al.PlacementGroup) -> str:
            try:
                await group.ready(0.05)
            except errors.GetTimeoutError as error:
                return str(error)
            return ""

        there = al.NodeAffinityStrategy(second.id)
        assert "is PENDING after 0.05 s" in await wait.options(scheduling_strategy=there)(group)
        monkeypatch.setattr("actorlite.placement.REASON_TIMEOUT_S", 0.05)
        found.delay(first, second, 1)
        asked = wait.options(scheduling_strategy=there).remote(group)
        assert "is not there after 0.05 s; the node that leads has not said within 0.05 s why" in await asked


async def test_a_pending_group_says_why_and_waits_in_time(three: Cluster) -> None:
    first = await al.placement_group([{"CPU": 2}] * 3, strategy="STRICT_SPREAD")
    assert await first.wait(10)
    second = await al.placement_group([{"CPU": 1}])
    assert not await second.wait(0.05)
    info = await second.state()
    assert info.state == "PENDING" and "no room now for 1 bundle(s) of PACK" in info.reason
    with pytest.raises(errors.GetTimeoutError, match="is PENDING after 0.05 s; no room now"):
        await second.ready(0.05)
    never = await al.placement_group([{"GPU": 1}])
    assert "bundle 0 (GPU: 1) fits on no node: node" in (await never.state()).reason
    task = asyncio.ensure_future(where.options(scheduling_strategy=al.PlacementGroupStrategy(second))())
    waiting = asyncio.ensure_future(never.ready())
    await asyncio.sleep(0)
    await al.remove_placement_group(first)
    assert await second.wait(10)
    assert await task in (await second.state()).nodes
    await al.remove_placement_group(never)
    with pytest.raises(errors.PlacementGroupRemoved, match="was removed"):
        await waiting


async def test_a_pending_group_gets_what_tasks_return(three: Cluster, gate: Any) -> None:
    @al.remote(num_cpus=2)
    def hold() -> None:
        gate.hold()

    refs = [hold.remote() for _ in range(3)]
    await gate.arrived(3)
    group = await al.placement_group([{"CPU": 2}] * 2, strategy="STRICT_SPREAD")
    assert not await group.wait(0.05)
    gate.open(3)
    await al.get(refs, timeout=20)
    assert await group.wait(20)


@pytest.mark.parametrize("nodes", [1, 2])
async def test_tasks_that_keep_coming_do_not_starve_a_group(scheme: str, nodes: int) -> None:
    """It needs all nodes, which are never free by themselves."""

    @al.remote
    async def short() -> None:
        await asyncio.sleep(0.01)

    async def stream() -> None:
        while True:
            await short()

    async with cluster(nodes=nodes, num_cpus=2, scheme=scheme) as made:
        streams = [asyncio.ensure_future(stream()) for _ in range(8 * nodes)]
        try:
            await al.get([short.remote() for _ in range(8)], timeout=20)
            group = await al.placement_group([{"CPU": 2}] * nodes, strategy="STRICT_SPREAD")
            await group.ready(30)
            assert not any(each.done() for each in streams)
            await al.remove_placement_group(group)
            await al.get([short.remote() for _ in range(8)], timeout=20)
        finally:
            for each in streams:
                each.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
        assert not any(node.node.table.turns.keeps for node in made.nodes)


async def test_removal_ends_what_runs_and_what_waits(three: Cluster, eventually: Any) -> None:
    group = await al.placement_group([{"CPU": 1}])
    await group.ready(10)
    inside = al.PlacementGroupStrategy(group)

    @al.remote
    async def forever() -> None:
        await asyncio.Event().wait()

    running = forever.options(scheduling_strategy=inside).remote()
    (node,) = [node for node in three.nodes if node.id in (await group.state()).nodes]

    async def runs() -> bool:
        return any("forever" in record.use for record in node.node.workers.records.values())

    await eventually(runs)
    waiting = [where.options(scheduling_strategy=inside).remote() for _ in range(3)]
    actor = Member.options(scheduling_strategy=inside).remote()
    call = actor.node.remote()
    await al.remove_placement_group(group)
    for ref in (running, *waiting):
        with pytest.raises(errors.TaskPlacementGroupRemoved, match="was removed"):
            await asyncio.wait_for(ref, 20)
    with pytest.raises(errors.ActorPlacementGroupRemoved, match="was removed"):
        await asyncio.wait_for(call, 20)
    assert free(three) == [2.0, 2.0, 2.0]


@al.remote
async def call_node(member: Member) -> str:
    return await member.node()


async def test_whoever_removes_a_group_waits_for_its_end(three: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    group = await al.placement_group([{"CPU": 2}] * 3, strategy="STRICT_SPREAD", name="group")
    places = [al.PlacementGroupStrategy(group, index) for index in range(3)]
    members = [Member.options(num_cpus=2, scheduling_strategy=place).remote() for place in places]
    await asyncio.gather(*[member.node() for member in members])
    killed: list[Any] = []
    for node in three.nodes:
        workers = node.node.workers
        monkeypatch.setattr(workers, "kill", lambda *given, kill=workers.kill: killed.append(lambda: kill(*given)))
    removing = [asyncio.create_task(al.remove_placement_group(group)) for _ in range(2)]
    async with asyncio.timeout(10):
        while len(killed) < 3:
            await asyncio.sleep(0.001)
    removing.append(asyncio.create_task(al.remove_placement_group(group)))
    for kill in killed[1:]:
        kill()
    await asyncio.wait(removing, timeout=0.1)
    assert not any(each.done() for each in removing)
    killed[0]()
    await asyncio.gather(*removing)
    assert free(three) == [2.0, 2.0, 2.0]
    await al.remove_placement_group(group)
    assert not three.nodes[0].node.groups.coordinator._ending


async def test_a_group_that_another_handle_removed_is_not_ready(three: Cluster) -> None:
    group = await al.placement_group([{"CPU": 1}], name="group")
    await al.remove_placement_group(await al.get_placement_group("group"))
    with pytest.raises(errors.PlacementGroupRemoved):
        await group.ready(10)


async def test_actors_end_with_their_group(three: Cluster) -> None:
    group = await al.placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    await group.ready(10)
    large = await al.placement_group([{"CPU": 2}])
    assert not await large.wait(0.01)
    inside = Member.options(num_cpus=0, scheduling_strategy=al.PlacementGroupStrategy(group, 0))
    waiting = Member.options(scheduling_strategy=al.PlacementGroupStrategy(large)).remote()
    actors = [
        inside.remote(),
        inside.options(max_restarts=-1, scheduling_strategy=al.PlacementGroupStrategy(group, 1)).remote(),
        inside.options(name="kept", lifetime="detached", namespace="all", max_restarts=-1).remote(),
        inside.options(max_restarts=-1, scheduling_strategy=al.PlacementGroupStrategy(group, 2)).remote(),
    ]
    for actor in actors:
        await actor.node()
    held, unmade = [actor.hold.remote() for actor in actors], waiting.node.remote()
    await al.remove_placement_group(group)
    await al.remove_placement_group(large)
    assert free(three) == [2.0, 2.0, 2.0]
    for call in held:
        with pytest.raises(
            errors.ActorPlacementGroupRemoved, match=f"placement group {group.id} was removed"
        ) as caught:
            await asyncio.wait_for(call, 20)
        assert isinstance(caught.value, errors.ActorDiedError) and caught.value.may_have_run
    with pytest.raises(errors.ActorPlacementGroupRemoved, match=f"placement group {large.id} was removed") as caught:
        await asyncio.wait_for(unmade, 20)
    assert isinstance(caught.value, errors.NotExecuted)
    for actor in (*actors, waiting):
        with pytest.raises(errors.ActorPlacementGroupRemoved, match="has not run"):
            await actor.node()
        with pytest.raises(errors.ActorPlacementGroupRemoved):
            await al.ready(actor)
        assert (await al.describe(actor)).death_cause == "PLACEMENT_GROUP_REMOVED"
        with pytest.raises(errors.ActorPlacementGroupRemoved):
            await call_node(actor)
    with pytest.raises(errors.ActorNotFoundError):
        await al.get_actor("kept", namespace="all")


async def test_detached_actors_go_where_they_are_told(three: Cluster, eventually: Any) -> None:
    named = Member.options(name="one", namespace="all", lifetime="detached")
    for node in three.nodes:
        actor = named.options(scheduling_strategy=al.NodeAffinityStrategy(node.id)).remote()
        assert await actor.node() == node.id
        await al.kill(actor)
    group = await al.placement_group([{"CPU": 1}, {"CPU": 2}], strategy="STRICT_SPREAD")
    await group.ready(10)
    for index in (1, 0):
        inside = al.PlacementGroupStrategy(group, index)
        actor = named.options(num_cpus=1, scheduling_strategy=inside).remote()
        assert await actor.node() == (await group.state()).nodes[index]
        assert sorted(free(three)) == [0.0, 1.0, 2.0]
        await al.kill(actor)
    with pytest.raises(ValueError, match=r"Member needs {CPU: 3} and cannot fit"):
        named.options(num_cpus=3, scheduling_strategy=al.PlacementGroupStrategy(group)).remote()

    @al.remote
    async def make() -> None:
        await al.ready(named.options(name="child").remote())

    await make.options(scheduling_strategy=al.PlacementGroupStrategy(group, 0, capture_children=True))()
    await al.remove_placement_group(group)

    async def is_gone() -> bool:
        return await al.list_named_actors(all_namespaces=True) == []

    await eventually(is_gone)


async def test_what_ends_sooner_than_it_seems_is_warned_about(three: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    named = Member.options(name="one", namespace="all", lifetime="detached", num_cpus=0)
    with caplog.at_level(logging.WARNING, "actorlite"):
        brief = await al.placement_group([{"CPU": 1}])
        kept = await al.placement_group([{"CPU": 1}], name="kept", lifetime="detached")
        assert "group 'kept' is in a namespace of this session only" in caplog.text
        assert (brief.is_detached, kept.is_detached) == (False, True)
        assert (await al.get_placement_group("kept")).is_detached and pickle.loads(pickle.dumps(kept)).is_detached
        caplog.clear()
        for group in (kept, pickle.loads(pickle.dumps(brief))):
            actor = named.options(scheduling_strategy=al.PlacementGroupStrategy(group)).remote()
            await al.ready(actor)
            await al.kill(actor)
    (warning,) = caplog.messages
    assert warning.startswith(
        f"the detached actor 'one' ends with placement group {brief.id}, which ends with the session"
    )


async def test_a_group_that_cannot_be_written_down_is_not_made(
    three: Cluster, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    async def refuse(key: str, value: bytes) -> None:
        raise errors.ControlUnavailable("no room on the disk")

    monkeypatch.setattr(three.nodes[0].node.control.persistence, "put", refuse)
    with pytest.raises(errors.ControlUnavailable, match="no room on the disk"):
        await al.placement_group([{"CPU": 2}], name="kept", lifetime="detached")

    async def is_gone() -> bool:
        return free(three) == [2.0, 2.0, 2.0]

    await eventually(is_gone)
    with pytest.raises(ValueError, match="no placement group has it"):
        await al.get_placement_group("kept")
    await (await al.placement_group([{"CPU": 2}], name="kept")).ready(10)


async def test_lost_bundles_go_elsewhere_and_the_others_stay(three: Cluster, eventually: Any) -> None:
    spare = await three.add_node(2)
    group = await al.placement_group([{"CPU": 2}] * 3, strategy="STRICT_SPREAD")
    await group.ready(10)
    before = (await group.state()).nodes
    actors = [
        Member.options(num_cpus=2, scheduling_strategy=al.PlacementGroupStrategy(group, index)).remote()
        for index in range(3)
    ]
    assert tuple([await actor.node() for actor in actors]) == before
    lost = next(index for index, node in enumerate(before) if node not in (three.nodes[0].id, spare.id))
    (victim,) = [node for node in three.nodes if node.id == before[lost]]
    await three.kill_node(victim)

    async def again() -> bool:
        return (await group.state()).history[-2:] == ("RESCHEDULING", "CREATED")

    await eventually(again)
    info = await group.state()
    assert info.history == ("PENDING", "PREPARED", "CREATED", "RESCHEDULING", "CREATED")
    assert [a == b for a, b in zip(before, info.nodes, strict=True)] == [index != lost for index in range(3)]
    for index, actor in enumerate(actors):
        if index != lost:
            assert await actor.node() == before[index], "it was not touched"
    new = Member.options(num_cpus=2, scheduling_strategy=al.PlacementGroupStrategy(group, lost)).remote()
    assert await new.node() == info.nodes[lost]


async def test_a_node_lost_without_a_spare_one_waits_for_another_and_the_others_stay(
    three: Cluster, eventually: Any
) -> None:
    group = await al.placement_group([{"CPU": 2}] * 3, strategy="STRICT_SPREAD")
    await group.ready(10)
    before = (await group.state()).nodes
    assert set(before) == {node.id for node in three.nodes}
    actors = [
        Member.options(num_cpus=2, scheduling_strategy=al.PlacementGroupStrategy(group, index)).remote()
        for index in range(3)
    ]
    assert tuple([await actor.node() for actor in actors]) == before
    victim = three.nodes[2]
    lost = before.index(victim.id)
    await three.kill_node(victim)

    async def is_in(*history: str) -> bool:
        return (await group.state()).history == history

    made = ("PENDING", "PREPARED", "CREATED")
    await eventually(lambda: is_in(*made, "RESCHEDULING"))
    info = await group.state()
    assert info.nodes == tuple([None if index == lost else node for index, node in enumerate(before)])
    assert f"bundle {lost} (CPU: 2) fits on no node" in info.reason, "the survivors have one each"
    calls = [actor.node() for index, actor in enumerate(actors) if index != lost]
    assert await asyncio.gather(*calls) == [node for index, node in enumerate(before) if index != lost]
    spare = await three.add_node(2)
    await eventually(lambda: is_in(*made, "RESCHEDULING", "CREATED"))
    info = await group.state()
    assert info.nodes == tuple([spare.id if index == lost else node for index, node in enumerate(before)])
    await al.remove_placement_group(group)
    assert free(three) == [2.0, 2.0, 2.0]


async def test_fifty_groups_race_for_the_room_of_ten(scheme: str, eventually: Any) -> None:
    async with cluster(nodes=2, num_cpus=10, scheme=scheme) as two:
        pair = [{"CPU": 1}, {"CPU": 1}]
        groups = await asyncio.gather(*[al.placement_group(pair, strategy="STRICT_SPREAD") for _ in range(50)])
        turns = [asyncio.ensure_future(group.ready(60)) for group in groups]
        left = dict(zip([group.id for group in groups], groups, strict=True))

        async def all_taken() -> bool:
            table = await al.placement_group_table()
            return sum(table[name].state == "CREATED" for name in left) == min(10, len(left))

        while left:
            await eventually(all_taken)
            table = await al.placement_group_table()
            for name in left:
                nodes = [node for node in table[name].nodes if node]
                assert len(set(nodes)) == (2 if table[name].state == "CREATED" else 0), "all or nothing"
            assert sum(free(two)) == 20 - 2 * min(10, len(left)), "nothing is held by those who wait"
            created = [name for name in left if table[name].state == "CREATED"]
            await asyncio.gather(*[al.remove_placement_group(left.pop(name)) for name in created])
        assert await asyncio.gather(*turns) == groups
        assert free(two) == [10.0, 10.0]


async def test_fifty_groups_race_for_the_room_of_three(three: Cluster) -> None:
    async def use(number: int) -> str:
        group = await al.placement_group([{"CPU": 2}], strategy=["PACK", "SPREAD", "STRICT_PACK"][number % 3])
        await group.ready(60)
        node = await where.options(scheduling_strategy=al.PlacementGroupStrategy(group, 0))()
        assert node in (await group.state()).nodes
        await al.remove_placement_group(group)
        return node

    nodes = await asyncio.gather(*[use(number) for number in range(50)])
    assert set(nodes) == {node.id for node in three.nodes}
    assert free(three) == [2.0, 2.0, 2.0]


async def test_children_are_captured_when_asked_for(three: Cluster) -> None:
    @al.remote(num_cpus=1)
    async def parent(strategy: Any = None) -> tuple[str | None, str | None, str]:
        @al.remote
        async def child() -> str | None:
            group = al.current_placement_group()
            return None if group is None else group.id

        own = al.current_placement_group()
        options = {} if strategy is None else {"scheduling_strategy": strategy}
        return own and own.id, await child.options(**options)(), al.runtime_context().node_id

    group = await al.placement_group([{"CPU": 2}])
    await group.ready(10)
    inside = al.PlacementGroupStrategy(group, 0)
    captures = al.PlacementGroupStrategy(group, 0, capture_children=True)
    assert (await parent.options(scheduling_strategy=inside)())[:2] == (group.id, None)
    assert (await parent.options(scheduling_strategy=captures)())[:2] == (group.id, group.id)
    outside = al.PlacementGroupStrategy(None)
    assert (await parent.options(scheduling_strategy=captures)(outside))[:2] == (group.id, None)
    assert (await parent())[:2] == (None, None)
    assert al.current_placement_group() is None


async def test_a_group_ends_with_its_session_unless_it_is_detached(three: Cluster, eventually: Any) -> None:
    other = AsyncExitStack()
    runtime = await three.connect(three.nodes[1], other)
    token = current_runtime.set(runtime)
    mine = await al.placement_group([{"CPU": 1}], name="mine")
    kept = await al.placement_group([{"CPU": 1}], name="kept", lifetime="detached")
    await mine.ready(10)
    await kept.ready(10)
    current_runtime.reset(token)
    table = await al.placement_group_table()
    assert {table[mine.id].state, table[kept.id].state} == {"CREATED"}
    await other.aclose()

    async def ended() -> bool:
        return (await al.placement_group_table())[mine.id].state == "REMOVED"

    await eventually(ended)
    assert (await al.placement_group_table())[kept.id].state == "CREATED"
    assert (await al.placement_group_table())[kept.id].is_detached


async def test_a_request_that_fits_no_bundle_is_refused_at_once(three: Cluster) -> None:
    group = await al.placement_group([{"CPU": 1}])
    inside = al.PlacementGroupStrategy(group)
    with pytest.raises(ValueError, match=r"where needs {CPU: 2} and cannot fit into any bundle"):
        where.options(num_cpus=2, scheduling_strategy=inside).remote()
    with pytest.raises(ValueError, match=r"Member needs {CPU: 2} and cannot fit"):
        Member.options(num_cpus=2, scheduling_strategy=inside).remote()


async def test_names_of_groups_are_unique(three: Cluster) -> None:
    group = await al.placement_group([{"CPU": 1}], name="once")
    with pytest.raises(errors.PlacementGroupError, match="name='once' is taken.*get_placement_group"):
        await al.placement_group([{"CPU": 1}], name="once")
    await al.remove_placement_group(group)
    again = await al.placement_group([{"CPU": 1}], name="once")
    assert await al.get_placement_group("once") == again != group
    with pytest.raises(ValueError, match="name='' is empty"):
        await al.get_placement_group("")
