"""Values that lie on another node: copied once for each node, in chunks, from whoever has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import numpy.typing
import pytest
import pytest_asyncio

import actorlite as al
from actorlite.errors import ObjectReconstructionFailedError, TaskUnschedulableError, WorkerCrashedError
from actorlite.ids import ProcessId
from actorlite.node import transfers
from actorlite.node.transfers import WINDOW
from actorlite.rpc.peer import Peer
from actorlite.runtime import stored
from actorlite.state.objects import ObjectTable
from actorlite.testing import Cluster, ClusterNode, cluster
from actorlite.wire.nodes import SendChunk
from actorlite.wire.objects import FreeObjects

from ..arrays import Floats, MiB, pattern

pytestmark = pytest.mark.asyncio

STORE_BYTES = 64 * MiB


@al.remote
def make(seed: int, mib: float = 1) -> Floats:
    return pattern(seed, mib)


@al.remote
def double(array: Floats) -> Floats:
    return array * 2


@al.remote
def total(array: Floats) -> float:
    return float(array.sum())


@al.remote(num_cpus=1)
class Keeper(al.Actor):
    @al.method
    async def make(self, seed: int, mib: float = 1) -> Floats:
        return pattern(seed, mib)

    async def put(self, seed: int) -> list[al.ObjectRef[Floats]]:
        return [await al.put(pattern(seed))]

    async def total(self, array: Floats) -> float:
        return float(array.sum())


@pytest_asyncio.fixture(params=["inproc", "uds", "tcp"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two nodes: the driver's, without CPUs, and another one, where everything runs."""
    async with cluster(
        nodes=2,
        num_cpus=[0, 1],
        scheme=request.param,
        object_store_memory=STORE_BYTES,
        object_spilling_directory=str(tmp_path),
    ) as found:
        yield found


async def made(ref: al.ObjectRef[Any]) -> None:
    """Wait until it lies in a store, without wanting it."""
    async with asyncio.timeout(10):
        while ref._stored is None:
            await asyncio.sleep(0)


def home_of(ref: al.ObjectRef[Any]) -> ProcessId:
    """The node that a large value was written on, which is where its task ran."""
    assert ref._stored is not None
    node: ProcessId = ref._stored.stored.node
    return node


def table_of(node: ClusterNode) -> ObjectTable:
    store = node.node.store._store
    assert store is not None
    return store.table


def is_empty(nodes: Sequence[ClusterNode]) -> bool:
    """Whether no node has anything."""
    stores = [each.node.store._store for each in nodes if each.is_running]
    return all(store is None or not (store.table.objects or store.table.allocator.used_bytes) for store in stores)


class Held:
    """Chunks that a node was asked for, and does not send before the test says so."""

    def __init__(self, node: ClusterNode, let_through: int = 0) -> None:
        self.asked: list[tuple[Peer, SendChunk]] = []
        self.served = 0
        """How many were sent, those that were held included."""
        self._left = let_through
        self._handlers = node.node.hub._handlers.messages
        self._serve = self._handlers[SendChunk]
        self._handlers[SendChunk] = self._take

    def _take(self, peer: Peer, message: SendChunk, parts: Any) -> None:
        if self._left > 0:
            self._left -= 1
            self.served += 1
            self._serve(peer, message, parts)
        else:
            self.asked.append((peer, message))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.asked) < count:
                await asyncio.sleep(0)

    def let_go(self) -> None:
        self._left = 10**9
        for peer, message in self.asked:
            self.served += 1
            self._serve(peer, message, ())
        self.asked.clear()


async def test_a_value_made_on_another_node_is_copied_read_and_freed(pair: Cluster, eventually: Any) -> None:
    ref = make.remote(3, 5.3)  # the last chunk is a short one
    value = await ref
    assert numpy.array_equal(value, pattern(3, 5.3)) and not value.flags.writeable
    assert home_of(ref) == pair.nodes[1].id
    key = ref._stored.stored.key

    async def nobody_reads_the_original() -> bool:
        return not table_of(pair.nodes[1]).objects[key].pins

    await eventually(nobody_reads_the_original)
    del ref, value

    async def gone() -> bool:
        return is_empty(pair.nodes)

    await eventually(gone)


