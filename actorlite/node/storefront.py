"""The node's object store as long as nobody has asked for it: next to nothing.

Most sessions never have a large value, and a session's start waits for what the daemon imports.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actorlite.ids import ProcessId
from actorlite.loading import load
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.wire.objects import AttachStore, ListObjects, Objects, StoreInfo

if TYPE_CHECKING:
    from actorlite.node.objects import NodeStore

STORE = "actorlite.node.objects:NodeStore"


@dataclass(frozen=True)
class StoreOptions:
    capacity: int | None = None
    """Bytes; None: a part of what the host has."""
    spill_to: str = ""
    """A directory or a URL; empty: nothing is spilled."""
    channel: str = ""
    """The path of the socket that hands out the segment; empty where all processes of the node are this one."""


class Storefront:
    """Opens the store for the first process that attaches; everybody attaches before anything else."""

    def __init__(self, hub: Hub, handlers: Handlers, options: StoreOptions) -> None:
        self._hub = hub
        self._handlers = handlers
        self._options = options
        self._store: NodeStore | None = None
        self._opening = asyncio.Lock()
        handlers.on_requests({AttachStore: self._attach, ListObjects: self._list})

    def process_lost(self, process: ProcessId) -> None:
        if self._store is not None:
            self._store.process_lost(process)

    async def aclose(self) -> None:
        if self._store is not None:
            await self._store.aclose()

    async def _attach(self, peer: Peer, body: AttachStore) -> StoreInfo:
        return (await self._opened()).info()

    async def _list(self, peer: Peer, body: ListObjects) -> Objects:
        return await (await self._opened()).explained()

    async def _opened(self) -> NodeStore:
        async with self._opening:
            if self._store is None:
                store: NodeStore = load(STORE)(self._hub, self._options)
                await store.start()
                store.install(self._handlers)
                self._store = store
            return self._store

    def __repr__(self) -> str:
        return f"<Storefront {self._store!r}>"
