from __future__ import annotations

import asyncio

import pytest

from actorlite.node.places import Places

pytestmark = pytest.mark.asyncio


class Pool:
    """Workers are names."""

    def __init__(self, most: int | None) -> None:
        self.running: set[str] = set()
        self.asked = 0
        self.back: list[str] = []
        self.places: Places[str] = Places(most, self.running, self._end_idle, self.back.append)

    def _end_idle(self) -> None:
        self.asked += 1

    async def start(self, name: str) -> str | None:
        """A worker of this name, or one that somebody offered."""
        found = await self.places.take("plain")
        if found is None:
            self.running.add(name)
            self.places.started()
        return found

    def end(self, name: str) -> None:
        self.running.discard(name)
        self.places.freed()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_without_a_limit_nobody_waits() -> None:
    pool = Pool(None)
    assert [await pool.start(str(number)) for number in range(9)] == [None] * 9
    assert pool.places.take_some(7) == 7 and not pool.places.is_wanted


async def test_who_comes_late_waits_in_order() -> None:
    pool = Pool(1)
    await pool.start("a")
    later = [asyncio.create_task(pool.start(name)) for name in "bc"]
    await settled()
    assert pool.asked == 2 and pool.places.is_wanted and pool.running == {"a"}
    pool.end("a")
    await settled()
    assert pool.running == {"b"}
    pool.end("b")
    await asyncio.gather(*later)
    assert pool.running == {"c"} and not pool.places.is_wanted


async def test_a_worker_that_is_idle_goes_to_who_waits_for_its_kind() -> None:
    pool = Pool(1)
    await pool.start("a")
    waiting = asyncio.create_task(pool.start("b"))
    await settled()
    assert not pool.places.offer("other", "a")
    assert pool.places.offer("plain", "a")
    assert await waiting == "a" and pool.running == {"a"}
    assert not pool.places.offer("plain", "a"), "nobody waits any more"


@pytest.mark.parametrize("how", ["before", "place", "worker", "place after"])
async def test_a_wait_that_is_cancelled_leaves_nothing(how: str) -> None:
    pool = Pool(1)
    await pool.start("a")
    waiting = asyncio.create_task(pool.start("b"))
    await settled()
    if how == "place":
        pool.end("a")
    elif how == "worker":
        assert pool.places.offer("plain", "a")
    waiting.cancel()
    if how == "place after":
        pool.end("a")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pool.back == (["a"] if how == "worker" else [])
    pool.end("a")
    assert await asyncio.wait_for(pool.start("c"), 1) is None
    assert repr(pool.places) == "<Places most=1 starting=0 waiting=0>"


async def test_a_place_that_nobody_used_is_free_again() -> None:
    pool = Pool(2)
    assert pool.places.take_some(5) == 2
    waiting = asyncio.create_task(pool.start("a"))
    await settled()
    assert not pool.running
    pool.places.started()  # it failed
    await waiting
    assert pool.running == {"a"}
