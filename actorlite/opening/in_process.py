"""`inproc://`: the same parts in this loop, over the in-process transport unless a test chose another."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from actorlite.host import Entropy, SystemEntropy
from actorlite.ids import PROCESS_ID_BYTES, ProcessId, process_id
from actorlite.node.daemon import Node, NodeOptions
from actorlite.node.detection import resources_of
from actorlite.node.storefront import StoreOptions
from actorlite.opening.driver import register
from actorlite.opening.whereabouts import TOKEN_BYTES, sockets_in
from actorlite.resources import NodeResources
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.session import Plan
from actorlite.state.scheduling import NOWHERE
from actorlite.store.capacity import default_capacity
from actorlite.transport import Address, Transport
from actorlite.worker.inproc import LoopSpawner

Network = Callable[[ProcessId, Address], Transport]
"""What the processes of a node make their connections by."""


class Neighbourhood:
    """What the nodes and processes of one in-process session have in common: a token, where they listen, and the
    network, when a test has one of its own: then all calls travel."""

    def __init__(self, plan: Plan, stack: AsyncExitStack, network: Network | None = None) -> None:
        self.plan = plan
        self._network = network
        self.entropy: Entropy = SystemEntropy()
        self.token = self.entropy.token_bytes(TOKEN_BYTES)
        self._name = self.entropy.token_bytes(PROCESS_ID_BYTES).hex()
        self._directory = Path(plan.settings.runtime_root) / f"actorlite-{self._name}"
        if plan.transport == "uds":
            self._directory.mkdir(0o700)
            stack.callback(self._directory.rmdir)

    def address_of(self, process: ProcessId, role: str) -> Address:
        if self.plan.transport == "inproc":
            return f"inproc://{self._name}/{process}"
        if self.plan.transport == "tcp":
            return "tcp://127.0.0.1:0"
        return sockets_in(self._directory)(process, role)

    async def start_node(self, told: NodeResources) -> tuple[Node, Address]:
        """The caller closes it."""
        plan = self.plan
        # Its GPUs are those that it is told of: looking for them may take seconds, in the user's own loop.
        total, gpus = resources_of(told, plan.object_store_memory or default_capacity(), {}, look=False)
        process = process_id(self.entropy.token_bytes(PROCESS_ID_BYTES))
        spilling = plan.object_spilling_directory
        options = NodeOptions(
            process=process,
            token=self.token,
            total=total,
            gpus=gpus,
            labels=told.labels,
            max_workers=told.max_workers,
            idle_workers=told.idle_workers,
            worker_address=lambda worker: self.address_of(worker, "worker"),
            pid=os.getpid(),
            transports=self._transports(process),
            store=StoreOptions(
                capacity=plan.object_store_memory,
                spill_to=plan.settings.runtime_root if spilling is None else spilling,
            ),
        )
        nearby = plan.transport == "inproc" and self._network is None
        spawner = LoopSpawner(self.entropy, nearby=nearby, transports=options.transports)
        node = Node(options, spawner, self.entropy, lambda reason: None)
        return node, await node.start(self.address_of(process, "node"))

    async def register(self, node: Address, stack: AsyncExitStack, process: ProcessId = NOWHERE) -> ProcessRuntime:
        """A driver of the node at that address, which is `process`."""
        transports = self._transports(process)
        return await register(self.plan, node, self.token, self.address_of, self.entropy, stack, transports)

    def _transports(self, node: ProcessId) -> Callable[[Address], Transport] | None:
        return None if self._network is None else partial(self._network, node)


async def open_runtime(plan: Plan, stack: AsyncExitStack) -> ProcessRuntime:
    neighbourhood = Neighbourhood(plan, stack)
    node, address = await neighbourhood.start_node(plan.resources)
    stack.push_async_callback(node.aclose, "its session was shut down")
    return await neighbourhood.register(address, stack)
