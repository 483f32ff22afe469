"""Calls always end: behind one that is taken back, and at the end of a session."""

from __future__ import annotations

import asyncio
import threading

import pytest

import actorlite as al
from actorlite.errors import ActorDiedError, NodeDiedError, TaskCancelledError
from actorlite.runtime.runtime import ProcessRuntime

pytestmark = pytest.mark.asyncio


class Echo(al.Actor):
    async def echo(self, value: int) -> int:
        return value

    async def hold(self) -> None:
        await asyncio.Event().wait()


@al.remote
async def value() -> int:
    return 1


async def test_an_actor_call_behind_one_that_is_taken_back_is_sent() -> None:
    async with al.init("inproc://", num_cpus=2):
        holder, echo = Echo.remote(), Echo.remote()
        assert await echo.echo(0) == 0
        never = holder.hold.remote()
        first = echo.echo.remote(never)  # type: ignore[arg-type]
        second = echo.echo.remote(2)
        assert await al.cancel(first)
        with pytest.raises(TaskCancelledError):
            await first
        assert await al.get(second, timeout=5) == 2
        await al.cancel(never)


async def test_a_task_right_after_the_last_one_was_taken_back_gets_a_worker() -> None:
    @al.remote(num_cpus=0.5)
    async def other() -> None:
        await asyncio.Event().wait()

    async with al.init("inproc://", num_cpus=1) as session:
        busy = other.remote()
        while (await session.status())["free_cpus"] != 0.5:
            pass
        first = value.remote()
        while not (await session.status())["waiting"]:
            pass
        assert await al.cancel(first)
        second = value.remote()
        await al.cancel(busy)
        assert await al.get(second, timeout=5) == 1


async def _never(runtime: ProcessRuntime, process: str) -> str:
    return await asyncio.Event().wait() and ""


async def test_calls_of_a_lost_worker_end_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even while it is still being asked how the worker died."""

    @al.remote(max_retries=0)
    async def hold() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ProcessRuntime, "why_died", _never)
    async with al.init("inproc://", num_cpus=2) as session:
        runtime = session.runtime
        actor = Echo.remote()
        assert await actor.echo(1) == 1
        task, call = hold.remote(), actor.hold.remote()
        while sum(worker["use"].startswith(("task", "actor")) for worker in (await session.status())["workers"]) < 2:
            pass
        workers = [peer for peer in runtime.hub.peers.values() if peer.identity.role == "worker"]
        for peer in workers:
            await runtime.node.kill_worker(peer.identity.process)
        while any(peer.is_open for peer in workers):
            await asyncio.sleep(0)
        assert not task.done() and not call.done()
    with pytest.raises(NodeDiedError):
        await al.get(task, timeout=5)
    with pytest.raises(ActorDiedError):
        await al.get(call, timeout=5)


ran: list[int] = []
started, go_on = threading.Event(), threading.Event()


class Slow(al.Actor):
    @al.method
    def work(self, number: int) -> None:
        ran.append(number)
        started.set()
        go_on.wait(5)


async def test_what_is_queued_in_a_thread_does_not_run_after_the_session() -> None:
    async with al.init("inproc://", num_cpus=2):
        slow = Slow.remote()
        refs = [slow.work.remote(number) for number in range(20)]
        while not started.is_set():
            await asyncio.sleep(0)
    thread = next(each for each in threading.enumerate() if each.name.startswith("actorlite-actor"))
    go_on.set()
    thread.join(5)
    assert not thread.is_alive()
    assert ran == [0] and len(refs) == 20


def slow_to_fail() -> None:
    building.set()
    go_on.wait(5)
    raise ValueError("this code cannot be loaded")


building = threading.Event()


class Unloadable:
    def __reduce__(self) -> tuple[object, ...]:
        return slow_to_fail, ()


async def test_a_task_cancelled_while_its_code_fails_to_load_ends_once() -> None:
    go_on.clear()
    captured = Unloadable()

    @al.remote
    def never() -> object:
        return captured

    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: failures.append(what))
    async with al.init("inproc://", num_cpus=1):
        ref = never.remote()
        while not building.is_set():
            await asyncio.sleep(0)
        await al.cancel(ref)
        with pytest.raises(TaskCancelledError):
            await ref
        go_on.set()
        assert await al.get(value.remote(), timeout=5) == 1
    assert not failures
