"""Resources of one node: what tasks and actors ask for, hold, wait for, and give back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

import actorlite as al
from actorlite.errors import ActorDiedError, TaskUnschedulableError
from actorlite.runtime.node_client import NodeClient
from actorlite.testing import NodeResources, cluster, local_cluster

from ..drivers import another_driver

pytestmark = pytest.mark.asyncio

PROCESSES = "processes"
HAS: dict[str, Any] = {
    "num_cpus": 2,
    "num_gpus": 2,
    "memory": 1000,
    "resources": {"disk": 2},
    "labels": {"zone": "a"},
}
ALL = {"CPU": 2.0, "GPU": 2.0, "memory": 1000.0, "disk": 2.0}


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp", PROCESSES])
async def rich(request: pytest.FixtureRequest) -> AsyncIterator[al.Session]:
    if request.param == PROCESSES:
        async with al.init("local", **HAS) as session:
            yield session
    else:
        async with local_cluster(scheme=request.param, node=NodeResources(**HAS)) as session:
            yield session


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp"])
async def rich_here(request: pytest.FixtureRequest) -> AsyncIterator[al.Session]:
    """With all its parts in this loop."""
    async with local_cluster(scheme=request.param, node=NodeResources(**HAS)) as session:
        yield session


@pytest.fixture
def given_back(eventually: Callable[..., Any]) -> Callable[[al.Session], Awaitable[None]]:
    """Wait until the node has all that it had."""

    async def wait(session: al.Session) -> None:
        async def condition() -> bool:
            status = await session.status()
            assert all(status["free"].get(name, 0) <= total for name, total in status["resources"].items())
            return bool(status["free"] == status["resources"] and not status["waiting"] and not status["demand"])

        await eventually(condition)

    return wait


@al.remote
def mine() -> tuple[dict[str, float], list[str]]:
    context = al.runtime_context()
    return context.get_assigned_resources(), context.accelerator_ids()["GPU"]


class Holder(al.Actor):
    async def mine(self) -> tuple[dict[str, float], list[str]]:
        context = al.runtime_context()
        return context.get_assigned_resources(), context.get_accelerator_ids()["GPU"]


async def test_the_node_says_what_it_has(rich: al.Session) -> None:
    status = await rich.status()
    assert status["resources"] == status["free"] == ALL
    (node,) = status["nodes"]
    assert status["labels"] == {"zone": "a", "actorlite.io/node-id": node["node"]}
    assert status["max_workers"] is None and status["demand"] == []
    assert node["resources"] == ALL and node["labels"] == status["labels"]


async def test_a_task_holds_what_it_asked_for(rich: al.Session, given_back: Any) -> None:
    assert await mine() == ({"CPU": 1.0}, [])
    assert await mine.options(num_cpus=0)() == ({}, [])
    asked = mine.options(num_cpus=0.5, num_gpus=0.5, memory=10, resources={"disk": 0.25})
    held, gpus = await asked()
    assert held == {"CPU": 0.5, "GPU": 0.5, "memory": 10.0, "disk": 0.25} and gpus == ["0"]
    assert (await mine.options(num_gpus=2)())[1] == ["0", "1"]
    await given_back(rich)


async def test_an_actor_holds_what_it_asked_for_while_it_lives(
    rich: al.Session, given_back: Any, eventually: Any
) -> None:
    plain, memory = Holder.remote(), Holder.options(memory=100).remote()
    assert await plain.mine() == ({}, [])
    assert await memory.mine() == ({"memory": 100.0}, []), "with memory only, no CPU"
    shared = [Holder.options(num_cpus=0, num_gpus=0.5).remote() for _ in range(2)]
    assert [await each.mine() for each in shared] == [({"GPU": 0.5}, ["0"])] * 2, "one device for both"
    whole = Holder.options(num_gpus=1).remote()
    assert await whole.mine() == ({"CPU": 1.0, "GPU": 1.0}, ["1"])
    status = await rich.status()
    assert status["free"] == {"CPU": 1.0, "GPU": 0.0, "memory": 900.0, "disk": 2.0}
    for each in (plain, memory, whole, *shared):
        await al.kill(each)
    await given_back(rich)


async def test_light_actors_hold_resources_of_their_own(rich: al.Session, given_back: Any) -> None:
    held = [Holder.options(process="shared", num_cpus=0, resources={"disk": 1}).remote() for _ in range(2)]
    assert [(await each.mine())[0] for each in held] == [{"disk": 1.0}] * 2
    assert (await rich.status())["free"]["disk"] == 0
    for each in held:
        await al.kill(each)
    await given_back(rich)


async def test_what_no_node_has_fails_at_once_and_says_what_is_missing(rich: al.Session) -> None:
    with pytest.raises(TaskUnschedulableError) as caught:
        await mine.options(num_gpus=3, resources={"disk": 5, "net": 1})()
    text = str(caught.value)
    assert "mine needs CPU: 1, GPU: 3, disk: 5, net: 1, but the node has CPU: 1" not in text
    assert "has CPU: 2, GPU: 2, disk: 2, net: 0 in all (GPU: 1, disk: 3, net: 1 too few)" in text
    assert "ask for less with num_cpus=, num_gpus=, resources=" in text
    with pytest.raises(TaskUnschedulableError, match=r"memory: 1 too few"):
        await mine.options(memory=1001)()
    with pytest.raises(TaskUnschedulableError, match=r"accelerator_type:A100: 0.001 too few"):
        await mine.options(accelerator_type="A100")()
    with pytest.raises(ActorDiedError, match=r"ActorUnschedulableError.*GPU: 1 too few"):
        await Holder.options(num_gpus=3).remote().mine()


async def test_a_kind_of_accelerator_is_a_resource() -> None:
    has = NodeResources(num_cpus=1, num_gpus=1, resources={"accelerator_type:A100": 1})
    async with local_cluster(node=has):
        held, gpus = await mine.options(accelerator_type="A100", num_gpus=1)()
        assert held == {"CPU": 1.0, "GPU": 1.0, "accelerator_type:A100": 0.001} and gpus == ["0"]


async def test_no_more_run_at_once_than_there_is(diary: Any) -> None:
    async with local_cluster(node=NodeResources(num_cpus=10, resources={"disk": 2})):

        @al.remote(num_cpus=0, resources={"disk": 1})
        async def use() -> None:
            diary.note("+")
            await asyncio.sleep(0)
            diary.note("-")

        await asyncio.gather(*(use() for _ in range(50)))
    running = most = 0
    for word in diary.words():
        running += 1 if word == "+" else -1
        most = max(most, running)
    assert 1 <= most <= 2 and running == 0


async def test_one_that_waits_too_long_says_what_is_in_its_way(
    rich_here: al.Session, gate: Any, given_back: Any
) -> None:
    @al.remote(num_cpus=2, num_gpus=1)
    def hold() -> None:
        gate.hold()

    held = hold.remote()
    await gate.arrived()
    with pytest.raises(TaskUnschedulableError) as caught:
        await mine.options(schedule_timeout=0.05)()
    text = str(caught.value)
    assert "mine needs CPU: 1 and had no worker within schedule_timeout=0.05 s" in text
    assert "has CPU: 0 of CPU: 2 free (CPU: 1 too few)" in text
    assert "1 x task hold (CPU: 2, GPU: 1)" in text
    assert caught.value.outcome.value == "not executed"
    with pytest.raises(ActorDiedError, match=r"ActorUnschedulableError.*schedule_timeout=0.05 s.*task hold"):
        await Holder.options(num_cpus=1, schedule_timeout=0.05).remote().mine()
    waiting = mine.options(schedule_timeout=30).remote()
    gate.open()
    await held
    assert (await waiting)[0] == {"CPU": 1.0}
    await given_back(rich_here)


async def test_what_is_in_the_way_is_not_waited_for_for_ever(rich_here: al.Session, monkeypatch: Any) -> None:
    async def never(self: NodeClient) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(NodeClient, "_status", never)
    monkeypatch.setattr("actorlite.runtime.node_client.REASON_TIMEOUT_S", 0.05)
    with pytest.raises(
        TaskUnschedulableError, match="within schedule_timeout=0.05 s; its node has not said within 0.05"
    ):
        await mine.options(num_gpus=9, schedule_timeout=0.05)()


async def test_demand_is_told_by_shape(rich_here: al.Session, gate: Any, eventually: Any, given_back: Any) -> None:
    @al.remote(num_cpus=2)
    def hold() -> None:
        gate.hold()

    held = hold.remote()
    await gate.arrived()
    refs = [mine.remote(), mine.options(num_gpus=1).remote(), mine.options(num_gpus=9, schedule_timeout=30).remote()]

    async def told() -> bool:
        demand = {(tuple(each["resources"].items()), each["feasible"]) for each in (await rich_here.status())["demand"]}
        expected = {
            ((("CPU", 1.0),), True),
            ((("CPU", 1.0), ("GPU", 1.0)), True),
            ((("CPU", 1.0), ("GPU", 9.0)), False),
        }
        return demand == expected

    await eventually(told)
    assert await al.cancel(refs[2])
    gate.open()
    await held
    await al.get(refs[:2])
    await given_back(rich_here)


async def test_one_that_no_node_has_enough_for_waits_for_a_node_that_has() -> None:
    async with cluster(nodes=1, num_cpus=1) as found:
        ref = mine.options(num_gpus=1, schedule_timeout=30).remote()
        actor = Holder.options(num_gpus=1, schedule_timeout=30).remote()
        assert (await mine())[0] == {"CPU": 1.0}, "others go on"
        await found.add_node(NodeResources(num_cpus=2, num_gpus=2))
        assert (await ref)[0] == {"CPU": 1.0, "GPU": 1.0}
        assert (await actor.mine())[0] == {"CPU": 1.0, "GPU": 1.0}


async def test_one_that_no_node_has_enough_for_fails_when_its_time_is_over(rich: al.Session) -> None:
    with pytest.raises(TaskUnschedulableError, match=r"schedule_timeout=0.02 s.*in all \(GPU: 7 too few\)"):
        await mine.options(num_gpus=9, schedule_timeout=0.02)()
    assert (await rich.status())["demand"] == []


async def test_requests_go_to_the_node_that_has_it() -> None:
    nodes = [
        NodeResources(num_cpus=1),
        NodeResources(num_cpus=1, num_gpus=1),
        NodeResources(num_cpus=1, resources={"disk": 1}),
    ]
    async with cluster(nodes=nodes) as found:
        assert (await mine.options(num_gpus=1)())[1] == ["0"]
        assert (await mine.options(resources={"disk": 1})())[0]["disk"] == 1.0
        with pytest.raises(TaskUnschedulableError, match=r"no node has as much: node .* too few\); node .*; node "):
            await mine.options(num_gpus=1, resources={"disk": 1})()
        told = [each["resources"] for each in (await found.session.status())["nodes"]]
        assert [sorted(each) for each in told] == [
            ["CPU", "memory"],
            ["CPU", "GPU", "memory"],
            ["CPU", "disk", "memory"],
        ]


async def test_another_driver_gets_its_share(scheme: str) -> None:
    async with local_cluster(scheme=scheme, num_cpus=1) as session:
        stop = asyncio.Event()

        @al.remote
        async def work() -> None:
            await asyncio.sleep(0)

        async def flood() -> int:
            done = 0
            while not stop.is_set():
                await asyncio.gather(*(work() for _ in range(50)))
                done += 50
            return done

        flooding = asyncio.create_task(flood())
        await work()
        async with another_driver(session):
            for _ in range(3):
                await asyncio.wait_for(work(), 10)
        assert not flooding.done()
        stop.set()
        assert await flooding


async def test_a_large_task_is_not_starved_by_small_ones(scheme: str) -> None:
    async with local_cluster(scheme=scheme, num_cpus=2):
        stop = asyncio.Event()

        @al.remote
        async def work() -> None:
            await asyncio.sleep(0)

        async def flood() -> None:
            while not stop.is_set():
                await asyncio.gather(*(work() for _ in range(50)))

        floods = [asyncio.create_task(flood()) for _ in range(2)]
        await work()
        assert (await asyncio.wait_for(mine.options(num_cpus=2)(), 10))[0] == {"CPU": 2.0}
        stop.set()
        await asyncio.gather(*floods)


async def test_a_task_that_waits_lends_its_cpu_and_keeps_its_gpu(
    rich_here: al.Session, gate: Any, eventually: Any
) -> None:
    @al.remote
    def hold() -> str:
        gate.hold()
        return "held"

    @al.remote(num_cpus=2, num_gpus=1)
    async def parent() -> str:
        return await hold()

    ref = parent.remote()
    await gate.arrived()
    status = await rich_here.status()
    assert status["free"]["GPU"] == 1.0
    assert status["free"]["CPU"] == 1.0, "two are lent, and one of these is used"
    gate.open()
    assert await ref == "held"


async def test_what_was_lent_is_not_used_twice_for_long(scheme: str, diary: Any, eventually: Any) -> None:
    """A caller with much to do got the CPU that a waiting task lent: it returns it when that task goes on."""
    async with local_cluster(scheme=scheme, num_cpus=1) as session:

        async def noted(word: str) -> None:
            while word not in diary.words():
                await asyncio.sleep(0.001)

        @al.remote(num_cpus=0)
        async def wait_for_it() -> None:
            await noted("go-on")

        @al.remote
        async def parent() -> str:
            await wait_for_it()
            diary.note("went-on")
            await noted("end")
            return "ended"

        @al.remote
        async def work() -> None:
            await asyncio.sleep(0)

        ref = parent.remote()
        await work()  # only now the CPU is lent
        stop = asyncio.Event()

        async def flood() -> None:
            while not stop.is_set():
                await asyncio.gather(*(work() for _ in range(50)))

        flooding = asyncio.create_task(flood())
        await work()
        diary.note("go-on")
        await diary.has("went-on")

        async def used_once() -> bool:
            status = await session.status()
            return bool(status["free_cpus"] == 0 and status["waiting"])

        await eventually(used_once)
        diary.note("end")
        assert await ref == "ended"
        stop.set()
        await flooding


async def test_no_more_workers_than_allowed(eventually: Any) -> None:
    async with local_cluster(node=NodeResources(num_cpus=8, max_workers=2)) as session:

        async def count() -> int:
            return len((await session.status())["workers"])

        assert (await session.status())["max_workers"] == 2
        first, second = Holder.remote(), Holder.remote()
        await al.get([first.mine.remote(), second.mine.remote()])
        with pytest.raises(TaskUnschedulableError, match="max_workers=2 of the first run already"):
            await mine.options(schedule_timeout=0.05)()
        waiting = [mine.remote() for _ in range(5)]
        assert await count() == 2
        await al.kill(first)
        assert await al.get(waiting) == [({"CPU": 1.0}, [])] * 5
        third = Holder.remote()
        await third.mine()  # an idle worker had to go
        assert await count() == 2
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await mine()
        await al.kill(second)
        assert await mine() == ({"CPU": 1.0}, [])


async def test_as_many_workers_stay_idle_as_allowed(eventually: Any) -> None:
    async with local_cluster(node=NodeResources(num_cpus=4, idle_workers=1)) as session:

        async def one_is_left() -> bool:
            return len((await session.status())["workers"]) == 1

        holders = [Holder.options(num_cpus=0.5).remote() for _ in range(3)]
        waiting = [mine.remote() for _ in range(6)]
        await al.get([each.mine.remote() for each in holders])
        await al.get(waiting)
        for each in holders:
            await al.kill(each)
        await eventually(one_is_left)


async def test_light_actors_wait_for_their_worker_as_long_as_they_say() -> None:
    async with local_cluster(node=NodeResources(num_cpus=8, max_workers=1)):
        first = Holder.remote()
        await first.mine()
        light = Holder.options(process="shared", schedule_timeout=0.05).remote()
        patient = Holder.options(process="shared").remote()
        with pytest.raises(ActorDiedError, match=r"Holder needs nothing.*schedule_timeout=0.05 s.*max_workers=1"):
            await light.mine()
        await al.kill(first)
        assert await patient.mine() == ({}, [])


async def test_an_idle_worker_that_may_not_end_does_not_keep_others_from_it(gate: Any, eventually: Any) -> None:
    @al.remote
    async def owns() -> list[al.ObjectRef[bytes]]:
        return [await al.put(b"x" * 300_000)]

    @al.remote
    def holds() -> None:
        gate.hold()

    async with local_cluster(node=NodeResources(num_cpus=4, num_gpus=1, max_workers=2)) as session:

        async def idle(count: int) -> bool:
            return sum(each["use"] == "idle" for each in (await session.status())["workers"]) == count

        held = holds.remote()
        await gate.arrived()
        owned = await owns()
        await eventually(lambda: idle(1))
        gate.open()
        await held
        await eventually(lambda: idle(2))
        assert await al.get(mine.options(num_gpus=1).remote(), timeout=10) == ({"CPU": 1.0, "GPU": 1.0}, ["0"])
        assert await al.get(owned[0]) == b"x" * 300_000


async def test_no_more_worker_processes_than_allowed() -> None:
    async with al.init("local", num_cpus=4, max_workers=1) as session:
        assert len((await session.status())["workers"]) <= 1

        @al.remote
        def pid() -> int:
            return os.getpid()

        pids = await al.get([pid.remote() for _ in range(20)])
        assert len(set(pids)) == 1
        assert (await mine.options(num_cpus=2)())[0] == {"CPU": 2.0}, "for several CPUs it is another one"
        assert len((await session.status())["workers"]) == 1


async def test_cancelling_a_request_frees_what_was_kept_for_it(
    rich_here: al.Session, gate: Any, given_back: Any
) -> None:
    @al.remote(resources={"disk": 2}, num_cpus=0)
    def hold() -> None:
        gate.hold()

    held = hold.remote()
    await gate.arrived()
    call = asyncio.create_task(mine.options(resources={"disk": 1})())
    ref = mine.options(resources={"disk": 1}).remote()
    await asyncio.sleep(0)
    call.cancel()
    assert await al.cancel(ref)
    gate.open()
    await held
    await given_back(rich_here)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"num_gpus": -1}, ValueError, "num_gpus=-1 must be at least 0: give the number of devices"),
        ({"num_gpus": 0.5}, TypeError, "num_gpus must be a whole number, not 0.5"),
        ({"memory": "1G"}, TypeError, "memory must be a whole number, not '1G'.*give a number of bytes"),
        ({"memory": -1}, ValueError, "memory=-1 must be at least 0"),
        ({"max_workers": 0}, ValueError, "max_workers=0 must be at least 1"),
        ({"idle_workers": -1}, ValueError, "idle_workers=-1 must be at least 0: give how many workers are kept"),
        ({"idle_workers": "1"}, TypeError, "idle_workers must be a whole number, not '1'"),
        ({"resources": ["x"]}, TypeError, "resources must be a dict"),
        ({"resources": {"CPU": 1}}, ValueError, "resources must not contain 'CPU': use num_cpus="),
        ({"resources": {"x": -1}}, ValueError, r"resources\['x'\]=-1 must be between 0"),
        ({"resources": {"": 1}}, ValueError, "empty name"),
        ({"labels": {"zone": 1}}, TypeError, r"labels\['zone'\] must be a str"),
        ({"labels": {"-zone": "a"}}, ValueError, "labels key '-zone': use 1 to 63 letters"),
        ({"labels": {"zone": "a b"}}, ValueError, r"labels\['zone'\]='a b': use 1 to 63"),
        ({"labels": {"ray.io/node-id": "a"}}, ValueError, "ray.io/ is reserved"),
        ({"labels": {"Bad_Prefix/zone": "a"}}, ValueError, "DNS name"),
    ],
)
async def test_a_bad_argument_of_init_is_named(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        al.init("local", **arguments)


async def test_a_node_that_runs_already_has_its_own() -> None:
    for name in ("num_gpus", "memory", "max_workers"):
        with pytest.raises(ValueError, match=f"{name} cannot be given when attaching"):
            al.init("auto", **{name: 1})  # type: ignore[arg-type]
