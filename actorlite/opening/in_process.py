"""`inproc://`: the same parts in this loop, over the in-process transport unless a test chose another."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path

from actorlite.host import Entropy, SystemEntropy
from actorlite.ids import PROCESS_ID_BYTES, process_id
from actorlite.node.daemon import Node, NodeOptions
from actorlite.node.run import available_cpus
from actorlite.node.storefront import StoreOptions
from actorlite.opening.driver import register
from actorlite.opening.whereabouts import TOKEN_BYTES, AddressMaker, sockets_in
from actorlite.resources import to_units
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.session import Plan
from actorlite.transport import Address
from actorlite.worker.inproc import LoopSpawner


async def open_runtime(plan: Plan, stack: AsyncExitStack) -> ProcessRuntime:
    entropy = SystemEntropy()
    address_of, node_at = _addresses(plan, entropy, stack)
    token = entropy.token_bytes(TOKEN_BYTES)
    cpus = available_cpus() if plan.num_cpus is None else plan.num_cpus
    options = NodeOptions(
        process=process_id(entropy.token_bytes(PROCESS_ID_BYTES)),
        token=token,
        cpu_units=to_units("num_cpus", cpus),
        worker_address=lambda process: address_of(process, "worker"),
        pid=os.getpid(),
        store=StoreOptions(
            capacity=plan.object_store_memory,
            spill_to=plan.settings.runtime_root
            if plan.object_spilling_directory is None
            else plan.object_spilling_directory,
        ),
    )
    node = Node(options, LoopSpawner(entropy, nearby=plan.transport == "inproc"), entropy, lambda: None)
    bound = await node.start(node_at)
    stack.push_async_callback(node.aclose, "its session was shut down")
    return await register(plan, bound, token, address_of, entropy, stack)


def _addresses(plan: Plan, entropy: Entropy, stack: AsyncExitStack) -> tuple[AddressMaker, Address]:
    name = entropy.token_bytes(PROCESS_ID_BYTES).hex()
    if plan.transport == "inproc":
        return (lambda process, role: f"inproc://{name}/{process}"), f"inproc://{name}/node"
    if plan.transport == "tcp":
        return (lambda process, role: "tcp://127.0.0.1:0"), "tcp://127.0.0.1:0"
    directory = Path(plan.settings.runtime_root) / f"actorlite-{name}"
    directory.mkdir(0o700)
    stack.callback(directory.rmdir)
    return sockets_in(directory), f"uds://{directory}/node.sock"
