"""What waits for room, in the whole cluster: for whoever starts nodes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

from actorlite.errors import ActorliteError
from actorlite.ids import ProcessId
from actorlite.node.desk import LeaseDesk
from actorlite.node.groups import Coordinator
from actorlite.node.members import Members
from actorlite.resources import Pairs
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.state.bundles import GroupState
from actorlite.wire.groups import DescribeGroups, GroupInfo
from actorlite.wire.requests import Demand, TellDemand

ANSWER_S = 1.0
"""How long other nodes may take to answer."""
WITHOUT_ROOM = {GroupState.PENDING, GroupState.RESCHEDULING}


class Demands:
    """Owned by the node; on the loop."""

    def __init__(
        self, hub: Hub, handlers: Handlers, members: Members, desk: LeaseDesk, coordinator: Coordinator
    ) -> None:
        self._hub = hub
        self._members = members
        self._desk = desk
        self._coordinator = coordinator
        handlers.on_requests({TellDemand: self._asked})

    def here(self) -> Demand:
        groups = self._coordinator.described(DescribeGroups()).groups
        return Demand(
            tuple(self._desk.table.room.demand()),
            tuple(self._desk.hopes.demand()),
            tuple([each for each in groups if each.state in WITHOUT_ROOM]),
        )

    async def everywhere(self) -> tuple[Demand, tuple[ProcessId, ...]]:
        """Of all nodes together, but those that do not answer: these are told, too."""
        members = self._members
        asking: dict[ProcessId, asyncio.Task[Any]] = {}
        for node in members.views:
            if (peer := members.peer(node)) is not None:
                asking[node] = asyncio.ensure_future(peer.request(next(self._hub.numbers), TellDemand()))
        silent = [node for node in members.views if node not in asking]
        told = []
        try:
            if asking:
                await asyncio.wait(asking.values(), timeout=ANSWER_S)
        finally:
            for node, task in asking.items():
                answer = _answer(task)
                if answer is None:
                    silent.append(node)
                else:
                    told.append(answer)
        return together([self.here(), *told]), tuple(silent)

    async def _asked(self, peer: Peer, body: TellDemand) -> Demand:
        return self.here()

    def __repr__(self) -> str:
        return f"<Demands {self.here()}>"


def together(demands: Iterable[Demand]) -> Demand:
    shapes: Counter[Pairs] = Counter()
    infeasible: Counter[Pairs] = Counter()
    groups: list[GroupInfo] = []
    for each in demands:
        shapes.update(dict(each.shapes))
        infeasible.update(dict(each.infeasible))
        groups += each.groups
    return Demand(tuple(shapes.items()), tuple(infeasible.items()), tuple(groups))


def _answer(task: asyncio.Task[Any]) -> Demand | None:
    """None from one that has not answered: it is not waited for any more."""
    if not task.done():
        task.cancel()
        return None
    try:
        answer = task.result()
    except ActorliteError:
        return None
    return answer if isinstance(answer, Demand) else None
