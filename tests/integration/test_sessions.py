"""Sessions: which one is current, several at once, other tasks, threads and loops, opening and closing."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import fastapi
import httpx
import pytest

import actorlite as al
from actorlite.errors import ActorDiedError, NoSessionError, SessionClosedError
from actorlite.node import deaths
from actorlite.testing.cluster import cluster, local_cluster

pytestmark = pytest.mark.asyncio


@al.remote
async def namespace() -> str:
    return al.runtime_context().namespace


@al.remote
def plain_namespace() -> str:
    return al.runtime_context().namespace


@al.remote
async def nested_namespace() -> str:
    return f"{await namespace()} {await plain_namespace.remote()}"


class Who(al.Actor):
    def __init__(self) -> None:
        self.at_start = al.runtime_context().namespace

    async def namespace(self) -> str:
        assert al.runtime_context().namespace == self.at_start
        return self.at_start


async def test_without_a_session() -> None:
    for call in (lambda: namespace.remote(), lambda: Who.remote(), al.runtime_context, lambda: namespace()):
        with pytest.raises(NoSessionError, match="no session is open: write `async with al.init"):
            call()
    with pytest.raises(NoSessionError):
        await al.put(1)
    await al.shutdown()  # nothing happens


async def test_await_and_shutdown() -> None:
    session = await al.init("inproc://", namespace="awaited")
    assert session.is_open
    assert await namespace() == "awaited"
    await al.shutdown()
    assert not session.is_open
    await al.shutdown()
    await session.shutdown()
    with pytest.raises(NoSessionError):
        namespace.remote()


async def test_defaults() -> None:
    async with al.init("inproc://") as first, al.init("inproc://") as second:
        assert first.namespace != second.namespace
        assert first.address == "inproc://"
        status = await first.status()
        assert status["num_cpus"] == status["free_cpus"] >= 1
        assert status["pid"] == first.node_pid
        assert repr(first).startswith("<Session inproc://")


async def test_the_current_one_follows_the_context(scheme: str) -> None:
    async with local_cluster(scheme=scheme, namespace="outer") as outer:
        assert await namespace() == "outer"
        async with local_cluster(scheme=scheme, namespace="inner") as inner:
            assert await nested_namespace() == "inner inner"
            with outer.use():
                assert await nested_namespace() == "outer outer"
                assert await asyncio.create_task(namespace()) == "outer"
            assert await asyncio.gather(namespace(), namespace.options(session=outer)()) == ["inner", "outer"]
            assert await Who.options(session=outer).remote().namespace() == "outer"
            assert await Who.remote().namespace() == "inner"
            assert await namespace.options(session=outer, name="x").remote() == "outer"
            with inner.use():
                assert await plain_namespace() == "inner"
        assert await namespace() == "outer"


async def test_without_a_context_the_only_one_is_current(cluster: al.Session) -> None:
    bare = contextvars.Context()
    assert await bare.run(asyncio.ensure_future, namespace.remote()) == cluster.namespace
    assert await asyncio.get_running_loop().create_task(namespace(), context=bare) == cluster.namespace

    def in_a_thread() -> Any:
        with pytest.raises(LookupError):
            contextvars.ContextVar("none").get()
        return namespace.remote().result(10)

    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(in_a_thread()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert found == [cluster.namespace]


async def test_two_sessions_and_none_current(scheme: str) -> None:
    async with (
        local_cluster(scheme=scheme, namespace="one") as one,
        local_cluster(scheme=scheme, namespace="two") as two,
    ):

        async def ask() -> None:
            for call in (lambda: namespace.remote(), lambda: Who.remote()):
                with pytest.raises(NoSessionError) as caught:
                    call()
                text = str(caught.value)
                assert "2 sessions are open" in text
                assert one.runtime.job in text
                assert two.runtime.job in text
                assert "session.use()" in text
                assert "options(session=session)" in text
            with one.use():
                assert await namespace() == "one"
            assert await namespace.options(session=two)() == "two"

        await asyncio.get_running_loop().create_task(ask(), context=contextvars.Context())


async def test_references_and_handles_stay_with_their_session(scheme: str) -> None:
    async with local_cluster(scheme=scheme, namespace="one") as one:
        ref, who = namespace.remote(), Who.remote()
        async with local_cluster(scheme=scheme, namespace="two"):
            assert await ref == "one"
            assert await who.namespace() == "one"
            assert await al.get([ref, namespace.remote()]) == ["one", "two"]
            ready, _ = await al.wait([ref, namespace.remote()], num_returns=2)
            assert len(ready) == 2
            await al.kill(who)
        with pytest.raises(ActorDiedError):
            await who.namespace()
        assert one.is_open


async def test_fastapi_handlers_find_the_session(scheme: str) -> None:
    @asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        async with local_cluster(scheme=scheme, namespace="served"):
            app.state.who = Who.remote()
            yield

    app = fastapi.FastAPI(lifespan=lifespan)

    @app.get("/coroutine")
    async def coroutine() -> list[str]:
        return [await nested_namespace(), await app.state.who.namespace()]

    @app.get("/plain")
    def plain() -> str:
        return str(al.sync.get(namespace.remote()))

    async with app.router.lifespan_context(app):
        # As uvicorn does: requests run in tasks that did not inherit the lifespan's context.
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for path, expected in (("/coroutine", ["served served", "served"]), ("/plain", "served")):
                loop = asyncio.get_running_loop()
                response = await loop.create_task(client.get(path), context=contextvars.Context())
                assert response.json() == expected


async def test_a_closed_session_takes_no_more_work(scheme: str, gate: Any) -> None:
    async with local_cluster(scheme=scheme) as session:
        ref = await al.put(1)
        who = Who.remote()
        await al.ready(who)
        bound = namespace.options(session=session)
    assert await ref == 1  # it was here already
    for call in (bound.remote, lambda: who.namespace.remote(), lambda: Who.options(session=session).remote()):
        with pytest.raises(SessionClosedError, match="shut down"):
            call()
    with pytest.raises(SessionClosedError):
        await bound()
    assert not session.is_open


async def test_what_is_pending_when_the_session_closes_ends(scheme: str, gate: Any) -> None:
    @al.remote
    async def for_ever() -> None:
        gate.arrive()
        await asyncio.Event().wait()

    class Stuck(al.Actor):
        async def for_ever(self) -> None:
            gate.arrive()
            await asyncio.Event().wait()

        @al.method
        def hold(self) -> None:
            gate.hold()

    async with local_cluster(scheme=scheme, num_cpus=1) as session:
        stuck, blocked = Stuck.remote(), Stuck.remote()
        refs = [for_ever.remote(), stuck.for_ever.remote(), blocked.hold.remote()]
        await gate.arrived(3)
        refs += [for_ever.remote(), stuck.for_ever.remote(), Stuck.options(num_cpus=1).remote().for_ever.remote()]
        waiting = [asyncio.ensure_future(each) for each in refs]
        waiting += [asyncio.ensure_future(for_ever()), asyncio.ensure_future(stuck.for_ever())]
        waiting += [asyncio.ensure_future(al.get(refs)), asyncio.ensure_future(al.ready(Stuck.remote()))]
        await asyncio.sleep(0)
        await session.shutdown()
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
        assert all(isinstance(each, al.errors.ActorliteError) for each in outcomes[:-1]), outcomes
    gate.open()


async def test_a_cancelled_shutdown_goes_on(scheme: str, gate: Any) -> None:
    class Slow(al.Actor):
        async def on_stop(self) -> None:
            gate.arrive()
            await asyncio.to_thread(gate.hold)
            gate.arrive()

    session_context = local_cluster(scheme=scheme)
    session = await session_context.__aenter__()
    await al.ready(Slow.remote())
    closing = asyncio.create_task(session.shutdown())
    await gate.arrived(2)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    gate.open()
    await session.shutdown()
    await gate.arrived()
    await session_context.__aexit__(None, None, None)


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_a_cancelled_init_leaves_nothing(scheme: str, steps: int) -> None:
    async def open_and_close() -> None:
        async with local_cluster(scheme=scheme):
            await namespace()

    opening = asyncio.create_task(open_and_close())
    for _ in range(steps):
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled() or opening.exception() is None
    with pytest.raises(NoSessionError):
        al.runtime_context()


async def test_shutdown_from_another_loop(scheme: str) -> None:
    async with local_cluster(scheme=scheme) as session:
        assert await namespace()

        async def work() -> str:
            value = await namespace()
            await session.shutdown()
            await session.shutdown()
            return value

        assert await asyncio.to_thread(lambda: asyncio.run(work())) == session.namespace
        assert not session.is_open


async def test_a_worker_cannot_shut_its_session_down(cluster: al.Session) -> None:
    @al.remote
    async def close() -> None:
        await al.shutdown()

    with pytest.raises(NoSessionError, match="only the driver"):
        await close()
    assert await namespace() == cluster.namespace


async def test_init_inside_a_task_is_a_session_of_its_own(cluster: al.Session) -> None:
    @al.remote(num_cpus=0)
    async def inside() -> tuple[str, str]:
        async with al.init("inproc://", namespace="inside"):
            within = await namespace()
        return within, await namespace()

    assert await inside() == ("inside", cluster.namespace)


async def test_loops_one_after_the_other_in_one_thread() -> None:
    async def run(number: int) -> str:
        async with al.init("inproc://", namespace=f"n{number}"):
            return await nested_namespace()

    def in_a_thread() -> list[str]:
        return [asyncio.run(run(number)) for number in range(3)]

    assert await asyncio.to_thread(in_a_thread) == [f"n{number} n{number}" for number in range(3)]


async def test_sessions_in_several_threads() -> None:
    async def run(number: int) -> str:
        async with al.init("inproc://", namespace=f"n{number}"):
            return await nested_namespace()

    def in_a_thread(number: int) -> str:
        return asyncio.run(run(number))

    results = await asyncio.gather(*(asyncio.to_thread(in_a_thread, n) for n in range(4)))
    assert results == [f"n{n} n{n}" for n in range(4)]


async def test_a_session_of_a_loop_that_was_closed_is_no_choice() -> None:
    def forgotten() -> None:
        async def open_only() -> al.Session:
            return await al.init("inproc://")

        asyncio.run(open_only())

    await asyncio.to_thread(forgotten)
    async with al.init("inproc://", namespace="mine"):
        assert await namespace() == "mine"
    with pytest.raises(NoSessionError, match="no session is open"):
        al.runtime_context()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"address": "ftp://x"}, ValueError, "is not"),
        ({"address": "tcp://127.0.0.1:1"}, ValueError, "not in this version"),
        ({"address": 3}, TypeError, "address must be text"),
        ({"namespace": ""}, ValueError, "empty"),
        ({"num_cpus": -1}, ValueError, "negative"),
        ({"num_cpus": "2"}, TypeError, "number"),
        ({"address": "inproc://", "preload": ["json"]}, ValueError, "worker processes"),
        ({"preload": "json"}, TypeError, "list of module names"),
        ({"address": "uds:///tmp/x.sock", "num_cpus": 2}, ValueError, "has its own"),
        ({"nmespace": "x"}, TypeError, "nmespace"),
    ],
)
async def test_wrong_arguments_are_refused_at_once(arguments: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        al.init(**arguments)


async def test_nobody_there(tmp_path: Any) -> None:
    with pytest.raises(al.errors.ConnectFailed):
        await al.init(f"uds://{tmp_path}/node.sock")
    with pytest.raises(NoSessionError):
        al.runtime_context()


async def test_opening_and_closing_many_times(scheme: str) -> None:
    for _ in range(10):
        async with local_cluster(scheme=scheme):
            pass


async def test_whoever_hears_of_a_driver_s_end_before_its_node_waits_for_the_node_s_word() -> None:
    async with cluster(nodes=1) as one, AsyncExitStack() as stack:
        other = await one.connect(one.nodes[0], stack)
        asking = asyncio.create_task(one.session.runtime.why_died(other.process))
        while not one.nodes[0].node.deaths._awaited:
            await asyncio.sleep(0)
        await other.aclose()
        assert "ended or closed its session" in await asking


async def test_a_driver_that_only_lost_a_connection_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaths, "EXIT_REPORT_S", 0.01)
    async with cluster(nodes=1) as one, AsyncExitStack() as stack:
        other = await one.connect(one.nodes[0], stack)
        assert "still runs" in await one.session.runtime.why_died(other.process)
