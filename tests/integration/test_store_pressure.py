"""A full store: who waits gets what he waits for or hears why not, who gives up stands in nobody's way."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

import actorlite as al
from actorlite.errors import (
    ActorDiedError,
    GetTimeoutError,
    NodeDiedError,
    ObjectStoreFullError,
    SessionClosedError,
)
from actorlite.testing.cluster import local_cluster

from ..arrays import Floats, MiB, pattern

pytestmark = pytest.mark.asyncio


@al.remote
async def make(seed: int, mib: float = 1) -> Floats:
    return pattern(seed, mib)


@al.remote
def total(*arrays: Floats) -> float:
    return sum(float(each.sum()) for each in arrays)


class Maker(al.Actor):
    def __init__(self, array: Floats | None = None) -> None:
        self.array = array

    async def make(self, seed: int, mib: float) -> Floats:
        return pattern(seed, mib)


@pytest.mark.parametrize("num_returns", [1, 5])
async def test_wait_goes_on_when_values_that_were_here_are_let_go(small: al.Session, num_returns: int) -> None:
    pending = [await al.put(pattern(seed)) for seed in range(20)]
    seen = []
    while pending:
        ready, pending = await asyncio.wait_for(al.wait(pending, num_returns=min(num_returns, len(pending))), 20)
        assert ready
        seen += [float((await ref)[0]) for ref in ready]
    assert sorted(seen) == list(range(20))


async def test_get_without_a_timeout_raises_no_timeout(small: al.Session) -> None:
    refs = [await al.put(pattern(seed)) for seed in range(20)]
    for _ in range(20):
        first = (await al.get(refs[:6]))[5]
        second = (await asyncio.to_thread(al.sync.get, refs[6:11], timeout=20))[4]
        assert (first[0], second[0]) == (5, 10)
        del first, second
    with pytest.raises(GetTimeoutError, match=r"still pending after 0\.\d+ seconds"):
        await al.get(refs, timeout=0.3)


class Doubler(al.Actor):
    def twice(self, arrays: list[Floats]) -> list[Floats]:
        return [2 * each for each in arrays]


@pytest.mark.parametrize("scheme", ["inproc", "uds"])
async def test_values_of_thousands_of_buffers(scheme: str) -> None:
    arrays = [numpy.full(512, number, dtype=float) for number in range(6000)]
    async with local_cluster(scheme=scheme, object_store_memory=128 * MiB):
        ref = await al.put(arrays)
        assert [each[0] for each in await ref] == list(range(6000))
        doubled = Doubler.remote()
        assert [each[0] for each in await doubled.twice.remote(arrays)] == list(range(0, 12000, 2))
        assert [each[0] for each in await doubled.twice.remote(ref)] == list(range(0, 12000, 2))
        del ref, doubled


async def test_a_patient_reader_does_not_share_the_end_of_an_impatient_one(small: al.Session) -> None:
    refs = [await al.put(pattern(seed)) for seed in range(8)]
    kept = [await ref for ref in refs[1:]]
    on_disk = [each.key for each in (await al.memory()).objects if each.place == "on disk"]
    first = refs[0]._stored.stored
    assert on_disk == [first.key]
    client = small.runtime.stored.client
    patient = asyncio.create_task(client.open(first, 20))
    with pytest.raises(ObjectStoreFullError, match="waited 0.05 s"):
        await client.open(first, 0.05)
    assert not patient.done()
    kept.clear()
    opened = await patient
    assert bytes(opened.buffers[0]) == pattern(0).tobytes()
    del opened, patient


async def test_an_actor_whose_arguments_do_not_fit_is_dead(small: al.Session) -> None:
    maker = Maker.remote(pattern(1, 9))
    for waiting in (al.ready(maker), maker.make.remote(1, 1).get()):
        with pytest.raises(ActorDiedError, match="its arguments could not be stored: a value of .* does not fit"):
            await asyncio.wait_for(waiting, 20)


async def test_tasks_that_hold_what_others_wait_for_let_go(small: al.Session) -> None:
    first, second = await al.put(pattern(1, 3.4)), await al.put(pattern(2, 3.4))
    calls = [total.remote(*pair) for _ in range(3) for pair in ((first, second), (second, first))]
    wanted = pattern(1, 3.4).sum() + pattern(2, 3.4).sum()
    assert await asyncio.wait_for(al.get(calls), 40) == [wanted] * 6


async def test_who_gives_up_stands_in_nobody_s_way(small: al.Session) -> None:
    kept = [await (await al.put(pattern(seed))) for seed in range(6)]
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await al.put(pattern(9, 4))
    call = total.remote(pattern(9, 4))
    await asyncio.sleep(0)
    assert await al.cancel(call)
    assert (await (await al.put(pattern(7, 0.5), timeout=5)))[0] == 7
    assert await asyncio.wait_for(total.remote(pattern(1, 0.5)), 20) == pattern(1, 0.5).sum()
    del kept, call


async def test_an_actor_ends_after_its_results_are_stored(small: al.Session) -> None:
    for mib in (1, 5):
        maker = Maker.remote()
        ref = maker.make.remote(3, mib)
        await al.terminate(maker)
        assert (await ref == pattern(3, mib)).all()
        del ref


@pytest.mark.parametrize("what", ["argument", "structured", "result", "put", "get"])
async def test_whoever_waits_for_room_hears_of_the_end_of_the_session(tmp_path: Path, what: str) -> None:
    async with local_cluster(object_store_memory=8 * MiB, object_spilling_directory=str(tmp_path)) as session:
        refs = [await al.put(pattern(seed)) for seed in range(12)]
        kept = [await ref for ref in refs[-6:]]
        match what:
            case "argument":
                waiting: Any = total.remote(pattern(1, 4)).get()
            case "structured":
                waiting = total(pattern(1, 4))
            case "result":
                waiting = make(1, 4)
            case "put":
                waiting = al.put(pattern(1, 4))
            case _:
                waiting = al.get(refs)
        task = asyncio.ensure_future(waiting)
        await asyncio.wait([task], timeout=0.05)
        await session.shutdown()
        with pytest.raises((SessionClosedError, NodeDiedError, ObjectStoreFullError)):
            await asyncio.wait_for(task, 10)
        del kept, refs, waiting, task
    gc.collect()


FORKING = """
import asyncio, gc, multiprocessing
import numpy as np
import actorlite as al

def pattern(seed): return np.arange(131072, dtype=float) + seed

def look(view, go, result):
    go.wait()
    result.put(float(view.sum()))

async def main():
    context = multiprocessing.get_context("fork")
    go, result = context.Event(), context.SimpleQueue()
    async with al.init("inproc://", object_store_memory=8 << 20):
        view = await (await al.put(pattern(1)))
        child = context.Process(target=look, args=(view, go, result))
        child.start()
        del view
        gc.collect()
        for seed in range(12):
            await al.put(pattern(-1000 - seed))
        go.set()
        print(await asyncio.to_thread(result.get) == pattern(1).sum())
        child.join()

asyncio.run(main())
"""


async def test_what_a_forked_child_looks_at_stays() -> None:
    program = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKING, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(program.communicate(), 60)
    assert said == b"True\n" and program.returncode == 0
