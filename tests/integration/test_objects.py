"""Values and references: put, get, nesting, borrowing between workers, and owners that are gone."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import numpy
import pytest

import actorlite as al
from actorlite.context import find_runtime
from actorlite.errors import GetTimeoutError, ObjectLostError, OwnerDiedError

pytestmark = pytest.mark.asyncio


@al.remote
async def total(refs: list[al.ObjectRef[int]]) -> int:
    return sum(await al.get(refs))


@al.remote
def total_plain(refs: list[al.ObjectRef[int]]) -> int:
    return sum(al.sync.get(refs))


@al.remote
async def one(value: int) -> int:
    return value


@al.remote
async def make(value: int) -> dict[str, Any]:
    return {"put": await al.put(value), "task": one.remote(value + 1), "list": [await al.put([value])]}


class Keeper(al.Actor):
    """Holds references of others across calls."""

    def __init__(self, refs: list[al.ObjectRef[Any]] | None = None) -> None:
        self.refs = list(refs or [])

    async def keep(self, refs: list[al.ObjectRef[Any]]) -> None:
        self.refs += refs

    @al.method
    def keep_plain(self, refs: list[al.ObjectRef[Any]]) -> None:
        self.refs += refs

    async def values(self) -> list[Any]:
        return await al.get(self.refs)

    async def give(self) -> list[al.ObjectRef[Any]]:
        return self.refs

    async def drop(self) -> None:
        self.refs.clear()

    async def own(self, value: Any) -> al.ObjectRef[Any]:
        ref = await al.put(value)
        return [ref]  # type: ignore[return-value]

    async def submit(self, value: int) -> list[al.ObjectRef[int]]:
        return [one.remote(value)]


def exported(session: al.Session) -> int:
    return len(session.runtime.exports._exports)  # type: ignore[attr-defined]


@pytest.fixture
def nothing_exported(eventually: Any) -> Callable[[al.Session], Any]:
    """Wait until nobody else holds what this session's driver owns."""

    async def wait(session: al.Session) -> None:
        async def condition() -> bool:
            gc.collect()
            return exported(session) == 0

        await eventually(condition)

    return wait


@pytest.mark.parametrize(
    "value", [None, 7, "text", b"bytes", [1, [2]], {"a": (1, 2)}, range(3), bytearray(b"x" * 200_000)]
)
async def test_put_and_get(cluster: al.Session, value: Any) -> None:
    ref = await al.put(value)
    assert ref.done()
    assert await ref == value
    assert await al.get(ref) == value
    assert await al.get([ref, ref]) == [value, value]
    assert ref.result() == value


async def test_each_get_is_a_copy_of_what_was_put(cluster: al.Session) -> None:
    mine = [1]
    ref = await al.put(mine)
    mine.append(2)
    first = await ref
    first.append(3)
    assert await ref == [1]


async def test_arrays(cluster: al.Session) -> None:
    array = numpy.arange(100_000.0)
    ref = await al.put(array)
    array[0] = 99
    assert (await ref)[0] == 0

    @al.remote
    def add(left: Any, right: Any) -> Any:
        return left + right

    result = await add(al.arg(ref), numpy.ones(100_000))
    assert result.sum() == numpy.arange(1.0, 100_001.0).sum()


