"""Values that are lost with the disk: what is made again, by running what made it, and what says why it cannot be."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import actorlite as al
from actorlite.errors import ObjectLostError, ObjectReconstructionFailedError, OwnerDiedError
from actorlite.ids import owner_of
from actorlite.runtime.fetches import Fetches
from actorlite.store.client import StoreClient
from actorlite.testing.cluster import local_cluster
from actorlite.wire.objects import Stored

from ..arrays import Floats, MiB, pattern

pytestmark = pytest.mark.asyncio


@al.remote
def make(seed: int) -> Floats:
    return pattern(seed)


@al.remote
async def make_async(seed: int) -> Floats:
    return pattern(seed)


@al.remote(max_retries=0)
def make_once(seed: int) -> Floats:
    return pattern(seed)


@al.remote(max_retries=1)
def make_twice(seed: int) -> Floats:
    return pattern(seed)


@al.remote(num_returns=2)
def make_two(seed: int) -> tuple[Floats, Floats]:
    return pattern(seed), pattern(seed)


@al.remote
def add(array: Floats, number: int) -> Floats:
    return array + number


@al.remote
def total(array: Floats) -> float:
    return float(array.sum())


class Maker(al.Actor):
    def make(self, seed: int) -> Floats:
        return pattern(seed)

    def total(self, array: Floats) -> float:
        return float(array.sum())


class Keeper(al.Actor, concurrency_groups={"readers": 10}):
    """Holds references of others, and makes some of its own."""

    def __init__(self) -> None:
        self.maker = Maker.remote()

    async def keep(self, refs: list[al.ObjectRef[Floats]]) -> None:
        self.refs = refs

    async def own(self, seed: int) -> list[al.ObjectRef[Floats]]:
        self.refs = [make.remote(seed)]
        await self.refs[0].ready()
        return self.refs

    @al.method(concurrency_group="readers")
    async def first(self) -> float:
        return float((await self.refs[0])[0])

    async def total_by_task(self) -> float:
        return await total.remote(self.refs[0])

    async def total_by_actor(self) -> float:
        return await self.maker.total.remote(self.refs[0])


@pytest.fixture
def lose(tmp_path: Path, eventually: Any, complaints: Any) -> Any:
    """Have values written to disk, by putting others, and lose what is there."""

    async def lose(*refs: al.ObjectRef[Any]) -> None:
        stored = refs[0].runtime.stored  # type: ignore[attr-defined]
        keys = {ref._stored.stored.key for ref in refs if ref._stored is not None}
        owners = {owner_of(ref.id) for ref in refs if ref._stored is None}
        keys |= {each.key for each in (await stored.client.list_objects()).objects if each.owner in owners}
        stored.let_go()
        gc.collect()
        fillers = []

        async def are_on_disk() -> bool:
            fillers.append(await al.put(pattern(-1)))
            found = {each.key: each.place for each in (await al.memory()).objects}
            return {found[key] for key in keys} == {"on disk"}

        await eventually(are_on_disk)
        for each in tmp_path.rglob("*"):
            if each.is_file() and each.stat().st_size > MiB:
                os.truncate(each, 100)
        fillers.clear()

    yield lose
    complaints.mentions("lost")
    complaints.mentions("torn")


@pytest.mark.parametrize("task", [make, make_async], ids=["plain", "coroutine"])
async def test_a_lost_result_is_made_again(small: al.Session, lose: Any, task: Any) -> None:
    ref = task.remote(5)
    await ref.ready()
    await lose(ref)
    assert (await ref == pattern(5)).all()
    assert (await ref == pattern(5)).all()


@pytest.mark.parametrize("task", [make, make_once], ids=["made again", "lost for good"])
async def test_what_was_lost_is_freed_without_a_collection(small: al.Session, lose: Any, task: Any) -> None:
    """Neither a reference nor the log knows the error that says so, which knows frames that know the reference."""
    ref = task.remote(5)
    await ref.ready()
    await lose(ref)
    is_gone = asyncio.Event()
    weakref.finalize(ref, is_gone.set)
    gc.disable()
    try:
        if task is make:
            assert (await ref)[0] == pattern(5)[0]
        else:
            with pytest.raises(ObjectReconstructionFailedError):
                await ref
        del ref
        await asyncio.wait_for(is_gone.wait(), 10)
    finally:
        gc.enable()


async def test_several_who_wait_get_what_is_made_once(small: al.Session, lose: Any) -> None:
    refs = [make.remote(seed) for seed in range(3)]
    await al.wait(refs, num_returns=3, fetch_local=False)
    await lose(*refs)
    for _ in range(2):
        found = await asyncio.gather(*refs, *refs)
        assert [float(each[0]) for each in found] == [0, 1, 2] * 2
        del found
    assert [float(each[0]) for each in await al.get(refs)] == [0, 1, 2]


async def test_a_task_whose_argument_was_lost_runs_when_it_is_made_again(small: al.Session, lose: Any) -> None:
    ref = make.remote(5)
    await ref.ready()
    await lose(ref)
    assert await total.remote(ref) == pattern(5).sum()
    assert (await add.remote(ref, 1) == pattern(6)).all()


async def test_arguments_that_are_gone_are_made_again_first(small: al.Session, lose: Any) -> None:
    ref = add.remote(al.arg(add.remote(al.arg(make.remote(1)), 10)), 100)
    await ref.ready()
    gc.collect()
    await lose(ref)
    assert (await ref == pattern(111)).all()


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        ("put", r"made by al\.put\(\)"),
        ("once", "max_retries=0"),
        ("actor", "method of an actor"),
        ("two", "one of several results"),
        ("large", "had large arguments, which are gone: give it references"),
        ("of put", r"an argument of the task that made it is gone: it was made by al\.put\(\)"),
    ],
)
async def test_what_cannot_be_made_again_says_why(small: al.Session, lose: Any, lost: str, why: str) -> None:
    maker = Maker.remote()
    match lost:
        case "put":
            ref = await al.put(pattern(1))
        case "once":
            ref = make_once.remote(1)
        case "actor":
            ref = maker.make.remote(1)
        case "two":
            ref = make_two.remote(1)[0]
        case "large":
            ref = add.remote(pattern(1), 1)
        case _:
            ref = add.remote(await al.put(pattern(1)), 1)
    await ref.ready()
    gc.collect()
    await lose(ref)
    with pytest.raises(
        ObjectReconstructionFailedError, match=rf"cannot be restored: .*it cannot be made again: .*{why}"
    ):
        await ref
    with pytest.raises(ObjectLostError, match=why):
        await al.get([ref])


async def test_it_is_made_again_as_often_as_its_retries_allow(small: al.Session, lose: Any) -> None:
    ref = make_twice.remote(3)
    await ref.ready()
    await lose(ref)
    assert (await ref == pattern(3)).all()
    await lose(ref)
    with pytest.raises(ObjectReconstructionFailedError, match="as often as max_retries allows"):
        await ref


async def test_an_actor_s_call_does_not_run_without_its_argument(small: al.Session, lose: Any) -> None:
    maker = Maker.remote()
    ref = await al.put(pattern(1))
    await lose(ref)
    with pytest.raises(ObjectLostError, match=r"Maker.*total\(\)") as caught:
        await maker.total.remote(ref)
    assert isinstance(caught.value, al.errors.NotExecuted)


async def test_an_actor_s_call_keeps_its_turn_while_its_argument_is_made_again(small: al.Session, lose: Any) -> None:
    class Log(al.Actor):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def add(self, array: Floats) -> None:
            self.seen.append(float(array[0]))

        def all(self) -> list[float]:
            return self.seen

    log = Log.remote()
    ref = make.remote(5)
    await ref.ready()
    await lose(ref)
    log.add.remote(numpy.ones(1))
    log.add.remote(ref)
    log.add.remote(numpy.ones(1))
    assert await log.all() == [1, 5, 1]


async def test_a_constructor_gets_what_is_made_again(small: al.Session, lose: Any) -> None:
    class First(al.Actor):
        def __init__(self, array: Floats) -> None:
            self.first = float(array[0])

        def get(self) -> float:
            return self.first

    ref = make.remote(5)
    await ref.ready()
    await lose(ref)
    assert await First.remote(ref).get() == 5


# --- what a borrower finds lost


async def test_what_a_borrower_finds_lost_is_made_again(small: al.Session, lose: Any) -> None:
    keeper = Keeper.remote()
    ref = make.remote(5)
    await ref.ready()
    await keeper.keep([ref])
    await lose(ref)
    assert await keeper.first() == 5
    assert await keeper.first() == 5
    assert (await ref == pattern(5)).all()


async def test_several_borrowers_and_the_owner_have_it_made_once(small: al.Session, lose: Any, diary: Any) -> None:
    @al.remote
    def noted(seed: int) -> Floats:
        diary.note("made")
        return pattern(seed)

    keepers = [Keeper.remote() for _ in range(2)]
    ref = noted.remote(5)
    await ref.ready()
    for keeper in keepers:
        await keeper.keep([ref])
    await lose(ref)
    reads = [keeper.first() for keeper in keepers for _ in range(3)]
    found = await asyncio.gather(*reads, ref)
    assert found[:6] == [5] * 6 and (found[6] == pattern(5)).all()
    assert diary.words() == ["made"] * 2


async def test_an_owner_that_finds_it_lost_while_it_is_made_again_waits(
    small: al.Session, diary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @al.remote
    def noted(seed: int) -> Floats:
        diary.note("made")
        return pattern(seed)

    ref = noted.remote(5)
    await ref.ready()
    stored = ref._stored.stored
    opens, is_read = StoreClient.open, asyncio.Event()

    async def open_first(client: StoreClient, wish: Stored, *args: Any) -> Any:
        if wish is not stored:
            return await opens(client, wish, *args)
        if not is_read.is_set():  # the reader, who hears of it last
            is_read.set()
            while ref._stored is not None:
                await asyncio.sleep(0)
        raise ObjectLostError("it is gone")

    monkeypatch.setattr(StoreClient, "open", open_first)
    reading = asyncio.ensure_future(ref)
    await is_read.wait()
    await ref.runtime.stored.find_again(ref)  # type: ignore[attr-defined]
    assert (await asyncio.wait_for(reading, 10) == pattern(5)).all()
    assert diary.words() == ["made"] * 2


@pytest.mark.parametrize("by", ["task", "actor"])
async def test_a_borrowed_argument_is_made_again(small: al.Session, lose: Any, by: str) -> None:
    keeper = Keeper.remote()
    ref = make.remote(5)
    await ref.ready()
    await keeper.keep([ref])
    await lose(ref)
    call = keeper.total_by_task() if by == "task" else keeper.total_by_actor()
    assert await call == pattern(5).sum()


@pytest.mark.parametrize("by", ["first", "total_by_task", "total_by_actor"])
async def test_a_borrower_is_told_why_it_cannot_be_made_again(small: al.Session, lose: Any, by: str) -> None:
    keeper = Keeper.remote()
    ref = await al.put(pattern(1))
    await keeper.keep([ref])
    await lose(ref)
    for _ in range(2):
        with pytest.raises(ObjectLostError, match=r"cannot be made again: it was made by al\.put\(\)") as caught:
            await getattr(keeper, by)()
        assert "total()" in str(caught.value) + "".join(caught.value.__notes__) or by == "first"
    with pytest.raises(ObjectReconstructionFailedError, match=r"made by al\.put\(\)"):
        await ref


@pytest.fixture
def slow_again(diary: Any) -> Iterator[Any]:
    """An actor that owns a value which takes until "go" is noted when it is made again."""

    @al.remote
    def slow_again(seed: int) -> Floats:
        diary.note("made")
        while diary.words().count("made") > 1 and "go" not in diary.words():
            time.sleep(0.005)
        return pattern(seed)

    class Owner(al.Actor):
        async def own(self) -> list[al.ObjectRef[Floats]]:
            self.refs = [slow_again.remote(5)]
            await self.refs[0].ready()
            self.refs[0].runtime.stored.let_go()  # type: ignore[attr-defined]
            gc.collect()
            return self.refs

    yield Owner
    diary.note("go")


async def test_a_borrower_that_gives_up_waiting(small: al.Session, lose: Any, slow_again: Any, diary: Any) -> None:
    (ref,) = await slow_again.remote().own()
    await lose(ref)
    waiting = [asyncio.ensure_future(ref) for _ in range(3)]
    await diary.has("made", 2)
    waiting[0].cancel()
    diary.note("go")
    assert [float((await each)[0]) for each in waiting[1:]] == [5, 5]
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert diary.words().count("made") == 2


async def test_the_owner_dies_while_it_has_a_value_made_again(
    small: al.Session, lose: Any, slow_again: Any, diary: Any
) -> None:
    owner = slow_again.remote()
    (ref,) = await owner.own()
    await lose(ref)
    waiting = asyncio.ensure_future(ref)
    await diary.has("made", 2)
    await al.kill(owner)
    with pytest.raises(OwnerDiedError, match="the owner of object .* is gone"):
        await asyncio.wait_for(waiting, 10)
    diary.note("go")


async def test_a_borrower_that_never_finds_the_value_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner finds it each time."""
    asked = []
    open_it, fetch = StoreClient._open, Fetches._fetch

    async def opened(self: StoreClient, stored: Stored, timeout_s: float) -> Any:
        if self._scope.process == driver:
            raise ObjectLostError(f"{stored.key} is not to be found")
        return await open_it(self, stored, timeout_s)

    async def fetched(self: Fetches, ref: Any, value: bool, lost: str = "", losses: int = 0) -> None:
        asked.append(bool(lost))
        await fetch(self, ref, value, lost, losses)

    monkeypatch.setattr(StoreClient, "_open", opened)
    monkeypatch.setattr(Fetches, "_fetch", fetched)
    async with local_cluster() as session:
        driver = session.runtime.process
        (ref,) = await Keeper.remote().own(5)
        with pytest.raises(ObjectLostError, match="is not to be found"):
            await ref
        assert asked == [False, True, True, True]
