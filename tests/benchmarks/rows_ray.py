"""The rows on Ray, with the bodies of Ray's own microbenchmark. Needs Ray and numpy, nothing else."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # the default writes a token into the user's home

import numpy as np
import ray
from ray.util import placement_group, remove_placement_group
from rows import FIRST_ACTOR, GROUPS, GROUPS_SYNC, IMPORT, SESSION_START, TWENTY_ACTORS, TWENTY_MEMORY
from rowserver import (
    CPUS,
    SERVERS,
    Group,
    Peer,
    RowSetup,
    Sizes,
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


@ray.remote(num_cpus=0)
class Actor:
    def small_value(self) -> bytes:
        return b"ok"

    def small_value_arg(self, x: Any) -> bytes:
        return b"ok"

    def small_value_batch(self, n: int) -> None:
        ray.get([small_value.remote() for _ in range(n)])


@ray.remote
class AsyncActor:
    async def small_value(self) -> bytes:
        return b"ok"

    async def small_value_with_arg(self, x: Any) -> bytes:
        return b"ok"


@ray.remote(num_cpus=0)
class Client:
    def __init__(self, servers: Any) -> None:
        self.servers = servers if isinstance(servers, list) else [servers]

    def small_value_batch(self, n: int) -> None:
        ray.get([s.small_value.remote() for s in self.servers for _ in range(n)])

    def small_value_batch_arg(self, n: int) -> None:
        x = ray.put(0)
        ray.get([s.small_value_arg.remote(x) for s in self.servers for _ in range(n)])


@ray.remote
def small_value() -> bytes:
    return b"ok"


@ray.remote
def put_small(n: int) -> None:
    for _ in range(n):
        ray.put(0)


@ray.remote
def put_large(n: int, items: int) -> None:
    for _ in range(n):
        ray.put(np.zeros(items, dtype=np.int64))


@ray.remote
def object_containing_refs(n: int) -> list[Any]:
    return [ray.put(1) for _ in range(n)]


@ray.remote
def call_all(actors: list[Any], n: int) -> None:
    ray.get([actors[i % len(actors)].small_value.remote() for i in range(n)])


@contextmanager
def session() -> Iterator[None]:
    ray.init(address="local", num_cpus=CPUS, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def killed(*actors: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for actor in actors:
            ray.kill(actor)


@contextmanager
def get_small() -> Iterator[Work]:
    value = ray.put(0)
    yield Work(lambda: ray.get(value))


@contextmanager
def put_calls() -> Iterator[Work]:
    yield Work(lambda: ray.put(0))


@contextmanager
def put_calls_multi() -> Iterator[Work]:
    def call() -> None:
        ray.get([put_small.remote(SIZES.puts_per_task) for _ in range(SIZES.put_tasks)])

    yield Work(call, SIZES.put_tasks * SIZES.puts_per_task)


@contextmanager
def put_gigabytes() -> Iterator[Work]:
    array = np.zeros(SIZES.large_items, dtype=np.int64)
    yield Work(lambda: ray.put(array), array.nbytes / 1e9)


@contextmanager
def put_gigabytes_multi() -> Iterator[Work]:
    def call() -> None:
        n, items = SIZES.large_puts_per_task, SIZES.large_put_items
        ray.get([put_large.remote(n, items) for _ in range(SIZES.large_put_tasks)])

    yield Work(call, SIZES.large_put_tasks * SIZES.large_puts_per_task * SIZES.large_put_items * 8 / 1e9)


@contextmanager
def get_refs() -> Iterator[Work]:
    value = object_containing_refs.remote(SIZES.contained_refs)
    ray.wait([value])
    yield Work(lambda: ray.get(value))


@contextmanager
def wait_refs() -> Iterator[Work]:
    def call() -> None:
        not_ready = [small_value.remote() for _ in range(SIZES.waited_refs)]
        fetch_local = True  # once is enough: Ray keeps the fetch requests after `wait` returns
        for _ in range(SIZES.waited_refs):
            _ready, not_ready = ray.wait(not_ready, fetch_local=fetch_local)
            fetch_local = False

    yield Work(call)


@contextmanager
def tasks_sync() -> Iterator[Work]:
    yield Work(lambda: ray.get(small_value.remote()))


def tasks_batch(units: float) -> RowSetup:
    @contextmanager
    def setup() -> Iterator[Work]:
        yield Work(lambda: ray.get([small_value.remote() for _ in range(SIZES.batch)]), units)

    return setup


@contextmanager
def tasks_multi() -> Iterator[Work]:
    actors = [Actor.remote() for _ in range(SIZES.clients)]

    def call() -> None:
        ray.get([a.small_value_batch.remote(SIZES.tasks_per_client) for a in actors])

    with killed(*actors):
        yield Work(call, SIZES.clients * SIZES.tasks_per_client)


def calls_sync(cls: Any) -> RowSetup:
    @contextmanager
    def setup() -> Iterator[Work]:
        actor = cls.remote()
        with killed(actor):
            yield Work(lambda: ray.get(actor.small_value.remote()))

    return setup


def calls_async(cls: Any, **options: Any) -> RowSetup:
    @contextmanager
    def setup() -> Iterator[Work]:
        actor = cls.options(**options).remote()
        with killed(actor):
            yield Work(lambda: ray.get([actor.small_value.remote() for _ in range(SIZES.batch)]), SIZES.batch)

    return setup


@contextmanager
def calls_args() -> Iterator[Work]:
    actor = AsyncActor.remote()
    with killed(actor):
        yield Work(lambda: ray.get([actor.small_value_with_arg.remote(i) for i in range(SIZES.batch)]), SIZES.batch)


def groups(number: int) -> RowSetup:
    """Ray's `placement_group_create_removal`."""

    def call() -> None:
        made = [placement_group([{"CPU": 0.001}]) for _ in range(number)]
        for group in made:
            assert group.wait(timeout_seconds=30)
        for group in made:
            remove_placement_group(group)

    @contextmanager
    def setup() -> Iterator[Work]:
        yield Work(call, number)

    return setup


