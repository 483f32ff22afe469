"""The disk of a node's object store: its files are written and read in threads, never on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from actorlite.store.spilling import SpillTarget, open_target

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

THREADS = 4


class Disk:
    """Nothing is made before something is spilled. On the loop."""

    def __init__(self, where: str, node: str) -> None:
        self._where = where
        self._node = node
        self._target: SpillTarget | None = None
        self._opening = asyncio.Lock()
        self._threads: ThreadPoolExecutor | None = None

    async def write(self, key: str, data: memoryview) -> str:
        """Where it is then. Raises `SpillError`."""
        return await self.in_thread((await self._opened()).write, key, data)

    async def read(self, location: str, into: memoryview) -> None:
        """Raises `SpillError`."""
        await self.in_thread((await self._opened()).read, location, into)

    async def delete(self, location: str) -> None:
        await self.in_thread((await self._opened()).delete, location)

    async def aclose(self) -> None:
        """Delete all that was written. Nothing may be under way."""
        if self._target is not None:
            await self.in_thread(self._target.close)
        if self._threads is not None:
            self._threads.shutdown()

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(THREADS, "actorlite store")
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _opened(self) -> SpillTarget:
        async with self._opening:
            if self._target is None:
                self._target = await self.in_thread(open_target, self._where, self._node)
            return self._target

    def __repr__(self) -> str:
        return f"<Disk {self._where or 'off'} {'open' if self._target is not None else 'unused'}>"
