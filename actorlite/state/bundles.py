"""Placement groups as their coordinator sees them: events in, commands out. Pure.

A group's bundles are reserved in two phases. An *attempt*, which has a number of its own (an epoch), asks each of its
nodes to prepare bundles; when all have, it asks them to commit; when one refuses or is lost, in either phase, all give
them back. So nobody holds some of what he needs while he waits for the rest, and groups cannot block each other.

Groups wait in the order in which they came, those that lost bundles with a node before new ones. One that finds no room
does not hold up those behind it; but from then on they get only what leaves the place that was marked for it.

So that tasks do not go past it for ever, nodes keep what they return for the first group that needs no more than that:
on all the nodes that it waits for, or on none. Else what one keeps could be what a task on another one waits for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import count

from msgspec import Struct, field, structs

from actorlite.ids import ProcessId
from actorlite.resources import ResourceSet
from actorlite.state.packing import STRICT_PACK, STRICT_SPREAD, Bundle, Room, place
from actorlite.state.rooms import NOTHING, Amounts, NodeRooms
from actorlite.state.scheduling import MAX_TOLD, NodeView

LEADER_BITS = 32
"""Of an attempt's number; those above are its leader's epoch."""


class GroupState(StrEnum):
    PENDING = "PENDING"
    PREPARED = "PREPARED"
    """All bundles are set aside on their nodes, which are being told that it holds."""
    CREATED = "CREATED"
    RESCHEDULING = "RESCHEDULING"
    """Some bundles were lost with a node, or have to leave one, and look for a new one; the others go on."""
    REMOVED = "REMOVED"


class GroupSpec(Struct, frozen=True, gc=False):
    group: str
    bundles: tuple[Bundle, ...]
    strategy: str


class Prepare(Struct, frozen=True, gc=False):
    """Ask a node to set bundles aside; the answer is `prepared`."""

    node: ProcessId
    group: str
    epoch: int
    bundles: tuple[tuple[int, ResourceSet], ...]
    """Index and size."""


class Commit(Struct, frozen=True, gc=False):
    """Tell a node that what it prepared is the group's; the answer is `committed`."""

    node: ProcessId
    group: str
    epoch: int


class Return(Struct, frozen=True, gc=False):
    """Tell a node to give back what it prepared, or has committed, in an attempt, whether or not it has yet."""

    node: ProcessId
    group: str
    epoch: int


class Keep(Struct, frozen=True, gc=False):
    """Tell a node that a group waits for room there: as much as this, now; with nothing, not any more."""

    node: ProcessId
    group: str
    size: ResourceSet = NOTHING


class Changed(Struct, frozen=True, gc=False):
    """A group has another state."""

    group: str
    state: GroupState


Command = Prepare | Commit | Return | Keep | Changed


class Attempt(Struct):
    epoch: int
    places: dict[int, ProcessId]
    """The node of each bundle that it places."""
    waiting: set[ProcessId]
    """Nodes that have not answered in this phase."""
    committing: bool = False

    @property
    def nodes(self) -> list[ProcessId]:
        return list(dict.fromkeys(self.places.values()))


class Placed(Struct):
    node: ProcessId
    epoch: int


