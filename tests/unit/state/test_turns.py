"""Placement groups against tasks that keep coming: what nodes keep for them."""

from __future__ import annotations

import itertools
import os
import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from actorlite.ids import ProcessId
from actorlite.node.bundles import Tables
from actorlite.resources import ONE_CPU, ResourceSet
from actorlite.state.asking import wanted_back
from actorlite.state.bundles import Command, Commit, GroupBook, GroupSpec, GroupState, Keep, Prepare, Return
from actorlite.state.leases import LeaseTable
from actorlite.state.packing import PACK, SPREAD, STRICT_PACK, STRICT_SPREAD, Bundle
from actorlite.state.queues import LeaseRequest
from actorlite.state.scheduling import NodeView
from actorlite.state.turns import PATIENCE

HISTORIES = int(os.environ.get("ACTORLITE_HISTORIES", "30"))
"""Random histories per run; the number that is promised is 10 000."""


def some(cpus: float = 0, **others: float) -> ResourceSet:
    return ResourceSet.from_floats({"CPU": cpus, **others})


def tables_of(cpus: float, **others: float) -> Tables:
    return Tables(LeaseTable(some(cpus, **others)), itertools.count(1000).__next__)


def ask(number: int, needs: ResourceSet = ONE_CPU, purpose: str = "task") -> LeaseRequest:
    return LeaseRequest(number, "driver", needs, needs, purpose)


def pass_by(tables: Tables, first: int) -> None:
    """Grant and return as many as a group lets pass; one stays."""
    for number in range(first, first + PATIENCE):
        tables.request(ask(number))
        tables.release(number)


def test_what_tasks_return_is_kept_for_a_group_that_was_overtaken_so_often() -> None:
    tables = tables_of(2)
    tables.request(ask(1))
    tables.keep("g", some(2))
    pass_by(tables, 2)
    assert tables.request(ask(50)) == [] and tables.request(ask(51)) == []
    assert tables.node.turns.kept() == some(1)
    tables.release(1)
    assert tables.node.turns.kept() == some(2) == tables.node.free_now()
    assert tables.prepare("other", 1, [(0, some(2))])[0] == "CPU: 2 is free, but others have waited for it"
    assert tables.prepare("g", 1, [(0, some(1)), (1, some(1))]) == ("", [])
    assert not tables.node.turns.groups_wait and not tables.node.free_now()
    assert [each.number for each in tables.keep("g", some())] == []
    granted = tables.give_back(tables.reservations.give_back("g", 1))
    assert [each.number for each in granted] == [50, 51]
    tables.node.check()


def test_a_bundle_that_is_prepared_again_while_its_former_life_ends_has_a_room_of_its_own() -> None:
    tables = tables_of(2, GPU=2)
    sizes = [(0, some(1, GPU=1))]
    assert tables.prepare("g", 1, sizes)[0] == "" and tables.reservations.commit("g", 1)
    tables.request(ask(1, some(1, GPU=1)), "g", 0)
    ending = tables.reservations.give_back("g", 1)
    assert tables.prepare("g", 2, sizes)[0] == "" and tables.reservations.commit("g", 2)
    assert not tables.node.free_now()
    tables.request(ask(2, some(1, GPU=1)), "g", 0)
    (former, _), (device, _) = *tables.share_of(1), *tables.share_of(2)
    assert {former, device} == {0, 1}
    assert tables.prepare("g", 2, sizes)[0] == ""  # said twice
    tables.give_back(ending)
    assert tables.node.free_now() == tables.reservations.total == some(1, GPU=1)
    tables.node.check()


def test_what_a_group_gave_back_is_kept_for_it_again_until_it_does_not_wait() -> None:
    tables = tables_of(1)
    tables.keep("g", some(1))
    pass_by(tables, 2)
    assert tables.prepare("g", 1, [(0, some(1))]) == ("", [])
    tables.request(ask(50))
    assert tables.give_back(tables.reservations.give_back("g", 1)) == [], "another node refused"
    assert tables.node.turns.kept() == some(1)
    assert [each.number for each in tables.keep("g", some())] == [50]
    assert not tables.node.turns.keeps and not tables.node.turns.pressing


@pytest.mark.parametrize("purpose", ["actor", "bundle"])
def test_nothing_is_kept_for_a_group_that_something_else_than_tasks_is_in_the_way_of(purpose: str) -> None:
    tables = tables_of(2)
    tables.request(ask(1, purpose=purpose))
    tables.keep("g", some(2))
    pass_by(tables, 2)
    assert len(tables.request(ask(50))) == 1
    assert tables.node.turns.kept() == some()
    tables.release(1)
    assert tables.node.turns.kept() == some(1)


