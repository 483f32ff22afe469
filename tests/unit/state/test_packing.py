from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorlite.ids import ProcessId
from actorlite.labels import LabelSelector
from actorlite.resources import ResourceSet
from actorlite.state.packing import PACK, SPREAD, STRICT_PACK, STRICT_SPREAD, Bundle, Room, place

STRATEGIES = (PACK, SPREAD, STRICT_PACK, STRICT_SPREAD)


def size(cpus: float, gpus: float = 0) -> ResourceSet:
    return ResourceSet.from_floats({"CPU": cpus, "GPU": gpus})


def rooms(*cpus: float, **labels: str) -> dict[ProcessId, Room]:
    return {ProcessId(f"n{number}"): Room(size(each), labels) for number, each in enumerate(cpus)}


def bundles(*cpus: float) -> list[Bundle]:
    return [Bundle(size(each)) for each in cpus]


def test_pack_uses_one_node_if_it_can_and_as_few_as_possible_otherwise() -> None:
    assert place(bundles(1, 1), PACK, rooms(1, 4, 2)) == ["n2", "n2"], "the node that they fill best"
    assert place(bundles(3, 3, 4), PACK, rooms(4, 6)) == ["n1", "n1", "n0"]
    assert place(bundles(2, 2, 2), PACK, rooms(2, 4)) is not None
    assert place(bundles(3, 3), PACK, rooms(4, 2)) is None
    assert place(bundles(1), PACK, rooms(4, 4), taken=[ProcessId("n1")]) == ["n1"], "where the others are"


def test_spread_uses_many_nodes_and_the_same_ones_again_when_there_are_no_more() -> None:
    assert sorted(place(bundles(1, 1, 1), SPREAD, rooms(4, 4, 4)) or []) == ["n0", "n1", "n2"]
    assert sorted(place(bundles(1, 1, 1), SPREAD, rooms(4, 4)) or [])[:2] in (["n0", "n0"], ["n0", "n1"])
    assert place(bundles(1), SPREAD, rooms(2, 2), taken=[ProcessId("n0")]) == ["n1"]


def test_strict_pack_is_one_node_or_none() -> None:
    assert place(bundles(1, 1), STRICT_PACK, rooms(1, 1)) is None
    assert place(bundles(1, 1), STRICT_PACK, rooms(1, 2)) == ["n1", "n1"]
    assert place(bundles(1), STRICT_PACK, rooms(4, 4), taken=[ProcessId("n1")]) == ["n1"]
    assert place(bundles(1), STRICT_PACK, rooms(4, 0), taken=[ProcessId("n1")]) is None


def test_strict_spread_moves_bundles_until_all_have_a_node() -> None:
    assert place(bundles(1, 3), STRICT_SPREAD, rooms(4, 2)) == ["n1", "n0"]
    assert place(bundles(1, 1, 1), STRICT_SPREAD, rooms(4, 4)) is None
    assert place(bundles(1), STRICT_SPREAD, rooms(4, 1), taken=[ProcessId("n0")]) == ["n1"]


def test_bundles_without_gpu_leave_nodes_that_have_some_alone() -> None:
    both = {ProcessId("a"): Room(size(4, 1), {}), ProcessId("b"): Room(size(4), {})}
    for strategy in (PACK, SPREAD):
        assert place(bundles(2), strategy, both) == ["b"]
        assert place([Bundle(size(1, 1)), Bundle(size(4))], strategy, both) == ["a", "b"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_bundle_has_a_selector_of_its_own(strategy: str) -> None:
    nodes = {ProcessId(zone): Room(size(4), {"zone": zone}) for zone in ("x", "y", "z")}
    wanted = [Bundle(size(1), LabelSelector.parse("s", {"zone": zone})) for zone in ("z", "y")]
    assert place(wanted, strategy, nodes) == (None if strategy == STRICT_PACK else ["z", "y"])
    assert place(wanted[:1] * 2, strategy, nodes) == (None if strategy == STRICT_SPREAD else ["z", "z"])
    assert place([Bundle(size(1), LabelSelector.parse("s", {"zone": "q"}))], strategy, nodes) is None


@settings(max_examples=400)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.lists(st.integers(0, 8), max_size=4),
    st.sampled_from(STRATEGIES),
)
def test_a_placement_is_found_when_there_is_one_and_fits(wants: list[int], has: list[int], strategy: str) -> None:
    nodes = rooms(*has)
    found = place(bundles(*wants), strategy, nodes)
    possible = [choice for choice in product(nodes, repeat=len(wants)) if _good(choice, wants, nodes, strategy)]
    if found is None:
        assert not possible
    else:
        assert _good(tuple(found), wants, nodes, strategy)
    if found is not None and strategy == PACK and any(len(set(choice)) == 1 for choice in possible):
        assert len(set(found)) == 1


def _good(choice: tuple[ProcessId, ...], wants: list[int], nodes: dict[ProcessId, Room], strategy: str) -> bool:
    if strategy == STRICT_PACK and len(set(choice)) > 1:
        return False
    if strategy == STRICT_SPREAD and len(set(choice)) < len(choice):
        return False
    for node, room in nodes.items():
        total = sum(want for want, where in zip(wants, choice, strict=True) if where == node)
        if not room.free.fits(size(total)):
            return False
    return True


def test_thousands_of_nodes_and_hundreds_of_bundles() -> None:
    many = rooms(*[4.0] * 3000)
    for strategy in (PACK, SPREAD, STRICT_SPREAD):
        found = place(bundles(*[2.0] * 300), strategy, many)
        assert found is not None
        assert len(set(found)) == (150 if strategy == PACK else 300)
