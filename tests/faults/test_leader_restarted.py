"""SIGKILL for a shared node that leads, which is then started again on the same state.

What callers see: detached placement groups are there with the ids and names that they had, and detached actors are in
their bundles again. What is cleaned up: groups and actors that were not detached are gone, and their room is free. What
could not be brought back is said.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from actorlite.control.stores.sqlite import open_sqlite
from actorlite.state.revisions import Put
from actorlite.wire.groups import GroupShape

from ..shared_nodes import actorlite, run, runtime_root, started, user_directory

PARTS = """
import asyncio, os, signal
import actorlite as al

class Member(al.Actor):
    def __init__(self, start=0):
        self.n = start

    async def incr(self):
        self.n += 1
        return self.n

    async def where(self):
        group = al.current_placement_group()
        return (group.name if group else None), al.runtime_context().get_assigned_resources().get("CPU", 0.0)

def member(name, group=None, bundle=-1, **options):
    strategy = al.PlacementGroupStrategy(group, bundle) if group is not None else None
    options = {"max_restarts": -1, "num_cpus": 1, "namespace": "team", **options}
    return Member.options(name=name, lifetime="detached", scheduling_strategy=strategy, **options)

async def table():
    found = await al.placement_group_table()
    return sorted((info.name, info.state, info.is_detached) for info in found.values())

def program(main, address="auto"):
    async def opened():
        async with al.init(address, namespace="team") as session:
            await main(session)
    asyncio.run(opened())
"""

MAKE = """
from parts import *

async def main(session):
    gang = await al.placement_group([{"CPU": 1}, {"CPU": 2}], name="gang", lifetime="detached")
    brief = await al.placement_group([{"CPU": 1}], name="brief")
    unnamed = await al.placement_group([{"CPU": 1}], lifetime="detached")
    gone = await al.placement_group([{"CPU": 1}], name="gone", lifetime="detached")
    for each in (gang, brief, unnamed, gone):
        await each.ready(20)
    await al.remove_placement_group(gone)
    one = member("one", gang, 0).remote(10)
    two = member("two", gang, 1, num_cpus=2).remote(20)
    never = member("never", gang, 0, num_cpus=0, max_restarts=0).remote()
    lost = member("lost", brief, 0).remote()
    for each in (one, two, never, lost):
        await each.incr()
    print(gang.id, brief.id, unnamed.id, flush=True)
    os.kill((await session.status())["pid"], signal.SIGKILL)

try:
    program(main)
except al.errors.ActorliteError:
    pass  # its node is gone
"""

LOOK = """
from parts import *

async def main(session):
    gang = await al.get_placement_group("gang")
    await gang.ready(20)
    print(gang.id)
    print(await table())
    for name in ("one", "two"):
        actor = await al.get_actor(name, Member)
        print(name, await actor.where(), await actor.incr(), (await al.describe(actor)).restarts)
    for name in ("never", "lost"):
        try:
            await al.get_actor(name)
        except al.errors.ActorNotFoundError:
            print(name, "gone")
    status = await session.status()
    print("free", status["free_cpus"])
    for text in sorted(status["not_restored"]):
        print("lost", text)

program(main)
"""

PENDING = """
from parts import *

async def main(session):
    gang = await al.get_placement_group("gang")
    info = await gang.state()
    print(info.state, info.nodes, info.history)
    print(info.reason)
    print([(each["name"], each["state"]) for each in (await session.status())["detached"]])
    try:
        await al.placement_group([{"CPU": 1}], name="gang")
    except al.errors.PlacementGroupError:
        print("its name is taken")

program(main)
"""

REMOVE = """
from parts import *

async def main(session):
    one = await al.get_actor("one", Member)
    for info in (await al.placement_group_table()).values():
        if info.name == "gang":
            await al.remove_placement_group(await al.get_placement_group("gang"))
    try:
        await one.incr()
    except al.errors.ActorPlacementGroupRemoved as error:
        print("removed", (await al.describe(one)).death_cause)
    print(await al.list_named_actors(), (await session.status())["not_restored"])

