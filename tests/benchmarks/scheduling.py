"""How long decisions take: the pure scheduler over many nodes and many waiting requests, and placement groups.

    python tests/benchmarks/scheduling.py [--nodes 10 100 1000 10000] [--requests 1000000] [--groups 1000]

Prints tables in Markdown. The first three use no process, and count processor time; the others open local sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Callable

import uvloop

import actorlite as al
from actorlite.ids import ProcessId
from actorlite.labels import LabelSelector
from actorlite.resources import ResourceSet
from actorlite.runtime.node_client import NodeClient, Want
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.state.bundles import GroupBook, GroupSpec, Prepare
from actorlite.state.leases import LeaseTable
from actorlite.state.packing import Bundle
from actorlite.state.queues import LeaseRequest
from actorlite.state.scheduling import NodeIndex, NodeView, Wish

DECISIONS = 20_000
NODE = ResourceSet.from_floats({"CPU": 16, "memory": 64})
ONE = ResourceSet.from_floats({"CPU": 1})


def views(count: int) -> list[NodeView]:
    return [NodeView(ProcessId(f"n{number}"), NODE, NODE, {"zone": "ab"[number % 2]}) for number in range(count)]


def decisions(count: int, wish: Wish) -> float:
    """Microseconds for each of many decisions; every node changes as it is chosen, and all become free again."""
    index = NodeIndex(ProcessId("n0"))
    nodes = views(count)
    for view in nodes:
        index.put(view)
    index.choose(wish)
    done, seconds = 0, 0.0
    while done < DECISIONS:
        round_of = min(DECISIONS - done, 8 * count)
        began = time.process_time()
        for _ in range(round_of):
            found = index.choose(wish)
            if found is not None:
                index.assume(found, wish.needs)
        seconds += time.process_time() - began
        done += round_of
        for view in nodes:
            index.put(view)
    return seconds / DECISIONS * 1e6


def show_decisions(nodes: list[int]) -> None:
    labelled = LabelSelector.parse("label", {"zone": "a"})
    wishes = {"default": Wish(ONE), "SPREAD": Wish(ONE, spread=True), "label selector": Wish(ONE, (labelled,))}
    print("\n| one decision, microseconds | " + " | ".join(f"{count:,} nodes" for count in nodes) + " |")
    print("|---|" + "---|" * len(nodes))
    for name, wish in wishes.items():
        print(f"| {name} | " + " | ".join(f"{decisions(count, wish):.1f}" for count in nodes) + " |", flush=True)


def show_queue(requests: int) -> None:
    """Requests of ten shapes and seven jobs wait for one node, which serves them as leases come back."""
    table = LeaseTable(ResourceSet.from_floats({"CPU": 64}))
    shapes = [ResourceSet.from_floats({"CPU": cpus}) for cpus in range(1, 11)]
    began = time.process_time()
    held: list[LeaseRequest] = []
    for number in range(requests):
        shape = shapes[number % 10]
        held += table.request(LeaseRequest(number, "owner", shape, shape, job=f"job-{number % 7}"))
    queued = time.process_time() - began
    served = min(requests, 50_000)
    began = time.process_time()
    granted = 0
    while granted < served and held:
        more = table.release(held.pop().number)
        granted += len(more)
        held += more
    granting = time.process_time() - began
    print(f"\n| {requests:,} requests of 10 shapes, 7 jobs, on one node | microseconds each |\n|---|---|")
    print(f"| queued | {queued / requests * 1e6:.1f} |")
    print(f"| granted, with {len(table.waiting):,} waiting | {granting / granted * 1e6:.1f} |", flush=True)


def group_decisions(count: int, groups: int) -> float:
    """Microseconds for each group of two bundles that is created, prepared, committed and removed."""
    book = GroupBook()
    for view in views(count):
        book.node_seen(view)
    spec: Callable[[int], GroupSpec] = lambda number: GroupSpec(f"g{number}", (Bundle(ONE), Bundle(ONE)), "SPREAD")  # noqa: E731
    began = time.process_time()
    for number in range(groups):
        asked = [each for each in book.create(spec(number)) if isinstance(each, Prepare)]
        for each in asked:
            book.prepared(each.group, each.epoch, each.node, NODE.less(ONE))
        for each in asked:
            book.committed(each.group, each.epoch, each.node)
        assert not book.groups[f"g{number}"].missing
        book.remove(f"g{number}")
        for each in asked:
            book.node_seen(NodeView(each.node, NODE, NODE, book.rooms.views[each.node].labels))
    return (time.process_time() - began) / groups * 1e6


def show_groups(nodes: list[int]) -> None:
    print(
        "\n| a group of 2 bundles, from created to removed, microseconds | "
        + " | ".join(f"{n:,} nodes" for n in nodes)
        + " |"
    )
    print("|---|" + "---|" * len(nodes))
    row = [f"{group_decisions(count, max(5, 20_000 // (10 + count))):.0f}" for count in nodes]
    print("| decisions only | " + " | ".join(row) + " |", flush=True)


async def leases(node: NodeClient, seconds: float, together: int) -> float:
    """Workers that were asked for, granted and given back, per second."""
    numbers, done, end = itertools.count(2**40), 0, time.perf_counter() + seconds

    async def one() -> None:
        lease = await node.lease(next(numbers), Want(), "task", "benchmark")
        assert lease is not None
        node.return_lease(lease.lease)

    while time.perf_counter() < end:
        await asyncio.gather(*[one() for _ in range(together)])
        done += together
    return done / seconds


async def show_leases() -> None:
    async with al.init("local", num_cpus=4) as session:
        runtime = session.runtime
        assert isinstance(runtime, ProcessRuntime)
        await leases(runtime.node, 1, 4)  # the workers are there
        print("\n| leases of workers asked for, granted and given back, local session | per second |\n|---|---|")
        print(f"| one at a time | {await leases(runtime.node, 2, 1):,.0f} |")
        print(f"| 100 at a time, 4 workers | {await leases(runtime.node, 2, 100):,.0f} |", flush=True)


async def show_session(groups: int) -> None:
    async with al.init("local", num_cpus=4):
        best = 0.0
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(groups // 100):
                made = await asyncio.gather(*[al.placement_group([{"CPU": 0.001}]) for _ in range(100)])
                for group in made:
                    await group.ready(60)
                await asyncio.gather(*[al.remove_placement_group(group) for group in made])
            best = max(best, groups / (time.perf_counter() - began))
        began = time.perf_counter()
        for _ in range(groups // 5):
            group = await al.placement_group([{"CPU": 1}])
            await group.ready(60)
            await al.remove_placement_group(group)
        alone = groups // 5 / (time.perf_counter() - began)
    print("\n| placement groups created and removed, local session | per second |\n|---|---|")
    print(f"| 100 at a time | {best:,.0f} |")
    print(f"| one at a time | {alone:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=1_000)
    options = parser.parse_args()
    show_decisions(options.nodes)
    show_queue(options.requests)
    show_groups(options.nodes)
    uvloop.run(show_leases())
    uvloop.run(show_session(options.groups))


if __name__ == "__main__":
    main()
