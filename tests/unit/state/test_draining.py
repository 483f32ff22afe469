from __future__ import annotations

import pytest

from actorlite.ids import ProcessId
from actorlite.resources import ResourceSet
from actorlite.state.draining import Drain, asked_back, is_working, refusal, working
from actorlite.state.leases import BUNDLE, LeaseTable
from actorlite.state.queues import LeaseRequest
from actorlite.state.scheduling import NodeView

ONE = ResourceSet.from_floats({"CPU": 1})
A, B, C = map(ProcessId, "abc")


def test_of_several_wishes_the_one_that_ends_first_counts() -> None:
    drain = Drain.begin(100.0, None)
    assert drain.left_s(1e9) is None
    assert not drain.again(100.0, None)
    assert drain.again(100.0, 60)
    assert not drain.again(110.0, 55)
    assert not drain.again(110.0, None)
    assert drain.again(110.0, 5)
    assert drain.left_s(112.0) == 3
    assert drain.left_s(200.0) == 0
    assert "timeout of 5 s" in drain.over


def test_the_leading_node_and_the_last_one_are_refused_with_a_remedy() -> None:
    assert "actorlite stop" in refusal(A, A, [NodeView(B, ONE, ONE)])
    assert "actorlite start --join" in refusal(B, A, [])
    assert "knows no other node" in refusal(B, A, [NodeView(C, ONE, ONE, draining=True)])
    assert refusal(B, A, [NodeView(A, ONE, ONE), NodeView(C, ONE, ONE, draining=True)]) == ""


@pytest.mark.parametrize(
    ("purpose", "keeps", "asked"),
    [("task", True, True), ("actor", True, True), ("shared", True, True), (BUNDLE, False, False)],
)
def test_what_a_node_waits_for(purpose: str, keeps: bool, asked: bool) -> None:
    table = LeaseTable(ONE)
    assert working([table]) == [] and not is_working([table])
    table.request(LeaseRequest(1, "owner", ONE, ONE, purpose, "", "job"))
    assert [lease.number for lease in working([table, LeaseTable(ONE)])] == ([1] if keeps else [])
    assert is_working([LeaseTable(ONE), table]) is keeps
    asked_for = [1] if asked else []
    assert [lease.number for lease in asked_back(working([table]), lambda lease: True)] == asked_for
    moves_not = asked_back(working([table]), lambda lease: False)
    assert [lease.number for lease in moves_not] == ([] if purpose == "actor" else asked_for)
