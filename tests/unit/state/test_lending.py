"""What tasks lend while they wait for others, and who gets it."""

from __future__ import annotations

import itertools
import os
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actorlite.resources import CPU, NOTHING, UNITS_PER_ONE
from actorlite.state.asking import wanted_back
from actorlite.state.leases import LeaseTable

from .leasing import ask, numbers, some, table_of

ONE = UNITS_PER_ONE
HISTORIES = int(os.environ.get("ACTORLITE_HISTORIES", "20"))
"""Random histories per run; the number that is promised is 10 000."""
MANY = settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))


def pledging_table(cpus: float = 1) -> LeaseTable:
    """One task waits for others, and an actor, number 2, has got its CPU."""
    table = table_of(cpus)
    table.request(ask(1, some(cpus)))
    table.lend(1)
    assert numbers(table.request(ask(2, purpose="actor"))) == [2]
    return table


def test_what_a_waiting_task_waits_for_runs_in_its_stead_when_an_actor_got_its_cpu():
    table = pledging_table()
    assert numbers(table.request(ask(3))) == [3]
    assert table.request(ask(4)) == [] and not table.free_now(), "not more than the task itself would use"
    assert numbers(table.lend(3)) == [4], "and so on"
    assert numbers(table.request(ask(5, holds=NOTHING, purpose="actor"))) == []
    assert numbers(table.release(4)) == [5]
    assert table.request(ask(6, purpose="actor")) == [], "who comes to stay waits"
    table.check()


def test_a_task_whose_cpu_an_actor_got_goes_on_and_waits_again():
    table = pledging_table()
    for number in range(3, 6):
        assert numbers(table.request(ask(number))) == [number]
        table.release(number)
        table.take_back(1)
        assert table.free[CPU] == -ONE and table.request(ask(number + 10)) == []
        assert numbers(table.lend(1)) == [number + 10]
        table.release(number + 10)
    table.release(1)
    assert table.free == {CPU: 0} and table.turns.pledged == 0
    assert table.request(ask(50)) == [], "nobody waits for it any more"
    assert numbers(table.release(2)) == [50]
    table.check()


def test_what_becomes_free_makes_good_what_was_pledged():
    table = table_of(2)
    table.request(ask(1))
    table.request(ask(2))
    table.lend(1)
    table.request(ask(3, purpose="actor"))
    table.release(2)
    assert table.turns.pledged == 0, "there is room for the task that waits"
    assert numbers(table.request(ask(4))) == [4] and table.request(ask(5)) == []
    table.check()


def test_an_actor_that_got_a_free_cpu_is_in_nobody_s_way():
    table = table_of(2)
    table.request(ask(1))
    table.lend(1)
    table.request(ask(2, purpose="actor"))
    assert table.turns.pledged == 0
    assert numbers(table.request(ask(3))) == [3] and table.request(ask(4)) == []
    table.check()


def test_the_end_of_an_actor_ends_what_was_pledged():
    table = pledging_table()
    table.request(ask(3))
    assert table.free[CPU] == -ONE
    assert table.release(2) == [] and table.turns.pledged == 0
    assert table.request(ask(4)) == []
    assert numbers(table.release(3)) == [4]
    table.check()


def test_who_comes_to_stay_gets_what_is_lent_though_others_run_in_its_stead():
    table = table_of(2)
    for number in (1, 2):
        table.request(ask(number))
        table.lend(number)
    table.request(ask(3, purpose="bundle"))
    assert numbers(table.request(ask(4))) == [4]
    assert table.free_now() == NOTHING and table.turns.for_groups() == some(1)
    assert wanted_back(table, 0) == [], "nothing is used that is not lent"
    assert table.claim(ask(5, purpose="bundle"), "g")
    assert table.turns.for_groups() == NOTHING and table.free[CPU] == -ONE
    assert numbers(table.request(ask(6))) == [6], "each of the two has one that runs in its stead"
    assert table.request(ask(7)) == []
    assert not table.claim(ask(8, purpose="bundle"), "g"), "all that there is belongs to bundles"
    table.check()


@given(st.integers(0, 10**9), st.integers(1, 4))
@MANY
def test_trees_of_tasks_end_beside_actors_that_stay_until_they_have(seed: int, cpus: int) -> None:
    """Each task starts children, of its size or smaller, waits for them, goes on, and waits for more; whoever is at
    its root waits for all of it. Actors come all the time, and end when no tree that has begun is left."""
    luck = random.Random(seed)
    table = table_of(cpus)
    count = itertools.count(1)
    parents: dict[int, int] = {}
    children: dict[int, int] = {}
    """How many each waits for."""
    more: dict[int, int] = {}
    """How often it will do so yet."""
    actors: set[int] = set()

    def start(size: float, parent: int = 0, depth: int = 0) -> None:
        number = next(count)
        parents[number], children[number], more[number] = parent, 0, luck.randint(0, 3) if depth < 3 else 0
        depths[number], sizes[number] = depth, size
        table.request(ask(number, some(size), owner=luck.choice("ab"), job=luck.choice("jk")))

    depths: dict[int, int] = {}
    sizes: dict[int, float] = {}
    for _ in range(luck.randint(1, 6)):
        start(luck.choice([0.5, 1, cpus]))
    for _ in range(5000):
        if luck.random() < 0.3:
            actors.add(number := next(count))
            table.request(ask(number, some(luck.choice([0.5, 1, cpus])), purpose="actor"))
        if not more:
            break
        running = [number for number in more if number in table.held and not children[number]]
        if not running:
            assert not any(number in table.held for number in more), f"{table!r}: {table.waiting}"
            table.release(min(actors & table.held.keys()))  # no tree has begun: they wait for nobody
            continue
        number = luck.choice(running)
        if more[number]:
            more[number] -= 1
            if luck.random() < 0.5:
                table.lend(number)  # and its children come later, or none
            for _ in range(luck.randint(1, 2)):
                start(luck.choice([0.5 * sizes[number], sizes[number]]), number, depths[number] + 1)
                children[number] += 1
            table.lend(number)
        else:
            del more[number]
            table.release(number)
            if parent := parents[number]:
                children[parent] -= 1
                if not children[parent]:
                    table.take_back(parent)
        table.check()
        stay = table.turns.lasting[CPU]
        assert stay <= table.total.units_of(CPU), "what stays never exceeds the node"
    assert not more
    assert table.turns.lent == table.turns.pledged == 0 and table.free[CPU] >= 0, "nothing is used twice any more"
    for number in actors:
        if number in table.held:
            table.release(number)
    while table.held:
        table.release(next(iter(table.held)))
    assert table.free_now() == table.total and not table.waiting
