from __future__ import annotations

from actorlite.ids import ProcessId
from actorlite.resources import ResourceSet
from actorlite.state.scheduling import NodeView, choose

NOWHERE = ProcessId("")


def some(cpus: float, **others: float) -> ResourceSet:
    return ResourceSet.from_floats({"CPU": cpus, **others})


def node(name: str, total: ResourceSet, free: ResourceSet | None = None) -> NodeView:
    return NodeView(ProcessId(name), total, total if free is None else free)


HERE = node("here", some(4))


def test_this_node_first_while_it_has_room() -> None:
    assert choose(some(1), NOWHERE, HERE, [node("b", some(8))]) == "here"
    busy = node("here", some(4), some(0.5))
    assert choose(some(1), NOWHERE, busy, [node("b", some(8))]) == "b"
    assert choose(some(1), NOWHERE, busy, [node("b", some(8), some(0))]) == "here", "nobody has room: it waits here"


def test_the_node_of_the_arguments_before_it() -> None:
    others = [node("b", some(8), some(4)), node("c", some(8))]
    assert choose(some(1), ProcessId("b"), HERE, others) == "b"
    assert choose(some(6), ProcessId("b"), HERE, others) == "c", "b has no room now"


def test_only_nodes_that_have_all_of_it() -> None:
    others = [node("b", some(8)), node("c", some(1, GPU=1)), node("d", some(1, GPU=2, x=1))]
    assert choose(some(1, GPU=1, x=1), NOWHERE, HERE, others) == "d"
    assert choose(some(2, GPU=1), NOWHERE, HERE, others) is None
    full = [node("c", some(1, GPU=1), some(1)), node("d", some(1, GPU=1), some(0))]
    assert choose(some(1, GPU=1), NOWHERE, HERE, full) == "d", "none has room: it waits at the largest"


def test_crowded_nodes_are_avoided() -> None:
    here = node("here", some(4), some(1))
    assert here.use == 0.75 and node("b", some(4), some(3)).use == 0.0 and node("c", some(0)).use == 0.0
    assert choose(some(1), NOWHERE, here, [node("b", some(4), some(3))]) == "b"
