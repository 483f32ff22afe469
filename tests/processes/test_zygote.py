"""Real forks: what a worker finds, how its end is told, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from actorlite.errors import NodeDiedError, WorkerStartError
from actorlite.host import ProcessHandle, Spawner
from actorlite.worker.zygote import remove_directory

pytestmark = pytest.mark.asyncio


async def test_a_worker_starts_ends_and_is_reported(nursery):
    spawner: Spawner = await nursery.open()
    worker: ProcessHandle = await spawner.start(nursery.spec("exit:3"))
    nursery.pids.append(worker.pid)
    first, second = await asyncio.gather(worker.wait(), worker.wait())
    assert first is second is await worker.wait()
    assert (first.pid, first.exit_code, first.signal, first.reason) == (worker.pid, 3, None, "")
    await spawner.aclose()
    assert nursery.exits == []


@pytest.mark.parametrize(
    ("job", "code", "number", "tail"),
    [
        ("exit:0", 0, None, ""),
        ("exit:sorry", 1, None, "sorry"),
        ("raise:broken", 1, None, "ValueError: broken"),
        ("signal:9", None, 9, ""),
        ("signal:15", None, 15, ""),
        ("signal:11", None, 11, "Segmentation fault"),
        ("nothing", 1, None, "KeyError"),
    ],
)
async def test_exit_reports(nursery, job, code, number, tail):
    spawner = await nursery.open()
    worker = await spawner.start(nursery.spec(job))
    report = await worker.wait()
    assert (report.exit_code, report.signal) == (code, number)
    assert tail in report.stderr_tail
    await spawner.aclose()


async def test_the_last_lines_of_stderr_are_kept_and_all_are_passed_on(nursery, tmp_path):
    shown = os.open(tmp_path / "shown", os.O_RDWR | os.O_CREAT)
    spawner = await nursery.open(stderr=shown)
    os.close(shown)
    report = await (await spawner.start(nursery.spec("talk:2000"))).wait()
    assert report.stderr_tail.splitlines() == [f"line {number}" for number in range(1980, 2000)]
    await spawner.aclose()
    assert (tmp_path / "shown").read_text() == "".join(f"line {number}\n" for number in range(2000))


async def test_a_full_stderr_holds_up_neither_exit_reports_nor_kills(nursery):
    reader, writer = os.pipe()
    spawner = await nursery.open(stderr=writer)
    os.close(writer)
    loud = await spawner.start(nursery.spec("talk:100000", 0))
    report = await (await spawner.start(nursery.spec("exit:4", 1))).wait()
    assert report.exit_code == 4
    # Read from now on: what was held back comes, unchanged.
    read = asyncio.create_task(asyncio.to_thread(_read_all, reader))
    assert (await loud.wait()).exit_code == 0
    await spawner.aclose()
    text = await read
    lines = text.splitlines()
    assert lines[:1000] == [f"line {number}" for number in range(1000)]
    assert len(text) > 500_000


def _read_all(fd: int) -> str:
    with open(fd) as stream:
        return stream.read()


async def test_peak_memory_is_reported(nursery):
    spawner = await nursery.open()
    small = await (await spawner.start(nursery.spec("exit:0", 0))).wait()
    large = await (await spawner.start(nursery.spec(f"grow:{100 * 2**20}", 1))).wait()
    assert 2**20 < small.max_rss_bytes
    assert large.max_rss_bytes > small.max_rss_bytes + 90 * 2**20
    await spawner.aclose()


async def test_what_a_worker_finds(nursery, tmp_path):
    spawner = await nursery.open(preload=("tomllib",), cwd=str(tmp_path))
    assert await spawner.ready() > 0
    # A second worker alive: its pipe must not be found in the other.
    await spawner.start(nursery.spec("pause", 1))
    await nursery.said(1)
    await spawner.start(nursery.spec("look:tomllib", 0))
    found = await nursery.said(0)
    # libuv opens a pipe, both ends, in every fork of a process that has run uvloop, as this one may have.
    both_ends = {target for target, ends in Counter(found["fds"].values()).items() if ends == 2 and "pipe:" in target}
    assert {fd for fd, target in found["fds"].items() if target not in both_ends} == {"0", "1", "2"}
    assert found["fds"]["2"].startswith("pipe:")
    assert found["session"]
    assert found["variable"] == f"{0:016x}"
    assert found["preloaded"]
    assert found["cwd"] == str(tmp_path)
    assert found["signals"] == [True, True]
    await spawner.start(nursery.spec("look:tomllib", 2))
    assert (await nursery.said(2))["random"] != found["random"]
    await spawner.aclose()


async def test_twenty_workers_at_once(nursery):
    spawner = await nursery.open()
    await spawner.ready()
    began = time.monotonic()
    workers = await asyncio.gather(*(spawner.start(nursery.spec("pause", number)) for number in range(20)))
    nursery.pids.extend(worker.pid for worker in workers)
    reached = [(await nursery.said(number))["at"] for number in range(20)]
    assert max(reached) - began < 1.0
    assert len({worker.pid for worker in workers}) == 20
    await spawner.aclose()
    reports = [await worker.wait() for worker in workers]
    assert {report.reason for report in reports} == {"its node shut down"}


async def test_kill_ends_what_a_worker_started(nursery, gone):
    spawner = await nursery.open()
    worker = await spawner.start(nursery.spec("family"))
    other = await spawner.start(nursery.spec("family", 1))
    pids, others = await nursery.said(), await nursery.said(1)
    nursery.pids += pids + others
    worker.kill()
    worker.kill()
    report = await worker.wait()
    worker.kill()
    assert (report.signal, report.reason) == (signal.SIGKILL, "killed by its node")
    gone(pids)
    assert all(os.path.exists(f"/proc/{pid}") for pid in others)
    assert "running" in repr(other)
    await spawner.aclose()


@pytest.mark.parametrize("job", ["family", "family:exit"])
async def test_what_a_worker_started_ends_with_it(nursery, job, gone):
    spawner = await nursery.open()
    worker = await spawner.start(nursery.spec(job))
    pids = await nursery.said()
    nursery.pids += pids
    if job == "family":
        os.kill(worker.pid, signal.SIGKILL)
    report = await worker.wait()
    assert report.reason == ""
    gone(pids)
    await spawner.aclose()


async def test_closing_ends_everything(nursery):
    spawner = await nursery.open()
    worker = await spawner.start(nursery.spec("family"))
    nursery.pids += await nursery.said()
    assert nursery.session.is_dir()
    await spawner.aclose()
    await spawner.aclose()
    assert not nursery.session.exists()
    assert (await worker.wait()).reason == "its node shut down"
    with pytest.raises(WorkerStartError, match="its node shut down"):
        await spawner.start(nursery.spec("pause"))


async def test_a_cancelled_close_still_closes(nursery):
    spawner = await nursery.open()
    worker = await spawner.start(nursery.spec("pause"))
    closing = asyncio.create_task(spawner.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert (await worker.wait()).reason == "its node shut down"


async def test_a_cancelled_start_leaves_no_worker(nursery):
    spawner = await nursery.open()
    starting = asyncio.create_task(spawner.start(nursery.spec("pause", 0)))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    # Requests are served in order: when this one has ended, the other had been forked and killed.
    await (await spawner.start(nursery.spec("exit:0", 1))).wait()
    zygote = Path(f"/proc/{spawner.pid}/task/{spawner.pid}/children")
    async with asyncio.timeout(2):
        # The report of the end may be still on its way when the process is gone.
        while zygote.read_text() or "0 workers, 0 starting" not in repr(spawner):
            await asyncio.sleep(0.003)
    await spawner.aclose()


async def test_a_process_id_is_used_once(nursery):
    spawner = await nursery.open()
    await spawner.start(nursery.spec("pause"))
    with pytest.raises(ValueError, match="exists already"):
        await spawner.start(nursery.spec("pause"))
    await spawner.aclose()


async def test_a_killed_zygote_ends_all_and_is_told(nursery):
    spawner = await nursery.open()
    workers = [await spawner.start(nursery.spec("pause", number)) for number in range(3)]
    nursery.pids += [worker.pid for worker in workers]
    os.kill(spawner.pid, signal.SIGKILL)
    reports = await asyncio.gather(*(worker.wait() for worker in workers))
    assert {report.reason for report in reports} == {f"the zygote (pid {spawner.pid}) died"}
    assert [report.signal for report in nursery.exits] == [signal.SIGKILL]
    with pytest.raises(NodeDiedError, match=r"the zygote .* died"):
        await spawner.start(nursery.spec("pause", 9))
    await spawner.aclose()
    # Only the daemon can do this now: it owns the directory too.
    nursery.session.rmdir()


async def test_a_start_fails_when_the_zygote_dies(nursery):
    spawner = await nursery.open(preload=("slow_import",), sys_path=_module(nursery, "slow_import", SLOW))
    starting = asyncio.create_task(spawner.start(nursery.spec("pause")))
    await nursery.said(7)
    os.kill(spawner.pid, signal.SIGKILL)
    with pytest.raises(NodeDiedError, match="died"):
        await starting
    with pytest.raises(WorkerStartError, match="died while it imported modules"):
        await spawner.ready()
    nursery.session.rmdir()


TELL = """
import os, pathlib
def tell(text):
    draft = pathlib.Path(__file__).with_name("draft")
    draft.write_text(text)
    draft.rename(draft.with_name("said7.json"))
