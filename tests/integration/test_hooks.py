"""`on_start` and `on_stop`."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, ClassVar

import pytest

import actorlite as al
from actorlite.errors import ActorDiedError, Outcome
from actorlite.testing.cluster import local_cluster

pytestmark = pytest.mark.asyncio


class Hooked(al.Actor):
    def __init__(self, gate: Any = None) -> None:
        self.gate = gate
        self.events = ["init"]

    async def on_start(self) -> None:
        await asyncio.sleep(0)
        self.events.append("start")

    async def on_stop(self) -> None:
        await asyncio.sleep(0)
        if self.gate is not None:
            self.gate.arrive()

    async def seen(self) -> list[str]:
        return self.events

    @al.method
    def seen_plain(self) -> list[str]:
        return self.events

    async def for_ever(self) -> None:
        self.gate.arrive()
        await asyncio.Event().wait()


@pytest.mark.parametrize("process", ["dedicated", "shared"])
async def test_on_start_runs_after_the_constructor_and_before_every_call(cluster: al.Session, process: Any) -> None:
    hooked = Hooked.options(process=process, max_concurrency=4).remote()
    assert await asyncio.gather(hooked.seen(), hooked.seen_plain(), hooked.seen()) == [["init", "start"]] * 3


@pytest.mark.parametrize("process", ["dedicated", "shared"])
async def test_on_stop_runs_when_the_session_is_shut_down(scheme: str, gate: Any, process: Any) -> None:
    async with local_cluster(scheme=scheme):
        for _ in range(3):
            await al.ready(Hooked.options(process=process).remote(gate))
    await gate.arrived(3)


async def test_on_stop_runs_while_a_call_does_not_end(scheme: str, gate: Any) -> None:
    async with local_cluster(scheme=scheme):
        hooked = Hooked.remote(gate)
        running = asyncio.ensure_future(hooked.for_ever())
        await gate.arrived()
    with pytest.raises(ActorDiedError):
        await running
    await gate.arrived()


class Busy(al.Actor):
    """In this process: what its threads do is steered and seen from the test."""

    begun: ClassVar[list[int]]
    begins: ClassVar[threading.Semaphore]
    ends: ClassVar[threading.Semaphore]
    release: ClassVar[threading.Event]

    @al.method
    def work(self, number: int) -> int:
        self.begun.append(number)
        self.begins.release()
        self.release.wait(10)
        self.ends.release()
        return number

    async def on_stop(self) -> None:
        begun = len(self.begun)
        self.release.set()
        for _ in range(begun):
            await asyncio.to_thread(self.ends.acquire, timeout=10)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("ending", [False, True], ids=["alive", "ending already"])
async def test_what_is_queued_in_threads_does_not_begin_once_the_actor_stops(
    scheme: str, at_once: int, ending: bool
) -> None:
    Busy.begun, Busy.release = [], threading.Event()
    Busy.begins, Busy.ends = threading.Semaphore(0), threading.Semaphore(0)
    async with local_cluster(scheme=scheme):
        busy = Busy.options(max_concurrency=at_once).remote()
        refs = [busy.work.remote(number) for number in range(8)]
        for _ in range(at_once):
            assert await asyncio.to_thread(Busy.begins.acquire, timeout=10)
        if ending:
            terminated = asyncio.ensure_future(al.terminate(busy))
            await asyncio.sleep(0)
    if ending:
        await asyncio.wait([terminated])
        terminated.exception()
    assert Busy.begun == list(range(at_once))
    for ref in refs[at_once:]:
        with pytest.raises(ActorDiedError) as died:
            await ref
        assert died.value.outcome is Outcome.NOT_EXECUTED
    await asyncio.gather(*refs[:at_once], return_exceptions=True)


async def test_on_stop_does_not_run_when_killed(cluster: al.Session, gate: Any) -> None:
    hooked = Hooked.remote(gate)
    await al.ready(hooked)
    await al.kill(hooked)
    await cluster.shutdown()
    gate.arrive()
    await gate.arrived()  # ours is the only one
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(_read_for, gate, 0.02), 1)


def _read_for(gate: Any, seconds: float) -> None:
    import select

    if not select.select([gate.said], [], [], seconds)[0]:
        raise TimeoutError


async def test_on_stop_may_still_use_the_session(scheme: str, gate: Any) -> None:
    @al.remote
    async def leaf() -> int:
        return 3

    class Last(al.Actor):
        async def on_stop(self) -> None:
            assert await leaf() == 3
            assert await (await al.put("x")) == "x"
            gate.arrive()

    async with local_cluster(scheme=scheme):
        await al.ready(Last.remote())
    await gate.arrived()


async def test_a_failing_on_stop_is_logged_and_stops_nobody_else(scheme: str, gate: Any, complaints: Any) -> None:
    class Bad(al.Actor):
        async def on_stop(self) -> None:
            raise ValueError("at the end")

    async with local_cluster(scheme=scheme):
        await al.ready(Bad.remote())
        await al.ready(Hooked.remote(gate))
    await gate.arrived()
    assert complaints.mentions("on_stop")


@pytest.mark.parametrize("process", ["dedicated", "shared"])
async def test_a_failing_on_start_is_a_failed_start(cluster: al.Session, all_free: Any, process: Any) -> None:
    class Bad(al.Actor):
        async def on_start(self) -> None:
            raise ValueError("cannot connect")

        async def ping(self) -> None: ...

    bad = Bad.options(process=process, num_cpus=1).remote()
    for call in (bad.ping.remote(), bad.ping(), al.ready(bad)):
        with pytest.raises(ActorDiedError, match="ValueError: cannot connect") as caught:
            await call
        assert caught.value.actor_init_failed
    await all_free(cluster)


async def test_on_start_may_call_others(cluster: al.Session) -> None:
    class Caller(al.Actor):
        def __init__(self, other: Hooked) -> None:
            self.other = other

        async def on_start(self) -> None:
            self.found = await self.other.seen()

        async def seen(self) -> list[str]:
            return self.found

    assert await Caller.remote(Hooked.remote()).seen() == ["init", "start"]


async def test_kill_during_on_start(cluster: al.Session, gate: Any, all_free: Any) -> None:
    class Slow(al.Actor, num_cpus=1):
        async def on_start(self) -> None:
            gate.arrive()
            await asyncio.Event().wait()

        async def ping(self) -> None: ...

    slow = Slow.remote()
    pinging = slow.ping.remote()
    await gate.arrived()
    await al.kill(slow)
    for call in (pinging, al.ready(slow)):
        with pytest.raises(ActorDiedError):
            await call
    await all_free(cluster)


async def test_hooks_are_not_methods(cluster: al.Session) -> None:
    hooked: Any = Hooked.remote()
    with pytest.raises(AttributeError, match="hook"):
        hooked.on_start()
    with pytest.raises(TypeError, match="async def on_stop"):

        class Plain(al.Actor):
            def on_stop(self) -> None: ...

        Plain.remote()
