"""Every test here runs on plain asyncio and on uvloop, in a loop that it starts itself."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import uvloop

from actorlite.testing.transport import Bench
from actorlite.transport import get_transport

Run: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

LOOP_FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
DEADLINE_S = 60.0
_numbers = itertools.count()

# With its first loop libuv opens a pipe that it keeps for good: not a leak of the test that happens to be first.
uvloop.new_event_loop().close()


@pytest.fixture(params=sorted(LOOP_FACTORIES))
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function on a loop of its own."""

    def run_on_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main_in_time() -> None:
            async with asyncio.timeout(DEADLINE_S):
                await main()

        runner = asyncio.Runner(loop_factory=LOOP_FACTORIES[request.param])
        try:
            runner.run(main_in_time())
        except BaseException:
            # A failed test leaves things open. uvloop warns about each while it closes; a warning that is an error
            # keeps it from closing that one, and then it waits for it for ever.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                runner.close()
            raise
        runner.close()

    return run_on_loop


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short name: socket paths have 107 bytes at most, pytest's own may be longer."""
    path = Path(tempfile.mkdtemp(prefix="al"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def bench_of(directory: Path) -> Callable[[str], Bench]:
    def bench(scheme: str) -> Bench:
        addresses = {
            "tcp": lambda: "tcp://127.0.0.1:0",
            "uds": lambda: f"uds://{directory}/{next(_numbers)}.sock",
            "inproc": lambda: f"inproc://{next(_numbers)}",
        }
        raw = {"tcp": open_tcp, "uds": open_uds}
        make_address = addresses[scheme]
        return Bench(get_transport(make_address()), make_address, raw.get(scheme))

    return bench


def open_tcp(address: str) -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return asyncio.open_connection(host, int(port))


def open_uds(address: str) -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return asyncio.open_unix_connection(address.removeprefix("uds://"))
