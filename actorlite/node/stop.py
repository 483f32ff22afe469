"""How a daemon and the node inside it talk: when to stop, and when the node is ready.

Apart from `run`, so that the daemon can fork its zygote before it imports the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeAlias

from actorlite.host import Spawner
from actorlite.wire.launch import DaemonConfig


class StopSignal:
    """Set once, with the reason: the starter is gone, it said stop, SIGTERM, or the zygote died."""

    def __init__(self) -> None:
        self._set = asyncio.Event()
        self._reason = ""
        self.keeps = False
        """Whether the node was not meant to end: what it has written down is for the next one."""

    def __repr__(self) -> str:
        return f"<StopSignal {self._reason or 'not set'}>"

    @property
    def reason(self) -> str:
        """Empty until set."""
        return self._reason

    def set(self, reason: str, *, keep: bool = False) -> None:
        """The first reason counts."""
        if not self._set.is_set():
            self._reason = reason
            self.keeps = keep
            self._set.set()

    async def wait(self) -> str:
        await self._set.wait()
        return self._reason


OnReady: TypeAlias = Callable[[str], Awaitable[None]]
RunNode: TypeAlias = Callable[[DaemonConfig, Spawner, OnReady, StopSignal], Coroutine[None, None, None]]
"""The signature of `run_node`, and of what a test puts in its place."""