class Group(Struct):
    spec: GroupSpec
    number: int
    """In the order in which they came."""
    state: GroupState = GroupState.PENDING
    placed: dict[int, Placed] = field(default_factory=dict)
    """The bundles that have a node for good."""
    attempt: Attempt | None = None
    refusals: dict[ProcessId, str] = field(default_factory=dict)
    """What nodes said that would not have it; they are not asked again before they have said something new."""
    looked: int = -1
    """The version of the room in which there was none for it."""
    impossible: int = -1
    """The version of the nodes that would be too small for it even if they were empty."""
    kept: Amounts = field(default_factory=dict)
    """What nodes are to keep for it; they are told so while it waits and it is its turn."""
    kept_of: list[int] = field(default_factory=list)
    """The bundles that this is for."""
    left: dict[tuple[ProcessId, int], None] = field(default_factory=dict)
    """Nodes that are being drained, and the attempts that placed bundles there: what runs in those may go on for a
    while."""

    @property
    def missing(self) -> list[int]:
        return [index for index in range(len(self.spec.bundles)) if index not in self.placed]

    def needs_on(self, node: ProcessId) -> ResourceSet:
        """Of its bundles that have this node for good."""
        return self._sum([index for index, where in self.placed.items() if where.node == node])

    def claims_on(self, node: ProcessId) -> ResourceSet:
        """Of its bundles that the attempt under way places there."""
        places = self.attempt.places if self.attempt is not None else {}
        return self._sum([index for index, where in places.items() if where == node])

    @property
    def turn(self) -> tuple[bool, int]:
        """Its place among those who wait."""
        return self.state is not GroupState.RESCHEDULING, self.number

    def find_places(self, rooms: Mapping[ProcessId, Room]) -> dict[int, ProcessId] | None:
        """Nodes for the missing bundles."""
        missing, spec = self.missing, self.spec
        bundles = [spec.bundles[index] for index in missing]
        found = place(bundles, spec.strategy, rooms, [where.node for where in self.placed.values()])
        return None if found is None else dict(zip(missing, found, strict=True))

    def find_kept(self, rooms: Mapping[ProcessId, Room]) -> bool:
        """Choose what nodes are to keep: what they kept already, as long as that will do. False when nothing will."""
        chosen = self.kept and self.kept_of == self.missing
        if chosen and all(node in rooms and rooms[node].free.fits(size) for node, size in self.kept.items()):
            return True
        places = self.find_places(rooms)
        self.kept_of = [] if places is None else list(places)
        self.kept = self.amounts(places or {})
        return places is not None

    def alone_on(self, nodes: NodeRooms) -> dict[ProcessId, Room]:
        """Nodes as they would be without anything but its own bundles."""
        return {view.node: Room(view.total.less(self.needs_on(view.node)), view.labels) for view in nodes.takers()}

    def amounts(self, places: Mapping[int, ProcessId]) -> Amounts:
        """What its bundles take of nodes."""
        nodes = dict.fromkeys(places.values())
        return {node: self._sum([index for index, where in places.items() if where == node]) for node in nodes}

    def _sum(self, indices: list[int]) -> ResourceSet:
        total = NOTHING
        for index in indices:
            total = total.release(self.spec.bundles[index].needs)
        return total


def attempts_of(epoch: int) -> Iterator[int]:
    """Numbers for a leader's attempts, none of which an earlier leader has used: nodes that outlive that one may hear
    late what it said."""
    return count((epoch << LEADER_BITS) + 1)


