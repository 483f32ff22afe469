from __future__ import annotations

import pytest

from actorlite.commands import _show_demand


def test_status_shows_what_waits_anywhere(capsys: pytest.CaptureFixture[str]):
    bundles = [{"resources": {"CPU": 64.0}, "node": None}, {"resources": {"CPU": 1.0}, "node": "n"}]
    group = {"id": "g", "name": "", "strategy": "SPREAD", "bundles": bundles}
    demand = [
        {"resources": {"CPU": 0.5, "GPU": 1.0}, "count": 3, "feasible": True},
        {"resources": {}, "count": 1, "feasible": False},
    ]
    _show_demand({"demand": demand, "pending_groups": [group], "silent": ["m"], "nodes": [{"leads": False}]})
    assert capsys.readouterr().out.splitlines() == [
        "demand   3 x CPU: 0.5, GPU: 1",
        "         1 x nothing, which no node has",
        "         group g, SPREAD: CPU: 64",
        "         what waits on node m is not known: it has not answered",
        "         which placement groups wait is not known: no node leads",
    ]
