"""SIGKILL for each process of the tree: within two seconds nothing is left of it, on neither loop.

The caller's side (which error a pending call gets) is tested with the runtime; here it is the processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actorlite.node.launch import package_roots

PARTS = str(Path(__file__).parents[1] / "processes")
WITHIN_S = 2.0
DRIVER = """
import asyncio, os, sys
from actorlite.node.launch import launch_daemon
from actorlite.wire.launch import DaemonConfig
async def main():
    place, loop, mode = sys.argv[1:]
    daemon = await launch_daemon(DaemonConfig(session_directory=place + "/session", node="", token=b"t", cwd=place,
        worker_entry="tree_parts:run", node_entry="tree_parts:run_node", sys_path=tuple(sys.path), loop=loop))
    if mode == "fork":
        # A forked child, like one of multiprocessing, holds copies of all our descriptors.
        if os.fork() == 0:
            sys.stdin.read()
            os._exit(0)
    report = await daemon.wait()
    print(report.describe(), flush=True)
    sys.stdin.read()
asyncio.run(main())
"""


class Tree:
    """A driver process with a daemon, a zygote, two workers and what those have started."""

    def __init__(self, place: Path, loop: str, mode: str) -> None:
        self.session = place / "session"
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join([PARTS, *package_roots()]))
        self.driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(place), loop, mode],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        tree = _json(place / "tree.json")
        self.daemon, self.zygote = tree["daemon"], tree["zygote"]
        self.families = [_json(place / f"worker{number}.json") for number in range(2)]
        self.all = [self.daemon, self.zygote, *self.families[0], *self.families[1]]
        assert len(self.all) == 10
        assert all(map(_alive, self.all))

    def gone(self, pids: list[int], *paths: Path) -> None:
        deadline = time.monotonic() + WITHIN_S
        while left := [*filter(_alive, pids), *(path for path in paths if path.exists())]:
            assert time.monotonic() < deadline, f"still there: {left} of {self.__dict__}"
            time.sleep(0.003)

    def close(self) -> None:
        self.driver.kill()
        self.driver.communicate()
        for pid in self.all:
            if _alive(pid):
                os.kill(pid, signal.SIGKILL)


def _json(path: Path):
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.003)
    return json.loads(path.read_text())


def _alive(pid: int) -> bool:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return False
    # What only init has still to reap has ended as far as we are concerned.
    return not (state == "Z" and parent == "1")


@pytest.fixture(params=["uvloop", "asyncio"])
def tree(request, tmp_path):
    marker = request.node.get_closest_marker("parametrize")
    tree = Tree(tmp_path, request.param, "fork" if marker else "plain")
    yield tree
    tree.close()


def test_the_driver_is_killed(tree):
    os.kill(tree.driver.pid, signal.SIGKILL)
    tree.driver.wait()
    tree.gone(tree.all, tree.session)


@pytest.mark.parametrize("with_a_forked_child", [True])
def test_the_driver_is_killed_while_its_forked_child_lives(tree, with_a_forked_child):
    os.kill(tree.driver.pid, signal.SIGKILL)
    tree.driver.wait()
    tree.gone(tree.all, tree.session)


def test_the_driver_exits(tree):
    os.kill(tree.driver.pid, signal.SIGTERM)
    tree.driver.wait()
    tree.gone(tree.all, tree.session)


def test_the_daemon_is_killed(tree):
    os.kill(tree.daemon, signal.SIGKILL)
    tree.gone(tree.all, tree.session)
    assert f"pid {tree.daemon} was killed by signal 9" in tree.driver.stdout.readline()


def test_the_daemon_hangs_and_the_driver_is_killed(tree):
    os.kill(tree.daemon, signal.SIGSTOP)
    os.kill(tree.driver.pid, signal.SIGKILL)
    tree.driver.wait()
    os.kill(tree.daemon, signal.SIGCONT)
    tree.gone(tree.all, tree.session)


def test_the_zygote_is_killed(tree):
    os.kill(tree.zygote, signal.SIGKILL)
    tree.gone(tree.all, tree.session)
    assert f"the zygote died: pid {tree.zygote}" in tree.driver.stdout.readline()


def test_a_worker_is_killed(tree):
    gone, others = tree.families
    os.kill(gone[0], signal.SIGKILL)
    tree.gone(gone)
    assert all(map(_alive, [tree.daemon, tree.zygote, *others]))
    assert tree.session.is_dir()


def test_daemon_and_driver_are_killed_at_once(tree):
    os.kill(tree.daemon, signal.SIGKILL)
    os.kill(tree.driver.pid, signal.SIGKILL)
    tree.driver.wait()
    tree.gone(tree.all, tree.session)
