"""How actors end in good order: let go of, terminated, by themselves."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import ActorDiedError, Outcome

pytestmark = pytest.mark.asyncio


class Noted(al.Actor):
    """Says through the gate when `on_stop` runs."""

    def __init__(self, gate: Any = None) -> None:
        self.gate = gate

    async def on_stop(self) -> None:
        self.gate.arrive()

    @al.method
    def wait(self) -> int:
        self.gate.hold()
        return 2

    async def one(self) -> int:
        return 1

    async def me(self) -> Any:
        return al.runtime_context().current_actor

    async def leave(self) -> None:
        al.exit_actor()

    @al.method
    def leave_plain(self) -> None:
        self.gate.hold()
        al.exit_actor()


PROCESSES = pytest.mark.parametrize("process", ["dedicated", "shared"])


@PROCESSES
async def test_an_actor_ends_when_its_last_handle_goes(
    cluster: al.Session, gate: Any, all_free: Any, process: Any
) -> None:
    noted = Noted.options(process=process, num_cpus=1).remote(gate)
    assert await noted.one() == 1
    del noted
    gc.collect()
    await gate.arrived()
    await all_free(cluster)


@PROCESSES
async def test_calls_that_were_made_end_first(cluster: al.Session, gate: Any, process: Any) -> None:
    noted = Noted.options(process=process).remote(gate)
    waiting, after = noted.wait.remote(), noted.one.remote()
    del noted
    gc.collect()
    await gate.arrived()
    gate.open()
    assert (await waiting, await after) == (2, 1)
    await gate.arrived()


async def test_a_method_keeps_the_actor_it_belongs_to(cluster: al.Session, gate: Any) -> None:
    one = Noted.remote(gate).one
    for _ in range(3):
        gc.collect()
        assert await one() == 1
    assert await Noted.remote(gate).one.remote() == 1
    await gate.arrived()
    del one
    gc.collect()
    await gate.arrived()


async def test_stored_values_and_other_processes_keep_it(cluster: al.Session, gate: Any) -> None:
    class Keeper(al.Actor):
        def __init__(self) -> None:
            self.kept: Any = None

        async def keep(self, handles: list[Any]) -> None:
            self.kept = handles

        async def give(self) -> Any:
            return self.kept

        async def use(self) -> int:
            value: int = await self.kept[0].one()
            return value

        async def drop(self) -> None:
            self.kept = None

    keeper = Keeper.remote()
    noted = Noted.remote(gate)
    stored = await al.put({"it": noted})
    del noted
    gc.collect()
    assert await (await stored)["it"].one() == 1
    await keeper.keep([(await stored)["it"]])
    del stored
    gc.collect()
    assert await keeper.use() == 1
    given = keeper.give.remote()
    await given.ready()
    await keeper.drop()
    gc.collect()
    assert await (await given)[0].one() == 1  # the result held it, unread
    del given
    gc.collect()
    await gate.arrived()


async def test_the_current_actor_does_not_hold_itself_but_may_be_passed_on(cluster: al.Session, gate: Any) -> None:
    class Selfish(Noted):
        async def keep_myself(self) -> None:
            self.me_too = al.runtime_context().current_actor

    selfish = Selfish.remote(gate)
    await selfish.keep_myself()
    me = await selfish.me()
    del selfish
    gc.collect()
    assert await me.one() == 1
    del me
    gc.collect()
    await gate.arrived()


@PROCESSES
async def test_terminate_lets_earlier_calls_end_and_refuses_later_ones(
    cluster: al.Session, gate: Any, process: Any
) -> None:
    noted = Noted.options(process=process).remote(gate)
    waiting, queued = noted.wait.remote(), noted.one.remote()
    await gate.arrived()
    ending = asyncio.ensure_future(al.terminate(noted))
    await asyncio.sleep(0)
    late = noted.one.remote()
    gate.open()
    await ending
    assert (await waiting, await queued) == (2, 1)
    with pytest.raises(ActorDiedError) as caught:
        await late
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    await gate.arrived()
    await al.terminate(noted)
    info = await al.describe(noted)
    assert (info.state, info.death_cause) == ("DEAD", "TERMINATED")


async def test_on_stop_has_a_time_limit(cluster: al.Session, gate: Any) -> None:
    class Slow(al.Actor, stop_timeout=0.02):
        async def on_stop(self) -> None:
            gate.arrive()
            await asyncio.Event().wait()

    slow = Slow.remote()
    await al.ready(slow)
    await al.terminate(slow)
    await gate.arrived()


@PROCESSES
async def test_an_actor_that_leaves(cluster: al.Session, gate: Any, process: Any) -> None:
    noted = Noted.options(process=process, max_restarts=5).remote(gate)
    with pytest.raises(ActorDiedError, match=r"leave\(\) ended its actor") as caught:
        await noted.leave()
    assert caught.value.outcome is Outcome.EXECUTED
    await gate.arrived()  # on_stop
    with pytest.raises(ActorDiedError, match="exit_actor"):
        await noted.one()
    info = await al.describe(noted)
    assert (info.state, info.death_cause) == ("DEAD", "EXITED")


@PROCESSES
async def test_what_waits_behind_the_call_that_leaves_never_runs(cluster: al.Session, gate: Any, process: Any) -> None:
    noted = Noted.options(process=process).remote(gate)
    leaving, behind = noted.leave_plain.remote(), noted.wait.remote()
    await gate.arrived()
    gate.open()
    for ref, outcome in ((leaving, Outcome.EXECUTED), (behind, Outcome.NOT_EXECUTED)):
        with pytest.raises(ActorDiedError) as caught:
            await ref
        assert caught.value.outcome is outcome
    await gate.arrived()  # on_stop; `wait` has not said anything


async def test_only_actors_leave(cluster: al.Session) -> None:
    @al.remote
    def task() -> None:
        al.exit_actor()

    with pytest.raises(TypeError, match="methods of actors"):
        al.exit_actor()
    with pytest.raises(TypeError, match="methods of actors"):
        await task()
