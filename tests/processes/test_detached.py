"""Detached actors of a shared node: they outlive programs, and a node that was killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..shared_nodes import actorlite, run, runtime_root, started, user_directory

ACTORS = """
import asyncio, os, sys
import actorlite as al

class Counter(al.Actor):
    def __init__(self, start=0):
        self.n = start

    async def incr(self):
        self.n += 1
        return self.n

    async def pid(self):
        return os.getpid()

    async def again(self):
        return al.runtime_context().was_current_actor_reconstructed

class Holds(al.Actor):
    def __init__(self, refs):
        self.refs = refs

def shared(**options):
    return Counter.options(namespace="shared", lifetime="detached", **options)
"""

MAKE = """
from actors import *

async def main():
    async with al.init("auto", namespace="mine"):
        kept = shared(name="kept", max_restarts=-1).remote(await al.put(10))
        once = shared(name="once", max_restarts=1).remote(20)
        never = shared(name="never").remote(30)
        other = Counter.options(name="kept", namespace="other", lifetime="detached", max_restarts=3).remote(40)
        holds = Holds.options(name="holds", lifetime="detached", max_restarts=3).remote([await al.put(1)])
        local = Counter.options(name="local").remote(0)
        for each in (kept, once, never, other, local):
            await each.incr()
        await al.ready(holds)

asyncio.run(main())
"""

LOOK = """
from actors import *

async def main():
    async with al.init("auto", namespace="mine") as session:
        names = await al.list_named_actors(all_namespaces=True)
        print(sorted((each["namespace"], each["name"]) for each in names))
        for name, namespace in (("kept", "shared"), ("once", "shared"), ("kept", "other")):
            try:
                actor = await al.get_actor(name, Counter, namespace=namespace)
                print(namespace, name, await actor.incr(), await actor.again(), (await al.describe(actor)).restarts)
            except al.errors.ActorNotFoundError:
                print(namespace, name, "gone")
        for text in (await session.status())["not_restored"]:
            print("lost", text)

asyncio.run(main())
"""

RACE = """
from actors import *

async def main():
    async with al.init("auto", namespace="mine"):
        async def one(number):
            counter, created = await shared(name="raced").get_or_create(1000)
            return counter, created, await counter.pid()
        found = await asyncio.gather(*[one(number) for number in range(25)])
        assert len({counter for counter, _, _ in found}) == 1
        identifier = (await al.describe(found[0][0])).id
        print([(identifier, created, pid) for _, created, pid in found])

asyncio.run(main())
"""

STOP_ALL = """
from actors import *

async def main():
    async with al.init("auto", namespace="mine"):
        for each in await al.list_named_actors(all_namespaces=True):
            await al.kill(await al.get_actor(each["name"], namespace=each["namespace"]))
        print(await al.list_named_actors(all_namespaces=True))

asyncio.run(main())
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with runtime_root(monkeypatch, actors=ACTORS) as root:
        yield root


def state_of(place: Path) -> Path:
    return user_directory(place) / "default.state"


ALL = "[('mine', 'holds'), ('other', 'kept'), ('shared', 'kept'), ('shared', 'never'), ('shared', 'once')]"


def test_they_outlive_programs_and_a_node_that_was_killed(place: Path) -> None:
    node = started()
    run(MAKE)
    assert run(LOOK).splitlines() == [
        ALL, "shared kept 12 False 0", "shared once 22 False 0", "other kept 42 False 0"
    ]  # fmt: skip
    os.kill(node, signal.SIGKILL)
    node = started()
    lines = run(LOOK).splitlines()
    assert lines[:4] == [
        "[('other', 'kept'), ('shared', 'kept'), ('shared', 'once')]",
        "shared kept 11 True 1",
        "shared once 21 True 1",
        "other kept 41 True 1",
    ]
    assert sorted(lines[4:]) == [
        "lost actor 'holds' (Holds) in namespace 'mine': its constructor was given references or handles whose owners "
        "ended with the node",
        "lost actor 'never' (Counter) in namespace 'shared': its node ended, and max_restarts=0 does not let it be "
        "made anew",
    ]
    shown = actorlite("status").stdout
    assert "detached kept in namespace shared, ALIVE" in shown and "lost     actor 'never' (Counter)" in shown
    assert "not brought back: actor 'never'" in (user_directory(place) / "default.log").read_text()
    os.kill(node, signal.SIGKILL)
    started()
    lines = run(LOOK).splitlines()
    assert lines[:4] == [
        "[('other', 'kept'), ('shared', 'kept')]", "shared kept 11 True 2", "shared once gone", "other kept 41 True 2"
    ]  # fmt: skip
    assert "max_restarts=1" in lines[4]


def test_a_node_that_was_stopped_leaves_nothing_to_come_back_to(place: Path) -> None:
    started()
    run(MAKE)
    assert state_of(place).exists()
    assert actorlite("stop").returncode == 0
    left = [path for path in place.rglob("*.state*")]
    assert left == []
    started()
    assert run(LOOK).splitlines()[0] == "[]"


def test_what_was_killed_does_not_come_back(place: Path) -> None:
    node = started()
    run(MAKE)
    assert run(STOP_ALL) == "[]\n"
    os.kill(node, signal.SIGKILL)
    started()
    assert run(LOOK).splitlines() == ["[]", "shared kept gone", "shared once gone", "other kept gone"]


def test_a_start_that_fails_costs_nothing(place: Path) -> None:
    node = started()
    run(MAKE)
    os.kill(node, signal.SIGKILL)
    assert actorlite("start", "--preload", "no_such_module").returncode == 1
    started()
    assert "shared kept 11 True 1" in run(LOOK)


def test_state_that_cannot_be_read_is_named(place: Path) -> None:
    state_of(place).parent.mkdir(mode=0o700, parents=True)
    state_of(place).write_bytes(b"something else " * 1000)
    result = actorlite("start")
    assert result.returncode == 1 and str(state_of(place)) in result.stderr
    state_of(place).unlink()
    started()


def test_racers_of_several_programs_get_one_actor(place: Path) -> None:
    started()
    programs = [
        subprocess.Popen([sys.executable, "-c", RACE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = []
    for each in programs:
        out, error = each.communicate(timeout=60)
        assert each.returncode == 0, error
        said += eval(out)
    assert len(said) == 100
    assert sum(created for _, created, _ in said) == 1
    assert len({(identifier, pid) for identifier, _, pid in said}) == 1
