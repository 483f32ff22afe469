"""Generators: what their readers get, in what order, how fast, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import (
    ActorDiedError,
    BlockingCallError,
    DeadlineExceeded,
    Outcome,
    PendingCallsLimitExceeded,
    SerializationError,
    TaskCancelledError,
)

pytestmark = pytest.mark.asyncio

KiB = 1024


class OwnError(Exception):
    pass


@al.remote
def count(upto: int, fail: bool = False) -> Iterator[int]:
    yield from range(upto)
    if fail:
        raise OwnError("after", upto)


@al.remote
async def acount(upto: int, fail: bool = False) -> AsyncIterator[int]:
    for number in range(upto):
        if number % 7 == 3:
            await asyncio.sleep(0)
        yield number
    if fail:
        raise OwnError("after", upto)


@al.remote
def noted(upto: int, diary: Any, size: int = 0) -> Iterator[bytes]:
    for number in range(upto):
        diary.note(number)
        yield bytes(size)
    diary.note("end")


@al.remote
async def anoted(upto: int, diary: Any, size: int = 0) -> AsyncIterator[bytes]:
    for number in range(upto):
        diary.note(number)
        yield bytes(size)
    diary.note("end")


@al.remote
def echo(value: Any) -> Any:
    return value


class Source(al.Actor, max_concurrency=8):
    def __init__(self) -> None:
        self.running = 0

    async def numbers(self, upto: int, fail: bool = False) -> AsyncIterator[int]:
        for number in range(upto):
            yield number
        if fail:
            raise OwnError("after", upto)

    @al.method
    def plain(self, upto: int, fail: bool = False) -> Iterator[int]:
        yield from range(upto)
        if fail:
            raise OwnError("after", upto)

    @al.method
    async def together(self, others: int) -> AsyncIterator[int]:
        self.running += 1
        while self.running < others:
            await asyncio.sleep(0)
        for number in range(40):
            yield number

    @al.method
    async def ping(self) -> str:
        return "pong"


class Shared(Source, process="shared"):
    pass


class OneAtATime(Source, max_concurrency=1):
    pass


@al.remote
class Untyped:
    def letters(self, word: str) -> Iterator[str]:
        yield from word

    async def later(self, word: str) -> AsyncIterator[str]:
        for letter in word:
            yield letter


FUNCTIONS: list[Any] = [count, acount]
both = pytest.mark.parametrize("function", FUNCTIONS, ids=["plain", "async"])


async def values(stream: Any) -> list[Any]:
    return [value async for value in stream]


async def fetched(stream: al.ObjectRefStream[Any]) -> list[Any]:
    return [await ref async for ref in stream]


# --- what is read


@both
@pytest.mark.parametrize("upto", [0, 1, 16, 17, 100])
async def test_values_and_references_come_in_order_and_end(anywhere: al.Session, function: Any, upto: int) -> None:
    assert await values(function(upto)) == list(range(upto))
    stream = function.remote(upto)
    assert await fetched(stream) == list(range(upto))
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert stream.is_finished() and stream.next_ready()
    assert await stream.completed() is None


async def test_methods_of_every_kind_of_actor(anywhere: al.Session) -> None:
    for cls in (Source, Shared, OneAtATime):
        actor = cls.remote()
        for method in (actor.numbers, actor.plain):
            bound: Any = method
            assert await values(bound(50)) == list(range(50))
            assert await fetched(bound.remote(50)) == list(range(50))
            assert await fetched(await bound.submit(3)) == [0, 1, 2]
        assert await actor.ping() == "pong"
    untyped = Untyped.remote()
    assert await values(untyped.letters("abc")) == list("abc")
    assert await values(untyped.later("abc")) == list("abc")


async def test_an_item_is_there_before_the_generator_ends(cluster: al.Session, gate: Any) -> None:
    @al.remote
    def steps(gate: Any) -> Iterator[str]:
        yield "first"
        gate.hold()
        yield "second"

    stream = steps.remote(gate)
    assert await (await anext(stream)) == "first"
    await gate.arrived()
    assert not stream.next_ready() and not stream.is_finished()
    gate.open()
    assert await fetched(stream) == ["second"]


async def test_many_streams_of_one_actor_run_at_the_same_time(anywhere: al.Session) -> None:
    actor = Source.remote()
    for method in (actor.together, actor.together.options(stream_window=1)):
        found = await asyncio.gather(*(values(method(8)) for _ in range(8)))
        assert found == [list(range(40))] * 8
    assert await asyncio.gather(*(values(actor.plain(40)) for _ in range(8))) == [list(range(40))] * 8


async def test_streams_of_a_serialized_actor_wait_for_one_another(anywhere: al.Session) -> None:
    actor = OneAtATime.remote()
    first, second = actor.plain.remote(40), actor.plain.remote(3)
    ping = asyncio.create_task(actor.ping())
    assert await (await anext(first)) == 0
    assert not second.next_ready() and not ping.done()
    assert await fetched(first) == list(range(1, 40))
    assert await fetched(second) == [0, 1, 2]
    assert await ping == "pong"


async def test_items_with_references_and_handles(anywhere: al.Session) -> None:
    @al.remote
    async def things(source: Source, ref: list[al.ObjectRef[int]]) -> AsyncIterator[Any]:
        for number in range(30):
            yield [await al.put(number), source, *ref]

    @al.remote
    def plain_things(source: Source, ref: list[al.ObjectRef[int]]) -> Iterator[Any]:
        for number in range(30):
            yield [al.sync.put(number), source, *ref]

    source = Source.remote()
    mine = await al.put(99)
    for function in (things, plain_things):
        kept = await values(function(source, [mine]))
        assert len(kept) == 30
        for number, (ref, handle, again) in enumerate(kept):
            assert await ref == number and again == mine and await again == 99
            assert handle == source
        assert await kept[0][1].ping() == "pong"
        stream = function.remote(source, [mine])
        nested = [(await ref)[0] async for ref in stream]
        del stream
        assert await al.get(nested) == list(range(30))


async def test_arguments_may_be_references(anywhere: al.Session) -> None:
    assert await values(count(al.arg(await al.put(3)))) == [0, 1, 2]
    assert await fetched(acount.remote(echo.remote(3))) == [0, 1, 2]  # type: ignore[arg-type]


async def test_a_plain_thread_reads_with_for(anywhere: al.Session) -> None:
    @al.remote
    def total(upto: int) -> int:
        return sum(al.sync.get(ref) for ref in count.remote(upto))

    def read() -> list[int]:
        return [ref.result() for ref in acount.remote(40)]

    assert await total.remote(100) == sum(range(100))
    assert await asyncio.to_thread(read) == list(range(40))


async def test_reading_from_another_loop(anywhere: al.Session) -> None:
    def elsewhere() -> tuple[list[int], list[int]]:
        async def main() -> tuple[list[int], list[int]]:
            return await values(count(40)), await fetched(acount.remote(40))

        return asyncio.run(main())

    assert await asyncio.to_thread(elsewhere) == (list(range(40)), list(range(40)))


async def test_for_on_a_loop_is_refused_with_the_remedy(cluster: al.Session) -> None:
    stream = count.remote(3)
    with pytest.raises(BlockingCallError, match="async for"):
        for _ in stream:
            pass
    with pytest.raises(BlockingCallError, match=r"await anext\(stream\)"):
        next(stream)
    assert await fetched(stream) == [0, 1, 2]


async def test_a_stream_has_one_reader_at_a_time(cluster: al.Session, gate: Any) -> None:
    @al.remote
    def one(gate: Any) -> Iterator[int]:
        gate.hold()
        yield 1

    stream = one.remote(gate)
    first = asyncio.create_task(anext(stream))  # type: ignore[arg-type]
    await gate.arrived()
    with pytest.raises(RuntimeError, match="one reader at a time"):
        await anext(stream)
    gate.open()
    assert await (await first) == 1


async def test_what_a_stream_does_not_take(cluster: al.Session) -> None:
    stream: Any = count.remote(3)
    for call in (stream.send, stream.throw, stream.asend, stream.athrow):
        with pytest.raises(TypeError, match="not offered on a stream"):
            call(1)
    structured: Any = count(3)
    with pytest.raises(TypeError, match="not offered on a stream"):
        await structured.athrow(ValueError)
    with pytest.raises(TypeError, match="not offered on a stream"):
        await structured.asend(1)
    assert await structured.asend(None) == 0
    with pytest.raises(TypeError, match="cannot be passed on"):
        await echo(structured)
    with pytest.raises(TypeError, match=r"count\(\) got an unexpected"):
        stream = count(3, fial=True)  # type: ignore[call-arg]
    await structured.aclose()


# --- flow control


@pytest.mark.parametrize("function", [noted, anoted], ids=["plain", "async"])
async def test_a_slow_reader_holds_the_producer_at_the_window(anywhere: al.Session, function: Any, diary: Any) -> None:
    for options, window in (({}, 16), ({"stream_window": 3}, 3), ({"stream_window": 1}, 1)):
        before = len(diary.words())
        stream = function.options(**options).remote(40, diary)
        await diary.has(window - 1, 1 + diary.words()[:before].count(str(window - 1)))
        for _ in range(20):
            await asyncio.sleep(0)
            assert len(diary.words()) - before == window
        taken = 0
        async for _ in stream:
            taken += 1
            assert len(diary.words()) - before <= taken + window + 1  # the end is noted too
        assert taken == 40


@pytest.mark.parametrize("function", [noted, anoted], ids=["plain", "async"])
async def test_bytes_hold_the_producer_too(anywhere: al.Session, function: Any, diary: Any) -> None:
    stream = function.options(stream_window_bytes=100 * KiB).remote(10, diary, 40 * KiB)
    await diary.has(2)  # 80 KiB are less than the bound, 120 are not
    for _ in range(20):
        await asyncio.sleep(0)
        assert diary.words() == ["0", "1", "2"]
    assert [len(value) for value in await fetched(stream)] == [40 * KiB] * 10
    large = function.remote(3, diary, 3 * KiB * KiB)
    assert [len(value) for value in await fetched(large)] == [3 * KiB * KiB] * 3


async def test_a_producer_that_waits_lends_its_cpu(anywhere: al.Session) -> None:
    @al.remote(num_cpus=2)
    def all_of_it() -> str:
        return "ran"

    stream = count.options(num_cpus=2).remote(100)
    assert await (await anext(stream)) == 0
    assert await all_of_it.remote() == "ran"
    assert await fetched(stream) == list(range(1, 100))


@both
async def test_ten_thousand_items_take_no_more_memory_than_a_few(cluster: al.Session, function: Any) -> None:
    async def run(upto: int) -> None:
        seen = 0
        async for _ in function(upto):
            seen += 1
        assert seen == upto

    await run(200)
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        await run(10_000)
        _, peak = tracemalloc.get_traced_memory()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 400 * KiB and after - before < 100 * KiB


# --- errors


@both
@pytest.mark.parametrize("upto", [0, 1, 30])
async def test_the_items_then_the_error_then_the_end(anywhere: al.Session, function: Any, upto: int) -> None:
    stream = function.remote(upto, fail=True)
    refs = [ref async for ref in stream]
    assert [await ref for ref in refs[:-1]] == list(range(upto))
    with pytest.raises(OwnError, match="after") as caught:
        await refs[-1]
    assert caught.value.args == ("after", upto)
    assert any("raised in task" in note for note in caught.value.__notes__)
    with pytest.raises(OwnError):
        await stream.completed()
    seen = []
    with pytest.raises(OwnError):
        async for value in function(upto, fail=True):
            seen.append(value)  # noqa: PERF401
    assert seen == list(range(upto))
    actor = Source.remote()
    for method in (actor.numbers, actor.plain):
        structured = method(upto, fail=True)
        with pytest.raises(OwnError):
            await values(structured)
        with pytest.raises(StopAsyncIteration):
            await anext(structured)


async def test_a_value_that_cannot_be_sent_ends_the_stream(anywhere: al.Session, diary: Any) -> None:
    @al.remote
    def bad(diary: Any) -> Iterator[Any]:
        try:
            yield 1
            yield threading.Lock()
        finally:
            diary.note("closed")

    seen = []
    with pytest.raises(SerializationError) as caught:
        async for value in bad(diary):
            seen.append(value)  # noqa: PERF401
    assert seen == [1] and caught.value.outcome is Outcome.EXECUTED
    await diary.has("closed")


async def test_a_dead_actor_fails_the_first_step(anywhere: al.Session) -> None:
    actor = Source.remote()
    await actor.ping()
    await al.kill(actor)
    with pytest.raises(ActorDiedError):
        await values(actor.numbers(3))
    [ref] = [ref async for ref in actor.plain.remote(3)]
    with pytest.raises(ActorDiedError) as caught:
        await ref
    assert caught.value.outcome is Outcome.NOT_EXECUTED


@pytest.mark.parametrize("function", [noted, anoted], ids=["plain", "async"])
async def test_a_timeout_is_for_the_whole_stream(anywhere: al.Session, function: Any, diary: Any) -> None:
    stream = function.options(timeout=2, stream_window=2).remote(100, diary)
    await diary.has(1)
    with pytest.raises(DeadlineExceeded, match=r"within its timeout of 2 s") as caught:
        await stream.completed()
    assert caught.value.outcome is Outcome.UNKNOWN
    refs = [ref async for ref in stream]
    assert [await ref for ref in refs[:-1]] == [b"", b""]
    with pytest.raises(DeadlineExceeded):
        await refs[-1]
    assert "end" not in diary.words()


async def test_a_stream_that_is_cancelled_says_so(anywhere: al.Session) -> None:
    for function in FUNCTIONS:
        stream = function.options(stream_window=2).remote(100)
        assert await (await anext(stream)) == 0
        await al.cancel(stream)
        refs = [ref async for ref in stream]
        with pytest.raises(TaskCancelledError) as caught:
            await refs[-1]
        assert caught.value.outcome is Outcome.UNKNOWN
        assert await al.cancel(stream) is False


async def test_a_stream_that_waits_for_its_turn_can_be_cancelled(anywhere: al.Session) -> None:
    actor = OneAtATime.remote()
    first = actor.plain.remote(100)
    assert await (await anext(first)) == 0
    second, third = actor.plain.remote(3), actor.numbers.options(timeout=60).remote(3)  # type: ignore[attr-defined]
    await al.cancel(second)
    [ref] = [ref async for ref in second]
    with pytest.raises(TaskCancelledError):
        await ref
    await third.aclose()
    first.close()
    assert await actor.ping() == "pong"


async def test_a_stream_is_one_of_the_pending_calls(anywhere: al.Session) -> None:
    actor = Source.options(max_pending_calls=1).remote()
    stream = actor.plain.remote(100)
    with pytest.raises(PendingCallsLimitExceeded, match=r"plain\.submit"):
        actor.plain.remote(1)
    waiting = asyncio.create_task(actor.plain.submit(3))
    assert await (await anext(stream)) == 0
    assert not waiting.done()
    await stream.aclose()
    assert await fetched(await waiting) == [0, 1, 2]


# --- a number of references instead


@both
async def test_num_returns_gives_that_many_references(anywhere: al.Session, function: Any) -> None:
    first, second, third = function.options(num_returns=3).remote(3)
    assert await al.get([first, second, third]) == [0, 1, 2]
    assert await function.options(num_returns=3)(3) == [0, 1, 2]
    assert function.options(num_returns=0).remote(3) is None
    actor: Any = Source.remote()
    assert await al.get(actor.numbers.options(num_returns=30).remote(30)) == list(range(30))


async def test_num_returns_stores_values_one_by_one(cluster: al.Session, gate: Any) -> None:
    @al.remote(num_returns=2)
    def steps(gate: Any) -> Iterator[str]:
        yield "first"
        gate.hold()
        yield "second"

    first, second = steps.remote(gate)
    assert await first == "first"
    await gate.arrived()
    assert not second.done()
    gate.open()
    assert await second == "second"


@both
async def test_num_returns_and_an_error_or_too_few_values(anywhere: al.Session, function: Any) -> None:
    refs = function.options(num_returns=4).remote(2, fail=True)
    assert await al.get(refs[:2]) == [0, 1]
    for ref in refs[2:]:
        with pytest.raises(OwnError):
            await ref
    refs = function.options(num_returns=4).remote(2)
    assert await al.get(refs[:2]) == [0, 1]
    for ref in refs[2:]:
        with pytest.raises(ValueError, match="yielded 2 values, but num_returns=4"):
            await ref


@both
async def test_num_returns_and_too_many_values_is_reported(
    anywhere: al.Session, function: Any, complaints: Any, eventually: Any
) -> None:
    assert await al.get(function.options(num_returns=2).remote(5)) == [0, 1]

    async def reported() -> bool:
        gc.collect()
        return bool(complaints.mentions("yielded more than 2 values"))

    await eventually(reported)


async def test_a_generator_without_references_runs_to_its_end(anywhere: al.Session, diary: Any) -> None:
    for function in (noted, anoted):
        assert function.options(num_returns=0).remote(40, diary) is None  # type: ignore[attr-defined]
    await diary.has("end", 2)
