"""The room on all nodes, as the coordinator of placement groups counts it. Pure.

Three things bound what a bundle may use of a node: what the node last said is free, less what it was asked for and has
not answered yet; what other groups hold; and, for all but one group, the room that is marked for that one.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from actorlite.ids import ProcessId
from actorlite.resources import ResourceSet
from actorlite.state.packing import Room
from actorlite.state.scheduling import MAX_TOLD, NodeView

NOTHING = ResourceSet()

Amounts = Mapping[ProcessId, ResourceSet]


class NodeRooms:
    """Owned by a `GroupBook`. The versions say whether a search that failed is worth repeating."""

    def __init__(self) -> None:
        self.views: dict[ProcessId, NodeView] = {}
        self.held: dict[ProcessId, ResourceSet] = {}
        """What bundles take of each node, those of attempts included."""
        self.version = 0
        """Counts whenever there may be more room than before."""
        self.node_version = 0
        """Counts whenever nodes are others, however full they are."""
        self.marked_for = ""
        """The group that waits for its turn."""
        self._marked: Amounts = {}
        self.kept_for = ""
        """The group that nodes keep room for, from tasks; those behind it leave that, too."""
        self.kept: Amounts = {}
        self._unsaid: dict[ProcessId, ResourceSet] = {}
        """What was asked of a node that it has not answered: not yet missing from what it last said is free."""

    def seen(self, view: NodeView) -> None:
        before = self.views.get(view.node)
        if before is None:
            self.held[view.node] = self._unsaid[view.node] = NOTHING
        if before is None or _kind(before) != _kind(view):
            self.node_version += 1
            self.version += 1
        elif not before.free.fits(view.free) or (before.lasting, before.kept) != (view.lasting, view.kept):
            self.version += 1
        self.views[view.node] = view
        if view.draining:
            self.unmark()

    def lost(self, node: ProcessId) -> bool:
        """Whether it was known."""
        if self.views.pop(node, None) is None:
            return False
        del self.held[node], self._unsaid[node]
        self.node_version += 1
        self.version += 1
        self.unmark()
        return True

    def asked(self, node: ProcessId, amount: ResourceSet) -> None:
        """A node is asked to set this aside."""
        self.held[node] = self.held[node].release(amount)
        self._unsaid[node] = self._unsaid[node].release(amount)

    def answered(self, node: ProcessId, amount: ResourceSet, free: ResourceSet) -> None:
        """It has been: `free` is what it has left after that, or after its refusal."""
        had = self._free(node)
        self._unsaid[node] = self._unsaid[node].acquire(amount)
        self.views[node] = structs.replace(self.views[node], free=free)
        if not had.fits(self._free(node)):
            self.version += 1

    def given_back(self, node: ProcessId, amount: ResourceSet, *, unsaid: bool = False) -> None:
        """`unsaid`: it had not answered yet."""
        self.held[node] = self.held[node].acquire(amount)
        if unsaid:
            self._unsaid[node] = self._unsaid[node].acquire(amount)
        self.version += 1

    def mark(self, group: str, amounts: Amounts) -> None:
        """From now on others get only what leaves this for the group."""
        if self._marked and (self.marked_for, self._marked) != (group, amounts):
            self.version += 1
        self.marked_for, self._marked = group, amounts

    def unmark(self) -> None:
        if self.marked_for:
            self.marked_for, self._marked = "", {}
            self.version += 1

    def takers(self) -> list[NodeView]:
        """Nodes that bundles may be placed on: all but those that are being drained."""
        return [view for view in self.views.values() if not view.draining]

    def usable(self, node: ProcessId, group: str) -> ResourceSet:
        """What a bundle of the group may use of a node now."""
        if self.views[node].draining:
            return NOTHING
        free = self._free(node)
        if group != self.kept_for and node in self.kept:
            free = free.less(self.views[node].kept.at_most(self.kept[node]))  # it would refuse
        return self._beside(node, group, free)

    def draining(self) -> list[str]:
        """Nodes that take nothing new, in words."""
        return [f"node {view.node} is being drained" for view in self.views.values() if view.draining][:MAX_TOLD]

    def obtainable(self, group: str) -> dict[ProcessId, Room]:
        """Nodes as they would be for the group if all tasks ended, but those that wait for others."""
        found: dict[ProcessId, Room] = {}
        for view in self.takers():
            left = view.total.less(self.held[view.node]).less(view.lasting)
            found[view.node] = Room(self._beside(view.node, group, left), view.labels)
        return found

    def without_leases(self) -> dict[ProcessId, Room]:
        """Nodes as they would be if only bundles took room."""
        return {view.node: Room(view.total.less(self.held[view.node]), view.labels) for view in self.takers()}

    def _beside(self, node: ProcessId, group: str, room: ResourceSet) -> ResourceSet:
        """What of this leaves the room that is marked, or kept, for another group."""
        for name, amounts in ((self.marked_for, self._marked), (self.kept_for, self.kept)):
            if name != group and node in amounts:
                view = self.views[node]
                room = room.at_most(view.total.less(self.held[node]).less(view.lasting).less(amounts[node]))
        return room

    def _free(self, node: ProcessId) -> ResourceSet:
        return self.views[node].free.less(self._unsaid[node])

    def __repr__(self) -> str:
        return f"<NodeRooms nodes={len(self.views)} marked_for={self.marked_for!r}>"


def _kind(view: NodeView) -> tuple[object, ...]:
    """What says which bundles it could ever have."""
    return view.total, view.labels, view.draining
