"""Placement groups on a node: the way to the node that leads, which coordinates all, and what that asks of nodes.

The first node of a cluster leads. Without it groups stay as they are, and work in them goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from msgspec import Struct, field, structs

from actorlite.errors import (
    ActorliteError,
    ConnectionLost,
    ControlUnavailable,
    PlacementGroupError,
    PlacementGroupRemoved,
)
from actorlite.ids import ProcessId
from actorlite.labels import ANY_LABELS, LabelSelector
from actorlite.node.desk import LeaseDesk
from actorlite.node.kept import KeptGroups, told
from actorlite.node.members import Members, load_of, view_of
from actorlite.node.records import Job
from actorlite.node.reserving import GroupKeeper
from actorlite.resources import ResourceSet
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer, RequestHandler
from actorlite.state.bundles import (
    Changed,
    Command,
    Commit,
    GroupBook,
    GroupSpec,
    GroupState,
    Keep,
    Prepare,
    Return,
    attempts_of,
)
from actorlite.state.packing import Bundle
from actorlite.state.scheduling import NodeView
from actorlite.wire.groups import (
    AwaitGroup,
    BundlesDone,
    CommitBundles,
    CreateGroup,
    DescribeGroups,
    GroupInfo,
    Groups,
    GroupShape,
    KeepRoom,
    PrepareBundles,
    RemoveGroup,
    ReturnBundles,
)
from actorlite.wire.requests import Yes

logger = logging.getLogger("actorlite.node")

MAX_REMOVED = 1000
"""Groups that were removed and are still shown."""
MAX_HISTORY = 20
"""States of a group that are remembered."""


class _Record(Struct, eq=False):
    shape: GroupShape
    owner: str
    """A job."""
    home: ProcessId
    """The node of its driver."""
    detached: bool
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    """Those who wait until it is created, or removed."""
    history: list[str] = field(default_factory=list)

    def changed(self, state: GroupState) -> None:
        self.history.append(state)
        del self.history[:-MAX_HISTORY]
        if state is GroupState.CREATED:
            self.wake()

    def wake(self) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_result(None)


class Coordinator:
    """All groups of the cluster; only the leading node's has any. Owned by `GroupDesk`."""

    def __init__(
        self,
        hub: Hub,
        members: Members,
        keeper: GroupKeeper,
        kept: KeptGroups,
        book: GroupBook,
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ):
        self._hub = hub
        self._members = members
        self._keeper = keeper
        self._kept = kept
        self._spawn = spawn
        self._book = book
        self._records: dict[str, _Record] = {}
        self._removed: dict[str, GroupInfo] = {}
        self._ending: dict[str, list[asyncio.Task[Any]]] = {}
        """What still goes on of groups that were removed."""
        self._names: dict[tuple[str, str], str] = {}
        self._over: dict[str, None] = {}
        """Jobs that have ended."""
        self._todo: deque[Command] = deque()
        self._performing = False
        self._knows_here = False
        """Whether the book has been told of all changes here but those that `noticed` will be told of."""

    # --- what is asked

    def create(self, body: CreateGroup) -> GroupInfo:
        shape = body.shape
        if shape.group in self._records:
            return self.info(shape.group)  # asked twice
        if body.owner in self._over:
            raise PlacementGroupError(f"job {body.owner} has ended: no placement group is made for it")
        if not body.detached and body.home not in (self._hub.identity.process, *self._members.views):
            raise PlacementGroupError(
                f"node {body.home} of the driver of job {body.owner} is gone: no placement group is made for that job"
            )
        name = (shape.namespace, shape.name)
        if shape.name and name in self._names:
            raise PlacementGroupError(
                f"name={shape.name!r} is taken in namespace {shape.namespace!r}, by group {self._names[name]}: "
                "use al.get_placement_group(name), remove that one, or choose another name"
            )
        spec = _spec(shape)  # what cannot be read leaves nothing behind
        self._records[shape.group] = _Record(shape, body.owner, body.home, body.detached)
        if shape.name:
            self._names[name] = shape.group
        self._know_here()
        self._perform(self._book.create(spec))
        self._watch()
        return self.info(shape.group)

    async def created(self, group: str) -> GroupInfo:
        """Once all its bundles are reserved. Raises `PlacementGroupRemoved`."""
        while True:
            record = self._records.get(group)
            if record is None:
                why = "was removed" if group in self._removed else "is not known any more"
                raise PlacementGroupRemoved(f"placement group {group} {why}")
            if self._book.groups[group].state is GroupState.CREATED:
                return self.info(group)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            record.waiting.append(future)
            try:
                await future
            finally:
                if future in record.waiting:
                    record.waiting.remove(future)

    def remove(self, group: str) -> list[asyncio.Task[Any]] | None:
        """Idempotent. What runs in it has ended with the tasks that are returned; None when it is not there. One fails
        with `ControlUnavailable` when the group is removed, but would be back with the next leading node."""
        record = self._records.pop(group, None)
        if record is None:
            earlier = self._removed.get(group)
            if earlier is not None and earlier.detached:
                goes_on = [task for task in self._ending.get(group, ()) if not task.done()]
                return [*goes_on, self._spawn(self._kept.forgotten(group))]
            return self._ending.get(group)
        if record.detached:
            self._kept.forget(group)
        self._names.pop((record.shape.namespace, record.shape.name), None)
        self._know_here()
        commands = self._book.remove(group)
        state = GroupState.REMOVED
        record.history.append(state)
        self._removed[group] = GroupInfo(
            record.shape, state, "it was removed", (), record.detached, tuple(record.history)
        )
        while len(self._removed) > MAX_REMOVED:
            del self._removed[next(iter(self._removed))]
        record.wake()
        ending = self._perform(commands, group)
        self._watch()
        if record.detached:
            ending.append(self._spawn(self._kept.forgotten(group)))
        if ending:
            _until_done(self._ending, group, ending)
        return ending

    def described(self, body: DescribeGroups) -> Groups:
        if body.name:
            found = self._names.get((body.namespace, body.name))
            return Groups(() if found is None else (self.info(found),))
        if body.group:
            known = body.group in self._records or body.group in self._removed
            return Groups((self.info(body.group),) if known else ())
        return Groups(tuple([self.info(group) for group in (*self._removed, *self._records)]))

    def info(self, group: str) -> GroupInfo:
        record = self._records.get(group)
        if record is None:
            return self._removed[group]
        state = self._book.groups[group]
        nodes = [
            state.placed[index].node if index in state.placed else "" for index in range(len(record.shape.bundles))
        ]
        return GroupInfo(
            record.shape,
            state.state,
            self._book.reason(group),
            tuple([ProcessId(node) for node in nodes]),
            record.detached,
            tuple(record.history),
        )

    # --- what happens

    def node_seen(self, view: NodeView) -> None:
        """Another node says what it has."""
        self._perform(self._book.node_seen(_for_groups(view)))

    def node_lost(self, node: ProcessId) -> None:
        self._perform(self._book.node_lost(node))
        for group in [group for group, each in self._records.items() if each.home == node and not each.detached]:
            self.remove(group)
        self._watch()

    def job_ended(self, job: str) -> None:
        self._over[job] = None
        while len(self._over) > MAX_REMOVED:
            del self._over[next(iter(self._over))]
        for group in [group for group, each in self._records.items() if each.owner == job and not each.detached]:
            self.remove(group)

    def noticed(self) -> None:
        """Something here was taken or became free, since this was last asked for."""
        self._knows_here = False
        if self._book.anybody_waits:
            self._watch()

    # --- inside

    def _look_here(self) -> None:
        self._knows_here = True
        self._perform(self._book.node_seen(_for_groups(self._keeper.view())))

    def _know_here(self) -> None:
        """Look, if anything has changed since the last look. What changes then, until `noticed` is to be told
        again, is our own doing."""
        if not self._knows_here or self._members.on_own_change is None:
            self._look_here()
        self._members.on_own_change = None

    def _watch(self) -> None:
        """Hear of the next change here, once. Who waits has missed none before."""
        if not self._knows_here and self._book.anybody_waits:
            self._look_here()
        self._members.on_own_change = self.noticed

    def _perform(self, commands: list[Command], removed: str = "") -> list[asyncio.Task[Any]]:
        """What nodes answer leads to more commands: all are done in order, without recursion. Returns what still goes
        on of a group that is `removed`."""
        ending: list[asyncio.Task[Any]] = []
        self._todo.extend(commands)
        if self._performing:
            return ending
        self._performing = True
        try:
            while self._todo:
                command = self._todo.popleft()
                if isinstance(command, Changed):
                    if (record := self._records.get(command.group)) is not None:
                        record.changed(command.state)
                elif isinstance(command, Return):
                    if (task := self._end(command)) is not None and command.group == removed:
                        ending.append(task)
                elif isinstance(command, Keep):
                    self._keeper.tell(command)
                elif command.node == self._hub.identity.process:
                    self._todo.extend(self._here(command))
                else:
                    self._spawn(self._there(command, self._ask(command.node, _body(command))))
        finally:
            self._performing = False
        return ending

    def _here(self, command: Prepare | Commit) -> list[Command]:
        group, epoch, node = command.group, command.epoch, command.node
        if isinstance(command, Prepare):
            refusal = self._keeper.prepare(group, epoch, command.bundles)
            return self._book.prepared(group, epoch, node, self._keeper.free_now(), refusal)
        return self._book.committed(group, epoch, node, self._keeper.commit(group, epoch))

    async def _there(self, command: Prepare | Commit, asking: asyncio.Task[Any]) -> None:
        try:
            done = await asking
        except ConnectionLost:
            return  # the node is lost, which is told
        except ActorliteError as error:
            logger.warning("node %s could not do %s: %s", command.node, command, error)
            view = self._book.rooms.views.get(command.node)
            if view is None:
                return
            done = BundlesDone(load_of(view), str(error))
        if isinstance(command, Prepare):
            free = _for_groups(view_of(command.node, done.load)).free
            self._perform(self._book.prepared(command.group, command.epoch, command.node, free, done.refusal))
        else:
            self._perform(self._book.committed(command.group, command.epoch, command.node, done.refusal))
        self._watch()

    def _ask(self, node: ProcessId, body: Any) -> asyncio.Task[Any]:
        """A request under way, in the order of the commands."""
        peer = self._members.peer(node)
        if peer is None:
            return self._spawn(_lost(node))
        return self._spawn(peer.request(next(self._hub.numbers), body))

    def _end(self, command: Return) -> asyncio.Task[None] | None:
        """Have a node give bundles back; None when it has done so."""
        group, epoch, node = command.group, command.epoch, command.node
        body = ReturnBundles(group, epoch, removed=group not in self._records)
        if node != self._hub.identity.process:
            return self._spawn(self._ended(node, self._ask(node, body)))
        if self._keeper.free(group, epoch):
            self._look_here()
            return None
        return self._spawn(self._ended(node, self._spawn(self._keeper.give_back(body))))

    async def _ended(self, node: ProcessId, asking: asyncio.Task[Any]) -> None:
        try:
            done = await asking
        except ConnectionLost:
            return
        if node == self._hub.identity.process:
            self._look_here()
        elif node in self._members.views:
            self._perform(self._book.node_seen(_for_groups(view_of(node, done.load))))
        self._watch()

    def __repr__(self) -> str:
        return f"<Coordinator {self._book!r}>"