def test_a_task_that_waits_for_others_is_in_the_way_with_what_it_does_not_lend() -> None:
    tables = tables_of(2, x=1)
    tables.request(ask(1, some(1, x=1)))
    tables.lend(1)
    assert dict(tables.node.turns.lasting) == {"x": 10_000}
    tables.keep("g", some(2, x=1))
    pass_by(tables, 2)
    assert len(tables.request(ask(50))) == 1, "it may be what the first one waits for"
    tables.release(50)
    tables.take_back(1)
    tables.node.check()
    assert tables.request(ask(51)) == []


def test_groups_have_leases_asked_back() -> None:
    tables = tables_of(2)
    for number in range(1, 9):
        tables.request(ask(number))
    tables.keep("g", some(2))
    assert [lease.number for lease in wanted_back(tables.node, 0)] == [1, 2], "also from the only owner"
    tables.keep("g", some())
    assert wanted_back(tables.node, 0) == []


def view_of(name: str, free: float, total: float = 2, lasting: float = 0) -> NodeView:
    return NodeView(ProcessId(name), some(total), some(free), lasting=some(lasting))


def keeps(commands: list[Command]) -> list[tuple[str, str, str]]:
    return [(each.node, each.group, str(each.size)) for each in commands if isinstance(each, Keep)]


def spread(name: str, count: int, size: float = 2) -> GroupSpec:
    return GroupSpec(name, (Bundle(some(size)),) * count, STRICT_SPREAD)


def test_room_is_kept_on_all_nodes_or_on_none() -> None:
    book = GroupBook()
    book.node_seen(view_of("a", 0))
    book.node_seen(view_of("b", 0, lasting=1))
    assert keeps(book.create(spread("g", 2))) == []
    assert sorted(keeps(book.node_seen(view_of("b", 0)))) == [("a", "g", "CPU: 2"), ("b", "g", "CPU: 2")]
    assert keeps(book.node_seen(view_of("a", 1))) == [], "they know"
    assert sorted(keeps(book.node_seen(view_of("a", 1, lasting=1)))) == [("a", "g", "nothing"), ("b", "g", "nothing")]
    moved = keeps(book.node_seen(view_of("c", 0)))
    assert sorted(moved) == [("b", "g", "CPU: 2"), ("c", "g", "CPU: 2")]
    assert keeps(book.node_lost(ProcessId("c"))) == [("b", "g", "nothing")]


def test_what_is_kept_is_so_until_the_group_is_there_or_gone() -> None:
    book = GroupBook()
    a = ProcessId("a")
    book.node_seen(view_of("a", 0))
    assert keeps(book.create(spread("g", 1))) == [("a", "g", "CPU: 2")]
    assert keeps(book.create(spread("next", 1))) == [], "one group at a time"
    commands = book.node_seen(view_of("a", 2))
    assert [type(each) for each in commands] == [Prepare]
    assert keeps(book.node_seen(view_of("b", 0))) == [("b", "next", "CPU: 2")]
    refused = book.prepared("g", 1, a, some(0), "no room")
    assert keeps(refused) == [("b", "next", "nothing")], "the first one waits again, with what it had"
    commands = book.node_seen(view_of("a", 2))
    assert keeps(commands) == [("b", "next", "CPU: 2")]
    assert keeps(book.prepared("g", 2, a, some(0))) == []
    assert keeps(book.committed("g", 2, a)) == [("a", "g", "nothing")]
    assert keeps(book.remove("next")) == [("b", "next", "nothing")]
    assert not book._kept


def test_a_group_behind_one_that_waits_for_an_actor_has_room_kept() -> None:
    book = GroupBook()
    book.node_seen(view_of("a", 0, lasting=1))
    book.node_seen(view_of("b", 0))
    assert keeps(book.create(spread("first", 2))) == []
    assert keeps(book.create(spread("second", 1, 1))) == [], "it would take what is marked for the first one"
    assert keeps(book.node_seen(view_of("c", 0, 1))) == [("c", "second", "CPU: 1")]


def asked(commands: list[Command]) -> list[tuple[str, str]]:
    return [(each.node, each.group) for each in commands if isinstance(each, Prepare)]


def test_who_is_behind_does_not_ask_for_what_a_node_keeps() -> None:
    book = GroupBook()
    book.node_seen(view_of("a", 0, total=4))
    assert keeps(book.create(spread("first", 1))) == [("a", "first", "CPU: 2")]
    book.node_seen(structs.replace(view_of("a", 1, total=4), kept=some(1)))
    assert asked(book.create(spread("second", 1, 1))) == [], "it would be refused, over and over"
    assert asked(book.node_seen(structs.replace(view_of("a", 3, total=4), kept=some(2)))) == [
        ("a", "first"),
        ("a", "second"),
    ]


