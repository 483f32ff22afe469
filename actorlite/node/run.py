"""A node's life inside the daemon process: from the session directory to the last goodbye."""

from __future__ import annotations

import os
from pathlib import Path

from actorlite.errors import ActorliteError, NodeStartError
from actorlite.host import Spawner, SystemEntropy
from actorlite.ids import PROCESS_ID_BYTES, ProcessId, process_id
from actorlite.node.daemon import Node, NodeOptions
from actorlite.node.detection import detect_memory, resources_of, sets_threads
from actorlite.node.stop import OnReady, StopSignal
from actorlite.node.storefront import StoreOptions
from actorlite.resources import CPU, UNITS_PER_ONE, NodeResources
from actorlite.store.capacity import default_capacity
from actorlite.transport import Address
from actorlite.wire.launch import DaemonConfig

MAX_PRESTART = 4
"""Workers started ahead for a new job: as many as there are CPUs, within reason."""
IDLE_MEMORY_PART = 4
"""Of the memory of the host; its idle workers may have as much together."""


async def run_node(config: DaemonConfig, spawner: Spawner, on_ready: OnReady, stop: StopSignal) -> None:
    """Serve until `stop` is set, then return with nothing left open; cancelled when that takes too long.

    The session directory exists. `on_ready` gets the address where the node listens, and returns when the zygote can
    fork and the starter knows; it raises when the node cannot start.
    """
    entropy = SystemEntropy()
    directory = Path(config.session_directory)
    told = NodeResources(config.num_cpus, config.num_gpus, config.memory, config.resources)
    total, gpus = resources_of(told, config.object_store_memory or default_capacity(), os.environ)

    def worker_address(process: ProcessId) -> Address:
        return f"uds://{directory}/w-{process}.sock"

    options = NodeOptions(
        process=process_id(entropy.token_bytes(PROCESS_ID_BYTES)),
        token=config.token,
        total=total,
        gpus=gpus,
        labels=config.labels,
        max_workers=config.max_workers,
        idle_workers=config.idle_workers,
        idle_bytes=detect_memory() // IDLE_MEMORY_PART,
        sets_threads=sets_threads(os.environ),
        worker_address=worker_address,
        pid=os.getpid(),
        loop=config.loop,
        session_directory=str(directory),
        state_path=config.control_state,
        prestart=min(total.units_of(CPU) // UNITS_PER_ONE, MAX_PRESTART) if config.owned else 0,
        store=StoreOptions(
            capacity=config.object_store_memory,
            spill_to=str(directory) if config.object_spilling_directory is None else config.object_spilling_directory,
            channel=str(directory / "store.ctl"),
        ),
    )
    node = Node(options, spawner, entropy, stop.set)
    reason = "the node could not start"
    keep = True  # a start that fails must not cost what a node that was killed has left
    address = await node.start(config.node)
    try:
        if config.join:
            await _join(node, config.join)
        await on_ready(address)
        node.control.resume(node.groups.kept.restored)
        reason = await stop.wait()
        keep = stop.keeps
    finally:
        await node.aclose(f"the node daemon (pid {os.getpid()}) ends: {reason}", keep=keep)


async def _join(node: Node, address: Address) -> None:
    try:
        await node.join(address)
    except ActorliteError as error:
        raise NodeStartError(
            f"cannot join the cluster of the node at {address}: {error}; is that node, and all of its cluster, alive? "
            f"`actorlite status --address {address}` tells"
        ) from error
