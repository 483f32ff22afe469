"""Requests for workers in placement groups, on the node of whoever asks: wait for the group, then ask where it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from actorlite.errors import (
    ActorliteError,
    BundleMoved,
    PlacementGroupRemoved,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
)
from actorlite.ids import ProcessId
from actorlite.node.redirects import NodeLost
from actorlite.rpc.peer import Peer
from actorlite.state.retries import Backoff
from actorlite.wire.groups import GroupInfo
from actorlite.wire.requests import Lease, LeaseWorker

HEDGE_S = 0.02
"""A request for any bundle asks the next of several nodes when one has not answered for so long."""
ASK_AGAIN = Backoff(first_s=0.01, cap_s=1.0, free=1)
"""Between the tries of a request when the group is not where it is said to be, or this node cannot get there."""
MAX_KNOWN = 1000
"""Groups whose places are remembered."""

Created = Callable[[str], Awaitable[GroupInfo]]
AskNode = Callable[[Peer, LeaseWorker, ProcessId], Awaitable[Lease | None]]
"""Ask one node for the worker. Raises `NodeLost`, `BundleMoved`; gives the lease back when cancelled."""


class InGroups:
    """Owned by the lease desk; on the loop."""

    def __init__(self, ask: AskNode, give_back: Callable[[Lease], None], luck: Callable[[], float]) -> None:
        self.created: Created = _nobody
        """Where the group is, once it is; given by whoever knows the way to the leading node."""
        self._ask = ask
        self._give_back = give_back
        self._luck = luck
        self._known: dict[str, GroupInfo] = {}
        self._asking: dict[tuple[Peer, int], asyncio.Task[Lease | None]] = {}
        self._turn = 0

    async def lease(self, peer: Peer, body: LeaseWorker) -> Lease | None:
        """A worker in the group; None when the request was withdrawn. Raises `TaskPlacementGroupRemoved`,
        `ControlUnavailable`, and what a node answers."""
        key = peer, body.ticket
        task = self._asking[key] = asyncio.get_running_loop().create_task(self._find(peer, body))
        try:
            return await task
        except asyncio.CancelledError:
            if self._asking.get(key) is task:
                raise
            return None  # withdrawn
        finally:
            self._asking.pop(key, None)

    def withdraw(self, peer: Peer, ticket: int) -> bool:
        """Whether it was one of these; then what it asked for is given up."""
        task = self._asking.pop((peer, ticket), None)
        if task is None:
            return False
        task.cancel()
        return True

    async def _find(self, peer: Peer, body: LeaseWorker) -> Lease | None:
        place = body.place
        assert place is not None
        group, index = place.group, place.bundle
        tries = 0
        while True:
            try:
                info = self._known.pop(group, None) or await self.created(group)
            except PlacementGroupRemoved as error:
                raise TaskPlacementGroupRemoved(f"{body.label or 'this'} has no place to run: {error}") from None
            self._known[group] = info
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
            if index >= len(info.nodes):
                raise TaskUnschedulableError(f"placement group {group} has no bundle {index}, but {len(info.nodes)}")
            nodes = [info.nodes[index]] if index >= 0 else self._in_turn(info.nodes, body.near)
            try:
                return await self._first(peer, body, nodes)
            except (NodeLost, BundleMoved):
                self._known.pop(group, None)  # look again: it is being placed anew, or is removed
                tries += 1
                if pause_s := ASK_AGAIN.delay_s(tries, self._luck()):
                    await asyncio.sleep(pause_s)

    def _in_turn(self, nodes: Sequence[ProcessId], near: ProcessId) -> list[ProcessId]:
        """Each once, beginning with another one each time; the one where the arguments lie first."""
        found = list(dict.fromkeys(nodes))
        self._turn += 1
        first = self._turn % len(found)
        found = found[first:] + found[:first]
        return sorted(found, key=lambda node: node != near)

    async def _first(self, peer: Peer, body: LeaseWorker, nodes: list[ProcessId]) -> Lease | None:
        """Ask one node after the other, without waiting for long, until one of them has granted the request."""
        if len(nodes) == 1:
            return await self._ask(peer, body, nodes[0])
        rest, asking = nodes[::-1], dict[asyncio.Task[Lease | None], ProcessId]()
        moved: Exception = BundleMoved("its nodes are gone")
        try:
            while rest or asking:
                if rest:
                    node = rest.pop()
                    asking[asyncio.ensure_future(self._ask(peer, body, node))] = node
                done, _ = await asyncio.wait(
                    asking, timeout=HEDGE_S if rest else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    del asking[task]
                    error = task.exception()
                    if error is None:
                        return task.result()
                    if not isinstance(error, NodeLost | BundleMoved):
                        raise error
                    moved = error
            raise moved
        finally:
            for task in asking:
                task.cancel()
                task.add_done_callback(self._spare)

    def _spare(self, task: asyncio.Task[Lease | None]) -> None:
        """One that was granted as well, at the same time."""
        if not task.cancelled() and task.exception() is None and (lease := task.result()) is not None:
            self._give_back(lease)

    def __repr__(self) -> str:
        return f"<InGroups asking={len(self._asking)} known={len(self._known)}>"


async def _nobody(group: str) -> GroupInfo:
    raise ActorliteError("this node has no placement groups")
