"""Sessions for tests whose parts live in the test's own loop, over the transport that the test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from actorlite.config import Settings
from actorlite.context import current_runtime
from actorlite.ids import ProcessId
from actorlite.node.daemon import Node
from actorlite.opening.in_process import Neighbourhood
from actorlite.resources import NodeResources, check_node
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.session import Plan, Session, open_session, session_of
from actorlite.state.draining import check_timeout
from actorlite.state.scheduling import NodeView
from actorlite.testing.network import Network
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
        network = Network()
        neighbourhood = Neighbourhood(plan, stack, network)
        found = Cluster(neighbourhood, network)
        stack.push_async_callback(found._aclose)
        for each in nodes:
            await found.add_node(each)
        inner = await stack.enter_async_context(AsyncExitStack())
        runtime = await neighbourhood.register(found.nodes[0].address, inner, found.nodes[0].id)
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

    @property
    def views(self) -> Mapping[ProcessId, NodeView]:
        """The other nodes that it knows, and what each of them has."""
        return self.node.members.views

    def __repr__(self) -> str:
        return f"<ClusterNode {self.id} at {self.address}{'' if self.is_running else ', ended'}>"


class Cluster:
    """Made by `cluster`."""

    session: Session
    """Of the driver on the first node."""

    def __init__(self, neighbourhood: Neighbourhood, network: Network) -> None:
        self.nodes: list[ClusterNode] = []
        """In the order added, those that have ended included."""
        self._neighbourhood = neighbourhood
        self._network = network
        self._leaving: dict[ProcessId, asyncio.Task[None]] = {}
        """Nodes that were drained, or are being so."""

    async def add_node(self, num_cpus: float | NodeResources = 2) -> ClusterNode:
        """Another one, with so many CPUs, or with all that is said of it; it knows all the others when this returns.

        During a partition it is on the side of the first node that runs.
        """
        node, address = await self._neighbourhood.start_node(_node(num_cpus))
        found = ClusterNode(node, address)
        first = next((each for each in self.nodes if each.is_running), None)
        self.nodes.append(found)
        if first is not None:
            self._network.keep_with(node.options.process, first.id)
            await node.join(first.address)
        return found

    async def kill_node(self, node: ClusterNode) -> None:
        """End a node as a power failure would: its connections and those of its workers break, without a goodbye."""
        if node.is_running:
            node.is_running = False
            node.node.members.close("")
            await node.node.hub.aclose()
            await node.node.aclose("it was killed")

    async def drain_node(self, node: ClusterNode, *, timeout: float | None = None) -> None:
        """Have a node leave in good order: it takes no new tasks, actors, bundles and sessions; what runs there goes on
        until it ends, at most for `timeout` seconds; then the node is gone. Returns when it is.

        Follows Ray's `DrainNode` and `kubectl drain`. Actors with `max_restarts` that may be elsewhere move at once,
        after the calls that they have, which uses up no restart; others stay until they end. Bundles are placed
        elsewhere. What runs on when the time is over ends as when its worker dies, with the reason; tasks with retries
        left run again elsewhere, which is not counted. Objects that only this node has are lost with it, as with any
        node that leaves.

        For a node that is being drained it waits for the same end, and the shorter time counts. To cancel it ends the
        waiting only: the node goes on leaving, and takes nothing new. Raises `DrainRefused` for the node that leads and
        for the last one, `ValueError` for one that has ended, `NodeDiedError` when the node ends before, by `kill_node`
        or the end of the cluster.
        """
        self._check(node)
        check_timeout(timeout)
        node.node.draining.begin(timeout)
        leaving = self._leaving.get(node.id)
        if leaving is None:
            leaving = self._leaving[node.id] = asyncio.get_running_loop().create_task(self._leave(node))
            leaving.add_done_callback(_heard)
        await asyncio.shield(leaving)

    async def _leave(self, node: ClusterNode) -> None:
        await node.node.draining.drained()
        if node.is_running:
            node.is_running = False
            await node.node.aclose("it was drained")

    async def partition(self, *sides: Iterable[ClusterNode]) -> None:
        """Cut the nodes of each side off from those of the others: `partition([a], [b, c])`. Nodes that are not named
        stay connected to all. Connections between the sides break, and none is made before `heal`.

        When this returns both sides have noticed: each takes the nodes of the other for lost. Raises `ValueError` for
        less than two sides, for a node on two of them, and for one that has ended or is of another cluster.
        """
        found = [list(side) for side in sides]
        named = [node for side in found for node in side]
        if len(found) < 2 or not all(found) or len({node.id for node in named}) < len(named):
            raise ValueError(f"sides={found}: name two sides or more, each with a node, and each node once")
        for node in named:
            self._check(node)
        pairs = [(one, other) for a, side in enumerate(found) for b in found[a + 1 :] for one in side for other in b]
        self._network.part((one.id, other.id) for one, other in pairs)
        # Nodes first: they then know what to say when their processes ask why the others are gone.
        await self._network.cut({node.address for node in named})
        while any(other.id in one.views or one.id in other.views for one, other in pairs):  # noqa: ASYNC110
            await asyncio.sleep(0)  # their loop is this one
        await self._network.cut()

    async def heal(self) -> None:
        """End all partitions; nodes that have lost each other join again."""
        self._network.heal()
        running = [node for node in self.nodes if node.is_running]
        for position, node in enumerate(running):
            for other in running[:position]:
                if other.id not in node.views or node.id not in other.views:
                    await node.node.join(other.address)

    def delay(self, one: ClusterNode, other: ClusterNode, seconds: float) -> None:
        """Let everything between two nodes and their processes, in both directions, take `seconds` longer from now on;
        0 ends it. Raises `ValueError`."""
        self._check(one)
        self._check(other)
        if one is other or not 0 <= seconds < float("inf"):
            raise ValueError(f"{one}, {other}, seconds={seconds!r}: name two nodes, and a time of 0 or more")
        self._network.delay(one.id, other.id, seconds)

    def _check(self, node: ClusterNode) -> None:
        if node not in self.nodes or not node.is_running:
            raise ValueError(f"{node} is no running node of {self}")

    async def connect(self, node: ClusterNode, stack: AsyncExitStack) -> ProcessRuntime:
        """Another driver, of that node; `stack` ends it."""
        inner = await stack.enter_async_context(AsyncExitStack())
        runtime = await self._neighbourhood.register(node.address, inner, node.id)
        stack.push_async_callback(runtime.aclose)
        return runtime

    async def _aclose(self) -> None:
        for node in reversed(self.nodes):
            if node.is_running:
                node.is_running = False
                await node.node.aclose("its cluster was closed")
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)

    def __repr__(self) -> str:
        return f"<Cluster {self.nodes}>"


def _node(has: float | NodeResources | None) -> NodeResources:
    told = has if isinstance(has, NodeResources) else NodeResources(has)
    check_node(told)
    return told


def _heard(leaving: asyncio.Task[None]) -> None:
    """Of a node that ended while it was drained, when nobody waits any more."""
    if not leaving.cancelled():
        leaving.exception()


def _plan(scheme: str, namespace: str, node: NodeResources, memory: int | None, spill_to: str | None) -> Plan:
    return Plan("inproc://", namespace, node, (), Settings.from_environment(), scheme, memory, spill_to)