class GroupBook:
    """All groups of a cluster, and its nodes as they last said. Methods return what is to be done, in order."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.rooms = NodeRooms()
        self._waiting: dict[str, Group] = {}
        """Those with missing bundles and no attempt under way."""
        self._refused: dict[str, Group] = {}
        """Those that nodes would not have, also while they try others."""
        self._kept: dict[str, Amounts] = {}
        """What nodes were told to keep, by group."""
        self._keeper = ""
        """The group among those who wait that they keep room for."""
        self.attempts = attempts_of(0)
        self._count = 0
        self._looked = 0
        """The version of the room in which all who wait have looked."""

    # --- events

    def node_seen(self, view: NodeView) -> list[Command]:
        """A node is there, or says what it has. From when it says that it is being drained its bundles are looked for
        elsewhere, and it is told to give them back."""
        before = self.rooms.views.get(view.node)
        self.rooms.seen(view)
        if view.draining and before is not None and not before.draining:
            return self._vacate(view.node, gone=False) + self._advance()
        for name, group in list(self._refused.items()):
            if group.refusals.pop(view.node, ""):
                self.rooms.version += 1
            if not group.refusals:
                del self._refused[name]
        return self._advance()

    def node_lost(self, node: ProcessId) -> list[Command]:
        """A node is gone with what it held."""
        if not self.rooms.lost(node):
            return []
        self._kept = {
            name: {each: size for each, size in told.items() if each != node} for name, told in self._kept.items()
        }
        return self._vacate(node, gone=True) + self._advance()

    def create(self, spec: GroupSpec) -> list[Command]:
        if spec.group in self.groups:
            raise ValueError(f"placement group {spec.group} exists already")
        self._count += 1
        group = self.groups[spec.group] = self._waiting[spec.group] = Group(spec, self._count)
        self._looked = -1
        return [Changed(spec.group, group.state), *self._advance()]

    def prepared(self, name: str, epoch: int, node: ProcessId, free: ResourceSet, refusal: str = "") -> list[Command]:
        """A node's answer to `Prepare`, with what it has free now. With `refusal` it has set nothing aside."""
        group, attempt = self._of_attempt(name, epoch)
        if group is None or attempt is None or attempt.committing or node not in attempt.waiting:
            view = self.rooms.views.get(node)
            return [] if view is None else self.node_seen(structs.replace(view, free=free))  # it will not say it again
        attempt.waiting.discard(node)
        self.rooms.answered(node, group.claims_on(node), free)
        if refusal:
            group.refusals[node], self._refused[name] = refusal, group
            return self._roll_back(group, without=node) + self._advance()
        if attempt.waiting:
            return self._advance()
        attempt.committing = True
        attempt.waiting = set(attempt.nodes)
        commands = _set(group, GroupState.PREPARED) if group.state is GroupState.PENDING else []
        return [*commands, *[Commit(each, name, epoch) for each in attempt.nodes], *self._advance()]

    def committed(self, name: str, epoch: int, node: ProcessId, refusal: str = "") -> list[Command]:
        """A node's answer to `Commit`. With `refusal` it does not have what it had prepared, any more."""
        group, attempt = self._of_attempt(name, epoch)
        if group is None or attempt is None or not attempt.committing:
            return []
        if refusal:
            group.refusals[node], self._refused[name] = refusal, group
            return self._roll_back(group) + self._advance()
        attempt.waiting.discard(node)
        if attempt.waiting:
            return []
        group.attempt = None
        for index, where in attempt.places.items():
            group.placed[index] = Placed(where, epoch)
        if not group.missing:
            return _set(group, GroupState.CREATED) + self._keep()
        self._waiting[name] = group  # it lost more meanwhile
        group.looked = self._looked = -1
        return self._advance()

    def remove(self, name: str) -> list[Command]:
        """Idempotent. All that it holds is given back, whatever state it is in."""
        group = self.groups.pop(name, None)
        if group is None:
            return []
        commands: list[Command] = []
        for node, epoch in dict.fromkeys((where.node, where.epoch) for where in group.placed.values()):
            commands.append(Return(node, name, epoch))
        commands += [Return(node, name, epoch) for node, epoch in group.left]
        for node in dict.fromkeys(where.node for where in group.placed.values()):
            self.rooms.given_back(node, group.needs_on(node))
        changed = _set(group, GroupState.REMOVED)
        if group.attempt is not None:
            commands += self._roll_back(group)
        self._waiting.pop(name, None)
        self._refused.pop(name, None)
        if self.rooms.marked_for == name:
            self.rooms.unmark()
        return [*commands, *changed, *self._advance()]

    # --- questions

    @property
    def anybody_waits(self) -> bool:
        """Whether room that becomes free could help a group."""
        return bool(self._waiting)

    def reason(self, name: str) -> str:
        """Why a group is not created, in words; empty when it is."""
        group = self.groups.get(name)
        if group is None:
            return "it was removed"
        if group.attempt is not None:
            verb = "commit" if group.attempt.committing else "prepare"
            return f"waiting for {len(group.attempt.waiting)} node(s) to {verb} its bundles"
        if not group.missing:
            return ""
        if self._is_impossible(group):
            why = why_impossible(group, group.alone_on(self.rooms))
            return "; ".join([f"no placement even if all nodes were free: {why}", *self.rooms.draining()])
        return _why_not_now(group, sum(1 for each in self._waiting.values() if each.turn < group.turn), self.rooms)

    def check(self) -> None:
        """Raise `AssertionError` unless all that is held is some group's."""
        for node, held in self.rooms.held.items():
            total = NOTHING
            for group in self.groups.values():
                total = total.release(group.needs_on(node)).release(group.claims_on(node))
            if total != held:
                raise AssertionError(f"{node}: {held} is held, {total} is of groups")
        for name, group in self.groups.items():
            if (name in self._waiting) != (bool(group.missing) and group.attempt is None):
                raise AssertionError(f"{group} waits, or does not, against its state")
            if any(where.node not in self.rooms.views for where in group.placed.values()):
                raise AssertionError(f"{group} has bundles on a node that is gone")

    # --- inside

    def _of_attempt(self, name: str, epoch: int) -> tuple[Group | None, Attempt | None]:
        """None for an attempt that was given up: the answer comes too late."""
        group = self.groups.get(name)
        if group is None or group.attempt is None or group.attempt.epoch != epoch:
            return None, None
        return group, group.attempt

    def _vacate(self, node: ProcessId, *, gone: bool) -> list[Command]:
        """Nothing is to be on this node any more. One that is not `gone` is told so."""
        commands: list[Command] = []
        for name, group in list(self.groups.items()):
            group.refusals.pop(node, None)
            if gone and group.left:
                group.left = {each: None for each in group.left if each[0] != node}
            if group.attempt is not None and node in group.attempt.places.values():
                commands += self._roll_back(group, without=node if gone else None)
            lost = {index: where.epoch for index, where in group.placed.items() if where.node == node}
            if not lost:
                continue
            if not gone:
                self.rooms.given_back(node, group.needs_on(node))
                epochs = dict.fromkeys(lost.values())
                group.left |= dict.fromkeys([(node, epoch) for epoch in epochs])
                commands += [Return(node, name, epoch) for epoch in epochs]
            for index in lost:
                del group.placed[index]
            commands += _set(group, GroupState.RESCHEDULING)
            if group.attempt is None:
                self._waiting[name] = group
        return commands

    def _roll_back(self, group: Group, without: ProcessId | None = None) -> list[Command]:
        """Give an attempt up. `without`: a node that has nothing of it."""
        attempt, name = group.attempt, group.spec.group
        assert attempt is not None
        for node in attempt.nodes:
            if node in self.rooms.views:
                unsaid = node in attempt.waiting and not attempt.committing
                self.rooms.given_back(node, group.claims_on(node), unsaid=unsaid)
        group.attempt = None
        self._waiting[name] = group
        commands: list[Command] = [Return(node, name, attempt.epoch) for node in attempt.nodes if node != without]
        if group.state is GroupState.PREPARED:
            commands += _set(group, GroupState.PENDING)
        return commands

    def _advance(self) -> list[Command]:
        """Begin an attempt for each group that there is room for."""
        rooms = self.rooms
        if rooms.version == self._looked:
            return self._keep()
        if not self._waiting and not self._keeper:
            rooms.unmark()
            self._looked = rooms.version
            return self._keep()
        commands: list[Command] = []
        head: Group | None = None
        self._keeper = rooms.kept_for = ""
        rooms.kept = {}
        full: set[tuple[object, ...]] = set()
        """Shapes that there is no room for: once one is known, the others of the kind need not look."""
        held: set[tuple[object, ...]] = set()
        """Shapes that there will be no room for when tasks end."""
        for group in sorted(self._waiting.values(), key=lambda each: each.turn):
            name = group.spec.group
            if head is None and rooms.marked_for not in ("", name) and not self._is_impossible(group):
                rooms.unmark()  # it was another's turn
            plain = not (group.placed or group.refusals or head is None)
            kind = (group.spec.bundles, group.spec.strategy)
            places = None if plain and kind in full else self._find(group)
            if places is not None:
                commands += self._begin(group, places)
                if rooms.marked_for == name:
                    rooms.unmark()
                continue
            if plain:
                full.add(kind)
            if not self._keeper and (group.placed or kind not in held):
                if group.find_kept(rooms.obtainable(name)):
                    self._keeper = rooms.kept_for = name
                    rooms.kept = group.kept
                elif not group.placed:
                    held.add(kind)
            if head is None and not self._is_impossible(group):
                head = group
                self._mark(group)
        if head is None:
            rooms.unmark()
        self._looked = rooms.version
        return commands + self._keep()

    def _keep(self) -> list[Command]:
        """Tell nodes what they are to keep; what is kept for an attempt under way stays until that has done."""
        if not self._kept and not self._keeper:
            return []
        commands: list[Command] = []
        for name in dict.fromkeys((*self._kept, self._keeper)):
            group = self.groups.get(name)
            waits = group is not None and (name == self._keeper or group.attempt is not None) and group.missing
            kept = group.kept if group is not None and waits else {}
            told = self._kept.pop(name, {})
            commands += [Keep(node, name) for node in told if node not in kept]
            commands += [Keep(node, name, size) for node, size in kept.items() if told.get(node) != size]
            if kept:
                self._kept[name] = kept
        return commands

    def _find(self, group: Group) -> dict[int, ProcessId] | None:
        """Nodes with room for what it misses."""
        rooms, name = self.rooms, group.spec.group
        if group.looked == rooms.version:
            return None
        allowed = [view for view in rooms.takers() if view.node not in group.refusals]
        places = group.find_places({view.node: Room(rooms.usable(view.node, name), view.labels) for view in allowed})
        if places is None:
            group.looked = rooms.version
        return places

    def _begin(self, group: Group, places: dict[int, ProcessId]) -> list[Command]:
        name = group.spec.group
        attempt = group.attempt = Attempt(next(self.attempts), places, set(places.values()))
        del self._waiting[name]
        commands: list[Command] = []
        for node in attempt.nodes:
            self.rooms.asked(node, group.claims_on(node))
            sizes = [(index, group.spec.bundles[index].needs) for index, where in places.items() if where == node]
            commands.append(Prepare(node, name, attempt.epoch, tuple(sizes)))
        return commands

    def _mark(self, group: Group) -> None:
        """Choose the room that it waits for: where it is kept for it, where only leases are in the way, or else where
        the fewest groups are."""
        name = group.spec.group
        if self._keeper == name:
            self.rooms.mark(name, group.kept)
        elif self.rooms.marked_for != name:
            places = group.find_places(self.rooms.without_leases()) or group.find_places(group.alone_on(self.rooms))
            self.rooms.mark(name, group.amounts(places or {}))

    def _is_impossible(self, group: Group) -> bool:
        if group.impossible == self.rooms.node_version:
            return True
        if group.find_places(group.alone_on(self.rooms)) is not None:
            return False
        group.impossible = self.rooms.node_version
        return True

    def __repr__(self) -> str:
        return f"<GroupBook groups={len(self.groups)} waiting={len(self._waiting)} {self.rooms!r}>"


