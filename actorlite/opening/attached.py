"""`uds://` and `auto`: a node daemon that runs already, for a session or just to ask it something."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from actorlite.config import read_token, session_directory_of
from actorlite.errors import ConnectFailed
from actorlite.host import SystemEntropy
from actorlite.ids import PROCESS_ID_BYTES, process_id
from actorlite.opening.driver import register
from actorlite.opening.whereabouts import sockets_in
from actorlite.rpc.handshake import PYTHON
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.runtime.node_client import NodeClient
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.session import Plan
from actorlite.transport import Address, scheme_of
from actorlite.wire.messages import Ending, Identity
from actorlite.wire.nodes import DrainNode
from actorlite.wire.requests import NodeInfo, StopNode


async def open_runtime(plan: Plan, stack: AsyncExitStack) -> ProcessRuntime:
    token = read_token(plan.address)
    directory = session_directory_of(plan.address)
    return await register(plan, plan.address, token, sockets_in(directory), SystemEntropy(), stack)


async def node_status(address: Address) -> dict[str, Any]:
    """What the node at `address` says of itself. Raises `ConnectFailed` when none runs there."""
    async with _visit(address) as (hub, peer):
        return await NodeClient(hub, peer, NodeInfo(0, 0, "")).status()


async def stop_node(address: Address) -> None:
    """Tell the node at `address` to end; returns when it has heard. Raises `ConnectFailed` when none runs there."""
    async with _visit(address) as (hub, peer):
        await peer.request(next(hub.numbers), StopNode())


async def drain_node(address: Address, timeout_s: float | None) -> None:
    """Have the node at `address` take nothing new, and end when nothing runs there any more; returns when that is so.
    Raises `DrainRefused`, `NodeDiedError`, and `ConnectFailed` when none runs there."""
    async with _visit(address) as (hub, peer):
        await peer.request(next(hub.numbers), DrainNode(timeout_s))


@contextlib.asynccontextmanager
async def _visit(address: Address) -> AsyncIterator[tuple[Hub, Peer]]:
    if scheme_of(address) != "uds":
        raise ConnectFailed(f"{address} is not a node of this host: write uds:///path/node.sock")
    entropy = SystemEntropy()
    process = process_id(entropy.token_bytes(PROCESS_ID_BYTES))
    handlers = Handlers()
    # A node that ends says so to everybody; a visitor has asked for it, or is about to leave.
    handlers.on_messages({Ending: lambda peer, message, parts: None})
    hub = Hub(Identity(process, "visitor", "", os.getpid(), PYTHON), read_token(address), entropy, handlers)
    try:
        yield hub, await hub.connect(address)
    finally:
        await hub.aclose()
