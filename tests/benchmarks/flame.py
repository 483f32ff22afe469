"""Flame graphs of calls: of the process that calls, and of the worker that answers. Needs `py-spy` on the PATH.

python tests/benchmarks/flame.py [--method plain|coroutine] [--load single|many|wait] [--seconds 8] [--to FOLDER]

Without `--load` calls are pipelined. `single`: one call at a time; `many`: four actors in processes of their own call
one; `wait`: a thousand tasks, waited for one by one. The files are called `plain-caller.svg`,
`plain-single-worker.svg` and so on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from pathlib import Path

import uvloop

import actorlite as al

BATCH = 1000
CALLERS = 4
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


class Calling(al.Actor, num_cpus=0):
    async def call_for_ever(self, actor: al.Handle[Answering], name: str) -> None:
        method = getattr(actor, name)
        while True:
            await al.get([method.remote() for _ in range(BATCH)])

    async def pid(self) -> int:
        return os.getpid()


@al.remote(num_cpus=0)
def task() -> int:
    return os.getpid()


async def call_for_ever(actor: al.Handle[Answering], name: str, load: str) -> None:
    method = getattr(actor, name)
    while load == "pipelined":
        await al.get([method.remote() for _ in range(BATCH)])
    while load == "single":
        await method.remote()
    while load == "wait":
        pending = [task.remote() for _ in range(BATCH)]
        while pending:
            _, pending = await al.wait(pending)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["plain", "coroutine"], default="plain")
    parser.add_argument("--load", choices=["pipelined", "single", "many", "wait"], default="pipelined")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--to", type=Path, default=Path("."))
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    name = options.method if options.load == "pipelined" else f"{options.method}-{options.load}"
    async with al.init("local", num_cpus=2):
        actor = Answering.remote()
        pids = {"caller": os.getpid(), "worker": await actor.pid()}
        if options.load == "wait":
            del pids["worker"]  # several, which do little
        if options.load == "many":
            callers = [Calling.remote() for _ in range(CALLERS)]
            pids["caller"], *_ = await asyncio.gather(*[each.pid() for each in callers])
            calls = asyncio.gather(*[each.call_for_ever(actor, options.method) for each in callers])
        else:
            calls = asyncio.ensure_future(call_for_ever(actor, options.method, options.load))
        try:
            for side, pid in pids.items():  # one after the other: each costs processor time itself
                path = options.to / f"{name}-{side}.svg"
                await record(pid, options.seconds, path)
                print(path)
        finally:
            calls.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await calls


if __name__ == "__main__":
    uvloop.run(main())
