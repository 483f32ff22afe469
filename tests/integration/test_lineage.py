"""Values that are lost with the disk: what is made again, by running what made it, and what says why it cannot be."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import ObjectLostError, ObjectReconstructionFailedError

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


@pytest.fixture
def lose(tmp_path: Path, eventually: Any, complaints: Any) -> Any:
    """Have values written to disk, by putting others, and lose what is there."""

    async def lose(*refs: al.ObjectRef[Any]) -> None:
        stored = refs[0].runtime.stored  # type: ignore[attr-defined]
        keys = {ref._stored.stored.key for ref in refs}
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