"""
SLOW = (
    TELL
    + """
import time
tell("1")
time.sleep(1000)
"""
)


async def test_closing_interrupts_a_long_import(nursery):
    spawner = await nursery.open(preload=("slow_import",), sys_path=_module(nursery, "slow_import", SLOW))
    await nursery.said(7)
    async with asyncio.timeout(1.5):
        await spawner.aclose()
    assert not nursery.session.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()", "1 threads"),
        ("import does_not_exist", "No module named 'does_not_exist'"),
        ("raise SystemExit(3)", "SystemExit"),
        ("import sys, types\nsys.modules['torch'] = t = types.ModuleType('torch')\n"
         "t.cuda = types.SimpleNamespace(is_initialized=lambda: True)", "initialised CUDA"),
    ],
)  # fmt: skip
async def test_a_preload_is_refused_by_name(nursery, text, says):
    spawner = await nursery.open(preload=("json", "bad_preload"), sys_path=_module(nursery, "bad_preload", text))
    with pytest.raises(WorkerStartError, match="'bad_preload'") as refused:
        await spawner.ready()
    assert says in str(refused.value)
    await spawner.aclose()


async def test_threads_of_a_preload_can_be_allowed(nursery):
    text = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"
    spawner = await nursery.open(
        preload=("thready",), sys_path=_module(nursery, "thready", text), allow_preload_threads=True
    )
    await spawner.ready()
    assert (await (await spawner.start(nursery.spec("exit:5"))).wait()).exit_code == 5
    await spawner.aclose()


async def test_processes_of_a_preload_live_as_long_as_the_zygote(nursery):
    text = TELL + "import subprocess\ntell(str(subprocess.Popen(['sleep', '1000']).pid))"
    spawner = await nursery.open(preload=("starter",), sys_path=_module(nursery, "starter", text))
    helper = int(await nursery.said(7))
    nursery.pids.append(helper)
    await (await spawner.start(nursery.spec("exit:0"))).wait()
    await (await spawner.start(nursery.spec("exit:0"))).wait()
    assert os.path.exists(f"/proc/{helper}")
    await spawner.aclose()


async def test_a_wrong_entry_is_named(nursery):
    spawner = await nursery.open(entry="tree_parts:nothing")
    with pytest.raises(WorkerStartError, match="'tree_parts:nothing' does not exist"):
        await spawner.ready()
    await spawner.aclose()


async def test_an_existing_session_directory_is_refused_and_kept(nursery):
    nursery.session.mkdir()
    (nursery.session / "precious").touch()
    with pytest.raises(OSError, match="cannot make the session directory"):
        nursery.fork()
    assert (nursery.session / "precious").exists()
    (nursery.session / "precious").unlink()
    nursery.session.rmdir()


async def test_a_specification_that_is_too_large_is_refused(nursery):
    spawner = await nursery.open()
    with pytest.raises(WorkerStartError, match="shorten sys.path"):
        await spawner.start(nursery.spec("x" * 300_000))
    await spawner.aclose()


def _module(nursery, name: str, text: str) -> tuple[str, ...]:
    (nursery.tmp_path / f"{name}.py").write_text(text)
    return (str(nursery.tmp_path), str(Path(__file__).parent))


async def test_a_directory_is_removed_with_all_that_is_in_it_and_nothing_else(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    session = tmp_path / "session"
    (session / "deep" / "deeper").mkdir(parents=True)
    (session / "file").touch()
    (session / "deep" / "file").touch()
    (session / "link").symlink_to(elsewhere)
    (session / "deep" / "gone").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(session / "s"))
    remove_directory(str(session))
    assert not session.exists() and (elsewhere / "precious").exists()
    remove_directory(str(session))
