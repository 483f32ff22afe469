"""SIGKILL for the driver, the daemon, the zygote or a worker of a session that is busy.

What the caller sees: every pending call fails within two seconds with an error that says what died. What is cleaned up:
every process of the session, what user code started in its workers, the session directory with its sockets.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actorlite.node.launch import package_roots

WITHIN_S = 2.0
START_S = 30.0
DRIVER = """
import asyncio, json, os, subprocess, sys, time
import actorlite as al

@al.remote(max_retries=0)
def busy(directory):
    open(os.path.join(directory, f"busy-{os.getpid()}"), "w").close()
    time.sleep(60)

@al.remote(max_retries=3)
def patient(directory):
    number = sum(name.isdigit() for name in os.listdir(directory))
    open(os.path.join(directory, str(number)), "w").write(str(os.getpid()))
    if number == 0: time.sleep(60)
    return number

class Blocked(al.Actor):
    @al.method
    def pid(self): return os.getpid()
    @al.method
    def start(self): return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
    @al.method
    def block(self): time.sleep(60)

class Waiting(al.Actor):
    @al.method
    def pid(self): return os.getpid()
    async def wait(self): await asyncio.sleep(60)

def say(**what): print(json.dumps(what), flush=True)

async def main():
    attempts = sys.argv[1]
    async with al.init(num_cpus=3) as session:
        blocked, waiting = Blocked.remote(), Waiting.remote()
        child = await blocked.start()
        workers = {"blocked": await blocked.pid(), "waiting": await waiting.pid()}
        calls = {
            "running task": busy.remote(attempts), "another task": busy.remote(attempts),
            "patient task": patient.remote(attempts),
            "queued task": busy.remote(attempts), "blocked method": blocked.block.remote(),
            "queued method": blocked.pid.remote(), "waiting method": waiting.wait.remote(),
        }
        while len(os.listdir(attempts)) < 3: await asyncio.sleep(0.01)
        everybody = [each["pid"] for each in (await session.status())["workers"]]
        daemon = session.node_pid
        with open(f"/proc/{daemon}/task/{daemon}/children") as file: zygote = int(file.read().split()[0])
        say(driver=os.getpid(), daemon=daemon, zygote=zygote, child=child, everybody=everybody, **workers)
        sys.stdin.readline()
        asked = time.monotonic()
        async def end(name, ref):
            try: result = {"value": await ref}
            except Exception as error:
                result = {"error": type(error).__name__, "text": str(error), "outcome": error.outcome.value}
            say(name=name, after=time.monotonic() - asked, **result)
        await asyncio.gather(*(end(*call) for call in calls.items() if call[0] in sys.argv[2:]))
        say(alive=await waiting.pid() if "stays" in sys.argv else 0)

asyncio.run(main())
"""


class Busy:
    """A driver process with a busy session."""

    def __init__(self, place: Path, *arguments: str) -> None:
        self.attempts = place / "attempts"
        self.attempts.mkdir()
        self.runtime = place / "run"
        self.runtime.mkdir()
        script = place / "driver.py"
        script.write_text(DRIVER)
        self.driver = subprocess.Popen(
            [sys.executable, str(script), str(self.attempts), *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(package_roots()), "TMPDIR": str(self.runtime)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.tree: dict[str, Any] = self.said()

    def said(self) -> Any:
        assert self.driver.stdout is not None
        line = self.driver.stdout.readline()
        assert line, f"the driver ended with code {self.driver.wait(START_S)}"
        return json.loads(line)

    def kill(self, victim: str) -> float:
        os.kill(self.tree[victim], signal.SIGKILL)
        killed = time.monotonic()
        if victim != "driver":
            assert self.driver.stdin is not None
            self.driver.stdin.write("\n")
            self.driver.stdin.flush()
        return killed

    @property
    def processes(self) -> list[int]:
        tree = self.tree
        return [tree["daemon"], tree["zygote"], tree["child"], *tree["everybody"]]

    def close(self) -> None:
        self.driver.kill()
        self.driver.wait()
        for stream in (self.driver.stdin, self.driver.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Busy]]:
    made: list[Busy] = []

    def make(*arguments: str) -> Busy:
        made.append(Busy(tmp_path_factory.mktemp("b"), *arguments))
        return made[-1]

    yield make
    for each in made:
        each.close()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _until(condition: Callable[[], bool], deadline: float) -> bool:
    while not condition():
        if time.monotonic() > deadline:
            return False
        select.select([], [], [], 0.005)
    return True


def _all_gone(session: Busy, deadline: float) -> list[str]:
    """What is still there at the deadline."""
    _until(lambda: not any(map(_alive, session.processes)) and not list(session.runtime.iterdir()), deadline)
    left = [f"process {pid}" for pid in session.processes if _alive(pid)]
    return left + [str(path) for path in session.runtime.rglob("*")]


CALLS = ("running task", "another task", "patient task", "queued task", "blocked method", "queued method")


@pytest.mark.parametrize("victim", ["daemon", "zygote"])
def test_the_node_dies(busy: Callable[..., Busy], victim: str) -> None:
    session = busy(*CALLS, "waiting method")
    killed = session.kill(victim)
    ended = [session.said() for _ in range(7)]
    assert all(each["after"] < WITHIN_S for each in ended), ended
    dead = f"pid {session.tree[victim]} was killed by signal 9"
    for each in ended:
        # A worker may be known to have died of the zygote's end before the node says so itself.
        of_tasks = {"NodeDiedError"} if victim == "daemon" else {"NodeDiedError", "WorkerCrashedError"}
        assert each["error"] in ({"ActorDiedError"} if "method" in each["name"] else of_tasks), each
        assert dead in each["text"] or f"the zygote (pid {session.tree[victim]}) died" in each["text"], each
    outcomes = {each["name"]: each["outcome"] for each in ended}
    assert outcomes["queued task"] == "not executed"
    assert {name for name, outcome in outcomes.items() if outcome == "not executed"} == {"queued task"}
    assert _all_gone(session, killed + WITHIN_S) == []


def test_the_driver_dies(busy: Callable[..., Busy]) -> None:
    session = busy()
    killed = session.kill("driver")
    assert _all_gone(session, killed + WITHIN_S) == []


def test_an_actor_s_worker_dies(busy: Callable[..., Busy]) -> None:
    """Only its own calls fail; what its user code started ends with it, the others go on."""
    session = busy("blocked method", "queued method", "stays")
    killed = session.kill("blocked")
    ended = [session.said() for _ in range(2)]
    for each in ended:
        assert each["error"] == "ActorDiedError"
        assert f"worker pid {session.tree['blocked']} was killed by signal 9 (SIGKILL)" in each["text"]
        assert each["outcome"] == "unknown outcome"
        assert each["after"] < WITHIN_S
    assert _until(lambda: not _alive(session.tree["child"]), killed + WITHIN_S)
    assert _alive(session.tree["waiting"])


def test_a_task_s_worker_dies(busy: Callable[..., Busy]) -> None:
    """A task with retries runs again elsewhere."""
    session = busy("patient task")
    first = session.attempts / "0"
    assert _until(lambda: first.read_text() != "", time.monotonic() + START_S)
    session.tree["patient"] = int(first.read_text())
    session.kill("patient")
    assert session.said()["value"] == 1
