"""What the node that leads the cluster asks of a node: to reserve bundles, to give them back, to keep room."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actorlite.errors import BundleMoved
from actorlite.node.bundles import Bundle
from actorlite.node.desk import LeaseDesk
from actorlite.node.members import Members, load_of
from actorlite.node.records import WorkerRecord
from actorlite.resources import NOTHING, ResourceSet
from actorlite.rpc.peer import Peer
from actorlite.state.bundles import Keep
from actorlite.state.scheduling import NodeView
from actorlite.wire.groups import BundlesDone, CommitBundles, KeepRoom, ReturnBundles
from actorlite.wire.messages import encode


class GroupKeeper:
    """What the leading node asks of this one. Owned by the node; on the loop."""

    def __init__(self, desk: LeaseDesk, members: Members, view: Callable[[], NodeView]) -> None:
        self.view = view
        """This node, now."""
        self._desk = desk
        self._members = members

    def free_now(self) -> ResourceSet:
        """What bundles may use of this node: what is kept for groups is free."""
        table = self._desk.table
        return table.turns.for_groups() if table.turns.pledged else table.free_now()

    def prepare(self, group: str, epoch: int, sizes: Sequence[tuple[int, ResourceSet]]) -> str:
        """Why not, if it cannot."""
        if self._desk.leaving:
            return "it is being drained"
        refusal, granted = self._desk.tables.prepare(group, epoch, sizes)
        self._desk.grant(granted)
        return refusal

    def commit(self, group: str, epoch: int) -> str:
        held = self._desk.tables.reservations.commit(group, epoch)
        return "" if held else "there is nothing of it here"

    def commit_asked(self, body: CommitBundles) -> BundlesDone:
        return self.done(self.commit(body.group, body.epoch))

    def free(self, group: str, epoch: int) -> bool:
        """Give back what nothing runs in; False, and nothing done, when something does."""
        tables = self._desk.tables
        mine = [each for each in tables.reservations.all_of(group).values() if each.epoch == epoch]
        if any(waiting or held for waiting, held in map(tables.users_of, mine)):
            return False
        self._desk.grant(tables.give_back(tables.reservations.give_back(group, epoch)))
        return True

    def keep(self, group: str, size: ResourceSet) -> None:
        """A group waits for room here; with no `size`, not any more."""
        self._desk.grant(self._desk.tables.keep(group, size))
        if size:
            self._desk.returns.somebody_waits()

    def tell(self, command: Keep) -> None:
        """This node leads: have one keep room, this one or another."""
        if command.node == self.view().node:
            self.keep(command.group, command.size)
        elif (peer := self._members.peer(command.node)) is not None:
            peer.tell(encode(KeepRoom(command.group, command.size.pairs)))

    def told(self, peer: Peer, message: KeepRoom, parts: Sequence[memoryview]) -> None:
        """Handler, for the same."""
        if peer.identity.process == self._members.led_by:
            self.keep(message.group, ResourceSet(message.size))

    def nobody_leads(self) -> None:
        """Who asked for room is gone."""
        for group in list(self._desk.table.turns.keeps):
            self.keep(group, NOTHING)

    async def give_back(self, body: ReturnBundles) -> BundlesDone:
        """Returns when what ran in them has ended: it is ended, but on a node that is drained, unless the group is
        gone."""
        tables = self._desk.tables
        attempt = body.group, body.epoch
        bundles = tables.reservations.give_back(body.group, body.epoch)
        if self._desk.leaving and not body.removed:
            await self._leave(attempt, bundles)
            return self.done()
        bundles += tables.left.pop(attempt, [])
        what = "was removed" if body.removed else "has lost this bundle"
        error = BundleMoved(f"its placement group {body.group} {what}")
        ending: list[WorkerRecord] = []
        for bundle in bundles:
            ending += self._desk.evict(*tables.users_of(bundle), error, removed=body.removed)
        try:
            for record in ending:
                await record.ended.wait()
        finally:
            self._desk.grant(tables.give_back(bundles))
        return self.done()

    async def _leave(self, attempt: tuple[str, int], bundles: list[Bundle]) -> None:
        """What waits in them goes where they are now; what runs goes on."""
        tables, changed = self._desk.tables, self._desk.changed
        if not bundles or changed is None:
            return
        tables.left[attempt] = bundles
        moved = BundleMoved(f"its placement group {attempt[0]} has moved this bundle: the node is being drained")
        for bundle in bundles:
            self._desk.evict(tables.users_of(bundle)[0], (), moved, removed=False)
        while any(tables.users_of(bundle)[1] for bundle in bundles):
            changed.clear()
            await changed.wait()
        tables.left.pop(attempt, None)
        self._desk.grant(tables.give_back(bundles))

    @property
    def attempts(self) -> set[tuple[str, int]]:
        """Groups that have bundles here, and the attempts that placed those."""
        return {(each.group, each.epoch) for each in self._desk.tables.reservations.all}

    def done(self, refusal: str = "") -> BundlesDone:
        """The answer to a leading node that is another one."""
        self._members.load_changed(told_one=True)
        return BundlesDone(load_of(self.view()), refusal)
