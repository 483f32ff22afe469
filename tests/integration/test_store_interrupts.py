"""Plain code that is interrupted around the moment when its large result is stored: nothing is left of it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import ActorDiedError, SerializationError, TaskCancelledError
from actorlite.runtime.stored import Written
from actorlite.worker import inbound, interrupts

from ..arrays import Floats, pattern

pytestmark = pytest.mark.asyncio


class Maker(al.Actor):
    def make(self, seed: int) -> Floats:
        return pattern(seed)

    def make_when(self, gate: Any) -> Floats:
        try:
            gate.hold()
        except asyncio.CancelledError:
            pass
        return pattern(1)

    @al.method(num_returns=2)
    def make_two(self, seed: int, second: Any) -> tuple[Floats, Any]:
        return pattern(seed), second

    async def ping(self) -> None:
        pass


@al.remote(num_returns=2)
def make_two(seed: int) -> tuple[Floats, Any]:
    return pattern(seed), (each for each in ())


def interrupted(function: Any, armed: list[int]) -> Any:
    """As if the exception that stops plain code came right after `function`, once for each in `armed`."""

    def call(*args: Any) -> Any:
        result = function(*args)
        if armed:
            armed.pop()
            raise asyncio.CancelledError
        return result

    return call


@pytest.mark.parametrize("where", ["written", "told", "answered"])
async def test_what_was_stored_when_the_exception_came_is_freed(
    small_here: al.Session, empty: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed: list[int] = []
    match where:
        case "written":
            monkeypatch.setattr(Written, "write", interrupted(Written.write, armed))
        case "told":
            monkeypatch.setattr(inbound, "_told", interrupted(inbound._told, armed))
        case _:
            monkeypatch.setattr(inbound.InboundCall, "success", interrupted(inbound.InboundCall.success, armed))
    maker = Maker.remote()
    await maker.ping.remote()
    armed.append(1)
    with pytest.raises((TaskCancelledError, asyncio.CancelledError)):
        await maker.make.remote(1)
    assert not armed
    await empty()
    assert (await maker.make.remote(2) == pattern(2)).all()
    await empty()


async def test_it_may_be_cancelled_at_any_moment(
    small_here: al.Session, empty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "GRACE_S", 0)
    maker = Maker.remote()
    for pause in range(30):
        ref = maker.make.remote(pause)
        await asyncio.sleep(pause / 10_000)
        await al.cancel(ref)
        await ref.ready()
        ref.exception()
        del ref
    await empty()


async def test_of_several_results_none_stays_when_one_cannot_be_sent(anywhere: al.Session, empty: Any) -> None:
    maker = Maker.remote()
    for refs in (maker.make_two.remote(1, al.arg), make_two.remote(1)):
        for ref in refs:
            await ref.ready()
        assert isinstance(refs[0].exception(), SerializationError) or refs[0].exception() is None
    refs = ref = None  # type: ignore[assignment]
    await empty()


async def test_what_an_actor_that_was_killed_still_stores_is_freed(
    small_here: al.Session, empty: Any, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*args: Any) -> Any:
        result = written(*args)
        stored.set()
        return result

    written = Written.write
    stored = threading.Event()
    monkeypatch.setattr(Written, "write", write)
    maker = Maker.options(process="shared").remote()  # its worker lives on
    call = maker.make_when.remote(gate)
    await gate.arrived()
    await al.kill(maker)
    with pytest.raises(ActorDiedError):
        await call
    del call
    gate.open()
    assert await asyncio.to_thread(stored.wait, 10)
    await empty()
