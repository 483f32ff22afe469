"""Named actors: who gets a name, who finds it, and when it is free again."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

import actorlite as al
from actorlite.context import current_runtime
from actorlite.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorNotFoundError,
    ControlUnavailable,
    NotExecuted,
)
from actorlite.testing.cluster import Cluster, cluster
from actorlite.wire.messages import encode
from actorlite.wire.nodes import ProcessEnded
from actorlite.wire.requests import NodeStatus

from ..drivers import another_driver

pytestmark = pytest.mark.asyncio


class Counter(al.Actor):
    def __init__(self, start: int = 0) -> None:
        self.n = start

    async def incr(self, by: int = 1) -> int:
        self.n += by
        return self.n

    async def pid(self) -> int:
        return os.getpid()

    async def leave(self) -> None:
        al.exit_actor()

    @al.method
    def crash(self) -> None:
        os._exit(3)


class Other(al.Actor):
    async def other(self) -> int:
        return 1


@al.remote
async def racers(first: int) -> list[tuple[Any, bool]]:
    """Ten at once, in a worker beside which nine others do the same."""
    counter = Counter.options(name="raced")
    return await asyncio.gather(*(counter.get_or_create(1000 * number) for number in range(first, first + 10)))


@al.remote
async def look(name: str, namespace: str | None = None) -> int:
    counter = await al.get_actor(name, Counter, namespace=namespace)
    return await counter.incr()


@al.remote
async def where() -> str:
    return al.runtime_context().namespace


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp"])
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    async with cluster(nodes=3, scheme=request.param) as found:
        yield found


# --- names


async def test_a_named_actor_is_found_by_its_name(anywhere: al.Session) -> None:
    counter = Counter.options(name="hits").remote(10)
    assert await counter.incr() == 11
    found = await al.get_actor("hits", Counter)
    assert found == counter and hash(found) == hash(counter)
    assert await found.incr() == 12
    untyped = await al.get_actor("hits")
    assert await untyped.incr(by=2) == 14
    assert await look("hits") == 15
    assert await al.list_named_actors() == ["hits"]


async def test_an_actor_that_is_still_being_made_is_found(anywhere: al.Session) -> None:
    counter = Counter.options(name="hits").remote(10)
    await al.ready(counter)
    slow = [Counter.options(name=f"n{number}").remote(number) for number in range(5)]

    async def first(number: int) -> int:
        while True:
            try:
                return await (await al.get_actor(f"n{number}", Counter)).incr()
            except ActorNotFoundError:
                await asyncio.sleep(0.001)

    assert await asyncio.gather(*[first(number) for number in range(5)]) == [1, 2, 3, 4, 5]
    assert await al.list_named_actors() == ["hits", "n0", "n1", "n2", "n3", "n4"]
    del slow


async def test_a_second_actor_of_a_name_is_not_made(anywhere: al.Session) -> None:
    first = Counter.options(name="hits").remote(10)
    await al.ready(first)
    second = Counter.options(name="hits").remote(20)
    with pytest.raises(ActorAlreadyExistsError, match="'hits' belongs to Actor.*get_if_exists") as caught:
        await second.incr()
    assert isinstance(caught.value, ValueError | ActorDiedError) and isinstance(caught.value, NotExecuted)
    with pytest.raises(ActorAlreadyExistsError):
        await al.ready(second)
    assert (await al.describe(second)).death_cause == "NAME_TAKEN"
    assert await first.incr() == 11 and await look("hits") == 12


async def test_nobody_has_the_name(anywhere: al.Session) -> None:
    with pytest.raises(ActorNotFoundError, match=r"'none' in namespace 'job-.*list_named_actors"):
        await al.get_actor("none")
    assert await al.list_named_actors(all_namespaces=True) == []


async def test_wrong_arguments(cluster: al.Session) -> None:
    get: Any = al.get_actor
    with pytest.raises(TypeError, match=r"takes a str as name, not 3"):
        await get(3)
    with pytest.raises(TypeError, match=r"takes a str as name, not b'x'"):
        await get(b"x")
    for name in ("", None):
        with pytest.raises(ValueError, match="name="):
            await get(name)
    with pytest.raises(TypeError, match="namespace"):
        await get("x", namespace=3)
    with pytest.raises(ValueError, match="namespace"):
        await get("x", namespace="")
    counter = Counter.options(name="x").remote()
    await al.ready(counter)
    with pytest.raises(TypeError, match="takes a class as cls"):
        await get("x", "Counter")
    with pytest.raises(TypeError, match=r"is a Counter, and has no other\(\) as Other has"):
        await al.get_actor("x", Other)
    assert isinstance(await al.get_actor("x", al.Actor), al.ActorHandle)
    for options in ({"get_if_exists": True}, {"namespace": "x"}, {"lifetime": "detached"}):
        with pytest.raises(ValueError, match="needs name="):
            Counter.options(**options).remote()  # type: ignore[typeddict-item]
    with pytest.raises(ValueError, match="needs a name"):
        await Counter.options().get_or_create()


# --- when a name is free again


async def free(name: str, session: al.Session | None = None) -> None:
    async with asyncio.timeout(10):
        while name in await al.list_named_actors():
            gc.collect()
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("process", ["dedicated", "shared"])
async def test_a_name_is_free_when_its_actor_was_ended(anywhere: al.Session, process: Any) -> None:
    named = Counter.options(name="hits", process=process)
    for end in (al.kill, al.terminate):
        for number in range(3):
            counter = named.remote(number)
            assert await counter.incr() == number + 1
            await end(counter)
            with pytest.raises(ActorNotFoundError):
                await al.get_actor("hits")
    # Also when somebody else ends it.
    counter = named.remote()
    await al.ready(counter)
    await kill_by_name("hits")
    assert await al.list_named_actors() == []
    again = named.remote(5)
    assert await again.incr() == 6


@al.remote
async def kill_by_name(name: str) -> None:
    await al.kill(await al.get_actor(name))
    assert await al.list_named_actors() == []


async def test_a_name_is_free_when_nobody_holds_its_actor(anywhere: al.Session) -> None:
    counter = Counter.options(name="hits").remote(1)
    await al.ready(counter)
    finder = Finder.remote()
    assert await finder.find("hits") == 2
    del counter
    await free("hits")
    with pytest.raises(ActorDiedError):
        await finder.incr()
    counter = Counter.options(name="hits").remote(7)
    assert await counter.incr() == 8


class Finder(al.Actor):
    async def find(self, name: str) -> int:
        self.found = await al.get_actor(name, Counter)
        return await self.found.incr()

    async def incr(self) -> int:
        return await self.found.incr()


async def test_a_name_is_free_when_its_actor_left(anywhere: al.Session) -> None:
    counter = Counter.options(name="hits").remote()
    with pytest.raises(ActorDiedError):
        await counter.leave()
    await free("hits")


async def test_a_name_is_free_when_its_actor_failed_to_start(anywhere: al.Session) -> None:
    class Fails(al.Actor):
        def __init__(self) -> None:
            raise KeyError("no")

    actor = Fails.options(name="hits").remote()
    with pytest.raises(ActorDiedError):
        await al.ready(actor)
    await free("hits")


async def test_a_handle_that_was_sent_keeps_a_found_actor_alive(anywhere: al.Session) -> None:
    counter = Counter.options(name="hits").remote(1)
    await al.ready(counter)
    keeper = Holder.remote()
    await keeper.hold([await al.get_actor("hits")])
    del counter
    gc.collect()
    assert await keeper.incr() == 2
    assert await al.list_named_actors() == ["hits"]
    await keeper.drop()
    await free("hits")


class Holder(al.Actor):
    async def hold(self, handles: list[Any]) -> None:
        self.handles = handles

    async def incr(self) -> int:
        return int(await self.handles[0].incr())

    async def drop(self) -> None:
        self.handles.clear()


async def test_names_end_with_the_driver_that_made_them(anywhere: al.Session) -> None:
    async with another_driver(anywhere) as second:
        counter = Counter.options(name="hits", namespace="ours").remote(1)
        assert await counter.incr() == 2
        token = current_runtime.set(anywhere.runtime)
        found = await al.get_actor("hits", Counter, namespace="ours")
        assert await found.incr() == 3
        current_runtime.set(second)
        del counter, token
    async with asyncio.timeout(10):
        while await al.list_named_actors(all_namespaces=True):
            await asyncio.sleep(0.002)
    with pytest.raises(ActorDiedError):
        await found.incr()


# --- get or create


async def test_of_a_hundred_racers_one_makes_the_actor(anywhere: al.Session) -> None:
    handles = sum(await al.get([racers.options(num_cpus=0.2).remote(first) for first in range(0, 100, 10)]), [])
    assert len(handles) == 100
    assert sum(created for _, created in handles) == 1
    assert len({handle for handle, _ in handles}) == 1
    start = await handles[0][0].incr(by=0)
    assert start % 1000 == 0
    assert await handles[57][0].incr() == start + 1
    assert await al.list_named_actors() == ["raced"]


async def test_get_or_create_says_which_it_was(anywhere: al.Session) -> None:
    first, created = await Counter.options(name="hits").get_or_create(1)
    again, made = await Counter.options(name="hits").get_or_create(100)
    assert created and not made and first == again
    assert await again.incr() == 2
    await al.kill(first)
    third, created = await Counter.options(name="hits").get_or_create(50)
    assert created and third != first and await third.incr() == 51


async def test_get_or_create_holds_what_it_got(anywhere: al.Session) -> None:
    first, _ = await Counter.options(name="hits").get_or_create(1)
    keeper = Holder.remote()
    await keeper.hold([])
    await take_over("hits", keeper)
    del first
    gc.collect()
    assert await keeper.incr() == 2


@al.remote
async def take_over(name: str, keeper: Any) -> None:
    counter, created = await Counter.options(name=name).get_or_create()
    assert not created
    await keeper.hold([counter])


async def test_get_or_create_waits_for_a_dead_actor_s_name(anywhere: al.Session) -> None:
    counter = Counter.options(name="hits").remote(1)
    await al.ready(counter)
    with pytest.raises(ActorDiedError):
        await counter.leave()
    again, _ = await Counter.options(name="hits").get_or_create(20)
    assert await again.incr() == 21


async def test_remote_with_get_if_exists_is_one_or_the_other(anywhere: al.Session) -> None:
    named = Counter.options(name="hits", get_if_exists=True)
    first, second = named.remote(1), named.remote(100)
    later = second.incr
    refs = [first.incr.remote(), second.incr.remote(), second.incr.remote(by=5)]
    with pytest.raises(TypeError, match="al.ready"):
        hash(second)
    await al.ready(second)
    assert sorted(await al.get(refs)) == [2, 3, 8]
    assert first == second and len({first, second}) == 1
    assert await later() == 9
    assert await look("hits") == 10
    assert repr(first) == repr(second)
    await al.kill(second)
    with pytest.raises(ActorDiedError):
        await first.incr()


async def test_killing_what_may_be_another_actor_ends_that_one(anywhere: al.Session) -> None:
    named = Counter.options(name="hits", get_if_exists=True)
    first, second = named.remote(1), named.remote(2)
    await al.kill(second)
    assert await al.list_named_actors() == []
    with pytest.raises(ActorDiedError):
        await first.incr()


async def test_an_actor_that_is_killed_before_it_has_its_name_lets_it_go(anywhere: al.Session) -> None:
    for number in range(10):
        counter = Counter.options(name="hits").remote(number)
        await al.kill(counter)
        with pytest.raises(ActorDiedError):
            await counter.incr()
    counter = Counter.options(name="hits").remote(5)
    assert await counter.incr() == 6


async def test_a_cancelled_get_or_create_lets_the_name_go(anywhere: al.Session) -> None:
    for steps in range(12):
        making = asyncio.ensure_future(Counter.options(name="hits").get_or_create(1))
        for _ in range(steps):
            await asyncio.sleep(0)
        making.cancel()
        await asyncio.wait([making])
        del making
        gc.collect()
        await free("hits")


# --- namespaces


async def test_a_name_is_unique_in_its_namespace(anywhere: al.Session) -> None:
    mine = Counter.options(name="hits").remote(1)
    theirs = Counter.options(name="hits", namespace="theirs").remote(100)
    assert (await mine.incr(), await theirs.incr()) == (2, 101)
    assert await look("hits") == 3 and await look("hits", "theirs") == 102
    with pytest.raises(ActorNotFoundError, match="'third'"):
        await al.get_actor("hits", namespace="third")
    assert await al.list_named_actors() == ["hits"]
    everywhere = await al.list_named_actors(all_namespaces=True)
    assert everywhere == sorted(
        [{"name": "hits", "namespace": anywhere.namespace}, {"name": "hits", "namespace": "theirs"}],
        key=lambda each: each["namespace"],
    )


async def test_workers_inherit_the_namespace(anywhere: al.Session) -> None:
    assert await where() == anywhere.namespace == al.runtime_context().namespace


async def test_each_session_without_a_namespace_has_one_of_its_own(cluster: al.Session) -> None:
    async with another_driver(cluster) as second:
        assert second.namespace != cluster.namespace
        theirs = Counter.options(name="hits").remote(1)
        await al.ready(theirs)
        with cluster.use():
            with pytest.raises(ActorNotFoundError):
                await al.get_actor("hits")
            assert await (await al.get_actor("hits", Counter, namespace=second.namespace)).incr() == 2


async def test_three_namespaces_know_nothing_of_each_other(cluster: al.Session) -> None:
    made, groups = [], []
    for number, namespace in enumerate(("red", "blue")):
        async with another_driver(cluster, namespace) as runtime:
            found, created = await Counter.options(name="hits", lifetime="detached").get_or_create(10 * number)
            assert created and runtime.namespace == namespace
            groups.append(await al.placement_group([{"CPU": 0.5}], name="gang", lifetime="detached"))
            made.append((await al.describe(found)).id)
    assert len(set(made)) == len(set(groups)) == 2
    for number, namespace in enumerate(("red", "blue")):
        async with another_driver(cluster, namespace):
            assert await al.list_named_actors() == ["hits"]
            found = await al.get_actor("hits", Counter)
            assert (await al.describe(found)).id == made[number]
            assert await found.incr() == 10 * number + 1
            assert await al.get_placement_group("gang") == groups[number]
    async with another_driver(cluster, "green"):
        assert await al.list_named_actors() == []
        with pytest.raises(ActorNotFoundError, match="'hits' in namespace 'green'"):
            await al.get_actor("hits")
        with pytest.raises(ValueError, match="name='gang': no placement group has it in namespace 'green'"):
            await al.get_placement_group("gang")


# --- several nodes


async def test_a_name_holds_on_all_nodes(nodes: Cluster) -> None:
    counter = Counter.options(name="hits").remote(1)
    await al.ready(counter)
    async with AsyncExitStack() as stack:
        for number, node in enumerate(nodes.nodes):
            runtime = await nodes.connect(node, stack)
            current_runtime.set(runtime)
            found = await al.get_actor("hits", Counter, namespace=nodes.session.namespace)
            assert await found.incr() == 2 + number
            own = Counter.options(name=f"of-{number}", namespace="all").remote()
            assert await own.incr() == 1
            taken = Counter.options(name="hits", namespace=nodes.session.namespace).remote()
            with pytest.raises(ActorAlreadyExistsError):
                await taken.incr()
            del own
        current_runtime.set(nodes.session.runtime)
    async with asyncio.timeout(10):
        while len(await al.list_named_actors(all_namespaces=True)) > 1:
            gc.collect()
            await asyncio.sleep(0.002)


async def test_names_end_with_the_node_of_their_owner(nodes: Cluster) -> None:
    async with AsyncExitStack() as stack:
        runtime = await nodes.connect(nodes.nodes[1], stack)
        current_runtime.set(runtime)
        counter = Counter.options(name="hits", namespace="ours").remote(1)
        await al.ready(counter)
        current_runtime.set(nodes.session.runtime)
        assert await al.list_named_actors(all_namespaces=True) == [{"name": "hits", "namespace": "ours"}]
        await nodes.kill_node(nodes.nodes[1])
        async with asyncio.timeout(10):
            while await al.list_named_actors(all_namespaces=True):
                await asyncio.sleep(0.002)


async def test_without_the_leader_work_goes_on_and_names_have_to_wait(nodes: Cluster) -> None:
    async with AsyncExitStack() as stack:
        runtime = await nodes.connect(nodes.nodes[1], stack)
        current_runtime.set(runtime)
        unnamed = Counter.remote(1)
        counter = Counter.options(name="hits").remote(1)
        assert await counter.incr() == 2 and await unnamed.incr() == 2
        await nodes.kill_node(nodes.nodes[0])
        with pytest.raises(ControlUnavailable, match="leads"):
            await al.get_actor("hits")
        with pytest.raises(ControlUnavailable):
            await al.list_named_actors()
        with pytest.raises(ControlUnavailable):
            await Counter.options(name="more").get_or_create()
        late = Counter.options(name="more").remote()
        with pytest.raises(ActorDiedError, match="ControlUnavailable"):
            await late.incr()
        fresh = Counter.remote(5)
        assert await fresh.incr() == 6
        current_runtime.set(nodes.session.runtime)


async def test_a_node_that_joins_when_the_leader_is_gone_knows_that_there_is_none(
    nodes: Cluster, eventually: Any
) -> None:
    first, second, third = nodes.nodes
    await nodes.kill_node(first)

    async def is_noticed() -> bool:
        return [each.node.members.leader for each in (second, third)] == ["", ""]

    await eventually(is_noticed)
    async with AsyncExitStack() as stack:
        late = await nodes.add_node()
        assert [each.node.members.leader for each in (second, third, late)] == ["", "", ""]
        for node, why in ((second, "the node that leads the cluster is gone: its node"), (late, "no node leads")):
            runtime = await nodes.connect(node, stack)
            current_runtime.set(runtime)
            assert [each["leads"] for each in (await runtime.node.status())["nodes"]] == [False] * 3
            with pytest.raises(ControlUnavailable, match=why):
                await al.get_actor("hits")
            with pytest.raises(ControlUnavailable, match=why):
                await Counter.options(name="more").get_or_create()
            with pytest.raises(ControlUnavailable, match=why):
                await al.placement_group([{"CPU": 1}])
            assert await Counter.remote(1).incr() == 2
        current_runtime.set(nodes.session.runtime)


async def test_a_process_ends_by_the_word_of_its_own_node_only(nodes: Cluster, eventually: Any) -> None:
    first, second, third = nodes.nodes
    async with AsyncExitStack() as stack:
        runtime = await nodes.connect(second, stack)
        liar = await nodes.connect(first, stack)
        current_runtime.set(runtime)
        counter = Counter.options(name="hits", namespace="ours", num_cpus=1).remote(1)
        on_first = Counter.options(scheduling_strategy=al.NodeAffinityStrategy(first.id)).remote(1)
        assert await counter.incr() == 2 and await on_first.incr() == 2
        ended = encode(ProcessEnded(runtime.hub.identity.process, runtime.job))
        third.node.hub.peers[first.id].tell(ended)
        third.node.hub.peers[second.id].tell(ended)
        liar.node_peer.tell(ended)
        first.node.hub.peers[second.id].tell(encode(ProcessEnded(third.id)))
        # Who answers has done what it was told before.
        for asking, asked in ((third, first), (third, second), (first, second)):
            hub = asking.node.hub
            await hub.peers[asked.id].request(next(hub.numbers), NodeStatus())
        await liar.node.status()
        assert [each["name"] for each in await al.list_named_actors(all_namespaces=True)] == ["hits"]
        assert await (await al.get_actor("hits", Counter, namespace="ours")).incr() == 3
        assert await on_first.incr() == 3
        assert await Counter.options(name="more", namespace="ours").remote(1).incr() == 2
        assert [len(node.views) for node in nodes.nodes] == [2, 2, 2]
        current_runtime.set(nodes.session.runtime)

    async def is_free() -> bool:
        return await al.list_named_actors(all_namespaces=True) == []

    await eventually(is_free)
