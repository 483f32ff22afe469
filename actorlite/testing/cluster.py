"""Sessions for tests whose parts live in the test's own loop, over the transport that the test chooses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from actorlite.config import Settings
from actorlite.context import current_runtime
from actorlite.ids import ProcessId
from actorlite.node.daemon import Node
from actorlite.opening.in_process import Neighbourhood
from actorlite.resources import NodeResources, check_node
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.session import Plan, Session, open_session, session_of
from actorlite.transport import Address


@asynccontextmanager
async def local_cluster(
    *,
    scheme: str = "inproc",
    num_cpus: float | None = 2,
    namespace: str = "",
    object_store_memory: int | None = None,
    object_spilling_directory: str | None = None,
    node: NodeResources | None = None,
) -> AsyncIterator[Session]:
    """A node, its workers and a driver in this loop, talking over `scheme` (`"inproc"`, `"uds"`, `"tcp"`). `node` says
    all that it has, instead of `num_cpus`.

    Starts in milliseconds. Everything but the processes is what a local session runs: use it to test your own actors
    with real connections under them. The session is the current one inside the block.
    """
    before = current_runtime.get()
    session = await open_session(
        _plan(scheme, namespace, _node(node or num_cpus), object_store_memory, object_spilling_directory),
    )
    current_runtime.set(session.runtime)
    try:
        yield session
    finally:
        try:
            await session.shutdown()
        finally:
            current_runtime.set(before)


@asynccontextmanager
async def cluster(
    *,
    nodes: int | Sequence[NodeResources] = 3,
    num_cpus: float | Sequence[float] = 2,
    scheme: str = "inproc",
    namespace: str = "",
    object_store_memory: int | None = None,
    object_spilling_directory: str | None = None,
) -> AsyncIterator[Cluster]:
    """Several nodes in this loop, each with an object store of its own; a driver on the first.

    `nodes`: how many, or all that each of them has. `num_cpus`: of each node, or a list with one number for each. The
    driver's session is the current one inside the block. Raises `ValueError` for less than one node, and for a list of
    another length.
    """
    if isinstance(nodes, int):
        cpus = [num_cpus] * nodes if isinstance(num_cpus, int | float) else list(num_cpus)
        if nodes < 1 or len(cpus) != nodes:
            raise ValueError(
                f"nodes={nodes!r}, num_cpus={num_cpus!r}: a cluster has at least one node, and CPUs for each"
            )
        nodes = [_node(each) for each in cpus]
    if not nodes:
        raise ValueError("nodes=[]: a cluster has at least one node")
    plan = _plan(scheme, namespace, nodes[0], object_store_memory, object_spilling_directory)
    before = current_runtime.get()
    async with AsyncExitStack() as stack:
        stack.callback(current_runtime.set, before)
        neighbourhood = Neighbourhood(plan, stack)
        found = Cluster(neighbourhood)
        stack.push_async_callback(found._aclose)
        for each in nodes:
            await found.add_node(each)
        inner = await stack.enter_async_context(AsyncExitStack())
        runtime = await neighbourhood.register(found.nodes[0].address, inner)
        found.session = session_of(runtime, inner)
        stack.push_async_callback(found.session.shutdown)
        current_runtime.set(runtime)
        yield found


class ClusterNode:
    """One node of a `Cluster`."""

    def __init__(self, node: Node, address: Address) -> None:
        self.node = node
        self.address = address
        self.is_running = True

    @property
    def id(self) -> ProcessId:
        return self.node.options.process

    def __repr__(self) -> str:
        return f"<ClusterNode {self.id} at {self.address}{'' if self.is_running else ', ended'}>"


class Cluster:
    """Made by `cluster`."""

    session: Session
    """Of the driver on the first node."""

    def __init__(self, neighbourhood: Neighbourhood) -> None:
        self.nodes: list[ClusterNode] = []
        """In the order added, those that have ended included."""
        self._neighbourhood = neighbourhood

    async def add_node(self, num_cpus: float | NodeResources = 2) -> ClusterNode:
        """Another one, with so many CPUs, or with all that is said of it; it knows all the others when this returns."""
        node, address = await self._neighbourhood.start_node(_node(num_cpus))
        found = ClusterNode(node, address)
        seeds = [each.address for each in self.nodes if each.is_running]
        self.nodes.append(found)
        if seeds:
            await node.join(seeds[0])
        return found

    async def kill_node(self, node: ClusterNode) -> None:
        """End a node as a power failure would: its connections and those of its workers break, without a goodbye."""
        if node.is_running:
            node.is_running = False
            node.node.members.close("")
            await node.node.hub.aclose()
            await node.node.aclose("it was killed")

    async def connect(self, node: ClusterNode, stack: AsyncExitStack) -> ProcessRuntime:
        """Another driver, of that node; `stack` ends it."""
        inner = await stack.enter_async_context(AsyncExitStack())
        runtime = await self._neighbourhood.register(node.address, inner)
        stack.push_async_callback(runtime.aclose)
        return runtime

    async def _aclose(self) -> None:
        for node in reversed(self.nodes):
            if node.is_running:
                node.is_running = False
                await node.node.aclose("its cluster was closed")

    def __repr__(self) -> str:
        return f"<Cluster {self.nodes}>"


def _node(has: float | NodeResources | None) -> NodeResources:
    told = has if isinstance(has, NodeResources) else NodeResources(has)
    check_node(told)
    return told


def _plan(scheme: str, namespace: str, node: NodeResources, memory: int | None, spill_to: str | None) -> Plan:
    return Plan("inproc://", namespace, node, (), Settings.from_environment(), scheme, memory, spill_to)
