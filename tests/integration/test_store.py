"""Large values: where they are, who keeps them there, what becomes of views, and what happens when there is no room."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import ObjectLostError, ObjectStoreFullError, TaskError
from actorlite.testing.cluster import local_cluster

from ..arrays import Floats, MiB, pattern

pytestmark = pytest.mark.asyncio


@al.remote
def total(array: Floats) -> float:
    assert not array.flags.writeable
    return float(array.sum())


@al.remote
async def total_async(array: Floats) -> float:
    return float(array.sum())


@al.remote
def make(seed: int, mib: float = 1) -> Floats:
    return pattern(seed, mib)


@al.remote
async def make_async(seed: int, mib: float = 1) -> Floats:
    return pattern(seed, mib)


@al.remote
async def from_list(refs: list[al.ObjectRef[Floats]]) -> float:
    return sum(float(each.sum()) for each in await al.get(refs))


class Keeper(al.Actor):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, value: Any) -> int:
        self.kept.append(value)
        return len(self.kept)

    async def keep_async(self, value: Any) -> int:
        self.kept.append(value)
        return len(self.kept)

    def total(self) -> float:
        return sum(float(each.sum()) for each in self.kept)

    def clear(self) -> None:
        self.kept.clear()
        gc.collect()

    async def put(self, seed: int) -> list[al.ObjectRef[Floats]]:
        return [await al.put(pattern(seed))]

    def spoil(self, array: Floats) -> None:
        array[0] = 1


async def test_a_large_value_goes_to_the_store_and_comes_back_read_only(anywhere: al.Session, empty: Any) -> None:
    array = pattern(1)
    ref = await al.put(array)
    array[:] = 0  # the value is what it was
    (stored,) = (await al.memory()).objects
    assert stored.size >= MiB and stored.place == "in memory" and stored.owner.startswith("driver pid")
    value = await ref
    assert (value == pattern(1)).all()
    with pytest.raises(ValueError, match="read-only"):
        value[0] = 1
    mine = await al.get(ref, copy=True)
    mine[0] = 5
    assert (await ref)[0] == 1 and mine[0] == 5
    assert (await al.get([ref, ref], copy=True))[1].flags.writeable
    assert (await asyncio.to_thread(al.sync.get, ref, copy=True)).flags.writeable
    del ref, value
    await empty()


async def test_small_values_stay_with_their_owner(anywhere: al.Session) -> None:
    refs = [await al.put(bytes(1000)), await al.put(list(range(1000))), make.remote(1, 0.01)]
    await al.get(refs)
    assert (await al.memory()).objects == ()


async def test_large_pickles_without_buffers_go_there_too(anywhere: al.Session, empty: Any) -> None:
    value = [str(number) for number in range(50_000)]
    ref = await al.put(value)
    (stored,) = (await al.memory()).objects
    assert stored.size > 200_000
    assert await ref == value
    del ref
    await empty()


@pytest.mark.parametrize("value", [bytes(200_000), bytearray(200_000)], ids=["bytes", "bytearray"])
async def test_bytes_come_back_as_what_they_were(anywhere: al.Session, value: Any) -> None:
    found = await (await al.put(value))
    assert found == value and type(found) is type(value)


async def test_arguments_and_results_of_tasks(anywhere: al.Session, empty: Any) -> None:
    array = pattern(2)
    wanted = float(array.sum())
    ref = await al.put(array)
    assert await al.get([f.remote(each) for f in (total, total_async) for each in (array, ref)]) == [wanted] * 4
    assert await total(array) == await total_async(ref) == wanted
    made = [make.remote(2), make_async.remote(2)]
    assert await al.get([total.remote(each) for each in made]) == [wanted] * 2
    assert [float(each.sum()) for each in await al.get(made)] == [wanted] * 2
    assert [float((await f(2)).sum()) for f in (make, make_async)] == [wanted] * 2
    assert await from_list.remote([ref, *made]) == 3 * wanted
    assert await from_list([ref]) == wanted
    del ref, made
    await empty()


@al.remote(num_returns=3)
def three(seed: int) -> tuple[Floats, int, Floats]:
    return pattern(seed), seed, pattern(seed + 1)


@al.remote(num_returns=2)
async def two(seed: int) -> tuple[Floats, int]:
    return pattern(seed), seed


async def test_several_results(anywhere: al.Session, empty: Any) -> None:
    first, second, third = three.remote(5)
    assert (await third == pattern(6)).all() and await second == 5
    assert len((await al.memory()).objects) == 2
    assert (await first == pattern(5)).all()
    large, small = two.remote(3)
    assert (await large == pattern(3)).all() and await small == 3
    unwanted = three.remote(1)
    await al.cancel(unwanted[0])
    del first, second, third, unwanted, large
    await empty()


async def test_what_an_actor_keeps_stays_valid_and_pinned(anywhere: al.Session, empty: Any) -> None:
    keeper = Keeper.remote()
    assert await keeper.keep.remote(pattern(1)) == 1
    assert await keeper.keep_async.remote(await al.put(pattern(2))) == 2
    ref = await al.put({"deep": [pattern(3)]})
    gc.collect()
    assert await keeper.keep(pattern(4)) == 3
    # Nobody has a reference to them any more: others use the memory that is free now.
    others = [await al.put(pattern(-100 - seed)) for seed in range(8)]
    assert await keeper.total.remote() == sum(pattern(seed).sum() for seed in (1, 2, 4))
    del others, ref
    await keeper.clear.remote()
    await empty()


async def test_writing_to_an_argument_is_an_error_that_is_the_callers(anywhere: al.Session) -> None:
    keeper = Keeper.remote()
    with pytest.raises(ValueError, match="read-only") as caught:
        await keeper.spoil.remote(pattern(1))
    assert isinstance(caught.value, ValueError) and not isinstance(caught.value, TaskError)


async def test_references_inside_large_values_keep_what_they_refer_to(anywhere: al.Session, empty: Any) -> None:
    inner = await al.put(pattern(7))
    outer = await al.put({"inner": inner, "much": pattern(1)})
    del inner
    gc.collect()
    found = await outer
    assert (await found["inner"] == pattern(7)).all()
    del outer, found
    await empty()


async def test_a_value_that_a_worker_owns_is_read_elsewhere(anywhere: al.Session, empty: Any) -> None:
    keeper = Keeper.remote()
    (ref,) = await keeper.put.remote(9)
    assert (await ref == pattern(9)).all()
    assert await total.remote(ref) == pattern(9).sum()
    del ref
    await empty()


@dataclass
class Holder:
    array: Floats


async def test_views_of_every_kind_survive_their_reference(anywhere: al.Session, empty: Any) -> None:
    def from_thread(ref: al.ObjectRef[Floats]) -> None:
        found.append(al.sync.get(ref)[100:200:3].reshape(2, -1).T)

    ref = await al.put(pattern(5))
    found: list[Floats] = [(await ref)[10:20], (await ref).reshape(2, -1)[1], Holder((await ref)[::2]).array]
    thread = threading.Thread(target=from_thread, args=(ref,))
    thread.start()
    await asyncio.to_thread(thread.join)
    del thread
    wanted = pattern(5)
    expected = [wanted[10:20], wanted.reshape(2, -1)[1], wanted[::2], wanted[100:200:3].reshape(2, -1).T]
    del ref
    for seed in range(20):
        await (await al.put(pattern(-1000 - seed)))
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    found.clear()
    await empty()


async def test_views_outlive_the_session() -> None:
    async with local_cluster() as _:
        view = (await (await al.put(pattern(3))))[5:]
    async with al.init("local", num_cpus=1) as session:
        other = (await (await al.put(pattern(4))))[5:]
        assert session.node_pid
    assert (view == pattern(3)[5:]).all() and (other == pattern(4)[5:]).all()


async def test_more_than_fits_goes_to_disk_and_comes_back(small: al.Session, empty: Any, tmp_path: Path) -> None:
    refs = [await al.put(pattern(seed)) for seed in range(20)]
    found = await al.memory()
    assert found.spilled >= 10 * MiB and found.used <= 8 * MiB
    assert any(tmp_path.rglob("*"))
    for seed, ref in enumerate(refs):
        assert (await ref == pattern(seed)).all()
    assert await al.get([total.remote(ref) for ref in refs]) == [pattern(seed).sum() for seed in range(20)]
    del refs, ref
    await empty()


async def test_results_that_do_not_fit_are_spilled_too(small: al.Session, empty: Any) -> None:
    refs = [f.remote(seed) for seed in range(8) for f in (make, make_async)]
    await al.wait(refs, num_returns=len(refs), fetch_local=False)
    for place, ref in enumerate(refs):
        assert (await ref == pattern(place // 2)).all()
    del refs, ref
    await empty()


async def test_a_value_larger_than_the_store_is_refused_at_once(small: al.Session) -> None:
    with pytest.raises(ObjectStoreFullError, match=r"does not fit into the object store.*object_store_memory"):
        await al.put(pattern(1, 9))
    with pytest.raises(ObjectStoreFullError, match="does not fit"):
        await total.remote(pattern(1, 9))
    with pytest.raises(ObjectStoreFullError, match="does not fit"):
        await make.remote(1, 9)
    with pytest.raises(ObjectStoreFullError, match="does not fit"):
        await make_async.remote(1, 9)


@pytest.mark.parametrize("give", [al.put, total.remote], ids=["put", "argument"])
async def test_what_was_refused_is_freed_without_a_collection(small: al.Session, give: Any) -> None:
    array = pattern(1, 9)
    is_gone = asyncio.Event()
    weakref.finalize(array, is_gone.set)
    gc.disable()
    try:
        with pytest.raises(ObjectStoreFullError, match="does not fit"):
            await give(array)
        del array
        await asyncio.wait_for(is_gone.wait(), 1)
    finally:
        gc.enable()


async def test_a_put_waits_for_room_and_says_who_has_it(small: al.Session, empty: Any) -> None:
    kept = [await (await al.put(pattern(seed))) for seed in range(7)]
    with pytest.raises(ObjectStoreFullError, match=r"no room for .*in use by driver pid \d+ \(1\).*waited 0.05 s"):
        await al.put(pattern(8, 2), timeout=0.05)
    waiting = asyncio.create_task(al.put(pattern(9, 2)))
    done, pending = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    kept.clear()
    assert (await (await waiting) == pattern(9, 2)).all()
    del waiting, pending
    await empty()


@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), ("1", TypeError), (True, TypeError)])
async def test_a_timeout_that_is_none_is_refused(anywhere: al.Session, timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"put\(\)"):
        await al.put(1, timeout=timeout)


async def test_a_put_that_is_cancelled_leaves_nothing(small: al.Session, empty: Any) -> None:
    kept = [await (await al.put(pattern(seed))) for seed in range(7)]
    waiting = asyncio.create_task(al.put(pattern(9, 2)))
    await asyncio.wait([waiting], timeout=0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    kept.clear()
    for _ in range(5):
        copying = asyncio.create_task(al.put(pattern(9, 2)))
        await asyncio.sleep(0)
        copying.cancel()
        await asyncio.wait([copying])
    del copying, waiting
    await empty()


async def test_a_call_that_is_cancelled_frees_its_arguments_and_its_result(anywhere: al.Session, empty: Any) -> None:
    refs = [make.remote(seed) for seed in range(4)] + [make_async.remote(seed) for seed in range(4)]
    for ref in refs:
        await al.cancel(ref)
    calls = [total.remote(pattern(seed)) for seed in range(4)]
    for call in calls:
        await al.cancel(call)
    tasks = [asyncio.create_task(make(seed)) for seed in range(4)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    del refs, calls, tasks, ref, call, task
    await empty()


async def test_results_that_nobody_keeps_are_freed(anywhere: al.Session, empty: Any) -> None:
    for seed in range(10):
        make.remote(seed)
        make_async.remote(seed)
    await make.remote(0)
    await empty()


async def test_a_freed_object_is_lost_not_wrong(anywhere: al.Session) -> None:
    ref = await al.put(pattern(1))
    await ref
    ref._stored._store.dropped(ref._stored.stored)  # as if its owner had let it go
    ref.runtime.stored.let_go()
    await al.memory()
    with pytest.raises(ObjectLostError, match="not in this node's store"):
        await ref


async def test_memory_says_what_each_value_is_and_who_holds_it(
    anywhere: al.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTORLITE_RECORD_CALL_SITES", "1")
    keeper = Keeper.remote()
    put = await al.put(pattern(1))
    result = make.remote(2)
    await result.ready()
    view = await put
    await keeper.keep.remote([put])
    (elsewhere,) = await keeper.put.remote(3)
    objects = (await al.memory()).objects
    assert len(objects) == 3
    ours = {each.what: each for each in objects if each.owner.startswith("driver")}
    (line,) = [what for what in ours if what.startswith("put at ")]
    assert line.startswith(f"put at {__file__}:")
    assert len(ours[line].held_by) == 1 and ours[line].held_by[0].startswith("borrowed by worker pid")
    assert [who for who, _ in ours[line].used_by] == [ours[line].owner]
    assert ours["result of make()"].held_by == ("a reference here",)
    (other,) = [each for each in objects if each.owner.startswith("worker")]
    assert other.what.startswith("put") and other.held_by[0].startswith("borrowed by driver pid")
    del view, elsewhere


@al.remote
async def add_one(array: Floats) -> Floats:
    return array + 1


async def test_who_waits_only_until_a_value_exists_does_not_open_it(anywhere: al.Session, empty: Any) -> None:
    made = make.remote(1)
    done: list[al.ObjectRef[Floats]] = []
    made.add_done_callback(done.append)
    refs = [made, add_one.remote(made), total.remote(al.arg(made))]
    ready = [asyncio.create_task(ref.ready()) for ref in refs]
    await al.wait(refs, num_returns=3, fetch_local=False)
    await asyncio.gather(*ready)
    assert done == [made]
    driver = f"driver pid {os.getpid()}"
    assert driver not in [who for each in (await al.memory()).objects for who, _ in each.used_by]
    assert (await refs[1] == pattern(2)).all() and await refs[2] == pattern(1).sum()
    both = make.remote(3)
    waiting = [asyncio.create_task(both.ready()), asyncio.create_task(both.get())]
    assert (await waiting[1] == pattern(3)).all()
    await waiting[0]
    made.remove_done_callback(done.append)
    done.clear()
    del made, refs, ready, both, waiting
    await empty()
