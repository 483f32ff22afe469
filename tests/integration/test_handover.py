"""Owners that end in good order: what others hold of them is handed over, and what does not exist yet says so."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import numpy.typing
import pytest
import pytest_asyncio

import actorlite as al
from actorlite import shared_node
from actorlite.config import Settings
from actorlite.errors import ObjectReconstructionFailedError, OwnerDiedError
from actorlite.host import SystemEntropy
from actorlite.opening.driver import register
from actorlite.opening.whereabouts import AddressMaker, sockets_in
from actorlite.resources import NodeResources
from actorlite.session import Plan, Session
from actorlite.testing.cluster import cluster, local_cluster

from ..arrays import Floats, MiB, pattern

pytestmark = pytest.mark.asyncio


@al.remote
def make(seed: int) -> Floats:
    return pattern(seed)


@al.remote
def fail() -> None:
    raise LookupError("there")


@al.remote
def total(array: Floats) -> float:
    return float(array.sum())


class Keeper(al.Actor, concurrency_groups={"readers": 10}):
    """Holds references of others, and makes some of its own."""

    def __init__(self) -> None:
        self.refs: list[Any] = []

    async def keep(self, refs: list[Any]) -> None:
        self.refs = refs

    @al.method(concurrency_group="readers")
    async def read(self, *path: int) -> Any:
        """What lies at the end of the path through lists of references, as a number."""
        found: Any = self.refs
        for index in path:
            found = await found[index]
        return float(found[0]) if isinstance(found, numpy.ndarray) else found

    async def give(self) -> list[Any]:
        return self.refs

    async def total(self) -> float:
        return await total.remote(self.refs[0])

    async def own(self, *seeds: int) -> list[Any]:
        return [await al.put(pattern(seed) if seed else "small") for seed in seeds]


class Two(NamedTuple):
    """Sessions of two drivers on one node: the first ends."""

    ending: al.Session
    staying: al.Session


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp", "processes"])
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Two]:
    options: dict[str, Any] = {"object_store_memory": 16 * MiB, "object_spilling_directory": str(tmp_path)}
    if request.param == "processes":
        place = shared_node.Place.at(f"uds://{tmp_path}/n/node.sock", Settings(runtime_root=str(tmp_path)))
        async with (
            shared_node.running(place, shared_node.Wanted(NodeResources(4), **options)) as node,
            al.init(node.address) as staying,
            al.init(node.address) as ending,
        ):
            yield Two(ending, staying)
        return
    async with local_cluster(scheme=request.param, num_cpus=4, **options) as staying:
        ending = await second_driver(staying, request.param, tmp_path)
        try:
            yield Two(ending, staying)
        finally:
            await ending.shutdown()


async def second_driver(session: al.Session, scheme: str, directory: Path) -> al.Session:
    where: dict[str, AddressMaker] = {
        "inproc": lambda process, role: f"inproc://second/{process}",
        "tcp": lambda process, role: "tcp://127.0.0.1:0",
        "uds": sockets_in(directory),
    }
    first = session.runtime
    plan = Plan("inproc://", "", NodeResources(), (), Settings.from_environment())
    node = first.node_peer.identity.address
    stack = AsyncExitStack()
    runtime = await register(plan, node, first.hub._token, where[scheme], SystemEntropy(), stack)
    return Session(runtime, stack)


@pytest.fixture
def store_is_empty(eventually: Any) -> Callable[[], Any]:
    async def wait() -> None:
        async def is_empty() -> bool:
            gc.collect()
            found = await al.memory()
            return not found.objects and not found.used

        await eventually(is_empty)

    return wait


async def test_what_another_driver_s_actor_holds_is_handed_over(two: Two, store_is_empty: Any) -> None:
    with two.ending.use():
        refs = [await al.put(5), await al.put(pattern(1)), make.remote(2), fail.remote(), await al.put([])]
        await al.wait(refs, num_returns=5, fetch_local=False)
    with two.staying.use():
        keeper = Keeper.remote()
        await keeper.keep(refs)
        assert await keeper.read(1) == 1  # it has been fetched already
        await two.ending.shutdown()
        for _ in range(2):
            assert await keeper.read(0) == 5
            assert await keeper.read(1) == 1
            assert await keeper.read(2) == 2
            with pytest.raises(LookupError, match="there"):
                await keeper.read(3)
            assert await keeper.read(4) == []
        await keeper.keep([])
        del refs
        await store_is_empty()


async def test_the_last_of_several_holders_frees_it(two: Two, store_is_empty: Any) -> None:
    with two.ending.use():
        refs = [await al.put(pattern(1))]
    with two.staying.use():
        keepers = [Keeper.remote() for _ in range(3)]
        for keeper in keepers:
            await keeper.keep(refs)
        del refs
        await two.ending.shutdown()
        await keepers[0].keep([])
        await al.kill(keepers[1])
        assert await keepers[2].read(0) == 1
        # And it passes it on, as an argument and as a reference.
        assert await keepers[2].total() == pattern(1).sum()
        (ref,) = await keepers[2].give()
        await keepers[2].keep([])
        assert (await ref == pattern(1)).all()
        await keepers[0].keep([ref])
        del ref
        assert await keepers[0].read(0) == 1
        await keepers[0].keep([])
        await store_is_empty()


async def test_references_inside_go_the_same_way(two: Two, store_is_empty: Any) -> None:
    with two.ending.use():
        inner = await al.put([await al.put(pattern(1)), await al.put("small")])
        outer = await al.put([inner, await al.put(pattern(2))])
        del inner
    with two.staying.use():
        keeper = Keeper.remote()
        await keeper.keep([outer])
        del outer
        await two.ending.shutdown()
        assert await keeper.read(0, 0, 0) == 1
        assert await keeper.read(0, 0, 1) == "small"
        assert await keeper.read(0, 1) == 2
        await keeper.keep([])
        await store_is_empty()


async def test_what_is_not_there_yet_says_that_its_owner_has_ended(two: Two, diary: Any) -> None:
    @al.remote
    def wait_for_word() -> int:
        diary.note("running")
        while "go" not in diary.words():
            time.sleep(0.005)
        return 1

    with two.ending.use():
        ref = wait_for_word.remote()
        holder = [await al.put([ref])]
    with two.staying.use():
        keeper = Keeper.remote()
        await keeper.keep([ref, *holder])
        waiting = asyncio.ensure_future(keeper.read.remote(0))
        await diary.has("running")
        await two.ending.shutdown()
        for each in (waiting, keeper.read(0), keeper.read(1, 0)):
            with pytest.raises(
                OwnerDiedError, match="the driver pid .*, the owner of object .*, ended in good order bef"
            ):
                await asyncio.wait_for(each, 10)
    diary.note("go")


async def test_whoever_waits_while_it_is_handed_over_gets_it(two: Two) -> None:
    with two.ending.use():
        refs = [await al.put(pattern(seed)) for seed in range(4)] + [await al.put(4)]
    with two.staying.use():
        keeper = Keeper.remote()
        await keeper.keep(refs)
        del refs
        reads = [keeper.read.remote(each) for each in range(5) for _ in range(3)]
        await two.ending.shutdown()
        assert await al.get(reads) == [each for each in range(5) for _ in range(3)]


async def test_what_the_workers_of_a_job_own_is_handed_over_with_it(
    two: Two, store_is_empty: Any, eventually: Any
) -> None:
    with two.ending.use():
        refs = await Keeper.remote().own(0, 1, 2)
    with two.staying.use():
        keepers = [Keeper.remote() for _ in range(2)]
        for keeper in keepers:
            await keeper.keep(refs)
        del refs
        await two.ending.shutdown()

        async def its_workers_are_gone() -> bool:
            return len((await two.staying.status())["jobs"]) == 1

        await eventually(its_workers_are_gone)
        for keeper in keepers:
            assert [await keeper.read(each) for each in range(3)] == ["small", 1, 2]
            await keeper.keep([])
        await store_is_empty()


async def test_what_is_lost_after_it_was_handed_over_cannot_be_made_again(
    two: Two, tmp_path: Path, eventually: Any, complaints: Any
) -> None:
    with two.ending.use():
        ref = make.remote(1)
        await ref.ready()
    with two.staying.use():
        keeper = Keeper.remote()
        await keeper.keep([ref])
        del ref
        await two.ending.shutdown()
        fillers = []
        gc.collect()  # once: late in a run of all tests it takes most of a second

        async def is_on_disk() -> bool:
            fillers.append(await al.put(pattern(-1)))
            return (await al.memory()).objects[0].place == "on disk"

        await eventually(is_on_disk)
        for each in tmp_path.rglob("*"):
            if each.is_file() and each.stat().st_size > MiB:
                each.write_bytes(b"torn")
        fillers.clear()
        with pytest.raises(ObjectReconstructionFailedError, match="has ended, and has handed it over"):
            await keeper.read(0)
    complaints.mentions("torn")


# --- within a job


async def test_values_of_an_actor_that_was_ended_in_good_order(anywhere: al.Session, store_is_empty: Any) -> None:
    owners = [Keeper.options(num_cpus=cpus).remote() for cpus in (0, 0.5)]
    refs = [ref for owner in owners for ref in await owner.own(0, 1)]
    await al.terminate(owners[0])
    del owners
    gc.collect()
    assert await al.get(refs[::2]) == ["small"] * 2
    assert [float((await ref)[0]) for ref in refs[1::2]] == [1, 1]
    del refs
    await store_is_empty()


async def test_values_of_actors_whose_creator_was_ended(anywhere: al.Session, all_free: Any) -> None:
    """Those of a creator end with it. What they own does not, while others hold it."""

    class Creator(al.Actor):
        def __init__(self) -> None:
            self.keepers = [Keeper.options(num_cpus=cpus).remote() for cpus in (0, 0.5)]

        async def own(self) -> list[Any]:
            return [ref for each in self.keepers for ref in await each.own(0, 1)]

    creator = Creator.options(num_cpus=0.5).remote()
    refs = await creator.own()
    await al.terminate(creator)
    await all_free(anywhere)
    assert await al.get(refs[::2]) == ["small"] * 2
    assert [float((await ref)[0]) for ref in refs[1::2]] == [1, 1]


async def test_what_an_heir_passes_on_does_not_end_with_the_first_owner() -> None:
    """A third process that was connected to the first owner, too."""
    async with cluster(nodes=1, num_cpus=1) as one, AsyncExitStack() as stack:
        first = one.session.runtime
        second, third = [await one.connect(one.nodes[0], stack) for _ in range(2)]
        address = first.hub.identity.address
        value, other = await al.put(pattern(3)), await al.put("small")
        first.exports.export(value)
        first.exports.export(other)
        inherited, kept = second.import_ref(value.id, address), third.import_ref(other.id, address)
        assert await kept == "small"
        await inherited.ready()
        handed_over, goes_on, give = asyncio.Event(), asyncio.Event(), first.handover.give

        async def give_and_stay() -> None:
            await give()
            handed_over.set()
            await goes_on.wait()

        first.handover.give = give_and_stay  # type: ignore[method-assign]
        ending = asyncio.create_task(one.session.shutdown())
        await handed_over.wait()
        assert inherited.owner_address == ""
        second.exports.export(inherited)
        passed_on = third.import_ref(inherited.id, second.hub.identity.address)
        goes_on.set()
        await ending
        assert numpy.array_equal(await passed_on, pattern(3))
        del inherited, passed_on, kept, value, other