def _set(group: Group, state: GroupState) -> list[Command]:
    if group.state is state:
        return []
    group.state = state
    return [Changed(group.spec.group, state)]


def _why_not_now(group: Group, before: int, rooms: NodeRooms) -> str:
    """Where `before` others have waited for longer."""
    text = f"no room now for {len(group.missing)} bundle(s) of {group.spec.strategy}"
    if group.state is GroupState.RESCHEDULING:
        text += ", lost with their node, or to be moved from one that is being drained"
    if before:
        text += f"; {before} group(s) came before it"
    told = [f"node {each.node} has {rooms.usable(each.node, group.spec.group)}" for each in rooms.takers()[:MAX_TOLD]]
    said = [f"node {node} refused: {why}" for node, why in group.refusals.items()]
    return "; ".join([text, *told, *rooms.draining(), *said])


def why_impossible(group: Group, rooms: Mapping[ProcessId, Room]) -> str:
    """Why there is no placement in `rooms`, in words."""
    for index in group.missing:
        bundle = group.spec.bundles[index]
        if not any(room.takes(bundle) for room in rooms.values()):
            return f"bundle {index} ({bundle.needs}) fits on no node: {_lacks(bundle, rooms)}"
    bundles = len(group.spec.bundles)
    if group.spec.strategy == STRICT_SPREAD:
        return f"STRICT_SPREAD needs {bundles} different nodes that are large enough; there are {len(rooms)} nodes"
    if group.spec.strategy == STRICT_PACK:
        total = NOTHING
        for bundle in group.spec.bundles:
            total = total.release(bundle.needs)
        return f"STRICT_PACK needs one node for all bundles ({total}): {_lacks(Bundle(total), rooms)}"
    return f"the nodes do not have enough for all {bundles} bundles at the same time"


def _lacks(bundle: Bundle, rooms: Mapping[ProcessId, Room]) -> str:
    told = []
    for node, room in list(rooms.items())[:MAX_TOLD]:
        if not bundle.selector.matches(room.labels):
            told.append(f"node {node} has labels {dict(room.labels)}, not [{bundle.selector}]")
        else:
            told.append(f"node {node} lacks {room.free.shortfall(bundle.needs)}")
    more = len(rooms) - len(told)
    return ("; ".join(told) or "there is no node") + (f"; and {more} more nodes" if more > 0 else "")
