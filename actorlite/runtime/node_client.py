"""A process's link to its node: worker leases, and the word on how a process died."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from actorlite.errors import ActorliteError, ConnectionLost, NodeDiedError, Outcome, TaskUnschedulableError
from actorlite.ids import ProcessId, object_id
from actorlite.resources import CPU, NOTHING, ONE_CPU, Pairs, ResourceSet, from_units
from actorlite.rpc.peer import Peer
from actorlite.state.unplaced import not_in_time, still_waiting
from actorlite.wire.groups import GroupInfo, Place
from actorlite.wire.messages import Request, encode
from actorlite.wire.nodes import NodeLoad
from actorlite.wire.requests import (
    Blocked,
    Death,
    KillWorker,
    Lease,
    LeaseWorker,
    NodeInfo,
    NodeStatus,
    ReturnLease,
    Status,
    WhyDied,
    WithdrawLeases,
)

if TYPE_CHECKING:
    from actorlite.rpc.hub import Hub

NOWHERE = ProcessId("")
WHY_DIED_S = 3.0
"""How long to wait for the node's report on a process before saying that there is none."""

MAX_REQUESTS = 64
"""Leases asked for at a time when tasks need nothing; otherwise as many as the node has room for."""

REASON_TIMEOUT_S = 2.0
"""For what keeps a request waiting."""


