"""Starting a real daemon: what its starter learns, and that nothing is left however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actorlite.errors import NodeStartError
from actorlite.node.launch import launch_daemon, package_roots
from actorlite.proctree import children
from actorlite.wire.launch import DaemonConfig

pytestmark = pytest.mark.asyncio
PARTS = str(Path(__file__).parent)
TOKEN = b"very secret token"


@pytest.fixture(params=["uvloop", "asyncio"])
def loop_name(request):
    return request.param


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A maker of configurations for a node that only gets ready and waits."""
    monkeypatch.setenv("PYTHONPATH", PARTS, prepend=os.pathsep)

    def make(**changes) -> DaemonConfig:
        values = {
            "session_directory": str(tmp_path / "session"),
            "node": "uds:///nowhere",
            "token": TOKEN,
            "worker_entry": "tree_parts:run",
            "node_entry": "tree_parts:run_node",
            "sys_path": (PARTS,),
            "cwd": str(tmp_path),
        }
        return DaemonConfig(**(values | changes))

    return make


def _children_of(pid):
    found = []
    with contextlib.suppress(FileNotFoundError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


async def test_start_and_stop(config, loop_name, tmp_path, gone):
    daemon = await launch_daemon(config(loop=loop_name))
    assert daemon.address == "uds:///nowhere"
    assert (tmp_path / "session").stat().st_mode & 0o777 == 0o700
    command = Path(f"/proc/{daemon.pid}/cmdline").read_bytes() + Path(f"/proc/{daemon.pid}/environ").read_bytes()
    assert TOKEN not in command
    assert os.getsid(daemon.pid) == daemon.pid
    tree = [daemon.pid, *_children_of(daemon.pid)]
    report, again = await asyncio.gather(daemon.stop(), daemon.wait())
    assert report is again
    assert (report.exit_code, report.reason) == (0, "it was told to stop")
    gone(tree, tmp_path / "session", within_s=0.1)
    assert await daemon.stop() is report
    daemon.kill()


async def test_the_current_directory_is_no_place_for_modules(config, tmp_path, monkeypatch):
    (tmp_path / "asyncio.py").write_text("raise AssertionError('imported from the current directory')")
    monkeypatch.chdir(tmp_path)
    daemon = await launch_daemon(config())
    await daemon.stop()


async def test_a_descriptor_of_the_starter_is_not_inherited(config):
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    daemon = await launch_daemon(config())
    for pid in (daemon.pid, *_children_of(daemon.pid)):
        open_there = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert os.readlink(f"/proc/self/fd/{reader}") not in open_there
    await daemon.stop()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"node_entry": "tree_parts:run_broken_node"}, "LookupError: no such node"),
        ({"node_entry": "tree_parts:run_dying_node"}, "exited with code 7; it said:\nfamous last words"),
        ({"node_entry": "tree_parts:missing"}, "has no attribute 'missing'"),
        # With something to preload a start waits for the zygote.
        ({"worker_entry": "missing_module:run", "preload": ("json",)}, "No module named 'missing_module'"),
        ({"preload": ("json", "missing_preload")}, "cannot import 'missing_preload' in the zygote"),
        ({"preload": ("crashing_preload",)}, "Fatal Python error: Segmentation fault"),
        ({"session_directory": "/does/not/exist"}, "cannot make the session directory"),
        ({"cwd": "/does/not/exist"}, "workers cannot work in the directory of the driver"),
    ],
)
async def test_a_failed_start_says_why(config, tmp_path, changes, says, gone):
    (tmp_path / "crashing_preload.py").write_text("import os; os.kill(os.getpid(), 11)")
    changes = {"sys_path": (PARTS, str(tmp_path))} | changes
    with pytest.raises(NodeStartError) as failed:
        await launch_daemon(config(**changes))
    assert says in str(failed.value)
    gone([], tmp_path / "session")
    assert children() == []


async def test_an_existing_session_directory_is_not_touched(config, tmp_path):
    (tmp_path / "session").mkdir()
    (tmp_path / "session" / "precious").touch()
    with pytest.raises(NodeStartError, match="File exists"):
        await launch_daemon(config())
    assert (tmp_path / "session" / "precious").exists()


