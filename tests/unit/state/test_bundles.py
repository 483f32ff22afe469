from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actorlite.ids import ProcessId
from actorlite.labels import LabelSelector
from actorlite.resources import ResourceSet
from actorlite.state.bundles import (
    LEADER_BITS,
    Changed,
    Command,
    Commit,
    GroupBook,
    GroupSpec,
    GroupState,
    Prepare,
    Return,
    attempts_of,
)
from actorlite.state.packing import PACK, SPREAD, STRICT_PACK, STRICT_SPREAD, Bundle
from actorlite.state.reservations import Reservations
from actorlite.state.scheduling import NodeView

HISTORIES = int(os.environ.get("ACTORLITE_HISTORIES", "300"))
"""Random histories per run; the number that is promised is 10 000."""
STRATEGIES = (PACK, SPREAD, STRICT_PACK, STRICT_SPREAD)


def cpus(number: float) -> ResourceSet:
    return ResourceSet.from_floats({"CPU": number})


def spec(name: str, *sizes: float, strategy: str = PACK) -> GroupSpec:
    return GroupSpec(name, tuple(Bundle(cpus(each)) for each in sizes), strategy)


class SimNode:
    """A node as it is: reservations, leases, and ordered messages from and to the coordinator."""

    def __init__(self, name: str, total: float) -> None:
        self.id = ProcessId(name)
        self.total = cpus(total)
        self.reservations: Reservations[None] = Reservations(lambda size: None)
        self.leases: list[ResourceSet] = []
        self.inbox: deque[Command] = deque()
        self.answers: deque[Callable[[], list[Command]]] = deque()
        self.draining = False
        self.said = self.total
        self.loses = 0
        """So many reservations are lost before they are committed."""

    @property
    def free(self) -> ResourceSet:
        free = self.total.acquire(self.reservations.total)
        for lease in self.leases:
            free = free.acquire(lease)
        return free

    def view(self) -> NodeView:
        return NodeView(self.id, self.total, self.free, draining=self.draining)


class Sim:
    """A coordinator and its nodes."""

    def __init__(self, *totals: float) -> None:
        self.book = GroupBook()
        self.nodes: dict[str, SimNode] = {}
        self.changes: list[tuple[str, str]] = []
        self.added = 0
        for total in totals:
            self.add_node(total)

    def add_node(self, total: float) -> SimNode:
        self.added += 1
        node = SimNode(f"n{self.added}", total)
        self.nodes[node.id] = node
        self.perform(self.book.node_seen(node.view()))
        return node

    def kill(self, node: SimNode) -> None:
        del self.nodes[node.id]
        self.perform(self.book.node_lost(node.id))

    def drain(self, node: SimNode) -> None:
        """It says so, behind what it has said."""
        node.draining = True
        self.say(node)

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Changed):
                self.changes.append((command.group, command.state.value))
            elif command.node in self.nodes:
                self.nodes[command.node].inbox.append(command)

    def create(self, group: GroupSpec) -> None:
        self.perform(self.book.create(group))

    def remove(self, name: str) -> None:
        self.perform(self.book.remove(name))

    def deliver(self, node: SimNode) -> None:
        """One message to a node."""
        command, book = node.inbox.popleft(), self.book
        if isinstance(command, Prepare):
            refusal = node.reservations.prepare(command.group, command.epoch, command.bundles, node.free)
            free, group, epoch = node.free, command.group, command.epoch
            node.said = free
            node.answers.append(lambda: book.prepared(group, epoch, node.id, free, refusal))
        elif isinstance(command, Commit):
            group, epoch = command.group, command.epoch
            if node.loses:
                node.loses -= 1
                node.reservations.give_back(group, epoch)
            why = "" if node.reservations.commit(group, epoch) else "it is lost"
            node.answers.append(lambda: book.committed(group, epoch, node.id, why))
        elif isinstance(command, Return):
            node.reservations.give_back(command.group, command.epoch)
            self.say(node)

    def say(self, node: SimNode) -> None:
        view, book = node.view(), self.book
        node.said = view.free
        node.answers.append(lambda: book.node_seen(view))

    def hear(self, node: SimNode) -> None:
        """One message from a node."""
        self.perform(node.answers.popleft()())

    def settle(self) -> None:
        """Until nothing is under way."""
        while True:
            busy = False
            for node in list(self.nodes.values()):
                while node.inbox:
                    self.deliver(node)
                    busy = True
                if node.said != node.free:
                    self.say(node)
                while node.answers:
                    self.hear(node)
                    busy = True
            if not busy:
                return

    def state(self, name: str) -> str:
        group = self.book.groups.get(name)
        return "REMOVED" if group is None else group.state.value

    def nodes_of(self, name: str) -> list[str]:
        group = self.book.groups[name]
        return [group.placed[index].node for index in sorted(group.placed)]

    def check(self) -> None:
        self.book.check()
        for node in self.nodes.values():
            _ = node.free  # raises when it is oversubscribed

    def check_settled(self) -> None:
        """Nodes hold what the coordinator thinks, and nothing else."""
        self.check()
        wanted: dict[tuple[str, str, int], int] = {}
        for name, group in self.book.groups.items():
            assert group.attempt is None
            assert (group.state is GroupState.CREATED) is (not group.missing)
            for index, where in group.placed.items():
                assert not self.nodes[where.node].draining
                wanted[where.node, name, index] = where.epoch
            nodes = [where.node for where in group.placed.values()]
            if group.spec.strategy == STRICT_SPREAD:
                assert len(set(nodes)) == len(nodes)
            if group.spec.strategy == STRICT_PACK:
                assert len(set(nodes)) <= 1
            if group.state is GroupState.PENDING:
                assert not nodes
        held = {}
        for node in self.nodes.values():
            for each in node.reservations.all:
                assert each.committed
                held[node.id, each.group, each.index] = each.epoch
        assert held == wanted


