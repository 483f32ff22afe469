"""Workers as objects in the caller's loop: the spawner of in-process sessions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from actorlite.host import Entropy, ExitReport, ProcessHandle, WorkerSpec
from actorlite.runtime.nearby import hosts_in
from actorlite.transport import Address, Transport
from actorlite.worker.host import Worker
from actorlite.worker.local import LocalCalls

Transports = Callable[[Address], Transport] | None
"""What connections are made by; None is the usual."""


class LoopWorker:
    """One in-process worker; a `ProcessHandle` whose `kill` drops its connections without goodbye."""

    def __init__(self, spec: WorkerSpec, entropy: Entropy, transports: Transports = None) -> None:
        self.worker = Worker(spec, entropy, os.getpid(), self._node_gone, transports)
        self._report: asyncio.Future[ExitReport] = asyncio.get_running_loop().create_future()
        self._closing: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return os.getpid()

    async def wait(self) -> ExitReport:
        return await asyncio.shield(self._report)

    def on_end(self, callback: Callable[[], object]) -> None:
        self._report.add_done_callback(lambda _: callback())

    def kill(self) -> None:
        self._end("killed by its node")

    async def closed(self) -> None:
        """Return once nothing of it is left."""
        if self._closing is not None:
            await self._closing

    def _node_gone(self, reason: str) -> None:
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(reason), name="actorlite worker ends")

    async def _close(self, reason: str) -> None:
        hosts_in(self.worker.loop).pop(self.worker.spec.process, None)
        try:
            await self.worker.aclose()
        finally:
            if not self._report.done():
                self._report.set_result(ExitReport(pid=self.pid, reason=reason))


class LoopSpawner:
    """Builds workers in this loop; a `Spawner`. With `nearby`, calls within the loop may skip the transport."""

    def __init__(self, entropy: Entropy, *, nearby: bool = True, transports: Transports = None) -> None:
        self._entropy = entropy
        self._transports = transports
        self._nearby = nearby
        self._workers: set[LoopWorker] = set()

    async def start(self, spec: WorkerSpec) -> ProcessHandle:
        worker = LoopWorker(spec, self._entropy, self._transports)
        self._workers.add(worker)
        worker.on_end(lambda: self._workers.discard(worker))
        try:
            await worker.worker.start()
        except BaseException:
            self._workers.discard(worker)
            await worker.worker.hub.aclose()
            raise
        if self._nearby:
            hosts_in(worker.worker.loop)[spec.process] = LocalCalls(worker.worker)
        return worker

    async def aclose(self) -> None:
        workers = list(self._workers)
        for worker in workers:
            worker.kill()
        await asyncio.gather(*(worker.closed() for worker in workers))
        self._workers.clear()

    def __repr__(self) -> str:
        return f"<LoopSpawner workers={len(self._workers)}>"
