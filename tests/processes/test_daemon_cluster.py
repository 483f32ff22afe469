"""Several node daemons in one cluster, and sessions that attach to any of them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorlite as al
from actorlite.config import session_directory_of
from actorlite.errors import DrainRefused, NodeStartError
from actorlite.node.launch import launch_daemon
from actorlite.resources import NodeResources
from actorlite.testing import DaemonCluster, daemons
from actorlite.wire.launch import DaemonConfig

from ..endings import POLL_S, WITHIN_S, until, wait_until_gone

pytestmark = pytest.mark.asyncio

NUMBERS = 200_000


class Member(al.Actor, num_cpus=1):
    def __init__(self) -> None:
        self.calls = 0

    async def where(self) -> tuple[str, int]:
        self.calls += 1
        return al.runtime_context().node_id, os.getpid()

    async def total(self, values: Any) -> float:
        return float(values.sum())

    async def ask(self, other: Member) -> tuple[str, int]:
        return await other.where()

    async def make(self) -> Any:
        return np.arange(NUMBERS, dtype="f8")


@al.remote(num_cpus=1, scheduling_strategy="SPREAD")
async def meet(place: Path, count: int) -> str:
    """Returns when all have come, and keeps its CPU until then, which a call that waits for another would not."""
    node = al.runtime_context().node_id
    (place / f"{os.getpid()}").touch()
    while len(list(place.iterdir())) < count:
        await asyncio.sleep(POLL_S)
    return node


async def all_free(session: al.Session) -> bool:
    nodes = (await session.status())["nodes"]
    return all(each["free"].get("CPU", 0) == each["resources"].get("CPU", 0) for each in nodes)


def directories(found: DaemonCluster) -> list[Path]:
    return [session_directory_of(each.address) for each in found.nodes]


@pytest.mark.parametrize("attached", [0, 2], ids=["the first", "one that joined"])
async def test_work_spans_all_of_them(attached: int, tmp_path: Path) -> None:
    pids: set[int] = set()
    async with daemons(nodes=3, num_cpus=1) as found:
        async with al.init(found.nodes[attached].address) as session:
            nodes = (await session.status())["nodes"]
            assert [each["pid"] for each in nodes].count(found.nodes[attached].pid) == 1
            assert {each["address"] for each in nodes} == {each.address for each in found.nodes}
            assert [each["address"] for each in nodes if each["leads"]] == [found.nodes[0].address]
            everywhere = {each["node"] for each in nodes}
            assert len(everywhere) == 3

            spread = await al.get([meet.remote(tmp_path, 3) for _ in range(3)], timeout=WITHIN_S)
            assert set(spread) == everywhere

            group = await al.placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
            await group.ready(WITHIN_S)
            members = [
                Member.options(scheduling_strategy=al.PlacementGroupStrategy(group, index)).remote()
                for index in range(3)
            ]
            told = [await each.where() for each in members]
            assert {node for node, _ in told} == everywhere
            assert await members[0].ask(members[1]) == told[1]
            assert await members[1].ask(members[2]) == told[2]
            pids = {pid for _, pid in told} | {each.pid for each in found.nodes}

            mine = await al.put(np.ones(NUMBERS))
            assert [await each.total(al.arg(mine)) for each in members] == [float(NUMBERS)] * 3
            theirs = [each.make.remote() for each in members]
            sums = [
                await each.total(al.arg(value)) for each, value in zip(members[1:] + members[:1], theirs, strict=True)
            ]
            assert sums == [NUMBERS * (NUMBERS - 1) / 2] * 3
            assert [float(value[-1]) for value in await al.get(theirs)] == [NUMBERS - 1.0] * 3
            del mine, theirs
            await al.remove_placement_group(group)
            await until(lambda: all_free(session))
        places = directories(found)
    await asyncio.to_thread(wait_until_gone, pids, *places)


async def test_two_sessions_on_two_daemons_share_names_and_room() -> None:
    async with daemons(nodes=2, num_cpus=1) as found:
        first, second = (al.init(each.address, namespace="both") for each in found.nodes)
        async with first as one, second as other:
            with one.use():
                kept = Member.options(name="shared").remote()
                place = await kept.where()
            with other.use():
                same = await al.get_actor("shared")
                assert await same.where() == place
                assert await until(lambda: _free_everywhere(other, 1.0))
            with one.use():
                await al.kill(kept)
            assert await until(lambda: all_free(other))
        pids, places = [each.pid for each in found.nodes], directories(found)
    await asyncio.to_thread(wait_until_gone, pids, *places)


async def _free_everywhere(session: al.Session, cpus: float) -> bool:
    return bool(sum(each["free"].get("CPU", 0) for each in (await session.status())["nodes"]) == cpus)


async def test_who_joins_one_that_joined_knows_all_and_who_stops_is_forgotten() -> None:
    async with daemons(nodes=2, num_cpus=1) as found:
        last = await found.add_node(NodeResources(1, labels={"zone": "late"}), join=found.nodes[1].address)
        async with al.init(found.nodes[0].address) as session:
            late = Member.options(label_selector={"zone": "late"}).remote()
            node, _ = await late.where()
            early = Member.options(label_selector={"zone": "!late"}).remote()
            before = await early.where()
            assert len((await session.status())["nodes"]) == 3
            assert "exited with code 0" in await last.stop()

            async def two() -> bool:
                return len((await session.status())["nodes"]) == 2

            await until(two)
            with pytest.raises(al.errors.ActorDiedError, match="its node"):
                await late.where()
            assert await early.where() == before
            with pytest.raises(al.errors.ActorDiedError, match=f"node {node} is not in the cluster"):
                await Member.options(scheduling_strategy=al.NodeAffinityStrategy(node)).remote().where()


async def test_a_node_of_another_cluster_is_not_let_in(tmp_path: Path) -> None:
    """The daemon asks by itself, and what it knows is not the token."""
    async with daemons(nodes=1, num_cpus=1) as found:
        address, mine = found.nodes[0].address, tmp_path / "mine"
        config = DaemonConfig(
            session_directory=str(mine), node=f"uds://{mine}/node.sock", token=b"of another cluster", join=address
        )
        with pytest.raises(NodeStartError, match=f"cannot join the cluster of the node at {address}: .*token"):
            await launch_daemon(config)
        await asyncio.to_thread(wait_until_gone, [], mine)
        async with al.init(address) as session:
            assert len((await session.status())["nodes"]) == 1


async def test_what_is_not_there_cannot_be_joined() -> None:
    async with daemons(nodes=1, num_cpus=1) as found:
        nowhere = f"{found.nodes[0].address}.not"
        with pytest.raises(NodeStartError, match="cannot join the node at .*node.sock.not: .*; start that node first"):
            await found.add_node(NodeResources(1), join=nowhere)
        await found.nodes[0].kill()
        with pytest.raises(NodeStartError, match="cannot join the node at .*/0/node.sock: .*; start that node first"):
            await found.add_node(NodeResources(1), join=found.nodes[0].address)


@al.remote(num_cpus=1)
async def stand(place: Path, name: str) -> str:
    """Returns when it may; keeps its CPU until then."""
    (place / f"{name}-{os.getpid()}").touch()
    while not (place / f"{name} may go").exists():
        await asyncio.sleep(POLL_S)
    return al.runtime_context().node_id


async def came(place: Path, pattern: str) -> bool:
    return bool(list(place.glob(pattern)))


async def test_a_drained_daemon_waits_for_what_runs_and_ends(tmp_path: Path) -> None:
    async with daemons(nodes=3, num_cpus=1) as found, al.init(found.nodes[0].address) as session:
        second, third = found.nodes[1:]
        ids = {each["address"]: each["node"] for each in (await session.status())["nodes"]}
        with pytest.raises(DrainRefused, match="leads the cluster"):
            await found.nodes[0].drain()
        with pytest.raises(ValueError, match="timeout=-1"):
            await third.drain(timeout=-1)

        def on(node: Any) -> Any:
            return {"scheduling_strategy": al.NodeAffinityStrategy(ids[node.address], soft=True)}

        actor = Member.options(num_cpus=0, max_restarts=1, **on(third)).remote()
        assert (await actor.where())[0] == ids[third.address]
        running = stand.options(**on(third)).remote(tmp_path, "first")
        await until(lambda: came(tmp_path, "first-*"))
        draining = asyncio.create_task(third.drain())
        async with asyncio.timeout(WITHIN_S):
            while not [each["draining"] for each in (await session.status())["nodes"]].count(True):
                await asyncio.sleep(POLL_S)
            while (await actor.where())[0] == ids[third.address]:
                await asyncio.sleep(POLL_S)
            assert third.is_running and not draining.done()
            (tmp_path / "first may go").touch()
            assert await running == ids[third.address]
            assert "exited with code 0 (it was drained)" in await draining
        assert len((await session.status())["nodes"]) == 2
        # What the time is over for is ended, and done again where it may be.
        again = stand.options(**on(second)).remote(tmp_path, "second")
        await until(lambda: came(tmp_path, "second-*"))
        async with asyncio.timeout(WITHIN_S):
            await second.drain(timeout=0)
            (tmp_path / "second may go").touch()
            assert await again == ids[found.nodes[0].address]
