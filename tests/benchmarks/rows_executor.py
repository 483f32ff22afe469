"""The rows of tasks on `concurrent.futures.ProcessPoolExecutor`. Standard library only."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from rows import IMPORT, SESSION_START
from rowserver import (
    CPUS,
    Group,
    Peer,
    RowSetup,
    Work,
    fresh_child,
    import_seconds,
    serve,
    settings,
    take_stdout,
    tell,
)

SIZES, FRESH = settings()


def small_value() -> bytes:
    return b"ok"


class Pool:
    """The executor of the open session; rows find it here because their set-ups take no argument."""

    executor: ProcessPoolExecutor


@contextmanager
def session() -> Iterator[None]:
    with ProcessPoolExecutor(CPUS, mp_context=multiprocessing.get_context("spawn")) as executor:
        Pool.executor = executor
        yield


@contextmanager
def tasks_sync() -> Iterator[Work]:
    yield Work(lambda: Pool.executor.submit(small_value).result())


def tasks_batch(units: float) -> RowSetup:
    @contextmanager
    def setup() -> Iterator[Work]:
        def call() -> None:
            for future in [Pool.executor.submit(small_value) for _ in range(SIZES.batch)]:
                future.result()

        yield Work(call, units)

    return setup


async def imports() -> Mapping[str, float]:
    return {IMPORT: await asyncio.to_thread(import_seconds, ["concurrent.futures.process"])}


def fresh() -> dict[str, float]:
    """An executor starts its processes with the first task, so that is part of its start."""
    started = time.perf_counter()
    with session():
        Pool.executor.submit(small_value).result()
        return {SESSION_START: time.perf_counter() - started}


ROWS: dict[str, RowSetup] = {
    "single client tasks and get batch": tasks_batch(1),
    "single client tasks sync": tasks_sync,
    "single client tasks async": tasks_batch(SIZES.batch),
}


def main() -> None:
    if FRESH:
        stream = take_stdout()
        tell(stream, fresh())
        return
    started = Group([SESSION_START], lambda: fresh_child(__file__, SIZES))
    peer = Peer("executor", sys.version.split()[0], session, ROWS, {}, [Group([IMPORT], imports), started])
    asyncio.run(serve(peer, SIZES))


if __name__ == "__main__":
    main()
