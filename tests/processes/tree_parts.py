"""Workers and a node for the tests of processes: imported by the zygote and the daemon, not by pytest's own process.

A worker does what `spec.job` names, and writes what it has to say as JSON to the path in `spec.listen`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from actorlite.host import Spawner, WorkerSpec
from actorlite.node.spawner import ZygoteSpawner
from actorlite.node.stop import OnReady, StopSignal
from actorlite.wire.launch import DaemonConfig

DOUBLE_FORK = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(f"{os.getpid()}\\n")
        os.execve("/bin/sleep", ["sleep", "1000"], {})
os._exit(0)
"""


def run(spec: WorkerSpec) -> None:
    name, _, argument = spec.job.partition(":")
    JOBS[name](spec, argument)


def tell(spec: WorkerSpec, value: object) -> None:
    """Whole or not at all: a reader polls for the file."""
    draft = Path(f"{spec.listen}.draft")
    draft.write_text(json.dumps(value))
    draft.rename(spec.listen)


def pause(spec: WorkerSpec, argument: str) -> None:
    tell(spec, {"pid": os.getpid(), "at": time.monotonic()})
    while True:
        signal.pause()


def leave(spec: WorkerSpec, argument: str) -> None:
    sys.exit(int(argument) if argument.isdigit() else argument)


def fail(spec: WorkerSpec, argument: str) -> None:
    raise ValueError(argument)


def die(spec: WorkerSpec, argument: str) -> None:
    os.kill(os.getpid(), int(argument))
    signal.pause()


def talk(spec: WorkerSpec, argument: str) -> None:
    for number in range(int(argument)):
        print(f"line {number}", file=sys.stderr)


def grow(spec: WorkerSpec, argument: str) -> None:
    block = bytearray(int(argument))
    block[::4096] = b"x" * len(block[::4096])


def look(spec: WorkerSpec, argument: str) -> None:
    """What the worker finds around it."""
    tell(
        spec,
        {
            "fds": {name: os.readlink(f"/proc/self/fd/{name}") for name in _open_fds()},
            "session": os.getsid(0) == os.getpid(),
            "variable": os.environ.get("ACTORLITE_WORKER"),
            "preloaded": argument in sys.modules,
            "random": random.random(),
            "cwd": os.getcwd(),
            "signals": [signal.getsignal(number) is signal.SIG_DFL for number in (signal.SIGCHLD, signal.SIGTERM)],
        },
    )


def _open_fds() -> list[str]:
    listing = os.open("/proc/self/fd", os.O_RDONLY)
    try:
        return [
            name for name in os.listdir(listing) if name != str(listing) and os.path.exists(f"/proc/self/fd/{name}")
        ]
    finally:
        os.close(listing)


def family(spec: WorkerSpec, argument: str) -> None:
    """Start processes in every way that a user may, and wait."""
    pids = [os.getpid()]
    pids.append(subprocess.Popen(["sleep", "1000"]).pid)
    pids.append(subprocess.Popen(["sleep", "1000"], start_new_session=True, env={}).pid)
    found = f"{spec.listen}.double"
    subprocess.run([sys.executable, "-c", DOUBLE_FORK, found], check=True)
    while not (os.path.exists(found) and (text := Path(found).read_text()).endswith("\n")):
        time.sleep(0.002)
    pids.append(int(text))
    os.unlink(found)
    tell(spec, pids)
    if argument == "exit":
        sys.exit(0)
    while True:
        signal.pause()


JOBS = {
    "pause": pause,
    "exit": leave,
    "raise": fail,
    "signal": die,
    "talk": talk,
    "grow": grow,
    "look": look,
    "family": family,
}


async def run_node(config: DaemonConfig, spawner: Spawner, on_ready: OnReady, stop: StopSignal) -> None:
    """A node of two workers with families; the pids of all go to `tree.json` in the daemon's `cwd`."""
    assert isinstance(spawner, ZygoteSpawner)
    Path(config.session_directory, "node.sock").touch()
    await on_ready(config.node)
    place = Path(config.cwd)
    for number in range(2):
        await spawner.start(
            WorkerSpec(
                process=f"{number:016x}",
                node=config.node,
                listen=str(place / f"worker{number}.json"),
                token=config.token,
                job="family",
            )
        )
    draft = place / "tree.draft"
    draft.write_text(json.dumps({"daemon": os.getpid(), "zygote": spawner.pid}))
    draft.rename(place / "tree.json")
    await stop.wait()


async def run_broken_node(config: DaemonConfig, spawner: Spawner, on_ready: OnReady, stop: StopSignal) -> None:
    raise LookupError("no such node")


async def run_stuck_node(config: DaemonConfig, spawner: Spawner, on_ready: OnReady, stop: StopSignal) -> None:
    """Ready, and then deaf."""
    await on_ready(config.node)
    time.sleep(1000)


def run_dying_node(config: DaemonConfig, spawner: Spawner, on_ready: OnReady, stop: StopSignal) -> None:
    print("famous last words", file=sys.stderr)
    os._exit(7)
