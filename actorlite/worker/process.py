"""A worker process from its first line to its last: what the zygote runs in each fork."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from importlib import import_module

from actorlite.errors import ConnectFailed, ConnectionLost
from actorlite.host import SystemEntropy, WorkerSpec
from actorlite.pages import give_back_zeros
from actorlite.worker.host import Worker

SWITCH_INTERVAL_S = 100e-6
"""How long a thread may keep the interpreter while the loop waits. With Python's default of 5 ms, one busy thread cuts
the loop from 49 000 to 262 round trips per second; with this, to 7 700.
"""

NODE_GONE_S = 2.0
"""How long the end of a node may take to reach a worker."""


def run_worker(spec: WorkerSpec) -> None:
    """Serve until the node is gone. Returns when it is; whatever still runs ends with the process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # No `asyncio.Runner`: nothing is to be cancelled and closed at the end, which is the end of the process.
    loop = loop_factory(spec.loop)()
    give_back_zeros(loop)
    loop.run_until_complete(_serve(spec))


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
        return factory
    return asyncio.new_event_loop


async def _serve(spec: WorkerSpec) -> None:
    ended = asyncio.Event()
    worker = Worker(spec, SystemEntropy(), os.getpid(), lambda reason: ended.set())
    try:
        await worker.start()
    except (ConnectFailed, ConnectionLost):
        # A node that is gone takes this process along before it has said a word: there is nothing to complain about.
        await asyncio.sleep(NODE_GONE_S)
        raise
    await ended.wait()
    # The node is gone and with it the session: threads may be deep in user code, and nobody waits for an answer.
    os._exit(0)