def one_to_many(cls: Any) -> RowSetup:
    @contextmanager
    def setup() -> Iterator[Work]:
        actors = [cls.remote() for _ in range(SERVERS)]
        client = Client.remote(actors)
        n = SIZES.calls_per_client
        with killed(client, *actors):
            yield Work(lambda: ray.get(client.small_value_batch.remote(n)), n * SERVERS)

    return setup


def many_to_many(cls: Any) -> RowSetup:
    @contextmanager
    def setup() -> Iterator[Work]:
        actors = [cls.remote() for _ in range(SERVERS)]

        def call() -> None:
            ray.get([call_all.remote(actors, SIZES.calls_per_client) for _ in range(SIZES.clients)])

        with killed(*actors):
            yield Work(call, SIZES.clients * SIZES.calls_per_client)

    return setup


@contextmanager
def many_to_many_arg() -> Iterator[Work]:
    actors = [Actor.remote() for _ in range(SERVERS)]
    clients = [Client.remote(actor) for actor in actors]

    def call() -> None:
        ray.get([client.small_value_batch_arg.remote(SIZES.calls_per_client) for client in clients])

    with killed(*clients, *actors):
        yield Work(call, SIZES.calls_per_client * SERVERS)


def fresh(sizes: Sizes) -> dict[str, float]:
    """Times of a session that nothing has used before."""
    started = time.perf_counter()
    with session():
        up = time.perf_counter()
        first = Actor.remote()
        ray.get(first.small_value.remote())
        answered = time.perf_counter()
        with killed(first):
            pass
        asked = time.perf_counter()
        actors = [Actor.remote() for _ in range(sizes.fresh_actors)]
        ray.get([actor.small_value.remote() for actor in actors])
        ready = time.perf_counter()
        memory_mb = proportional_mb()
    return {
        SESSION_START: up - started,
        FIRST_ACTOR: answered - up,
        TWENTY_ACTORS: ready - asked,
        TWENTY_MEMORY: memory_mb,
    }


async def imports() -> Mapping[str, float]:
    return {IMPORT: await asyncio.to_thread(import_seconds, ["ray"])}


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
    "1:n actor calls async": one_to_many(Actor),
    "n:n actor calls async": many_to_many(Actor),
    "n:n actor calls with arg async": many_to_many_arg,
    "1:1 async-actor calls sync": calls_sync(AsyncActor),
    "1:1 async-actor calls async": calls_async(AsyncActor),
    "1:1 async-actor calls concurrent": calls_async(AsyncActor, max_concurrency=16),
    "1:1 async-actor calls with args async": calls_args,
    "1:n async-actor calls async": one_to_many(AsyncActor),
    "n:n async-actor calls async": many_to_many(AsyncActor),
    GROUPS: groups(SIZES.groups),
    GROUPS_SYNC: groups(1),
}


def main() -> None:
    if FRESH:
        stream = take_stdout()
        tell(stream, fresh(SIZES))
        return
    started = Group([SESSION_START, FIRST_ACTOR, TWENTY_ACTORS, TWENTY_MEMORY], lambda: fresh_child(__file__, SIZES))
    peer = Peer("ray", ray.__version__, session, ROWS, {}, [Group([IMPORT], imports), started])
    asyncio.run(serve(peer, SIZES))


if __name__ == "__main__":
    main()
