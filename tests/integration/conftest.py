from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import actorlite as al
from actorlite.store import slabs
from actorlite.testing import Cluster, cluster
from actorlite.testing.cluster import local_cluster

DEADLINE_S = 10.0
POLL_S = 0.002
WATCHED = ("asyncio", "actorlite")


class Gate:
    """Two pipes between a test and user code in a worker: the code says that it is there, and waits to go on."""

    def __init__(self) -> None:
        self.said, self.say = os.pipe()
        self.held, self.let = os.pipe()

    def arrive(self) -> None:
        os.write(self.say, b"x")

    def hold(self) -> None:
        """In a plain function: say so and block until `open`."""
        self.arrive()
        os.read(self.held, 1)

    async def arrived(self, count: int = 1) -> None:
        """In the test: wait until `count` calls have said so."""
        for _ in range(count):
            await asyncio.wait_for(asyncio.to_thread(os.read, self.said, 1), DEADLINE_S)

    def open(self, count: int = 1) -> None:
        os.write(self.let, b"x" * count)

    def close(self) -> None:
        for fd in (self.said, self.say, self.held, self.let):
            os.close(fd)


@pytest.fixture
def gate(_nothing_outside: None) -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open(100)  # nobody may stay behind when the test failed
    gate.close()


class Complaints(logging.Handler):
    """What asyncio and actorlite log as an error: lost tasks, exceptions that nobody retrieved, failed callbacks."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def mentions(self, text: str) -> bool:
        """Take out the records that contain `text`; whether there were any."""
        found = [each for each in self.records if text in each.getMessage()]
        self.records = [each for each in self.records if each not in found]
        return bool(found)


@pytest.fixture(autouse=True)
def complaints() -> Iterator[Complaints]:
    """A test fails when something was logged as an error that it did not ask about."""
    handler = Complaints()
    for name in WATCHED:
        logging.getLogger(name).addHandler(handler)
    yield handler
    for name in WATCHED:
        logging.getLogger(name).removeHandler(handler)
    assert not handler.records, [each.getMessage() for each in handler.records]


Eventually = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


@pytest.fixture
def eventually() -> Eventually:
    """Await the first true answer of a coroutine function."""

    async def wait(condition: Callable[[], Awaitable[Any]]) -> Any:
        deadline = time.monotonic() + DEADLINE_S
        while not (value := await condition()):
            assert time.monotonic() < deadline, "the condition did not come true"
            await asyncio.sleep(POLL_S)
        return value

    return wait


@pytest.fixture
def all_free(eventually: Eventually) -> Callable[[al.Session], Awaitable[None]]:
    """Wait until the node has all its CPUs back; more than all is an error at once."""

    async def wait(session: al.Session) -> None:
        async def condition() -> bool:
            status = await session.status()
            assert status["free_cpus"] <= status["num_cpus"]
            return bool(status["free_cpus"] == status["num_cpus"] and not status["waiting"])

        await eventually(condition)

    return wait


@pytest.fixture(params=["inproc", "uds", "tcp"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Of the addresses in a cluster in this loop."""
    name: str = request.param
    return name


@pytest_asyncio.fixture
async def three(scheme: str) -> AsyncIterator[Cluster]:
    """Nodes of a cluster in this loop."""
    async with cluster(nodes=3, num_cpus=2, scheme=scheme) as made:
        yield made


PROCESSES = "processes"


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp", PROCESSES])
async def anywhere(request: pytest.FixtureRequest) -> AsyncIterator[al.Session]:
    """A session over each transport within this loop, and one with worker processes."""
    if request.param == PROCESSES:
        async with al.init("local", num_cpus=2) as session:
            yield session
    else:
        async with local_cluster(scheme=request.param) as session:
            yield session


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp", PROCESSES])
async def small(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[al.Session]:
    """A session as `anywhere`, whose store takes 8 MiB and spills into the test's directory."""
    store: dict[str, Any] = {"object_store_memory": 8 << 20, "object_spilling_directory": str(tmp_path)}
    if request.param == PROCESSES:
        async with al.init("local", num_cpus=2, **store) as session:
            yield session
    else:
        async with local_cluster(scheme=request.param, num_cpus=2, **store) as session:
            yield session


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp"])
async def small_here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[al.Session]:
    """As `small`, with all its parts in this loop."""
    store: dict[str, Any] = {"object_store_memory": 8 << 20, "object_spilling_directory": str(tmp_path)}
    async with local_cluster(scheme=request.param, num_cpus=2, **store) as session:
        yield session


@pytest.fixture
def empty(eventually: Eventually, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Wait until nothing is left in the store; what this process has leased of it is returned sooner than elsewhere."""
    monkeypatch.setattr(slabs, "IDLE_S", 0.02)

    async def wait() -> None:
        async def condition() -> bool:
            gc.collect()
            found = await al.memory()
            return not found.objects and found.used == found.spilled == found.leased == 0

        await eventually(condition)

    return wait


class Diary:
    """What user code did, wherever it ran: lines in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, word: object) -> None:
        with self.path.open("a") as file:
            file.write(f"{word}\n")

    def words(self) -> list[str]:
        return self.path.read_text().split() if self.path.exists() else []

    async def has(self, word: object, times: int = 1) -> None:
        """In the test: wait until it was noted so often."""
        deadline = time.monotonic() + DEADLINE_S
        while self.words().count(str(word)) < times:
            assert time.monotonic() < deadline, f"{word!r} was not noted {times} times: {self.words()}"
            await asyncio.sleep(POLL_S)


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path / "diary")
