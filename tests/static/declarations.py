"""Functions and actors that the other files of this folder use; never run, only checked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import actorlite as al

T = TypeVar("T")


@al.remote
def parse(path: str, *, strict: bool = False) -> bytes:
    return b""


@al.remote(num_cpus=2, max_retries=1, timeout=5)
def parse_big(path: str, *, strict: bool = False) -> bytes:
    return b""


@al.remote
async def fetch(url: str, size: int = 1) -> bytes:
    return b""


@al.remote(num_cpus=0.5)
async def fetch_some(*urls: str, **headers: int) -> list[bytes]:
    return []


@al.remote(num_returns=2)
def halves(data: bytes) -> tuple[bytes, bytes]:
    return data, data


@al.remote
def consume(data: bytes) -> int:
    return 1


@al.remote
def merge(parts: Iterable[bytes], /) -> bytes:
    return b""


@al.remote
def anything(path: str) -> Any:
    return b""


@al.remote
def lines(path: str, *, strict: bool = False) -> Iterator[bytes]:
    yield b""


@al.remote(num_cpus=2, stream_window=4, stream_window_bytes=1000)
async def tokens(prompt: str) -> AsyncIterator[str]:
    yield ""


@al.remote(num_returns="streaming")
def gen(path: str) -> Generator[int, None, str]:
    yield 1
    return ""


@al.remote
async def agen(path: str) -> AsyncGenerator[int, None]:
    yield 1


class Model(al.Actor):
    async def stream(self, prompt: str) -> AsyncIterator[str]:
        yield ""

    @al.method
    async def tokens(self, prompt: str, *, top: int = 1) -> AsyncIterator[str]:
        yield ""

    @al.method
    def lines(self, path: str) -> Iterator[bytes]:
        yield b""

    @al.method(timeout=3, stream_window=2)
    def timed(self, path: str) -> Generator[int, None, None]:
        yield 1


class Counter(al.Actor, num_cpus=1, process="shared"):
    limit: int = 3

    def __init__(self, start: int = 0) -> None:
        self.n = start

    async def incr(self, by: int = 1) -> int:
        self.n += by
        return self.n

    @al.method
    async def decr(self, by: int = 1, *, why: str = "") -> int:
        return await self.incr(-by)

    @al.method
    def slow(self, k: int, *, strict: bool = False) -> list[int]:
        return [k]

    @al.method(timeout=3)
    def timed(self, k: int) -> str:
        return ""

    @al.method(timeout=3)
    async def atimed(self, k: int) -> str:
        return ""

    @al.method(num_returns=2)
    def pair(self, k: int) -> tuple[int, int]:
        return k, k

    async def on_start(self) -> None: ...


class Loud(Counter, max_concurrency=4):
    @al.method
    async def decr(self, by: int = 1, *, why: str = "") -> int:
        return 1 + await super().decr(by, why=why)


@al.remote
class Same(al.Actor):
    def __init__(self, name: str) -> None: ...


@al.remote(num_cpus=1, max_pending_calls=10)
@dataclass
class Point(al.Actor):
    x: int
    y: int = 0

    async def length(self) -> float:
        return 0.0


class Box(al.Actor, Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    async def get(self) -> T:
        return self.value


class FromRay:
    def __init__(self, start: int) -> None: ...

    def add(self, by: int) -> int:
        return by


Untyped = al.remote(FromRay)
UntypedBig = al.remote(num_cpus=2)(FromRay)
