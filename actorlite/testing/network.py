"""What lies between the nodes of a cluster in one loop: it can be cut in parts, and be slow."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from weakref import WeakKeyDictionary, WeakSet

from actorlite.errors import ConnectFailed
from actorlite.ids import ProcessId
from actorlite.testing.faults import Faults, FaultyConnection, FaultyTransport
from actorlite.transport import Address, Connection, Listener, Sink, Transport, get_transport

Pair = frozenset[ProcessId]


class Network:
    """Connections within a node are as they would be without it; those between nodes go through `FaultyTransport`, on
    the side that connects: that is enough to delay both directions, and to cut both ends."""

    def __init__(self) -> None:
        self.homes: dict[Address, ProcessId] = {}
        """The node of whoever listens there."""
        self._links: dict[Pair, Faults] = {}
        self._apart: set[Pair] = set()
        self._sides: WeakSet[_Side] = WeakSet()

    def __call__(self, node: ProcessId, address: Address) -> Transport:
        """The transport for a process of that node."""
        side = _Side(self, node, get_transport(address))
        self._sides.add(side)
        return side

    def part(self, pairs: Iterable[tuple[ProcessId, ProcessId]]) -> None:
        self._apart.update(frozenset(pair) for pair in pairs)

    def keep_with(self, node: ProcessId, other: ProcessId) -> None:
        """Put a new node on the side of another one."""
        self._apart |= {(pair - {other}) | {node} for pair in self._apart if other in pair}

    def heal(self) -> None:
        self._apart.clear()

    def are_apart(self, one: ProcessId, other: ProcessId | None) -> bool:
        return other is not None and frozenset((one, other)) in self._apart

    def delay(self, one: ProcessId, other: ProcessId, seconds: float) -> None:
        faults = self.link(one, other)
        faults.delay_s = faults.delay_received_s = seconds

    def link(self, one: ProcessId, other: ProcessId) -> Faults:
        """What goes wrong between two nodes."""
        return self._links.setdefault(frozenset((one, other)), Faults())

    async def cut(self, to: Container[Address] | None = None) -> None:
        """All connections between those that are apart; or only those that were made to these addresses."""
        found = [
            connection
            for side in self._sides
            for connection, address in side.made_to.items()
            if self.are_apart(side.node, self.homes.get(address)) and (to is None or address in to)
        ]
        for connection in found:
            connection.cut()
        for connection in found:
            await connection.aclose()

    def __repr__(self) -> str:
        return f"<Network listening={len(self.homes)} apart={len(self._apart)}>"


class _Side(FaultyTransport):
    """Of one process."""

    def __init__(self, network: Network, node: ProcessId, inner: Transport) -> None:
        super().__init__(inner)
        self.node = node
        self.made_to: WeakKeyDictionary[FaultyConnection, Address] = WeakKeyDictionary()
        self._network = network
        self._plain = inner

    async def connect(self, address: Address, sink: Sink) -> Connection:
        home = self._network.homes.get(address)
        if home is None or home == self.node:
            return await self._plain.connect(address, sink)
        if self._network.are_apart(self.node, home):
            raise _apart(address, self.node, home)
        connection = FaultyConnection(self, sink)
        connection.faults = self._network.link(self.node, home)
        connection.wrap(await self._plain.connect(address, connection))
        self.made_to[connection] = address
        if self._network.are_apart(self.node, home):
            connection.cut()
        return connection

    async def listen(self, address: Address, accept: Callable[[Connection], Sink]) -> Listener:
        listener = await self._plain.listen(address, accept)
        self._network.homes[listener.address] = self.node
        return listener


def _apart(address: Address, node: ProcessId, home: ProcessId) -> ConnectFailed:
    return ConnectFailed(f"{address} is of node {home}, from which node {node} is cut off until the cluster is healed")
