"""The runtime of one process: what `context.Runtime` promises, composed of objects, tasks, actors and connections."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

from actorlite.definitions import ActorDefinition, FunctionDefinition
from actorlite.errors import ActorliteError, ConnectionLost, NodeDiedError, SessionClosedError
from actorlite.ids import ActorId, ProcessId
from actorlite.options import ActorOptions, TaskOptions
from actorlite.refs import ELSEWHERE, Failure, NotHere, ObjectRef
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.runtime.actors import Link
from actorlite.runtime.borrows import Borrows
from actorlite.runtime.code import CodeBook
from actorlite.runtime.creation import ActorMaker
from actorlite.runtime.delays import Delays
from actorlite.runtime.detached import DetachedActors
from actorlite.runtime.directory import ActorDirectory
from actorlite.runtime.exports import Exports
from actorlite.runtime.fetches import Fetches
from actorlite.runtime.handover import Handover
from actorlite.runtime.held import HeldBack, room
from actorlite.runtime.lifetimes import Lifetimes
from actorlite.runtime.lookups import Lookups
from actorlite.runtime.losses import Losses
from actorlite.runtime.names import NamedActors
from actorlite.runtime.node_client import NodeClient
from actorlite.runtime.restarts import Restarter
from actorlite.runtime.stored import StoredValues, explain
from actorlite.runtime.streams import OwnStream, Streams
from actorlite.runtime.tasks import TaskSubmitter
from actorlite.streams import ObjectRefStream, StreamSource
from actorlite.wire.calls import (
    ActorEnded,
    Borrow,
    Define,
    Fetch,
    HandOver,
    Release,
    Room,
    StreamClose,
    StreamNext,
    Taken,
)
from actorlite.wire.messages import Ending
from actorlite.wire.nodes import Capacity
from actorlite.wire.objects import ExplainObjects, Objects, PinsWanted
from actorlite.wire.requests import ActorPlace, CancelWork, KillActor, Reclaim, ResolveActor, Yes
from actorlite.wire.serialize import decode

T = TypeVar("T")

STOP_GRACE_S = 5.0
"""How long `on_stop` hooks may take when a session is shut down."""


class ProcessRuntime:
    """Owns references and submits work; a driver has one per session, a worker has one."""

    def __init__(self, hub: Hub, node: NodeClient, *, job: str, namespace: str, address: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.hub = hub
        self.node = node
        self.job = job
        self.namespace = namespace
        self.address = address
        self.process: ProcessId = hub.identity.process
        self.closing = False
        self.quiet = False
        """Whether this process gives up its work on purpose: what nobody awaits any more is not reported as lost."""
        self.gone = ""
        """Why nothing can be submitted any more; empty while all is well."""
        self.shut_down: Callable[[], Awaitable[None]] | None = None
        """Shuts the driver's session down; None in a worker."""
        self.posting = threading.Lock()
        """Guards `Quota.posted`."""
        self.held_back: dict[ActorId, HeldBack] = {}
        """Of the actors whose mailbox is full: what waits for room."""
        self._thread = threading.get_ident()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.delays = Delays(self.loop)
        self.exports = Exports(hub)
        self.borrows = Borrows(self)
        self.fetches = Fetches(self, self.borrows)
        self.import_ref = self.borrows.import_ref
        self.handover = Handover(self)
        self.stored = StoredValues(self)
        self.streams = Streams(self)
        self.code = CodeBook(self)
        self.tasks = TaskSubmitter(self)
        self.maker = ActorMaker(self)
        self.directory = ActorDirectory(self)
        self.names = NamedActors(self)
        self.detached = DetachedActors(self)
        self.lookups = Lookups(self)
        self.losses = Losses(self)
        self.lifetimes = Lifetimes(self)
        self.restarter = Restarter(self)

    def install(self, handlers: Handlers) -> None:
        """Take the messages that are for a runtime."""
        handlers.on_messages(
            {
                Define: self.code.defined,
                Borrow: self.exports.borrow,
                Release: self.exports.release,
                Taken: self.exports.taken,
                Fetch: self.exports.fetch,
                HandOver: self.handover.received,
                StreamNext: self.streams.next,
                StreamClose: self.streams.close,
                ActorEnded: self.lifetimes.ended,
                Reclaim: self.tasks.asked_back,
                PinsWanted: lambda peer, message, parts: self.stored.let_go(),
                Room: lambda peer, message, parts: room(self, message),
                Capacity: self.tasks.capacity_changed,
                Ending: lambda peer, message, parts: self.node_ending(message.reason),
            }
        )
        handlers.on_requests(
            {
                ResolveActor: self.directory.resolve,
                KillActor: self.directory.killed,
                CancelWork: self._cancel_for,
                ExplainObjects: partial(explain, self),
            }
        )

    # --- threads and tasks

    def now(self) -> float:
        """The loop's clock. From any thread: what a loop tells to others than its own may be its last look at it."""
        return self.loop.time() if self.in_loop() else time.monotonic()

    def in_loop(self) -> bool:
        return threading.get_ident() == self._thread

    def post(self, work: Callable[..., object], *args: Any) -> None:
        """Run on the loop: now when on its thread, else soon. From any thread."""
        if threading.get_ident() == self._thread:
            work(*args)
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(work, *args)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that the runtime owns: cancelled and awaited when it closes."""
        task = self.loop.create_task(work, name=f"actorlite {getattr(work, '__name__', 'work')}")
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever awaits it has it; what nobody awaits was turned into outcomes already

    def check_open(self) -> None:
        if self.gone:
            raise SessionClosedError(f"{self!r} takes no more work: {self.gone}; open a new session with al.init()")

    # --- tasks

    @property
    def node_pid(self) -> int:
        return self.node.info.pid

    async def why_node_gone(self, otherwise: str) -> str:
        return await self.node.why_gone(otherwise)

    @property
    def node_peer(self) -> Peer:
        return self.node.peer

    def submit(
        self, definition: FunctionDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: TaskOptions
    ) -> Any:
        return self.tasks.call(definition, args, kwargs, options)

    async def run(
        self, definition: FunctionDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: TaskOptions
    ) -> Any:
        return await self.tasks.run(definition, args, kwargs, options)

    def open_stream(
        self,
        definition: FunctionDefinition,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        *,
        structured: bool,
    ) -> OwnStream:
        return self.tasks.open_stream(definition, args, kwargs, options, structured=structured)

    def import_stream(self, anchor: ObjectRef[Any], completed: ObjectRef[None], name: str) -> StreamSource:
        return self.streams.find(anchor, completed, name)

    async def submit_in_turn(
        self, definition: FunctionDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: TaskOptions
    ) -> Any:
        return await self.tasks.submit(definition, args, kwargs, options)

    async def run_elsewhere(self, result: Any) -> Any:
        """A structured call that is made of references: from another loop, or with several results."""
        refs = result if isinstance(result, list) else [result] if result is not None else []
        try:
            values = [await ref for ref in refs]
        except asyncio.CancelledError:
            for ref in refs:
                self.post(self._abandon, ref)
            raise
        return values if isinstance(result, list) else values[0] if values else None

    def _abandon(self, ref: ObjectRef[Any]) -> None:
        if ref._call is not None:
            ref._call.abandon()

    # --- actors

    def create_actor(
        self, definition: ActorDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> Link:
        return self.maker.create(definition, args, kwargs, options)

    async def kill(self, link: Any, *, no_restart: bool) -> None:
        await self.on_own_loop(self.directory.kill(link, no_restart=no_restart))

    async def terminate(self, link: Any) -> None:
        await self.on_own_loop(self.directory.terminate(link))

    async def describe_actor(self, link: Any) -> ActorPlace:
        return await self.on_own_loop(self.lookups.described(link))

    async def actor_ready(self, link: Any) -> None:
        await self.on_own_loop(self.directory.ready(link))

    def export_actor(self, link: Any) -> tuple[Any, ...]:
        return self.directory.export_link(link)

    def import_actor(self, data: tuple[Any, ...], definition: ActorDefinition, *, weak: bool = False) -> Link:
        return self.directory.import_link(data, definition, weak=weak)

    def hold_actor(self, link: Any) -> Link:
        return self.directory.holding(link)

    # --- objects

    async def put(self, value: Any, timeout: float | None = None) -> ObjectRef[Any]:
        self.check_open()
        return await self.stored.put(value, timeout)

    async def list_objects(self) -> Objects:
        return await self.on_own_loop(self.stored.client.list_objects())

    def want(self, ref: ObjectRef[Any], *, value: bool) -> None:
        if ref.owner_address:
            self.fetches.want(ref, value=value)
        elif value:
            self.post(self.stored.bring, ref)

    def unwrap(self, outcome: Any, *, copy: bool = False) -> Any:
        if type(outcome) is Failure:
            raise outcome.exception()
        if outcome is ELSEWHERE:
            raise NotHere
        return decode(outcome.kind, outcome.data, outcome.buffers, self, copy=copy)

    def export(self, ref: ObjectRef[Any]) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.exports.export(ref)

    async def cancel(self, ref: ObjectRef[Any] | ObjectRefStream[Any], *, force: bool, recursive: bool) -> bool:
        return await self.on_own_loop(self._cancel(ref, force, recursive))

    async def _cancel(self, ref: ObjectRef[Any] | ObjectRefStream[Any], force: bool, recursive: bool) -> bool:
        if isinstance(ref, ObjectRef) and ref.owner_address:
            return await self.borrows.cancel(ref, force, recursive)
        call = ref._call
        return bool(call is not None and call.cancel(force=force, recursive=recursive))

    async def _cancel_for(self, peer: Peer, body: CancelWork) -> Yes:
        """Handler: another process cancels the work behind an object that this one owns."""
        ref = self.exports.known(body.object)
        try:
            return Yes(ref is not None and await self._cancel(ref, body.force, body.recursive))
        except ValueError as error:
            raise ActorliteError(str(error)) from None

    # --- others that die

    async def why_died(self, process: ProcessId) -> str:
        return await self.node.why_died(process)

    async def worker_lost(self, process: ProcessId) -> None:
        await self.directory.worker_lost(process)

    def peer_lost(self, peer: Peer, error: ConnectionLost | None) -> None:
        """The hub's news: a connection has ended, and everybody who waited on it was told."""
        if peer is self.node.peer:
            if not self.closing:
                self.spawn(self._node_lost(str(error or "the connection was closed here")))
            return
        self.exports.connection_lost(peer)
        if peer.identity.process in self.hub.peers:
            return  # it has another connection
        self.exports.process_lost(peer.identity.process)
        self.stored.client.reader_lost(peer.identity.process)
        self.borrows.peer_lost(peer)
        if peer.identity.role == "worker" and not self.gone:
            self.spawn(self.worker_lost(peer.identity.process))

    async def _node_lost(self, text: str) -> None:
        self.node_ending(await self.node.why_gone(text))

    def node_ending(self, reason: str) -> None:
        """Nothing can be submitted any more. What is under way ends with its workers."""
        if self.gone:
            return
        self.gone = self.node.gone = reason
        if self.shut_down is None:
            self.quiet = True  # a worker ends with its node: nobody is left who could have wanted its results
        self.delays.end()
        self.tasks.fail_all(NodeDiedError, reason)
        self.directory.fail_all(reason)

    # --- the end

    async def aclose(self) -> None:
        """Stop actors in good order, end everything, close all connections. Idempotent; completes when cancelled."""
        if self.closing:
            return
        self.closing = self.quiet = True
        self.tasks.close()
        if not self.gone:
            await self.directory.stop_all(STOP_GRACE_S)
            await self.handover.give()
        self.node_ending("the session was shut down")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.borrows.close(self.gone)
        self.stored.close()
        await self.node.aclose()
        await self.hub.aclose()

    async def on_own_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` on the runtime's loop, whichever loop the caller runs on."""
        if self.in_loop():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def __repr__(self) -> str:
        state = "closed" if self.closing else "broken" if self.gone else "open"
        return f"<Session {self.address} job={self.job} {state}>"
