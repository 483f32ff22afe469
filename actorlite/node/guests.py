"""Processes of other nodes that work here, and their jobs."""

from __future__ import annotations

from collections.abc import Container, Mapping

from actorlite.errors import ActorliteError, WorkerStartError
from actorlite.ids import ProcessId
from actorlite.node.records import Job
from actorlite.node.workers import WorkerPool
from actorlite.rpc.peer import Peer
from actorlite.wire.requests import LeaseWorker

MAX_ENDED = 1000


class Guests:
    """Owned by the lease desk. `own` is the node's: who registered here, and for which job."""

    def __init__(
        self,
        here: ProcessId,
        own: Mapping[ProcessId, Job],
        workers: WorkerPool,
        ended: Container[tuple[ProcessId, ProcessId]],
    ) -> None:
        self._here = here
        self._own = own
        self._workers = workers
        self._ended = ended
        """Processes of other nodes that are gone, each with its node."""
        self._ended_jobs: dict[str, ProcessId | None] = {}
        """With the node that they were lost with, if so."""
        self._homes: dict[ProcessId, ProcessId] = {}
        """Processes that have, or ask for, leases, and their nodes."""
        self._jobs: dict[str, Job] = {}

    @property
    def nodes(self) -> set[ProcessId]:
        return set(self._homes.values())

    def home_of(self, process: ProcessId) -> ProcessId | None:
        """The node of a process of another one."""
        return self._homes.get(process)

    def job_of(self, peer: Peer, body: LeaseWorker) -> Job:
        """The job of whoever asks, himself or through his node. Raises `WorkerStartError` when it has ended."""
        info = body.job
        if info is None:
            if peer.identity.process not in self._own:
                raise ActorliteError("register before asking for workers")
            return self._own[peer.identity.process]
        if peer.identity.role != "node":
            raise ActorliteError("only a node may ask for another process")
        # Requests are seen to a pass later than messages: the end of whom it is for may have overtaken this one.
        if (body.owner, peer.identity.process) in self._ended or info.name in self._ended_jobs:
            raise WorkerStartError(f"process {body.owner} of job {info.name} has ended")
        self._homes[body.owner] = peer.identity.process
        if info.home == self._here:
            found = next((each for each in self._own.values() if each.name == info.name), None)
            if found is None:
                raise WorkerStartError(f"job {info.name} has ended")
            return found
        job = self._jobs.get(info.name)
        if job is None:
            job = self._jobs[info.name] = Job(info.name, info.namespace, info.sys_path, info.cwd, info.home)
        return job

    def may_say(self, peer: Peer, process: ProcessId, job: str) -> bool:
        """Whether who says that a process and its job have ended is its node, as far as is known here."""
        if peer.identity.role != "node" or process in self._own:
            return False
        homes = {self._homes.get(process)}
        if job:
            homes |= {each.home for each in (*self._own.values(), *self._jobs.values()) if each.name == job}
        return homes <= {None, peer.identity.process}

    def process_ended(self, process: ProcessId) -> None:
        self._homes.pop(process, None)

    def job_ended(self, name: str, lost_with: ProcessId | None = None) -> None:
        """Its driver, on another node, is gone."""
        self._ended_jobs[name] = lost_with
        while len(self._ended_jobs) > MAX_ENDED:
            del self._ended_jobs[next(iter(self._ended_jobs))]
        job = self._jobs.pop(name, None)
        if job is not None:
            self._workers.end_job(job)

    def node_lost(self, node: ProcessId) -> list[ProcessId]:
        """End the jobs of its drivers; returns those of its processes that are known here."""
        for job in [each for each in self._jobs.values() if each.home == node]:
            self.job_ended(job.name, node)
        return [process for process, home in self._homes.items() if home == node]

    def node_back(self, node: ProcessId) -> None:
        """It was cut off: its drivers may live, and ask for workers anew."""
        self._ended_jobs = {name: lost_with for name, lost_with in self._ended_jobs.items() if lost_with != node}

    def __repr__(self) -> str:
        return f"<Guests processes={len(self._homes)} jobs={len(self._jobs)}>"