class Want(NamedTuple):
    """What a worker is asked for with."""

    needs: ResourceSet = ONE_CPU
    """To be placed."""
    holds: ResourceSet = ONE_CPU
    """As long as the lease lasts: what it needs, or all but the CPU."""
    timeout_s: float | None = None
    """How long to wait, also for nodes to come; None: as long as it takes, if a node can ever have it."""

    place: Place | None = None
    """What is asked of its node beside room."""

    def room(self, cpu_units: int, more: Pairs) -> int:
        """How many of these fit into what all nodes have together."""
        totals = {CPU: cpu_units, **dict(more)}
        return max(1, min([totals.get(name, 0) // units for name, units in self.needs.items()], default=MAX_REQUESTS))


PLAIN = Want()
NO_NEEDS = Want(NOTHING, NOTHING)


def _room(load: NodeLoad) -> tuple[ResourceSet, ResourceSet]:
    """In all, and free."""
    total = ResourceSet({CPU: load.total, **{name: units for name, units, _ in load.more}})
    return total, ResourceSet({CPU: load.free, **{name: units for name, _, units in load.more}})


def _called(node: ProcessId, load: NodeLoad, here: ProcessId) -> str:
    return f"{node}{' (this one)' if node == here else ''}{' (being drained)' if load.draining else ''}"


def _pending(info: GroupInfo) -> dict[str, Any]:
    """A placement group that waits, as plain data; bundles that have room have a node."""
    shape = info.shape
    selectors = shape.selectors or ((),) * len(shape.bundles)
    return {
        "id": shape.group,
        "namespace": shape.namespace,
        "name": shape.name,
        "strategy": shape.strategy,
        "state": info.state,
        "reason": info.reason,
        "bundles": [
            {"resources": ResourceSet(bundle).to_floats(), "label_selector": dict(selector), "node": node or None}
            for bundle, selector, node in zip(shape.bundles, selectors, info.nodes, strict=True)
        ],
    }


class NodeClient:
    """Talks to the node over the connection on which this process registered."""

    def __init__(self, hub: Hub, peer: Peer, info: NodeInfo) -> None:
        self.peer = peer
        self.info = info
        self.gone: str = ""
        """Why the node is gone; empty while it is there."""
        self.explain: Callable[[], Awaitable[str]] | None = None
        """For a process that started its node itself: how it ended, once it has."""
        self._hub = hub
        self._inquiries: dict[ProcessId, asyncio.Task[Death]] = {}
        self._given_up: set[asyncio.Task[Lease | None]] = set()
        """Requests for workers whose answers are still to come, though nobody waits for them any more."""

    async def lease(self, number: int, want: Want, purpose: str, label: str, near: ProcessId = NOWHERE) -> Lease | None:
        """Wait for a worker, on the node `near` if possible; None when the request was withdrawn. Raises
        `TaskUnschedulableError` and its like, `NodeDiedError`.
        """
        if self.gone:
            raise NodeDiedError(self.gone, outcome=Outcome.NOT_EXECUTED)
        needs, cpus, place = want.needs, want.holds.cpus, want.place
        waits = want.timeout_s is not None
        body = LeaseWorker(number, needs.cpus, cpus, purpose, label, near, more=needs.more, waits=waits, place=place)
        asking: asyncio.Task[Any] = asyncio.get_running_loop().create_task(self.peer.request(number, body))
        try:
            lease = await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The grant may be under way already: then it comes back, or it would hold its CPU for ever.
            self._given_up.add(asking)
            asking.add_done_callback(self._return_late)
            self.withdraw((number,))
            raise
        except ConnectionLost as error:
            raise NodeDiedError(await self.why_gone(str(error)), outcome=Outcome.NOT_EXECUTED) from None
        return lease if isinstance(lease, Lease) else None

    async def why_no_lease(self, want: Want, label: str) -> TaskUnschedulableError:
        """What keeps a request waiting that has waited for its whole `timeout_s`."""
        try:
            async with asyncio.timeout(REASON_TIMEOUT_S):
                status = await self._status()
        except TimeoutError:
            text = not_in_time(label, want.needs, want.timeout_s or 0.0)
            text += f"its node has not said within {REASON_TIMEOUT_S:g} s what is in the way"
            return TaskUnschedulableError(text, outcome=Outcome.NOT_EXECUTED)
        here = ProcessId(self.peer.identity.process)
        nodes = [(_called(node, load, here), *_room(load)) for node, load in status.nodes]
        text = still_waiting(label, want.needs, want.timeout_s or 0.0, nodes, status.holders, status.waiting)
        workers = len(status.workers)
        if status.max_workers and workers >= status.max_workers:
            text += f"; max_workers={status.max_workers} of the first run already"
        return TaskUnschedulableError(text, outcome=Outcome.NOT_EXECUTED)

    def return_lease(self, lease: int, *, reuse: bool = True, retire: bool = False) -> None:
        """Give a worker back. The node frees the leases of a lost connection itself."""
        self.peer.tell(encode(Request(next(self._hub.numbers), ReturnLease(lease, reuse, retire))))

    def _return_late(self, asking: asyncio.Task[Any]) -> None:
        self._given_up.discard(asking)
        if not asking.cancelled() and asking.exception() is None and isinstance(asking.result(), Lease):
            self.return_lease(asking.result().lease)

    def withdraw(self, numbers: tuple[int, ...]) -> None:
        self.peer.tell(encode(WithdrawLeases(numbers)))

    def blocked(self, blocked: bool) -> None:
        self.peer.tell(encode(Blocked(blocked)))

    @property
    def id(self) -> str:
        return self.peer.identity.process

    def new_id(self) -> str:
        """For something that this process makes."""
        return object_id(self._hub.identity.process, next(self._hub.numbers))

    async def ask(self, body: Any) -> Any:
        """What it answers, or the node that leads. Raises what that answers, `ControlUnavailable`, `NodeDiedError`."""
        if self.gone:
            raise NodeDiedError(self.gone, outcome=Outcome.NOT_EXECUTED)
        try:
            return await self.peer.ask(next(self._hub.numbers), body, _forget)
        except ConnectionLost as error:
            raise NodeDiedError(await self.why_gone(str(error))) from None

    async def kill_worker(self, process: ProcessId) -> None:
        """End a worker and everything it started; returns when it is gone."""
        await self.peer.request(next(self._hub.numbers), KillWorker(process))

    async def status(self) -> dict[str, Any]:
        """What the node says of itself, and of what waits anywhere, as plain data."""
        status = await self._status(cluster=True)
        nodes = [
            {
                "node": node,
                "resources": (room := _room(load))[0].to_floats(),
                "free": {name: from_units(room[1].units_of(name)) for name, _ in room[0].items()},
                "labels": dict(load.labels),
                "pid": pid,
                "address": address,
                "leads": node == status.leader,
                "draining": load.draining,
            }
            for (node, load), (pid, address) in zip(status.nodes, status.places, strict=True)
        ]
        demand = [
            {"resources": ResourceSet(needs).to_floats(), "count": count, "feasible": feasible}
            for listed, feasible in ((status.demand, True), (status.infeasible, False))
            for needs, count in listed
        ]
        return {
            "pid": status.pid,
            "address": status.address,
            "num_cpus": from_units(status.cpu_units),
            "free_cpus": from_units(status.cpu_units_free),
            "workers": [{"process": process, "pid": pid, "use": use} for process, pid, use in status.workers],
            "jobs": list(status.jobs),
            "waiting": status.waiting,
            "detached": [
                {"id": target, "namespace": namespace, "name": name, "state": state}
                for target, namespace, name, state in status.detached
            ],
            "detached_groups": [
                {
                    "id": each.shape.group,
                    "namespace": each.shape.namespace,
                    "name": each.shape.name,
                    "state": each.state,
                    "reason": each.reason,
                }
                for each in status.groups
            ],
            "not_restored": list(status.not_restored),
            "resources": nodes[0]["resources"] if nodes else {},
            "free": nodes[0]["free"] if nodes else {},
            "labels": nodes[0]["labels"] if nodes else {},
            "max_workers": status.max_workers or None,
            "demand": demand,
            "pending_groups": [_pending(each) for each in status.pending],
            "silent": list(status.silent),
            "nodes": nodes,
        }

    async def _status(self, *, cluster: bool = False) -> Status:
        status = await self.peer.request(next(self._hub.numbers), NodeStatus(cluster))
        if not isinstance(status, Status):
            raise ActorliteError("the node did not answer")
        return status

    async def why_died(self, process: ProcessId) -> str:
        """One line on how a process ended; never raises."""
        return (await self.how_ended(process)).text

    async def how_ended(self, process: ProcessId) -> Death:
        """How a process ended, and whether that is known; never raises. Several callers share one inquiry."""
        task = self._inquiries.get(process)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._inquire(process), name=f"actorlite why {process}")
            self._inquiries[process] = task
            task.add_done_callback(lambda _: self._inquiries.pop(process, None))
        return await asyncio.shield(task)

    async def why_gone(self, otherwise: str) -> str:
        """Why the node is gone: its own last word, else how its process ended, else `otherwise`. Never raises."""
        if not self.gone and self.explain is not None:
            try:
                async with asyncio.timeout(WHY_DIED_S):
                    return await self.explain()
            except TimeoutError:
                pass  # its connection is lost, but it lives: say at least that
        return self.gone or f"the node daemon (pid {self.info.pid}) is gone: {otherwise}"

    async def aclose(self) -> None:
        tasks = [*self._inquiries.values(), *self._given_up]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _inquire(self, process: ProcessId) -> Death:
        if self.gone:
            return Death(True, self.gone)
        try:
            async with asyncio.timeout(WHY_DIED_S):
                death = await self.peer.request(next(self._hub.numbers), WhyDied(process))
        except TimeoutError:
            text = f"process {process} closed its connection; its node did not say why within {WHY_DIED_S:g} s"
            return Death(False, text)
        except ConnectionLost as error:
            return Death(True, await self.why_gone(str(error)))
        except ActorliteError as error:
            return Death(False, str(error))
        return death if isinstance(death, Death) else Death(False, f"process {process} is gone")


def _forget(answer: object) -> None:
    """To an answer that nobody waits for any more there is nothing to undo."""
