"""The object store when processes die under it, and when its disk fails: nothing is lost that was not on what failed,
nothing is read that is not what was written, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import actorlite as al
from actorlite import shared_node
from actorlite.config import Settings
from actorlite.context import current_call
from actorlite.errors import NodeDiedError, ObjectLostError, ObjectStoreFullError, OwnerDiedError, WorkerCrashedError
from actorlite.resources import NodeResources

from ..arrays import Floats, MiB, pattern

pytestmark = pytest.mark.asyncio

DEADLINE_S = 10.0
POLL_S = 0.01


async def store_is_empty() -> None:
    ends = time.monotonic() + DEADLINE_S
    while True:
        gc.collect()
        found = await al.memory()
        if not found.objects and not found.used and not found.spilled:
            return
        assert time.monotonic() < ends, found
        await asyncio.sleep(POLL_S)


@pytest_asyncio.fixture
async def session(tmp_path: Path) -> AsyncIterator[al.Session]:
    """A store of 8 MiB that spills."""
    async with al.init("local", num_cpus=2, object_store_memory=8 * MiB, object_spilling_directory=str(tmp_path)) as it:
        yield it


@pytest_asyncio.fixture
async def without_disk() -> AsyncIterator[al.Session]:
    async with al.init("local", num_cpus=2, object_store_memory=8 * MiB, object_spilling_directory="") as it:
        yield it


class Keeper(al.Actor):
    def keep(self, value: Any) -> int:
        self.kept = value
        return os.getpid()


@al.remote(max_retries=0)
def die_while_writing() -> Floats:
    from actorlite.store.segment import Segment

    def die(self: Any, offset: int, data: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    Segment.write = die  # type: ignore[method-assign]
    return pattern(1)


async def test_a_worker_killed_while_it_writes_leaves_nothing(session: al.Session) -> None:
    kept = await al.put(pattern(0))
    with pytest.raises(WorkerCrashedError):
        await die_while_writing.remote()
    assert (await kept == pattern(0)).all()
    del kept
    await store_is_empty()


async def test_what_a_dead_worker_was_reading_is_free_again(without_disk: al.Session) -> None:
    keeper = Keeper.remote()
    pid = await keeper.keep.remote(await al.put(pattern(1, 6)))
    with pytest.raises(ObjectStoreFullError, match=rf"in use by worker pid {pid} \(1\).*waited 0.05 s"):
        await al.put(pattern(2, 4), timeout=0.05)
    waiting = asyncio.create_task(al.put(pattern(2, 4)))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    ref = await waiting
    assert (await ref == pattern(2, 4)).all()
    del ref, waiting
    await store_is_empty()


async def test_a_session_that_was_closed_is_not_dead(tmp_path: Path) -> None:
    """Its process lives on and may look at what it has: the memory is not used again."""
    place = shared_node.Place.at(f"uds://{tmp_path}/n/node.sock", Settings(runtime_root=str(tmp_path)))
    wanted = shared_node.Wanted(NodeResources(1), object_store_memory=8 * MiB, object_spilling_directory="")
    async with shared_node.running(place, wanted) as node:
        async with al.init(node.address):
            view = (await (await al.put(pattern(1, 3))))[7:]
        async with al.init(node.address):
            for seed in range(20):
                await al.put(pattern(-1000 - seed, 4))
                assert (view == pattern(1, 3)[7:]).all()
            with pytest.raises(ObjectStoreFullError, match="which is gone|in use by"):
                await al.put(pattern(2, 6), timeout=0.05)
            (left,) = (await al.memory()).objects
            assert left.size >= 3 * MiB and left.used_by
    assert (view == pattern(1, 3)[7:]).all()
    del view
    gc.collect()  # errors that were caught know their frames


async def test_views_outlive_the_daemon(session: al.Session) -> None:
    view = (await (await al.put(pattern(1))))[3:]
    other = await al.put(pattern(2))
    os.kill(session.node_pid, signal.SIGKILL)
    with pytest.raises((NodeDiedError, ConnectionError)):
        async with asyncio.timeout(DEADLINE_S):
            while True:
                await al.put(pattern(3))
    assert (view == pattern(1)[3:]).all()
    with pytest.raises((NodeDiedError, ConnectionError)):
        await other
    del view
    gc.collect()  # errors that were caught know their frames


async def test_a_torn_spill_file_loses_one_object_and_no_other(session: al.Session, tmp_path: Path) -> None:
    refs = [await al.put(pattern(seed)) for seed in range(12)]
    files = sorted(each for each in tmp_path.rglob("*") if each.is_file() and each.stat().st_size > MiB)
    assert files
    os.truncate(files[0], 4096)
    outcomes = []
    for seed, ref in enumerate(refs):
        try:
            outcomes.append(bool((await ref == pattern(seed)).all()))
        except ObjectLostError as error:
            outcomes.append("cannot be restored" in str(error))
    assert outcomes == [True] * 12
    lost = [ref for ref in refs if isinstance(ref.exception(), ObjectLostError)]
    assert len(lost) == 1
    del refs, lost, ref
    await store_is_empty()


async def test_a_disk_that_cannot_be_written_to_harms_nothing_in_memory(tmp_path: Path, capfd: Any) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("not a directory")
    async with al.init(
        "local", num_cpus=1, object_store_memory=8 * MiB, object_spilling_directory=str(nowhere / "below")
    ):
        refs = [await al.put(pattern(seed)) for seed in range(7)]
        with pytest.raises(ObjectStoreFullError, match=rf"spilling to disk failed: .*{nowhere}"):
            await al.put(pattern(8, 2), timeout=0.2)
        for seed, ref in enumerate(refs):
            assert (await ref == pattern(seed)).all()
        del refs, ref
        assert (await (await al.put(pattern(9, 2))) == pattern(9, 2)).all()
        await store_is_empty()


async def test_files_of_a_killed_daemon_are_removed_by_the_next(tmp_path: Path) -> None:
    options: dict[str, Any] = {"object_store_memory": 8 * MiB, "object_spilling_directory": str(tmp_path)}
    async with al.init("local", num_cpus=1, **options) as session:
        refs = [await al.put(pattern(seed)) for seed in range(12)]
        left = set(tmp_path.iterdir())
        assert left
        os.kill(session.node_pid, signal.SIGKILL)
    del refs
    async with al.init("local", num_cpus=1, **options):
        refs = [await al.put(pattern(seed)) for seed in range(12)]
        assert not left & set(tmp_path.iterdir())
        del refs
    assert not list(tmp_path.iterdir())


async def test_views_of_a_driver_that_was_cut_off(tmp_path: Path) -> None:
    """Its process lives, so the node waits for its end, whatever became of the connection."""
    place = shared_node.Place.at(f"uds://{tmp_path}/n/node.sock", Settings(runtime_root=str(tmp_path)))
    wanted = shared_node.Wanted(NodeResources(1), object_store_memory=8 * MiB, object_spilling_directory="")
    async with shared_node.running(place, wanted) as node:
        async with al.init(node.address) as session:
            array = await (await al.put(pattern(1, 3)))
            views = [array[7:], array.reshape(2, -1)[1], memoryview(array)[100:], array.view("u1")]
            expected = [bytes(each) for each in views]
            del array
            session.runtime.node.peer._connection._transport.abort()
            async with asyncio.timeout(DEADLINE_S):
                while session.is_open:
                    await asyncio.sleep(POLL_S)
            async with al.init(node.address):
                for seed in range(20):
                    await al.put(pattern(-1000 - seed, 4))
                    assert [bytes(each) for each in views] == expected
                (left,) = (await al.memory()).objects
                assert left.size >= 3 * MiB and left.used_by
    assert [bytes(each) for each in views] == expected
    del views
    gc.collect()  # errors that were caught know their frames


class CutOff(al.Actor):
    """Lives on for as long as its node lets it, and looks at what it has."""

    def keep(self, array: Floats) -> int:
        self.array = array
        return os.getpid()

    def cut_off_and_look(self, diary: str) -> None:
        call: Any = current_call.get()
        worker = call.worker
        worker._on_end = lambda reason: None
        worker.loop.call_soon_threadsafe(worker.runtime.node.peer._connection._transport.abort)
        wanted = pattern(1, 3)
        while True:
            with open(diary, "a") as file:
                file.write("+" if bytes(self.array) == bytes(wanted) else "-")


async def test_a_worker_that_was_cut_off_reads_what_it_read_until_it_ends(
    without_disk: al.Session, tmp_path: Path
) -> None:
    keeper = CutOff.remote()
    diary = tmp_path / "diary"
    pid = await keeper.keep.remote(pattern(1, 3))
    call = keeper.cut_off_and_look.remote(str(diary))
    seed = 0
    while not call.done():
        seed += 1
        await al.put(pattern(-seed, 2))
    with pytest.raises(al.errors.ActorDiedError, match="connection to the node was lost"):
        await call
    looked = diary.read_text()
    assert looked and set(looked) == {"+"} and seed > 1
    assert not Path(f"/proc/{pid}").exists()
    del call
    assert (await (await al.put(pattern(2, 7.9), timeout=5)) == pattern(2, 7.9)).all()
    await store_is_empty()


class Owner(al.Actor):
    async def own(self) -> tuple[int, list[al.ObjectRef[Any]]]:
        @al.remote
        async def never() -> None:
            await asyncio.Event().wait()

        return os.getpid(), [never.remote(), await al.put(pattern(1)), await al.put("small")]


async def test_whoever_waits_for_what_a_killed_process_owns_is_told(session: al.Session) -> None:
    pid, refs = await Owner.remote().own()
    keeper = Keeper.remote()
    await keeper.keep([refs])
    assert (await refs[1])[0] == 1
    waiting = [asyncio.ensure_future(refs[0]), asyncio.create_task(refs[0].ready())]
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(OwnerDiedError, match=f"the owner of object .* is gone: worker pid {pid} .*SIGKILL"):
            await waiting[0]
        await waiting[1]
        with pytest.raises(OwnerDiedError, match="SIGKILL"):
            await refs[2]
    assert (await refs[1])[0] == 1  # it was opened before
    del refs, keeper
    await store_is_empty()


async def test_a_driver_that_is_killed_hands_over_nothing_but_its_workers_do(tmp_path: Path) -> None:
    place = shared_node.Place.at(f"uds://{tmp_path}/n/node.sock", Settings(runtime_root=str(tmp_path)))
    async with shared_node.running(place, shared_node.Wanted(NodeResources(2), object_store_memory=8 * MiB)) as node:
        async with al.init(node.address) as staying:
            ending = await al.init(node.address)
            with ending.use():
                refs = [await al.put(pattern(1)), *(await Owner.remote().own())[1][1:]]
            with staying.use():
                holder = Holder.remote()
                await holder.hold(refs)
                await ending.runtime.hub.aclose()  # as the kernel does when a process is killed
                for each in range(3):
                    if each:
                        assert await holder.first(each) == (1.0 if each == 1 else "s")
                    else:
                        with pytest.raises(OwnerDiedError, match="the driver .* ended"):
                            await holder.first(each)
            await ending.shutdown()
            del refs
            await holder.hold([])


class Holder(al.Actor):
    async def hold(self, refs: list[al.ObjectRef[Any]]) -> None:
        self.refs = refs

    async def first(self, which: int) -> Any:
        return (await self.refs[which])[0]


class BusyMaker(al.Actor, max_concurrency=4):
    """Makes values in a thread, while its loop may be busy with user code."""

    def make(self, seed: int, held: str = "", made: str = "") -> Floats:
        while held and not Path(held).exists():
            pass
        if made:
            Path(made).touch()
        return pattern(seed, 0.25)

    async def hold_the_loop(self, diary: str) -> None:
        Path(diary).touch()
        time.sleep(60)


async def test_a_result_is_not_told_before_the_node_knows_of_its_value(session: al.Session, tmp_path: Path) -> None:
    """Its worker could be killed in between, and the value would be lost that its caller was told of."""
    maker: Any = BusyMaker.remote()
    for seed in range(20):  # so that room is leased
        assert (await maker.make.remote(seed))[0] == seed
    pid = (await al.describe(maker)).pid
    held, made = tmp_path / "held", tmp_path / "made"
    ref = maker.make.remote(5, str(held), str(made))
    busy = maker.hold_the_loop.remote(str(held))
    async with asyncio.timeout(DEADLINE_S):
        while not made.exists():
            await asyncio.sleep(POLL_S)
    os.kill(pid, signal.SIGKILL)
    for each in (ref, busy):
        with pytest.raises(al.errors.ActorDiedError):
            await each
    del ref, busy
    await store_is_empty()
