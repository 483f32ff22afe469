"""Requests that wait on one node while another one has room: they move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from actorlite.node.redirects import NodeLost

T = TypeVar("T")

LOOK_S = 0.3
"""How often a request that waits looks for room elsewhere."""


async def unless_elsewhere(work: Coroutine[Any, Any, T], elsewhere: Callable[[], bool]) -> T:
    """What `work` returns. When it takes long and there is room elsewhere it is cancelled: raises `NodeLost`."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=LOOK_S))[0]:
            if elsewhere():
                task.cancel()
                await asyncio.wait({task})
                if task.cancelled():
                    raise NodeLost
        return task.result()
    except asyncio.CancelledError:
        task.cancel()
        raise
