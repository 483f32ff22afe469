from __future__ import annotations

from actorlite.resources import ResourceSet
from actorlite.state.unplaced import infeasible, still_waiting


def some(cpus: float, **others: float) -> ResourceSet:
    return ResourceSet.from_floats({"CPU": cpus, **others})


def test_one_node_lacks_something() -> None:
    assert infeasible("f", some(1, GPU=2), [("n", some(4, GPU=1, x=1))]) == (
        "f needs CPU: 1, GPU: 2, but the node has CPU: 4, GPU: 1 in all (GPU: 1 too few): ask for less with num_cpus=, "
        "num_gpus=, or start the node with more"
    )


def test_each_of_several_nodes_lacks_something_the_nearest_first() -> None:
    nodes = [("a", some(1)), ("b", some(4)), *((f"n{number}", some(0.5)) for number in range(9))]
    text = infeasible("", some(4, x=1, **{"accelerator_type:T4": 0.001}), nodes)
    assert text.startswith("this needs CPU: 4, accelerator_type:T4: 0.001, x: 1, but no node has as much: node b has ")
    assert "node a has CPU: 1, accelerator_type:T4: 0, x: 0 (CPU: 3, accelerator_type:T4: 0.001, x: 1 too few)" in text
    assert "and 6 more: ask for less with num_cpus=, accelerator_type=, resources=, or start a node with more" in text


def test_what_is_in_the_way_of_a_request() -> None:
    nodes = [("a (this one)", some(4), some(1)), ("b", some(8), some(8)), ("c", some(1), some(1))]
    holders = [("task g", some(1).pairs, 3), ("actor A", some(0, GPU=1).pairs, 1)]
    assert still_waiting("f", some(2), 1.5, nodes, holders, 7) == (
        "f needs CPU: 2 and had no worker within schedule_timeout=1.5 s; node a (this one) has CPU: 1 of CPU: 4 free "
        "(CPU: 1 too few); node b has CPU: 8 of CPU: 8 free; node c has CPU: 1 in all (CPU: 1 too few); held on the "
        "first by 3 x task g (CPU: 1); 7 requests wait there"
    )
