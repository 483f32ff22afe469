"""Large items of streams: they lie in the store, in the order in which they were yielded, and none is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import numpy
import numpy.typing
import pytest

import actorlite as al
from actorlite.errors import (
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectStoreFullError,
    Outcome,
    TaskCancelledError,
)
from actorlite.store.client import StoreClient
from actorlite.store.segment import Segment
from actorlite.testing.cluster import local_cluster

from ..arrays import Floats, MiB, pattern

pytestmark = pytest.mark.asyncio

DEADLINE_S = 20.0


def _arrays(upto: int, diary: Any = None, mib: float = 1) -> Iterator[Floats]:
    """One array, again and again: an item is fixed when the generator goes on."""
    array = pattern(0, mib)
    try:
        for number in range(upto):
            array[:] = pattern(number, mib)
            if diary is not None:
                diary.note(number)
            yield array
    finally:
        array[:] = -1
        if diary is not None:
            diary.note("finally")


async def _arrays_async(upto: int, diary: Any = None, mib: float = 1) -> AsyncIterator[Floats]:
    array = pattern(0, mib)
    try:
        for number in range(upto):
            array[:] = pattern(number, mib)
            if diary is not None:
                diary.note(number)
            yield array
    finally:
        array[:] = -1
        await asyncio.sleep(0)
        if diary is not None:
            diary.note("finally")


def _mixed(upto: int) -> Iterator[Any]:
    for number in range(upto):
        yield pattern(number, 0.2) if number % 3 == 0 else number


async def _mixed_async(upto: int) -> AsyncIterator[Any]:
    for number in range(upto):
        yield pattern(number, 0.2) if number % 3 == 0 else number


arrays: Any = al.remote(num_cpus=0)(_arrays)
arrays_async: Any = al.remote(num_cpus=0)(_arrays_async)
mixed: Any = al.remote(num_cpus=0)(_mixed)
mixed_async: Any = al.remote(num_cpus=0)(_mixed_async)


class Source(al.Actor):
    @al.method
    def mixed(self, upto: int) -> Iterator[Any]:
        yield from _mixed(upto)

    async def mixed_async(self, upto: int) -> AsyncIterator[Any]:
        async for item in _mixed_async(upto):
            yield item

    @al.method
    def arrays(self, upto: int, diary: Any) -> Iterator[Floats]:
        yield from _arrays(upto, diary)

    async def arrays_async(self, upto: int, diary: Any) -> AsyncIterator[Floats]:
        async with aclosing(_arrays_async(upto, diary)) as items:  # type: ignore[type-var]
            async for item in items:
                yield item

    async def ping(self) -> str:
        return "pong"


class Shared(Source, process="shared"):
    pass


class Reader(al.Actor):
    def __init__(self) -> None:
        self.kept: list[Any] = []

    async def keep(self, stream: Any) -> None:
        self.stream = stream

    async def take(self) -> float:
        """The next item stays here as a reference."""
        self.kept.append(await anext(self.stream))
        return float((await self.kept[-1])[0])

    async def first_of_kept(self) -> float:
        return float((await self.kept[0])[0])

    async def drop(self) -> None:
        self.kept.clear()
        self.stream = None
        gc.collect()


both = pytest.mark.parametrize("function", [arrays, arrays_async], ids=["plain", "async"])


@al.remote
def total(array: Floats) -> float:
    assert not array.flags.writeable
    return float(array.sum())


def number_of(value: Any) -> int:
    return value if isinstance(value, int) else int(value[0])


async def count_stored(eventually: Any, count: int) -> tuple[Any, ...]:
    """Wait until so many values lie in the store, and their owners know of them; what they are."""

    async def condition() -> Any:
        found = (await al.memory()).objects
        return found if len(found) == count and all(each.what for each in found) else None

    objects: tuple[Any, ...] = await eventually(condition)
    return objects


# --- what is read


@pytest.mark.parametrize("function", [mixed, mixed_async], ids=["plain", "async"])
async def test_large_and_small_items_of_tasks_come_in_order(anywhere: al.Session, function: Any, empty: Any) -> None:
    assert [number_of(value) async for value in function(40)] == list(range(40))
    assert [number_of(await ref) async for ref in function.remote(40)] == list(range(40))
    refs = [ref async for ref in function.remote(40)]
    assert [number_of(value) for value in await al.get(refs)] == list(range(40))
    del refs
    await empty()


async def test_large_and_small_items_of_actors_come_in_order(anywhere: al.Session, empty: Any) -> None:
    for cls in (Source, Shared):
        actor = cls.remote()
        for method in (actor.mixed, actor.mixed_async):
            bound: Any = method
            assert [number_of(value) async for value in bound(20)] == list(range(20))
            assert [number_of(await ref) async for ref in bound.remote(20)] == list(range(20))
        assert await actor.ping() == "pong"
    await empty()


@both
async def test_an_item_is_a_view_of_what_was_yielded(anywhere: al.Session, function: Any, empty: Any) -> None:
    refs = [ref async for ref in function.remote(4)]
    values = await al.get(refs)
    structured = [value async for value in function(4)]
    for found in (values, structured):
        for number, value in enumerate(found):
            assert (value == pattern(number)).all()
            with pytest.raises(ValueError, match="read-only"):
                value[0] = 1
    mine = await al.get(refs[1], copy=True)
    mine[0] = 5
    assert (await refs[1])[0] == 1
    del refs, value, found, mine
    for seed in range(8):
        await al.put(pattern(-1000 - seed))
    for kept in (values, structured):
        assert all((value == pattern(number)).all() for number, value in enumerate(kept))
    del values, structured, kept
    await empty()


@both
async def test_memory_says_that_it_is_an_item(anywhere: al.Session, function: Any, empty: Any, eventually: Any) -> None:
    stream = function.options(stream_window_bytes=10 * MiB).remote(2)
    name = f"item of {function.__name__}()"
    unread = await count_stored(eventually, 2)
    assert {(each.what, each.held_by[0].startswith("a call under way, or a stream")) for each in unread} == {
        (name, True)
    }
    assert all(each.size >= MiB and each.owner.startswith("driver") for each in unread)
    ref = await anext(stream)
    held = {each.held_by for each in (await al.memory()).objects if each.what == name}
    assert ("a reference here",) in held and len(held) == 2
    assert repr(ref).endswith("elsewhere>")
    del ref, stream
    await empty()


@al.remote(num_cpus=0)
def things() -> Iterator[Any]:
    yield bytes(200_000)
    yield bytearray(200_000)
    yield [str(number) for number in range(50_000)]
    yield {"inner": al.sync.put(pattern(7)), "much": pattern(1)}
    yield [pattern(number, 0.01) for number in range(20)]


@al.remote(num_cpus=0)
async def things_async() -> AsyncIterator[Any]:
    yield bytes(200_000)
    yield bytearray(200_000)
    yield [str(number) for number in range(50_000)]
    yield {"inner": await al.put(pattern(7)), "much": pattern(1)}
    yield [pattern(number, 0.01) for number in range(20)]


@pytest.mark.parametrize("function", [things, things_async], ids=["plain", "async"])
async def test_items_of_every_kind(anywhere: al.Session, function: Any, empty: Any) -> None:
    for found in ([value async for value in function()], [await ref async for ref in function.remote()]):
        raw, array, words, box, pieces = found
        assert raw == bytes(200_000) and type(raw) is bytes
        assert array == bytearray(200_000) and type(array) is bytearray
        assert words == [str(number) for number in range(50_000)]
        assert (await box["inner"] == pattern(7)).all() and (box["much"] == pattern(1)).all()
        assert [each[0] for each in pieces] == list(range(20))
    del found, raw, array, words, box, pieces
    await empty()


@both
async def test_items_are_arguments_of_others(anywhere: al.Session, function: Any, empty: Any) -> None:
    sums = [total.remote(ref) async for ref in function.remote(5)]
    assert await al.get(sums) == [pattern(number).sum() for number in range(5)]
    await empty()


@both
async def test_a_plain_thread_reads_them(anywhere: al.Session, function: Any, empty: Any) -> None:
    def read(stream: Any) -> list[float]:
        return [float(al.sync.get(ref)[0]) for ref in stream]

    assert await asyncio.to_thread(read, function.remote(5)) == [0, 1, 2, 3, 4]
    await empty()


@both
async def test_num_returns_gives_references_to_them(anywhere: al.Session, function: Any, empty: Any) -> None:
    refs = function.options(num_returns=3).remote(3)
    for number, ref in enumerate(refs):
        assert (await ref == pattern(number)).all()
    structured = await function.options(num_returns=3)(3)
    assert [value[0] for value in structured] == [0, 1, 2]
    assert function.options(num_returns=0).remote(3) is None
    del refs, ref, structured
    await empty()


@both
async def test_the_items_then_the_error(anywhere: al.Session, function: Any, empty: Any) -> None:
    @al.remote(num_cpus=0)
    def fails() -> Iterator[Floats]:
        yield pattern(1)
        raise KeyError("after")

    stream = fails.remote()
    first, last = [ref async for ref in stream]
    assert (await first)[0] == 1
    with pytest.raises(KeyError, match="after"):
        await last
    del first, last, stream
    await empty()


# --- how they are written


yielded: list[Floats] = []


@al.remote
def one() -> Iterator[Floats]:
    yielded[:] = [pattern(1)]
    yield yielded[0]


@al.remote
async def one_async() -> AsyncIterator[Floats]:
    yielded[:] = [pattern(1)]
    yield yielded[0]


@pytest.mark.parametrize("function", [one, one_async], ids=["plain", "async"])
async def test_they_are_copied_once_and_not_by_the_loop(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[tuple[int, bool]] = []
    write = Segment.write

    def noted(self: Segment, offset: int, data: Any) -> None:
        array = yielded[0].view(numpy.uint8)
        if numpy.shares_memory(numpy.frombuffer(data, dtype=numpy.uint8), array):
            copied.append((len(memoryview(data)), threading.get_ident() == loop))
        write(self, offset, data)

    loop = threading.get_ident()
    monkeypatch.setattr(Segment, "write", noted)
    async with local_cluster():
        assert [value[0] async for value in function()] == [1]
        assert [(await ref)[0] async for ref in function.remote()] == [1]
    assert copied == [(MiB, False)] * 2
    yielded.clear()


@both
async def test_their_bytes_hold_the_producer_at_the_window(
    anywhere: al.Session, function: Any, diary: Any, eventually: Any, empty: Any
) -> None:
    stream = function.options(stream_window_bytes=5 * MiB // 2).remote(12, diary)
    await count_stored(eventually, 3)  # two of a MiB are less than the bound, three are not
    for _ in range(20):
        await asyncio.sleep(0)
        assert diary.words() == ["0", "1", "2"]
    for taken in range(1, 13):
        assert (await (await anext(stream)))[0] == taken - 1
        assert len(diary.words()) <= taken + 3 + 1  # the end is noted too
    assert [ref async for ref in stream] == []
    await diary.has("finally")
    await empty()


# --- nobody reads


@both
@pytest.mark.parametrize("how", ["drop", "close", "cancel", "leave", "half"])
async def test_items_that_nobody_takes_are_freed(
    anywhere: al.Session, function: Any, how: str, diary: Any, empty: Any, eventually: Any
) -> None:
    options: dict[str, Any] = {"stream_window_bytes": 5 * MiB // 2}
    if how == "leave":
        async for value in function.options(**options)(100, diary):
            if value[0] == 2:
                break
        del value
    else:
        stream = function.options(**options).remote(100, diary)
        if how == "half":
            refs = [await anext(stream) for _ in range(3)]
            assert (await refs[2])[0] == 2
            del refs
        else:
            await count_stored(eventually, 3)
        if how == "close":
            stream.close()
        elif how == "cancel":
            await al.cancel(stream)
            with pytest.raises(TaskCancelledError):
                await stream.completed()
        del stream
    await diary.has("finally")
    await empty()


@both
async def test_a_reader_that_is_cancelled_frees_them(
    anywhere: al.Session, function: Any, diary: Any, empty: Any
) -> None:
    async def read() -> None:
        async for _ in function.options(stream_window=1)(10**6, diary):
            pass

    for rounds in range(1, 6):
        reading = asyncio.create_task(read())
        await diary.has("0", rounds)
        for _ in range(rounds):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await diary.has("finally", rounds)
    del reading
    await empty()


@both
async def test_a_stream_that_is_closed_at_any_moment_leaves_nothing(
    anywhere: al.Session, function: Any, diary: Any, empty: Any
) -> None:
    for turns in range(30):
        stream = function.options(stream_window=2).remote(10**6, diary, 0.5 + turns % 3)
        if turns % 2:
            await diary.has("0", 1 + turns // 2)
        for _ in range(turns):
            await asyncio.sleep(0)
        stream.close()
        del stream
    await empty()
    words = diary.words()
    await diary.has("finally", words.count("0"))
    await empty()


@both
async def test_a_budget_that_ends_in_the_middle_leaves_nothing(anywhere: al.Session, function: Any, empty: Any) -> None:
    for number in range(4):
        stream = function.options(timeout=0.05 + 0.003 * number, stream_window_bytes=100 * MiB).remote(10**6)
        refs = [ref async for ref in stream]
        with pytest.raises(al.errors.DeadlineExceeded):
            await refs[-1]
        del refs, stream
    await empty()


LOST = {"inproc": arrays_async, "uds": arrays, "tcp": arrays_async}


@pytest.mark.parametrize("scheme", LOST)
async def test_a_connection_that_is_lost_frees_what_was_not_read(
    scheme: str, diary: Any, eventually: Any, empty: Any, complaints: Any
) -> None:
    async with local_cluster(scheme=scheme) as session:
        stream = LOST[scheme].options(stream_window_bytes=5 * MiB // 2).remote(100, diary)
        first = await anext(stream)
        await count_stored(eventually, 3)
        peers = session.runtime.hub.peers.values()  # type: ignore[attr-defined]
        for peer in [each for each in peers if each.identity.role == "worker"]:
            await peer.aclose()
        await diary.has("finally")
        refs = [ref async for ref in stream]
        assert (await first)[0] == 0 and (await refs[0])[0] == 1
        with pytest.raises(al.errors.WorkerCrashedError):
            await refs[-1]
        del first, refs, stream
        await empty()


# --- elsewhere


@both
async def test_a_reader_elsewhere_borrows_them(anywhere: al.Session, function: Any, diary: Any, empty: Any) -> None:
    reader = Reader.remote()
    await reader.keep(function.options(stream_window=2).remote(10, diary))
    assert [await reader.take() for _ in range(5)] == [0, 1, 2, 3, 4]
    found = [each for each in (await al.memory()).objects if each.what]  # of what is being written nobody knows yet
    assert sum(each.held_by[0].startswith("borrowed by worker") for each in found) == 5
    assert {(each.what, each.owner.split()[0]) for each in found} == {(f"item of {function.__name__}()", "driver")}
    assert await reader.first_of_kept() == 0
    await reader.drop()
    await diary.has("finally")
    await empty()


@al.remote
async def numbers(stream: Any) -> list[int]:
    return [number_of(await ref) async for ref in stream]


@al.remote
async def made(upto: int) -> list[Any]:
    return [mixed.remote(upto)]


@al.remote
async def much_within(stream: Any) -> list[float]:
    found = []
    async for ref in stream:
        value = await ref
        if isinstance(value, dict):
            found += [float((await value["inner"])[0]), float(value["much"][0])]
    return found


async def test_streams_with_large_items_are_passed_on(anywhere: al.Session, empty: Any) -> None:
    for function in (mixed, mixed_async):
        assert await numbers(function.remote(20)) == list(range(20))
    [stream] = await made(20)
    assert [number_of(await ref) async for ref in stream] == list(range(20))
    assert await much_within(things.remote()) == [7, 1]
    del stream
    await empty()


async def test_a_reader_elsewhere_that_is_killed_frees_them(anywhere: al.Session, diary: Any, empty: Any) -> None:
    reader = Reader.remote()
    await reader.keep(arrays.remote(100, diary))
    assert await reader.take() == 0
    await al.kill(reader)
    del reader
    await diary.has("finally")
    if anywhere.address.startswith("local"):  # what an actor in process has looked at stays as long as the node
        await empty()


# --- a full store


@both
async def test_more_than_fits_is_spilled(small: al.Session, function: Any, empty: Any) -> None:
    refs = [ref async for ref in function.remote(20)]
    found = await al.memory()
    assert found.spilled >= 10 * MiB
    for number, ref in enumerate(refs):
        assert (await ref == pattern(number)).all()
    assert await al.get([total.remote(ref) for ref in refs]) == [pattern(number).sum() for number in range(20)]
    del refs, ref
    await empty()


@both
async def test_a_stream_of_any_length_passes_a_small_store(small: al.Session, function: Any, empty: Any) -> None:
    seen = 0
    async for value in function(40):
        assert value[0] == seen
        seen += 1
    async for ref in function.remote(40):
        assert (await ref)[0] == seen - 40
        seen += 1
    assert seen == 80
    del value, ref
    await empty()


@both
async def test_an_item_larger_than_the_store_ends_the_stream(
    small: al.Session, function: Any, diary: Any, empty: Any
) -> None:
    with pytest.raises(ObjectStoreFullError, match="does not fit into the object store") as caught:
        async for _ in function(3, diary, 9):
            pass
    assert caught.value.outcome is Outcome.EXECUTED
    [ref] = [ref async for ref in function.remote(3, diary, 9)]
    with pytest.raises(ObjectStoreFullError, match="does not fit"):
        await ref
    await diary.has("finally", 2)
    assert [word for word in diary.words() if word != "finally"] == ["0", "0"]
    del ref
    await empty()


async def held(mib: int) -> list[Any]:
    """Views that keep so much of the store."""
    return [await (await al.put(pattern(-1 - number))) for number in range(mib)]


@both
async def test_a_producer_waits_for_room_and_goes_on(
    small: al.Session, function: Any, diary: Any, eventually: Any, empty: Any
) -> None:
    kept = await held(6)
    stream = function.remote(3, diary, 3)

    async def waits() -> bool:
        return bool((await small.runtime.list_objects()).waiting)  # type: ignore[attr-defined]

    await eventually(waits)
    assert diary.words() == ["0"] and not stream.next_ready()
    kept.clear()
    assert [(await ref)[0] async for ref in stream] == [0, 1, 2]
    await empty()


@both
@pytest.mark.parametrize("how", ["close", "cancel", "actor"])
async def test_a_producer_that_waits_for_room_can_be_stopped(
    small: al.Session, function: Any, how: str, diary: Any, eventually: Any, empty: Any
) -> None:
    kept = await held(7)
    actor: Any = Source.remote()
    if how == "actor":
        kept += [await (await al.put(pattern(-9, 0.5)))]
        stream = (actor.arrays if function is arrays else actor.arrays_async).remote(3, diary)
    else:
        stream = function.remote(3, diary, 3)

    async def waits() -> bool:
        return bool((await small.runtime.list_objects()).waiting)  # type: ignore[attr-defined]

    async def waits_no_more() -> bool:
        return not await waits()

    await eventually(waits)
    if how == "close":
        await stream.aclose()
    elif how == "cancel":
        await al.cancel(stream)
    else:
        await al.kill(actor)
        with pytest.raises(al.errors.ActorDiedError):
            await stream.completed()
    await eventually(waits_no_more)
    if how != "actor":
        await diary.has("finally")
    kept.clear()
    del stream, actor
    await empty()


@al.remote(num_cpus=0)
def impatient(diary: Any) -> Iterator[Floats]:
    StoreClient.write.__defaults__ = (0.1,)
    yield from _arrays(3, diary, 3)


@al.remote(num_cpus=0)
async def impatient_async(diary: Any) -> AsyncIterator[Floats]:
    StoreClient.write.__defaults__ = (0.1,)
    async with aclosing(_arrays_async(3, diary, 3)) as items:  # type: ignore[type-var]
        async for item in items:
            yield item


@pytest.mark.parametrize("function", [impatient, impatient_async], ids=["plain", "async"])
async def test_a_producer_that_waited_in_vain_ends_the_stream(
    small: al.Session, function: Any, diary: Any, empty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoreClient.write, "__defaults__", StoreClient.write.__defaults__)
    kept = await held(7)
    stream = function.remote(diary)
    [ref] = [ref async for ref in stream]
    with pytest.raises(ObjectStoreFullError, match=r"no room for .*waited 0.1 s") as caught:
        await ref
    assert caught.value.outcome is Outcome.EXECUTED
    await diary.has("finally")
    kept.clear()
    del ref, stream
    await empty()


async def test_a_plain_task_that_waits_for_room_lends_its_cpu(small: al.Session, eventually: Any, empty: Any) -> None:
    @al.remote(num_cpus=2)
    def all_of_it() -> str:
        return "ran"

    kept = await held(7)
    streams = [f.options(num_cpus=2).remote(1, None, 3) for f in (arrays, arrays_async)]
    assert await asyncio.wait_for(all_of_it.remote(), DEADLINE_S) == "ran"
    kept.clear()
    for stream in streams:
        assert [(await ref)[0] async for ref in stream] == [0]
    del streams, stream
    await empty()


async def test_an_item_that_is_lost_says_so(anywhere: al.Session) -> None:
    lost = "yielded by a generator, which could tell another story"
    [ref] = [ref async for ref in arrays.remote(1)]
    ref._stored._store.dropped(ref._stored.stored)  # as if its owner had let it go
    await al.memory()
    with pytest.raises(ObjectReconstructionFailedError, match=lost):
        await ref
    with pytest.raises(ObjectReconstructionFailedError, match=lost):
        await total.remote(ref)
    stream: Any = arrays(2)
    assert (await anext(stream))[0] == 0
    source = stream._source
    while not source.waiting:
        await source.ready()
    item = source._items[0]
    item.stored._store.dropped(item.stored.stored)
    await al.memory()
    with pytest.raises(ObjectReconstructionFailedError, match=lost):
        await anext(stream)
    reader = Reader.remote()
    passed = arrays.options(stream_window_bytes=4 * MiB).remote(1)
    await passed.completed()
    item = passed._source._items[0]
    item.stored._store.dropped(item.stored.stored)
    await al.memory()
    await reader.keep(passed)
    with pytest.raises(ObjectLostError, match="not in this node's store"):
        await reader.take()