def test_a_group_is_prepared_committed_and_created() -> None:
    sim = Sim(4, 4)
    sim.create(spec("g", 2, 2, strategy=STRICT_SPREAD))
    assert [len(node.inbox) for node in sim.nodes.values()] == [1, 1]
    assert "waiting for 2 node(s) to prepare" in sim.book.reason("g")
    sim.settle()
    assert sim.changes == [("g", "PENDING"), ("g", "PREPARED"), ("g", "CREATED")]
    assert sim.book.reason("g") == ""
    sim.check_settled()
    sim.remove("g")
    sim.remove("g")
    sim.settle()
    assert sim.changes[-1] == ("g", "REMOVED")
    assert sim.book.reason("g") == "it was removed"
    assert all(node.free == node.total for node in sim.nodes.values())


def test_a_node_that_refuses_makes_all_give_back_and_is_not_asked_again_before_it_says_something_new() -> None:
    sim = Sim(2, 2)
    first, second = sim.nodes.values()
    second.leases.append(cpus(1))  # the coordinator has not heard of it
    second.said = second.free
    sim.create(spec("g", 2, 2, strategy=STRICT_SPREAD))
    sim.settle()
    assert sim.state("g") == "PENDING"
    assert first.free == first.total
    assert "refused: CPU: 2 was asked for, CPU: 1 is free" in sim.book.reason("g")
    second.leases.clear()
    sim.settle()
    assert sim.state("g") == "CREATED"


@pytest.mark.parametrize("moment", ["prepare", "commit"])
def test_a_node_that_dies_between_makes_the_others_give_back(moment: str) -> None:
    sim = Sim(2, 2)
    first, second = sim.nodes.values()
    sim.create(spec("g", 2, 2, strategy=STRICT_SPREAD))
    for node in (first, second):
        sim.deliver(node)
    sim.hear(first)
    if moment == "commit":
        sim.hear(second)
        assert sim.state("g") == "PREPARED"
        sim.deliver(first)
        sim.hear(first)
    sim.kill(second)
    assert sim.state("g") == "PENDING"
    sim.settle()
    assert first.free == first.total
    assert sim.book.reason("g").startswith("no placement even if all nodes were free: STRICT_SPREAD needs 2 different")
    sim.add_node(2)
    sim.settle()
    assert sim.state("g") == "CREATED"
    assert ("g", "PENDING") in sim.changes[1:] or moment == "prepare"


