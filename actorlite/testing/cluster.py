"""A session for tests whose parts live in the test's own loop, over the transport that the test chooses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actorlite.config import Settings
from actorlite.context import current_runtime
from actorlite.session import Plan, Session, open_session


@asynccontextmanager
async def local_cluster(
    *,
    scheme: str = "inproc",
    num_cpus: float | None = 2,
    namespace: str = "",
    object_store_memory: int | None = None,
    object_spilling_directory: str | None = None,
) -> AsyncIterator[Session]:
    """A node, its workers and a driver in this loop, talking over `scheme` (`"inproc"`, `"uds"`, `"tcp"`).

    Starts in milliseconds. Everything but the processes is what a local session runs: use it to test your own actors
    with real connections under them. The session is the current one inside the block.
    """
    before = current_runtime.get()
    plan = Plan(
        "inproc://",
        namespace,
        num_cpus,
        (),
        Settings.from_environment(),
        scheme,
        object_store_memory,
        object_spilling_directory,
    )
    session = await open_session(plan)
    current_runtime.set(session.runtime)
    try:
        yield session
    finally:
        try:
            await session.shutdown()
        finally:
            current_runtime.set(before)
