"""A cluster of real node daemons on this machine, for tests and demonstrations."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from actorlite import shared_node
from actorlite.config import NODE_SOCKET, Settings
from actorlite.resources import NodeResources, check_node


@asynccontextmanager
async def daemons(
    *, nodes: int | Sequence[NodeResources] = 3, num_cpus: float = 2, object_store_memory: int | None = None
) -> AsyncIterator[DaemonCluster]:
    """Several node daemons in a temporary directory, all in one cluster; they end with the block, or with this process.

    `nodes`: how many, each with `num_cpus`, or all that each of them has. Sessions attach to any of them:
    `al.init(found.nodes[0].address)`. Raises `ValueError` for less than one node, `NodeStartError`.
    """
    has = [NodeResources(num_cpus)] * nodes if isinstance(nodes, int) else list(nodes)
    if not has:
        raise ValueError(f"nodes={nodes!r}: a cluster has at least one node")
    async with AsyncExitStack() as stack:
        settings = Settings.from_environment()
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="actorlite-", dir=settings.runtime_root))
        found = DaemonCluster(Path(directory), replace(settings, runtime_root=directory), object_store_memory, stack)
        for each in has:
            await found.add_node(each)
        yield found


class DaemonCluster:
    """Made by `daemons`."""

    def __init__(self, directory: Path, settings: Settings, store: int | None, stack: AsyncExitStack) -> None:
        self.nodes: list[shared_node.OwnedNode] = []
        """In the order added, those that have ended included."""
        self._directory = directory
        self._settings = settings
        self._store = store
        self._stack = stack

    async def add_node(self, resources: NodeResources, join: str | None = None) -> shared_node.OwnedNode:
        """Another one, which has joined when this returns: the node at `join`, else the first that runs."""
        check_node(resources)
        running = [each.address for each in self.nodes if each.is_running]
        to_join = join if join is not None else next(iter(running), "")
        address = f"uds://{self._directory}/{len(self.nodes)}/{NODE_SOCKET}"
        place = shared_node.Place.at(address, self._settings)
        wanted = shared_node.Wanted(resources, object_store_memory=self._store, join=to_join)
        node = await self._stack.enter_async_context(shared_node.running(place, wanted))
        self.nodes.append(node)
        return node

    def __repr__(self) -> str:
        return f"<DaemonCluster {[each.address for each in self.nodes]}>"
