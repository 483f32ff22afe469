"""Calls that wait for a pause to pass before they are tried again. At the end of the session nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Delays:
    """On the loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[Callable[[], object], asyncio.TimerHandle] = {}

    def after(self, pause_s: float, work: Callable[[], object]) -> None:
        """Do `work` after the pause, or when the session ends."""
        if pause_s <= 0:
            work()
        else:
            self._waiting[work] = self._loop.call_later(pause_s, self._over, work)

    def end(self) -> None:
        """Do everything now."""
        for work, timer in list(self._waiting.items()):
            timer.cancel()
            self._over(work)

    def _over(self, work: Callable[[], object]) -> None:
        if self._waiting.pop(work, None) is not None:
            work()

    def __repr__(self) -> str:
        return f"<Delays waiting={len(self._waiting)}>"
