from __future__ import annotations

from actorlite.node.demands import together
from actorlite.wire.requests import Demand

ONE = (("CPU", 10_000),)
TWO = (("CPU", 20_000),)


def test_equal_shapes_are_counted_together():
    parts = [Demand(((ONE, 2), (TWO, 1)), ((ONE, 1),)), Demand(((TWO, 3),)), Demand()]
    assert together(parts) == Demand(((ONE, 2), (TWO, 4)), ((ONE, 1),))
