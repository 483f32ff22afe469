"""Calls that are taken back before they are sent must not hold up those behind them."""

from __future__ import annotations

import asyncio

import pytest

import actorlite as al
from actorlite.errors import TaskCancelledError

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
