"""`wait` with the list that `wait` returned, against a model that knows nothing of earlier calls."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import actorlite as al
from actorlite.ids import ObjectId
from actorlite.refs import ELSEWHERE, Failure
from actorlite.runtime.pending import Pending


class FakeRuntime:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.process = "0" * 16

    def in_loop(self) -> bool:
        return threading.get_ident() == self.thread

    def want(self, ref: Any, *, value: bool) -> None:
        pass


def refs(count: int, owner: str = "") -> list[al.ObjectRef[Any]]:
    runtime: Any = FakeRuntime()
    return [al.ObjectRef(runtime, ObjectId(f"{'0' * 16}-{i:012x}"), owner) for i in range(count)]


def subscriptions(each: list[al.ObjectRef[Any]]) -> int:
    return sum(0 if ref._waiters is None else len(ref._waiters) if type(ref._waiters) is list else 1 for ref in each)


def is_ready(ref: al.ObjectRef[Any], fetch_local: bool) -> bool:
    return ref._outcome is not None and not (fetch_local and ref._outcome is ELSEWHERE)


def expected(given: list[Any], num_returns: int, fetch_local: bool = True) -> tuple[list[Any], list[Any]]:
    ready = [ref for ref in given if is_ready(ref, fetch_local)][:num_returns]
    return ready, [ref for ref in given if not any(ref is each for each in ready)]


CHANGES = st.sampled_from(["append", "insert", "pop", "remove", "reverse", "clear", "set", "delete", "extend", "slice"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("resolve"), st.integers(0, 11)),
        st.tuples(st.just("elsewhere"), st.integers(0, 11)),
        st.tuples(st.just("wait"), st.integers(1, 4)),
        st.tuples(st.just("wait here or there"), st.integers(1, 4)),
        st.tuples(st.just("resolve while waiting"), st.integers(0, 11)),
        st.tuples(st.just("cancel"), st.integers(0, 11)),
        st.tuples(CHANGES, st.integers(0, 11)),
    ),
    max_size=25,
)


def change(each: list[Any], how: str, place: int, outside: list[Any]) -> None:
    """Change a list as its owner may, without making it hold a reference twice."""
    new = outside[place % len(outside)] if outside else None
    if how in ("append", "insert", "extend", "set") and new is None:
        return
    if how in ("pop", "remove", "set", "delete") and not each:
        return
    match how:
        case "append":
            each.append(new)
        case "extend":
            each += [new]
        case "insert":
            each.insert(place, new)
        case "set":
            each[place % len(each)] = new
        case "pop":
            each.pop()
        case "remove":
            each.remove(each[place % len(each)])
        case "delete":
            del each[place % len(each)]
        case "slice":
            each[:] = each[place:]
        case _:
            getattr(each, how)()


async def run(steps: list[tuple[str, int]], owner: str) -> None:
    everything = refs(12, owner)
    current: list[Any] = everything[:8]
    for what, number in steps:
        match what:
            case "resolve":
                everything[number]._resolve((number,))
            case "elsewhere":
                if owner and everything[number]._outcome is None:
                    everything[number]._resolve(ELSEWHERE)
            case "wait" | "wait here or there":
                if number > len(current):
                    continue
                fetch = what == "wait"
                before = list(current)
                ready, pending = await al.wait(current, num_returns=number, timeout=0, fetch_local=fetch)
                assert (ready, pending) == expected(before, number, fetch)
                assert current == before, "the list that was passed in is the caller's"
                current = pending
            case "resolve while waiting":
                if not current:
                    continue
                asyncio.get_running_loop().call_soon(everything[number]._resolve, (number,))
                before = list(current)
                ready, pending = await al.wait(current, timeout=0 if everything[number] not in current else None)
                assert (ready, pending) == expected(before, 1)
                current = pending
            case "cancel":
                if any(is_ready(ref, True) for ref in current) or not current:
                    continue
                task = asyncio.create_task(al.wait(current))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
                assert subscriptions(everything) == 0
            case _:
                change(current, what, number, [ref for ref in everything if ref not in current])
        await asyncio.sleep(0)
        assert subscriptions(everything) <= len(current)
    del current
    pending = ready = before = []
    gc.collect()
    assert subscriptions(everything) == 0, "nobody holds a list"


@settings(deadline=None, max_examples=300)
@given(STEPS, st.sampled_from(["", "uds://owner"]))
def test_every_wait_answers_as_if_it_were_the_first(steps: list[tuple[str, int]], owner: str) -> None:
    asyncio.run(run(steps, owner))


async def one_by_one(each: list[Any]) -> list[Any]:
    seen = []
    pending = each
    while pending:
        (ref,), pending = await al.wait(pending)
        seen.append(ref)
    return seen


@pytest.mark.asyncio
async def test_one_by_one_in_the_order_of_completion() -> None:
    each = refs(50)
    task = asyncio.create_task(one_by_one(each))
    for ref in reversed(each):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ref._resolve((1,))
    assert await task == each[::-1]
    assert subscriptions(each) == 0


@pytest.mark.asyncio
async def test_many_at_once_and_failures_count() -> None:
    each = refs(50)
    _, pending = await al.wait(each, timeout=0)
    _, pending = await al.wait(pending, timeout=0)
    for ref in each[::2]:
        ref._resolve(Failure(lambda: ValueError("failed"), quiet=True))
    assert await al.wait(pending, num_returns=20) == (each[0:40:2], [*each[1:40:2], *each[40:]])


@pytest.mark.asyncio
async def test_two_may_wait_with_the_same_list() -> None:
    each = refs(3)
    _, pending = await al.wait(each, timeout=0)
    _, pending = await al.wait(pending, timeout=0)
    tasks = [asyncio.create_task(al.wait(pending, num_returns=n)) for n in (1, 2, 3)]
    await asyncio.sleep(0)
    for number, ref in enumerate(each):
        ref._resolve((1,))
        assert await tasks[number] == (each[: number + 1], each[number + 1 :])
    assert subscriptions(each) == 0


@pytest.mark.asyncio
async def test_a_changed_list_is_checked_again() -> None:
    each = refs(3)
    wait: Any = al.wait
    for wrong, error in ((3, TypeError), (each[0], ValueError)):
        _, pending = await wait(each, timeout=0)
        _, pending = await wait(pending, timeout=0)
        assert subscriptions(each) == 3
        pending.append(wrong)
        assert subscriptions(each) == 0
        with pytest.raises(error):
            await wait(pending)
    _, pending = await wait(each, timeout=0)
    list.append(pending, 3)
    list.insert(pending, 0, 3)
    with pytest.raises(TypeError):
        await wait(pending)
    del pending
    assert subscriptions(each) == 0
    with pytest.raises(ValueError, match="num_returns"):
        await wait((await wait(each, timeout=0))[1], num_returns=4)


@pytest.mark.asyncio
async def test_what_returns_is_a_list_in_every_way() -> None:
    each = refs(3)
    _, pending = await al.wait(each, timeout=0)
    assert pending == each and isinstance(pending, list) and repr(pending) == repr(each)
    for copied in (pending[:], pending + [], pending.copy(), copy.copy(pending)):
        assert type(copied) is list and copied == each
    empty = Pending[Any]()
    assert type(pickle.loads(pickle.dumps(empty))) is list
    pending.sort(key=lambda ref: ref.id, reverse=True)
    pending *= 1
    assert pending == each[::-1]
    assert await al.wait(pending, timeout=0) == ([], each[::-1])


@pytest.mark.asyncio
async def test_a_list_dropped_by_a_thread_leaves_no_subscription() -> None:
    each = refs(3)
    held = [(await al.wait((await al.wait(each, timeout=0))[1], timeout=0))[1]]
    assert subscriptions(each) == 3
    await asyncio.get_running_loop().run_in_executor(None, held.clear)
    await asyncio.sleep(0)
    assert subscriptions(each) == 0


@pytest.mark.asyncio
async def test_another_loop_waits_with_a_returned_list() -> None:
    each = refs(3)
    waiting = asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(one_by_one(each)))
    for ref in each:
        while ref._waiters is None:
            await asyncio.sleep(0.001)
        ref._resolve((1,))
    assert await waiting == each
