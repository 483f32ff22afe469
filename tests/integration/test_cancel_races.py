"""Cancelling at any moment of a call's life: nothing hangs, nothing is lost, and no outcome is wrong.

`ACTORLITE_RACES=10000` runs that many for each transport; fewer by default.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import Outcome, TaskCancelledError
from actorlite.worker import interrupts

pytestmark = pytest.mark.asyncio

RACES = int(os.environ.get("ACTORLITE_RACES", "300"))
AT_ONCE = 20
POINTS = 200
LONGEST_S = 0.004
RECORD = struct.Struct("<cI")


class Ledger:
    """What has really happened, said by the code itself through a pipe."""

    def __init__(self) -> None:
        self.end, self.fd = os.pipe()
        fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.set_blocking(self.end, False)
        self.said: dict[bytes, set[int]] = {b"s": set(), b"e": set()}

    def read(self) -> None:
        try:
            while data := os.read(self.end, RECORD.size * 1000):
                for what, number in RECORD.iter_unpack(data):
                    assert number not in self.said[what], f"call {number} ran twice"
                    self.said[what].add(number)
        except BlockingIOError:
            pass


@pytest.fixture
def ledger(_nothing_outside: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr(interrupts, "GRACE_S", 0.001)
    ledger = Ledger()
    yield ledger
    os.close(ledger.end)
    os.close(ledger.fd)


def note(fd: int, what: bytes, number: int) -> None:
    os.write(fd, RECORD.pack(what, number))


async def steps(fd: int, number: int, passes: int, seconds: float) -> int:
    note(fd, b"s", number)
    for _ in range(passes):
        await asyncio.sleep(0)
    await asyncio.sleep(seconds)
    note(fd, b"e", number)
    return number


def work(fd: int, number: int, passes: int, seconds: float) -> int:
    note(fd, b"s", number)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(passes):
            pass
    note(fd, b"e", number)
    return number


@al.remote
async def coroutine(fd: int, number: int, passes: int, seconds: float) -> int:
    return await steps(fd, number, passes, seconds)


@al.remote
def plain(fd: int, number: int, passes: int, seconds: float) -> int:
    return work(fd, number, passes, seconds)


@al.remote
async def nested(fd: int, number: int, passes: int, seconds: float) -> int:
    return await coroutine.options(num_cpus=0)(fd, number, passes, seconds)


class Racer(al.Actor):
    async def coroutine(self, fd: int, number: int, passes: int, seconds: float) -> int:
        return await steps(fd, number, passes, seconds)

    @al.method
    def plain(self, fd: int, number: int, passes: int, seconds: float) -> int:
        return work(fd, number, passes, seconds)

    async def ping(self) -> str:
        return "pong"


async def test_cancelling_at_any_moment(cluster: al.Session, ledger: Ledger, all_free: Any) -> None:
    rng = random.Random(20261126)
    racers = [Racer.remote(), Racer.options(process="shared").remote(), Racer.options(max_concurrency=4).remote()]
    functions: list[Any] = [coroutine, plain, nested]
    functions += [method for racer in racers for method in (racer.coroutine, racer.plain)]
    ended = {"value": 0, "cancelled": 0}

    async def race(number: int) -> None:
        function = rng.choice(functions)
        passes, seconds = rng.randrange(8), rng.choice((0.0, 0.0, rng.random() * LONGEST_S))
        args = (ledger.fd, number, passes, seconds)
        point = rng.randrange(POINTS)
        structured = rng.random() < 0.5
        if structured:
            call = asyncio.ensure_future(function(*args))
        else:
            ref = function.remote(*args)
            call = asyncio.ensure_future(ref.get())
        if point < POINTS // 2:
            for _ in range(point // 4):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep((point - POINTS // 2) / (POINTS // 2) * 2 * LONGEST_S)
        if structured:
            call.cancel()
        else:
            await al.cancel(ref)
        async with asyncio.timeout(30):
            try:
                value = await call
            except asyncio.CancelledError:
                assert structured
                ended["cancelled"] += 1
            except TaskCancelledError as error:
                assert not structured
                ended["cancelled"] += 1
                if error.outcome is Outcome.NOT_EXECUTED:
                    never.add(number)
            else:
                assert value == number
                ended["value"] += 1
                whole.add(number)

    never: set[int] = set()
    whole: set[int] = set()
    for first in range(0, RACES, AT_ONCE):
        await asyncio.gather(*(race(number) for number in range(first, first + AT_ONCE)))
        ledger.read()
    async with asyncio.timeout(30):
        assert [await racer.ping() for racer in racers] == ["pong"] * 3
    await all_free(cluster)
    ledger.read()
    assert whole <= ledger.said[b"s"] and whole <= ledger.said[b"e"]
    assert not never & ledger.said[b"s"]
    assert ended["value"] + ended["cancelled"] == RACES
    assert min(ended.values()) > RACES // 20