def test_a_node_that_has_lost_what_it_prepared_makes_all_give_back_and_prepare_again() -> None:
    sim = Sim(2, 2)
    first, second = sim.nodes.values()
    second.loses = 1
    sim.create(spec("g", 2, 2, strategy=STRICT_SPREAD))
    for node in (first, second):
        sim.deliver(node)
    sim.hear(first)
    sim.hear(second)
    sim.deliver(first)
    sim.deliver(second)
    sim.hear(first)
    sim.hear(second)
    assert "refused: it is lost" in sim.book.reason("g")
    sim.check()
    sim.settle()
    assert [state for _, state in sim.changes] == ["PENDING", "PREPARED", "PENDING", "PREPARED", "CREATED"]
    sim.check_settled()


def test_lost_bundles_go_elsewhere_before_new_groups_and_the_others_stay() -> None:
    sim = Sim(2, 2, 2)
    sim.create(spec("g", 2, 2, 2, strategy=STRICT_SPREAD))
    sim.settle()
    before = sim.nodes_of("g")
    sim.create(spec("new", 2))
    sim.settle()
    assert sim.state("new") == "PENDING"
    sim.kill(sim.nodes[before[1]])
    assert sim.state("g") == "RESCHEDULING"
    assert "lost with their node" in sim.book.reason("g") or "no placement" in sim.book.reason("g")
    sim.add_node(2)
    sim.settle()
    after = sim.nodes_of("g")
    assert (sim.state("g"), sim.state("new")) == ("CREATED", "PENDING")
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] not in before
    assert [state for name, state in sim.changes if name == "g"] == [
        "PENDING", "PREPARED", "CREATED", "RESCHEDULING", "CREATED",
    ]  # fmt: skip
    sim.remove("g")
    sim.settle()
    assert sim.state("new") == "CREATED"


def test_a_node_lost_while_lost_bundles_are_placed() -> None:
    sim = Sim(2, 2, 2, 2)
    sim.create(spec("g", 2, 2, 2, strategy=STRICT_SPREAD))
    sim.settle()
    spare = next(node for node in sim.nodes.values() if node.id not in sim.nodes_of("g"))
    one, two, _ = sim.nodes_of("g")
    sim.kill(sim.nodes[one])
    sim.kill(sim.nodes[two])
    assert sim.state("g") == "RESCHEDULING"
    sim.settle()
    assert sim.state("g") == "RESCHEDULING", "one of the two has found a place"
    assert not spare.free
    sim.add_node(2)
    sim.settle()
    assert sim.state("g") == "CREATED"
    sim.check_settled()


def test_no_leader_gives_an_attempt_the_number_that_an_earlier_one_gave() -> None:
    """A node that outlives its leader may hear late what that said, and has bundles of the same group by then."""
    lives = []
    for epoch in (1, 2, 3):
        sim = Sim(2, 2)
        sim.book.attempts = attempts_of(epoch)
        for _ in range(3):
            sim.create(spec("g", 2, 2))
            sim.settle()
            lives.append([where.epoch for where in sim.book.groups["g"].placed.values()])
            late = {number for life in lives[:-1] for number in life}
            for node in sim.nodes.values():
                for number in late:
                    assert not node.reservations.commit("g", number)
                    assert node.reservations.give_back("g", number) == []
            sim.check_settled()
            sim.remove("g")
            sim.settle()
    numbers = [life[0] for life in lives]
    assert numbers == sorted(set(numbers))
    assert {number >> LEADER_BITS for number in numbers} == {1, 2, 3}


