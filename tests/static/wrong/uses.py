"""Wrong uses. mypy --strict and pyright must report each line marked `# ERR`, and no other line."""

# ruff: noqa: B018
from __future__ import annotations

import asyncio

import actorlite as al

from ..declarations import Box, Counter, Model, Point, consume, fetch, halves, lines, merge, parse, tokens


def tasks() -> None:
    parse.remote()  # ERR: no path
    parse.remote(1)  # ERR: wrong type
    parse.remote("x", True)  # ERR: keyword only
    parse.remote("x", strikt=True)  # ERR: unknown keyword
    fetch.remote("x", size="2")  # ERR: wrong type
    merge.remote(parts=[b""])  # ERR: positional only
    consume.remote(parse.remote("x"))  # ERR: a reference where a value is declared; al.arg(ref) is one
    consume.remote(al.arg(consume.remote(b"")))  # ERR: the reference's value is an int
    parse.options(num_cpu=1)  # ERR: unknown option
    parse.options(num_cpus="1")  # ERR: wrong type
    parse.options(timeout="1").remote("x")  # ERR: wrong type
    halves.remote("x")  # ERR: wrong type
    al.remote(num_cpu=1)  # ERR: unknown option
    parse.remote("x").value  # ERR: no such attribute


async def streams() -> None:
    lines.remote()  # ERR: no path
    lines(1)  # ERR: wrong type
    await lines("x")  # ERR: a stream is read with `async for`
    await lines.remote("x")  # ERR: a stream of references is no reference
    tokens.options(stream_windo=3)  # ERR: unknown option
    tokens.options(stream_window="3")  # ERR: wrong type
    for value in lines("x"):  # ERR: values are read with `async for`
        print(value)
    async for ref in lines.remote("x"):
        size: int = await ref  # ERR: it is bytes
        print(size)
    model = Model.remote()
    model.tokens("x", 1)  # ERR: keyword only
    model.lines.remote(1)  # ERR: wrong type
    model.stream.remote("x")  # ERR: needs @al.method
    parse.options(num_returns="streaming")  # ERR: not a generator
    al.cancel(lines("x"))  # ERR: the values of a structured call are not cancelled but closed


async def structured_calls() -> None:
    size: int = await parse("x")  # ERR: it is bytes
    await parse(1)  # ERR: wrong type
    await parse.submit(1)  # ERR: wrong type
    async with asyncio.TaskGroup() as group:
        group.create_task(parse.remote("x"))  # ERR: a reference is no coroutine; ref.get() is one
    print(size)


async def actors() -> None:
    counter = Counter.remote(10)
    Counter.remote("10")  # ERR: wrong type
    Counter.remote(begin=1)  # ERR: unknown keyword
    Counter.options(nam="hits")  # ERR: unknown option
    Counter.options(process="thread")  # ERR: not one of the values
    Counter.options(name="hits").remote("10")  # ERR: wrong type
    await counter.incr(bye=2)  # ERR: unknown keyword
    await counter.incr("2")  # ERR: wrong type
    counter.incr.remote(2)  # ERR: needs @al.method
    counter.decr.remote("2")  # ERR: wrong type
    await counter.decr(2, "why")  # ERR: keyword only
    counter.slow.remote()  # ERR: no k
    counter.slow.options(num_cpus=1)  # ERR: unknown option for methods
    counter.pair.remote("2")  # ERR: wrong type
    counter.missing  # ERR: no such method
    text: str = await counter.slow(2)  # ERR: it is a list
    Point.remote("3")  # ERR: wrong type
    Box[int].remote("3")  # ERR: wrong type
    print(text)


class Misspelt(al.Actor, num_cpu=1):  # ERR: unknown option
    ...


class Mistyped(al.Actor, max_concurrency="2"):  # ERR: wrong type
    ...


class Undecorated(al.Actor):
    @al.method(num_return=2)  # ERR: unknown option
    async def m(self) -> int:
        return 1


async def references() -> None:
    data, size = parse.remote("x"), consume.remote(b"")
    number: int = await data  # ERR: it is bytes
    await asyncio.wait([data])  # ERR: takes futures; al.wait takes references
    await al.get(3)  # ERR: not a reference
    await al.get([size, 3])  # ERR: not all references
    await al.wait(data)  # ERR: takes a list
    await al.cancel(3)  # ERR: not a reference
    wrong: list[str] = await al.get([size])  # ERR: they are ints
    al.sync.get("x")  # ERR: not a reference
    print(number, wrong)
