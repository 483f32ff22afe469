"""The node's object store as long as nobody has asked for it: next to nothing.

Most sessions never have a large value, and a session's start waits for what the daemon imports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from actorlite.errors import ConnectionLost, ObjectLostError
from actorlite.ids import ProcessId
from actorlite.loading import load
from actorlite.node.members import Members
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.store.capacity import default_capacity
from actorlite.wire.messages import encode
from actorlite.wire.nodes import HasObject
from actorlite.wire.objects import (
    AttachStore,
    ClaimObjects,
    Explained,
    ExplainObjects,
    FreeObjects,
    ListObjects,
    Objects,
    OpenObject,
    Placed,
    StoreInfo,
)
from actorlite.wire.requests import Yes

if TYPE_CHECKING:
    from actorlite.node.objects import NodeStore

STORE = "actorlite.node.objects:NodeStore"


class StoreOptions(Struct, frozen=True):
    capacity: int | None = None
    """Bytes; None: a part of what the host has."""
    spill_to: str = ""
    """A directory or a URL; empty: nothing is spilled."""
    channel: str = ""
    """The path of the socket that hands out the segment; empty where all processes of the node are this one."""


class Storefront:
    """Opens the store for the first process that attaches; everybody attaches before anything else."""

    def __init__(self, hub: Hub, handlers: Handlers, options: StoreOptions, members: Members) -> None:
        self._hub = hub
        self._handlers = handlers
        self._options = options
        self._members = members
        self._store: NodeStore | None = None
        self._opening = asyncio.Lock()
        handlers.on_requests(
            {
                AttachStore: self._attach,
                ListObjects: self._list,
                ExplainObjects: self._ask_owner,
                HasObject: self._has,
                OpenObject: self._open,
            }
        )
        handlers.on_messages(dict.fromkeys((FreeObjects, ClaimObjects), self._pass_on))

    def process_lost(self, process: ProcessId) -> None:
        if self._store is not None:
            self._store.process_lost(process)

    def node_lost(self, node: ProcessId) -> None:
        if self._store is not None:
            self._store.node_lost(node)

    def inherit(self, objects: Iterable[tuple[str, tuple[ProcessId, ...]]], heirs: Collection[ProcessId]) -> None:
        """Their owner ends: those who are named with them own them, too, if they are among `heirs`."""
        if self._store is not None:
            for key, processes in objects:
                self._store.slabs.inherit(key, [each for each in processes if each in heirs])

    async def aclose(self) -> None:
        if self._store is not None:
            await self._store.aclose()

    async def _attach(self, peer: Peer, body: AttachStore) -> StoreInfo:
        return (await self._opened()).info()

    async def _list(self, peer: Peer, body: ListObjects) -> Objects:
        own = await self._own_list()
        if body.here:
            return own
        others = await self._members.ask_all(ListObjects(here=True))
        return _together([own, *[each for each in others if isinstance(each, Objects)]])

    async def _own_list(self) -> Objects:
        if self._store is not None:
            return await self._store.explained()
        processes = tuple((process, each.identity.role, each.identity.pid) for process, each in self._hub.peers.items())
        return Objects(self._options.capacity or default_capacity(), 0, 0.0, 0, 0, (), processes)

    async def _ask_owner(self, peer: Peer, body: ExplainObjects) -> Explained:
        """For another node: it does not know the owner, which is here."""
        return await ask_owner(self._hub, body)

    # --- while nothing is here

    async def _has(self, peer: Peer, body: HasObject) -> Yes:
        return Yes(False)

    async def _open(self, peer: Peer, body: OpenObject) -> Placed:
        raise ObjectLostError(f"object {body.key} is not in this node's store")

    def _pass_on(self, peer: Peer, message: FreeObjects | ClaimObjects, parts: Sequence[memoryview]) -> None:
        pass_on(self._hub, self._members, message)

    async def _opened(self) -> NodeStore:
        async with self._opening:
            if self._store is None:
                store: NodeStore = load(STORE)(self._hub, self._options, self._members)
                await store.start()
                store.install(self._handlers)
                self._store = store
            return self._store

    def __repr__(self) -> str:
        return f"<Storefront {self._store!r}>"


def _together(found: Sequence[Objects]) -> Objects:
    """What several nodes have; the fragmentation is that of the worst."""
    processes = {each[0]: each for of_node in found for each in of_node.processes}
    return Objects(
        sum(each.capacity for each in found),
        sum(each.used for each in found),
        max(each.fragmentation for each in found),
        sum(each.spilled for each in found),
        sum(each.waiting for each in found),
        tuple([listed for each in found for listed in each.objects]),
        tuple(processes.values()),
        sum(each.leased for each in found),
    )


async def ask_owner(hub: Hub, question: ExplainObjects) -> Explained:
    """What an owner of this node says of its objects. Raises `ConnectionLost` when it is gone."""
    peer = hub.peers.get(question.owner)
    if peer is None:
        raise ConnectionLost(f"process {question.owner} is gone")
    answer = await peer.request(next(hub.numbers), question)
    return answer if isinstance(answer, Explained) else Explained(())


def pass_on(hub: Hub, members: Members, message: FreeObjects | ClaimObjects) -> bool:
    """Whether it is for another node; then that one is told, or, when it is gone, all that may have copies."""
    node = message.node
    if not node or node == hub.identity.process:
        return False
    here = structs.replace(message, node=ProcessId(""))
    peer = members.peer(node)
    if peer is not None:
        peer.tell(encode(here))
    elif type(message) is FreeObjects:
        members.tell(here)
    return True
