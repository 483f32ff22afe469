"""What a session promises, with a node daemon and worker processes of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import pytest_asyncio

import actorlite as al
from actorlite.errors import ActorDiedError, OwnerDiedError, TaskCancelledError, WorkerCrashedError

pytestmark = pytest.mark.asyncio

MiB = 2**20


@pytest_asyncio.fixture
async def session() -> AsyncIterator[al.Session]:
    async with al.init("local", num_cpus=2) as session:
        yield session


class OwnError(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code} {detail}")
        self.code = code


@al.remote
def pid(*args: Any) -> int:
    return os.getpid()


@al.remote
async def namespace() -> str:
    return al.runtime_context().namespace


@al.remote
async def echo(value: Any) -> Any:
    return value


@al.remote
def tree(depth: int) -> int:
    return 1 if depth == 0 else sum(al.sync.get([tree.remote(depth - 1), tree.remote(depth - 1)]))


class Counter(al.Actor):
    def __init__(self, start: int = 0) -> None:
        self.n = start
        self.refs: list[Any] = []

    async def incr(self) -> int:
        self.n += 1
        return self.n

    @al.method
    def pid(self) -> int:
        return os.getpid()

    @al.method
    def block(self, seconds: float) -> str:
        time.sleep(seconds)
        return "blocked"

    async def keep(self, refs: list[Any]) -> None:
        self.refs = refs

    async def values(self) -> list[Any]:
        return await al.get(self.refs)

    async def own(self, value: Any) -> list[al.ObjectRef[Any]]:
        return [await al.put(value)]

    async def ask(self, other: Counter) -> int:
        return await other.incr()

    async def for_ever(self, path: str) -> None:
        Path(path, "began").touch()
        try:
            await asyncio.Event().wait()
        finally:
            Path(path, "ended").touch()

    async def ask_for_ever(self, other: Counter, path: str) -> None:
        await other.for_ever(path)


async def until(condition: Any, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.002)


async def test_tasks_actors_and_references(session: al.Session) -> None:
    assert os.getpid() not in {session.node_pid, *await al.get([pid.remote() for _ in range(4)])}
    assert await tree(3) == 8
    dedicated = [Counter.remote(n) for n in range(3)]
    shared = [Counter.options(process="shared").remote(n) for n in range(5)]
    assert await asyncio.gather(*(each.incr() for each in (*dedicated, *shared))) == [1, 2, 3, 1, 2, 3, 4, 5]
    pids = await asyncio.gather(*(each.pid() for each in dedicated))
    assert len({os.getpid(), *pids}) == 4
    assert len(set(await asyncio.gather(*(each.pid() for each in shared)))) == 1
    assert await dedicated[0].ask(shared[0]) == 2
    refs = [await al.put([1]), echo.remote("later"), *await dedicated[1].own("owned by an actor")]
    await shared[1].keep(refs)
    del refs
    assert await shared[1].values() == [[1], "later", "owned by an actor"]

    def in_a_thread() -> int:
        return sum(ref.result(10) for ref in [echo.remote(n) for n in range(10)])

    assert await asyncio.to_thread(in_a_thread) == 45
    status = await session.status()
    assert status["pid"] == session.node_pid
    assert status["num_cpus"] == 2


async def test_exceptions_across_processes(session: al.Session) -> None:
    @al.remote
    def fail() -> None:
        raise OwnError(7, detail="inside")

    @al.remote
    async def through() -> None:
        await fail()

    @al.remote
    def unpicklable() -> None:
        error = RuntimeError("has a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    with pytest.raises(OwnError, match="7 inside") as caught:
        await through()
    assert caught.value.code == 7
    text = "\n".join(caught.value.__notes__)
    assert 'raise OwnError(7, detail="inside")' in text
    assert "raised in task fail() in worker pid" in text
    assert "via task through() in worker pid" in text
    with pytest.raises(Exception, match="has a lock"):
        await unpicklable()


async def test_two_sessions_at_once(session: al.Session) -> None:
    async with al.init("local", namespace="other", num_cpus=1) as other:
        assert other.node_pid != session.node_pid
        names = await asyncio.gather(namespace(), namespace.options(session=session)())
        assert names == ["other", session.namespace]
        with session.use():
            assert await namespace.remote() == session.namespace
        async with al.init("inproc://", namespace="inside"):
            assert await namespace() == "inside"
            assert await namespace.options(session=other)() == "other"
    assert await namespace() == session.namespace


async def test_preload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "preloaded_module.py").write_text("import os\nPID = os.getpid()\n")
    monkeypatch.syspath_prepend(tmp_path)

    @al.remote
    def where() -> tuple[int, int, bool]:
        there = "preloaded_module" in sys.modules
        import preloaded_module  # type: ignore[import-not-found]

        return preloaded_module.PID, os.getpid(), there

    async with al.init("local", num_cpus=1, preload=["preloaded_module"]):
        made_in, runs_in, there = await where()
    assert there
    assert made_in != runs_in  # once, before the workers were forked


async def test_a_blocking_method_does_not_stall_its_worker(session: al.Session) -> None:
    blocked, other = (Counter.options(process="shared").remote() for _ in range(2))
    assert await blocked.pid() == await other.pid()
    blocking = blocked.block.remote(0.5)
    began = time.monotonic()
    assert [await other.incr() for _ in range(20)] == list(range(1, 21))
    assert not blocking.done(), f"20 calls took {time.monotonic() - began:.3f} s"
    assert await blocking == "blocked"


async def test_large_arguments_and_results(session: al.Session) -> None:
    data = os.urandom(MiB) * 64
    assert await echo(data) == data
    assert await echo(al.arg(await al.put(data))) == data
    counter = Counter.remote()
    (ref,) = await counter.own(data)
    assert await ref == data


async def test_arrays_travel_out_of_band(session: al.Session) -> None:
    array = numpy.arange(4 * MiB, dtype=numpy.float64)
    result = await echo(array)
    assert numpy.array_equal(result, array)
    assert result.base is not None  # a view of what was received

    @al.remote
    def add(left: Any, right: Any) -> Any:
        return left + right

    ref = await al.put(array)
    assert numpy.array_equal(await add(al.arg(ref), array), 2 * array)
    first, second = await ref, await ref
    assert numpy.shares_memory(first, second)


async def test_cancelling_and_killing(session: al.Session, tmp_path: Path) -> None:
    first, second = Counter.remote(), Counter.remote()
    running = asyncio.ensure_future(first.for_ever(str(tmp_path)))
    await until((tmp_path / "began").exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until((tmp_path / "ended").exists)
    assert await first.incr() == 1

    chain = tmp_path / "chain"
    chain.mkdir()
    asked = first.ask_for_ever.remote(second, str(chain))
    await until((chain / "began").exists)
    (ref,) = await Counter.remote().own(1)
    assert await ref == 1
    await al.kill(first)
    with pytest.raises(ActorDiedError, match="al.kill"):
        await asked
    # Its caller is gone without a word: nobody wants the call that it was waiting for.
    await until((chain / "ended").exists)
    assert await second.incr() == 1

    blocking = [Counter.remote() for _ in range(2)]
    queued = [each.block.remote(0.3) for each in blocking] + [each.incr.remote() for each in blocking]
    assert await al.wait(queued, timeout=0.05) == ([], queued)
    for ref in queued[2:]:
        await al.cancel(ref)
        with pytest.raises(TaskCancelledError):
            await ref
    assert await al.get(queued[:2]) == ["blocked"] * 2
    assert await asyncio.gather(*(each.incr() for each in blocking)) == [1, 1]


async def test_a_worker_that_dies(session: al.Session, tmp_path: Path) -> None:
    @al.remote
    def die_once() -> str:
        try:
            (tmp_path / "once").touch(exist_ok=False)
        except FileExistsError:
            return "second attempt"
        os.kill(os.getpid(), signal.SIGKILL)
        return "never"

    @al.remote(max_retries=0)
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert await die_once() == "second attempt"
    with pytest.raises(WorkerCrashedError, match="SIGKILL"):
        await die()
    counter = Counter.remote()
    (lost,) = await counter.own("lost")
    os.kill(await counter.pid(), signal.SIGKILL)
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        while True:
            await counter.incr()
    with pytest.raises(OwnerDiedError):
        await asyncio.wait_for(lost.get(), 10)
    assert await echo("still works") == "still works"


async def test_the_driver_goes_on_while_cpu_bound_tasks_run(session: al.Session) -> None:
    @al.remote
    def spin(seconds: float) -> int:
        end = time.monotonic() + seconds
        n = 0
        while time.monotonic() < end:
            n += 1
        return n

    refs = [spin.remote(0.2) for _ in range(4)]
    beats = 0
    while not all(ref.done() for ref in refs):
        await asyncio.sleep(0.005)
        beats += 1
    assert beats > 20
    assert all(await al.get(refs))


SCRIPT = """
import asyncio, json, os, sys
import actorlite as al

