"""The rows that xoscar has: calls between processes and inside one. Needs xoscar, which brings uvloop."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import uvloop
import xoscar as xo
from rows import FIRST_ACTOR, IMPORT, INPROC_ASYNC, INPROC_SYNC, SESSION_START, TWENTY_ACTORS, TWENTY_MEMORY
from rowserver import (
    Group,
    Peer,
    RowSetup,
    Work,
    fresh_child,
    import_seconds,
    proportional_mb,
    serve,
    settings,
    take_stdout,
    tell,
)

SIZES, FRESH = settings()


class Actor(xo.Actor):
    def small_value(self) -> bytes:
        return b"ok"


class AsyncActor(xo.Actor):
    async def small_value(self) -> bytes:
        return b"ok"

    async def small_value_with_arg(self, x: Any) -> bytes:
        return b"ok"


class Pool:
    """The address of the open session; rows find it here because their set-ups take no argument."""

    address: str


@asynccontextmanager
async def pool(processes: int) -> AsyncIterator[str]:
    opened = await xo.create_actor_pool("127.0.0.1", n_process=processes)
    try:
        yield opened.external_address
    finally:
        await opened.stop()


@asynccontextmanager
async def session() -> AsyncIterator[None]:
    async with pool(1) as address:
        Pool.address = address
        yield


@asynccontextmanager
async def actor_in(process: int, cls: Any, address: str) -> AsyncIterator[Any]:
    """One actor: process 0 is this one, 1 and up are the children of the pool."""
    where = xo.allocate_strategy.ProcessIndex(process)
    actor = await xo.create_actor(cls, address=address, allocate_strategy=where)
    try:
        yield actor
    finally:
        await xo.destroy_actor(actor)


def calls_sync(cls: Any) -> RowSetup:
    @asynccontextmanager
    async def setup() -> AsyncIterator[Work]:
        async with actor_in(1, cls, Pool.address) as actor:

            async def call() -> None:
                await actor.small_value()

            yield Work(call)

    return setup


def calls_async(cls: Any) -> RowSetup:
    @asynccontextmanager
    async def setup() -> AsyncIterator[Work]:
        async with actor_in(1, cls, Pool.address) as actor:

            async def call() -> None:
                await asyncio.gather(*[actor.small_value() for _ in range(SIZES.batch)])

            yield Work(call, SIZES.batch)

    return setup


@asynccontextmanager
async def calls_args() -> AsyncIterator[Work]:
    async with actor_in(1, AsyncActor, Pool.address) as actor:

        async def call() -> None:
            await asyncio.gather(*[actor.small_value_with_arg(i) for i in range(SIZES.batch)])

        yield Work(call, SIZES.batch)


@asynccontextmanager
async def inproc_sync() -> AsyncIterator[Work]:
    async with pool(0) as address, actor_in(0, AsyncActor, address) as actor:

        async def call() -> None:
            await actor.small_value()

        yield Work(call)


@asynccontextmanager
async def inproc_async() -> AsyncIterator[Work]:
    async with pool(0) as address, actor_in(0, AsyncActor, address) as actor:

        async def call() -> None:
            await asyncio.gather(*[actor.small_value() for _ in range(SIZES.batch)])

        yield Work(call, SIZES.batch)


async def fresh() -> dict[str, float]:
    """Times of new pools. A pool's processes start with it, so twenty actors are a pool of twenty processes."""
    started = time.perf_counter()
    async with pool(1) as address:
        up = time.perf_counter()
        async with actor_in(1, AsyncActor, address) as actor:
            await actor.small_value()
            answered = time.perf_counter()
    asked = time.perf_counter()
    async with pool(SIZES.fresh_actors) as address:
        for process in range(1, SIZES.fresh_actors + 1):
            where = xo.allocate_strategy.ProcessIndex(process)
            await (await xo.create_actor(AsyncActor, address=address, allocate_strategy=where)).small_value()
        ready = time.perf_counter()
        memory_mb = proportional_mb()
    return {
        SESSION_START: up - started,
        FIRST_ACTOR: answered - up,
        TWENTY_ACTORS: ready - asked,
        TWENTY_MEMORY: memory_mb,
    }


async def imports() -> Mapping[str, float]:
    return {IMPORT: await asyncio.to_thread(import_seconds, ["xoscar"])}


ALONE: dict[str, RowSetup] = {INPROC_SYNC: inproc_sync, INPROC_ASYNC: inproc_async}
ROWS: dict[str, RowSetup] = {
    "1:1 actor calls sync": calls_sync(Actor),
    "1:1 actor calls async": calls_async(Actor),
    "1:1 async-actor calls sync": calls_sync(AsyncActor),
    "1:1 async-actor calls async": calls_async(AsyncActor),
    "1:1 async-actor calls with args async": calls_args,
}


def main() -> None:
    if FRESH:
        stream = take_stdout()
        tell(stream, uvloop.run(fresh()))
        return
    started = Group([SESSION_START, FIRST_ACTOR, TWENTY_ACTORS, TWENTY_MEMORY], lambda: fresh_child(__file__, SIZES))
    peer = Peer(
        "xoscar", importlib.metadata.version("xoscar"), session, ROWS, ALONE, [Group([IMPORT], imports), started]
    )
    uvloop.run(serve(peer, SIZES))


if __name__ == "__main__":
    main()
