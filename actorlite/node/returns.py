"""Leases that are asked back: those without work at once when somebody waits, others after a while."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from actorlite.ids import ProcessId
from actorlite.node.guests import Guests
from actorlite.node.members import Members
from actorlite.node.records import Job
from actorlite.node.redirects import Redirects
from actorlite.resources import CPU
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.state.asking import wanted_back
from actorlite.state.leases import HeldLease, LeaseTable
from actorlite.wire.messages import encode
from actorlite.wire.requests import Reclaim

SLICE_S = 0.1
"""How long requests wait before leases are asked back for them whose owners have more to run."""


class Returns:
    """Owned by the lease desk; on the loop."""

    def __init__(
        self,
        table: LeaseTable,
        hub: Hub,
        jobs: Mapping[ProcessId, Job],
        members: Members,
        guests: Guests,
        redirects: Redirects,
    ) -> None:
        self._table = table
        self._hub = hub
        self._jobs = jobs
        self._members = members
        self._guests = guests
        self._redirects = redirects
        self._slice: asyncio.TimerHandle | None = None
        self._latest = 0
        """The last request when the slice began."""

    def somebody_waits(self) -> None:
        """Here: all who have leases give back what is idle, now; and in a while more than that."""
        self._reclaim_idle()
        for node in self._guests.nodes:
            if (peer := self._members.peer(node)) is not None:
                peer.tell(encode(Reclaim()))
        self.begin_slice()

    def reclaim(self, peer: Peer, message: Reclaim, parts: Sequence[memoryview]) -> None:
        """Handler: somebody waits on another node, which wants from processes here what is idle, or these leases."""
        if not message.leases:
            self._reclaim_idle()
        for lease in message.leases:
            found = self._redirects.owner_of(peer.identity.process, lease)
            owner = self._hub.peers.get(found[0]) if found is not None else None
            if found is not None and owner is not None:
                owner.tell(encode(Reclaim((found[1],), message.drained)))

    def begin_slice(self) -> None:
        """If somebody waits, or what was lent is used twice."""
        table = self._table
        if self._slice is None and (table.waiting or table.turns.groups_wait or table.turns.room(CPU, True) < 0):
            self._slice = asyncio.get_running_loop().call_later(SLICE_S, self._end_slice)

    def ask_back(self, leases: Iterable[HeldLease], *, drained: bool = False) -> None:
        """Have their owners return them when what runs there has ended. `drained`: because this node leaves."""
        for lease in leases:
            owner = ProcessId(lease.owner)
            if (peer := self._hub.peers.get(self._guests.home_of(owner) or owner)) is not None:
                peer.tell(encode(Reclaim((lease.number,), drained)))

    def close(self) -> None:
        if self._slice is not None:
            self._slice.cancel()

    def _reclaim_idle(self) -> None:
        for peer in self._hub.peers.values():
            if peer.identity.process in self._jobs:
                peer.tell(encode(Reclaim()))

    def _end_slice(self) -> None:
        """Who has waited for a whole slice gets some of what others use."""
        self._slice = None
        self.ask_back(wanted_back(self._table, self._latest))
        self._latest = max(self._table.waiting, default=0)
        self.begin_slice()

    def __repr__(self) -> str:
        return f"<Returns slice={self._slice is not None}>"
