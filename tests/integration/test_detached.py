"""Detached actors: they belong to the node, not to who made them."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

import actorlite as al
from actorlite.context import current_runtime
from actorlite.errors import ActorAlreadyExistsError, ActorDiedError, ActorNotFoundError
from actorlite.testing.cluster import Cluster, cluster

from ..drivers import another_driver

pytestmark = pytest.mark.asyncio


class Counter(al.Actor):
    def __init__(self, start: int = 0, data: bytes = b"") -> None:
        self.n = start
        self.size = len(data)

    async def incr(self, by: int = 1) -> int:
        self.n += by
        return self.n

    async def data(self) -> int:
        return self.size

    async def again(self) -> bool:
        return al.runtime_context().was_current_actor_reconstructed

    async def myself(self) -> Any:
        return al.runtime_context().current_actor

    async def leave(self) -> None:
        al.exit_actor()

    @al.method
    def crash(self) -> None:
        os._exit(3)


def detached(name: str = "hits", **options: Any) -> Any:
    return Counter.options(name=name, namespace="shared", lifetime="detached", **options)


async def names() -> list[str]:
    return [each["name"] for each in await al.list_named_actors(all_namespaces=True)]


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp"])
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    async with cluster(nodes=3, scheme=request.param) as found:
        yield found


async def test_it_outlives_its_handles_and_its_creator(anywhere: al.Session) -> None:
    async with another_driver(anywhere) as second:
        token = current_runtime.set(second)
        counter = detached().remote(1)
        assert await counter.incr() == 2
        del counter, token
    current_runtime.set(anywhere.runtime)
    gc.collect()
    found = await al.get_actor("hits", Counter, namespace="shared")
    assert await found.incr() == 3
    status = await anywhere.status()
    assert [(each["name"], each["namespace"], each["state"]) for each in status["detached"]] == [
        ("hits", "shared", "ALIVE")
    ]
    await al.kill(found)
    with pytest.raises(ActorDiedError, match="killed"):
        await found.incr()
    with pytest.raises(ActorNotFoundError):
        await al.get_actor("hits", namespace="shared")
    assert (await anywhere.status())["detached"] == []


async def test_its_handle_can_be_used_and_sent_at_once(anywhere: al.Session) -> None:
    counter = detached().remote(1)
    assert len({counter, await al.get_actor("hits", namespace="shared")}) == 1
    assert await use.remote(counter) == 2
    # Tasks beside each other: which of them is first is nobody's promise.
    assert sorted(await al.get([use.remote(counter) for _ in range(3)])) == [3, 4, 5]
    assert await counter.myself() == counter
    second = detached("more").remote(10)
    assert await use.remote(second) == 11


@al.remote
async def use(counter: Any) -> int:
    return int(await counter.incr())


async def test_a_second_one_is_not_made(anywhere: al.Session) -> None:
    first = detached().remote(1)
    second = detached().remote(100)
    with pytest.raises(ActorAlreadyExistsError, match="belongs to"):
        await second.incr()
    plain = Counter.options(name="hits", namespace="shared").remote(5)
    with pytest.raises(ActorAlreadyExistsError):
        await plain.incr()
    third = detached(get_if_exists=True).remote(7)
    assert await third.incr() == 2
    fourth, created = await detached().get_or_create(9)
    assert not created and fourth == first == third
    other, created = await detached("other").get_or_create(50)
    assert created and await other.incr() == 51


async def test_of_a_hundred_racers_one_makes_it(anywhere: al.Session) -> None:
    handles = sum(await al.get([racers.options(num_cpus=0.2).remote(first) for first in range(0, 100, 10)]), [])
    assert len(handles) == 100
    assert sum(created for _, created in handles) == 1
    assert len({handle for handle, _ in handles}) == 1
    assert (await handles[0][0].incr(by=0)) % 1000 == 0


@al.remote
async def racers(first: int) -> list[tuple[Any, bool]]:
    """Ten at once, in a worker beside which nine others do the same."""
    return await asyncio.gather(*(detached().get_or_create(1000 * number) for number in range(first, first + 10)))


@pytest.mark.parametrize("process", ["dedicated", "shared"])
async def test_it_ends_by_kill_terminate_or_itself_and_its_name_is_free(anywhere: al.Session, process: Any) -> None:
    for end in (al.kill, al.terminate):
        counter = detached(process=process).remote(1)
        assert await counter.incr() == 2
        await end(counter)
        assert await names() == []
    counter = detached(process=process).remote(1)
    with pytest.raises(ActorDiedError):
        await counter.leave()
    async with asyncio.timeout(10):
        while await names():
            await asyncio.sleep(0.002)
    info = await al.describe(counter)
    assert (info.state, info.death_cause) == ("DEAD", "EXITED")
    await al.kill(counter)


async def test_it_is_made_anew_when_its_worker_dies(anywhere: al.Session) -> None:
    if anywhere.address != "local":
        pytest.skip("needs processes to crash")
    counter = detached(max_restarts=1, max_task_retries=-1).remote(10)
    assert await counter.incr() == 11 and not await counter.again()
    with pytest.raises(al.errors.ActorError):
        await counter.crash.options(max_task_retries=0)()
    assert await counter.incr() == 11 and await counter.again()
    assert (await al.describe(counter)).restarts == 1
    with pytest.raises(al.errors.ActorError):
        await counter.crash.options(max_task_retries=0)()
    with pytest.raises(ActorDiedError, match="no restart left"):
        await counter.incr()
    async with asyncio.timeout(10):
        while await names():
            await asyncio.sleep(0.002)


async def test_arguments_of_all_sizes_and_references(anywhere: al.Session) -> None:
    for size in (0, 10_000, 3_000_000):
        counter = detached("n").remote(1, b"x" * size)
        assert await counter.data() == size
        await al.kill(counter)
    ref = await al.put(b"y" * 200_000)
    counter = detached("n").remote(start_of.remote(), data=ref)
    assert await counter.data() == 200_000 and await counter.incr() == 42
    await al.kill(counter)
    failed = detached("n").remote(fails.remote())
    with pytest.raises(ActorDiedError, match="argument of its constructor failed.*KeyError"):
        await failed.incr()
    assert await names() == []
    with pytest.raises(ValueError, match="can be kept"):
        detached("n").remote(1, b"z" * (65 << 20))


@al.remote
def start_of() -> int:
    return 41


@al.remote
def fails() -> int:
    raise KeyError("no")


class Wraps(al.Actor):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def incr(self) -> int:
        return int(await self.inner[0].incr())


async def test_it_holds_what_its_arguments_hold(anywhere: al.Session) -> None:
    counter = Counter.remote(1)
    wraps = Wraps.options(name="w", lifetime="detached", namespace="x").remote([counter])
    await al.ready(wraps)
    del counter
    gc.collect()
    assert await wraps.incr() == 2


async def test_a_class_that_only_its_creator_has(anywhere: al.Session) -> None:
    step = 5

    class Local(al.Actor):
        async def step(self) -> int:
            return step

    actor = Local.options(name="local", lifetime="detached", namespace="x").remote()
    assert await actor.step() == 5
    assert await (await al.get_actor("local", namespace="x")).step() == 5


async def test_a_constructor_that_raises(anywhere: al.Session) -> None:
    class Fails(al.Actor):
        def __init__(self) -> None:
            raise KeyError("no")

    actor = Fails.options(name="f", lifetime="detached", namespace="x").remote()
    with pytest.raises(ActorDiedError, match="KeyError") as caught:
        await al.ready(actor)
    assert caught.value.actor_init_failed
    async with asyncio.timeout(10):
        while await names():
            await asyncio.sleep(0.002)


async def test_an_anonymous_namespace_is_warned_about(cluster: al.Session, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "actorlite"):
        actor = Counter.options(name="hits", lifetime="detached").remote()
    assert "namespace of this session only" in caplog.text
    await al.ready(actor)
    await al.kill(actor)


async def test_it_may_be_killed_before_it_is_made(anywhere: al.Session) -> None:
    for _ in range(5):
        counter = detached().remote(1)
        await al.kill(counter)
        assert await names() == []
        with pytest.raises(ActorDiedError):
            await counter.incr()


async def test_on_stop_runs_when_the_node_ends(tmp_path: Any) -> None:
    class Stops(al.Actor):
        def __init__(self, path: str) -> None:
            self.path = path

        async def on_stop(self) -> None:
            with open(self.path, "w") as file:
                file.write("stopped")

    path = tmp_path / "said"
    async with al.init("inproc://"):
        actor = Stops.options(name="s", lifetime="detached", namespace="x").remote(str(path))
        await al.ready(actor)
    assert path.read_text() == "stopped"


async def test_from_any_node(nodes: Cluster) -> None:
    async with AsyncExitStack() as stack:
        runtime = await nodes.connect(nodes.nodes[1], stack)
        current_runtime.set(runtime)
        counter = detached().remote(1)
        assert await counter.incr() == 2
        third = await nodes.connect(nodes.nodes[2], stack)
        current_runtime.set(third)
        found = await al.get_actor("hits", Counter, namespace="shared")
        assert found == counter and await found.incr() == 3
        await nodes.kill_node(nodes.nodes[1])
        again = await al.get_actor("hits", Counter, namespace="shared")
        assert await again.incr() >= 1
        await al.kill(again)
        current_runtime.set(nodes.session.runtime)
        assert await names() == []
