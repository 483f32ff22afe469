"""Which node a request goes to. Pure.

What is known of other nodes is what they last said, so a request may find less room where it goes than was seen from
here: then it waits there.

Nodes are kept in rankings, one for each kind of request: a heap, brought up to date with what has changed since it was
last asked. So a decision costs the logarithm of the number of nodes, and a change costs those who ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from zlib import crc32

from msgspec import Struct, structs

from actorlite.ids import ProcessId
from actorlite.labels import ANY_LABELS, LabelSelector
from actorlite.resources import CPU, NOTHING, ResourceSet
from actorlite.state import devices

CROWDED = 0.5
"""From this use on a node is avoided (Ray: `scheduler_spread_threshold`): below it work is packed, above it spread."""
GPU = "GPU"
COUNTED = (CPU, GPU, "memory")
"""What a node's use is taken from: the most used of these. Others often stand for a node or a role, not for work."""
NOWHERE = ProcessId("")

MAX_RANKINGS = 512
"""Kinds of requests whose rankings are kept; those not asked for longest go."""
MAX_TOLD = 10
"""Nodes that an error lists one by one."""


class NodeView(Struct, frozen=True, gc=False):
    """One node, as it last said."""

    node: ProcessId
    total: ResourceSet
    free: ResourceSet
    labels: Mapping[str, str] = {}
    kept: ResourceSet = ResourceSet()
    """Free, too, but for placement groups only."""
    lasting: ResourceSet = ResourceSet()
    """Held by what may not end by itself: actors, and tasks that wait for others."""
    draining: bool = False
    """It takes nothing new, and leaves when what runs there has ended."""
    waited: ResourceSet = ResourceSet()
    """Free, too, but for requests that have waited there for long."""
    devices: tuple[int, ...] = ()
    """What is free of each GPU, in units, if that is known."""

    @property
    def use(self) -> float:
        """From 0 to 1."""
        most = 0.0
        for name in COUNTED:
            total = self.total.units_of(name)
            if total:
                most = max(most, (total - self.free.units_of(name)) / total)
        return most

    def takes(self, needs: ResourceSet, *, now: bool) -> bool:
        """Whether something new may be placed there: `now`, or some day."""
        return not self.draining and (self.has_room(needs) if now else self.total.fits(needs))

    def has_room(self, needs: ResourceSet) -> bool:
        free = self.free.less(self.waited) if self.waited else self.free
        return free.fits(needs) and (not self.devices or devices.fits(self.devices, needs.units_of(GPU)))

    def less(self, needs: ResourceSet) -> NodeView:
        """As it will be when such a request has come for which there is room."""
        free, units = self.free.acquire(needs), needs.units_of(GPU)
        left = devices.without(self.devices, units) if units else self.devices
        return structs.replace(self, free=free, devices=left)

    def as_known(self, needs: ResourceSet, fits: bool) -> NodeView:
        """For such a request, of which the node itself says whether it would be granted now or has to wait."""
        if fits:
            return structs.replace(self, waited=NOTHING) if self.waited else self
        return structs.replace(self, free=NOTHING) if self.free.fits(needs) else self


class Affinity(Struct, frozen=True):
    """To one node; `soft`: another one will do when it is gone or too small."""

    node: ProcessId
    soft: bool = False


class Wish(Struct, frozen=True):
    """What a request needs of its node, besides room when it comes to that."""

    needs: ResourceSet
    selectors: tuple[LabelSelector, ...] = (ANY_LABELS,)
    """The first one that some node can satisfy counts: one with room before one without."""
    spread: bool = False
    affinity: Affinity | None = None


Key = tuple[object, ...]


