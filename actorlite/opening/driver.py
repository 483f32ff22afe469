"""A driver's side of any session: its hub, its registration with the node, its runtime."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack

from actorlite.errors import NodeStartError
from actorlite.host import Entropy
from actorlite.ids import PROCESS_ID_BYTES, process_id
from actorlite.opening.whereabouts import AddressMaker, current_directory, own_sys_path
from actorlite.rpc.handshake import PYTHON
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers
from actorlite.runtime.node_client import NodeClient
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.session import Plan
from actorlite.transport import Address, Transport
from actorlite.wire.messages import Identity
from actorlite.wire.requests import NodeInfo, RegisterDriver


async def register(
    plan: Plan,
    node: Address,
    token: bytes,
    address_of: AddressMaker,
    entropy: Entropy,
    stack: AsyncExitStack,
    transports: Callable[[Address], Transport] | None = None,
) -> ProcessRuntime:
    """Connect to a node and register as a driver; `stack` closes what was opened."""
    process = process_id(entropy.token_bytes(PROCESS_ID_BYTES))
    handlers = Handlers()
    runtime: ProcessRuntime | None = None
    hub = Hub(
        Identity(process, "driver", "", os.getpid(), PYTHON),
        token,
        entropy,
        handlers,
        on_peer_lost=lambda peer, error: runtime.peer_lost(peer, error) if runtime is not None else None,
        transports=transports,
    )
    stack.push_async_callback(hub.aclose)
    await hub.listen(address_of(process, "driver"))
    peer = await hub.connect(node)
    hub.belongs_to(peer)
    job = f"job-{process}"
    namespace = plan.namespace or job
    client = NodeClient(hub, peer, NodeInfo(peer.identity.pid, 0, ""))
    runtime = ProcessRuntime(hub, client, job=job, namespace=namespace, address=plan.address)
    # Before the registration: what the node tells those it knows may come right behind its answer.
    runtime.install(handlers)
    info = await peer.request(next(hub.numbers), RegisterDriver(job, namespace, own_sys_path(), current_directory()))
    if not isinstance(info, NodeInfo):
        raise NodeStartError(f"the node at {node} did not answer the registration")
    client.info = info
    return runtime
