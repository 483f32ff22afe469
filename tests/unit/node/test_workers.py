"""The pool of a node's workers: those that are asked whether they may end."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

import pytest

from actorlite.errors import ConnectionLost
from actorlite.ids import ProcessId
from actorlite.node.idle import Limits, private_bytes, resident_bytes
from actorlite.node.records import Job, WorkerRecord
from actorlite.node.workers import WorkerPool
from actorlite.wire.requests import Yes

pytestmark = pytest.mark.asyncio


class Asked:
    """A worker's connection, and its process."""

    def __init__(self, *, lost: bool = False, blocked: bool = False, pid: int = 0) -> None:
        self.pid = pid
        self.blocked = blocked
        self.numbers: list[int] = []
        self.killed = asyncio.Event()
        self.lost = lost

    async def request(self, number: int, body: object) -> Yes:
        self.numbers.append(number)
        if self.lost:
            raise ConnectionLost("it ended")
        await asyncio.Event().wait() if self.blocked else await asyncio.sleep(0)
        return Yes(True)

    def kill(self) -> None:
        self.killed.set()


def pool_of(limit: int, most_bytes: int | None = None, most: int | None = None) -> WorkerPool:
    unused: Any = None
    limits = Limits(limit, most, most_bytes)
    return WorkerPool(unused, unused, unused, limits, lambda record, text: None, itertools.count(1))


def worker(index: int, peer: Any) -> WorkerRecord:
    job = Job("job", "", (), "")
    record = WorkerRecord(ProcessId(f"worker-{index}"), job, asyncio.get_running_loop().create_future())
    record.peer = record.handle = peer
    return record


async def until_killed(pool: WorkerPool, first: Asked, second: Asked) -> None:
    """Both become idle; the second one ends."""
    for index, peer in enumerate([first, second]):
        pool.release(worker(index, peer))
    async with asyncio.timeout(10):
        await second.killed.wait()


async def test_a_worker_that_is_asked_twice_at_once_is_asked_by_two_numbers() -> None:
    pool, peer = pool_of(0), Asked()
    record = worker(1, peer)
    await asyncio.gather(pool.end_orphan(record, "one"), pool.end_orphan(record, "two"))
    assert len(set(peer.numbers)) == 2


async def test_reaping_goes_on_when_a_worker_ends_while_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorlite.node.idle.IDLE_S", 0.0)
    pool, lost, next_one = pool_of(0), Asked(lost=True), Asked()
    await until_killed(pool, lost, next_one)
    assert lost.numbers and not lost.killed.is_set()


async def test_reaping_goes_on_when_a_worker_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorlite.node.idle.IDLE_S", 0.0)
    monkeypatch.setattr("actorlite.node.idle.ANSWER_S", 0.05)
    pool, blocked, next_one = pool_of(1), Asked(blocked=True), Asked()
    await until_killed(pool, blocked, next_one)
    assert blocked.numbers and not blocked.killed.is_set() and len(pool.idle) == 1, "it may be of use again"


async def test_who_comes_while_the_only_worker_is_asked_whether_it_may_end_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actorlite.node.idle.IDLE_S", 0.0)
    monkeypatch.setattr("actorlite.node.idle.ANSWER_S", 0.05)
    pool, peer = pool_of(0, most=1), Asked(blocked=True)
    record = pool.records[ProcessId("worker-1")] = worker(1, peer)
    pool.release(record)
    async with asyncio.timeout(10):
        while not peer.numbers:
            await asyncio.sleep(0)
        assert await pool.acquire(record.job) is record


async def test_the_largest_idle_workers_end_when_they_have_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorlite.node.idle.IDLE_S", 0.0)
    monkeypatch.setattr("actorlite.node.idle.resident_bytes", lambda pid: 1000)  # with what all of them share
    monkeypatch.setattr("actorlite.node.idle.private_bytes", {1: 10, 2: 40, 3: 30, 4: 20}.__getitem__)
    pool, peers = pool_of(9, most_bytes=35), [Asked(pid=pid) for pid in range(1, 5)]
    for index, peer in enumerate(peers):
        pool.release(worker(index, peer))
    async with asyncio.timeout(10):
        await peers[1].killed.wait()
        await peers[2].killed.wait()
        while pool.idle.reaping:
            await asyncio.sleep(0)
    assert not peers[0].killed.is_set() and not peers[3].killed.is_set() and len(pool.idle) == 2


async def test_what_a_process_has_for_itself() -> None:
    assert resident_bytes(os.getpid()) > 1_000_000
    assert 0 < private_bytes(os.getpid()) < 2**50
    assert resident_bytes(2**30) == private_bytes(2**30) == 0, "it has ended"