def test_bundles_leave_a_node_that_is_drained_which_is_told_to_give_them_back() -> None:
    sim = Sim(2, 2, 2)
    sim.create(spec("g", 2, 2, strategy=STRICT_SPREAD))
    sim.settle()
    where = sim.nodes_of("g")
    before = dict(sim.book.groups["g"].placed)
    sim.drain(sim.nodes[where[0]])
    sim.settle()
    assert sim.changes[-2:] == [("g", "RESCHEDULING"), ("g", "CREATED")]
    assert sim.nodes_of("g")[1] == where[1]
    assert sim.book.groups["g"].placed[1] is before[1]
    assert sim.nodes[where[0]].reservations.all == []
    sim.check_settled()
    # What may still run in the one that it left ends with the group.
    commands = sim.book.remove("g")
    assert Return(ProcessId(where[0]), "g", before[0].epoch) in commands
    sim.perform(commands)
    sim.settle()
    assert all(node.free == node.total for node in sim.nodes.values())


def test_a_node_that_is_drained_says_why_groups_wait_and_is_no_placement_for_any() -> None:
    sim = Sim(2, 2)
    sim.create(spec("g", 2, 2, strategy=STRICT_SPREAD))
    sim.settle()
    sim.drain(sim.nodes["n1"])
    sim.settle()
    assert sim.state("g") == "RESCHEDULING"
    assert sim.book.reason("g").endswith("node n1 is being drained")
    sim.create(spec("h", 2))
    sim.settle()
    assert sim.state("h") == "PENDING"
    assert "node n1 is being drained" in sim.book.reason("h")
    sim.add_node(4)
    sim.settle()
    assert sim.state("g") == sim.state("h") == "CREATED"
    sim.kill(sim.nodes["n1"])
    sim.settle()
    sim.check_settled()
    assert not sim.book.groups["g"].left


@pytest.mark.parametrize("committing", [False, True])
def test_a_node_that_is_drained_while_an_attempt_is_under_way_gives_back_what_it_prepared(committing: bool) -> None:
    sim = Sim(2, 2)
    first, second = sim.nodes.values()
    sim.create(spec("g", 2))
    node = first if first.inbox else second
    sim.deliver(node)
    if committing:
        sim.hear(node)
    sim.drain(node)
    sim.settle()
    assert sim.state("g") == "CREATED"
    assert node.reservations.all == []
    sim.check_settled()


def test_a_group_that_waits_does_not_hold_up_others_and_is_not_starved_by_them() -> None:
    sim = Sim(4, 1)
    sim.create(spec("a", 2))
    sim.settle()
    sim.create(spec("big", 4))
    sim.settle()
    sim.create(spec("small", 1))
    sim.create(spec("too small a rest", 1))
    sim.settle()
    assert sim.state("big") == "PENDING"
    assert (sim.state("small"), sim.nodes_of("small")) == ("CREATED", [list(sim.nodes)[1]])
    assert sim.state("too small a rest") == "PENDING", "it would take what the big one waits for"
    assert "1 group(s) came before it" in sim.book.reason("too small a rest")
    sim.remove("a")
    sim.settle()
    assert sim.state("big") == "CREATED"


def test_what_can_never_be_placed_holds_up_nobody_and_says_why() -> None:
    sim = Sim(4, 2)
    sim.create(spec("never", 8))
    sim.create(spec("spread", 1, 1, 1, strategy=STRICT_SPREAD))
    sim.create(spec("packed", 3, 3, strategy=STRICT_PACK))
    sim.create(spec("sum", 2, 2, 2, 2))
    sim.create(spec("fine", 4))
    labelled = Bundle(cpus(1), LabelSelector.parse("x", {"zone": "a"}))
    sim.create(GroupSpec("label", (labelled,), PACK))
    sim.settle()
    assert sim.state("fine") == "CREATED"
    first, second = sim.nodes
    reason = sim.book.reason
    head = "no placement even if all nodes were free: "
    assert (
        reason("never")
        == f"{head}bundle 0 (CPU: 8) fits on no node: node {first} lacks CPU: 4; node {second} lacks CPU: 6"
    )
    assert reason("spread") == f"{head}STRICT_SPREAD needs 3 different nodes that are large enough; there are 2 nodes"
    assert f"STRICT_PACK needs one node for all bundles (CPU: 6): node {first} lacks CPU: 2" in reason("packed")
    assert reason("sum") == f"{head}the nodes do not have enough for all 4 bundles at the same time"
    assert f"node {first} has labels {{}}, not [zone in (a)]" in reason("label")
    sim.add_node(8)
    sim.settle()
    assert sim.state("never") == "CREATED"


