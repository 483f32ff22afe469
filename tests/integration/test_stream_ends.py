"""Streams that nobody reads to their end: the generator is closed, and its clean-up has run."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import ActorDiedError, DeadlineExceeded, Outcome

pytestmark = pytest.mark.asyncio


def _plain(diary: Any) -> Iterator[int]:
    diary.note("began")
    try:
        number = 0
        while True:
            yield number
            number += 1
    except GeneratorExit:
        diary.note("closed")
        raise
    finally:
        diary.note("finally")


async def _async(diary: Any) -> AsyncIterator[int]:
    diary.note("began")
    try:
        number = 0
        while True:
            yield number
            number += 1
    except (GeneratorExit, asyncio.CancelledError):
        diary.note("closed")
        raise
    finally:
        await asyncio.sleep(0)  # clean-up may await
        diary.note("finally")


async def _slow(diary: Any) -> AsyncIterator[int]:
    """Its reader has everything, and it waits for something else."""
    diary.note("began")
    try:
        yield 0
        yield 1
        yield 2
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        diary.note("closed")
        raise
    finally:
        await asyncio.sleep(0)
        diary.note("finally")


class Source(al.Actor):
    @al.method
    def plain(self, diary: Any) -> Iterator[int]:
        yield from _plain(diary)

    async def agen(self, diary: Any) -> AsyncIterator[int]:
        async with aclosing(_async(diary)) as items:  # type: ignore[type-var]
            async for item in items:
                yield item

    async def slow(self, diary: Any) -> AsyncIterator[int]:
        async with aclosing(_slow(diary)) as items:  # type: ignore[type-var]
            async for item in items:
                yield item

    async def ping(self) -> str:
        return "pong"


class Light(Source, process="shared"):
    pass


TASKS: dict[str, Any] = {"plain": al.remote(_plain), "agen": al.remote(_async), "slow": al.remote(_slow)}
Call = Callable[[str], Any]


@pytest.fixture(params=["task", "actor", "shared"])
def called(request: pytest.FixtureRequest) -> Callable[[], Call]:
    """In the test: a function from a generator's name to what is called."""

    def make() -> Call:
        if request.param == "task":
            return TASKS.__getitem__
        actor: Any = Source.remote() if request.param == "actor" else Light.remote()
        return lambda name: getattr(actor, name)

    return make


# --- ways to stop reading. Each reads three items, so that the generator has begun.


async def leave_the_loop(generator: Any, diary: Any) -> None:
    async for value in generator(diary):
        if value == 2:
            break


async def close_the_values(generator: Any, diary: Any) -> None:
    async with aclosing(generator(diary)) as stream:
        async for value in stream:
            if value == 2:
                break
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def leave_the_block(generator: Any, diary: Any) -> None:
    with pytest.raises(KeyError):
        async with generator.remote(diary) as stream:
            for _ in range(3):
                await anext(stream)
            raise KeyError


async def close_the_references(generator: Any, diary: Any) -> None:
    stream = generator.remote(diary)
    for _ in range(3):
        await anext(stream)
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert stream.is_finished()


async def drop_the_references(generator: Any, diary: Any) -> None:
    stream = generator.remote(diary)
    for _ in range(3):
        await anext(stream)
    del stream


async def drop_them_in_a_cycle_and_another_thread(generator: Any, diary: Any) -> None:
    stream = generator.remote(diary)
    for _ in range(3):
        await anext(stream)
    cycle: list[Any] = [stream]
    cycle.append(cycle)
    del stream, cycle
    thread = threading.Thread(target=gc.collect)
    thread.start()
    await asyncio.to_thread(thread.join)


async def drop_them_unread(generator: Any, diary: Any) -> None:
    before = diary.words().count("began")
    stream = generator.remote(diary)
    await diary.has("began", before + 1)
    del stream


async def cancel_the_reader(generator: Any, diary: Any) -> None:
    ready = asyncio.Event()

    async def read() -> None:
        async for value in generator(diary):
            if value == 2:
                ready.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_the_reader_of_references(generator: Any, diary: Any) -> None:
    ready = asyncio.Event()

    async def read() -> None:
        async for ref in generator.remote(diary):
            if await ref == 2:
                ready.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def close_in_a_thread(generator: Any, diary: Any) -> None:
    def read() -> None:
        stream = generator.remote(diary)
        for ref in stream:
            if ref.result() == 2:
                break
        stream.close()

    await asyncio.to_thread(read)


async def leave_the_loop_of_another_loop(generator: Any, diary: Any) -> None:
    await asyncio.to_thread(lambda: asyncio.run(leave_the_loop(generator, diary)))


async def cancel_it(generator: Any, diary: Any) -> None:
    stream = generator.remote(diary)
    for _ in range(3):
        await anext(stream)
    await al.cancel(stream)


