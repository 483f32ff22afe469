"""`al.runtime_context()` on the driver, in tasks and in actors."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorlite as al

pytestmark = pytest.mark.asyncio


def facts() -> dict[str, Any]:
    context = al.runtime_context()
    return {
        "job": context.get_job_id(),
        "namespace": context.namespace,
        "worker": context.get_worker_id(),
        "task": context.get_task_id(),
        "task_name": context.get_task_name(),
        "function": context.get_task_function_name(),
        "actor": context.get_actor_id(),
        "actor_name": context.get_actor_name(),
        "resources": context.get_assigned_resources(),
        "attempt": context.attempt,
        "node_pid": context.node_pid,
    }


@al.remote
def plain() -> dict[str, Any]:
    return facts()


@al.remote
async def coroutine() -> dict[str, Any]:
    await asyncio.sleep(0)
    return facts()


class Asked(al.Actor):
    def __init__(self) -> None:
        self.at_start = facts()

    async def on_start(self) -> None:
        self.in_hook = facts()

    async def facts(self) -> dict[str, Any]:
        return facts()

    @al.method
    def facts_plain(self) -> dict[str, Any]:
        return facts()

    async def early(self) -> list[dict[str, Any]]:
        return [self.at_start, self.in_hook]

    async def through_a_task(self) -> dict[str, Any]:
        return await plain.remote()


async def test_on_the_driver(cluster: al.Session) -> None:
    context = al.runtime_context()
    found = facts()
    assert found["job"] == cluster.runtime.job
    assert found["namespace"] == cluster.namespace
    assert found["node_pid"] == cluster.node_pid
    assert [found[key] for key in ("task", "task_name", "function", "actor", "actor_name", "attempt")] == [None] * 6
    assert found["resources"] == {}
    assert context.address == "inproc://"
    with pytest.raises(RuntimeError, match="does not run in an actor"):
        context.current_actor  # noqa: B018
    assert "driver" in repr(context)


@pytest.mark.parametrize("function", [plain, coroutine], ids=["plain", "coroutine"])
async def test_in_a_task(cluster: al.Session, function: Any) -> None:
    ref = function.remote()
    found = await ref
    assert found["task"] == ref.id
    assert found["job"] == cluster.runtime.job
    assert found["worker"] != al.runtime_context().get_worker_id()
    assert found["task_name"] == found["function"] == function.__name__
    assert (found["actor"], found["actor_name"], found["attempt"]) == (None, None, 0)
    assert found["resources"] == {"CPU": 1.0}
    assert (await function.options(name="special")())["task_name"] == "special"


@pytest.mark.parametrize("process", ["dedicated", "shared"])
async def test_in_an_actor(cluster: al.Session, process: Any) -> None:
    actor = Asked.options(name="the-name", process=process).remote()
    first, second = await actor.facts(), await actor.facts_plain()
    assert first["actor"] == second["actor"]
    assert first["actor"] in repr(actor)
    assert first["actor_name"] == "the-name"
    assert first["function"] == "Asked.facts"
    assert second["task_name"] == "Asked.facts_plain"
    assert first["task"] != second["task"]
    assert first["namespace"] == cluster.namespace
    ref = actor.facts.remote()
    assert (await ref)["task"] == ref.id
    for early in await actor.early():
        assert early["actor"] == first["actor"]
        assert early["worker"] == first["worker"]
    inner = await actor.through_a_task()
    assert (inner["actor"], inner["function"]) == (None, "plain")


async def test_concurrent_calls_see_themselves(cluster: al.Session) -> None:
    actor = Asked.options(max_concurrency=10).remote()
    refs = [(actor.facts if n % 2 else actor.facts_plain).remote() for n in range(20)]
    assert [each["task"] for each in await al.get(refs)] == [ref.id for ref in refs]


async def test_tasks_that_user_code_starts_see_the_call(cluster: al.Session) -> None:
    @al.remote
    async def spread() -> list[str | None]:
        async def inside() -> str | None:
            return al.runtime_context().get_task_id()

        def in_thread() -> str | None:
            return al.runtime_context().get_task_id()

        return [await asyncio.create_task(inside()), await asyncio.to_thread(in_thread)]

    ref = spread.remote()
    assert await ref == [ref.id, ref.id]
    assert al.runtime_context().get_task_id() is None


@pytest.mark.parametrize("function", [plain, coroutine], ids=["plain", "coroutine"])
@pytest.mark.parametrize("cpus, resources", [(2, {"CPU": 2.0}), (0.5, {"CPU": 0.5}), (0, {}), (1, {"CPU": 1.0})])
async def test_the_resources_of_a_task(cluster: al.Session, function: Any, cpus: float, resources: Any) -> None:
    assert (await function.options(num_cpus=cpus).remote())["resources"] == resources
    assert (await function.options(num_cpus=cpus)())["resources"] == resources


@pytest.mark.parametrize("process", ["dedicated", "shared"])
@pytest.mark.parametrize("cpus, resources", [(None, {}), (1.5, {"CPU": 1.5}), (0, {})])
async def test_the_resources_of_an_actor(cluster: al.Session, process: Any, cpus: Any, resources: Any) -> None:
    actor = Asked.options(num_cpus=cpus, process=process).remote()
    assert (await actor.facts())["resources"] == (await actor.facts_plain.remote())["resources"] == resources
    assert [each["resources"] for each in await actor.early()] == [resources] * 2