class GroupDesk:
    """A node's requests about groups: answered here when it leads, else by the node that does. On the loop."""

    def __init__(
        self,
        hub: Hub,
        handlers: Handlers,
        members: Members,
        desk: LeaseDesk,
        jobs: Mapping[ProcessId, Job],
        view: Callable[[], NodeView],
        kept: KeptGroups,
    ) -> None:
        self.kept = kept
        self._hub = hub
        self._members = members
        self._jobs = jobs
        self.keeper = GroupKeeper(desk, members, view)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unled: set[tuple[str, int]] = set()
        """What was reserved here when the leading node was lost."""
        self._book = GroupBook()
        self.coordinator = Coordinator(hub, members, self.keeper, kept, self._book, self._spawn)
        members.on_view = self._seen
        members.on_back.append(self._node_back)
        desk.inside.created = self.created
        handlers.on_messages({KeepRoom: self.keeper.told})
        handlers.on_requests(
            {
                CreateGroup: self._create,
                AwaitGroup: self._led(lambda peer, body: self.coordinator.created(body.group)),
                RemoveGroup: self._led(self._remove),
                DescribeGroups: self._led(lambda peer, body: self.coordinator.described(body)),
                PrepareBundles: self._keep(self._prepare),
                CommitBundles: self._keep(lambda peer, body: self.keeper.commit_asked(body)),
                ReturnBundles: self._keep(lambda peer, body: self.keeper.give_back(body)),
            }
        )

    @property
    def leads(self) -> bool:
        return self._members.leader == self._hub.identity.process

    async def restore(self) -> None:
        """Reserve what an earlier node was asked to keep, before anybody else is given something. Raises
        `ControlUnavailable`."""
        self._book.attempts = attempts_of(self.kept.epoch)
        for shape in await self.kept.found():
            try:
                self.coordinator.create(CreateGroup(shape, detached=True))
            except (ActorliteError, ValueError) as error:
                self.kept.lost(f"placement group {told(shape)}: {error}")
            else:
                self.kept.back(shape)

    async def created(self, group: str) -> GroupInfo:
        """The group, once all its bundles are reserved. Raises `PlacementGroupRemoved`, `ControlUnavailable`."""
        if self.leads:
            return await self.coordinator.created(group)
        info: GroupInfo = await self._pass_on(AwaitGroup(group))
        return info

    def node_lost(self, node: ProcessId) -> None:
        if self.leads:
            self.coordinator.node_lost(node)
        elif node == self._members.led_by:
            self._unled = self.keeper.attempts
            self.keeper.nobody_leads()

    def _node_back(self, node: ProcessId) -> None:
        """The leading node was cut off: it has given up what was reserved here, and will ask for it anew."""
        if node == self._members.led_by:
            unled, self._unled = self._unled, set()
            for group, epoch in unled:
                self._spawn(self.keeper.give_back(ReturnBundles(group, epoch)))

    def job_ended(self, job: str) -> None:
        if self.leads and job:
            self.coordinator.job_ended(job)

    def close(self) -> None:
        self._members.on_view = self._members.on_own_change = None
        for task in self._tasks:
            task.cancel()

    # --- handlers

    def _led(self, handler: RequestHandler) -> RequestHandler:
        def handle(peer: Peer, body: Any) -> Any:
            if self.leads:
                return handler(peer, body)
            if peer.identity.role == "node":
                raise ControlUnavailable(f"node {self._hub.identity.process}, which was asked, does not lead")
            return self._pass_on(body)

        return handle

    async def _pass_on(self, body: Any) -> Any:
        there = self._members.peer(self._members.leader)
        if there is None:
            raise ControlUnavailable(self._members.why_not_led)
        try:
            return await there.ask(next(self._hub.numbers), body, _forget)
        except ConnectionLost as error:
            raise ControlUnavailable(f"the node that leads the cluster is gone: {error}") from None

    def _create(self, peer: Peer, body: CreateGroup) -> Awaitable[GroupInfo] | GroupInfo:
        here = self._hub.identity.process
        if peer.identity.role == "node":
            if not self.leads:
                raise ControlUnavailable(f"node {here}, which was asked, does not lead")
            return self._make(body)
        job = self._jobs.get(peer.identity.process)
        if job is None or job.is_over:
            raise PlacementGroupError("the job of whoever asks has ended: no placement group is made for it")
        body = structs.replace(body, owner=job.name, home=job.home or here)
        return self._make(body) if self.leads else self._pass_on(body)

    def _make(self, body: CreateGroup) -> Awaitable[GroupInfo] | GroupInfo:
        """Raises `PlacementGroupError`, `ControlUnavailable`; then there is no group."""
        info = self.coordinator.create(body)
        return self._make_detached(body, info) if body.detached else info

    async def _make_detached(self, body: CreateGroup, info: GroupInfo) -> GroupInfo:
        try:
            await self.kept.keep(body.shape)
        except BaseException:
            self.coordinator.remove(body.shape.group)
            raise
        return info

    def _remove(self, peer: Peer, body: RemoveGroup) -> Awaitable[Yes] | Yes:
        ending = self.coordinator.remove(body.group)
        return _when_all_have(ending) if ending else Yes(ending is not None)

    def _keep(self, handler: RequestHandler) -> RequestHandler:
        def handle(peer: Peer, body: Any) -> Any:
            if peer.identity.process != self._members.led_by:  # it may say so before it is known to be back
                raise ControlUnavailable(f"{peer!r} does not lead: it cannot reserve anything")
            return handler(peer, body)

        return handle

    def _prepare(self, peer: Peer, body: PrepareBundles) -> BundlesDone:
        sizes = [(index, ResourceSet(pairs)) for index, pairs in body.bundles]
        return self.keeper.done(self.keeper.prepare(body.group, body.epoch, sizes))

    def _seen(self, view: NodeView) -> None:
        if self.leads:
            self.coordinator.node_seen(view)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name="actorlite groups")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, ActorliteError):
            logger.error("a placement group could not be dealt with", exc_info=error)

    def __repr__(self) -> str:
        return f"<GroupDesk {self.coordinator!r}>" if self.leads else f"<GroupDesk led by {self._members.led_by}>"


