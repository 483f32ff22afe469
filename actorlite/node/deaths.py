"""How processes ended, in words: those of this node, and those that other nodes know of."""

from __future__ import annotations

import asyncio

from msgspec import structs

from actorlite.ids import ProcessId
from actorlite.node.members import Members
from actorlite.node.workers import WorkerPool
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.wire.requests import Death, KillWorker, WhyDied, Yes

EXIT_REPORT_S = 2.0
"""How long a process whose connection ended may take to end; after that it counts as still running."""
MAX_DEPARTED = 1000


class Deaths:
    """Owned by the node; on the loop."""

    def __init__(self, hub: Hub, workers: WorkerPool, members: Members) -> None:
        self._hub = hub
        self._workers = workers
        self._members = members
        self._departed: dict[ProcessId, str] = {}
        """Those that were no workers of this node."""
        self._awaited: dict[ProcessId, asyncio.Event] = {}

    def depart(self, process: ProcessId, text: str) -> None:
        """A driver, or a worker of a node that is gone."""
        self._departed[process] = text
        if (awaited := self._awaited.pop(process, None)) is not None:
            awaited.set()
        while len(self._departed) > MAX_DEPARTED:
            del self._departed[next(iter(self._departed))]

    async def kill_worker(self, peer: Peer, body: KillWorker) -> Yes:
        record = self._workers.records.get(body.process)
        if record is None:
            killed = None if body.here else await self._members.ask(structs.replace(body, here=True), _is_yes)
            return Yes(killed is not None)
        self._workers.kill(record, "a caller asked for it with al.kill()")
        await record.ended.wait()
        return Yes(True)

    async def why_died(self, peer: Peer, body: WhyDied) -> Death | Yes:
        record = self._workers.records.get(body.process)
        if record is not None:
            try:
                async with asyncio.timeout(EXIT_REPORT_S):
                    await record.ended.wait()
            except TimeoutError:
                return Death(False, f"worker pid {record.pid} closed its connection but still runs", record.pid)
        report = self._workers.reports.get(body.process)
        if report is not None:
            pid, how, evicted = report
            return Death(True, how, pid, evicted)
        driver = self._hub.peers.get(body.process)
        if driver is not None and driver.identity.role == "driver":
            # The connections of a process that dies end one after the other, and this one is not the first.
            try:
                async with asyncio.timeout(EXIT_REPORT_S):
                    await self._awaited.setdefault(body.process, asyncio.Event()).wait()
            except TimeoutError:
                return Death(False, f"driver pid {driver.identity.pid} closed its connection but still runs")
        if (text := self._departed.get(body.process)) is not None:
            return Death(True, text)
        if body.here:
            return Yes(False)
        said = await self._members.ask(structs.replace(body, here=True), lambda answer: isinstance(answer, Death))
        if said is not None:
            death: Death = said[1]
            return death
        if (text := self._departed.get(body.process)) is not None:
            return Death(True, text)  # its node has gone while the others were asked
        return Death(True, f"process {body.process} is not known to {'any' if self._members.views else 'its'} node")

    def __repr__(self) -> str:
        return f"<Deaths departed={len(self._departed)}>"


def _is_yes(answer: object) -> bool:
    return isinstance(answer, Yes) and answer.value
