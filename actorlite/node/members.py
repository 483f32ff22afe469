"""The other nodes of the cluster, as one node knows them: connected to each, told of each one's load.

A node joins by asking any other for the rest; from then on all are equal.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Container, Sequence
from typing import Any

from actorlite.errors import ActorliteError, ProtocolError
from actorlite.ids import ProcessId
from actorlite.resources import CPU, ResourceSet
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.state.scheduling import NodeIndex, NodeView, Wish
from actorlite.transport import Address
from actorlite.wire.messages import Ending, encode
from actorlite.wire.nodes import Capacity, JoinNode, KnownNodes, NodeLoad

logger = logging.getLogger("actorlite.node")


def load_of(view: NodeView) -> NodeLoad:
    """As it travels."""
    total, free = view.total, view.free
    more = tuple([(name, units, free.units_of(name)) for name, units in total.items() if name != CPU])
    labels = tuple(view.labels.items())
    return NodeLoad(
        total.units_of(CPU),
        free.units_of(CPU),
        more,
        labels,
        view.kept.pairs,
        view.lasting.pairs,
        view.draining,
        view.waited.pairs,
        view.devices,
    )


def view_of(node: ProcessId, load: NodeLoad) -> NodeView:
    total = ResourceSet({CPU: load.total, **{name: units for name, units, _ in load.more}})
    free = ResourceSet({CPU: load.free, **{name: units for name, _, units in load.more}})
    kept, lasting, waited = ResourceSet(load.kept), ResourceSet(load.lasting), ResourceSet(load.waited)
    return NodeView(node, total, free, dict(load.labels), kept, lasting, load.draining, waited, load.devices)


def capacity_of(nodes: Sequence[NodeView]) -> Capacity:
    """Of all together, but those that take nothing new."""
    together: Counter[str] = Counter()
    for each in nodes:
        if not each.draining:
            together.update(dict(each.total.items()))
    cpus = together.pop(CPU, 0)
    more = tuple(sorted((name, min(units, MOST_UNITS)) for name, units in together.items()))
    return Capacity(cpus, len(nodes), more)


async def _ask(peer: Peer, number: int, body: Any) -> tuple[Peer, Any]:
    try:
        return peer, await peer.request(number, body)
    except ActorliteError as error:
        return peer, error


SAY_LOAD_S = 0.01
"""How long changes of the load are gathered before the others are told."""
MAX_LOST = 1000
NO_LEADER = ProcessId("")
MOST_UNITS = 2**62
"""Of one resource in all nodes together, as told: what a message can hold."""
MAX_ENDED = 10_000


class Members:
    """Owned by the node; on the loop. `on_change` hears of each node that came, went, or has another load."""

    def __init__(
        self, hub: Hub, handlers: Handlers, here: Callable[[], NodeView], on_change: Callable[[], None]
    ) -> None:
        self.views: dict[ProcessId, NodeView] = {}
        self.lost: dict[ProcessId, str] = {}
        """Nodes that are gone, in words."""
        self.ended: dict[tuple[ProcessId, ProcessId], None] = {}
        """Processes that have ended, and the other nodes that said so; the latest last."""
        self.led_by = hub.identity.process
        """The node that control was on when this one last knew: it may be gone, and may come back. Empty when this node
        has joined others that had none."""
        self.on_view: Callable[[NodeView], None] | None = None
        """Hears of each node that says what it has, when that one knows who leads."""
        self.on_own_change: Callable[[], None] | None = None
        """Hears of changes of this node's own load, soon."""
        self.on_back: list[Callable[[ProcessId], None]] = []
        """Hear of each node that was lost and has joined again, before anything that it sends."""
        self._farewells: dict[ProcessId, str] = {}
        self._hub = hub
        self.here = here
        """This node as it is now."""
        self.index = NodeIndex(hub.identity.process)
        self._said: NodeLoad | None = None
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._saying: asyncio.TimerHandle | None = None
        handlers.on_requests({JoinNode: self._joined})
        handlers.on_messages({NodeLoad: self._loaded, Ending: self._leaving})

    def peer(self, node: ProcessId) -> Peer | None:
        return self._hub.peers.get(node) if node in self.views else None

    @property
    def peers(self) -> list[Peer]:
        return [peer for node in self.views if (peer := self._hub.peers.get(node)) is not None]

    @property
    def leader(self) -> ProcessId:
        """The node that control is on: the first of the cluster. Empty when this node knows none that is there."""
        led_by = self.led_by
        return led_by if led_by in self.views or led_by == self._hub.identity.process else NO_LEADER

    @property
    def why_not_led(self) -> str:
        """Why there is no leader, in words."""
        if not self.led_by:
            return "no node leads the cluster: the one that did was gone when this node joined the others"
        why = self.lost.get(self.led_by, "this node has no connection to it")
        return f"the node that leads the cluster is gone: {why}"

    async def join(self, address: Address) -> None:
        """Become one of the nodes that the node at `address` knows. Raises what `Hub.connect` raises."""
        known = {self._hub.identity.address}
        leader = self.led_by if self.views or self.lost else NO_LEADER
        to_ask = [address]
        while to_ask:
            address = to_ask.pop()
            if address in known:
                continue
            known.add(address)
            peer = await self._hub.connect(address)
            led_by = self.leader if self.views or self.lost else NO_LEADER
            answer = await peer.request(next(self._hub.numbers), JoinNode(load_of(self.here()), led_by))
            if not isinstance(answer, KnownNodes):
                raise ProtocolError(f"{peer!r} at {address} is not a node")
            self.led_by = leader = answer.leader or leader  # some may have lost it, and others not
            self._know(peer, answer.load)
            if leader == peer.identity.process:
                peer.tell(encode(load_of(self.here())))  # it is obeyed from now on
            to_ask += answer.addresses

    def choose(self, wish: Wish, near: ProcessId, fits: bool) -> ProcessId | None:
        """The node for a request; None when none will do. `fits`: whether this one would grant it at once."""
        index, here = self.index, self.here()
        index.put(here.as_known(wish.needs, fits))
        found = index.choose(wish, near)
        if found is not None and found != here.node:
            index.assume(found, wish.needs)
        return found

    def tell(self, message: Any) -> None:
        """News for all."""
        if self.views:
            data = encode(message)
            for peer in self.peers:
                peer.tell(data)

    async def ask(
        self, body: Any, good: Callable[[Any], bool], leave_out: Container[ProcessId] = ()
    ) -> tuple[Peer, Any] | None:
        """Ask all at once; the first good answer and who gave it, or None when there is none."""
        peers = [peer for peer in self.peers if peer.identity.process not in leave_out]
        numbers = self._hub.numbers
        asking = {asyncio.ensure_future(_ask(peer, next(numbers), body)) for peer in peers}
        try:
            while asking:
                done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    peer, answer = each.result()
                    if good(answer):
                        return peer, answer
            return None
        finally:
            for each in asking:
                each.cancel()

    async def ask_all(self, body: Any) -> list[Any]:
        """What each of them answers, or the error that it raises."""
        numbers = self._hub.numbers
        found = await asyncio.gather(*[_ask(peer, next(numbers), body) for peer in self.peers])
        return [answer for _, answer in found]

    def load_changed(self, *, told_one: bool = False) -> None:
        """Tell the others, soon. `told_one`: one of them knows more than all were told last."""
        if told_one:
            self._said = None
        if self.on_own_change is not None:
            self._loop.call_soon(self.on_own_change)
            self.on_own_change = None
        if self.views and self._saying is None:
            self._saying = self._loop.call_later(SAY_LOAD_S, self.say_load)

    def say_load(self) -> None:
        """Tell the others now."""
        if self._saying is not None:
            self._saying.cancel()
            self._saying = None
        load = load_of(self.here())
        if load != self._said:
            self._said = load
            self.tell(load)

    def process_ended(self, process: ProcessId, node: ProcessId) -> None:
        self.ended[process, node] = None
        while len(self.ended) > MAX_ENDED:
            del self.ended[next(iter(self.ended))]

    def peer_lost(self, peer: Peer) -> bool:
        """Its connection has ended, and there is no other; whether it was a node that is known."""
        node = peer.identity.process
        if self.views.pop(node, None) is None:
            return False
        self.index.remove(node)
        reason = self._farewells.pop(node, "")
        text = f"its node (pid {peer.identity.pid} at {peer.identity.address}) is gone{reason and ': ' + reason}"
        logger.log(logging.INFO if reason else logging.WARNING, "of node %s: %s", node, text)
        self.lost[node] = text
        while len(self.lost) > MAX_LOST:
            del self.lost[next(iter(self.lost))]
        self._on_change()
        return True

    def close(self, reason: str) -> None:
        """This node ends, and says why, if it says anything. Idempotent."""
        if reason:
            self.tell(Ending(reason))
        for node in self.views:
            self.index.remove(node)
        self.views.clear()
        if self._saying is not None:
            self._saying.cancel()

    # --- inside

    def _joined(self, peer: Peer, body: JoinNode) -> KnownNodes:
        if peer.identity.role != "node":
            raise ProtocolError(f"{peer!r} is not a node: it cannot join")
        others = tuple([each.identity.address for each in self.peers if each is not peer])
        self.led_by = self.led_by or body.leader  # who leads may come back, and this one have joined meanwhile
        self._know(peer, body.load, hears=False)  # it does not know who leads
        return KnownNodes(load_of(self.here()), others, self.leader)

    def _know(self, peer: Peer, load: NodeLoad, *, hears: bool = True) -> None:
        """`hears`: whether the node would do what a leading node asks of it."""
        if peer.is_open:
            view = view_of(peer.identity.process, load)
            self.views[view.node] = view
            if self.lost and self.lost.pop(view.node, None) is not None:
                for tell in self.on_back:
                    tell(view.node)
            self.index.put(view)
            if hears and self.on_view is not None:
                self.on_view(view)
            self._on_change()

    def _loaded(self, peer: Peer, message: NodeLoad, parts: Sequence[memoryview]) -> None:
        if peer.identity.process in self.views:
            self._know(peer, message)

    def _leaving(self, peer: Peer, message: Ending, parts: Sequence[memoryview]) -> None:
        self._farewells[peer.identity.process] = message.reason

    def __repr__(self) -> str:
        return f"<Members {list(self.views.values())}>"
