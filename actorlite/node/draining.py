"""A node that is drained: it takes nothing new, waits for what runs there, ends the rest, and leaves.

Follows Ray's `DrainNode` and `kubectl drain`: what may be placed elsewhere is, and a deadline bounds the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from msgspec import structs

from actorlite.errors import BundleMoved, ConnectionLost, DrainRefused, NodeDiedError, NodeDraining
from actorlite.ids import ProcessId
from actorlite.node.desk import LeaseDesk, leaving, wish_for
from actorlite.node.members import Members
from actorlite.node.workers import WorkerPool
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.state.draining import Drain, asked_back, is_working, refusal, working
from actorlite.state.leases import HeldLease
from actorlite.wire.nodes import DrainNode
from actorlite.wire.requests import Yes

logger = logging.getLogger("actorlite.node")

ASK_AGAIN_S = 0.2
"""After this leases are asked back once more: their owners may not have had them yet. Then after twice the time."""
MOST_PAUSE_S = 3.0
"""But after no more than this: actors cannot move before they have been made."""
NOTICE_S = 0.05
"""How long the owners of what runs here have at least to hear of it, also without any time for what runs."""
ANSWER_S = 0.01
"""How long the answer to whoever asked for it has to leave before the node does."""
DRAINED = "it was drained"


class Draining:
    """Owned by the node; on the loop. `on_begin` hears when the node takes nothing new any more, `on_done` when nothing
    runs there."""

    def __init__(
        self,
        hub: Hub,
        handlers: Handlers,
        members: Members,
        desk: LeaseDesk,
        workers: WorkerPool,
        jobs: Collection[ProcessId],
        on_begin: Callable[[], None],
        on_done: Callable[[str], None],
    ) -> None:
        self._hub = hub
        self._members = members
        self._desk = desk
        self._workers = workers
        self._jobs = jobs
        self._on_begin = on_begin
        self._on_done = on_done
        self._drain: Drain | None = None
        self._changed = asyncio.Event()
        self._done: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        handlers.on_requests({DrainNode: self._asked})

    def begin(self, timeout_s: float | None) -> None:
        """From now on the node takes nothing new. Raises `DrainRefused`, and then has changed nothing. Once more: there
        may be less time."""
        loop = asyncio.get_running_loop()
        if self._drain is not None:
            if self._drain.again(loop.time(), timeout_s):
                self._changed.set()
            return
        here = self._hub.identity.process
        if why := refusal(here, self._members.leader, self._members.views.values()):
            raise DrainRefused(why)
        self._drain = Drain.begin(loop.time(), timeout_s)
        desk = self._desk
        desk.leaving = True
        desk.changed = self._changed
        # Others hear of it before they hear of any refusal.
        self._members.say_load()
        self._on_begin()
        desk.evict(list(desk.table.waiting), (), leaving(here), removed=False)
        desk.evict(desk.tables.queued, (), BundleMoved(str(leaving(here))), removed=False)
        self._done = loop.create_future()
        self._task = loop.create_task(self._run(self._drain, self._done), name="actorlite drain")
        self._task.add_done_callback(self._ran)

    async def drained(self) -> None:
        """Return when nothing runs there any more; to be cancelled changes nothing. Raises `NodeDiedError` when the
        node ends before."""
        if self._done is not None:
            await asyncio.shield(self._done)

    def close(self, reason: str) -> None:
        """The node ends. Idempotent."""
        if self._task is not None:
            self._task.cancel()
        if self._done is not None and not self._done.done():
            here = self._hub.identity.process
            self._done.set_exception(NodeDiedError(f"node {here} ended while it was drained: {reason}"))
            self._done.exception()  # nobody may wait for it

    # --- inside

    async def _asked(self, peer: Peer, body: DrainNode) -> Yes:
        here = self._hub.identity.process
        if body.node and body.node != here:
            there = self._members.peer(body.node)
            if there is None:
                why = self._members.lost.get(body.node, "it is not in the cluster (any more)")
                raise DrainRefused(f"node {body.node} cannot be drained: {why}; `actorlite status` lists the nodes")
            try:
                await there.request(next(self._hub.numbers), structs.replace(body, node=ProcessId("")))
            except ConnectionLost as error:
                raise NodeDiedError(f"node {body.node} ended while it was drained: {error}") from None
            return Yes(True)
        self.begin(body.timeout_s)
        await self.drained()
        return Yes(True)

    async def _run(self, drain: Drain, done: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        ask_at = loop.time()
        noticed, pause = ask_at + NOTICE_S, ASK_AGAIN_S
        while self._is_busy():
            now = loop.time()
            left = drain.left_s(now)
            if left == 0 and now >= noticed:
                await self._end(drain.over)
                break
            if now >= ask_at:
                self._ask_back()
                ask_at, pause = now + pause, min(2 * pause, MOST_PAUSE_S)
            until = ask_at if drain.until is None else min(ask_at, max(drain.until, noticed))
            self._changed.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                continue
        done.set_result(None)
        await asyncio.sleep(ANSWER_S)
        self._on_done(DRAINED)

    def _ask_back(self) -> None:
        """Have owners return their leases, and move their actors, if another node can ever have those as far as is
        known; a group says itself where its bundles are."""
        index, desk = self._members.index, self._desk
        index.put(self._members.here())
        places = {each.lease: each.place for each in self._workers.records.values() if each.lease}

        def may_move(lease: HeldLease) -> bool:
            place = places.get(lease.number)
            in_group = place is not None and bool(place.group)
            return in_group or index.choose(wish_for(place, lease.request.needs)) is not None

        desk.returns.ask_back(asked_back(working(desk.tables.each), may_move), drained=True)

    def _ran(self, task: asyncio.Task[None]) -> None:
        """A drain that fails, which would be a mistake of ours, must not be waited for for ever."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("the node could not be drained", exc_info=error)
            self.close(repr(error))

    def _is_busy(self) -> bool:
        """Whether something runs here: work, or a session."""
        if is_working(self._desk.tables.each):
            return True
        peers = [self._hub.peers.get(process) for process in self._jobs]
        return any(peer is not None and peer.identity.role == "driver" for peer in peers)

    async def _end(self, why: str) -> None:
        """End what still runs; sessions end with the node."""
        desk = self._desk
        held = [lease.number for lease in working(desk.tables.each)]
        for record in desk.evict((), held, NodeDraining(why), removed=False):
            await record.ended.wait()

    def __repr__(self) -> str:
        return f"<Draining {self._drain}>"
