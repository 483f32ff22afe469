"""Calls that would wait for themselves: refused at the call that closes the circle, with its members in the text."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import CallCycleError, Outcome

pytestmark = pytest.mark.asyncio


class Node(al.Actor):
    """Each step calls the next handle of a list."""

    async def go(self, *rest: Any) -> str:
        return "end" if not rest else str(await rest[0].go(*rest[1:]))

    @al.method
    def plain(self, *rest: Any) -> str:
        return "end" if not rest else str(asyncio.run(_await(rest[0].plain(*rest[1:]))))

    async def by_task(self, other: Any) -> str:
        return await relay(other)

    async def meet(self, barrier: Any, other: Any) -> str:
        await barrier.wait()
        return str(await other.go())

    async def twice(self, other: Any) -> list[Any]:
        return await asyncio.gather(other.go(), other.go(), return_exceptions=True)


@al.remote(num_cpus=0)
async def relay(node: Any) -> str:
    return str(await node.go())


async def _await(call: Any) -> Any:
    return await call


@pytest.mark.parametrize("process", ["dedicated", "shared"])
async def test_a_circle_of_structured_calls_is_refused_with_its_members(cluster: al.Session, process: Any) -> None:
    a, b, c = (Node.options(process=process).remote() for _ in range(3))
    assert await a.go(b, c) == "end"
    for circle in ((a, a), (a, b, a), (a, b, c, a), (a, b, c, b)):
        with pytest.raises(CallCycleError) as caught:
            await asyncio.wait_for(circle[0].go(*circle[1:]), 10)
        text = str(caught.value)
        assert text.count("Node.go()") >= 2 and " -> ".join(["Node.go()"] * len(circle)) in text
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        assert isinstance(caught.value, RuntimeError)
    assert await a.go(b, c) == "end", "everything is free again"


async def test_the_refusal_comes_at_once(cluster: al.Session) -> None:
    a, b = Node.remote(), Node.remote()
    await a.go(b)
    took = []
    for _ in range(20):
        began = time.perf_counter()
        with pytest.raises(CallCycleError):
            await a.go(b, a)
        took.append(time.perf_counter() - began)
    print(f"a circle of two was refused after {min(took) * 1000:.2f} ms")
    assert min(took) < 1.0  # the figure is printed; on a busy machine it says nothing


async def test_the_chain_goes_through_tasks(cluster: al.Session) -> None:
    a = Node.remote()
    with pytest.raises(CallCycleError, match=r"Node\.by_task\(\) -> relay\(\) -> Node\.go\(\)"):
        await asyncio.wait_for(a.by_task(a), 10)


async def test_the_chain_goes_through_plain_methods(cluster: al.Session) -> None:
    a, b = Node.remote(), Node.remote()
    with pytest.raises(CallCycleError, match=r"Node\.plain\(\) -> Node\.plain\(\) -> Node\.plain\(\)"):
        await asyncio.wait_for(a.plain(b, a), 10)


async def test_calls_queued_behind_the_circle_run(cluster: al.Session) -> None:
    a, b = Node.remote(), Node.remote()
    circle = a.go.remote(b, a)
    behind = [a.go.remote() for _ in range(20)]
    with pytest.raises(CallCycleError):
        await circle
    assert await asyncio.wait_for(al.get(behind), 10) == ["end"] * 20


async def test_with_room_for_more_at_once_it_is_no_circle_until_all_wait(cluster: al.Session) -> None:
    wide = Node.options(max_concurrency=2).remote()
    assert await asyncio.wait_for(wide.go(wide), 10) == "end"
    with pytest.raises(CallCycleError):
        await asyncio.wait_for(wide.go(wide, wide), 10)


async def test_calls_that_wait_for_each_other_s_place_are_a_circle(cluster: al.Session) -> None:
    class Meeting(al.Actor, max_concurrency=2):
        def __init__(self) -> None:
            self.inside = 0
            self.both = asyncio.Event()

        async def meet(self) -> str:
            self.inside += 1
            while self.inside < 2:
                await asyncio.sleep(0.001)
            return str(await al.runtime_context().current_actor.leaf())

        async def leaf(self) -> str:
            return "leaf"

    meeting = Meeting.remote()
    ends = await asyncio.wait_for(asyncio.gather(meeting.meet(), meeting.meet(), return_exceptions=True), 10)
    assert sorted(type(each).__name__ for each in ends) == ["CallCycleError", "str"]


async def test_what_is_called_without_waiting_is_no_circle(cluster: al.Session) -> None:
    class Poster(al.Actor):
        async def post(self) -> Any:
            return [al.runtime_context().current_actor.leaf.remote()]

        async def leaf(self) -> str:
            return "leaf"

    poster = Poster.remote()
    (ref,) = await poster.post()
    assert await ref == "leaf"


async def test_a_circle_is_found_although_the_mailbox_is_full(cluster: al.Session) -> None:
    a = Node.options(mailbox=1).remote()
    b = Node.remote()
    assert await a.go() == "end"
    first = a.go.remote(b, a)
    behind = [a.go.remote() for _ in range(10)]
    with pytest.raises(CallCycleError):
        await asyncio.wait_for(first.get(), 10)
    assert await asyncio.wait_for(al.get(behind), 10) == ["end"] * 10


async def test_a_member_may_go_on_after_the_refusal(cluster: al.Session) -> None:
    class Careful(al.Actor):
        async def ask(self) -> str:
            try:
                return str(await al.runtime_context().current_actor.ask())
            except CallCycleError:
                return "did without"

    assert await asyncio.wait_for(Careful.remote().ask(), 10) == "did without"