class NodeIndex:
    """All nodes as one of them (`here`) knows them."""

    def __init__(self, here: ProcessId) -> None:
        self.views: dict[ProcessId, NodeView] = {}
        self._here = here
        self._order: dict[ProcessId, tuple[bool, int, ProcessId]] = {}
        self._changes: list[ProcessId] = []
        self._forgotten = 0
        """How many changes came before those in `_changes`."""
        self._rankings: dict[tuple[object, ...], _Ranking] = {}
        self._turn = 0

    # --- what nodes say

    def put(self, view: NodeView) -> None:
        """A node is there, or has changed."""
        node = view.node
        if node not in self._order:
            # Equals are taken in an order that differs from one deciding node to the next: else all would fill the
            # same one before it can tell.
            self._order[node] = (node != self._here, crc32(f"{self._here}{node}".encode()), node)
        elif self.views.get(node) == view:
            return
        self.views[node] = view
        self._changed(node)

    def remove(self, node: ProcessId) -> None:
        if self.views.pop(node, None) is not None:
            del self._order[node]
            self._changed(node)

    def assume(self, node: ProcessId, needs: ResourceSet) -> None:
        """A request was sent there: until the node says otherwise it has that much less."""
        view = self.views.get(node)
        if view is not None and needs and view.has_room(needs):
            self.put(view.less(needs))

    # --- decisions

    def choose(self, wish: Wish, near: ProcessId = NOWHERE) -> ProcessId | None:
        """The node for a request, or None when none can ever satisfy it.

        By default, in this order: the node where the arguments lie (`near`), this one, others that are less than half
        in use, the least used one; of those with room, else of all that could ever have it. What needs no GPU goes to
        nodes without one, if it can.
        """
        if wish.affinity is not None:
            node = self._affine(wish)
            if node is not None or not wish.affinity.soft:
                return node
        for ready in (True, False):
            for selector in wish.selectors:
                found = self._best(wish, selector, near, ready)
                if found is not None:
                    return found
        return None

    def has_room(self, wish: Wish, besides: ProcessId) -> bool:
        """Whether a request that waits on one node would find room on another one now."""
        if wish.affinity is not None and (not wish.affinity.soft or self._affine(wish) is not None):
            return False  # it would be sent there again
        view = self.views.get(besides)
        if view is not None and view.takes(wish.needs, now=True) and _matches_one(wish.selectors, view):
            return False  # it is about to have it
        return any(self._best(wish, selector, NOWHERE, ready=True) is not None for selector in wish.selectors)

    def _affine(self, wish: Wish) -> ProcessId | None:
        """The node that it is to be on, if that can ever have it."""
        view = None if wish.affinity is None else self.views.get(wish.affinity.node)
        if view is not None and view.takes(wish.needs, now=False) and _matches_one(wish.selectors, view):
            return view.node
        return None

    def _best(self, wish: Wish, selector: LabelSelector, near: ProcessId, ready: bool) -> ProcessId | None:
        view = self.views.get(near) if near else None
        if view is not None and not wish.spread and selector.matches(view.labels):
            if view.takes(wish.needs, now=ready):
                return near
        if not ready and not wish.spread:
            here = self.views.get(self._here)
            if here is not None and here.takes(wish.needs, now=False) and selector.matches(here.labels):
                return self._here
        in_turn = wish.spread or not ready
        ranking = self._ranking(wish.needs, selector, ready, in_turn)
        node = ranking.best(self)
        if node is not None and in_turn:
            self._turn += 1
            ranking.took(node, self._turn)
        return node

    def shortfall(self, wish: Wish) -> str:
        """Why `choose` found nothing, node by node, for the user's eyes."""
        affinity = wish.affinity
        if affinity is not None and not affinity.soft:
            view = self.views.get(affinity.node)
            if view is None:
                return f"node {affinity.node} is not in the cluster (any more)"
            return _lacks(view, wish.needs, wish.selectors)
        told = [_lacks(view, wish.needs, wish.selectors) for view in list(self.views.values())[:MAX_TOLD]]
        more = len(self.views) - len(told)
        return "; ".join(told) + (f"; and {more} more nodes" if more > 0 else "")

    # --- inside

    def _changed(self, node: ProcessId) -> None:
        changes = self._changes
        changes.append(node)
        if len(changes) > 4 * len(self.views) + 1024:
            self._forgotten += len(changes)
            changes.clear()

    def _ranking(self, needs: ResourceSet, selector: LabelSelector, ready: bool, in_turn: bool) -> _Ranking:
        kind = (needs, selector, ready, in_turn)
        ranking = self._rankings.pop(kind, None)
        if ranking is None:
            ranking = _Ranking(needs, selector, ready, in_turn)
            if len(self._rankings) >= MAX_RANKINGS:
                del self._rankings[next(iter(self._rankings))]
        self._rankings[kind] = ranking
        return ranking

    def changes_since(self, seen: int) -> tuple[list[ProcessId] | None, int]:
        """The nodes that changed since `seen`, None for "any"; and what to ask with next time."""
        now = self._forgotten + len(self._changes)
        if seen < self._forgotten:
            return None, now
        return self._changes[seen - self._forgotten :], now

    def order_of(self, node: ProcessId) -> tuple[bool, int, ProcessId]:
        """This one first; then a fixed order, by chance."""
        return self._order[node]

    def __repr__(self) -> str:
        return f"<NodeIndex nodes={len(self.views)} rankings={len(self._rankings)}>"