def test_fifty_groups_race_for_the_room_of_ten() -> None:
    sim = Sim(4, 4, 4, 4, 4)
    for number in range(50):
        sim.create(spec(f"g{number}", 1, 1, strategy=STRICT_SPREAD))
    sim.settle()
    created = [number for number in range(50) if sim.state(f"g{number}") == "CREATED"]
    assert created == list(range(10))
    sim.check_settled()
    order: list[int] = []
    while len(order) < 50:
        created = [number for number in range(50) if sim.state(f"g{number}") == "CREATED"]
        assert created
        sim.remove(f"g{created[0]}")
        order.append(created[0])
        sim.settle()
    assert order == list(range(50)), "first come, first served"
    assert all(node.free == node.total for node in sim.nodes.values())


def test_answers_to_attempts_that_were_given_up_change_nothing() -> None:
    sim = Sim(2)
    (node,) = sim.nodes.values()
    sim.create(spec("g", 1))
    sim.deliver(node)
    late = node.answers.popleft()
    sim.remove("g")
    assert late() == []
    sim.settle()
    assert node.free == node.total
    assert sim.book.committed("g", 1, node.id) == []
    with pytest.raises(ValueError, match="exists already"):
        for _ in range(2):
            sim.create(spec("twice", 1))


@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**64))
def test_no_history_oversubscribes_loses_leaks_or_starves(seed: int) -> None:
    luck = random.Random(seed)
    sim = Sim(*[luck.randint(1, 6) for _ in range(luck.randint(1, 5))])
    names = 0
    for _ in range(luck.randint(5, 80)):
        names = _step(sim, luck, names)
        sim.check()
    sim.settle()
    sim.check_settled()
    for node in sim.nodes.values():
        node.leases.clear()
    # Whatever can be placed is, once others make room: first those created, in any order.
    while True:
        sim.settle()
        sim.check_settled()
        holding = [name for name, group in sim.book.groups.items() if group.placed]
        if not holding:
            break
        sim.remove(luck.choice(holding))
    for name in list(sim.book.groups):
        assert sim.book.reason(name).startswith("no placement even if all nodes were free"), sim.book.reason(name)
        sim.remove(name)
    sim.settle()
    assert all(node.free == node.total for node in sim.nodes.values())
    assert all(node.reservations.all == [] for node in sim.nodes.values())
    assert all(not held for held in sim.book.rooms.held.values())


def _step(sim: Sim, luck: random.Random, names: int) -> int:
    nodes = list(sim.nodes.values())
    node: Any = luck.choice(nodes) if nodes else None
    what = luck.random()
    if what < 0.16:
        sizes = [luck.randint(1, 3) for _ in range(luck.randint(1, 4))]
        sim.create(spec(f"g{names}", *sizes, strategy=luck.choice(STRATEGIES)))
        return names + 1
    if what < 0.24 and sim.book.groups:
        sim.remove(luck.choice(list(sim.book.groups)))
    elif what < 0.27 and nodes:
        sim.kill(node)
    elif what < 0.29 and nodes:
        sim.drain(node)
    elif what < 0.295 and nodes:
        node.loses += 1
    elif what < 0.33 and len(nodes) < 6:
        sim.add_node(luck.randint(1, 6))
    elif nodes and what < 0.40 and node.free:
        node.leases.append(cpus(luck.randint(1, max(1, int(node.free.to_floats()["CPU"])))))
    elif nodes and what < 0.48 and node.leases:
        node.leases.pop()
    elif nodes and what < 0.55 and node.said != node.free:
        sim.say(node)
    elif nodes and what < 0.78 and node.inbox:
        sim.deliver(node)
    elif nodes and node.answers:
        sim.hear(node)
    return names
