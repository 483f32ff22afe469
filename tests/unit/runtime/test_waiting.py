"""`get`, `wait`, `as_completed` and their blocking twins over references that a test resolves by hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

import actorlite as al
from actorlite.context import current_call, current_runtime
from actorlite.errors import BlockingCallError, GetTimeoutError
from actorlite.ids import ObjectId
from actorlite.refs import ELSEWHERE, Failure

pytestmark = pytest.mark.asyncio


class FakeRuntime:
    """References of this process, whose encoded value is the value in a tuple."""

    job = "job"
    process = "0" * 16
    namespace = "test"
    address = "inproc://"
    node_pid = 17
    closing = False

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.wanted: list[tuple[Any, bool]] = []
        self.cancelled: list[tuple[Any, bool, bool]] = []
        self.count = 0

    def in_loop(self) -> bool:
        return threading.get_ident() == self.thread

    def want(self, ref: Any, *, value: bool) -> None:
        self.wanted.append((ref, value))

    def unwrap(self, outcome: Any) -> Any:
        if isinstance(outcome, Failure):
            raise outcome.exception()
        return outcome[0]

    async def put(self, value: Any, timeout: float | None = None) -> Any:
        assert self.in_loop()
        (ref,) = refs(self, 1)
        ref._resolve((value,))
        return ref

    async def cancel(self, ref: Any, *, force: bool, recursive: bool) -> bool:
        assert self.in_loop()
        self.cancelled.append((ref, force, recursive))
        return True


def refs(runtime: Any, count: int, owner: str = "") -> list[al.ObjectRef[Any]]:
    runtime.count += count
    first = runtime.count - count
    return [al.ObjectRef(runtime, ObjectId(f"{'0' * 16}-{first + i:012x}"), owner) for i in range(count)]


def failure(error: Exception) -> Failure:
    return Failure(lambda: error)


def waiters(*each: al.ObjectRef[Any]) -> list[Any]:
    return [ref._waiters for ref in each]


async def parked(task: asyncio.Task[Any], *each: al.ObjectRef[Any]) -> None:
    """Let `task` run until it waits on all of the references."""
    while None in waiters(*each):
        assert not task.done()
        await asyncio.sleep(0)


# --- get


async def test_get_returns_one_value_or_a_list_in_order() -> None:
    a, b = refs(FakeRuntime(), 2)
    b._resolve(("b",))
    task = asyncio.create_task(al.get([a, b, a]))
    await parked(task, a)
    a._resolve(("a",))
    assert await task == ["a", "b", "a"]
    assert await al.get((a, b)) == ["a", "b"]
    assert await al.get(a) == "a"
    assert await al.get([]) == []


async def test_get_raises_at_the_first_failure_without_waiting_for_the_rest() -> None:
    a, b, c = refs(FakeRuntime(), 3)
    task = asyncio.create_task(al.get([a, b, c]))
    await parked(task, a, b, c)
    b._resolve(failure(KeyError("b")))
    with pytest.raises(KeyError, match="b"):
        await task
    assert waiters(a, c) == [None, None]
    with pytest.raises(KeyError):
        await al.get([a, b])


async def test_get_times_out_and_says_how_many_are_pending() -> None:
    a, b, c = refs(FakeRuntime(), 3)
    b._resolve((1,))
    with pytest.raises(GetTimeoutError, match="2 of 3 references were still pending after 0.01 seconds"):
        await al.get([a, b, c], timeout=0.01)
    assert waiters(a, c) == [None, None]
    with pytest.raises(TimeoutError):
        await al.get(a, timeout=0.01)


async def test_get_with_timeout_0_polls_and_lets_the_loop_run() -> None:
    (a,) = refs(FakeRuntime(), 1)
    asyncio.get_running_loop().call_soon(a._resolve, (5,))
    polls = 0
    while True:
        try:
            assert await al.get(a, timeout=0) == 5
            break
        except GetTimeoutError:
            polls += 1
    assert polls <= 2


async def test_a_cancelled_get_leaves_no_subscription() -> None:
    a, b = refs(FakeRuntime(), 2)
    task = asyncio.create_task(al.get([a, b]))
    await parked(task, a, b)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waiters(a, b) == [None, None]


async def test_a_value_elsewhere_is_fetched() -> None:
    runtime = FakeRuntime()
    (a,) = refs(runtime, 1, owner="uds://owner")
    a._resolve(ELSEWHERE)
    assert await al.wait([a], fetch_local=False) == ([a], [])
    assert not runtime.wanted
    task = asyncio.create_task(al.get([a]))
    await parked(task, a)
    assert (a, True) in runtime.wanted
    a._resolve((3,))
    assert await task == [3]


@pytest.mark.parametrize("wrong", [3, {}, [3], iter(())])
async def test_get_takes_references_only(wrong: Any) -> None:
    with pytest.raises(TypeError, match="takes a list of ObjectRefs"):
        await al.get(wrong)


@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), ("1", TypeError), (float("nan"), ValueError)])
async def test_timeouts_are_checked(timeout: Any, error: type[Exception]) -> None:
    (a,) = refs(FakeRuntime(), 1)
    for call in (al.get, al.wait):
        with pytest.raises(error, match="timeout"):
            await call([a], timeout=timeout)


# --- wait


async def test_wait_keeps_the_order_of_the_input() -> None:
    a, b, c = refs(FakeRuntime(), 3)
    task = asyncio.create_task(al.wait([a, b, c], num_returns=2))
    await parked(task, a, b, c)
    c._resolve((3,))
    a._resolve(failure(ValueError("a failed one is ready too")))
    ready, pending = await task
    assert (ready, pending) == ([a, c], [b])
    ready, others = await al.wait([a, b, c])
    assert (ready, others) == ([a], [b, c])
    del task, pending  # the list keeps the subscriptions to what is in it
    await asyncio.sleep(0)  # the loop has the task until this step ends
    assert waiters(b) == [None]
    assert isinstance(a.exception(), ValueError)


async def test_wait_returns_what_is_ready_when_the_time_is_over() -> None:
    a, b = refs(FakeRuntime(), 2)
    b._resolve((2,))
    assert await al.wait([a, b], num_returns=2, timeout=0.01) == ([b], [a])
    assert await al.wait([a, b], num_returns=2, timeout=0) == ([b], [a])
    assert await al.wait([]) == ([], [])


async def test_wait_refuses_what_ray_refuses() -> None:
    a, b = refs(FakeRuntime(), 2)
    wait: Any = al.wait
    for error, arguments in [
        (TypeError, {"refs": a}),
        (TypeError, {"refs": [1]}),
        (TypeError, {"refs": [a], "num_returns": "1"}),
        (ValueError, {"refs": [a, a]}),
        (ValueError, {"refs": [a, b], "num_returns": 0}),
        (ValueError, {"refs": [a, b], "num_returns": 3}),
        (ValueError, {"refs": [a], "timeout": -1}),
    ]:
        with pytest.raises(error):
            await wait(**arguments)


# --- as_completed


async def test_as_completed_yields_in_the_order_of_completion() -> None:
    a, b, c = refs(FakeRuntime(), 3)
    b._resolve(("b",))
    seen = []
    async for ref in al.as_completed([a, b, c]):
        seen.append(await ref)
        if len(seen) == 1:
            asyncio.get_running_loop().call_soon(c._resolve, ("c",))
        elif len(seen) == 2:
            asyncio.get_running_loop().call_soon(a._resolve, ("a",))
    assert seen == ["b", "c", "a"]


async def test_as_completed_left_early_leaves_no_subscription() -> None:
    a, b = refs(FakeRuntime(), 2)
    a._resolve((1,))
    completed: Any = al.as_completed([a, b])
    async for _ in completed:
        break
    await completed.aclose()
    assert waiters(b) == [None]
    with pytest.raises(TypeError):
        al.as_completed([1])  # type: ignore[list-item]


# --- other threads and loops


def in_thread(work: Callable[[], Any]) -> asyncio.Future[Any]:
    return asyncio.get_running_loop().run_in_executor(None, work)


async def test_another_loop_may_wait() -> None:
    a, b = refs(FakeRuntime(), 2)
    waiting = in_thread(lambda: asyncio.run(al.get([a, b], timeout=10)))
    while None in waiters(a, b):
        await asyncio.sleep(0.001)
    a._resolve((1,))
    b._resolve((2,))
    assert await waiting == [1, 2]


async def test_another_loop_leaves_no_subscription_where_it_did_not_wait_for_an_answer() -> None:
    (a,) = refs(FakeRuntime(), 1)

    async def poll() -> None:
        for _ in range(20):
            with pytest.raises(GetTimeoutError):
                await al.get([a], timeout=0)

    # This loop does not run meanwhile: what the other one asks of it comes when that one no longer waits.
    polling = threading.Thread(target=asyncio.run, args=(poll(),))
    polling.start()
    polling.join()
    await asyncio.sleep(0)
    assert waiters(a) == [None]


async def test_sync_blocks_a_thread() -> None:
    a, b = refs(FakeRuntime(), 2)
    waiting = in_thread(lambda: (al.sync.get([a, b]), al.sync.get(a), al.sync.wait([a, b], num_returns=2)))
    while None in waiters(a, b):
        await asyncio.sleep(0.001)
    a._resolve((1,))
    b._resolve((2,))
    assert await waiting == ([1, 2], 1, ([a, b], []))


async def test_sync_passes_errors_and_timeouts() -> None:
    a, b = refs(FakeRuntime(), 2)
    a._resolve(failure(KeyError("a")))
    with pytest.raises(KeyError):
        await in_thread(lambda: al.sync.get([b, a]))
    with pytest.raises(GetTimeoutError):
        await in_thread(lambda: al.sync.get(b, timeout=0.01))
    assert await in_thread(lambda: al.sync.wait([b], timeout=0.01)) == ([], [b])


async def test_sync_refuses_to_block_a_loop() -> None:
    (a,) = refs(FakeRuntime(), 1)
    blocking: list[Callable[[], Any]] = [
        lambda: al.sync.get(a),
        lambda: al.sync.put(1),
        lambda: al.sync.wait([a]),
    ]
    for call in blocking:
        with pytest.raises(BlockingCallError, match="await"):
            call()


# --- the rest of the surface


class FakeScope:
    """Records when a call gives its CPU back."""

    info: Any = None

    def __init__(self) -> None:
        self.log: list[str] = []

    def enter_wait(self) -> None:
        self.log.append("enter")

    def leave_wait(self) -> None:
        self.log.append("leave")

    def blocks_on(self, future: Any) -> None: ...

    def blocks_no_more(self, future: Any) -> None: ...


async def test_a_call_that_really_waits_gives_its_cpu_back() -> None:
    fake = FakeScope()
    current_call.set(fake)
    a, b = refs(FakeRuntime(), 2)
    a._resolve((1,))
    assert await al.get([a]) == [1]
    assert fake.log == []
    await al.wait([a, b], num_returns=2, timeout=0.01)
    assert fake.log == ["enter", "leave"]
    await in_thread(lambda: al.sync.get(a))
    assert fake.log == ["enter", "leave"]


async def test_put_and_cancel_run_on_the_runtime_s_loop() -> None:
    fake: Any = FakeRuntime()
    current_runtime.set(fake)
    ref = await al.put({"a": 1})
    assert await ref == {"a": 1}
    with pytest.raises(TypeError, match="not a reference"):
        await al.put(ref)
    assert await al.cancel(ref, force=True)
    assert fake.cancelled == [(ref, True, True)]

    async def elsewhere() -> Any:
        current_runtime.set(fake)
        return await al.get(await al.put(5)), await al.cancel(ref, recursive=False)

    assert await in_thread(lambda: asyncio.run(elsewhere())) == (5, True)
    assert fake.cancelled[1:] == [(ref, False, False)]


async def test_wrong_targets() -> None:
    wrong: Any = 3
    (ref,) = refs(FakeRuntime(), 1)
    with pytest.raises(TypeError, match="takes an ObjectRef"):
        await al.cancel(wrong)
    with pytest.raises(TypeError, match="takes an ObjectRef"):
        al.arg(wrong)
    assert al.arg(ref) is ref
    for call in (al.kill, al.ready):
        with pytest.raises(ValueError, match="takes the handle of an actor"):
            await call(wrong)


async def test_runtime_context_of_a_driver() -> None:
    fake: Any = FakeRuntime()
    current_runtime.set(fake)
    context = al.runtime_context()
    assert (context.namespace, context.address, context.node_pid) == ("test", "inproc://", 17)
    assert (context.get_job_id(), context.get_worker_id()) == ("job", "0" * 16)
    for getter in (
        context.get_task_id,
        context.get_task_name,
        context.get_task_function_name,
        context.get_actor_id,
        context.get_actor_name,
    ):
        assert getter() is None
    assert context.get_assigned_resources() == {}
    assert context.attempt is None
    with pytest.raises(RuntimeError, match="does not run in an actor"):
        context.current_actor  # noqa: B018
