"""SIGKILL for one daemon of a cluster: what it held moves or waits with a reason, and nothing else notices."""

from __future__ import annotations

import asyncio
import os

import pytest

import actorlite as al
from actorlite import errors
from actorlite.config import session_directory_of
from actorlite.resources import NodeResources
from actorlite.testing import daemons

from ..endings import WITHIN_S, until, wait_until_gone

pytestmark = pytest.mark.asyncio


class Member(al.Actor, num_cpus=1):
    def __init__(self) -> None:
        self.calls = 0

    async def count(self) -> int:
        self.calls += 1
        return self.calls

    async def where(self) -> tuple[str, int]:
        return al.runtime_context().node_id, os.getpid()

    async def hold(self) -> None:
        await asyncio.Event().wait()


async def test_the_group_of_a_killed_daemon_waits_and_moves() -> None:
    async with daemons(nodes=3, num_cpus=1) as found, al.init(found.nodes[0].address) as session:
        by_pid = {each["pid"]: each["node"] for each in (await session.status())["nodes"]}
        victim = found.nodes[2]
        group = await al.placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
        await group.ready(WITHIN_S)
        before = (await group.state()).nodes
        hit = before.index(by_pid[victim.pid])
        inside = [al.PlacementGroupStrategy(group, index) for index in range(3)]
        members = [Member.options(scheduling_strategy=each).remote() for each in inside]
        places = [await each.where() for each in members]
        assert [node for node, _ in places] == list(before)
        assert [await each.count() for each in members] == [1, 1, 1]
        running = members[hit].hold.remote()

        assert "signal 9" in await victim.kill()
        with pytest.raises(errors.ActorDiedError, match="node|SIGKILL"):
            await asyncio.wait_for(running, WITHIN_S)
        await asyncio.to_thread(wait_until_gone, [victim.pid, places[hit][1]], session_directory_of(victim.address))

        async def waits() -> bool:
            return (await group.state()).state == "RESCHEDULING"

        await until(waits)
        info = await group.state()
        assert info.nodes[hit] is None
        assert info.reason
        assert [node for index, node in enumerate(info.nodes) if index != hit] == [
            node for index, node in enumerate(before) if index != hit
        ]
        survivors = [each for index, each in enumerate(members) if index != hit]
        assert [await each.count() for each in survivors] == [2, 2]

        # Who wants that bundle waits, and comes where it goes.
        replacement = Member.options(scheduling_strategy=inside[hit]).remote()
        await found.add_node(NodeResources(1))
        await group.ready(WITHIN_S)
        info = await group.state()
        assert info.state == "CREATED"
        history = [each for each in info.history if each != "PREPARED"]
        assert history == ["PENDING", "CREATED", "RESCHEDULING", "CREATED"]
        assert (await replacement.where())[0] == info.nodes[hit] != before[hit]
        assert [await each.count() for each in survivors] == [3, 3]
        assert [await each.where() for each in survivors] == [
            place for index, place in enumerate(places) if index != hit
        ]
        await al.remove_placement_group(group)


async def test_the_work_of_a_session_ends_with_its_daemon() -> None:
    """What it had on other nodes as well; those go on for others."""
    async with daemons(nodes=2, num_cpus=1) as found:
        first, second = found.nodes
        async with al.init(first.address) as one, al.init(second.address) as other:
            with other.use():
                theirs = [Member.remote() for _ in range(2)]
                places = [await each.where() for each in theirs]
            assert len({node for node, _ in places}) == 2
            await second.kill()
            await asyncio.to_thread(
                wait_until_gone, [pid for _, pid in places], session_directory_of(second.address), within_s=10.0
            )
            with other.use(), pytest.raises(errors.ActorliteError):
                await asyncio.wait_for(Member.remote().where(), WITHIN_S)

            async def free() -> bool:
                status = await one.status()
                return len(status["nodes"]) == 1 and status["free_cpus"] == 1

            await until(free)
            with one.use():
                assert await Member.remote().count() == 1