@al.remote
def talk(n):
    print(f"task {n} speaks")
    print(f"task {n} complains", file=sys.stderr)
    return n

async def main():
    async with al.init("local", num_cpus=1):
        print(json.dumps(await al.get([talk.remote(n) for n in range(3)])))

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_what_user_code_prints_comes_out_and_a_script_needs_nothing_special(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, str(script)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert json.dumps([0, 1, 2]) in lines
    assert {f"task {n} speaks" for n in range(3)} <= set(lines)
    assert all(f"task {n} complains" in run.stderr for n in range(3))


async def test_closing_while_work_is_under_way(tmp_path: Path) -> None:
    async with al.init("local", num_cpus=2):
        counter = Counter.remote()
        blocking = [counter.block.remote(60), Counter.options(process="shared").remote().block.remote(60)]
        running = asyncio.ensure_future(Counter.remote().for_ever(str(tmp_path)))
        await until((tmp_path / "began").exists)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    for each in (*blocking, running):
        with pytest.raises(al.errors.ActorliteError):
            await each


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.05, 0.1, 0.2, 0.3])
async def test_a_cancelled_init_leaves_nothing(after_s: float) -> None:
    opening = asyncio.ensure_future(al.init("local", num_cpus=1))
    await asyncio.wait([opening], timeout=after_s)
    opening.cancel()
    await asyncio.wait([opening])
    if not opening.cancelled():
        await opening.result().shutdown()


async def test_shutdown_is_complete_and_idempotent() -> None:
    session = await al.init("local", num_cpus=1)
    assert await echo(1) == 1
    closing = asyncio.ensure_future(session.shutdown())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await asyncio.gather(session.shutdown(), al.shutdown(), session.shutdown())
    assert not session.is_open
    assert not Path(f"/proc/{session.node_pid}").exists()