WAYS: list[Callable[[Any, Any], Awaitable[None]]] = [
    leave_the_loop,
    close_the_values,
    leave_the_block,
    close_the_references,
    drop_the_references,
    drop_them_in_a_cycle_and_another_thread,
    drop_them_unread,
    cancel_the_reader,
    cancel_the_reader_of_references,
    close_in_a_thread,
    leave_the_loop_of_another_loop,
    cancel_it,
]


@pytest.mark.parametrize("stop", WAYS, ids=lambda way: way.__name__)
async def test_the_generator_is_closed(anywhere: al.Session, called: Callable[[], Call], stop: Any, diary: Any) -> None:
    call = called()
    for times, name in enumerate(("plain", "agen", "slow"), 1):
        await stop(call(name), diary)
        await diary.has("finally", times)
        assert diary.words() == ["began", "closed", "finally"] * times


async def test_a_deadline_closes_the_generator(anywhere: al.Session, diary: Any) -> None:
    """On a machine that is busy a deadline may come before the generator has begun: then it gets more time."""

    async def run(name: str) -> None:
        own = type(diary)(diary.path.with_name(name))
        timeout_s = 0.5
        while not own.words():
            stream = TASKS[name].options(timeout=timeout_s, num_cpus=0.1).remote(own)
            with pytest.raises(DeadlineExceeded):
                await stream.completed()
            timeout_s *= 2
        await own.has("finally")

    await asyncio.gather(*[run(name) for name in TASKS])


async def test_the_slot_is_taken_until_the_clean_up_has_ended(cluster: al.Session, gate: Any) -> None:
    class Slow(al.Actor):
        @al.method
        def items(self, gate: Any) -> Iterator[int]:
            try:
                while True:
                    yield 1
            finally:
                gate.hold()

        async def ping(self) -> str:
            return "pong"

    actor = Slow.remote()
    async for _ in actor.items(gate):
        break
    ping = asyncio.create_task(actor.ping())
    await gate.arrived()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not ping.done()
    gate.open()
    assert await ping == "pong"


async def test_clean_up_that_raises_is_logged_where_it_ran(
    cluster: al.Session, caplog: pytest.LogCaptureFixture, diary: Any, eventually: Any
) -> None:
    @al.remote
    def plain(diary: Any) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            diary.note("finally")
            raise KeyError("in the clean-up")

    @al.remote
    async def agen(diary: Any) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            diary.note("finally")
            raise KeyError("in the clean-up")

    for times, function in enumerate((plain, agen), 1):
        async for _ in function(diary):
            break
        await diary.has("finally", times)

        async def is_logged(times: int = times) -> bool:
            return caplog.text.count("raised while it was closed") == times

        await eventually(is_logged)
        assert "in the clean-up" in caplog.text


async def test_clean_up_that_raises_at_the_end_is_the_error(anywhere: al.Session) -> None:
    @al.remote
    def plain() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise KeyError("in the clean-up")

    refs = [ref async for ref in plain.remote()]
    assert await refs[0] == 1 and len(refs) == 2
    with pytest.raises(KeyError, match="in the clean-up"):
        await refs[1]


@al.remote
def echo(value: Any) -> Any:
    return value


async def test_a_generator_that_goes_on_when_it_is_cancelled_is_closed(anywhere: al.Session, diary: Any) -> None:
    @al.remote
    async def stubborn(diary: Any) -> AsyncIterator[int]:
        yield 0
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            diary.note("ignored")
        try:
            yield 1
            diary.note("resumed")
        finally:
            diary.note("finally")

    async for _ in stubborn(diary):
        break
    await diary.has("finally")
    assert diary.words() == ["ignored", "finally"]


async def test_a_structured_stream_that_is_never_read_runs_nothing(anywhere: al.Session, diary: Any) -> None:
    stream = TASKS["plain"](diary)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    del stream
    assert await echo(1) == 1
    assert diary.words() == []


async def test_killing_the_actor_ends_its_streams(cluster: al.Session, diary: Any) -> None:
    for times, name in enumerate(("plain", "agen", "slow"), 1):
        actor = Source.remote()
        stream = getattr(actor, name).remote(diary)
        assert await (await anext(stream)) == 0
        await al.kill(actor)
        refs = [ref async for ref in stream]
        with pytest.raises(ActorDiedError) as caught:
            await refs[-1]
        assert caught.value.outcome is Outcome.UNKNOWN
        await diary.has("finally", times)


async def test_the_end_of_the_session_ends_its_streams(diary: Any) -> None:
    streams = []
    async with al.init("inproc://"):
        for name in ("plain", "agen", "slow"):
            stream = TASKS[name].options(num_cpus=0).remote(diary)
            assert await (await anext(stream)) == 0
            streams.append(stream)
    for stream in streams:
        _ = [ref async for ref in stream]
    await diary.has("closed", 3)  # clean-up that awaits may be cut short by the end of everything
