"""Nodes that leave in good order: what runs there, what comes meanwhile, and what the time is over for."""

from __future__ import annotations

import asyncio
import gc
import random
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest

import actorlite as al
from actorlite import errors
from actorlite.ids import ProcessId
from actorlite.resources import NodeResources
from actorlite.state.draining import working
from actorlite.testing import Cluster, cluster
from actorlite.wire.nodes import DrainNode

pytestmark = pytest.mark.asyncio


class Gate(al.Actor):
    """On the first node: lets others go on."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = 0

    async def pass_through(self) -> int:
        self.inside += 1
        await self.open.wait()
        return self.inside

    async def let(self) -> None:
        self.open.set()

    async def count(self) -> int:
        return self.inside


@al.remote
async def where() -> str:
    return al.runtime_context().node_id


@al.remote
async def slowly() -> str:
    await asyncio.sleep(0.05)
    return al.runtime_context().node_id


@al.remote
async def wait_at(gate: Any) -> str:
    await gate.pass_through()
    return al.runtime_context().node_id


class Member(al.Actor):
    def __init__(self) -> None:
        self.calls = 0

    async def node(self) -> str:
        self.calls += 1
        return al.runtime_context().node_id

    async def wait_at(self, gate: Any) -> str:
        await gate.pass_through()
        return al.runtime_context().node_id

    async def count(self) -> int:
        self.calls += 1
        return self.calls


def on(node: Any, *, soft: bool = False) -> Any:
    return {"scheduling_strategy": al.NodeAffinityStrategy(node.id, soft=soft)}


async def inside(gate: Any, eventually: Any, number: int = 1) -> None:
    async def all_inside() -> bool:
        return bool(await gate.count() >= number)

    await eventually(all_inside)


def gate_on(node: Any) -> Any:
    return Gate.options(max_concurrency=100, **on(node)).remote()


def all_know(made: Cluster, node: Any) -> bool:
    return all(each.views[node.id].draining for each in made.nodes if each.is_running and node.id in each.views)


async def test_an_idle_node_leaves_at_once_and_others_say_why(three: Cluster) -> None:
    first, second, third = three.nodes
    assert await where.options(**on(third))() == third.id  # its lease is idle, and kept for a while
    async with asyncio.timeout(30):
        await three.drain_node(third)
    assert not third.is_running
    assert third.id not in first.views
    assert "it was drained" in first.node.members.lost[third.id]
    with pytest.raises(ValueError, match="no running node"):
        await three.drain_node(third)
    assert await where() in (first.id, second.id)


async def test_what_runs_goes_on_and_nothing_new_comes(three: Cluster, eventually: Any) -> None:
    first, second, third = three.nodes
    gate = gate_on(first)
    full = [Member.options(num_cpus=2, **on(node)).remote() for node in three.nodes]
    assert [await each.node() for each in full] == [node.id for node in three.nodes]
    actor = full[2]
    running = wait_at.options(num_cpus=0, **on(third)).remote(gate)
    await inside(gate, eventually)
    # They wait for room there, and go elsewhere.
    waiting = [where.options(num_cpus=1, **on(third, soft=True)).remote() for _ in range(4)]

    async def queued() -> bool:
        return bool(third.node.table.waiting)

    await eventually(queued)
    draining = asyncio.ensure_future(three.drain_node(third))

    async def moved() -> bool:
        return all_know(three, third) and not third.node.table.waiting

    await eventually(moved)
    await al.kill(full[0])
    await al.kill(full[1])
    async with asyncio.timeout(30):
        assert set(await al.get(waiting)) <= {first.id, second.id}
        spread = await al.get([where.options(scheduling_strategy="SPREAD").remote() for _ in range(8)])
        assert set(spread) <= {first.id, second.id}
        assert await actor.node() == third.id
        with pytest.raises(errors.TaskUnschedulableError, match=f"node {third.id} is being drained"):
            await where.options(**on(third))()
        with pytest.raises(errors.ActorDiedError, match=f"node {third.id} is being drained"):
            await Member.options(**on(third)).remote().node()
        assert await where.options(**on(third, soft=True))() != third.id
        assert all_know(three, third)
        await gate.let()
        assert await running == third.id
        assert third.is_running  # the actor may not be made anew, and is waited for
        assert not draining.done()
        await al.terminate(actor)
        await draining
    assert not third.is_running


async def test_leases_with_more_to_run_come_back(three: Cluster) -> None:
    """A caller keeps its leases while it has work for them; work that never ends would never give them back."""
    third = three.nodes[2]
    more, seen = True, set()

    async def keep_busy() -> None:
        while more:
            seen.add(await slowly.options(num_cpus=1).remote())

    busy = [asyncio.ensure_future(keep_busy()) for _ in range(30)]
    async with asyncio.timeout(30):
        while third.id not in seen:
            await asyncio.sleep(0.01)
        await three.drain_node(third)
        more = False
        await asyncio.gather(*busy)


async def test_when_the_time_is_over_what_runs_is_ended_with_the_reason(three: Cluster, eventually: Any) -> None:
    first, second, third = three.nodes
    gate = gate_on(first)
    actor = Member.options(num_cpus=1, **on(third)).remote()
    call = actor.wait_at.remote(gate)
    task = wait_at.options(num_cpus=1, max_retries=0, **on(third)).remote(gate)
    await inside(gate, eventually, 2)
    async with asyncio.timeout(30):
        await three.drain_node(third, timeout=0.1)
        with pytest.raises(errors.WorkerCrashedError, match="was drained, and the timeout of 0.1 s") as crashed:
            await task
        assert crashed.value.outcome is errors.Outcome.UNKNOWN
        with pytest.raises(errors.ActorDiedError, match="was drained, and the timeout of 0.1 s") as died:
            await call
        assert died.value.outcome is errors.Outcome.UNKNOWN
        with pytest.raises(errors.ActorDiedError, match="was drained") as later:
            await actor.node()
        assert later.value.outcome is errors.Outcome.NOT_EXECUTED
    assert not third.is_running
    assert await where() in (first.id, second.id)


async def test_tasks_that_may_run_again_do_so_and_it_is_not_counted(eventually: Any) -> None:
    has = NodeResources(2, resources={"x": 1})
    async with cluster(nodes=[NodeResources(2), has, has]) as made:
        gate = gate_on(made.nodes[0])
        task = wait_at.options(num_cpus=0, resources={"x": 1}, max_retries=1).remote(gate)
        async with asyncio.timeout(30):
            # It has one retry, and is lost with three nodes.
            for lost in range(3):
                await inside(gate, eventually, lost + 1)
                (busy,) = [
                    node
                    for node in made.nodes
                    if node is not made.nodes[0] and node.is_running and working([node.node.table])
                ]
                await made.add_node(has)
                await made.drain_node(busy, timeout=0)
            await inside(gate, eventually, 4)
            await gate.let()
            assert await task in [node.id for node in made.nodes if node.is_running]


async def test_the_leading_node_the_last_one_and_bad_arguments_are_refused(three: Cluster) -> None:
    first, second, third = three.nodes
    with pytest.raises(errors.DrainRefused, match="leads the cluster .* `actorlite stop`") as refused:
        await three.drain_node(first)
    assert refused.value.outcome is errors.Outcome.NOT_EXECUTED
    for timeout in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="timeout="):
            await three.drain_node(second, timeout=timeout)
    await three.partition([first, second], [third])
    with pytest.raises(errors.DrainRefused, match="knows no other node .* --join"):
        await three.drain_node(third)
    await three.heal()
    assert await where.options(**on(third))() == third.id  # nothing has changed


async def test_draining_twice_waits_for_the_same_end_and_the_shorter_time_counts(
    three: Cluster, eventually: Any
) -> None:
    first, _, third = three.nodes
    gate = gate_on(first)
    task = wait_at.options(num_cpus=1, max_retries=0, **on(third)).remote(gate)
    await inside(gate, eventually)
    both = [asyncio.ensure_future(three.drain_node(third)), asyncio.ensure_future(three.drain_node(third, timeout=60))]
    done, _ = await asyncio.wait(both, timeout=0.3)
    assert not done
    async with asyncio.timeout(30):
        await three.drain_node(third, timeout=0)
        await asyncio.gather(*both)
    with pytest.raises(errors.WorkerCrashedError, match="the timeout of 0 s"):
        await task


async def test_to_cancel_the_waiting_leaves_the_node_leaving(three: Cluster, eventually: Any) -> None:
    first, _, third = three.nodes
    gate = gate_on(first)
    task = wait_at.options(num_cpus=1, **on(third)).remote(gate)
    await inside(gate, eventually)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await three.drain_node(third)
    assert third.is_running
    with pytest.raises(errors.TaskUnschedulableError, match="is being drained"):
        await where.options(**on(third))()
    await gate.let()
    assert await task == third.id

    async def gone() -> bool:
        return not third.is_running and third.id not in first.views

    await eventually(gone)


async def test_a_node_that_is_killed_while_it_is_drained(three: Cluster, eventually: Any) -> None:
    first, second, third = three.nodes
    gate = gate_on(first)
    task = wait_at.options(num_cpus=1, max_retries=1, **on(third, soft=True)).remote(gate)
    await inside(gate, eventually)
    draining = asyncio.ensure_future(three.drain_node(third))

    async def known() -> bool:
        return third.node.desk.leaving and all_know(three, third)

    await eventually(known)
    async with asyncio.timeout(30):
        await three.kill_node(third)
        with pytest.raises(errors.NodeDiedError, match="ended while it was drained: it was killed"):
            await draining
        await gate.let()
        assert await task in (first.id, second.id)


async def test_a_partition_while_a_node_is_drained(three: Cluster, eventually: Any) -> None:
    first, second, third = three.nodes
    gate = gate_on(third)
    runtime_gate = wait_at.options(num_cpus=1, max_retries=0, **on(third)).remote(gate)
    await inside(gate, eventually)
    draining = asyncio.ensure_future(three.drain_node(third))

    async def known() -> bool:
        return third.node.desk.leaving and all_know(three, third)

    await eventually(known)
    async with asyncio.timeout(30):
        await three.partition([first, second], [third])
        # What it did was for a driver of the other side: that ends, and then nothing is left there.
        await draining
        with pytest.raises(errors.ActorliteError, match="node"):
            await runtime_gate
    assert not third.is_running
    await three.heal()
    assert await where() in (first.id, second.id)


async def test_nodes_that_come_meanwhile_know_of_it_and_take_what_waits(three: Cluster, eventually: Any) -> None:
    first, _, third = three.nodes
    gate = gate_on(first)
    task = wait_at.options(num_cpus=1, **on(third)).remote(gate)
    await inside(gate, eventually)
    draining = asyncio.ensure_future(three.drain_node(third))
    await asyncio.sleep(0)
    fourth = await three.add_node(8)
    assert fourth.views[third.id].draining
    assert await where.options(num_cpus=8)() == fourth.id
    await gate.let()
    assert await task == third.id
    await draining


async def test_sessions_of_the_node_are_waited_for_and_none_is_new(three: Cluster) -> None:
    _, second, third = three.nodes
    async with AsyncExitStack() as stack:
        await three.connect(third, stack)
        draining = asyncio.ensure_future(three.drain_node(third))
        done, _ = await asyncio.wait({draining}, timeout=0.3)
        assert not done
        async with AsyncExitStack() as refused:
            with pytest.raises(errors.NodeDraining, match="no new sessions"):
                await three.connect(third, refused)
    async with asyncio.timeout(30):
        await draining
    assert second.is_running


async def test_the_end_of_the_session_or_the_cluster_while_a_node_is_drained(eventually: Any) -> None:
    async with cluster(nodes=3, num_cpus=2) as made:
        _, second, third = made.nodes
        gates = [gate_on(made.nodes[0]), gate_on(second)]
        refs = [wait_at.options(num_cpus=1, **on(third)).remote(gates[0])]
        await inside(gates[0], eventually)
        draining = asyncio.ensure_future(made.drain_node(third))
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await made.session.shutdown()
            await draining  # what it waited for was the session's
        stuck = asyncio.ensure_future(made.drain_node(second))
        await asyncio.sleep(0)
    await asyncio.wait({stuck}, timeout=30)
    assert stuck.done()
    del refs


async def test_actors_that_may_be_made_anew_move_after_the_calls_that_they_have(
    three: Cluster, eventually: Any
) -> None:
    first, second, third = three.nodes
    gate = gate_on(first)
    actor = Member.options(num_cpus=1, max_restarts=1, **on(third, soft=True)).remote()
    assert await actor.node() == third.id
    call = actor.wait_at.remote(gate)
    behind = actor.node.remote()
    await inside(gate, eventually)
    draining = asyncio.ensure_future(three.drain_node(third))

    async def moving() -> bool:
        return (await al.describe(actor)).state == "RESTARTING"

    await eventually(moving)
    later = [actor.count.remote() for _ in range(3)]
    async with asyncio.timeout(30):
        await gate.let()
        assert await call == third.id
        assert await behind == third.id
        assert await al.get(later) == [1, 2, 3]  # of the new one, in order
        await draining
        assert await actor.node() in (first.id, second.id)
    # It has not used up its restart: that is there when its worker dies.
    assert (await al.describe(actor)).restarts == 1
    place = await actor.node()
    if place == second.id:
        await three.kill_node(second)
        assert await actor.node() == first.id
    else:
        await al.kill(actor, no_restart=False)
        assert await actor.node() in (first.id, second.id)
    await al.kill(actor, no_restart=False)
    with pytest.raises(errors.ActorDiedError):
        await actor.node()


async def test_handles_of_other_processes_follow_an_actor_that_moves(three: Cluster) -> None:
    first, second, third = three.nodes
    actor = Member.options(num_cpus=0, max_restarts=-1, **on(third, soft=True)).remote()

    class User(al.Actor):
        def __init__(self, other: Any) -> None:
            self.other = other

        async def use(self) -> str:
            return await self.other.node()

    user = User.options(**on(second)).remote(actor)
    assert await user.use() == third.id
    async with asyncio.timeout(30):
        await three.drain_node(third)
        assert await user.use() in (first.id, second.id)
    assert await actor.node() == await user.use()


async def test_calls_during_moves_run_once_each(three: Cluster) -> None:
    third = three.nodes[2]
    actor = Member.options(num_cpus=0, max_restarts=-1, **on(third, soft=True)).remote()
    assert await actor.node() == third.id
    calls = [actor.count.remote() for _ in range(50)]
    draining = asyncio.ensure_future(three.drain_node(third))
    while not draining.done():
        calls.append(actor.count.remote())
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await draining
        found = await al.get(calls)
    again = found.index(1)
    assert found == [*range(2, again + 2), *range(1, len(found) - again + 1)]


async def test_an_actor_that_can_be_nowhere_else_stays_until_the_time_is_over(three: Cluster) -> None:
    third = three.nodes[2]
    bound = Member.options(max_restarts=-1, **on(third)).remote()
    assert await bound.node() == third.id
    draining = asyncio.ensure_future(three.drain_node(third))
    done, _ = await asyncio.wait({draining}, timeout=0.5)
    assert not done
    assert await bound.node() == third.id
    async with asyncio.timeout(30):
        await three.drain_node(third, timeout=0)
        await draining
        with pytest.raises(errors.ActorDiedError):
            await bound.node()


async def test_a_detached_actor_moves(three: Cluster) -> None:
    first, second, third = three.nodes
    options = {"name": "kept", "lifetime": "detached", "max_restarts": 1, **on(third, soft=True)}
    actor = Member.options(**options).remote()
    assert await actor.node() == third.id
    async with asyncio.timeout(30):
        await three.drain_node(third)
        assert await actor.node() in (first.id, second.id)
        found = await al.get_actor("kept")
        assert await found.node() == await actor.node()
    await al.kill(found)


async def test_bundles_go_elsewhere_and_what_runs_in_them_ends_first(three: Cluster, eventually: Any) -> None:
    first, second, third = three.nodes
    gate = gate_on(first)
    group = await al.placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD")
    await group.ready(10)
    nodes = (await al.placement_group_table(group))[group.id].nodes
    index, leaves = next((i, node) for i, node in enumerate(nodes) if node != first.id)
    leaving = next(node for node in three.nodes if node.id == leaves)
    inside_it = {"scheduling_strategy": al.PlacementGroupStrategy(group, bundle_index=index)}
    running = wait_at.options(num_cpus=1, **inside_it).remote(gate)
    actor = Member.options(num_cpus=0, max_restarts=-1, **inside_it).remote()
    stays = Member.options(
        num_cpus=0, scheduling_strategy=al.PlacementGroupStrategy(group, bundle_index=1 - index)
    ).remote()
    await inside(gate, eventually)
    assert await actor.node() == leaves
    assert await stays.node() == nodes[1 - index]
    draining = asyncio.ensure_future(three.drain_node(leaving))

    async def moved() -> bool:
        table = (await al.placement_group_table(group))[group.id]
        return table.state == "CREATED" and table.nodes[index] not in ("", leaves)

    await eventually(moved)
    async with asyncio.timeout(30):
        place = (await al.placement_group_table(group))[group.id].nodes[index]
        assert await where.options(num_cpus=1, **inside_it)() == place
        assert await actor.node() == place
        assert not draining.done()
        await gate.let()
        assert await running == leaves
        await draining
    assert await stays.node() == nodes[1 - index]
    await al.remove_placement_group(group)


async def test_a_group_that_is_removed_ends_what_runs_in_a_bundle_that_it_has_left(
    three: Cluster, eventually: Any
) -> None:
    first, _, third = three.nodes
    gate = gate_on(first)
    group = await al.placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    await group.ready(10)
    nodes = (await al.placement_group_table(group))[group.id].nodes
    inside_it = {"scheduling_strategy": al.PlacementGroupStrategy(group, bundle_index=nodes.index(third.id))}
    running = wait_at.options(num_cpus=1, max_retries=0, **inside_it).remote(gate)
    await inside(gate, eventually)
    draining = asyncio.ensure_future(three.drain_node(third))

    async def rescheduling() -> bool:
        table = (await al.placement_group_table(group))[group.id]
        return table.state == "RESCHEDULING" and "is being drained" in table.reason

    await eventually(rescheduling)
    async with asyncio.timeout(30):
        await al.remove_placement_group(group)
        with pytest.raises(errors.ActorliteError, match="was removed"):
            await running
        await draining


async def test_a_session_of_the_node_ends_with_the_reason_when_the_time_is_over(
    three: Cluster, eventually: Any
) -> None:
    third = three.nodes[2]
    async with AsyncExitStack() as stack:
        runtime = await three.connect(third, stack)
        async with asyncio.timeout(30):
            await three.drain_node(third, timeout=0)
            await eventually(lambda: told(runtime))
        assert "it was drained" in runtime.gone


async def told(runtime: Any) -> bool:
    return bool(runtime.gone)


async def test_two_nodes_drained_at_the_same_time(three: Cluster) -> None:
    first, second, third = three.nodes
    busy = [slowly.options(num_cpus=1).remote() for _ in range(40)]
    async with asyncio.timeout(30):
        await asyncio.gather(three.drain_node(second), three.drain_node(third, timeout=20))
        assert len(await al.get(busy)) == 40
        assert await where() == first.id
    assert [node.is_running for node in three.nodes] == [True, False, False]


async def test_what_fits_nowhere_else_says_so_and_waits_for_nodes_if_it_may(three: Cluster, eventually: Any) -> None:
    large = await three.add_node(6)
    gate = gate_on(three.nodes[0])
    running = wait_at.options(num_cpus=6).remote(gate)
    await inside(gate, eventually)
    actor = Member.options(num_cpus=0, resources={}, max_restarts=1, **on(large)).remote()
    draining = asyncio.ensure_future(three.drain_node(large))
    with pytest.raises(errors.TaskUnschedulableError, match=f"node {large.id} is being drained"):
        while True:
            await where.options(num_cpus=6)()
    waits = where.options(num_cpus=6, schedule_timeout=30).remote()
    with pytest.raises(errors.TaskUnschedulableError, match="being drained"):
        await where.options(num_cpus=6, schedule_timeout=0.2)()
    async with asyncio.timeout(30):
        other = await three.add_node(6)
        assert await waits == other.id
        await gate.let()
        assert await running == large.id
        await al.kill(actor)
        await draining


@al.remote(num_cpus=0)
async def make(size: int) -> Any:
    return np.arange(size, dtype="f8")


async def test_values_that_only_the_node_had_are_made_again_elsewhere(three: Cluster) -> None:
    first, second, third = three.nodes
    made = make.options(max_retries=1, **on(third, soft=True)).remote(200_000)
    lost = make.options(max_retries=0, **on(third, soft=True)).remote(200_000)
    copied = make.options(max_retries=0, **on(third, soft=True)).remote(200_000)
    await al.wait([made, lost, copied], num_returns=3, fetch_local=False)
    assert float((await copied).sum()) == 200_000 * 199_999 / 2
    async with asyncio.timeout(30):
        await three.drain_node(third)
        assert float((await made).sum()) == 200_000 * 199_999 / 2
        assert float((await copied).sum()) == 200_000 * 199_999 / 2
        with pytest.raises(errors.ObjectLostError):
            await lost


async def test_any_process_may_ask_its_node_for_a_drain_of_another(three: Cluster, eventually: Any) -> None:
    first, _, third = three.nodes
    gate = gate_on(first)
    running = wait_at.options(num_cpus=1, **on(third)).remote(gate)
    await inside(gate, eventually)
    hub, node = three.session.runtime.hub, three.session.runtime.node.peer
    with pytest.raises(errors.DrainRefused, match="node 0011223344556677 cannot be drained: .* `actorlite status`"):
        await node.request(next(hub.numbers), DrainNode(0.0, ProcessId("0011223344556677")))
    with pytest.raises(errors.DrainRefused, match="leads"):
        await node.request(next(hub.numbers), DrainNode(0.0))
    asking = asyncio.ensure_future(node.request(next(hub.numbers), DrainNode(None, third.id)))

    async def known() -> bool:
        return all_know(three, third)

    await eventually(known)
    await gate.let()
    async with asyncio.timeout(30):
        assert await running == third.id
        assert (await asking).value
        await three.drain_node(third)  # empty as it is
    again = three.nodes[1]
    gate = gate_on(first)
    running = wait_at.options(num_cpus=1, max_retries=1, **on(again, soft=True)).remote(gate)
    await inside(gate, eventually)
    asking = asyncio.ensure_future(node.request(next(hub.numbers), DrainNode(None, again.id)))
    await eventually(lambda: leaves(again))
    await three.kill_node(again)
    async with asyncio.timeout(30):
        with pytest.raises(errors.NodeDiedError, match="while it was drained"):
            await asking
        await gate.let()
        assert await running == first.id


async def leaves(node: Any) -> bool:
    return bool(node.node.desk.leaving)


async def test_an_actor_that_is_killed_or_terminated_while_it_moves_is_not_made_anew(
    three: Cluster, eventually: Any
) -> None:
    first, _, third = three.nodes
    gate = gate_on(first)
    options = {"num_cpus": 0, "max_restarts": -1, **on(third, soft=True)}
    killed, terminated = Member.options(**options).remote(), Member.options(**options).remote()
    calls = [each.wait_at.remote(gate) for each in (killed, terminated)]
    await inside(gate, eventually, 2)
    draining = asyncio.ensure_future(three.drain_node(third))

    async def moving() -> bool:
        return {(await al.describe(each)).state for each in (killed, terminated)} == {"RESTARTING"}

    await eventually(moving)
    async with asyncio.timeout(30):
        await al.kill(killed)
        await al.terminate(terminated)
        await gate.let()
        with pytest.raises(errors.ActorDiedError):
            await calls[0]
        assert await calls[1] == third.id
        await draining
        for each in (killed, terminated):
            with pytest.raises(errors.ActorDiedError):
                await each.node()


@pytest.mark.parametrize("seed", range(6))
async def test_nodes_that_come_and_go_lose_no_work(seed: int) -> None:
    luck = random.Random(seed)
    async with cluster(nodes=3, num_cpus=[3, 2, 2]) as made:  # the first has room beside the group
        actors = [Member.options(num_cpus=0, max_restarts=-1, scheduling_strategy="SPREAD").remote() for _ in range(6)]
        group = await al.placement_group([{"CPU": 1}] * 2, strategy="SPREAD")
        inside_it = {"scheduling_strategy": al.PlacementGroupStrategy(group)}
        over = False
        done = 0

        async def work() -> None:
            nonlocal done
            while not over:
                kind = luck.randrange(3)
                if kind == 0:
                    assert await slowly.options(max_retries=-1, num_cpus=luck.choice([0, 1])).remote()
                elif kind == 1:
                    await luck.choice(actors).count()
                else:
                    assert await slowly.options(max_retries=-1, num_cpus=1, **inside_it).remote()
                done += 1

        working_ = [asyncio.ensure_future(work()) for _ in range(12)]
        async with asyncio.timeout(60):
            for _ in range(6):
                await made.add_node(2)
                leaving = [node for node in made.nodes[1:] if node.is_running]
                luck.shuffle(leaving)
                await asyncio.gather(*[made.drain_node(each) for each in leaving[: luck.randint(1, 2)]])
                for node in made.nodes:
                    if node.is_running:
                        node.node.table.check()
            over = True
            await asyncio.gather(*working_)
            assert done > 20
            await group.ready(10)
            await al.remove_placement_group(group)
            actors.clear()
            while any(node.node.table.held for node in made.nodes if node.is_running):
                gc.collect()
                await asyncio.sleep(0.01)


class Light(al.Actor, process="shared"):
    async def word(self) -> str:
        return "light"


@al.remote
async def make_light(keep: bool) -> Any:
    light = Light.remote()
    return await light.word(), light if keep else None


async def test_light_actors_that_have_ended_do_not_keep_a_node(eventually: Any) -> None:
    async with cluster(nodes=2, num_cpus=1) as found:
        node = found.nodes[1]
        there = make_light.options(scheduling_strategy=al.NodeAffinityStrategy(node.id))
        assert await there(False) == ("light", None)
        word, light = await there(True)
        assert (word, await light.word()) == ("light", "light")
        draining = asyncio.ensure_future(found.drain_node(node))

        async def leaves() -> bool:
            return node.node.desk.leaving

        await eventually(leaves)
        assert await light.word() == "light", "it stays until it ends"
        assert not draining.done()
        del light
        async with asyncio.timeout(20):
            await draining