async def test_a_start_has_a_deadline(config, tmp_path, gone):
    (tmp_path / "slow_preload.py").write_text("import time; print('thinking', flush=True); time.sleep(1000)")
    slow = config(preload=("slow_preload",), sys_path=(PARTS, str(tmp_path)))
    with pytest.raises(NodeStartError, match=r"not ready within 0\.7 s"):
        await launch_daemon(slow, start_timeout_s=0.7)
    gone([], tmp_path / "session")


@pytest.mark.parametrize("delay_s", [0, 0.02, 0.1, 0.2, 0.3])
async def test_a_cancelled_start_leaves_nothing(config, tmp_path, delay_s, gone):
    launching = asyncio.create_task(launch_daemon(config()))
    await asyncio.sleep(0)
    tree = children()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(delay_s):
            await asyncio.shield(launching)
    tree += [grandchild for pid in tree for grandchild in _children_of(pid)]
    launching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await launching).stop()
    assert children() == []
    gone(tree, tmp_path / "session")


async def test_a_daemon_that_does_not_stop_is_killed(config, tmp_path, gone):
    daemon = await launch_daemon(config(node_entry="tree_parts:run_stuck_node"))
    tree = [daemon.pid, *_children_of(daemon.pid)]
    report = await daemon.stop(grace_s=0.1)
    assert report.signal == signal.SIGKILL
    gone(tree, tmp_path / "session")


async def test_a_cancelled_stop_kills(config, tmp_path, gone):
    daemon = await launch_daemon(config(node_entry="tree_parts:run_stuck_node"))
    stopping = asyncio.create_task(daemon.stop(grace_s=1000))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert (await daemon.wait()).signal == signal.SIGKILL
    gone([], tmp_path / "session")


async def test_a_signal_ends_a_daemon_in_good_order(config, tmp_path):
    daemon = await launch_daemon(config())
    os.kill(daemon.pid, signal.SIGINT)
    os.kill(daemon.pid, signal.SIGTERM)
    report = await daemon.wait()
    assert (report.exit_code, report.reason) == (0, "SIGTERM")
    assert not (tmp_path / "session").exists()


async def test_a_killed_zygote_ends_the_daemon_with_the_reason(config, tmp_path):
    daemon = await launch_daemon(config())
    (zygote,) = _children_of(daemon.pid)
    os.kill(zygote, signal.SIGKILL)
    report = await daemon.wait()
    assert report.exit_code == 1
    assert f"the zygote died: pid {zygote} was killed by signal 9" in report.reason
    assert not (tmp_path / "session").exists()


DETACHED = """
import asyncio, sys
from actorlite.node.launch import launch_daemon
from actorlite.wire.launch import DaemonConfig
async def main():
    daemon = await launch_daemon(DaemonConfig(session_directory=sys.argv[1], node="", token=b"t", owned=False,
        log_path=sys.argv[2], cwd=sys.argv[3], worker_entry="tree_parts:run", node_entry="tree_parts:run_node",
        sys_path=tuple(sys.path)))
    print(daemon.pid)
    daemon.release()
asyncio.run(main())
"""


async def test_a_daemon_that_is_not_owned_runs_on(config, tmp_path, gone):
    with pytest.raises(ValueError, match="log_path"):
        await launch_daemon(config(owned=False))
    arguments = [str(tmp_path / "session"), str(tmp_path / "log"), str(tmp_path)]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([PARTS, *package_roots()]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DETACHED, *arguments], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    pid = int(done.stdout)
    tree = [pid, *_children_of(pid)]
    assert len(tree) == 2
    for fd in (1, 2):
        assert os.readlink(f"/proc/{pid}/fd/{fd}") == str(tmp_path / "log")
    os.kill(pid, signal.SIGTERM)
    gone(tree, tmp_path / "session")


async def test_what_a_daemon_says_while_it_starts_is_shown_later(config, tmp_path, capfd):
    (tmp_path / "chatty.py").write_text("import sys; print('hello from a preload', file=sys.stderr)")
    daemon = await launch_daemon(config(preload=("chatty",), sys_path=(PARTS, str(tmp_path))))
    await daemon.stop()
    assert "hello from a preload" in capfd.readouterr().err
