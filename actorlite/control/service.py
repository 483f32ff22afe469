"""Control: names and detached actors of a cluster, on the node that leads it; on the others, the way there.

The first node of a cluster leads. Each process asks its own node; that asks the leading one. Without the leader work
goes on: what needs control fails with `ControlUnavailable`, and nothing else does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container
from typing import Any, Protocol

from msgspec import structs

from actorlite.control.detached import DetachedActors
from actorlite.control.persistence import Persistence
from actorlite.control.seat import Seat
from actorlite.errors import ConnectionLost, ControlUnavailable
from actorlite.ids import ActorId, ProcessId
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.state.directory import Directory, Holder
from actorlite.wire.calls import Borrow, Exists, Release
from actorlite.wire.control import ClaimName, CreateDetached, FindName, ListNames, NameHolder, Names, ReleaseName
from actorlite.wire.messages import encode
from actorlite.wire.requests import KillActor, ResolveActor, Yes

logger = logging.getLogger("actorlite.control")


class Cluster(Protocol):
    """The nodes, as this one knows them."""

    @property
    def leader(self) -> ProcessId:
        """Empty when there is none."""
        ...

    @property
    def why_not_led(self) -> str: ...

    @property
    def ended(self) -> Container[tuple[ProcessId, ProcessId]]:
        """Processes of other nodes that have ended, each with its node."""
        ...

    def peer(self, node: ProcessId) -> Peer | None: ...


class Control:
    """Owned by the node; on the loop."""

    def __init__(self, hub: Hub, handlers: Handlers, cluster: Cluster, seat: Seat) -> None:
        self.directory = Directory()
        self.persistence = Persistence(seat.state_path, hub.identity.process)
        self.detached = DetachedActors(seat, self.directory, self.persistence)
        self._hub = hub
        self._cluster = cluster
        handlers.on_requests(
            {
                ClaimName: self.led(self._claim),
                ReleaseName: self.led(self._release),
                FindName: self.led(self._find),
                ListNames: self.led(self._list),
                CreateDetached: self.led(self.detached.create),
                ResolveActor: self.led(self.detached.resolve),
                KillActor: self.led(self.detached.kill),
            }
        )
        # Who holds a detached actor is not counted.
        handlers.on_messages(
            {
                Borrow: lambda peer, message, parts: peer.tell(encode(Exists(message.id))),
                Release: lambda peer, message, parts: None,
            }
        )

    async def start(self) -> None:
        """Lead, until the node joins another one; find what an earlier node had. Raises `ControlUnavailable`."""
        await self.persistence.open()
        try:
            await self.detached.restore()
        except BaseException:
            await self.aclose(keep=True)
            raise

    def resume(self, groups: Container[str]) -> None:
        """The node is ready: bring back what was found. `groups`: the placement groups that are there again."""
        self.detached.resume(groups)

    @property
    def leads(self) -> bool:
        return self._cluster.leader == self._hub.identity.process

    def led(self, handler: Callable[[Peer, Any], Awaitable[Any]]) -> Callable[[Peer, Any], Awaitable[Any]]:
        """The handler on the leading node; on another one, what asks that."""

        async def handle(peer: Peer, body: Any) -> Any:
            if self.leads:
                return await handler(peer, body)
            if peer.identity.role == "node":
                raise ControlUnavailable(f"node {self._hub.identity.process}, which was asked, does not lead")
            return await self._pass_on(peer, body)

        return handle

    async def _pass_on(self, peer: Peer, body: Any) -> Any:
        there = self._cluster.peer(self._cluster.leader)
        if there is None:
            raise ControlUnavailable(self._cluster.why_not_led)
        if isinstance(body, ClaimName):
            body = structs.replace(body, owner=peer.identity.process)
        try:
            return await there.request(next(self._hub.numbers), body)
        except ConnectionLost as error:
            raise ControlUnavailable(f"the node that leads the cluster is gone: {error}") from None

    # --- names

    async def _claim(self, peer: Peer, body: ClaimName) -> NameHolder:
        owner, node = body.owner, peer.identity.process
        if not owner:
            owner, node = node, self._hub.identity.process
        if (owner, node) in self._cluster.ended or not peer.is_open:
            raise ControlUnavailable(f"process {owner} has ended: it gets no name")
        holder = Holder(body.kind, body.namespace, body.name, body.target, body.entry, owner, node)
        return answer(self.directory.claim(holder), body.target)

    async def _release(self, peer: Peer, body: ReleaseName) -> Yes:
        return Yes(self.directory.release(body.kind, body.namespace, body.name, body.target))

    async def _find(self, peer: Peer, body: FindName) -> NameHolder | None:
        found = self.directory.find(body.kind, body.namespace, body.name)
        return None if found is None else answer(found, "")

    async def _list(self, peer: Peer, body: ListNames) -> Names:
        return Names(tuple([(each.namespace, each.name) for each in self.directory.listed(body.kind, body.namespace)]))

    # --- ends

    def process_ended(self, process: ProcessId, node: ProcessId) -> None:
        """A process of any node is gone, as that says."""
        self.directory.process_ended(process, node)

    def node_lost(self, node: ProcessId) -> None:
        self.directory.node_lost(node)

    @property
    def listed(self) -> tuple[tuple[ActorId, str, str, str], ...]:
        """Detached actors: id, namespace, name, state."""
        return self.detached.listed()

    @property
    def not_restored(self) -> tuple[str, ...]:
        """What could not be brought back, and why."""
        return tuple(self.detached.not_restored)

    async def aclose(self, *, keep: bool) -> None:
        """The node ends, and with it the detached actors; without `keep` nothing is left to come back to.

        Completes when cancelled.
        """
        closing = asyncio.ensure_future(self._close(keep))
        cancelled = False
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError
        closing.result()

    async def _close(self, keep: bool) -> None:
        if keep:
            self.persistence.freeze()
        await self.detached.aclose()
        await self.persistence.aclose(keep=keep)

    def __repr__(self) -> str:
        return f"<Control {'leads' if self.leads else 'follows'} {self.directory!r}>"


def answer(holder: Holder, asked_for: str) -> NameHolder:
    return NameHolder(holder.target, holder.entry, holder.target == asked_for)
