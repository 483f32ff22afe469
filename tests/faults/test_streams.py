"""A process dies in the middle of a stream: who reads has the items that came, and then an error that says so."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import actorlite as al
from actorlite.errors import ActorDiedError, Outcome, OwnerDiedError, WorkerCrashedError

pytestmark = pytest.mark.asyncio

WITHIN_S = 10.0


@pytest_asyncio.fixture
async def session() -> AsyncIterator[al.Session]:
    async with al.init("local", num_cpus=2) as session:
        yield session


async def has(path: Path, word: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not path.exists() or word not in path.read_text().split():
        assert time.monotonic() < deadline, f"{word!r} was not noted"
        await asyncio.sleep(0.002)


def note(path: Path, word: object) -> None:
    with path.open("a") as file:
        file.write(f"{word}\n")


@al.remote(num_cpus=0)
def pids(path: Path) -> Iterator[int]:
    """Its process, for ever; it says when it is closed."""
    note(path, "began")
    try:
        while True:
            yield os.getpid()
    finally:
        note(path, "finally")


@al.remote(num_cpus=0)
async def tidies_up(path: Path) -> None:
    note(path, "began")
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.2)
        note(path, "finally")


@al.remote(max_retries=3)
def dies_before_the_first_item(path: Path) -> Iterator[str]:
    note(path, "began")
    if path.read_text().count("began") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    yield "second attempt"


class Source(al.Actor):
    @al.method
    def pids(self) -> Iterator[int]:
        while True:
            yield os.getpid()


class Reader(al.Actor):
    async def keep(self, stream: Any) -> int:
        self.stream = stream
        return os.getpid()

    async def take(self) -> Any:
        return await (await anext(self.stream))

    async def make(self, path: Path) -> list[Any]:
        return [os.getpid(), pids.remote(path)]

    async def begin(self, path: Path) -> int:
        self.ref = tidies_up.remote(path)
        return os.getpid()

    async def rest(self) -> int:
        count = 0
        async for ref in self.stream:
            await ref
            count += 1
        return count


async def test_a_task_that_dies_after_some_items_is_not_run_again(session: al.Session, tmp_path: Path) -> None:
    stream = pids.options(stream_window=4, max_retries=5).remote(tmp_path / "diary")
    pid = await (await anext(stream))
    os.kill(pid, signal.SIGKILL)
    refs = [ref async for ref in stream]
    with pytest.raises(WorkerCrashedError, match="unknown outcome") as caught:
        await refs[-1]
    assert caught.value.outcome is Outcome.UNKNOWN
    assert await al.get(refs[:-1]) == [pid] * (len(refs) - 1)
    assert (tmp_path / "diary").read_text().split() == ["began"]
    with pytest.raises(WorkerCrashedError):
        await stream.completed()


async def test_a_task_that_dies_before_its_first_item_is_retried(session: al.Session, tmp_path: Path) -> None:
    found = [value async for value in dies_before_the_first_item(tmp_path / "diary")]
    assert found == ["second attempt"]
    assert (tmp_path / "diary").read_text().split() == ["began", "began"]


async def test_an_actor_that_dies_ends_its_streams(session: al.Session) -> None:
    actor = Source.remote()
    stream = actor.pids.remote()
    pid = await (await anext(stream))
    os.kill(pid, signal.SIGKILL)
    refs = [ref async for ref in stream]
    with pytest.raises(ActorDiedError, match="SIGKILL") as caught:
        await refs[-1]
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_a_reader_process_that_is_killed_closes_the_producer(session: al.Session, tmp_path: Path) -> None:
    reader = Reader.remote()
    pid = await reader.keep(pids.remote(tmp_path / "diary"))
    await reader.take()
    os.kill(pid, signal.SIGKILL)
    await has(tmp_path / "diary", "finally")


async def test_a_calling_process_that_is_killed_closes_the_producer_and_fails_the_reader(
    session: al.Session, tmp_path: Path
) -> None:
    owner, reader = Reader.remote(), Reader.remote()
    pid, stream = await owner.make(tmp_path / "diary")
    await reader.keep(stream)
    del stream
    assert await reader.take() != pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(OwnerDiedError, match=r"the process that owned the stream of pids\(\) is gone.*SIGKILL"):
        await reader.rest()
    await has(tmp_path / "diary", "finally")


async def test_the_tasks_of_a_process_that_is_killed_clean_up(session: al.Session, tmp_path: Path) -> None:
    owner = Reader.remote()
    pid = await owner.begin(tmp_path / "diary")
    await has(tmp_path / "diary", "began")
    os.kill(pid, signal.SIGKILL)
    await has(tmp_path / "diary", "finally")
