"""What a node knows of a worker, and of the job that it is for."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from msgspec import Struct, field

from actorlite.host import ProcessHandle
from actorlite.ids import ProcessId
from actorlite.rpc.peer import Peer
from actorlite.transport import Address
from actorlite.wire.groups import Place


class Job(Struct, eq=False):
    """What the workers of one driver have in common."""

    name: str
    namespace: str
    sys_path: tuple[str, ...]
    cwd: str
    home: ProcessId = ProcessId("")
    """The node of its driver, when that is another one."""
    is_over: bool = False


class Setting(NamedTuple):
    """What a worker is started with for the leases that it is for: another setting is another worker."""

    gpus: tuple[str, ...] = ()
    """The devices that it sees; empty: whatever its node sees."""
    threads: int = 1
    """For libraries that compute in threads."""


PLAIN = Setting()


class WorkerRecord(Struct, eq=False):
    process: ProcessId
    job: Job
    registered: asyncio.Future[Peer]
    setting: Setting = PLAIN
    handle: ProcessHandle | None = None
    peer: Peer | None = None
    lease: int = 0
    """The exclusive lease that it works for; 0 when idle or shared."""
    use: str = "starting"
    idle_since: float = 0.0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    kill_reason: str = ""
    evicted: bool = False
    """Whether it ends because its placement group was removed."""
    place: Place | None = None
    """Where what it works for has to be, besides that there is room."""
    placed: bool = False
    """Whether it counts among those that run; before, only its place is taken."""

    @property
    def pid(self) -> int:
        return self.handle.pid if self.handle is not None else 0

    @property
    def address(self) -> Address:
        return self.peer.identity.address if self.peer is not None else ""
