"""What control writes down, and what it cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

import actorlite as al
from actorlite import errors
from actorlite.control.stores.sqlite import open_sqlite
from actorlite.node.daemon import NodeOptions
from actorlite.opening import in_process
from actorlite.state.revisions import Put
from actorlite.testing.cluster import Cluster, cluster
from actorlite.wire.groups import GroupShape

pytestmark = pytest.mark.asyncio


class Counter(al.Actor):
    async def incr(self) -> int:
        return 1


class Disk:
    def __init__(self) -> None:
        self.is_full = False
        self.store: Any = None

    async def txn(self, compares: Sequence[Any], ops: Sequence[Any], otherwise: Sequence[Any] = ()) -> Any:
        if self.is_full:
            raise errors.ControlUnavailable("no room on the disk")
        return await self.store.txn(compares, ops, otherwise)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp"])
async def two(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    async with cluster(nodes=2, scheme=request.param) as found:
        yield found


@pytest.fixture
def disk(two: Cluster) -> Disk:
    disk = Disk()
    persistence = two.nodes[0].node.control.persistence
    disk.store, persistence._store = persistence._store, disk  # type: ignore[attr-defined]
    return disk


async def keys(disk: Disk) -> list[str]:
    return [each.key for each in (await disk.store.range(""))[0]]


# --- ends that are not written: they hold now, and whoever asked for them is told that they might not later


@pytest.mark.parametrize("end", [al.kill, al.terminate])
async def test_the_end_of_a_detached_actor(two: Cluster, disk: Disk, complaints: Any, end: Any) -> None:
    counter = Counter.options(name="hits", namespace="shared", lifetime="detached").remote()
    await al.ready(counter)
    assert await keys(disk) != ["leader"]
    disk.is_full = True
    for _ in range(2):
        with pytest.raises(errors.ControlUnavailable, match=r"is done, but .* \(no room on the disk\)"):
            await end(counter)
        with pytest.raises(errors.ActorNotFoundError):
            await al.get_actor("hits", namespace="shared")
        with pytest.raises(errors.ActorDiedError):
            await counter.incr()
    assert complaints.mentions("stays in control's state, and would come back")
    disk.is_full = False
    await end(counter)
    assert await keys(disk) == ["leader"]


async def test_the_end_of_a_detached_group(two: Cluster, disk: Disk, complaints: Any) -> None:
    group = await al.placement_group([{"CPU": 2}] * 2, name="kept", lifetime="detached")
    await group.ready(10)
    disk.is_full = True
    for _ in range(2):
        with pytest.raises(errors.ControlUnavailable, match=r"is done, but .* \(no room on the disk\)"):
            await al.remove_placement_group(group)
        assert (await group.state()).state == "REMOVED"
        with pytest.raises(ValueError, match="no placement group has it"):
            await al.get_placement_group("kept")
    brief = await al.placement_group([{"CPU": 2}] * 2, name="kept")
    await brief.ready(10)
    await al.remove_placement_group(brief)
    assert complaints.mentions("stays in control's state, and would come back")
    disk.is_full = False
    await al.remove_placement_group(group)
    assert await keys(disk) == ["leader"]


# --- a node that is started again


async def test_attempts_of_a_leader_are_no_earlier_leader_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "state")
    shape = GroupShape("b1", ((("CPU", 10_000),),))
    store = await open_sqlite(path)
    await store.txn([], [Put("leader", b"6 somebody"), Put("groups/b1", msgspec.msgpack.encode(shape))])
    await store.aclose()
    monkeypatch.setattr(in_process, "NodeOptions", partial(NodeOptions, state_path=path))
    async with cluster(nodes=1) as found:
        keeper = found.nodes[0].node.groups.keeper
        ((group, attempt),) = keeper.attempts
        assert (group, attempt >> 32) == ("b1", 7)
        other = await al.placement_group([{"CPU": 1}])
        await other.ready(10)
        assert {number >> 32 for _, number in keeper.attempts} == {7}
