from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from actorlite.node import moving
from actorlite.node.moving import unless_elsewhere
from actorlite.node.redirects import NodeLost

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "LOOK_S", 0.001)


class Waiting:
    """A request that waits until it is told what to do, and notes how it ended."""

    def __init__(self, *, stubborn: str = "") -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ended = ""
        self._stubborn = stubborn

    async def run(self) -> str:
        try:
            found = await self.answer
        except asyncio.CancelledError:
            self.ended = "cancelled"
            if self._stubborn:
                return self._stubborn
            raise
        self.ended = "answered"
        return found


def after(looks: int, then: Callable[[], object] = lambda: None) -> Callable[[], bool]:
    """There is room elsewhere from that look on, of which `then` hears."""
    count = 0

    def elsewhere() -> bool:
        nonlocal count
        count += 1
        if count == looks:
            then()
        return count >= looks

    return elsewhere


def never() -> bool:
    return False


async def test_what_is_granted_before_the_first_look_is_returned() -> None:
    async def at_once() -> str:
        return "lease"

    def looked() -> bool:
        raise AssertionError("nobody had to look")

    assert await unless_elsewhere(at_once(), looked) == "lease"


async def test_what_is_granted_after_some_looks_is_returned() -> None:
    waiting = Waiting()

    def elsewhere() -> bool:
        if not waiting.answer.done():
            waiting.answer.set_result("lease")
        return False

    assert await unless_elsewhere(waiting.run(), elsewhere) == "lease"
    assert waiting.ended == "answered"


async def test_with_room_elsewhere_the_request_is_taken_back_before_it_moves() -> None:
    waiting = Waiting()
    with pytest.raises(NodeLost):
        await unless_elsewhere(waiting.run(), after(3))
    assert waiting.ended == "cancelled"


async def test_a_lease_that_came_as_it_was_to_move_is_kept() -> None:
    waiting = Waiting(stubborn="lease")
    assert await unless_elsewhere(waiting.run(), after(2)) == "lease"
    assert waiting.ended == "cancelled"


async def test_an_error_of_the_request_is_raised() -> None:
    waiting = Waiting()
    waiting.answer.set_exception(ValueError("no such thing"))
    with pytest.raises(ValueError, match="no such thing"):
        await unless_elsewhere(waiting.run(), never)


async def test_who_is_cancelled_takes_the_request_back() -> None:
    waiting = Waiting()
    looked = asyncio.Event()

    def elsewhere() -> bool:
        looked.set()
        return False

    task = asyncio.ensure_future(unless_elsewhere(waiting.run(), elsewhere))
    await looked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=10)
    assert waiting.ended == "cancelled"