def test_who_was_refused_asks_again_when_the_node_has_said_something_new_meanwhile() -> None:
    book = GroupBook()
    a, b = ProcessId("a"), ProcessId("b")
    book.node_seen(view_of("a", 2))
    book.node_seen(view_of("b", 2))
    first = asked(book.create(spread("g", 1)))
    assert len(first) == 1
    refusing, other = (a, b) if first[0][0] == a else (b, a)
    assert asked(book.prepared("g", 1, refusing, some(0), "it is full")) == [(other, "g")]
    assert asked(book.node_seen(view_of(refusing, 2))) == [], "it is being tried elsewhere"
    assert asked(book.node_lost(other)) == [(refusing, "g")]


class SimNode:
    """A node with tasks that keep coming, more than there is room for, all from one owner that keeps its leases."""

    def __init__(self, name: str, total: ResourceSet, luck: random.Random) -> None:
        self.id = ProcessId(name)
        self.luck = luck
        self.numbers = itertools.count(1)
        self.tables = Tables(LeaseTable(total), self.numbers.__next__)
        self.inbox: deque[Command] = deque()
        self.answers: deque[Callable[[], list[Command]]] = deque()
        self.asked: set[int] = set()
        self.parents: dict[int, int] = {}
        """Tasks here that wait, and the child on another node, or on this one, that each waits for."""
        self.said: NodeView | None = None
        self.shapes = [some(0.5), ONE_CPU, ONE_CPU]
        if total.units_of("x"):
            self.shapes.append(some(1, x=1))

    @property
    def table(self) -> LeaseTable:
        return self.tables.node

    def view(self) -> NodeView:
        """As the coordinator sees it."""
        kept, lasting = self.table.turns.kept(), ResourceSet(self.table.turns.lasting)
        return NodeView(self.id, self.table.total, self.table.free_now(), kept=kept, lasting=lasting)

    def work(self) -> None:
        """More tasks come, and some of those that run end."""
        while len(self.table.waiting) < 4:
            self.start(self.luck.choice(self.shapes))
        for lease in list(self.table.held.values()):
            number = lease.number
            stops = number in self.asked or self.luck.random() < 0.05
            if lease.request.purpose == "task" and number not in self.parents and stops and self.luck.random() < 0.5:
                self.tables.release(number)

    def start(self, needs: ResourceSet, purpose: str = "task") -> int:
        number = next(self.numbers)
        if needs and not self.table.shortfall(needs):
            self.tables.request(ask(number, needs, purpose))
        return number

    def look(self) -> None:
        self.asked |= {lease.number for lease in wanted_back(self.table, 0)}

    def perform(self, book: GroupBook, command: Command) -> None:
        if isinstance(command, Keep):
            self.tables.keep(command.group, command.size)
        elif isinstance(command, Prepare):
            refusal, _ = self.tables.prepare(command.group, command.epoch, command.bundles)
            group, epoch, free = command.group, command.epoch, self.table.free_now()
            self.answers.append(lambda: book.prepared(group, epoch, self.id, free, refusal))
            self.said = None  # the coordinator knows more than was said last
        elif isinstance(command, Commit):
            assert self.tables.reservations.commit(command.group, command.epoch)
            group, epoch = command.group, command.epoch
            self.answers.append(lambda: book.committed(group, epoch, self.id))
        elif isinstance(command, Return):
            self.tables.give_back(self.tables.reservations.give_back(command.group, command.epoch))


