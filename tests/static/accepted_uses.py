"""Right uses and the types they have. mypy --strict and pyright must report nothing here."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, assert_type

import actorlite as al

from .declarations import (
    Box,
    Counter,
    Loud,
    Model,
    Point,
    Same,
    Untyped,
    UntypedBig,
    agen,
    anything,
    consume,
    fetch,
    fetch_some,
    gen,
    halves,
    lines,
    merge,
    parse,
    parse_big,
    tokens,
)


async def sessions() -> None:
    async with al.init("inproc://", namespace="tests") as session:
        assert_type(session, al.Session)
        assert_type(parse.options(session=session).remote("x"), al.ObjectRef[bytes])
        assert_type(Counter.options(session=session).remote(1), Counter)
    assert_type(await al.init(), al.Session)
    await al.shutdown()


def tasks() -> None:
    assert_type(parse.remote("x", strict=True), al.ObjectRef[bytes])
    assert_type(parse_big.remote(path="x"), al.ObjectRef[bytes])
    assert_type(fetch.remote("x", size=2), al.ObjectRef[bytes])
    assert_type(fetch_some.remote("x", "y", accept=1), al.ObjectRef[list[bytes]])
    assert_type(parse.options(num_cpus=2, timeout=1.5).remote("x"), al.ObjectRef[bytes])
    assert_type(parse.options(num_cpus=2).options(name="p").remote("x"), al.ObjectRef[bytes])
    assert_type(parse.options(num_returns=None).remote("x"), al.ObjectRef[bytes])
    assert_type(halves.remote(b""), list[al.ObjectRef[Any]])
    assert_type(parse.options(num_returns=2).remote("x"), list[al.ObjectRef[Any]])
    anything.remote("x")  # of no known type: a function that returns Any may be a generator
    assert_type(consume.remote(al.arg(parse.remote("x"))), al.ObjectRef[int])
    assert_type(merge.remote([b""]), al.ObjectRef[bytes])


async def streams() -> None:
    assert_type(lines.remote("x", strict=True), al.ObjectRefStream[bytes])
    assert_type(tokens.remote("x"), al.ObjectRefStream[str])
    assert_type(gen.remote("x"), al.ObjectRefStream[int])
    assert_type(agen.remote("x"), al.ObjectRefStream[int])
    assert_type(lines("x"), al.ValueStream[bytes])
    assert_type(await lines.submit("x"), al.ObjectRefStream[bytes])
    assert_type(lines.options(stream_window=3, timeout=1).remote("x"), al.ObjectRefStream[bytes])
    assert_type(lines.options(num_returns="streaming").remote("x"), al.ObjectRefStream[bytes])
    assert_type(lines.options(num_returns=2).remote("x"), list[al.ObjectRef[Any]])
    async for token in tokens("x"):
        assert_type(token, str)
    async for ref in lines.remote("x"):
        assert_type(ref, al.ObjectRef[bytes])
        assert_type(await ref, bytes)
    for ref in lines.remote("x"):
        assert_type(ref, al.ObjectRef[bytes])
    async with contextlib.aclosing(lines("x")) as values, contextlib.aclosing(lines.remote("x")) as refs:
        assert_type(await anext(values), bytes)
        assert_type(await anext(refs), al.ObjectRef[bytes])
    async with lines.remote("x") as stream:
        assert_type(stream.completed(), al.ObjectRef[None])
        assert_type(await al.cancel(stream), bool)
    model = Model.remote()
    async for token in model.stream("x"):
        assert_type(token, str)
    async for token in model.tokens("x", top=2):
        assert_type(token, str)
    assert_type(model.lines("x"), al.ValueStream[bytes])
    assert_type(model.lines.remote("x"), al.ObjectRefStream[bytes])
    assert_type(await model.tokens.submit("x"), al.ObjectRefStream[str])
    assert_type(model.timed.options(stream_window=2).remote("x"), al.ObjectRefStream[int])
    assert_type(model.timed.options(num_returns=2).remote("x"), list[al.ObjectRef[Any]])


async def structured_calls() -> None:
    assert_type(await parse("x", strict=True), bytes)
    assert_type(await fetch("x"), bytes)
    assert_type(await fetch_some("x"), list[bytes])
    assert_type(await parse.options(timeout=1)("x"), bytes)
    assert_type(await parse.submit("x"), al.ObjectRef[bytes])
    async with asyncio.timeout(1), asyncio.TaskGroup() as group:
        assert_type(group.create_task(parse("x")), asyncio.Task[bytes])
        assert_type(group.create_task(parse.remote("x").get()), asyncio.Task[bytes])


async def actors() -> None:
    counter = Counter.remote(10)
    assert_type(counter, Counter)
    assert_type(Counter.remote(start=1), Counter)
    assert_type(Counter.options(name="hits", num_cpus=2).remote(10), Counter)
    assert_type(Counter(10), Counter)
    assert_type(await Counter.options(name="hits", lifetime="detached").get_or_create(10), tuple[Counter, bool])
    assert_type(await al.get_actor("hits", Counter, namespace="shop"), Counter)
    assert_type(await (await al.get_actor("hits", Counter)).incr(), int)
    assert_type(al.sync.get_actor("hits", Counter), Counter)
    assert_type(await al.list_named_actors(), list[str])
    assert_type(await al.list_named_actors(all_namespaces=True), list[dict[str, str]])
    assert_type(await counter.incr(by=2), int)
    assert_type(await counter.decr(2, why=""), int)
    assert_type(counter.decr.remote(2), al.ObjectRef[int])
    assert_type(await counter.decr.submit(2), al.ObjectRef[int])
    assert_type(counter.slow.remote(2, strict=True), al.ObjectRef[list[int]])
    assert_type(await counter.slow(k=2), list[int])
    assert_type(await counter.slow.options(timeout=1)(2), list[int])
    assert_type(await counter.timed(2), str)
    assert_type(await counter.atimed(2), str)
    assert_type(counter.timed.remote(2), al.ObjectRef[str])
    assert_type(counter.pair.remote(2), list[al.ObjectRef[Any]])
    assert_type(counter.slow.options(num_returns=2).remote(2), list[al.ObjectRef[Any]])
    assert_type(await Loud.remote(1).decr(2), int)
    assert_type(Same.remote("x"), Same)
    assert_type(Point.remote(x=3), Point)
    assert_type(await Point.remote(3, y=2).length(), float)
    assert_type(await Box[int].remote(3).get(), int)
    assert_type(Box[int].remote(3), Box[int])
    await al.ready(counter)
    await al.kill(counter)


async def untyped_actors() -> None:
    actor = Untyped.remote(1)
    await actor.add.remote(by=2)
    await UntypedBig.options(num_cpus=3).remote(1).add(by=2)


async def references() -> None:
    data, size = parse.remote("x"), consume.remote(b"")
    assert_type(await data, bytes)
    assert_type(await data.get(), bytes)
    assert_type(data.result(timeout=1), bytes)
    assert_type(await asyncio.gather(data, size), tuple[bytes, int])
    assert_type(await asyncio.wait_for(data, 1), bytes)
    assert_type(await asyncio.shield(size), int)
    assert_type(await al.get(data), bytes)
    assert_type(await al.get([data, data], timeout=5), list[bytes])
    assert_type(await al.get((size, size)), list[int])
    ready, pending = await al.wait([data, data], num_returns=1, timeout=1)
    assert_type(ready, list[al.ObjectRef[bytes]])
    assert_type(pending, list[al.ObjectRef[bytes]])
    async for ref in al.as_completed([size]):
        assert_type(ref, al.ObjectRef[int])
    assert_type(await al.put([1]), al.ObjectRef[list[int]])
    assert_type(await al.cancel(data, force=True), bool)


def blocking() -> None:
    data = parse.remote("x")
    assert_type(al.sync.get(data, timeout=1), bytes)
    assert_type(al.sync.get([data]), list[bytes])
    assert_type(al.sync.put(3), al.ObjectRef[int])
    assert_type(al.sync.wait([data])[0], list[al.ObjectRef[bytes]])
