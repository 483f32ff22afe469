"""Who may say that a process of another node, and its job, have ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actorlite.errors import WorkerStartError
from actorlite.ids import ProcessId
from actorlite.node.guests import Guests
from actorlite.node.records import Job
from actorlite.wire.nodes import JobInfo
from actorlite.wire.requests import LeaseWorker

HERE, THEIRS, OTHER = ProcessId("here"), ProcessId("theirs"), ProcessId("other")
PROCESS, DRIVER = ProcessId("p"), ProcessId("d")


def peer(process: ProcessId, role: str = "node") -> Any:
    return SimpleNamespace(identity=SimpleNamespace(process=process, role=role))


def asks(job: str, home: ProcessId = THEIRS) -> LeaseWorker:
    return LeaseWorker(1, 10_000, 10_000, "task", owner=PROCESS, job=JobInfo(job, "", (), "", home))


class Desk:
    """Guests, and what its node knows."""

    def __init__(self) -> None:
        self.own = {DRIVER: Job("mine", "", (), "")}
        self.ended: dict[tuple[ProcessId, ProcessId], None] = {}
        self.guests = Guests(HERE, self.own, SimpleNamespace(end_job=lambda job: None), self.ended)  # type: ignore[arg-type]


def test_of_a_known_process_only_its_node_is_believed() -> None:
    desk = Desk()
    assert desk.guests.may_say(peer(OTHER), PROCESS, ""), "it is not known here"
    desk.guests.job_of(peer(THEIRS), asks("job"))
    assert desk.guests.may_say(peer(THEIRS), PROCESS, "job")
    assert not desk.guests.may_say(peer(OTHER), PROCESS, "")
    assert not desk.guests.may_say(peer(OTHER), ProcessId("another"), "job")
    desk.guests.process_ended(PROCESS)
    assert desk.guests.may_say(peer(OTHER), PROCESS, "")


def test_of_its_own_processes_and_jobs_a_node_believes_nobody() -> None:
    desk = Desk()
    assert not desk.guests.may_say(peer(THEIRS), DRIVER, "")
    assert not desk.guests.may_say(peer(THEIRS), PROCESS, "mine")
    # Its own worker for a job of another node.
    desk.own[ProcessId("w")] = Job("job", "", (), "", THEIRS)
    assert desk.guests.may_say(peer(THEIRS), PROCESS, "job")
    assert not desk.guests.may_say(peer(OTHER), PROCESS, "job")


@pytest.mark.parametrize("role", ["driver", "worker"])
def test_only_nodes_are_believed(role: str) -> None:
    assert not Desk().guests.may_say(peer(PROCESS, role), PROCESS, "")


def test_a_process_whose_end_another_node_told_of_is_served() -> None:
    desk = Desk()
    desk.ended[PROCESS, OTHER] = None
    assert desk.guests.job_of(peer(THEIRS), asks("job")).name == "job"
    desk.ended[PROCESS, THEIRS] = None
    with pytest.raises(WorkerStartError, match="has ended"):
        desk.guests.job_of(peer(THEIRS), asks("job"))
