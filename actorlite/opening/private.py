"""`local`: a node daemon of our own, which ends with this process, whatever happens."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from actorlite.config import node_address
from actorlite.host import SystemEntropy
from actorlite.ids import PROCESS_ID_BYTES
from actorlite.loading import load
from actorlite.node.launch import DaemonHandle, launch_daemon
from actorlite.opening.whereabouts import TOKEN_BYTES, current_directory, own_sys_path, sockets_in
from actorlite.wire.launch import DaemonConfig

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime
    from actorlite.session import Plan


REGISTER = "actorlite.opening.driver:register"


async def open_runtime(plan: Plan, stack: AsyncExitStack) -> ProcessRuntime:
    entropy = SystemEntropy()
    name = entropy.token_bytes(PROCESS_ID_BYTES).hex()
    directory = Path(plan.settings.runtime_root) / f"actorlite-{name}"
    token = entropy.token_bytes(TOKEN_BYTES)
    config = DaemonConfig(
        session_directory=str(directory),
        node=node_address(directory),
        token=token,
        num_cpus=plan.resources.num_cpus,
        num_gpus=plan.resources.num_gpus,
        memory=plan.resources.memory,
        resources=dict(plan.resources.resources),
        labels=dict(plan.resources.labels),
        max_workers=plan.resources.max_workers,
        idle_workers=plan.resources.idle_workers,
        object_store_memory=plan.object_store_memory,
        object_spilling_directory=plan.object_spilling_directory,
        loop=plan.settings.loop,
        preload=plan.preload,
        sys_path=own_sys_path(),
        cwd=current_directory(),
    )
    launching = asyncio.create_task(launch_daemon(config), name="actorlite daemon starts")
    stack.push_async_callback(_end, launching)
    # The daemon takes a while to start: what this side needs is imported meanwhile.
    await asyncio.sleep(0)
    register = load(REGISTER)
    daemon = await asyncio.shield(launching)
    runtime: ProcessRuntime = await register(plan, daemon.address, token, sockets_in(directory), entropy, stack)
    runtime.node.explain = lambda: _how_it_ended(daemon)
    return runtime


async def _end(launching: asyncio.Task[DaemonHandle]) -> None:
    """Stop the daemon, also one that is still starting."""
    if not launching.done():
        launching.cancel()
        await asyncio.wait((launching,))
    if not launching.cancelled() and launching.exception() is None:
        await launching.result().stop()


async def _how_it_ended(daemon: DaemonHandle) -> str:
    return f"the node daemon of this session ended: {(await daemon.wait()).describe()}"
