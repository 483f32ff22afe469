"""All connections of one process: one listener, one peer per other process, handshakes on both sides."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Context

from msgspec import structs

from actorlite.errors import AuthenticationError, ConnectFailed, ConnectionLost, Outcome, SessionClosedError
from actorlite.host import Entropy
from actorlite.ids import PROCESS_ID_BYTES, ProcessId, process_id
from actorlite.rpc.handshake import Handshake
from actorlite.rpc.peer import Handlers, Peer
from actorlite.transport import Address, Connection, Listener, Transport, get_transport
from actorlite.wire.control import CONTROL
from actorlite.wire.messages import Identity

logger = logging.getLogger("actorlite.rpc")

HANDSHAKE_S = 10.0
"""How long a handshake may take; also what a connecting process waits for."""

MAX_HOMES = 10_000
MAX_STRANGERS = 64
"""Accepted connections that have not authenticated yet; further ones are closed unread."""


class Hub:
    """Where a process meets the others. Answers to calls are numbered by `numbers`, unique within the process.

    `transports` makes the transport for an address, `get_transport` unless a test has another.
    """

    def __init__(
        self,
        identity: Identity,
        token: bytes,
        entropy: Entropy,
        handlers: Handlers,
        *,
        on_peer: Callable[[Peer], None] = lambda peer: None,
        on_peer_lost: Callable[[Peer, ConnectionLost | None], None] = lambda peer, error: None,
        transports: Callable[[Address], Transport] | None = None,
    ) -> None:
        self.identity = identity
        self.numbers = itertools.count(1)
        self.peers: dict[ProcessId, Peer] = {}
        self.homes: OrderedDict[ProcessId, ProcessId] = OrderedDict()
        """The nodes that processes belong to, of those that were met last: also while one connects anew."""
        self._loop = asyncio.get_running_loop()
        self._token = token
        self._entropy = entropy
        self._handlers = handlers
        self._on_peer = on_peer
        self._on_peer_lost = on_peer_lost
        self._make_transport = transports
        self._listener: Listener | None = None
        self._transports: dict[str, Transport] = {}
        self._by_address: dict[Address, Peer] = {}
        self._connecting: dict[Address, asyncio.Task[Peer]] = {}
        self._all: set[Peer] = set()
        self._closing = False

    async def listen(self, address: Address) -> Address:
        """Accept connections; the identity then carries the bound address, which is returned."""
        try:
            bound = await self._loop.create_task(self._listen(address), context=Context())
        except BaseException:
            if self._listener is not None:
                await self._listener.aclose()
            raise
        self.identity = structs.replace(self.identity, address=bound)
        return bound

    def belongs_to(self, node: Peer) -> None:
        """Say so to everybody who connects from now on. What is asked of control is asked of this node."""
        self.identity = structs.replace(self.identity, node=node.identity.process)
        self._by_address[CONTROL] = node

    async def connect(self, address: Address) -> Peer:
        """The open peer at `address`, connecting when there is none. Several callers share one attempt.

        Raises `ConnectFailed`, `AuthenticationError`, `VersionMismatch`, `ConnectionLost`, `SessionClosedError`.
        """
        peer = self._by_address.get(address)
        if peer is not None:
            return peer
        if self._closing:
            raise SessionClosedError("the session is closing: no new connection is made")
        task = self._connecting.get(address)
        if task is None:
            # A connection outlives the call that needs it first, and must not keep that call's context.
            task = self._loop.create_task(self._open(address), name=f"actorlite connect {address}", context=Context())
            self._connecting[address] = task
            task.add_done_callback(lambda done: self._connected(address, done))
        return await asyncio.shield(task)

    def luck(self) -> float:
        """A random number in [0, 1), from the host's entropy."""
        return int.from_bytes(self._entropy.token_bytes(2), "big") / 0x10000

    def fresh_id(self) -> ProcessId:
        """An id that no process has."""
        return process_id(self._entropy.token_bytes(PROCESS_ID_BYTES))

    def known(self, address: Address) -> Peer | None:
        """The open peer at `address`, if there is one: for the hot path."""
        return self._by_address.get(address)

    async def aclose(self) -> None:
        """Stop listening, close all connections, wait until they are closed. Idempotent."""
        self._closing = True
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.aclose()
        for task in list(self._connecting.values()):
            task.cancel()
        await asyncio.gather(*self._connecting.values(), return_exceptions=True)
        await asyncio.gather(*(peer.aclose() for peer in list(self._all)), return_exceptions=True)

    def __repr__(self) -> str:
        return f"<Hub {self.identity.role} {self.identity.process} peers={len(self.peers)} open={len(self._all)}>"

    async def _listen(self, address: Address) -> Address:
        self._listener = await self._transport(address).listen(address, self._accept)
        return self._listener.address

    async def _open(self, address: Address) -> Peer:
        peer = self._make_peer(connecting=True)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                peer.attach(await self._transport(address).connect(address, peer))
                self._all.add(peer)
                await peer.opened
        except TimeoutError:
            await peer.aclose()
            raise ConnectFailed(f"{address} did not finish the handshake within {HANDSHAKE_S:g} s") from None
        except BaseException:
            await peer.aclose()
            raise
        if not peer.is_open:
            # Lost between the end of the handshake and now: it must not be handed out again and again.
            raise ConnectionLost(f"the connection to {address} was lost at once", outcome=Outcome.NOT_EXECUTED)
        self._by_address.setdefault(address, peer)
        return peer

    def _connected(self, address: Address, task: asyncio.Task[Peer]) -> None:
        self._connecting.pop(address, None)
        if not task.cancelled():
            task.exception()  # its waiters have it; with none left it must not be reported as lost

    def _accept(self, connection: Connection) -> Peer:
        peer = self._make_peer(connecting=False)
        peer.attach(connection)
        strangers = sum(not each.is_open for each in self._all)
        self._all.add(peer)
        if self._closing or strangers >= MAX_STRANGERS:
            self._loop.call_soon(
                peer.refuse, AuthenticationError("too many connections without a handshake; try again")
            )
        else:
            late = AuthenticationError(f"no handshake within {HANDSHAKE_S:g} s")
            timer = self._loop.call_later(HANDSHAKE_S, peer.refuse, late)
            peer.opened.add_done_callback(lambda _: timer.cancel())
        return peer

    def _make_peer(self, *, connecting: bool) -> Peer:
        handshake = Handshake(self.identity, self._token, self._entropy, connecting=connecting)
        peer = Peer(self._loop, self._handlers, handshake, self._opened, self._lost)
        peer.opened.add_done_callback(lambda done: self._forget(peer) if done.cancelled() or done.exception() else None)
        return peer

    def _opened(self, peer: Peer) -> None:
        self.peers.setdefault(peer.identity.process, peer)
        if peer.identity.node:
            self.homes[peer.identity.process] = peer.identity.node
            if len(self.homes) > MAX_HOMES:
                self.homes.popitem(last=False)
        if peer.identity.address:
            self._by_address.setdefault(peer.identity.address, peer)
        self._on_peer(peer)

    def _lost(self, peer: Peer, error: ConnectionLost | None) -> None:
        self._forget(peer)
        process = peer.identity.process
        # Two processes that connect to each other at once have two connections. What is bound to one of them ends with
        # it; whoever asks for the process finds the other.
        other = next((each for each in self._all if each.is_open and each.identity.process == process), None)
        if self.peers.get(process) is peer:
            del self.peers[process]
        for address in [address for address, each in self._by_address.items() if each is peer]:
            del self._by_address[address]
        if other is not None:
            self.peers[process] = other
            self._by_address.setdefault(other.identity.address, other)
        self._on_peer_lost(peer, error)

    def _forget(self, peer: Peer) -> None:
        self._all.discard(peer)

    def _transport(self, address: Address) -> Transport:
        scheme = address.partition("://")[0]
        transport = self._transports.get(scheme)
        if transport is None:
            transport = self._transports[scheme] = (self._make_transport or get_transport)(address)
        return transport
