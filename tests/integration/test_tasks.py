"""Remote functions: plain and coroutine functions, arguments, results, options."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import DeadlineExceeded, TaskUnschedulableError

pytestmark = pytest.mark.asyncio


@al.remote
def plain(x: int, by: int = 2) -> int:
    return x * by


@al.remote
async def coroutine(x: int, by: int = 2) -> int:
    await asyncio.sleep(0)
    return x * by


@al.remote
def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


@pytest.mark.parametrize("function", [plain, coroutine], ids=["plain", "coroutine"])
async def test_both_spellings_give_the_value(cluster: al.Session, function: Any) -> None:
    assert await function.remote(3) == 6
    assert await function.remote(3, by=5) == 15
    assert await function(3) == 6
    assert await function(x=3, by=4) == 12
    ref = await function.submit(5)
    assert await ref == 10


async def test_a_wrong_call_is_refused_where_it_is_written(cluster: al.Session) -> None:
    with pytest.raises(TypeError, match="by_mistake"):
        plain.remote(1, by_mistake=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        await plain()  # type: ignore[call-arg]


async def test_many_at_once_in_order_of_submission(cluster: al.Session) -> None:
    refs = [plain.remote(n) for n in range(300)] + [coroutine.remote(n) for n in range(300)]
    assert await al.get(refs) == [2 * n for n in range(300)] * 2


async def test_arguments_are_copies(cluster: al.Session) -> None:
    @al.remote
    async def change(values: list[int]) -> list[int]:
        values.append(9)
        return values

    mine = [1]
    assert await change(mine) == [1, 9]
    assert mine == [1]


async def test_references_at_the_top_level_become_their_values(cluster: al.Session) -> None:
    first = plain.remote(1)
    args, kwargs = await echo.remote(first, 7, named=coroutine.remote(2), other=await al.put([1]))
    assert (args, kwargs) == ((2, 7), {"named": 4, "other": [1]})


async def test_a_chain_of_dependencies_runs_without_awaiting_between(cluster: al.Session) -> None:
    ref = plain.remote(1)
    for _ in range(50):
        ref = plain.remote(al.arg(ref), by=1)
    assert await ref == 2


async def test_a_plain_function_does_not_run_on_the_loop(cluster: al.Session) -> None:
    @al.remote
    def thread() -> tuple[str, bool]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return threading.current_thread().name, False
        return threading.current_thread().name, True

    name, on_loop = await thread()
    assert not on_loop
    assert name != threading.main_thread().name


async def test_several_results(cluster: al.Session) -> None:
    @al.remote(num_returns=3)
    def three(start: int) -> tuple[int, ...]:
        return tuple(range(start, start + 3))

    a, b, c = three.remote(1)
    assert [await c, await a, await b] == [3, 1, 2]
    assert await three(4) == [4, 5, 6]
    assert await plain.remote(al.arg(b)) == 4


async def test_no_result(cluster: al.Session, gate: Any) -> None:
    @al.remote(num_returns=0)
    def nothing() -> None:
        gate.arrive()

    assert nothing.remote() is None
    await gate.arrived()
    assert await nothing() is None
    await gate.arrived()


async def test_from_another_thread(cluster: al.Session) -> None:
    def submit() -> list[int]:
        return [ref.result(10) for ref in [plain.remote(n) for n in range(20)]]

    assert await asyncio.to_thread(submit) == [2 * n for n in range(20)]


@pytest.mark.parametrize("size", [0, 100_000, 3_000_000])
async def test_sizes(cluster: al.Session, size: int) -> None:
    data = bytes(range(256)) * (size // 256)
    (args, _) = await echo.remote(data, [data], bytearray(data))
    assert args == (data, [data], bytearray(data))


async def test_a_request_that_can_never_be_met_fails_at_once_with_the_shortfall(cluster: al.Session) -> None:
    with pytest.raises(
        TaskUnschedulableError, match=r"plain needs CPU: 50, but the node has CPU: 2 in all \(CPU: 48 too few\)"
    ):
        await plain.options(num_cpus=50).remote(1)
    with pytest.raises(TaskUnschedulableError):
        await plain.options(num_cpus=2.5)(1)
    assert await plain.options(num_cpus=2)(1) == 2


async def test_fractions_of_a_cpu_and_none(cluster: al.Session) -> None:
    assert await plain.options(num_cpus=0.25)(1) == 2
    assert await al.get([plain.options(num_cpus=0).remote(n) for n in range(20)]) == [2 * n for n in range(20)]


async def test_a_deadline(cluster: al.Session, gate: Any, eventually: Any) -> None:
    @al.remote
    async def for_ever() -> None:
        try:
            gate.arrive()
            await asyncio.Event().wait()
        finally:
            gate.arrive()

    slow = for_ever.options(timeout=0.05)
    with pytest.raises(DeadlineExceeded, match="for_ever\\(\\) did not end within its timeout of 0.05 s"):
        await slow.remote()
    await gate.arrived(2)  # it was told to stop, and did
    with pytest.raises(TimeoutError):
        await slow()
    await gate.arrived(2)
    assert await plain.options(timeout=10)(1) == 2


async def test_a_deadline_counts_while_queued(cluster: al.Session, gate: Any) -> None:
    @al.remote
    def hold() -> None:
        gate.hold()

    holding = [hold.remote() for _ in range(2)]
    await gate.arrived(2)
    with pytest.raises(DeadlineExceeded):
        await hold.options(timeout=0.03).remote()
    gate.open(2)
    await al.get(holding)
    assert await plain(1) == 2


async def test_the_name_option_shows_in_the_context(cluster: al.Session) -> None:
    @al.remote
    async def names() -> tuple[str | None, str | None]:
        context = al.runtime_context()
        return context.get_task_name(), context.get_task_function_name()

    assert await names.options(name="special")() == ("special", "names")
    assert await names() == ("names", "names")


async def test_system_exit_and_keyboard_interrupt_are_errors_of_the_task(cluster: al.Session) -> None:
    @al.remote
    def leave() -> None:
        raise SystemExit(3)

    @al.remote
    async def leave_async() -> None:
        raise SystemExit(4)

    for function, code in ((leave, 3), (leave_async, 4)):
        (outcome,) = await asyncio.gather(catch(function), return_exceptions=True)
        assert isinstance(outcome, SystemExit)
        assert outcome.code == code
    assert await plain(2) == 4


async def catch(function: Any) -> BaseException | None:
    # A SystemExit that leaves a task ends the loop.
    try:
        await function.remote()
    except BaseException as error:
        return error
    return None


class Odd(al.Actor):
    async def odd(self) -> None:
        raise asyncio.CancelledError("mine")

    @al.method
    def odd_plain(self) -> None:
        raise asyncio.CancelledError("mine")


async def test_a_task_that_raises_cancelled_error_does_not_cancel_its_caller(cluster: al.Session) -> None:
    @al.remote
    async def odd() -> None:
        raise asyncio.CancelledError("mine")

    @al.remote
    def odd_plain() -> None:
        raise asyncio.CancelledError("mine")

    actor = Odd.remote()
    await al.ready(actor)
    for function in (odd, odd_plain, actor.odd, actor.odd_plain):
        with pytest.raises(Exception, match="mine"):
            await function.remote()
        with pytest.raises(Exception, match="mine"):
            await function()
