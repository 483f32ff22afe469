from __future__ import annotations

import pytest

from actorlite.ids import ProcessId
from actorlite.state.scheduling import CROWDED, NodeView, choose

NOWHERE = ProcessId("")


def view(name: str, total: int, free: int) -> NodeView:
    return NodeView(ProcessId(name), total, free)


@pytest.mark.parametrize(
    ("total", "free", "use"),
    [(10, 10, 0), (10, 6, 0), (10, 5, CROWDED), (10, 1, 0.9), (10, 0, 1), (0, 0, 0), (1, 0, 1)],
)
def test_below_half_a_node_counts_as_empty(total: int, free: int, use: float):
    assert view("a", total, free).use == pytest.approx(use)


@pytest.mark.parametrize(
    ("needs", "near", "here", "others", "chosen"),
    [
        pytest.param(1, "", (4, 4), {}, "here", id="alone"),
        pytest.param(1, "", (4, 0), {}, "here", id="alone and busy: it waits"),
        pytest.param(5, "", (4, 4), {}, None, id="alone and too small"),
        # Near.
        pytest.param(1, "b", (4, 4), {"a": (4, 4), "b": (4, 1)}, "b", id="near, though it is the fullest"),
        pytest.param(1, "here", (4, 1), {"a": (4, 4)}, "here", id="near is here, though it is crowded"),
        pytest.param(2, "b", (4, 4), {"b": (4, 1)}, "here", id="near has no room now: not waited for"),
        pytest.param(2, "b", (4, 0), {"a": (4, 3), "b": (4, 1)}, "a", id="near has no room, nor has here"),
        pytest.param(2, "b", (4, 1), {"b": (4, 1)}, "b", id="nobody has room: near is waited for"),
        pytest.param(5, "b", (4, 4), {"a": (8, 0), "b": (4, 4)}, "a", id="near is too small"),
        pytest.param(1, "gone", (4, 4), {"a": (4, 4)}, "here", id="near is not known"),
        # Packed below half, spread above.
        pytest.param(1, "", (4, 3), {"a": (4, 4)}, "here", id="here below half, though another is empty"),
        pytest.param(1, "", (10, 6), {"a": (10, 10)}, "here", id="here just below half"),
        pytest.param(1, "", (10, 5), {"a": (10, 6)}, "a", id="here at half"),
        pytest.param(1, "", (10, 5), {"a": (10, 4)}, "here", id="all crowded: the least used, which is here"),
        pytest.param(1, "", (10, 3), {"a": (10, 4), "b": (10, 5)}, "b", id="all crowded: the least used"),
        pytest.param(1, "", (10, 4), {"a": (100, 39)}, "here", id="use is relative to what a node has"),
        # Ties.
        pytest.param(1, "", (4, 1), {"a": (4, 1)}, "here", id="equally crowded: here"),
        pytest.param(1, "", (4, 0), {"b": (4, 4), "a": (4, 3)}, "a", id="equally empty: by name"),
        pytest.param(1, "", (4, 0), {"b": (4, 1), "a": (4, 1)}, "a", id="equally crowded others: by name"),
        # Nobody free.
        pytest.param(2, "", (4, 1), {"a": (4, 1)}, "here", id="nobody has room: it waits here"),
        pytest.param(4, "", (2, 2), {"a": (4, 1), "b": (8, 3)}, "b", id="here never: the largest is waited for"),
        pytest.param(4, "", (2, 2), {"a": (4, 1), "b": (4, 3)}, "b", id="equally large: by name"),
        # Nobody able.
        pytest.param(9, "a", (4, 4), {"a": (8, 8)}, None, id="nobody is large enough"),
        pytest.param(1, "", (0, 0), {}, None, id="nobody has anything"),
        # Zero.
        pytest.param(0, "", (0, 0), {"a": (4, 4)}, "here", id="nothing is needed: here, which has none"),
        pytest.param(0, "", (4, 0), {"a": (4, 4)}, "a", id="nothing is needed, and here is crowded"),
        pytest.param(0, "a", (4, 4), {"a": (4, 0)}, "a", id="nothing is needed, near a full one"),
    ],
)
def test_the_node_for_a_request(
    needs: int, near: str, here: tuple[int, int], others: dict[str, tuple[int, int]], chosen: str | None
):
    views = [view(name, *room) for name, room in others.items()]
    for order in (views, views[::-1]):
        assert choose(needs, ProcessId(near), view("here", *here), order) == chosen