async def _when_all_have(ending: Iterable[asyncio.Task[Any]]) -> Yes:
    """None of it stops because nobody waits any more."""
    for each in ending:
        await asyncio.shield(each)
    return Yes(True)


def _until_done(ending: dict[str, list[asyncio.Task[Any]]], group: str, tasks: list[asyncio.Task[Any]]) -> None:
    """Keep tasks there while any of them goes on."""
    ending[group] = tasks

    def done(task: asyncio.Task[Any]) -> None:
        if all(each.done() for each in tasks):
            ending.pop(group, None)

    for task in tasks:
        task.add_done_callback(done)


def detached_among(groups: Groups) -> tuple[GroupInfo, ...]:
    """Those that are there, and do not end with a session."""
    return tuple([each for each in groups.groups if each.detached and each.state != GroupState.REMOVED])


def _for_groups(view: NodeView) -> NodeView:
    """As the coordinator sees it: what is kept for groups is free, too."""
    return structs.replace(view, free=view.free.release(view.kept)) if view.kept else view


def _spec(shape: GroupShape) -> GroupSpec:
    selectors = [LabelSelector.parse("bundle_label_selector", dict(each)) for each in shape.selectors]
    selectors = selectors or [ANY_LABELS] * len(shape.bundles)
    bundles = [Bundle(ResourceSet(pairs), each) for pairs, each in zip(shape.bundles, selectors, strict=True)]
    return GroupSpec(shape.group, tuple(bundles), shape.strategy)


def _prepare(command: Prepare) -> PrepareBundles:
    return PrepareBundles(command.group, command.epoch, tuple([(index, size.pairs) for index, size in command.bundles]))


def _body(command: Prepare | Commit) -> PrepareBundles | CommitBundles:
    return _prepare(command) if isinstance(command, Prepare) else CommitBundles(command.group, command.epoch)


async def _lost(node: ProcessId) -> None:
    raise ConnectionLost(f"node {node} is gone")


def _forget(answer: object) -> None:
    """To an answer that nobody waits for any more there is nothing to undo."""