program(main)
"""


CHURN = """
from parts import *

async def one(number):
    while True:
        print("making", number, flush=True)
        group = await al.placement_group([{"CPU": 0.001}], lifetime="detached")
        print("made", group.id, flush=True)
        if number % 2:
            print("removing", group.id, flush=True)
            await al.remove_placement_group(group)
            print("removed", group.id, flush=True)

async def main(session):
    await asyncio.gather(*[one(number) for number in range(6)])

try:
    program(main)
except al.errors.ActorliteError:
    pass  # its node is gone
"""

ALL = """
from parts import *

async def main(session):
    for group in await al.placement_group_table():
        print(group)

program(main)
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with runtime_root(monkeypatch, parts=PARTS) as root:
        yield root


def test_groups_come_back_and_actors_into_them(place: Path) -> None:
    started(6)
    gang, brief, unnamed = run(MAKE).split()
    node = started(6)
    lost = [
        f"lost actor 'lost' (Member) in namespace 'team': its placement group {brief} was not detached, or was not "
        "brought back",
        "lost actor 'never' (Member) in namespace 'team': its node ended, and max_restarts=0 does not let it be "
        "made anew",
    ]
    back = [gang, "[('', 'CREATED', True), ('gang', 'CREATED', True)]"]
    assert run(LOOK).splitlines() == [
        *back,
        "one ('gang', 1.0) 11 1",
        "two ('gang', 2.0) 21 1",
        "never gone",
        "lost gone",
        "free 2.0",
        *lost,
    ]
    log = (user_directory(place) / "default.log").read_text()
    assert f"the detached placement group {gang} 'gang' in namespace 'team' is reserved anew" in log
    assert f"not brought back: actor 'lost' (Member) in namespace 'team': its placement group {brief}" in log
    shown = actorlite("status").stdout
    for line in (
        "detached one in namespace team, ALIVE",
        "group    gang in namespace team, CREATED",
        f"group    {unnamed} in namespace team, CREATED",
        "lost     actor 'lost' (Member)",
    ):
        assert line in shown
    os.kill(node, signal.SIGKILL)
    started(6)
    assert run(LOOK).splitlines() == [
        *back, "one ('gang', 1.0) 11 2", "two ('gang', 2.0) 21 2", "never gone", "lost gone", "free 2.0"
    ]  # fmt: skip


def test_a_group_without_room_waits_and_says_why(place: Path) -> None:
    started(6)
    run(MAKE)
    node = started(2)
    lines = run(PENDING).splitlines()
    assert lines[0] == "PENDING (None, None) ('PENDING',)"
    assert lines[1].startswith("no placement even if all nodes were free: the nodes do not have enough for all 2")
    assert sorted(eval(lines[2])) == [("one", "RESTARTING"), ("two", "RESTARTING")]
    assert lines[3] == "its name is taken"
    assert "group    gang in namespace team, PENDING: no placement even if" in actorlite("status").stdout
    os.kill(node, signal.SIGKILL)
    started(6)
    assert "one ('gang', 1.0) 11 2" in run(LOOK), "each start is a restart, also one that has found no room"


def test_a_removed_group_takes_its_actors_and_does_not_come_back(place: Path) -> None:
    started(6)
    run(MAKE)
    node = started(6)
    run(LOOK)
    lines = run(REMOVE).splitlines()
    assert lines[0] == "removed PLACEMENT_GROUP_REMOVED"
    assert lines[1].startswith("[] ["), "what was brought back and ends later was not lost"
    assert "'one'" not in lines[1]
    os.kill(node, signal.SIGKILL)
    started(6)
    shown = run("from parts import *\nasync def main(session): print(await table())\nprogram(main)")
    assert shown == "[('', 'CREATED', True)]\n"


