"""The rows on actorlite: the same bodies as in `rows_ray`, awaited on one uvloop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from rows import (
    FIRST_ACTOR,
    GROUPS,
    GROUPS_SYNC,
    IMPORT,
    IMPORT_CORE,
    IMPORT_LOADED,
    INPROC_ASYNC,
    INPROC_SYNC,
    SESSION_START,
    TWENTY_ACTORS,
    TWENTY_MEMORY,
)
from rowserver import (
    CPUS,
    SERVERS,
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

import actorlite as al

SIZES, FRESH = settings()
CORE_DEPENDENCIES = ("uvloop", "msgspec", "cloudpickle", "anyio", "aiohttp")


class Actor(al.Actor, num_cpus=0):
    @al.method
    def small_value(self) -> bytes:
        return b"ok"

    @al.method
    def small_value_arg(self, x: Any) -> bytes:
        return b"ok"

    async def small_value_batch(self, n: int) -> None:
        await al.get([small_value.remote() for _ in range(n)])


class AsyncActor(al.Actor, num_cpus=0):
    async def small_value(self) -> bytes:
        return b"ok"

    async def small_value_with_arg(self, x: Any) -> bytes:
        return b"ok"


class Client(al.Actor, num_cpus=0):
    def __init__(self, *servers: Any) -> None:
        self.servers = servers

    async def small_value_batch(self, n: int) -> None:
        await al.get([s.small_value.remote() for s in self.servers for _ in range(n)])

    async def small_value_batch_arg(self, n: int) -> None:
        x = await al.put(0)
        await al.get([s.small_value_arg.remote(x) for s in self.servers for _ in range(n)])


@al.remote
def small_value() -> bytes:
    return b"ok"


@al.remote
async def put_small(n: int) -> None:
    for _ in range(n):
        await al.put(0)


@al.remote
async def put_large(n: int, items: int) -> None:
    import numpy as np

    for _ in range(n):
        await al.put(np.zeros(items, dtype=np.int64))


@al.remote
async def object_containing_refs(n: int) -> list[Any]:
    return [await al.put(1) for _ in range(n)]


@al.remote
async def call_all(actors: list[Any], n: int) -> None:
    await al.get([actors[i % len(actors)].small_value.remote() for i in range(n)])


@asynccontextmanager
async def session() -> AsyncIterator[None]:
    async with al.init("local", num_cpus=CPUS):
        yield


@asynccontextmanager
async def killed(*actors: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for actor in actors:
            await al.kill(actor)


@asynccontextmanager
async def get_small() -> AsyncIterator[Work]:
    value = await al.put(0)

    async def call() -> None:
        await al.get(value)

    yield Work(call)


@asynccontextmanager
async def put_calls() -> AsyncIterator[Work]:
    async def call() -> None:
        await al.put(0)

    yield Work(call)


@asynccontextmanager
async def put_calls_multi() -> AsyncIterator[Work]:
    async def call() -> None:
        await al.get([put_small.remote(SIZES.puts_per_task) for _ in range(SIZES.put_tasks)])

    yield Work(call, SIZES.put_tasks * SIZES.puts_per_task)


@asynccontextmanager
async def put_gigabytes() -> AsyncIterator[Work]:
    import numpy as np

    array = np.zeros(SIZES.large_items, dtype=np.int64)

    async def call() -> None:
        await al.put(array)

    yield Work(call, array.nbytes / 1e9)


@asynccontextmanager
async def put_gigabytes_multi() -> AsyncIterator[Work]:
    async def call() -> None:
        n, items = SIZES.large_puts_per_task, SIZES.large_put_items
        await al.get([put_large.remote(n, items) for _ in range(SIZES.large_put_tasks)])

    yield Work(call, SIZES.large_put_tasks * SIZES.large_puts_per_task * SIZES.large_put_items * 8 / 1e9)


@asynccontextmanager
async def get_refs() -> AsyncIterator[Work]:
    value = object_containing_refs.remote(SIZES.contained_refs)
    await al.wait([value])

    async def call() -> None:
        await al.get(value)

    yield Work(call)


@asynccontextmanager
async def wait_refs() -> AsyncIterator[Work]:
    async def call() -> None:
        not_ready = [small_value.remote() for _ in range(SIZES.waited_refs)]
        for _ in range(SIZES.waited_refs):
            _ready, not_ready = await al.wait(not_ready)

    yield Work(call)


@asynccontextmanager
async def tasks_sync() -> AsyncIterator[Work]:
    async def call() -> None:
        await small_value.remote()

    yield Work(call)


def tasks_batch(units: float) -> RowSetup:
    @asynccontextmanager
    async def setup() -> AsyncIterator[Work]:
        async def call() -> None:
            await al.get([small_value.remote() for _ in range(SIZES.batch)])

        yield Work(call, units)

    return setup


@asynccontextmanager
async def tasks_multi() -> AsyncIterator[Work]:
    actors = [Actor.remote() for _ in range(SIZES.clients)]

    async def call() -> None:
        await al.get([a.small_value_batch.remote(SIZES.tasks_per_client) for a in actors])  # type: ignore[attr-defined]

    async with killed(*actors):
        yield Work(call, SIZES.clients * SIZES.tasks_per_client)


def calls_sync(cls: Any) -> RowSetup:
    @asynccontextmanager
    async def setup() -> AsyncIterator[Work]:
        actor = cls.remote()

        async def call() -> None:
            await actor.small_value.remote()

        async with killed(actor):
            yield Work(call)

    return setup


def calls_structured(cls: Any) -> RowSetup:
    @asynccontextmanager
    async def setup() -> AsyncIterator[Work]:
        actor = cls.remote()

        async def call() -> None:
            await actor.small_value()

        async with killed(actor):
            yield Work(call)

    return setup


def calls_async(cls: Any, **options: Any) -> RowSetup:
    @asynccontextmanager
    async def setup() -> AsyncIterator[Work]:
        actor = cls.options(**options).remote()

        async def call() -> None:
            await al.get([actor.small_value.remote() for _ in range(SIZES.batch)])

        async with killed(actor):
            yield Work(call, SIZES.batch)

    return setup


@asynccontextmanager
async def calls_args() -> AsyncIterator[Work]:
    actor: Any = AsyncActor.remote()

    async def call() -> None:
        await al.get([actor.small_value_with_arg.remote(i) for i in range(SIZES.batch)])

    async with killed(actor):
        yield Work(call, SIZES.batch)


def groups(number: int) -> RowSetup:
    async def call() -> None:
        made = await asyncio.gather(*[al.placement_group([{"CPU": 0.001}]) for _ in range(number)])
        for group in made:
            await group.ready(30)
        await asyncio.gather(*[al.remove_placement_group(group) for group in made])

    @asynccontextmanager
    async def setup() -> AsyncIterator[Work]:
        yield Work(call, number)

    return setup


def one_to_many(cls: Any) -> RowSetup:
    @asynccontextmanager
    async def setup() -> AsyncIterator[Work]:
        actors = [cls.remote() for _ in range(SERVERS)]
        client: Any = Client.remote(*actors)
        n = SIZES.calls_per_client

        async def call() -> None:
            await client.small_value_batch.remote(n)

        async with killed(client, *actors):
            yield Work(call, n * SERVERS)

    return setup


def many_to_many(cls: Any) -> RowSetup:
    @asynccontextmanager
    async def setup() -> AsyncIterator[Work]:
        actors = [cls.remote() for _ in range(SERVERS)]

        async def call() -> None:
            await al.get([call_all.remote(actors, SIZES.calls_per_client) for _ in range(SIZES.clients)])

        async with killed(*actors):
            yield Work(call, SIZES.clients * SIZES.calls_per_client)

    return setup


@asynccontextmanager
async def many_to_many_arg() -> AsyncIterator[Work]:
    actors = [Actor.remote() for _ in range(SERVERS)]
    clients: list[Any] = [Client.remote(actor) for actor in actors]

    async def call() -> None:
        await al.get([client.small_value_batch_arg.remote(SIZES.calls_per_client) for client in clients])

    async with killed(*clients, *actors):
        yield Work(call, SIZES.calls_per_client * SERVERS)


@asynccontextmanager
async def inproc_sync() -> AsyncIterator[Work]:
    async with al.init("inproc://"):
        actor: Any = AsyncActor.remote()

        async def call() -> None:
            await actor.small_value()

        yield Work(call)


@asynccontextmanager
async def inproc_async() -> AsyncIterator[Work]:
    async with al.init("inproc://"):
        actor: Any = AsyncActor.remote()

        async def call() -> None:
            # As xoscar's row does it: structured calls, gathered.
            await asyncio.gather(*[actor.small_value() for _ in range(SIZES.batch)])

        yield Work(call, SIZES.batch)


async def fresh() -> dict[str, float]:
    """Times of a session that nothing has used before."""
    started = time.perf_counter()
    async with session():
        up = time.perf_counter()
        first = Actor.remote()
        await first.small_value.remote()
        answered = time.perf_counter()
        await al.kill(first)
        asked = time.perf_counter()
        actors = [Actor.remote() for _ in range(SIZES.fresh_actors)]
        await al.get([actor.small_value.remote() for actor in actors])
        ready = time.perf_counter()
        memory_mb = proportional_mb()
    return {
        SESSION_START: up - started,
        FIRST_ACTOR: answered - up,
        TWENTY_ACTORS: ready - asked,
        TWENTY_MEMORY: memory_mb,
    }


def loaded_dependencies() -> list[str]:
    """Which of the core dependencies `from actorlite import *` needs, and asyncio."""
    names = ("asyncio", *CORE_DEPENDENCIES)
    code = f"import sys; from actorlite import *; print(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout.split()


def import_times() -> dict[str, float]:
    """Medians of three readings, taken in turn so that all three rows meet the same machine."""
    import statistics  # not at the top: with what it imports it takes memory in the process whose memory is a row

    # Not `actorlite`, which imports next to nothing before its first name is used.
    sets = {IMPORT: ["actorlite.interface"], IMPORT_LOADED: loaded_dependencies(), IMPORT_CORE: CORE_DEPENDENCIES}
    readings: dict[str, list[float]] = {name: [] for name in sets}
    for _ in range(3):
        for name, modules in sets.items():
            readings[name].append(import_seconds(modules))
    return {name: statistics.median(values) for name, values in readings.items()}


async def imports() -> Mapping[str, float]:
    return await asyncio.to_thread(import_times)


def version() -> str:
    from importlib import metadata  # as `statistics`

    try:
        return metadata.version("actorlite")
    except metadata.PackageNotFoundError:
        return "(not installed)"


ALONE: dict[str, RowSetup] = {INPROC_SYNC: inproc_sync, INPROC_ASYNC: inproc_async}
ROWS: dict[str, RowSetup] = {
    "single client get calls (Plasma Store)": get_small,
    "single client put calls (Plasma Store)": put_calls,
    "multi client put calls (Plasma Store)": put_calls_multi,
    "single client put gigabytes": put_gigabytes,
    "single client tasks and get batch": tasks_batch(1),
    "multi client put gigabytes": put_gigabytes_multi,
    "single client get object containing 10k refs": get_refs,
    "single client wait 1k refs": wait_refs,
    "single client tasks sync": tasks_sync,
    "single client tasks async": tasks_batch(SIZES.batch),
    "multi client tasks async": tasks_multi,
    "1:1 actor calls sync": calls_sync(Actor),
    "1:1 actor calls async": calls_async(Actor),
    "1:1 actor calls concurrent": calls_async(Actor, max_concurrency=16),
    "1:1 structured actor calls sync": calls_structured(Actor),
    "1:n actor calls async": one_to_many(Actor),
    "n:n actor calls async": many_to_many(Actor),
    "n:n actor calls with arg async": many_to_many_arg,
    "1:1 async-actor calls sync": calls_sync(AsyncActor),
    "1:1 async-actor calls async": calls_async(AsyncActor),
    "1:1 async-actor calls concurrent": calls_async(AsyncActor, max_concurrency=16),
    "1:1 structured async-actor calls sync": calls_structured(AsyncActor),
    "1:1 async-actor calls with args async": calls_args,
    "1:n async-actor calls async": one_to_many(AsyncActor),
    "n:n async-actor calls async": many_to_many(AsyncActor),
    GROUPS: groups(SIZES.groups),
    GROUPS_SYNC: groups(1),
}


def main() -> None:
    if FRESH:
        stream = take_stdout()
        tell(stream, uvloop.run(fresh()))
        return
    started = Group([SESSION_START, FIRST_ACTOR, TWENTY_ACTORS, TWENTY_MEMORY], lambda: fresh_child(__file__, SIZES))
    timed_imports = Group([IMPORT, IMPORT_LOADED, IMPORT_CORE], imports)
    peer = Peer("actorlite", version(), session, ROWS, ALONE, [timed_imports, started])
    uvloop.run(serve(peer, SIZES))


if __name__ == "__main__":
    main()
