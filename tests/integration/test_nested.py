"""Work that makes work: tasks and actors inside tasks and actors, handles passed around, CPUs given back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorlite as al

pytestmark = pytest.mark.asyncio


@al.remote
async def leaf(x: int) -> int:
    return x


@al.remote
def plain_leaf(x: int) -> int:
    return x


@al.remote
async def tree(depth: int) -> int:
    if depth == 0:
        return 1
    return sum(await al.get([tree.remote(depth - 1), tree.remote(depth - 1)]))


@al.remote
def plain_tree(depth: int) -> int:
    if depth == 0:
        return 1
    return sum(al.sync.get([plain_tree.remote(depth - 1), plain_tree.remote(depth - 1)]))


@al.remote
async def structured_tree(depth: int) -> int:
    if depth == 0:
        return 1
    return sum(await asyncio.gather(structured_tree(depth - 1), structured_tree(depth - 1)))


class Counter(al.Actor):
    def __init__(self) -> None:
        self.n = 0

    async def incr(self) -> int:
        self.n += 1
        return self.n

    async def child(self) -> Counter:
        return Counter.remote()

    async def call(self, other: Counter) -> int:
        return await other.incr()

    @al.method
    def call_plain(self, other: Any) -> int:
        return int(al.sync.get(other.incr.remote()))

    async def task(self, x: int) -> int:
        return await leaf.remote(x) + await plain_leaf(x)

    async def sees(self, refs: list[al.ObjectRef[int]]) -> int:
        return sum(await al.get(refs))


@pytest.mark.parametrize("function", [tree, plain_tree, structured_tree], ids=["coroutine", "plain", "structured"])
async def test_more_nested_tasks_than_cpus(cluster: al.Session, function: Any, all_free: Any) -> None:
    assert await asyncio.wait_for(function.remote(4), 30) == 16
    await all_free(cluster)


async def test_waiting_in_every_way_gives_the_cpu_back(cluster: al.Session, all_free: Any) -> None:
    @al.remote
    def waits(how: str) -> Any:
        ref = plain_leaf.options(num_cpus=2).remote(1)
        if how == "result":
            return ref.result()
        if how == "wait":
            al.sync.wait([ref])
        return al.sync.get(ref)

    @al.remote
    async def awaits(how: str) -> Any:
        call = plain_leaf.options(num_cpus=2)
        if how == "structured":
            return await call(1)
        ref = call.remote(1)
        if how == "gather":
            return (await asyncio.gather(ref))[0]
        if how == "wait":
            await al.wait([ref])
        if how == "as_completed":
            async for each in al.as_completed([ref]):
                return await each
        return await (al.get(ref) if how == "get" else ref)

    for how in ("get", "wait", "result"):
        assert await asyncio.wait_for(waits(how), 10) == 1, how
    for how in ("get", "wait", "await", "structured", "gather", "as_completed"):
        assert await asyncio.wait_for(awaits(how), 10) == 1, how
    await all_free(cluster)


async def test_waiting_for_an_actor_gives_the_cpu_back(cluster: al.Session, all_free: Any) -> None:
    @al.remote(num_cpus=2)
    async def make() -> int:
        counter = Counter.options(num_cpus=2).remote()
        value = await counter.incr()
        await al.kill(counter)
        return value

    @al.remote(num_cpus=2)
    async def ask(counter: Counter) -> list[int]:
        return [await counter.task(4), await counter.task.remote(4), await counter.task(5)]

    assert await asyncio.wait_for(make(), 10) == 1
    counter = Counter.remote()
    await al.ready(counter)
    assert await asyncio.wait_for(ask(counter), 10) == [8, 8, 10]
    await all_free(cluster)


async def test_a_task_may_wait_for_one_that_is_queued_behind_it(cluster: al.Session, gate: Any) -> None:
    class Signal(al.Actor, max_concurrency=10):
        def __init__(self) -> None:
            self.event = asyncio.Event()

        async def wait(self) -> None:
            await self.event.wait()

        async def set(self) -> None:
            self.event.set()

    signal = Signal.remote()

    @al.remote
    async def waits() -> str:
        await signal.wait()
        return "waited"

    @al.remote
    async def sets() -> str:
        await signal.set()
        return "set"

    await al.get([leaf.remote(n) for n in range(300)])  # tasks are short: the pipeline is deep now
    refs = [*(waits.remote() for _ in range(6)), *(leaf.remote(n) for n in range(50)), sets.remote()]
    assert (await asyncio.wait_for(al.get(refs), 20))[-1] == "set"  # type: ignore[arg-type]


async def test_a_task_that_is_stuck_does_not_hold_back_those_behind_it(cluster: al.Session, gate: Any) -> None:
    @al.remote
    def hold() -> str:
        gate.hold()
        return "held"

    await al.get([leaf.remote(n) for n in range(300)])
    held = hold.remote()
    rest = [leaf.remote(n) for n in range(100)]
    assert await asyncio.wait_for(al.get(rest), 10) == list(range(100))
    gate.open()
    assert await held == "held"


async def test_handles_travel(cluster: al.Session) -> None:
    counter = Counter.remote()

    @al.remote
    async def use(handle: Counter, boxes: dict[str, list[Counter]]) -> int:
        await handle.incr()
        return await boxes["x"][0].incr()

    @al.remote
    def use_plain(handle: Any) -> int:
        return int(al.sync.get(handle.incr.remote()))

    assert await use.remote(counter, {"x": [counter]}) == 2
    assert await use_plain(counter) == 3
    assert await Counter.remote().call(counter) == 4
    assert await Counter.remote().call_plain(counter) == 5
    boxed = await al.put({"counter": counter})
    assert (await boxed)["counter"] == counter
    assert await (await boxed)["counter"].incr() == 6


async def test_an_actor_made_by_an_actor(cluster: al.Session) -> None:
    parent = Counter.remote()
    child = await parent.child()
    assert await child.incr() == 1
    assert await parent.call(child) == 2
    assert await Counter.remote().call(child) == 3
    await al.ready(child)
    await al.kill(child)
    with pytest.raises(al.errors.ActorDiedError):
        await child.incr()
    assert await parent.incr() == 1


async def test_the_actors_of_an_actor_die_with_it(cluster: al.Session) -> None:
    parent = Counter.remote()
    child = await parent.child()
    assert await child.incr() == 1
    await al.kill(parent)
    with pytest.raises(al.errors.ActorDiedError):
        while True:
            await asyncio.wait_for(child.incr(), 10)


async def test_an_actor_submits_tasks(cluster: al.Session) -> None:
    assert await Counter.remote().task(4) == 8
    assert await Counter.remote().sees([leaf.remote(1), await al.put(2)]) == 3


async def test_an_actor_passes_itself_on(cluster: al.Session) -> None:
    class Selfish(al.Actor, max_concurrency=2):
        async def me(self) -> Any:
            return al.runtime_context().current_actor

        async def through_a_task(self) -> str:
            @al.remote
            async def back(handle: Any) -> str:
                return str(await handle.name())

            return await back.remote(al.runtime_context().current_actor)

        async def directly(self) -> str:
            return str(await al.runtime_context().current_actor.name())

        async def name(self) -> str:
            return "selfish"

    selfish = Selfish.remote()
    assert await (await selfish.me()).name() == "selfish"
    assert await selfish.me() == selfish
    assert await selfish.through_a_task() == "selfish"
    assert await selfish.directly() == "selfish"
    assert await (await al.put(selfish)) == selfish


async def test_many_actors_that_call_each_other(cluster: al.Session) -> None:
    actors = [Counter.options(process="shared").remote() for _ in range(10)]
    hub = Counter.options(max_concurrency=20).remote()
    await asyncio.gather(*(hub.call(actor) for actor in actors for _ in range(5)))
    assert await asyncio.gather(*(actor.incr() for actor in actors)) == [6] * 10
