"""Leases that this node got from others for its own processes. A process talks to its own node only: that passes on
what it asks for, and gives back what it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import structs

from actorlite.errors import ConnectionLost, NodeDraining
from actorlite.ids import ProcessId
from actorlite.node.members import Members
from actorlite.node.records import Job
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.wire.messages import Request, encode
from actorlite.wire.nodes import JobInfo
from actorlite.wire.requests import Lease, LeaseWorker, ReturnLease, WithdrawLeases

MAX_WORKERS = 1000
"""Of other nodes that are remembered."""


class NodeLost(Exception):
    """The other node is gone, or is about to go: the request has to go elsewhere."""


class Redirects:
    """Owned by the lease desk; on the loop."""

    def __init__(self, hub: Hub, members: Members, number: Callable[[], int]) -> None:
        self._hub = hub
        self._members = members
        self._number = number
        self._leases: dict[int, tuple[ProcessId, Lease, ProcessId]] = {}
        """By our number: the node, the lease there, and whose it is."""
        self._tickets: dict[tuple[Peer, int], tuple[Peer, int]] = {}
        """Requests under way: the other node, and our ticket there."""
        self._late: set[asyncio.Task[object]] = set()
        self._workers: dict[ProcessId, ProcessId] = {}
        """Workers that were leased, the latest last, and their nodes: also when they were returned, for they end with
        their node, and whoever had them may ask only then how."""

    async def lease(self, peer: Peer, body: LeaseWorker, job: Job, node: ProcessId) -> Lease | None:
        """Ask another node; None when the request was withdrawn. Raises `NodeLost`, and what that node answers."""
        there = self._members.peer(node)
        if there is None:
            raise NodeLost
        ticket = next(self._hub.numbers)
        owner = peer.identity.process
        home = job.home or self._hub.identity.process
        info = JobInfo(job.name, job.namespace, job.sys_path, job.cwd, home)
        passed_on = structs.replace(body, ticket=ticket, owner=owner, job=info)
        self._tickets[peer, body.ticket] = there, ticket
        asking = asyncio.get_running_loop().create_task(there.request(ticket, passed_on))
        try:
            lease = await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The grant may be under way already: then it goes back.
            self._late.add(asking)
            asking.add_done_callback(lambda _: self._return_late(there, asking))
            there.tell(encode(WithdrawLeases((ticket,))))
            raise
        except ConnectionLost:
            raise NodeLost from None
        except NodeDraining:
            if (view := self._members.views.get(node)) is not None:
                self._members.index.put(structs.replace(view, draining=True))  # in case it has not said so yet
            raise NodeLost from None
        finally:
            self._tickets.pop((peer, body.ticket), None)
        if not isinstance(lease, Lease):
            return None
        if not peer.is_open:
            self._return(there, lease.lease)
            return None
        number = self._number()
        self._leases[number] = node, lease, owner
        self._workers.pop(lease.process, None)
        self._workers[lease.process] = node
        if len(self._workers) > MAX_WORKERS:
            del self._workers[next(iter(self._workers))]
        return Lease(number, lease.process, lease.address, lease.pid)

    def give_back(self, body: ReturnLease) -> bool:
        """Whether it is a lease of another node; then that node has it back."""
        found = self._leases.pop(body.lease, None)
        if found is None:
            return False
        there = self._members.peer(found[0])
        if there is not None:
            self._return(there, found[1].lease, reuse=body.reuse, retire=body.retire)
        return True

    def owner_of(self, node: ProcessId, lease: int) -> tuple[ProcessId, int] | None:
        """Whose a lease of another node is, and its number here."""
        for number, (there, theirs, owner) in self._leases.items():
            if there == node and theirs.lease == lease:
                return owner, number
        return None

    def withdraw(self, peer: Peer, ticket: int) -> None:
        found = self._tickets.get((peer, ticket))
        if found is not None:
            there, theirs = found
            there.tell(encode(WithdrawLeases((theirs,))))

    def owner_gone(self, process: ProcessId) -> None:
        """The other nodes free what it held: they are told of its end."""
        self._leases = {number: each for number, each in self._leases.items() if each[2] != process}

    def node_lost(self, node: ProcessId) -> list[ProcessId]:
        """The workers that were leased there, lately, which are gone with it."""
        self._leases = {number: each for number, each in self._leases.items() if each[0] != node}
        gone = [worker for worker, there in self._workers.items() if there == node]
        for worker in gone:
            del self._workers[worker]
        return gone

    def _return(self, there: Peer, number: int, *, reuse: bool = True, retire: bool = False) -> None:
        there.tell(encode(Request(next(self._hub.numbers), ReturnLease(number, reuse, retire))))

    def _return_late(self, there: Peer, asking: asyncio.Task[object]) -> None:
        self._late.discard(asking)
        if not asking.cancelled() and asking.exception() is None and isinstance(lease := asking.result(), Lease):
            self._return(there, lease.lease)

    def __repr__(self) -> str:
        return f"<Redirects leases={len(self._leases)} asking={len(self._tickets)}>"
