"""Ownership against a model: references are passed, kept, nested, returned and dropped, and holders die, in any order.

As long as anybody may ask for a value it is there and right; when nobody can any more, the store is empty. What an
actor owns ends with it.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack
from typing import Any

import numpy
import numpy.typing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import actorlite as al
from actorlite.context import current_runtime
from actorlite.errors import ActorDiedError, ObjectLostError
from actorlite.testing.cluster import local_cluster

Array = numpy.typing.NDArray[numpy.int64]
SIZE = 40_000
STORE_BYTES = 4 << 20
ACTORS = 3
WITHIN_S = 20.0


def content(seed: int) -> Array:
    return numpy.arange(SIZE, dtype=numpy.int64) + (seed << 32)


class Holder(al.Actor):
    """Keeps references by number."""

    def __init__(self) -> None:
        self.kept: dict[int, al.ObjectRef[Any]] = {}

    async def keep(self, number: int, refs: list[al.ObjectRef[Any]]) -> None:
        self.kept[number] = refs[0]

    async def put(self, number: int, seed: int) -> list[al.ObjectRef[Any]]:
        self.kept[number] = await al.put(content(seed))
        return [self.kept[number]]

    async def give(self, number: int) -> list[al.ObjectRef[Any]]:
        return [self.kept[number]]

    async def read(self, number: int) -> Any:
        value = await self.kept[number]
        return int(value[0]) >> 32

    async def drop(self, number: int) -> None:
        del self.kept[number]


@al.remote
async def make(seed: int) -> Array:
    return content(seed)


class Ownership(RuleBasedStateMachine):
    scheme = "inproc"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.before = current_runtime.get()
        self.seeds = 0
        self.owners: dict[int, Any] = {}
        """Of each seed: the actor that owns its value; None for the driver."""
        self.here: dict[int, al.ObjectRef[Any]] = {}
        self.there: list[dict[int, None]] = [{} for _ in range(ACTORS)]
        self.actors: list[Any] = []
        self.run(self.open())

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, WITHIN_S))

    async def open(self) -> None:
        cluster = local_cluster(scheme=self.scheme, num_cpus=8, object_store_memory=STORE_BYTES)
        self.session = await self.stack.enter_async_context(cluster)
        self.actors = [Holder.options(session=self.session).remote() for _ in range(ACTORS)]

    def seed(self, owner: Any = None) -> int:
        self.seeds += 1
        self.owners[self.seeds] = owner
        return self.seeds

    def lost(self, seed: int) -> bool:
        """Whether the actor that owned the value is gone."""
        return self.owners[seed] is not None and self.owners[seed] not in self.actors

    async def check(self, seed: int, reading: Any) -> None:
        try:
            value = await reading
        except ObjectLostError:
            assert self.lost(seed), f"value {seed} was lost although its owner lives"
        else:
            assert value == seed if isinstance(value, int) else (value == content(seed)).all()

    # --- what may happen

    @rule()
    def put(self) -> None:
        async def work() -> None:
            self.here[seed] = await al.put(content(seed))

        seed = self.seed()
        self.run(work())

    @rule()
    def compute(self) -> None:
        async def work() -> None:
            self.here[seed] = make.options(session=self.session).remote(seed)
            await self.here[seed].ready()

        seed = self.seed()
        self.run(work())

    @rule(actor=st.integers(0, ACTORS - 1))
    def put_there(self, actor: int) -> None:
        async def work() -> None:
            (self.here[seed],) = await self.actors[actor].put.remote(seed, seed)

        seed = self.seed(self.actors[actor])
        self.run(work())
        self.there[actor][seed] = None

    @precondition(lambda self: self.here)
    @rule(data=st.data(), actor=st.integers(0, ACTORS - 1))
    def pass_on(self, data: st.DataObject, actor: int) -> None:
        seed = data.draw(st.sampled_from(sorted(self.here)))
        self.run(self.actors[actor].keep.remote(seed, [self.here[seed]]).get())
        self.there[actor][seed] = None

    @precondition(lambda self: any(self.there))
    @rule(data=st.data(), drops=st.booleans())
    def give_back(self, data: st.DataObject, drops: bool) -> None:
        async def work() -> None:
            (self.here[seed],) = await self.actors[actor].give.remote(seed)
            if drops:
                await self.actors[actor].drop.remote(seed)

        actor = data.draw(st.sampled_from([number for number, kept in enumerate(self.there) if kept]))
        seed = data.draw(st.sampled_from(sorted(self.there[actor])))
        self.run(work())
        if drops:
            del self.there[actor][seed]

    @precondition(lambda self: any(self.there))
    @rule(data=st.data(), to=st.integers(0, ACTORS - 1))
    def pass_between(self, data: st.DataObject, to: int) -> None:
        """Through the driver, which does not keep it."""

        async def work() -> None:
            await self.actors[to].keep.remote(seed, await self.actors[actor].give.remote(seed))

        actor = data.draw(st.sampled_from([number for number, kept in enumerate(self.there) if kept]))
        seed = data.draw(st.sampled_from(sorted(self.there[actor])))
        self.run(work())
        self.there[to][seed] = None

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def drop_here(self, data: st.DataObject) -> None:
        del self.here[data.draw(st.sampled_from(sorted(self.here)))]

    @precondition(lambda self: any(self.there))
    @rule(data=st.data())
    def drop_there(self, data: st.DataObject) -> None:
        actor = data.draw(st.sampled_from([number for number, kept in enumerate(self.there) if kept]))
        seed = data.draw(st.sampled_from(sorted(self.there[actor])))
        self.run(self.actors[actor].drop.remote(seed).get())
        del self.there[actor][seed]

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def read_here(self, data: st.DataObject) -> None:
        seed = data.draw(st.sampled_from(sorted(self.here)))
        self.run(self.check(seed, self.here[seed].get()))

    @precondition(lambda self: any(self.there))
    @rule(data=st.data())
    def read_there(self, data: st.DataObject) -> None:
        actor = data.draw(st.sampled_from([number for number, kept in enumerate(self.there) if kept]))
        seed = data.draw(st.sampled_from(sorted(self.there[actor])))
        self.run(self.check(seed, self.actors[actor].read.remote(seed).get()))

    @rule(actor=st.integers(0, ACTORS - 1))
    def die(self, actor: int) -> None:
        async def work() -> None:
            dead = self.actors[actor]
            await al.kill(dead)
            try:
                await dead.read.remote(0)
            except ActorDiedError:
                pass
            self.actors[actor] = Holder.options(session=self.session).remote()
            await al.ready(self.actors[actor])

        self.run(work())
        self.there[actor].clear()

    # --- what must hold

    @invariant()
    def nothing_is_left_that_nobody_can_ask_for(self) -> None:
        if self.here or any(self.there):
            return

        async def empty() -> None:
            while True:
                gc.collect()
                found = await al.memory()
                if not found.objects and not found.used and not found.spilled:
                    return
                await asyncio.sleep(0.001)

        self.run(empty())

    def teardown(self) -> None:
        async def all_there() -> None:
            for seed, ref in self.here.items():
                await self.check(seed, ref.get())
            for actor, kept in enumerate(self.there):
                for seed in kept:
                    await self.check(seed, self.actors[actor].read.remote(seed).get())

        try:
            self.run(all_there())
            self.here.clear()
            for actor, kept in enumerate(self.there):
                for seed in kept:
                    self.run(self.actors[actor].drop.remote(seed).get())
                kept.clear()
            self.nothing_is_left_that_nobody_can_ask_for()
        finally:
            self.run(self.stack.aclose())
            self.loop.close()
            current_runtime.set(self.before)


def test_values_live_as_long_as_somebody_can_ask_for_them(complaints: Any) -> None:
    limits = settings(
        max_examples=25,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Ownership, settings=limits)
    complaints.records.clear()  # of actors that were killed under calls
