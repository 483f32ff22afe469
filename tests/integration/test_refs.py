"""`ObjectRef` in every asyncio combinator, in other loops and threads, and `al.get`, `al.wait`, `al.as_completed`."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import BlockingCallError, GetTimeoutError, TaskCancelledError

pytestmark = pytest.mark.asyncio


@al.remote
async def value(x: Any) -> Any:
    await asyncio.sleep(0)
    return x


@al.remote
async def fail(text: str) -> None:
    raise ValueError(text)


@pytest.fixture
def held(cluster: al.Session, gate: Any) -> Callable[[int], al.ObjectRef[int]]:
    """A reference to a value that is there only when the gate opens."""

    @al.remote(num_cpus=0)
    def hold(x: int) -> int:
        gate.hold()
        return x

    return hold.remote


async def test_gather(cluster: al.Session) -> None:
    assert await asyncio.gather(*(value.remote(n) for n in range(20))) == list(range(20))
    assert await asyncio.gather(value.remote(1), value(2), value.submit(3)) != []
    outcomes = await asyncio.gather(fail.remote("a"), value.remote(1), return_exceptions=True)
    assert isinstance(outcomes[0], ValueError)
    assert outcomes[1] == 1
    with pytest.raises(ValueError, match="b"):
        await asyncio.gather(value.remote(1), fail.remote("b"))


async def test_the_same_reference_twice(cluster: al.Session) -> None:
    ref = value.remote(3)
    assert await asyncio.gather(ref, ref, ref) == [3, 3, 3]
    assert await ref == await ref


async def test_wait(cluster: al.Session, held: Any, gate: Any) -> None:
    slow, quick = asyncio.ensure_future(held(1)), asyncio.ensure_future(value.remote(2))
    done, pending = await asyncio.wait([slow, quick], return_when=asyncio.FIRST_COMPLETED)
    assert done == {quick}
    assert pending == {slow}
    gate.open()
    assert await slow == 1


async def test_wait_for(cluster: al.Session, held: Any, gate: Any) -> None:
    assert await asyncio.wait_for(value.remote(1), 10) == 1
    ref = held(5)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ref, 0.01)

    async def under_timeout() -> None:
        async with asyncio.timeout(0.01):
            await ref

    with pytest.raises(TimeoutError):
        await under_timeout()
    gate.open()
    assert await ref == 5  # the waiting was given up, not the work


async def test_as_completed(cluster: al.Session) -> None:
    assert sorted([await each for each in asyncio.as_completed([value.remote(n) for n in range(9)])]) == list(range(9))


async def test_shield(cluster: al.Session, held: Any, gate: Any) -> None:
    ref = held(4)
    shielded = asyncio.shield(ref)
    shielded.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shielded
    gate.open()
    assert await asyncio.shield(ref) == 4


async def test_ensure_future_and_iscoroutine(cluster: al.Session) -> None:
    ref = value.remote(1)
    future = asyncio.ensure_future(ref)
    assert isinstance(future, asyncio.Task)
    assert await future == 1
    assert not asyncio.isfuture(ref)
    assert not asyncio.iscoroutine(ref)


async def test_a_task_group(cluster: al.Session) -> None:
    async with asyncio.TaskGroup() as group:
        one = group.create_task(value(1))
        two = group.create_task(value.remote(2).get())
    assert (one.result(), two.result()) == (1, 2)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail.remote("in the group").get())
            group.create_task(asyncio.Event().wait())
    assert caught.group_contains(ValueError, match="in the group")


async def test_a_cancelled_waiter_does_not_poison_the_others(cluster: al.Session, held: Any, gate: Any) -> None:
    ref = held(7)
    waiters = [asyncio.ensure_future(ref) for _ in range(3)]
    waiters.append(asyncio.ensure_future(al.get([ref])))
    await gate.arrived()
    waiters[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiters[0]
    assert not ref.cancelled()
    gate.open()
    assert await asyncio.gather(*waiters[1:]) == [7, 7, [7]]


async def test_a_waiter_may_be_cancelled_in_the_pass_in_which_the_value_comes(cluster: al.Session) -> None:
    for _ in range(50):
        ref = value.remote(1)
        waiter = asyncio.ensure_future(ref)
        ref.add_done_callback(lambda _, waiter=waiter: waiter.cancel())  # type: ignore[misc]
        await asyncio.wait([waiter])
        assert await ref == 1


def in_a_loop_of_its_own(work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work()

    return asyncio.run(main())


async def test_from_another_loop_in_another_thread(cluster: al.Session, held: Any, gate: Any) -> None:
    slow, here = held(1), await al.put("here")
    other = Holder.remote()
    (theirs,) = await other.own("theirs")

    async def work() -> Any:
        waiter = asyncio.ensure_future(slow)
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        gate.open()
        own = await al.put("put there")
        ready, _ = await al.wait([value.remote(5)])
        refs = [value.remote(n) for n in range(5)]
        listed = [await each async for each in al.as_completed(refs)]
        return [
            await slow, await here, await theirs, await own, await value(2), await al.get([slow, here]),
            await ready[0], sorted(listed), await other.ping(), await asyncio.gather(value.remote(1), value(3)),
        ]  # fmt: skip

    assert await asyncio.to_thread(in_a_loop_of_its_own, work) == [
        1, "here", "theirs", "put there", 2, [1, "here"], 5, list(range(5)), "pong", [1, 3],
    ]  # fmt: skip


class Holder(al.Actor):
    async def own(self, x: Any) -> list[al.ObjectRef[Any]]:
        return [await al.put(x)]

    async def ping(self) -> str:
        return "pong"


async def test_a_structured_call_from_another_loop_is_cancelled_with_its_waiter(cluster: al.Session, gate: Any) -> None:
    @al.remote
    async def for_ever() -> None:
        try:
            gate.arrive()
            await asyncio.Event().wait()
        finally:
            gate.arrive()

    async def work() -> None:
        waiter = asyncio.ensure_future(for_ever())
        await gate.arrived()
        waiter.cancel()
        await asyncio.wait([waiter])

    await asyncio.to_thread(in_a_loop_of_its_own, work)
    await gate.arrived()


async def test_errors_across_loops(cluster: al.Session) -> None:
    async def work() -> None:
        await fail.remote("across")

    with pytest.raises(ValueError, match="across"):
        await asyncio.to_thread(in_a_loop_of_its_own, work)


async def test_result_in_a_thread_and_on_the_loop(cluster: al.Session, held: Any, gate: Any) -> None:
    ref = held(1)
    with pytest.raises(BlockingCallError, match="await the reference"):
        ref.result()
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(ref.result, 0.01)
    await gate.arrived()
    gate.open()
    assert await asyncio.to_thread(ref.result, 10) == 1
    assert ref.result() == 1  # it is here: nothing blocks
    with pytest.raises(ValueError, match="x"):
        await asyncio.to_thread(fail.remote("x").result)


async def test_blocking_functions_refuse_the_loop(cluster: al.Session) -> None:
    ref = await al.put(1)
    for call in (lambda: al.sync.get(ref), lambda: al.sync.put(1), lambda: al.sync.wait([ref])):
        with pytest.raises(BlockingCallError, match="await"):
            call()


async def test_blocking_functions_in_a_thread(cluster: al.Session, held: Any, gate: Any) -> None:
    slow = held(1)

    def work() -> Any:
        ref = al.sync.put([1])
        ready, pending = al.sync.wait([slow, ref], timeout=10)
        with pytest.raises(GetTimeoutError):
            al.sync.get(slow, timeout=0.01)
        gate.open()
        return al.sync.get(ref), ready == [ref], pending == [slow], al.sync.get([slow, ref])

    assert await asyncio.to_thread(work) == ([1], True, True, [1, [1]])


async def test_future(cluster: al.Session, held: Any, gate: Any) -> None:
    ref = held(1)
    future, other = ref.future(), ref.future()
    assert other.cancel()
    gate.open()
    assert await asyncio.wrap_future(future) == 1
    assert await asyncio.to_thread(value.remote(2).future().result, 10) == 2
    failed = fail.remote("f").future()
    with pytest.raises(ValueError, match="f"):
        await asyncio.wrap_future(failed)


async def test_done_callbacks(cluster: al.Session, held: Any, gate: Any) -> None:
    ref = held(1)
    called: list[al.ObjectRef[int]] = []
    threads: list[int] = []
    happened = asyncio.Event()

    def removed(_: object) -> None:
        raise AssertionError("it was removed")

    def callback(which: al.ObjectRef[int]) -> None:
        called.append(which)
        threads.append(threading.get_ident())
        happened.set()

    ref.add_done_callback(removed)
    ref.add_done_callback(callback)
    assert ref.remove_done_callback(removed) == 1
    assert ref.remove_done_callback(removed) == 0
    assert not called
    gate.open()
    await asyncio.wait_for(happened.wait(), 10)
    happened.clear()
    ref.add_done_callback(callback)  # done already: soon, not now
    assert len(called) == 1
    await asyncio.wait_for(happened.wait(), 10)
    assert called == [ref, ref]
    assert set(threads) == {threading.get_ident()}


async def test_a_done_callback_runs_in_the_context_of_whoever_added_it(cluster: al.Session) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []
    happened = asyncio.Event()

    def callback(_: object) -> None:
        seen.append(variable.get())
        happened.set()

    variable.set("mine")
    ref = value.remote(1)
    ref.add_done_callback(callback)
    await asyncio.wait_for(happened.wait(), 10)
    given = contextvars.Context()
    given.run(variable.set, "given")
    happened.clear()
    ref.add_done_callback(callback, context=given)
    await asyncio.wait_for(happened.wait(), 10)
    assert seen == ["mine", "given"]


async def test_the_look_of_a_future(cluster: al.Session, held: Any, gate: Any) -> None:
    ref = held(1)
    assert not ref.done()
    with pytest.raises(asyncio.InvalidStateError):
        ref.exception()
    gate.open()
    await ref.ready()
    assert ref.done()
    assert not ref.cancelled()
    assert ref.exception() is None
    bad = fail.remote("seen")
    await bad.ready()
    assert isinstance(bad.exception(), ValueError)
    assert repr(bad).startswith("<ObjectRef ")
    assert len({ref, bad, ref}) == 2


async def test_al_wait(cluster: al.Session, held: Any, gate: Any) -> None:
    slow = [held(n) for n in range(2)]
    quick = [value.remote(n) for n in range(3)]
    refs = [slow[0], *quick, slow[1]]
    ready, pending = await al.wait(refs, num_returns=3)
    assert (ready, pending) == (quick, slow)
    ready, pending = await al.wait(refs, num_returns=2)
    assert (ready, pending) == (quick[:2], [slow[0], quick[2], slow[1]])
    assert await al.wait(slow, timeout=0.01) == ([], slow)
    assert await al.wait(slow, timeout=0) == ([], slow)
    gate.open(2)
    assert await al.wait(refs, num_returns=5) == (refs, [])
    assert await al.wait([]) == ([], [])
    failed = fail.remote("counts as ready")
    assert await al.wait([failed], timeout=10) == ([failed], [])
    assert failed.exception() is not None


async def test_al_wait_checks_its_arguments(cluster: al.Session) -> None:
    ref = await al.put(1)
    for arguments, error in (
        (([ref, ref],), ValueError),
        ((ref,), TypeError),
        (([1],), TypeError),
    ):
        with pytest.raises(error):
            await al.wait(*arguments)  # type: ignore[arg-type]
    for wrong in ({"num_returns": 0}, {"num_returns": 2}, {"timeout": -1}):
        with pytest.raises(ValueError):
            await al.wait([ref], **wrong)  # type: ignore[arg-type]


async def test_al_as_completed(cluster: al.Session, held: Any, gate: Any) -> None:
    slow = held(1)
    order = []
    async for ref in al.as_completed([slow, value.remote(2), fail.remote("third"), value.remote(4)]):
        order.append(ref)
        if len(order) == 3:
            assert slow not in order
            gate.open()
    assert order[-1] == slow
    assert sum(ref.exception() is not None for ref in order) == 1
    assert [ref async for ref in al.as_completed([])] == []


async def test_al_as_completed_may_be_left_early(cluster: al.Session) -> None:
    refs = [value.remote(n) for n in range(10)]
    async for _ in al.as_completed(refs):
        break
    assert await al.get(refs) == list(range(10))


async def test_al_get_raises_the_first_failure_without_waiting_for_the_rest(
    cluster: al.Session, held: Any, gate: Any
) -> None:
    slow = held(1)
    with pytest.raises(ValueError, match="first"):
        await al.get([slow, fail.remote("first")])
    gate.open()
    assert await slow == 1


async def test_a_cancelled_get_leaves_nothing_behind(cluster: al.Session, held: Any, gate: Any) -> None:
    ref = held(1)
    waiting = [asyncio.ensure_future(al.get([ref])), asyncio.ensure_future(al.wait([ref])), asyncio.ensure_future(ref)]
    await gate.arrived()
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    assert ref._waiters is None
    gate.open()
    assert await ref == 1


async def test_each_awaiter_gets_an_exception_of_its_own(cluster: al.Session) -> None:
    ref = fail.remote("own")
    outcomes = await asyncio.gather(ref.get(), ref.get(), return_exceptions=True)
    assert outcomes[0] is not outcomes[1]
    assert all(isinstance(each, ValueError) for each in outcomes)


async def test_an_error_that_nobody_retrieved_is_logged(cluster: al.Session, complaints: Any) -> None:
    ref = fail.remote("overlooked")
    await al.wait([ref])
    assert not complaints.records
    del ref
    __import__("gc").collect()
    assert complaints.mentions("overlooked")


async def test_several_failures_of_one_get_are_not_called_overlooked(cluster: al.Session) -> None:
    refs = [fail.remote(str(n)) for n in range(5)]
    await al.wait(refs, num_returns=5)
    with pytest.raises(ValueError, match="0"):
        await al.get(refs)
    del refs
    __import__("gc").collect()


async def test_cancelled_says_so(cluster: al.Session, held: Any, gate: Any) -> None:
    blocking = [held(n) for n in range(2)]
    ref = value.remote(al.arg(blocking[0]))
    assert await al.cancel(ref)
    assert ref.cancelled()
    with pytest.raises(TaskCancelledError):
        await ref
    gate.open(2)
    assert await al.get(blocking) == [0, 1]
