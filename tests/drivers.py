"""A second driver of a node that a test runs in its own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import actorlite as al
from actorlite.config import Settings
from actorlite.context import current_runtime
from actorlite.host import SystemEntropy
from actorlite.opening.driver import register
from actorlite.resources import NodeResources
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.session import Plan


@asynccontextmanager
async def another_driver(session: al.Session, namespace: str = "") -> AsyncIterator[ProcessRuntime]:
    """Of the node of `session`, in the loop that runs this, which may be that of another thread; current inside."""
    here = session.runtime
    node = here.node_peer.identity.address
    before = current_runtime.get()
    plan = Plan(here.address, namespace, NodeResources(), (), Settings.from_environment(), "", None, None)

    def address_of(process: str, role: str) -> str:
        return "tcp://127.0.0.1:0" if node.startswith("tcp") else f"{node.rpartition('/')[0]}/{process}"

    async with AsyncExitStack() as stack:
        runtime = await register(plan, node, here.hub._token, address_of, SystemEntropy(), stack)
        stack.push_async_callback(runtime.aclose)
        current_runtime.set(runtime)
        try:
            yield runtime
        finally:
            current_runtime.set(before)
