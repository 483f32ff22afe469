"""Which methods may be answered on the spot."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actorlite.worker.local import runs_in_one_step


async def returns() -> int:
    return 1


async def raises() -> None:
    raise ValueError


async def contains_another() -> Any:
    async def inner() -> None:
        await asyncio.sleep(0)

    return inner


async def awaits() -> None:
    await asyncio.sleep(0)


async def awaits_sometimes(flag: bool) -> None:
    if flag:
        await asyncio.sleep(0)


async def enters() -> None:
    async with asyncio.timeout(1):  # noqa: ASYNC100
        pass


async def iterates(items: Any) -> None:
    async for _ in items:
        pass


async def comprehends(items: Any) -> list[Any]:
    return [each async for each in items]


async def yields() -> Any:
    yield 1


def plain() -> None: ...


@pytest.mark.parametrize("function", [returns, raises, contains_another], ids=lambda each: each.__name__)
def test_nothing_is_awaited(function: Any) -> None:
    assert runs_in_one_step(function)


@pytest.mark.parametrize(
    "function",
    [awaits, awaits_sometimes, enters, iterates, comprehends, yields, plain],
    ids=lambda each: each.__name__,
)
def test_it_may_be_suspended_or_is_no_coroutine(function: Any) -> None:
    assert not runs_in_one_step(function)
