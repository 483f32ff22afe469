"""Waiting for processes and nodes to come to their end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

POLL_S = 0.003
WITHIN_S = 30.0


def alive(pid: int) -> bool:
    """Whether a process exists. What init has not reaped yet has ended as far as we are concerned."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not (state == "Z" and parent == "1")


def wait_until_gone(pids: Iterable[int], *paths: Path, within_s: float = 2.0) -> None:
    """Block until all these processes and paths have disappeared; fail if one stays."""
    deadline = time.monotonic() + within_s
    pids = list(pids)
    while left := [pid for pid in pids if alive(pid)] + [path for path in paths if path.exists()]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(POLL_S)


async def until(condition: Callable[[], Awaitable[Any]], within_s: float = WITHIN_S) -> Any:
    """The first true answer of a coroutine function; fail if there is none in time."""
    deadline = time.monotonic() + within_s
    while not (value := await condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(POLL_S)
    return value