async def test_an_argument_of_the_driver_is_copied_to_where_its_task_runs(pair: Cluster) -> None:
    ref = await al.put(pattern(1, 2))
    assert home_of(ref) == pair.nodes[0].id
    result = double.remote(al.arg(ref))
    assert numpy.array_equal(await result, pattern(1, 2) * 2)
    assert home_of(result) == pair.nodes[1].id
    assert float((await double.remote(pattern(5, 2)))[0]) == 10


async def test_each_object_comes_once_for_all_who_want_it(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = make.remote(1, 4)
    await made(ref)
    held = Held(pair.nodes[1])
    client = pair.session.runtime.stored.client
    opening = [asyncio.create_task(client.open(ref._stored.stored, 10 + n)) for n in range(5)]
    reading = asyncio.create_task(ref.get())
    await held.until(WINDOW)
    held.let_go()
    values = [numpy.frombuffer(each.buffers[0]) for each in await asyncio.gather(*opening)]
    for value in [*values, await reading]:
        assert numpy.array_equal(value, pattern(1, 4))
    assert held.served == 9  # 4 MiB and a bit, once


async def test_many_at_once(pair: Cluster, eventually: Any) -> None:
    refs = [make.remote(seed, 1.3) for seed in range(20)]
    values = await al.get(refs, timeout=30)
    assert all(numpy.array_equal(value, pattern(seed, 1.3)) for seed, value in enumerate(values))
    del refs, values

    async def gone() -> bool:
        return is_empty(pair.nodes)

    await eventually(gone)


@pytest.mark.parametrize("how", ["cancelled", "timeout", "freed"])
async def test_nobody_waits_any_more(pair: Cluster, eventually: Any, how: str) -> None:
    ref = make.remote(1, 8)
    await made(ref)
    held = Held(pair.nodes[1], let_through=2)
    client = pair.session.runtime.stored.client
    there = table_of(pair.nodes[1])
    opening = asyncio.create_task(client.open(ref._stored.stored, 0.2 if how == "timeout" else 30))
    await held.until(1)
    here = table_of(pair.nodes[0])
    assert here.allocator.used_bytes
    if how == "freed":
        client.dropped(ref._stored.stored)
        with pytest.raises(al.errors.ObjectLostError, match="let go"):
            await opening
    elif how == "timeout":
        with pytest.raises(al.errors.ObjectStoreFullError):
            await opening
    else:
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    async def given_back() -> bool:
        pins = [found.pins for found in there.objects.values()]
        return not here.allocator.used_bytes and not any(pins)

    await eventually(given_back)
    held.let_go()  # what comes late goes nowhere
    if how != "freed":
        assert numpy.array_equal(await ref, pattern(1, 8))


async def test_a_copy_is_not_made_for_a_reader_who_has_gone(
    pair: Cluster, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "UNWANTED_S", 0.01)
    ref = make.remote(1, 8)
    await made(ref)
    held = Held(pair.nodes[1], let_through=2)
    with pytest.raises(al.errors.GetTimeoutError):
        await al.get(ref, timeout=0.2)
    reading = asyncio.create_task(ref.get())
    await held.until(1)
    reading.cancel()

    async def given_back() -> bool:
        return not table_of(pair.nodes[0]).allocator.used_bytes

    await eventually(given_back)
    reading = asyncio.create_task(ref.get())
    await held.until(WINDOW)
    held.let_go()
    assert numpy.array_equal(await reading, pattern(1, 8))


async def test_a_pull_goes_on_from_another_holder(pair: Cluster, eventually: Any) -> None:
    first, second = pair.nodes
    ref = make.remote(7, 12)
    await made(ref)
    key = ref._stored.stored.key
    third = await pair.add_node(1)
    # A task beside the value would run on its own node: an actor, which has to be on the third.
    keeper = Keeper.remote()
    assert await keeper.total(al.arg(ref)) == float(pattern(7, 12).sum())
    assert table_of(third).objects[key].source == second.id
    held = Held(second, let_through=9)
    other = Held(third, let_through=10**9)
    reading = asyncio.create_task(ref.get())
    await held.until(WINDOW)
    await pair.kill_node(second)
    assert numpy.array_equal(await reading, pattern(7, 12))
    assert held.served == 9 and other.served == 25 - 9
    assert table_of(third).objects[key].source == ""  # that is the object itself now
    assert table_of(first).objects[key].source == ""  # and so is this: it came from a copy
    # And its owner frees both, though the node that it was written on is gone.
    del ref, reading

    async def gone() -> bool:
        return is_empty(pair.nodes)

    await eventually(gone)


async def test_a_copy_that_is_stopped_before_it_has_begun_leaves_nothing(pair: Cluster, eventually: Any) -> None:
    first, second = pair.nodes
    ref = make.remote(1, 8)
    await made(ref)
    assert numpy.array_equal(await make.remote(2), pattern(2))  # now the first node has a store as well
    stored = ref._stored.stored
    store = first.node.store._store
    request, _ = store._request()
    store._do(store.table.open(request, stored.key, ProcessId("reader"), stored.size, second.id))
    assert store.table.objects[stored.key].in_memory
    store._do(store.table.withdraw(request))
    del store._waiting[request]

    async def gone() -> bool:
        return stored.key not in store.table.objects and stored.key not in store._pulls

    await eventually(gone)
    assert numpy.array_equal(await ref, pattern(1, 8))


async def test_what_is_freed_while_another_node_is_granted_it_is_not_copied(
    pair: Cluster, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = make.remote(1, 3)
    await made(ref)
    stored = ref._stored.stored
    store = pair.nodes[1].node.store._store
    answer = store._answer

    async def freed_meanwhile(*args: Any) -> int:
        offset: int = await answer(*args)
        store._do(store.table.free(stored.key))
        return offset

    monkeypatch.setattr(store, "_answer", freed_meanwhile)
    with pytest.raises(al.errors.ObjectLostError, match="no node has"):
        await pair.session.runtime.stored.client.open(stored)

    async def gone() -> bool:
        return is_empty(pair.nodes)

    await eventually(gone)
    assert stored.key not in store._copies


async def test_a_copy_whose_owner_was_known_to_have_ended_is_not_kept(pair: Cluster, eventually: Any) -> None:
    keeper = Keeper.remote()
    (ref,) = await keeper.put(9)
    store = pair.nodes[1].node.store._store
    [owner] = {found.owner for key, found in store.table.objects.items() if key not in store.slabs.leased}
    # That came before the answer to the question for the object.
    pair.nodes[0].node.members.process_ended(owner, pair.nodes[1].id)
    assert numpy.array_equal(await ref, pattern(9))
    pair.session.runtime.stored.let_go()

    async def gone() -> bool:
        return is_empty(pair.nodes[:1])

    await eventually(gone)


async def test_a_value_that_no_node_has_is_made_again(pair: Cluster) -> None:
    ref = make.remote(4, 3)
    await made(ref)
    third = await pair.add_node(1)
    await pair.kill_node(pair.nodes[1])
    assert numpy.array_equal(await al.get(ref, timeout=20), pattern(4, 3))
    assert home_of(ref) == third.id


async def test_a_value_that_cannot_be_made_again_says_why(pair: Cluster) -> None:
    keeper = Keeper.remote()
    ref = keeper.make.remote(4)
    await made(ref)
    await pair.kill_node(pair.nodes[1])
    with pytest.raises(ObjectReconstructionFailedError, match="no node has object .* actor"):
        await al.get(ref, timeout=20)


async def test_a_copy_is_dropped_when_room_is_short_and_fetched_again(pair: Cluster) -> None:
    refs = [make.remote(seed, 24) for seed in range(3)]
    for _ in range(2):
        for seed, ref in enumerate(refs):  # two fit, on either side
            assert numpy.array_equal(await al.get(ref, timeout=20), pattern(seed, 24))
            pair.session.runtime.stored.let_go()
    assert not any(found.location for found in table_of(pair.nodes[0]).objects.values())
    assert any(found.location for found in table_of(pair.nodes[1]).objects.values())  # there they are spilled


async def test_the_last_copy_is_spilled_not_dropped(pair: Cluster) -> None:
    keeper = Keeper.remote()
    ref = keeper.make.remote(4, 20)
    assert float((await ref)[0]) == 4
    pair.session.runtime.stored.let_go()
    await pair.kill_node(pair.nodes[1])
    others = [await al.put(pattern(seed, 20)) for seed in range(3)]
    assert numpy.array_equal(await al.get(ref, timeout=20), pattern(4, 20))
    assert len(others) == 3


async def test_what_a_dead_process_of_another_node_owned_is_freed_everywhere(pair: Cluster, eventually: Any) -> None:
    keeper = Keeper.remote()
    (ref,) = await keeper.put(9)
    assert numpy.array_equal(await ref, pattern(9))
    await al.kill(keeper)
    pair.session.runtime.stored.let_go()

    async def gone() -> bool:
        return is_empty(pair.nodes)

    await eventually(gone)


async def test_work_goes_to_where_its_large_arguments_are(pair: Cluster, eventually: Any) -> None:
    second = pair.nodes[1]
    await pair.kill_node(second)
    second = await pair.add_node(8)
    ref = make.remote(5, 2)
    await made(ref)
    order = pair.nodes[0].node.members.index.order_of
    while order((await pair.add_node(8)).id) > order(second.id):
        pass  # of equal nodes the first in this node's own order is taken

    async def idle() -> bool:
        return not second.node.table.held

    await eventually(idle)
    elsewhere = make.remote(6, 2)
    results = [double.remote(al.arg(ref)) for _ in range(4)]
    for each in [elsewhere, *results]:
        await made(each)
    assert home_of(elsewhere) != second.id
    assert {home_of(each) for each in results} == {second.id}


async def test_what_ran_on_a_node_that_died_runs_again_elsewhere(pair: Cluster, gate: Any) -> None:
    @al.remote
    def hold() -> str:
        gate.hold()
        return "done"

    running = hold.remote()
    await gate.arrived()
    await pair.add_node(1)
    await pair.kill_node(pair.nodes[1])
    await gate.arrived()
    gate.open(2)
    assert await al.get(running, timeout=20) == "done"


async def test_a_node_that_died_is_named(pair: Cluster, gate: Any) -> None:
    @al.remote(max_retries=0)
    def hold() -> None:
        gate.hold()

    running = hold.remote()
    await gate.arrived()
    await pair.kill_node(pair.nodes[1])
    with pytest.raises(WorkerCrashedError, match="its node .* is gone"):
        await al.get(running, timeout=20)


async def test_what_no_node_can_run_is_refused_with_what_is_missing(pair: Cluster) -> None:
    with pytest.raises(TaskUnschedulableError, match="needs CPU: 3, but no node has as much: .*CPU: 1 .CPU: 2 too few"):
        await make.options(num_cpus=3).remote(1)


async def test_all_cpus_come_back(pair: Cluster, eventually: Any) -> None:
    keeper = Keeper.options(num_cpus=0).remote()
    assert await keeper.total(pattern(1)) > 0
    await al.get([make.remote(seed, 0.01) for seed in range(30)], timeout=20)
    await al.kill(keeper)
    del keeper

    async def free() -> bool:
        table = pair.nodes[1].node.table
        return table.free_now() == table.total and not table.held and len(pair.nodes[1].node.workers.records) <= 1

    await eventually(free)


async def test_the_end_of_a_driver_ends_its_workers_on_other_nodes(pair: Cluster, eventually: Any) -> None:
    keeper = Keeper.remote()
    assert await keeper.total(pattern(1)) > 0
    await pair.session.shutdown()

    async def gone() -> bool:
        return not pair.nodes[1].node.workers.records and is_empty(pair.nodes)

    await eventually(gone)


async def test_two_nodes_that_need_each_other_s_room_do_not_wait_for_ever(tmp_path: Path) -> None:
    """Each keeps room for what it copies from the other, which then has none to have that in memory."""
    async with cluster(
        nodes=2, num_cpus=[0, 2], object_store_memory=16 * MiB, object_spilling_directory=str(tmp_path)
    ) as two:
        own = [await al.put(pattern(seed, 12)) for seed in range(3)]  # one at a time is in memory
        foreign = [make.remote(10 + seed, 12) for seed in range(3)]
        for ref in foreign:
            await made(ref)
        async with asyncio.timeout(40):
            for _ in range(3):
                sums = [total.remote(al.arg(ref)) for ref in own]
                for seed, ref in enumerate(foreign):
                    assert numpy.array_equal(await ref, pattern(10 + seed, 12))
                    two.session.runtime.stored.let_go()
                assert await al.get(sums) == [float(pattern(seed, 12).sum()) for seed in range(3)]


async def test_a_copy_whose_end_was_not_passed_on_is_freed_when_its_source_is_gone(
    pair: Cluster, eventually: Any
) -> None:
    second = pair.nodes[1]
    ref = make.remote(7, 2)
    await made(ref)
    third = await pair.add_node(1)
    keeper = Keeper.remote()
    assert await keeper.total(al.arg(ref)) == float(pattern(7, 2).sum())
    await al.kill(keeper)
    assert table_of(third).objects
    second.node.hub._handlers.messages[FreeObjects] = lambda peer, message, parts: None  # it dies before it has read it
    del ref

    async def freed() -> bool:
        return not pair.session.runtime.stored.client.holdings

    await eventually(freed)
    await pair.kill_node(second)

    async def gone() -> bool:
        return is_empty(pair.nodes)

    await eventually(gone)


async def test_a_copy_stays_while_those_who_inherited_the_object_live(pair: Cluster, eventually: Any) -> None:
    """The end of an owner frees copies only where the node that has the object says so."""
    keeper = Keeper.remote()
    (ref,) = await keeper.put(9)
    assert numpy.array_equal(await ref, pattern(9))
    pair.session.runtime.stored.let_go()
    (key,) = table_of(pair.nodes[0]).objects
    table_of(pair.nodes[1]).objects[key].heirs.add(ProcessId("somebody who lives on"))
    await al.kill(keeper)

    async def passed_on() -> bool:
        return table_of(pair.nodes[1]).objects[key].owner == "somebody who lives on"

    await eventually(passed_on)
    assert table_of(pair.nodes[0]).has(key)
    store = pair.nodes[1].node.store._store
    assert store is not None
    store.process_lost(ProcessId("somebody who lives on"))

    async def gone() -> bool:
        return is_empty(pair.nodes)

    await eventually(gone)


async def test_memory_shows_what_all_nodes_have(pair: Cluster) -> None:
    first, second = pair.nodes
    ref = make.remote(1, 2)
    value = await ref
    info = await al.memory()
    assert info.capacity == 2 * STORE_BYTES and info.used >= 2 * 2 * MiB
    (copy,) = [each for each in info.objects if each.node == first.id]
    (original,) = [each for each in info.objects if each.node == second.id]
    assert copy.is_copy and not original.is_copy and copy.key == original.key
    assert copy.what == original.what == "result of make()" and copy.owner.startswith("driver pid")
    assert [who.startswith("driver") for who, _ in copy.used_by] == [True]
    assert len(value) == 2 * MiB // 8


async def test_the_last_chunk_may_come_when_nobody_wants_it_any_more(
    pair: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the very pass in which the pull is given up."""
    ref = make.remote(1, 2)
    await made(ref)
    arrived = transfers._Incoming.arrived

    def arrives(incoming: Any, start: int, data: memoryview | None) -> None:
        if len(incoming._asked) == 1 and not incoming._missing:
            store = pair.nodes[0].node.store._store
            assert store is not None
            store._do(store.table.free(incoming._command.key))
        arrived(incoming, start, data)

    monkeypatch.setattr(transfers._Incoming, "arrived", arrives)
    with pytest.raises(al.errors.ObjectLostError):
        await pair.session.runtime.stored.client.open(ref._stored.stored)
    assert all(len(each.node.members.views) == 1 for each in pair.nodes)
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


class Slow(al.Actor):
    @al.method
    def make(self, seed: int, gate: Any, mib: float) -> Floats:
        gate.hold()
        return pattern(seed, mib)


class CallerElsewhere(al.Actor):
    """Loses its connection to the actor while that works for it."""

    async def call(self, slow: Any, gate: Any, mib: float) -> bool:
        ref = slow.make.remote(3, gate, mib)
        await gate.arrived()
        await ref._call.peer.aclose()
        gate.open()
        return numpy.array_equal(await ref, pattern(3, mib))


@pytest.mark.parametrize("mib", [0.3, 2])
async def test_a_result_for_a_caller_on_another_node_that_connects_anew(mib: float, gate: Any) -> None:
    async with cluster(nodes=2, num_cpus=[1, 1], object_store_memory=STORE_BYTES) as two:
        caller = CallerElsewhere.options(num_cpus=1).remote()
        slow = Slow.options(num_cpus=1, max_task_retries=3).remote()
        await al.ready(slow)
        assert not any(each.node.table.free["CPU"] for each in two.nodes)
        assert await caller.call(slow, gate, mib)