class Sim:
    def __init__(self, luck: random.Random) -> None:
        self.luck = luck
        self.book = GroupBook()
        totals = [some(luck.randint(1, 4), x=luck.randint(0, 1)) for _ in range(luck.randint(1, 4))]
        self.nodes = {node.id: node for node in (SimNode(f"n{i}", each, luck) for i, each in enumerate(totals))}
        self.children: list[tuple[SimNode, int, SimNode, int]] = []
        for node in self.nodes.values():
            if luck.random() < 0.3:
                node.start(some(0.5), "actor")
            self.perform(self.book.node_seen(node.view()))

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Keep | Prepare | Commit | Return):
                self.nodes[command.node].inbox.append(command)

    def nest(self) -> None:
        """A task that runs starts a child somewhere, and waits for it."""
        node, other = self.luck.choice([*self.nodes.values()]), self.luck.choice([*self.nodes.values()])
        running = [
            lease.number
            for lease in node.table.held.values()
            if lease.request.purpose == "task" and lease.number not in node.parents
        ]
        if running:
            parent, child = self.luck.choice(running), other.start(ONE_CPU)
            node.parents[parent] = child
            node.tables.lend(parent)
            self.children.append((node, parent, other, child))

    def step(self, number: int) -> None:
        for node in self.nodes.values():
            node.work()
            if number % 4 == 0:
                node.look()
            while node.inbox and self.luck.random() < 0.8:
                node.perform(self.book, node.inbox.popleft())
            if node.said != (view := node.view()):
                node.said = view
                book, seen = self.book, structs.replace(view)
                node.answers.append(lambda book=book, seen=seen: book.node_seen(seen))  # type: ignore[misc]
            while node.answers and self.luck.random() < 0.8:
                self.perform(node.answers.popleft()())
            node.table.check()
        for each in list(self.children):
            node, parent, other, child = each
            if child not in other.table.held and child not in other.table.waiting:
                self.children.remove(each)
                del node.parents[parent]
                node.tables.take_back(parent)
        self.book.check()


@pytest.mark.parametrize("seed", range(10))
def test_tasks_that_hold_what_a_group_needs_while_they_wait_do_not_starve_it(seed: int) -> None:
    """They keep coming, and a group's room is kept only while none of them waits: it is not to begin anew each time."""
    luck = random.Random(seed)
    node, book = SimNode("n", some(4, x=2), luck), GroupBook()
    node.shapes = [some(1, x=1)]
    inbox: deque[Command] = deque(book.node_seen(node.view()))
    inbox += book.create(GroupSpec("g", (Bundle(some(0, x=2)),), PACK))
    for _ in range(5000):
        if book.groups["g"].state is GroupState.CREATED:
            break
        while len(node.table.waiting) < 4:
            node.start(node.shapes[0])
        for lease in list(node.table.held.values()):
            if lease.lent:
                if luck.random() < 0.4:
                    node.tables.take_back(lease.number)
            elif luck.random() < 0.2:
                node.tables.lend(lease.number)
            elif luck.random() < 0.2:
                node.tables.release(lease.number)
        inbox += book.node_seen(node.view())
        while inbox or node.answers:
            if inbox:
                command = inbox.popleft()
                if isinstance(command, Keep | Prepare | Commit | Return):
                    node.perform(book, command)
            else:
                inbox += node.answers.popleft()()
        node.table.check()
    assert book.groups["g"].state is GroupState.CREATED


@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**64))
def test_no_group_that_tasks_alone_are_in_the_way_of_starves(seed: int) -> None:
    """Tasks keep coming on all nodes, and for a while some wait for others; groups are made, used, and removed."""
    luck = random.Random(seed)
    sim = Sim(luck)
    age: dict[str, int] = {}
    made = 0
    for number in range(3000):
        if number < 200 and luck.random() < 0.2:
            sim.nest()
        if number < 200 and luck.random() < 0.05:
            sizes = [some(luck.choice([0.5, 1, 2, 3]), x=luck.choice([0, 0, 1])) for _ in range(luck.randint(1, 3))]
            strategy = luck.choice([PACK, SPREAD, STRICT_PACK, STRICT_SPREAD])
            made += 1
            sim.perform(sim.book.create(GroupSpec(f"g{made}", tuple(map(Bundle, sizes)), strategy)))
        sim.step(number)
        for name, group in list(sim.book.groups.items()):
            if group.state is GroupState.CREATED:
                age[name] = age.get(name, 0) + 1
                if age[name] > 10:
                    sim.perform(sim.book.remove(name))
        if number > 200 and not sim.children and not _hopeful(sim):
            break
    assert not _hopeful(sim), [sim.book.reason(group) for group in _hopeful(sim)]
    for name in list(sim.book.groups):
        sim.perform(sim.book.remove(name))
    for number in range(100):
        sim.step(number)
    for node in sim.nodes.values():
        assert not node.table.turns.keeps, "nothing is kept for nobody"
        assert not any(isinstance(key, str) for key in node.table.turns.pressing)
        assert not node.tables.reservations.all


def _hopeful(sim: Sim) -> list[str]:
    """Groups that have a place, or would have one if there were no tasks: beside the room of one that has waited longer
    and waits for an actor to end."""
    rooms, groups = sim.book.rooms, sim.book.groups.items()
    return [
        name
        for name, group in groups
        if group.state is GroupState.CREATED or group.find_places(rooms.obtainable(name)) is not None
    ]