@pytest.mark.parametrize("lines", [20, 100, 300])
def test_what_was_answered_before_the_end_holds_after_it(place: Path, lines: int) -> None:
    node = started(6)
    # Without a buffer: `communicate` knows nothing of what a reader has read ahead.
    program = subprocess.Popen([sys.executable, "-c", CHURN], stdout=subprocess.PIPE, bufsize=0)
    assert program.stdout is not None
    said = [program.stdout.readline().decode().split() for _ in range(lines)]
    os.kill(node, signal.SIGKILL)
    said += [line.split() for line in program.communicate(timeout=60)[0].decode().splitlines()]
    assert program.returncode == 0
    made, removing, removed = (
        {what for verb, what in said if verb == each} for each in ("made", "removing", "removed")
    )
    assert removed < made
    started(6)
    found = set(run(ALL).split())
    assert made - removing <= found, "what was made is there again"
    assert not removed & found, "what was removed is not"
    assert len(found - made) <= 6, "each maker was waiting for one answer at most"


def test_a_group_that_cannot_be_brought_back_is_named(place: Path) -> None:
    async def damage() -> None:
        store = await open_sqlite(str(user_directory(place) / "default.state"))
        wrong = GroupShape("wrong", ((("CPU", 10_000),),), selectors=((("a", "in("),),))
        await store.txn([], [Put("groups/bad", b"\xc1"), Put("groups/wrong", msgspec.msgpack.encode(wrong))])
        await store.aclose()

    started(6)
    gang = run(MAKE).split()[0]
    asyncio.run(damage())
    started(6)
    lines = run(LOOK).splitlines()
    assert lines[0] == gang, "the others come back"
    lost = [line for line in lines if line.startswith("lost placement group")]
    assert len(lost) == 2
    assert lost[0].startswith("lost placement group bad, which cannot be read any more: ")
    assert lost[1].startswith("lost placement group wrong in namespace '': bundle_label_selector['a']='in('")
    for line in lost:
        assert "lost     " + line.removeprefix("lost ") in actorlite("status").stdout


CUT_OFF = """
from parts import *

async def main(session):
    status = await session.status()
    print([each["leads"] for each in status["nodes"]], status["free_cpus"])
    try:
        await al.placement_group_table()
    except al.errors.ControlUnavailable as error:
        print(str(error).partition(":")[0])
    print(await Member.options(num_cpus=1).remote(1).incr())

program(main)
"""

TOGETHER = """
from parts import *

async def main(session):
    print(sorted(each["leads"] for each in (await session.status())["nodes"]))
    gang = await al.get_placement_group("gang")
    if len((await session.status())["nodes"]) > 1:
        await gang.ready(20)
    info = await gang.state()
    print(info.state, len(set(info.nodes)))

program(main)
"""

SPREAD = """
from parts import *

async def main(session):
    gang = await al.placement_group([{"CPU": 1}] * 2, name="gang", strategy="STRICT_SPREAD", lifetime="detached")
    await gang.ready(20)

program(main)
"""


def test_the_other_nodes_are_without_a_leader_until_they_are_started_again(place: Path) -> None:
    """What docs/names.md says of the leading node."""
    second = f"uds://{place}/second/node.sock"

    def join() -> None:
        result = actorlite("start", "--num-cpus", "2", "--address", second, "--join", "auto")
        assert result.returncode == 0, result.stderr

    def at_second(program: str) -> list[str]:
        return run(program.replace("program(main)", f"program(main, {second!r})")).splitlines()

    node = started(1)
    join()
    try:
        run(SPREAD)
        os.kill(node, signal.SIGKILL)
        alone = ["[False] 1.0", "the node that leads the cluster is gone", "2"]
        assert at_second(CUT_OFF) == alone, "its bundle stays"
        started(1)
        assert run(TOGETHER).splitlines() == ["[True]", "PENDING 1"]
        assert at_second(CUT_OFF) == alone, "it does not join by itself"
        assert actorlite("stop", "--address", second).returncode == 0
        join()
        assert run(TOGETHER).splitlines() == ["[False, True]", "CREATED 2"]
    finally:
        actorlite("stop", "--address", second)
