from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actorlite.host import ExitReport, WorkerSpec
from actorlite.node.spawner import ZygoteSpawner
from actorlite.wire.zygote import ZygoteConfig
from actorlite.worker.zygote import ZygoteProcess, fork_zygote

from ..endings import wait_until_gone

PARTS = str(Path(__file__).parent)
POLL_S = 0.003


async def eventually(condition: Callable[[], Any], within_s: float = 10.0) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(POLL_S)
    return value


@pytest.fixture
def gone() -> Callable[..., None]:
    return wait_until_gone


class Nursery:
    """Forks one zygote and remembers what came of it."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.session = tmp_path / "session"
        self.exits: list[ExitReport] = []
        self.pids: list[int] = []
        self.spawner: ZygoteSpawner | None = None

    def fork(self, **changes: Any) -> ZygoteProcess:
        config = {"entry": "tree_parts:run", "sys_path": (PARTS,), "session_directory": str(self.session)} | changes
        zygote = fork_zygote(ZygoteConfig(**config))
        self.pids.append(zygote.pid)
        return zygote

    async def open(self, **changes: Any) -> ZygoteSpawner:
        zygote = self.fork(**changes)
        self.spawner = ZygoteSpawner(zygote.pid, zygote.channel, self.exits.append)
        return self.spawner

    def spec(self, job: str, number: int = 0) -> WorkerSpec:
        listen = str(self.tmp_path / f"said{number}.json")
        return WorkerSpec(process=f"{number:016x}", node="", listen=listen, token=b"t", job=job)

    async def said(self, number: int = 0) -> Any:
        path = self.tmp_path / f"said{number}.json"
        await eventually(path.exists)
        return json.loads(path.read_text())


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    """At the end nothing may be left of the zygote: no process, also none with an empty environment, no directory."""
    nursery = Nursery(tmp_path)
    yield nursery
    wait_until_gone(nursery.pids, nursery.session)
