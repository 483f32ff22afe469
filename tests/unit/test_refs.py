"""`ObjectRef` alone: a runtime that only says which loop it has, and outcomes that the test sets."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import gc
import pickle
import threading
from typing import Any, cast

import pytest

from actorlite.context import current_call
from actorlite.errors import BlockingCallError, TaskCancelledError
from actorlite.ids import ObjectId
from actorlite.refs import ELSEWHERE, Failure, ObjectRef, block_on

pytestmark = pytest.mark.asyncio

PROCESS = "0" * 16
OWNER = "f" * 16


class FakeRuntime:
    process = PROCESS

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.wanted: list[bool] = []

    def in_loop(self) -> bool:
        return threading.get_ident() == self.thread

    def want(self, ref: Any, *, value: bool) -> None:
        self.wanted.append(value)

    def unwrap(self, outcome: Any) -> Any:
        if isinstance(outcome, Failure):
            raise outcome.exception()
        return outcome[0]


def own(number: int = 1) -> ObjectRef[Any]:
    return ObjectRef(FakeRuntime(), number)  # type: ignore[arg-type]


def borrowed(number: int = 1) -> ObjectRef[Any]:
    return ObjectRef(FakeRuntime(), ObjectId(f"{OWNER}-{number:012x}"), "uds:///owner")  # type: ignore[arg-type]


def soon(ref: ObjectRef[Any], outcome: Any = ("value",)) -> ObjectRef[Any]:
    asyncio.get_running_loop().call_soon(ref._resolve, outcome)
    return ref


async def in_thread(work: Any, *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, work, *args)


async def passes(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Broken(Exception):
    pass


# --- awaiting


async def test_awaiting_gives_the_value_again_and_again() -> None:
    ref = soon(own())
    assert [await ref, await ref, await ref.get()] == ["value"] * 3
    assert ref.result() == "value"


async def test_each_awaiter_gets_an_exception_of_its_own() -> None:
    ref = soon(own(), Failure(lambda: Broken("text")))
    errors = await asyncio.gather(*(asyncio.ensure_future(ref) for _ in range(3)), return_exceptions=True)
    assert [str(each) for each in errors] == ["text"] * 3
    assert len({id(each) for each in errors}) == 3


async def test_cancelling_one_awaiter_leaves_the_others() -> None:
    ref = own()
    first, second = (asyncio.create_task(ref.get()) for _ in range(2))
    await passes()
    first.cancel()
    await passes()
    assert first.cancelled() and not second.done() and not ref.done()
    ref._resolve(("value",))
    assert await second == "value"


async def test_an_awaiter_that_gave_up_is_forgotten() -> None:
    ref = own()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ref, 0.001)
    assert ref._waiters is None


async def test_the_combinators_of_asyncio_take_references() -> None:
    a, b = own(1), own(2)
    soon(a, ("a",)), soon(b, ("b",))
    assert await asyncio.gather(a, b) == ["a", "b"]
    assert await asyncio.wait_for(a, 1) == "a"
    assert await asyncio.shield(b) == "b"
    assert await asyncio.ensure_future(a) == "a"
    assert sorted([await each for each in asyncio.as_completed([a, b])]) == ["a", "b"]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(a.get())
    assert task.result() == "a"


async def test_asyncio_wait_takes_references() -> None:
    ready, pending = soon(own(1)), own(2)
    done, rest = await asyncio.wait([ready, pending], return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
    assert (done, rest) == ({ready}, {pending})
    assert pending._waiters is None


async def test_ready_waits_without_raising() -> None:
    ref = soon(own(), Failure(Broken, quiet=True))
    await ref.ready()
    assert isinstance(ref.exception(), Broken)


async def test_only_the_first_outcome_counts() -> None:
    ref = own()
    ref._resolve(("first",))
    ref._resolve(("second",))
    assert await ref == "first"


# --- the look of a future


async def test_a_pending_reference() -> None:
    ref = own(10)
    assert not ref.done() and not ref.cancelled()
    assert repr(ref) == f"<ObjectRef {PROCESS}-00000000000a pending>"
    with pytest.raises(asyncio.InvalidStateError, match="is not ready"):
        ref.exception()


@pytest.mark.parametrize(
    ("outcome", "state", "cancelled", "error"),
    [
        (("value",), "ready", False, type(None)),
        (Failure(Broken, quiet=True), "failed", False, Broken),
        (Failure(TaskCancelledError, quiet=True), "failed", True, TaskCancelledError),
    ],
)
async def test_a_settled_reference(outcome: Any, state: str, cancelled: bool, error: type) -> None:
    ref = own()
    ref._resolve(outcome)
    assert ref.done() and ref.cancelled() is cancelled and isinstance(ref.exception(), error)
    assert repr(ref) == f"<ObjectRef {ref.id} {state}>"


async def test_callbacks_run_once_on_the_loop_with_the_reference() -> None:
    ref = own()
    seen: list[Any] = []
    ref.add_done_callback(seen.append)
    ref._resolve(("value",))
    assert seen == [], "never inside whoever resolves"
    await passes()
    ref.add_done_callback(seen.append)
    await passes()
    assert seen == [ref, ref]


async def test_a_removed_callback_does_not_run() -> None:
    ref = own()
    seen: list[Any] = []
    for _ in range(2):
        ref.add_done_callback(seen.append)
    assert ref.remove_done_callback(seen.append) == 2
    assert ref.remove_done_callback(seen.append) == 0
    ref._resolve(("value",))
    await passes()
    assert seen == []


# --- errors that nobody sees


async def test_an_error_that_nobody_retrieves_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    ref = own()
    ref._resolve(Failure(lambda: Broken("unseen")))
    del ref
    gc.collect()
    assert caplog.text.count("unseen") == 1


@pytest.mark.parametrize("how", ["await", "exception", "quiet"])
async def test_an_error_that_was_retrieved_is_not_logged(how: str, caplog: pytest.LogCaptureFixture) -> None:
    ref = own()
    ref._resolve(Failure(Broken, quiet=how == "quiet"))
    if how == "await":
        with pytest.raises(Broken):
            await ref
    elif how == "exception":
        ref.exception()
    del ref
    gc.collect()
    assert caplog.text == ""


# --- values of other processes


async def test_awaiting_a_borrowed_reference_asks_for_its_value() -> None:
    ref = borrowed()
    task = asyncio.create_task(ref.get())
    await passes()
    assert ref.runtime.wanted == [True]  # type: ignore[attr-defined]
    ref._resolve(ELSEWHERE)
    await passes()
    assert not task.done() and ref.done()
    assert repr(ref) == f"<ObjectRef {ref.id} elsewhere owner={OWNER}>"
    ref._resolve(("value",))
    assert await task == "value"


async def test_ready_does_not_fetch_the_value() -> None:
    ref = borrowed()
    task = asyncio.create_task(ref.ready())
    await passes()
    ref._resolve(ELSEWHERE)
    await task
    assert ref.runtime.wanted == [False]  # type: ignore[attr-defined]
    assert ref._waiters is None


async def test_a_callback_runs_when_the_value_is_ready_elsewhere() -> None:
    ref = borrowed()
    seen: list[Any] = []
    ref.add_done_callback(seen.append)
    ref._resolve(ELSEWHERE)
    await passes()
    assert seen == [ref]


# --- threads and other loops


async def test_a_thread_waits_for_the_result() -> None:
    ref = own()
    waiting = asyncio.ensure_future(in_thread(ref.result))
    while ref._waiters is None:
        await asyncio.sleep(0)
    ref._resolve(("value",))
    assert await waiting == "value"


async def test_a_thread_that_gives_up_leaves_no_waiter() -> None:
    ref = own()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await in_thread(ref.result, 0.001)
    await passes()
    assert ref._waiters is None
    ref._resolve(("value",))
    assert await in_thread(ref.result, 0) == "value"


async def test_a_thread_gets_the_error() -> None:
    ref = soon(own(), Failure(Broken))
    with pytest.raises(Broken):
        await in_thread(ref.result)


async def test_a_timeout_that_is_the_result_is_raised_as_it_is() -> None:
    ref = soon(own(), Failure(lambda: TimeoutError("the task's own")))
    with pytest.raises(TimeoutError, match="the task's own"):
        await in_thread(ref.result, 60)


async def test_on_a_loop_result_never_waits() -> None:
    ref = own()
    with pytest.raises(BlockingCallError, match="await the reference"):
        ref.result()


async def test_another_loop_in_another_thread_may_await() -> None:
    ref = own()
    waiting = asyncio.ensure_future(in_thread(asyncio.run, ref.get()))
    while ref._waiters is None:
        await asyncio.sleep(0)
    ref._resolve(("value",))
    assert await waiting == "value"


async def test_another_loop_that_gives_up_is_forgotten() -> None:
    ref = own()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ref, 0.001)

    await in_thread(asyncio.run, give_up())
    await passes()
    assert ref._waiters is None
    ref._resolve(("value",))


async def test_a_concurrent_future_has_the_value_or_the_error() -> None:
    good, bad = soon(own(1)), soon(own(2), Failure(Broken))
    futures = [each.future() for each in (good, bad)]
    await passes()
    assert futures[0].result(0) == "value" and type(futures[1].exception(0)) is Broken


async def test_cancelling_a_concurrent_future_leaves_the_reference() -> None:
    ref = own()
    future = ref.future()
    await passes()
    assert future.cancel()
    await passes()
    assert ref._waiters is None
    ref._resolve(("value",))
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)
    assert await ref == "value"


# --- inside a call


class Scope:
    def __init__(self) -> None:
        self.waits: list[str] = []

    def enter_wait(self) -> None:
        self.waits.append("enter")

    def leave_wait(self) -> None:
        self.waits.append("leave")


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_call_gives_its_cpu_back_while_it_waits(cancelled: bool) -> None:
    scope = Scope()
    current_call.set(scope)  # type: ignore[arg-type]
    ref = own()
    task = asyncio.create_task(ref.get())
    await passes()
    assert scope.waits == ["enter"]
    if cancelled:
        task.cancel()
    else:
        ref._resolve(("value",))
    await asyncio.wait([task])
    assert scope.waits == ["enter", "leave"]


async def test_a_call_that_need_not_wait_keeps_its_cpu() -> None:
    scope = Scope()
    current_call.set(scope)  # type: ignore[arg-type]
    ref = own()
    ref._resolve(("value",))
    assert await ref == "value" and ref.result() == "value"
    assert scope.waits == []


# --- identity


async def test_references_are_equal_by_id() -> None:
    assert own(1) == own(1) != own(2)
    assert own(1) != "0000000000000000-000000000001"
    assert len({own(1), own(1), own(2)}) == 2
    assert own(10).hex() == PROCESS + "00000000000a"


@pytest.mark.parametrize("again", [pickle.dumps, copy.copy, copy.deepcopy])
async def test_outside_a_call_a_reference_is_not_copied(again: Any) -> None:
    with pytest.raises(TypeError, match="cannot be pickled outside a call"):
        again(own())


async def test_a_cancelled_call_does_not_wait_whatever_came_of_what_it_waits_for() -> None:
    noted: list[Any] = []

    class Cancelled:
        cancelled = True
        blocks_on = blocks_no_more = noted.append

    failed: concurrent.futures.Future[int] = concurrent.futures.Future()
    failed.set_exception(ValueError("it was cancelled with the call"))
    before = current_call.set(cast(Any, Cancelled))
    try:
        with pytest.raises(asyncio.CancelledError):
            block_on(failed, 1)
    finally:
        current_call.reset(before)
    assert noted == [failed, failed]
