"""Actors: state, order, concurrency, light actors, ends."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import (
    ActorDiedError,
    ActorUnschedulableError,
    DeadlineExceeded,
    PendingCallsLimitExceeded,
    SessionClosedError,
)

pytestmark = pytest.mark.asyncio


class Counter(al.Actor):
    def __init__(self, start: int = 0) -> None:
        self.n = start
        self.seen: list[int] = []

    async def incr(self, by: int = 1) -> int:
        self.n += by
        return self.n

    @al.method
    def plain(self, by: int = 1) -> int:
        self.n += by
        return self.n

    async def note(self, value: int) -> None:
        self.seen.append(value)

    @al.method
    def note_plain(self, value: int) -> None:
        self.seen.append(value)

    async def notes(self) -> list[int]:
        return self.seen

    async def fail(self) -> None:
        raise KeyError("mine")

    @al.method
    def thread(self) -> int:
        return threading.get_ident()

    async def hold(self, gate: Any) -> str:
        gate.arrive()
        await asyncio.Event().wait()
        return "never"

    @al.method
    def hold_plain(self, gate: Any) -> str:
        gate.hold()
        return "held"

    @al.method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return self.n, -self.n


@al.remote
class Old:
    """As code that comes from Ray is written."""

    def __init__(self, start: int) -> None:
        self.n = start

    def incr(self) -> int:
        self.n += 1
        return self.n


PROCESSES = pytest.mark.parametrize("process", ["dedicated", "shared"])


@PROCESSES
async def test_state_lives_between_calls(cluster: al.Session, process: Any) -> None:
    counter = Counter.options(process=process).remote(10)
    assert await counter.incr() == 11
    assert await counter.plain(by=4) == 15
    assert await counter.incr.remote(5) == 20
    ref = await counter.plain.submit()
    assert await ref == 21
    assert await Counter.options(process=process).remote().incr() == 1


async def test_a_decorated_class(cluster: al.Session) -> None:
    old = Old.remote(1)
    assert await old.incr.remote() == 2
    assert await old.incr() == 3


@PROCESSES
async def test_calls_run_in_the_order_in_which_they_were_made(cluster: al.Session, process: Any) -> None:
    counter = Counter.options(process=process).remote()

    for n in range(200):
        (counter.note if n % 3 else counter.note_plain).remote(n)
    assert await counter.notes() == list(range(200))
    await al.get([counter.note.remote(n) for n in range(200, 250)])
    assert await counter.notes() == list(range(250))


async def test_a_call_with_pending_arguments_holds_back_those_behind_it(cluster: al.Session, gate: Any) -> None:
    @al.remote
    def late() -> int:
        gate.hold()
        return 1

    counter = Counter.remote()
    await al.ready(counter)
    counter.note.remote(al.arg(late.remote()))
    counter.note.remote(2)
    noted = counter.notes.remote()
    await gate.arrived()
    gate.open()
    assert await noted == [1, 2]


async def test_one_call_at_a_time_also_across_awaits(cluster: al.Session) -> None:
    class Busy(al.Actor):
        def __init__(self) -> None:
            self.inside = 0
            self.most = 0

        async def work(self) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            for _ in range(3):
                await asyncio.sleep(0)
            self.inside -= 1

        async def result(self) -> int:
            return self.most

    one = Busy.remote()
    many = Busy.options(max_concurrency=4).remote()
    for actor, most in ((one, 1), (many, 4)):
        await asyncio.gather(*(actor.work() for _ in range(12)))
        assert await actor.result() == most


async def test_concurrent_coroutines_may_wait_for_one_another(cluster: al.Session) -> None:
    class Signal(al.Actor, max_concurrency=20):
        def __init__(self) -> None:
            self.event = asyncio.Event()

        async def wait(self) -> str:
            await self.event.wait()
            return "set"

        async def set(self) -> None:
            self.event.set()

    signal = Signal.remote()
    waiting = [signal.wait.remote() for _ in range(10)]
    await signal.set()
    assert await al.get(waiting) == ["set"] * 10


async def test_plain_methods_run_in_one_thread_and_it_is_always_the_same(cluster: al.Session) -> None:
    counter = Counter.remote()
    assert len(set(await asyncio.gather(*(counter.thread() for _ in range(20))))) == 1
    assert await counter.thread() != threading.get_ident()


async def test_plain_methods_run_at_once_when_asked_for(cluster: al.Session, gate: Any) -> None:
    counter = Counter.options(max_concurrency=3).remote()
    held = [counter.hold_plain.remote(gate) for _ in range(3)]
    await gate.arrived(3)
    gate.open(3)
    assert await al.get(held) == ["held"] * 3


@PROCESSES
async def test_a_method_that_raises_leaves_the_actor_as_it_is(cluster: al.Session, process: Any) -> None:
    counter = Counter.options(process=process).remote()
    with pytest.raises(KeyError, match="mine"):
        await counter.fail()
    assert await counter.incr() == 1


async def test_several_results_of_a_method(cluster: al.Session) -> None:
    counter = Counter.remote(3)
    a, b = counter.pair.remote()
    assert (await a, await b) == (3, -3)
    assert await counter.pair() == [3, -3]
    assert counter.incr.options(num_returns=0).remote() is None
    assert await counter.incr() == 5


@PROCESSES
async def test_kill(cluster: al.Session, gate: Any, process: Any) -> None:
    counter = Counter.options(process=process).remote()
    running, queued = counter.hold.remote(gate), counter.incr.remote()
    await gate.arrived()
    await al.kill(counter)
    for ref in (running, queued, counter.incr.remote()):
        with pytest.raises(ActorDiedError):
            await ref
    with pytest.raises(ActorDiedError, match="al.kill"):
        await counter.incr()
    with pytest.raises(ActorDiedError):
        await al.ready(counter)
    await al.kill(counter)  # again


async def test_killing_one_light_actor_leaves_its_neighbours(cluster: al.Session) -> None:
    one, two = (Counter.options(process="shared").remote() for _ in range(2))
    assert await asyncio.gather(one.incr(), two.incr()) == [1, 1]
    await al.kill(one)
    assert await two.incr() == 2


async def test_kill_before_the_actor_exists(cluster: al.Session, all_free: Any) -> None:
    counter = Counter.remote()
    early = counter.incr.remote()
    await al.kill(counter)
    with pytest.raises(ActorDiedError):
        await early
    await all_free(cluster)


@PROCESSES
async def test_kill_while_an_argument_of_the_constructor_is_pending(
    cluster: al.Session, gate: Any, all_free: Any, process: Any
) -> None:
    @al.remote
    def late() -> int:
        gate.hold()
        return 1

    class Loud(al.Actor):
        def __init__(self, value: int) -> None:
            gate.arrive()
            gate.arrive()

        async def ping(self) -> None: ...

    argument = late.remote()
    await gate.arrived()
    loud = Loud.options(process=process, num_cpus=1).remote(al.arg(argument))
    await al.kill(loud)
    gate.open()
    assert await argument == 1
    with pytest.raises(ActorDiedError):
        await loud.ping()
    await all_free(cluster)


async def test_a_limit_on_pending_calls(cluster: al.Session, gate: Any) -> None:
    counter = Counter.options(max_pending_calls=2).remote()
    held = counter.hold_plain.remote(gate)
    second = counter.incr.remote()
    with pytest.raises(PendingCallsLimitExceeded, match="submit"):
        counter.incr.remote()
    await gate.arrived()
    with pytest.raises(PendingCallsLimitExceeded):
        counter.incr.remote()
    submitting = [asyncio.create_task(counter.incr.submit()) for _ in range(4)]
    gate.open()
    refs = await asyncio.wait_for(asyncio.gather(*submitting), 10)
    assert await held == "held"
    assert await second == 1
    assert sorted(await al.get(list(refs))) == [2, 3, 4, 5]


async def test_waiting_for_room_on_an_actor_that_is_still_being_made(cluster: al.Session) -> None:
    counter = Counter.options(max_pending_calls=1).remote()
    first = counter.incr.remote()
    second = await asyncio.wait_for(counter.incr.submit(), 10)
    assert await al.get([first, second]) == [1, 2]


async def test_a_cancelled_waiter_for_room_passes_its_turn_on(cluster: al.Session, gate: Any) -> None:
    counter = Counter.options(max_pending_calls=1).remote()
    held = counter.hold_plain.remote(gate)
    await gate.arrived()
    gone, kept = asyncio.create_task(counter.incr.submit()), asyncio.create_task(counter.incr.submit())
    await asyncio.sleep(0)
    # It is cancelled in the very pass of the loop in which its turn has come.
    held.add_done_callback(lambda _: gone.cancel())
    gate.open()
    ref = await asyncio.wait_for(kept, 10)
    assert await ref in (1, 2)
    await asyncio.wait([gone])
    if not gone.cancelled():
        await gone.result()


async def test_waiting_for_room_ends_when_the_actor_dies(cluster: al.Session, gate: Any) -> None:
    counter = Counter.options(max_pending_calls=1).remote()
    held = counter.hold.remote(gate)
    await gate.arrived()
    waiting = asyncio.create_task(counter.incr.submit())
    await asyncio.sleep(0)
    await al.kill(counter)
    ref = await asyncio.wait_for(waiting, 10)
    for each in (held, ref):
        with pytest.raises(ActorDiedError):
            await each


async def test_waiting_for_room_ends_when_the_constructor_fails(cluster: al.Session) -> None:
    class Broken(al.Actor, max_pending_calls=1):
        def __init__(self) -> None:
            raise ValueError("no")

        async def ping(self) -> None: ...

    broken = Broken.remote()
    refs = [broken.ping.remote(), await asyncio.wait_for(broken.ping.submit(), 10)]
    for ref in refs:
        with pytest.raises(ActorDiedError):
            await ref


async def test_handles_say_what_they_have(cluster: al.Session) -> None:
    counter: Any = Counter.remote()
    with pytest.raises(AttributeError, match="did you mean 'incr'"):
        counter.inc()
    with pytest.raises(AttributeError, match="state is in another process"):
        counter.n = 3
    with pytest.raises(TypeError, match="pickle"):
        __import__("pickle").dumps(counter)
    assert "Counter" in repr(counter)
    assert await counter.incr() == 1


async def test_a_deadline_of_a_method(cluster: al.Session, gate: Any) -> None:
    counter = Counter.remote()
    with pytest.raises(DeadlineExceeded):
        await counter.hold.options(timeout=0.03)(gate)
    with pytest.raises(DeadlineExceeded):
        await counter.hold.options(timeout=0.03).remote(gate)
    assert await counter.incr() == 1  # the cancelled ones gave way


async def test_an_actor_that_can_never_be_placed(cluster: al.Session) -> None:
    counter = Counter.options(num_cpus=9).remote()
    with pytest.raises(ActorDiedError, match=r"ActorUnschedulableError.*needs CPU: 9.*CPU: 7 too few"):
        await counter.incr()
    assert issubclass(ActorUnschedulableError, Exception)


async def test_many_light_actors(cluster: al.Session) -> None:
    actors = [Counter.options(process="shared").remote(n) for n in range(300)]
    assert await asyncio.gather(*(actor.incr() for actor in actors)) == list(range(1, 301))
    assert len((await cluster.status())["workers"]) == 1


async def test_calls_from_threads(cluster: al.Session) -> None:
    counter = Counter.remote()

    def calls() -> int:
        return sum(1 for ref in [counter.incr.remote() for _ in range(25)] if ref.result(10))

    assert await asyncio.gather(*(asyncio.to_thread(calls) for _ in range(4))) == [25] * 4
    assert await counter.incr() == 101


async def test_calls_and_creation_after_the_end(cluster: al.Session) -> None:
    counter = Counter.remote()
    assert await counter.incr() == 1
    await cluster.shutdown()
    with pytest.raises((SessionClosedError, ActorDiedError)):
        await counter.incr()
    with pytest.raises((SessionClosedError, ActorDiedError)):
        counter.incr.remote()
