"""Fixtures for the project's own tests; the public ones are in `actorlite.testing.plugin`."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import uvloop

from actorlite.config import Settings
from actorlite.testing import leaks, plugin

if TYPE_CHECKING:
    import actorlite as al

SCHEMES = ("inproc", "uds", "tcp")
LEAK_CHECKED = frozenset({"transports", "integration", "processes", "faults", "examples"})
RUN_MARK = f"ACTORLITE_TEST_RUN={os.getpid()}"


def pytest_configure(config: pytest.Config) -> None:
    # From a checkout that is only on the path there is no entry point to find the plugin by.
    if not config.pluginmanager.hasplugin("actorlite"):
        config.pluginmanager.register(plugin, "actorlite")
    # Its first loop opens a pipe that stays as long as the process.
    uvloop.new_event_loop().close()
    # pytest's own directories stay where they are.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    # A place of our own: what appears there is ours, also while another run works on the same machine. Short, because
    # the path of a Unix socket is at most 107 bytes.
    directory = tempfile.mkdtemp(prefix="al-", dir="/tmp")
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    os.environ["TMPDIR"] = directory
    os.environ.pop("XDG_RUNTIME_DIR", None)
    tempfile.tempdir = None
    name, _, value = RUN_MARK.partition("=")
    os.environ[name] = value


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """`ACTORLITE_LOOP` chooses the loop of the tests as it chooses that of daemons and workers."""
    loop = Settings.from_environment().loop
    return {loop: uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop}


def pytest_collection_finish() -> None:
    """What pytest keeps of some thousand tests stays to the end, and is searched no more: `gc.collect()`, of which the
    tests have many, takes a tenth of a second with it and a hundredth without."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def _nothing_outside() -> Iterator[None]:
    """Set up before the test's loop is made, and checked after that is closed."""
    before = leaks.Snapshot.take(directories=[tempfile.gettempdir()], mark=RUN_MARK)
    yield
    leaks.check_blocking(before)


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> None:
    """What a test of these folders began is gone after it, processes that nobody is the parent of included."""
    folder = Path(request.node.path).relative_to(Path(__file__).parent).parts[0]
    if folder in LEAK_CHECKED:
        request.getfixturevalue("_nothing_outside")
        # Inside the loop as well: afterwards nobody can tell a task that ended from one that the loop's end cancelled.
        request.getfixturevalue("actorlite_leak_check")


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> str:
    """Each transport in turn."""
    name: str = request.param
    return name


@pytest_asyncio.fixture
async def cluster(scheme: str) -> AsyncIterator[al.Session]:
    """A session whose node and workers live in this loop and talk over the transport `scheme`."""
    # By name, so that the unit tests do not load the runtime.
    local_cluster = importlib.import_module("actorlite.testing.cluster").local_cluster
    async with local_cluster(scheme=scheme) as session:
        yield session