class _Ranking:
    """The nodes for one kind of request, the best one first.

    A heap whose entries are believed only when they are what `_keys` says: what changed is pushed once more.
    """

    __slots__ = ("_needs", "_selector", "_ready", "_key", "_turns", "_seen", "_keys", "_heap")

    def __init__(self, needs: ResourceSet, selector: LabelSelector, ready: bool, in_turn: bool) -> None:
        self._needs = needs
        self._selector = selector
        self._ready = ready
        self._key: Callable[[NodeIndex, NodeView], Key] = self._by_turn if in_turn else self._by_use
        self._turns: dict[ProcessId, int] = {}
        self._seen = -1
        self._keys: dict[ProcessId, Key] = {}
        self._heap: list[tuple[Key, ProcessId]] = []

    def best(self, index: NodeIndex) -> ProcessId | None:
        changed, self._seen = index.changes_since(self._seen)
        if changed is None:
            self._rebuild(index)
        else:
            for node in changed:
                self._update(index, node)
        heap, keys = self._heap, self._keys
        while heap:
            key, node = heap[0]
            if keys.get(node) == key:
                return node
            heappop(heap)
        return None

    def took(self, node: ProcessId, turn: int) -> None:
        self._turns[node] = turn
        self._push(node, (turn, *self._keys[node][1:]))

    def _rebuild(self, index: NodeIndex) -> None:
        self._turns = {node: turn for node, turn in self._turns.items() if node in index.views}
        self._keys = {node: key for node, view in index.views.items() if (key := self._place(index, view)) is not None}
        self._compact()

    def _update(self, index: NodeIndex, node: ProcessId) -> None:
        view = index.views.get(node)
        key = self._place(index, view) if view is not None else None
        if key is None:
            self._keys.pop(node, None)
        elif self._keys.get(node) != key:
            self._push(node, key)

    def _push(self, node: ProcessId, key: Key) -> None:
        self._keys[node] = key
        heappush(self._heap, (key, node))
        if len(self._heap) > 2 * len(self._keys) + 64:
            self._compact()

    def _compact(self) -> None:
        self._heap = [(key, node) for node, key in self._keys.items()]
        heapify(self._heap)

    def _place(self, index: NodeIndex, view: NodeView) -> Key | None:
        """Where it stands; None when it cannot take such a request (now)."""
        if not view.takes(self._needs, now=self._ready):
            return None
        return self._key(index, view) if self._selector.matches(view.labels) else None

    def _by_use(self, index: NodeIndex, view: NodeView) -> Key:
        use = view.use
        return self._wasted(view), use if use >= CROWDED else 0.0, *index.order_of(view.node)

    def _by_turn(self, index: NodeIndex, view: NodeView) -> Key:
        return self._turns.get(view.node, 0), self._wasted(view), *index.order_of(view.node)

    def _wasted(self, view: NodeView) -> bool:
        """Whether a request that needs no GPU would go to a node that has some (R-18)."""
        return bool(view.total.units_of(GPU)) and not self._needs.units_of(GPU)


def _matches_one(selectors: tuple[LabelSelector, ...], view: NodeView) -> bool:
    return any(selector.matches(view.labels) for selector in selectors)


def _lacks(view: NodeView, needs: ResourceSet, selectors: tuple[LabelSelector, ...]) -> str:
    if not _matches_one(selectors, view):
        wanted = " or ".join(f"[{selector}]" for selector in selectors)
        return f"node {view.node} has labels {dict(view.labels)}, not {wanted}"
    if view.draining:
        return f"node {view.node} is being drained: it takes nothing new"
    return f"node {view.node} lacks {view.total.shortfall(needs)}"
