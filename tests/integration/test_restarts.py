"""Retries of tasks and calls, restarts of actors, and what their callers see of a crash."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import ActorDiedError, ActorUnavailableError, Outcome
from actorlite.state.retries import Backoff

pytestmark = pytest.mark.asyncio
NO_PAUSE = Backoff(0.001, 0.01, 0)


class Counter(al.Actor, max_restarts=-1):
    def __init__(self, start: int = 0) -> None:
        self.n = start
        self.events = ["init"]

    async def on_restart(self) -> None:
        self.events.append("restart")

    async def on_start(self) -> None:
        self.events.append("start")

    async def incr(self) -> int:
        self.n += 1
        return self.n

    async def seen(self) -> tuple[list[str], bool]:
        return self.events, al.runtime_context().was_current_actor_reconstructed

    async def hold(self, gate: Any) -> str:
        gate.arrive()
        await asyncio.Event().wait()
        return "never"

    async def held_once(self, gate: Any, path: str) -> int:
        """Hangs in the first attempt, and answers in the second."""
        with open(path, "a") as log:
            log.write("x")
        attempt = al.runtime_context().attempt
        if not attempt:
            gate.arrive()
            await asyncio.Event().wait()
        return attempt or 0


async def crash(session: al.Session, handle: Any) -> None:
    """End the worker of an actor as a crash does."""
    place = handle.__actorlite_link__.place
    await session.runtime.node.kill_worker(place.process)


PROCESSES = pytest.mark.parametrize("process", ["dedicated", "shared"])


@PROCESSES
async def test_a_crashed_actor_is_made_anew_with_its_arguments(cluster: al.Session, process: Any) -> None:
    counter = Counter.options(process=process).remote(10)
    assert await counter.incr() == 11
    assert await counter.seen() == (["init", "start"], False)
    await crash(cluster, counter)
    assert await counter.incr() == 11
    assert await counter.seen() == (["init", "restart", "start"], True)
    info = await al.describe(counter)
    assert (info.state, info.restarts, info.death_cause, info.death_reason) == ("ALIVE", 1, None, "")


async def test_arguments_given_as_references_are_kept_for_restarts(cluster: al.Session) -> None:
    counter = Counter.remote(al.arg(await al.put(5)))
    await crash(cluster, counter) if await counter.incr() == 6 else None
    assert await counter.incr() == 6


@PROCESSES
async def test_a_call_under_way_has_an_unknown_outcome_and_later_ones_wait(
    cluster: al.Session, gate: Any, process: Any
) -> None:
    counter = Counter.options(process=process).remote()
    running = asyncio.ensure_future(counter.hold(gate))
    await gate.arrived()
    await crash(cluster, counter)
    later = counter.incr.remote()
    with pytest.raises(ActorUnavailableError, match=r"hold\(\) was under way \(unknown outcome\)") as caught:
        await running
    assert caught.value.may_have_run
    assert await later == 1


async def test_without_restarts_left_it_is_dead_and_says_how_often(cluster: al.Session) -> None:
    counter = Counter.options(max_restarts=1).remote()
    for _ in range(2):
        await counter.incr()
        await crash(cluster, counter)
    with pytest.raises(ActorDiedError, match=r"restarted 1 times, no restart left") as caught:
        await counter.incr()
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    info = await al.describe(counter)
    assert (info.state, info.death_cause) == ("DEAD", "CRASHED")


async def test_a_constructor_that_raises_is_the_end_also_in_a_restart(cluster: al.Session, tmp_path: Path) -> None:
    class Once(al.Actor, max_restarts=-1):
        def __init__(self, path: str) -> None:
            Path(path).touch(exist_ok=False)

        async def ping(self) -> None: ...

    once = Once.remote(str(tmp_path / "made"))
    await once.ping()
    await crash(cluster, once)
    with pytest.raises(ActorDiedError, match="FileExistsError") as caught:
        await once.ping()
    assert caught.value.actor_init_failed
    assert (await al.describe(once)).death_cause == "INIT_FAILED"


@PROCESSES
async def test_kill_restarts_only_when_asked_to(cluster: al.Session, gate: Any, process: Any) -> None:
    counter = Counter.options(process=process).remote(3)
    running = asyncio.ensure_future(counter.hold(gate))
    await gate.arrived()
    await al.kill(counter, no_restart=False)
    with pytest.raises(ActorUnavailableError):
        await running
    assert await counter.incr() == 4
    await al.kill(counter)
    with pytest.raises(ActorDiedError, match="killed by al.kill"):
        await counter.incr()
    assert (await al.describe(counter)).death_cause == "KILLED"


async def test_other_processes_find_it_again(cluster: al.Session) -> None:
    class Borrower(al.Actor):
        def __init__(self, counter: Counter) -> None:
            self.counter = counter

        async def incr(self) -> int:
            return await self.counter.incr()

        async def describe(self) -> str:
            return (await al.describe(self.counter)).state

    counter = Counter.remote()
    borrower = Borrower.remote(counter)
    assert await borrower.incr() == 1
    for _ in range(3):
        await crash(cluster, counter)
        assert await borrower.incr() == 1
    assert await borrower.describe() == "ALIVE"
    await al.kill(counter)
    with pytest.raises(ActorDiedError, match="killed by al.kill"):
        await borrower.incr()
    assert await borrower.describe() == "DEAD"


@PROCESSES
async def test_a_call_with_retries_goes_again(cluster: al.Session, gate: Any, tmp_path: Path, process: Any) -> None:
    counter = Counter.options(process=process, max_task_retries=1).remote()
    path = tmp_path / "log"
    running = counter.held_once.remote(gate, str(path))
    await gate.arrived()
    await crash(cluster, counter)
    assert await running == 1
    assert path.read_text() == "xx"
    # What the call says comes first.
    running = counter.held_once.options(max_task_retries=0).remote(gate, str(path))
    await gate.arrived()
    await crash(cluster, counter)
    with pytest.raises(ActorUnavailableError):
        await running


class Flaky(al.Actor):
    def __init__(self) -> None:
        self.tries = 0

    @al.method(max_task_retries=2, retry_exceptions=[KeyError])
    def fail(self, times: int, error: type[Exception]) -> tuple[int, int | None]:
        self.tries += 1
        if self.tries <= times:
            raise error("mine")
        return self.tries, al.runtime_context().attempt


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorlite.runtime.actor_calls.RETRY_BACKOFF", NO_PAUSE)
    monkeypatch.setattr("actorlite.runtime.tasks.RETRY_BACKOFF", NO_PAUSE)


@pytest.mark.usefixtures("fast")
async def test_a_method_is_tried_again_after_some_exceptions(cluster: al.Session) -> None:
    assert await Flaky.remote().fail(2, KeyError) == (3, 2)
    with pytest.raises(KeyError, match="mine") as caught:
        await Flaky.remote().fail(3, KeyError)
    assert any("attempt 3" in note for note in caught.value.__notes__)
    flaky = Flaky.remote()
    with pytest.raises(ValueError, match="mine"):
        await flaky.fail(1, ValueError)
    assert await flaky.fail(0, ValueError) == (2, 0)


@pytest.mark.usefixtures("fast")
async def test_a_task_is_tried_again_after_some_exceptions(cluster: al.Session, tmp_path: Path) -> None:
    path = tmp_path / "log"

    @al.remote(max_retries=2, retry_exceptions=[KeyError])
    def fail(times: int, error: type[Exception]) -> int | None:
        with path.open("a") as log:
            log.write("x")
        attempt = al.runtime_context().attempt
        if attempt is not None and attempt < times:
            raise error("mine")
        return attempt

    assert await fail(2, KeyError) == 2
    with pytest.raises(KeyError) as caught:
        await fail.remote(3, KeyError)
    assert any("attempt 3" in note for note in caught.value.__notes__)
    assert len(path.read_text()) == 6
    for options, error in (({}, ValueError), ({"max_retries": 0}, KeyError), ({"retry_exceptions": False}, KeyError)):
        path.write_text("")
        with pytest.raises(error):
            await fail.options(**options)(1, error)
        assert len(path.read_text()) == 1
    assert await fail.options(retry_exceptions=True)(1, ValueError) == 1