async def test_put_refuses_a_reference_and_get_refuses_a_value(cluster: al.Session) -> None:
    ref = await al.put(1)
    with pytest.raises(TypeError, match="put"):
        await al.put(ref)
    with pytest.raises(TypeError, match="list of ObjectRefs"):
        await al.get([ref, 1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not 3"):
        await al.get(3)  # type: ignore[call-overload]


async def test_get_waits_for_at_most_its_timeout(cluster: al.Session, gate: Any) -> None:
    @al.remote
    def hold() -> int:
        gate.hold()
        return 1

    ref = hold.remote()
    with pytest.raises(GetTimeoutError, match="1 of 2 references were still pending"):
        await al.get([ref, await al.put(1)], timeout=0.01)
    with pytest.raises(TimeoutError):
        await al.get(ref, timeout=0)
    await gate.arrived()
    gate.open()
    assert await al.get(ref, timeout=10) == 1


@pytest.mark.parametrize("function", [total, total_plain], ids=["coroutine", "plain"])
async def test_references_in_containers_stay_references(
    cluster: al.Session, function: Any, nothing_exported: Any
) -> None:
    refs = [await al.put(1), one.remote(2), await al.put(3)]
    assert await function.remote(refs) == 6
    assert await function(refs=refs) == 6
    del refs
    await nothing_exported(cluster)


async def test_a_reference_to_references(cluster: al.Session, nothing_exported: Any) -> None:
    inner = [await al.put(n) for n in range(5)]
    outer = await al.put({"refs": inner})
    del inner
    gc.collect()
    assert await al.get((await outer)["refs"]) == list(range(5))
    assert await total.remote([*(await outer)["refs"]]) == 10

    @al.remote
    async def inside(value: dict[str, list[al.ObjectRef[int]]]) -> int:
        return sum(await al.get(value["refs"]))

    assert await inside.remote(al.arg(outer)) == 10  # type: ignore[arg-type]
    del outer
    await nothing_exported(cluster)


async def test_references_made_by_a_task_outlive_it(cluster: al.Session) -> None:
    made = await make(10)
    gc.collect()
    assert await made["put"] == 10
    assert await made["task"] == 11
    assert await made["list"][0] == [10]
    assert await one(al.arg(made["put"])) == 10
    assert await total.remote([made["put"], made["task"]]) == 21


async def test_references_inside_a_result_that_nobody_opened(cluster: al.Session, gate: Any) -> None:
    ref = make.remote(5)
    await ref.ready()

    @al.remote
    async def open_it(made: dict[str, Any]) -> int:
        return int(await made["put"])

    assert await open_it.remote(al.arg(ref)) == 5


@pytest.mark.parametrize("method", ["keep", "keep_plain"])
async def test_an_actor_borrows_across_calls(cluster: al.Session, method: str, nothing_exported: Any) -> None:
    keeper = Keeper.remote()
    refs = [await al.put(1), one.remote(2)]
    await getattr(keeper, method)(refs)
    del refs
    gc.collect()
    assert await keeper.values() == [1, 2]
    back = await keeper.give()
    assert await al.get(back) == [1, 2]
    assert exported(cluster) == 2
    await keeper.drop()
    del back
    await nothing_exported(cluster)


async def test_references_given_to_a_constructor(cluster: al.Session, nothing_exported: Any) -> None:
    keeper = Keeper.options(process="shared").remote([await al.put("kept")])
    assert await keeper.values() == ["kept"]
    await al.kill(keeper)


async def test_a_connection_does_not_keep_the_call_that_needed_it_first(
    cluster: al.Session, nothing_exported: Any
) -> None:
    class Asking(al.Actor):
        async def ask(self, other: Keeper, refs: list[al.ObjectRef[Any]]) -> None:
            self.refs = refs
            await other.values()

    other, asking = Keeper.remote(), Asking.options(process="shared").remote()
    await al.ready(other)
    await asking.ask(other, [await al.put(1)])
    await al.kill(asking)
    await nothing_exported(cluster)


async def test_light_actors_borrow_at_the_same_time(cluster: al.Session) -> None:
    keepers = [Keeper.options(process="shared").remote() for _ in range(20)]
    refs = [await al.put(n) for n in range(20)]
    await asyncio.gather(*(keeper.keep_plain([ref]) for keeper, ref in zip(keepers, refs, strict=True)))
    del refs
    gc.collect()
    assert await asyncio.gather(*(keeper.values() for keeper in keepers)) == [[n] for n in range(20)]


async def test_a_borrower_passes_on_what_it_borrowed(cluster: al.Session, nothing_exported: Any) -> None:
    first, second = Keeper.remote(), Keeper.remote()
    await first.keep([await al.put("mine")])
    await second.keep(await first.give())
    await first.drop()
    gc.collect()
    assert await second.values() == ["mine"]
    await second.drop()
    await nothing_exported(cluster)


async def test_what_an_actor_owns_travels_to_others(cluster: al.Session) -> None:
    owner, keeper = Keeper.remote(), Keeper.remote()
    (ref,) = await owner.own("from the actor")  # type: ignore[misc]
    await keeper.keep([ref])
    assert await keeper.values() == ["from the actor"]
    assert await ref == "from the actor"
    assert await one.remote(al.arg(ref)) == "from the actor"
    assert await owner.keep([ref]) is None  # home again
    assert await owner.values() == ["from the actor"]


async def test_ready_and_wait_do_not_fetch(cluster: al.Session) -> None:
    owner = Keeper.remote()
    (ref,) = await owner.own(bytes(300_000))  # type: ignore[misc]
    await ref.ready()
    assert "elsewhere" in repr(ref)
    assert await al.wait([ref], fetch_local=False) == ([ref], [])
    assert "elsewhere" in repr(ref)
    assert await al.wait([ref]) == ([ref], [])
    assert "elsewhere" not in repr(ref)
    assert ref.result() == bytes(300_000)


async def test_values_of_an_owner_that_is_gone_are_lost_with_it(cluster: al.Session) -> None:
    owner = Keeper.remote()
    (ref,) = await owner.own("short-lived")  # type: ignore[misc]
    (fetched,) = await owner.own("fetched in time")  # type: ignore[misc]
    assert await fetched == "fetched in time"
    await al.kill(owner)
    with pytest.raises(OwnerDiedError, match="owner of object"):
        await asyncio.wait_for(ref.get(), 10)
    assert await fetched == "fetched in time"
    with pytest.raises(ObjectLostError):
        await one.remote(al.arg(ref))
    with pytest.raises(ObjectLostError):
        await total.remote([ref])


async def test_whoever_waits_for_a_value_of_an_owner_that_dies_is_told(cluster: al.Session, gate: Any) -> None:
    @al.remote
    async def never() -> int:
        gate.arrive()
        await asyncio.Event().wait()
        return 1

    class Owner(al.Actor):
        async def submit(self) -> list[al.ObjectRef[int]]:
            return [never.remote()]

    owner = Owner.remote()
    (ref,) = await owner.submit()
    waiting = [asyncio.ensure_future(ref), asyncio.create_task(one.remote(al.arg(ref)).get())]
    await gate.arrived()
    await al.kill(owner)
    for outcome in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10):
        assert isinstance(outcome, OwnerDiedError), outcome


async def test_a_failed_value_of_another_owner(cluster: al.Session) -> None:
    @al.remote
    def fail() -> None:
        raise LookupError("there")

    class Owner(al.Actor):
        async def submit(self) -> list[al.ObjectRef[None]]:
            return [fail.remote()]

    (ref,) = await Owner.remote().submit()
    with pytest.raises(LookupError, match="there"):
        await ref
    with pytest.raises(LookupError) as caught:
        await one.remote(al.arg(ref))
    assert any("did not run" in note for note in caught.value.__notes__)


async def test_results_with_references_that_nobody_waits_for_are_released(
    cluster: al.Session, gate: Any, eventually: Any
) -> None:
    class Giver(al.Actor):
        @al.method
        def give(self, many: bool) -> Any:
            gate.hold()
            ref = al.sync.put("unwanted")
            return ([ref], [ref]) if many else [ref]

        async def holds(self) -> bool:
            runtime: Any = find_runtime()
            return bool(runtime.exports.is_needed)

    giver = Giver.remote()
    for many in (False, True):
        call = giver.give.options(num_returns=2 if many else 1)
        waiting = asyncio.ensure_future(call(many))
        await gate.arrived()
        waiting.cancel()
        await asyncio.wait([waiting])
        gate.open()

        async def released() -> bool:
            gc.collect()
            return not await giver.holds()

        await eventually(released)


async def test_a_reference_does_not_pickle_outside_a_call(cluster: al.Session) -> None:
    with pytest.raises(TypeError, match="outside a call"):
        __import__("pickle").dumps(await al.put(1))
