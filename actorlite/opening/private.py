"""`local`: a node daemon of our own, which ends with this process, whatever happens."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from actorlite.config import node_address
from actorlite.host import SystemEntropy
from actorlite.ids import PROCESS_ID_BYTES
from actorlite.node.launch import DaemonHandle, launch_daemon
from actorlite.opening.driver import TOKEN_BYTES, current_directory, own_sys_path, register, sockets_in
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.session import Plan
from actorlite.wire.launch import DaemonConfig


async def open_runtime(plan: Plan, stack: AsyncExitStack) -> ProcessRuntime:
    entropy = SystemEntropy()
    name = entropy.token_bytes(PROCESS_ID_BYTES).hex()
    directory = Path(plan.settings.runtime_root) / f"actorlite-{name}"
    token = entropy.token_bytes(TOKEN_BYTES)
    daemon = await launch_daemon(
        DaemonConfig(
            session_directory=str(directory),
            node=node_address(directory),
            token=token,
            num_cpus=plan.num_cpus,
            loop=plan.settings.loop,
            preload=plan.preload,
            sys_path=own_sys_path(),
            cwd=current_directory(),
        )
    )
    stack.push_async_callback(daemon.stop)
    runtime = await register(plan, daemon.address, token, sockets_in(directory), entropy, stack)
    runtime.node.explain = lambda: _how_it_ended(daemon)
    return runtime


async def _how_it_ended(daemon: DaemonHandle) -> str:
    return f"the node daemon of this session ended: {(await daemon.wait()).describe()}"
