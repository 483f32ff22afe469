"""A counter actor whose process is killed again and again while several callers use it.

What the caller sees: without retries each call ends once, with its value, as unknown, or as not executed; those with
retries all get a value. What ran is in a ledger that survives: no call without retries ran twice, none that was told
"not executed" ran, every value was really computed, and every call with retries ran at least once.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import actorlite as al
from actorlite.errors import ActorError, ActorUnavailableError
from actorlite.state.retries import Backoff

pytestmark = pytest.mark.asyncio

KILLS = int(os.environ.get("ACTORLITE_TEST_KILLS", "15"))
"""100 in the full version."""
CALLERS = 3
WITHIN_S = 60 + KILLS


class Ledger(al.Actor, max_restarts=-1):
    """Notes each execution in a file before it does anything else."""

    def __init__(self, path: str) -> None:
        self.file = open(path, "a", buffering=1)  # noqa: SIM115
        self.count = 0

    @al.method
    def note(self, name: str) -> str:
        os.write(self.file.fileno(), f"{name}\n".encode())
        self.count += 1
        return name

    async def note_async(self, name: str) -> str:
        os.write(self.file.fileno(), f"{name}\n".encode())
        await asyncio.sleep(0)
        return name

    @al.method
    def pid(self) -> int:
        return os.getpid()


class Caller(al.Actor):
    """A borrower: it learns of restarts from the creator."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def call(self, prefix: str, times: int, retries: int) -> dict[str, str]:
        return await call(self.ledger, prefix, times, retries)


async def call(ledger: Ledger, prefix: str, times: int, retries: int) -> dict[str, str]:
    """How each call ended."""
    ends: dict[str, str] = {}
    for n in range(times):
        name = f"{prefix}-{n}"
        method = ledger.note if n % 2 else ledger.note_async
        try:
            assert await method.options(max_task_retries=retries)(name) == name
            ends[name] = "value"
        except ActorError as error:
            assert isinstance(error, ActorUnavailableError), error
            ends[name] = error.outcome.value
    return ends


@pytest_asyncio.fixture
async def session() -> AsyncIterator[al.Session]:
    async with al.init("local", num_cpus=2) as session:
        session.runtime.restarter.backoff = Backoff(0.001, 0.01, 1)
        yield session


async def test_outcomes_are_those_of_the_contract(session: al.Session, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger.remote(str(path))
    borrower = Caller.options(max_concurrency=10).remote(ledger)
    over = asyncio.Event()
    ends: dict[str, str] = {}

    async def keep_calling(name: str, retries: int, borrowed: bool) -> None:
        batch = 0
        while not over.is_set():
            prefix = f"{name}-{batch}"
            made = await (borrower.call(prefix, 20, retries) if borrowed else call(ledger, prefix, 20, retries))
            ends.update(made)
            batch += 1

    async def kill_it() -> None:
        for _ in range(KILLS):
            pid = await ledger.pid.options(max_task_retries=-1)()
            ran = len(ends)
            while len(ends) < ran + 5:  # somebody gets on with it between two deaths
                await asyncio.sleep(0.001)
            os.kill(pid, signal.SIGKILL)
            while await ledger.pid.options(max_task_retries=-1)() == pid:
                await asyncio.sleep(0.001)
        over.set()

    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(keep_calling(f"once{number}", 0, borrowed=number == 0))
            group.create_task(keep_calling(f"again{number}", -1, borrowed=number == 0))
        group.create_task(kill_it())

    ran = Counter(path.read_text().split())
    once = {name: end for name, end in ends.items() if name.startswith("once")}
    again = {name: end for name, end in ends.items() if name.startswith("again")}
    assert set(again.values()) == {"value"}
    assert set(once.values()) <= {"value", "unknown outcome", "not executed"}
    for name, end in once.items():
        assert ran[name] == 1 if end == "value" else ran[name] == 0 if end == "not executed" else ran[name] <= 1
    assert all(ran[name] >= 1 for name in again)
    assert set(ran) <= set(ends)
    assert (await al.describe(ledger)).restarts == KILLS
