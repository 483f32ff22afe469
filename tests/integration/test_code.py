"""Code that a worker cannot import by name: closures, classes of test modules, recursion, things captured."""

from __future__ import annotations

import asyncio
import enum
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

import actorlite as al

pytestmark = pytest.mark.asyncio

FACTOR = 3


@dataclass
class Point:
    x: int
    y: int = 0

    def moved(self, by: int) -> Point:
        return Point(self.x + by, self.y + by)


class Pair(NamedTuple):
    left: int
    right: int


class Colour(enum.Enum):
    RED = 1


class Base(al.Actor):
    async def name(self) -> str:
        return f"base {self.extra()}"

    def extra(self) -> str:
        return "none"


class Derived(Base):
    def extra(self) -> str:
        return f"derived {helper(1)}"

    async def deep(self) -> str:
        return f"{await self.name()} {await super().name()}"


def helper(x: int) -> int:
    return x * FACTOR


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return ("wrapped", function(*args, **kwargs))

    return inner


@al.remote
def uses_globals(x: int) -> int:
    return helper(x)


@al.remote
def factorial(n: int) -> int:
    return 1 if n <= 1 else n * al.sync.get(factorial.remote(n - 1))


@al.remote
async def even(n: int) -> bool:
    return True if n == 0 else await odd(n - 1)


@al.remote
async def odd(n: int) -> bool:
    return False if n == 0 else await even(n - 1)


@al.remote
async def move(point: Point, by: int = 1) -> Point:
    return point.moved(by)


async def test_globals_of_the_module(cluster: al.Session) -> None:
    assert await uses_globals(5) == 15


async def test_recursion(cluster: al.Session) -> None:
    assert await factorial(6) == 720
    assert await even(5) is False
    assert await odd.remote(5) is True


async def test_closures(cluster: al.Session) -> None:
    captured = {"n": 10}

    @al.remote
    def add(x: int) -> int:
        return x + captured["n"]

    assert await add(1) == 11
    captured["n"] = 99
    assert await add(1) == 11  # captured at first use, as in Ray


async def test_a_lambda_and_a_wrapped_function(cluster: al.Session) -> None:
    double: Any = al.remote(lambda x: 2 * x)
    assert await double(4) == 8
    assert await double.remote(5) == 10

    @al.remote
    @wrapped
    def plain(x: int) -> int:
        return x

    assert await plain(3) == ("wrapped", 3)


async def test_two_functions_of_one_name(cluster: al.Session) -> None:
    def make(k: int) -> Any:
        @al.remote
        def same(x: int) -> int:
            return x * k

        return same

    assert await asyncio.gather(*(make(k)(10) for k in range(5))) == [0, 10, 20, 30, 40]


async def test_classes_of_this_module(cluster: al.Session) -> None:
    moved = await move(Point(1, 2), by=3)
    assert type(moved) is Point
    assert moved == Point(4, 5)

    @al.remote
    def kinds(pair: Pair, colour: Colour) -> tuple[Pair, Colour, bool]:
        return pair, colour, colour is Colour.RED

    pair, colour, same = await kinds(Pair(1, 2), Colour.RED)
    assert type(pair) is Pair
    assert colour is Colour.RED
    assert same


async def test_local_classes(cluster: al.Session) -> None:
    @dataclass
    class Local:
        value: int

        def double(self) -> Local:
            return Local(2 * self.value)

    @al.remote
    async def double(local: Local) -> Local:
        return local.double()

    result = await double(Local(4))
    assert type(result) is Local
    assert result == Local(8)


async def test_inheritance_of_actors(cluster: al.Session) -> None:
    derived = Derived.remote()
    assert await derived.name() == "base derived 3"
    assert await derived.deep() == "base derived 3 base derived 3"
    assert await Base.remote().name() == "base none"


async def test_local_actor_classes(cluster: al.Session) -> None:
    offset = 5

    class Local(al.Actor):
        def __init__(self, start: int) -> None:
            self.n = start + offset

        async def twin(self) -> Local:
            return Local.remote(self.n)

        async def value(self) -> int:
            return self.n

    assert await Local.remote(1).value() == 6
    assert await (await Local.remote(1).twin()).value() == 11


async def test_functions_and_classes_as_arguments(cluster: al.Session) -> None:
    @al.remote
    async def apply(function: Any, *args: Any) -> Any:
        return function(*args)

    @al.remote
    async def call(function: Any, *args: Any) -> Any:
        return await function(*args)

    assert await apply(lambda x: x + FACTOR, 1) == 4
    assert await apply(Point, 1, 2) == Point(1, 2)
    assert await call(uses_globals, 2) == 6
    assert await call(uses_globals.options(name="renamed", num_cpus=0), 3) == 9

    @al.remote
    async def start(cls: Any) -> str:
        return str(await cls.remote().name())

    assert await start(Derived) == "base derived 3"


async def test_a_reference_captured_by_code_lives_as_long_as_the_session(cluster: al.Session) -> None:
    ref = await al.put([1, 2, 3])

    @al.remote
    async def total() -> int:
        return sum(await ref)  # noqa: F821

    assert await total() == 6
    del ref
    __import__("gc").collect()
    assert await asyncio.gather(*(total() for _ in range(4))) == [6] * 4


async def test_a_handle_captured_by_code(cluster: al.Session) -> None:
    base = Base.remote()

    @al.remote
    async def ask() -> str:
        return await base.name()

    assert await ask() == "base none"


async def test_code_goes_by_value_through_several_workers(cluster: al.Session) -> None:
    @al.remote
    async def inner(x: int) -> int:
        return helper(x) + 1

    @al.remote
    async def outer(x: int) -> int:
        return await inner.remote(x) + await move_x(x)

    async def move_x(x: int) -> int:
        return (await move(Point(x))).x

    assert await outer(2) == 10
