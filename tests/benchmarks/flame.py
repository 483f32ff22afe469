"""Flame graphs of calls: of the caller's process, and of the worker that answers. Needs `py-spy` on the PATH.

python tests/benchmarks/flame.py [--method plain|coroutine] [--one-at-a-time] [--seconds 8] [--to FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

import uvloop

import actorlite as al

BATCH = 1000
RATE = 500
"""Samples per second."""


class Answering(al.Actor, num_cpus=0):
    async def coroutine(self) -> bytes:
        return b"ok"

    @al.method
    def plain(self) -> bytes:
        return b"ok"

    async def pid(self) -> int:
        return os.getpid()


async def record(pid: int, seconds: float, path: Path) -> None:
    """Have py-spy watch a process. Raises `RuntimeError` when it fails."""
    command = ("py-spy", "record", "-p", str(pid), "-d", f"{seconds:g}", "-r", str(RATE), "-o", str(path))
    spy = await asyncio.create_subprocess_exec(
        *command, "--nonblocking", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await spy.communicate()
    if spy.returncode:
        raise RuntimeError(f"py-spy failed for pid {pid}: {errors.decode()}")


async def call_for_ever(actor: al.Handle[Answering], name: str, *, one_at_a_time: bool) -> None:
    method = getattr(actor, name)
    while True:
        if one_at_a_time:
            await method()
        else:
            await al.get([method.remote() for _ in range(BATCH)])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=["plain", "coroutine"], default="plain")
    parser.add_argument("--one-at-a-time", action="store_true")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--to", type=Path, default=Path("."))
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    async with al.init("local", num_cpus=2):
        actor = Answering.remote()
        pids = {"caller": os.getpid(), "worker": await actor.pid()}
        calls = asyncio.ensure_future(call_for_ever(actor, options.method, one_at_a_time=options.one_at_a_time))
        try:
            for side, pid in pids.items():  # one after the other: each costs processor time itself
                path = options.to / f"{options.method}-{side}.svg"
                await record(pid, options.seconds, path)
                print(path)
        finally:
            calls.cancel()
            await asyncio.wait([calls])


if __name__ == "__main__":
    uvloop.run(main())
