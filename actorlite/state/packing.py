"""Which nodes the bundles of a placement group go to, all of them or none. Pure.

Bundles are put down largest first. STRICT_PACK and STRICT_SPREAD find a placement whenever there is one; PACK and
SPREAD look for a good one, and search further, up to a bound, when that fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest

from msgspec import Struct

from actorlite.ids import ProcessId
from actorlite.labels import ANY_LABELS, LabelSelector
from actorlite.resources import ResourceSet
from actorlite.state.scheduling import GPU

PACK = "PACK"
SPREAD = "SPREAD"
STRICT_PACK = "STRICT_PACK"
STRICT_SPREAD = "STRICT_SPREAD"

SEARCHED_BUNDLES = 12
"""Larger groups are not searched for after the first try has failed."""
MAX_STEPS = 2000
"""Of such a search: bundles put down."""


class Bundle(Struct, frozen=True, gc=False):
    needs: ResourceSet
    selector: LabelSelector = ANY_LABELS


class Room(Struct, frozen=True, gc=False):
    """What bundles may use of a node."""

    free: ResourceSet
    labels: Mapping[str, str]

    def takes(self, bundle: Bundle) -> bool:
        return self.free.fits(bundle.needs) and bundle.selector.matches(self.labels)

    def times(self, bundle: Bundle) -> int:
        """How often the bundle would fit."""
        return min((self.free.units_of(name) // units for name, units in bundle.needs.items()), default=0)


Rooms = Mapping[ProcessId, Room]


def place(
    bundles: Sequence[Bundle], strategy: str, rooms: Rooms, taken: Iterable[ProcessId] = ()
) -> list[ProcessId] | None:
    """A node for each bundle, or None. `taken`: nodes, with repetitions, that other bundles of the group are on."""
    used: dict[ProcessId, int] = {}
    for node in taken:
        used[node] = used.get(node, 0) + 1
    if strategy == STRICT_PACK:
        return _on_one(bundles, {node: rooms[node] for node in used if node in rooms} if used else rooms)
    if strategy == STRICT_SPREAD:
        return _matched(bundles, {node: room for node, room in rooms.items() if node not in used})
    if strategy == PACK and not used and (packed := _on_one(bundles, rooms)) is not None:
        return packed
    most = 2 * len(bundles) + 16
    candidates = _candidates(bundles, rooms, most)
    if not all(candidates.values()):
        return None
    order = sorted(range(len(bundles)), key=lambda index: _size(bundles[index]), reverse=True)
    filling = _Filling([bundles[index] for index in order], strategy == PACK, candidates, rooms, used)
    if not filling.greedily() and not (len(bundles) <= SEARCHED_BUNDLES and filling.search()):
        return None
    places = [ProcessId("")] * len(bundles)
    for index, node in zip(order, filling.chosen, strict=True):
        places[index] = node
    return places


def _size(bundle: Bundle) -> tuple[int, int, int]:
    """What is hardest to place comes first."""
    needs = bundle.needs
    return needs.units_of(GPU), sum(units for _, units in needs.items()), len(bundle.selector.terms)


def _wastes_gpus(bundle: Bundle, room: Room) -> bool:
    return bool(room.free.units_of(GPU)) and not bundle.needs.units_of(GPU)


def _on_one(bundles: Sequence[Bundle], rooms: Rooms) -> list[ProcessId] | None:
    """All on the node that they fill best."""
    total = ResourceSet()
    for bundle in bundles:
        total = total.release(bundle.needs)
    whole = Bundle(total)
    selectors = {bundle.selector for bundle in bundles if bundle.selector}
    best: tuple[bool, int, ProcessId] | None = None
    for node, room in rooms.items():
        if room.free.fits(total) and all(selector.matches(room.labels) for selector in selectors):
            rank = (_wastes_gpus(whole, room), room.times(whole), node)
            best = rank if best is None or rank < best else best
    return None if best is None else [best[2]] * len(bundles)


def _candidates(bundles: Iterable[Bundle], rooms: Rooms, most: int) -> dict[Bundle, list[ProcessId]]:
    """For each kind of bundle the nodes that take it, those with most room for it first."""
    found: dict[Bundle, list[ProcessId]] = {}
    for bundle in bundles:
        if bundle not in found:
            able = [(not _wastes_gpus(bundle, room), room.times(bundle), node) for node, room in rooms.items()
                    if room.takes(bundle)]  # fmt: skip
            found[bundle] = [node for _, _, node in nlargest(most, able)]
    return found


def _matched(bundles: Sequence[Bundle], rooms: Rooms) -> list[ProcessId] | None:
    """Each on a node of its own: a matching. As many candidates as there are bundles are enough for each."""
    candidates = _candidates(bundles, rooms, len(bundles))
    holder: dict[ProcessId, int] = {}

    def settle(index: int) -> bool:
        """Find a node for a bundle, others of them moving on if need be: along the shortest such chain."""
        came_from: dict[ProcessId, tuple[int, ProcessId | None]] = {}
        edge: list[tuple[int, ProcessId | None]] = [(index, None)]
        for who, via in edge:
            for node in candidates[bundles[who]]:
                if node in came_from:
                    continue
                came_from[node] = (who, via)
                if node in holder:
                    edge.append((holder[node], node))
                    continue
                step: ProcessId | None = node
                while step is not None:
                    holder[step], step = came_from[step]
                return True
        return False

    if not all(settle(index) for index in range(len(bundles))):
        return None
    places = {index: node for node, index in holder.items()}
    return [places[index] for index in range(len(bundles))]


class _Filling:
    """Puts bundles down on nodes, one after the other."""

    def __init__(
        self,
        bundles: Sequence[Bundle],
        pack: bool,
        candidates: Mapping[Bundle, Sequence[ProcessId]],
        rooms: Rooms,
        used: Mapping[ProcessId, int],
    ) -> None:
        self.chosen: list[ProcessId] = []
        self._bundles = bundles
        self._pack = pack
        self._candidates = candidates
        self._rooms = dict(rooms)
        self._used = dict(used)
        self._steps = 0

    def greedily(self) -> bool:
        """Each to its best node; whether all found one. Starts anew what failed."""
        for bundle in self._bundles:
            node = max(self._able(bundle), key=lambda each: self._rank(bundle, each), default=None)
            if node is None:
                while self.chosen:
                    self._take_up()
                return False
            self._put_down(bundle, node)
        return True

    def search(self) -> bool:
        """Try what else there is, within bounds."""
        if len(self.chosen) == len(self._bundles):
            return True
        bundle = self._bundles[len(self.chosen)]
        tried: set[tuple[ResourceSet, int]] = set()
        for node in sorted(self._able(bundle), key=lambda each: self._rank(bundle, each), reverse=True):
            alike = (self._rooms[node].free, self._used.get(node, 0))
            if alike in tried and not any(each.selector for each in self._bundles):
                continue
            tried.add(alike)
            self._steps += 1
            if self._steps > MAX_STEPS:
                return False
            self._put_down(bundle, node)
            if self.search():
                return True
            self._take_up()
        return False

    def _able(self, bundle: Bundle) -> list[ProcessId]:
        return [node for node in self._candidates[bundle] if self._rooms[node].free.fits(bundle.needs)]

    def _rank(self, bundle: Bundle, node: ProcessId) -> tuple[bool, int, int, ProcessId]:
        """The largest one is best."""
        room, used = self._rooms[node], self._used.get(node, 0)
        if self._pack:
            # One that is in use already, the fuller the better; else one that takes many more.
            times = room.times(bundle)
            return not _wastes_gpus(bundle, room), 1 if used else 0, -times if used else times, node
        return not _wastes_gpus(bundle, room), -used, room.times(bundle), node

    def _put_down(self, bundle: Bundle, node: ProcessId) -> None:
        room = self._rooms[node]
        self._rooms[node] = Room(room.free.acquire(bundle.needs), room.labels)
        self._used[node] = self._used.get(node, 0) + 1
        self.chosen.append(node)

    def _take_up(self) -> None:
        node = self.chosen.pop()
        bundle, room = self._bundles[len(self.chosen)], self._rooms[node]
        self._rooms[node] = Room(room.free.release(bundle.needs), room.labels)
        self._used[node] -= 1
