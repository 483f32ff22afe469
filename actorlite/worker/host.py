"""A worker: it hosts actors and runs tasks, and has a runtime of its own.

The loop takes messages and runs coroutines; plain functions run in threads. Calls start in mailbox order. User code
never runs on the main thread except as coroutines, and the loop never waits for a thread. The same object is a worker
process's whole inside, and an in-process worker in the caller's loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from actorlite.errors import ConnectionLost, ObjectLostError
from actorlite.host import Entropy, WorkerSpec
from actorlite.rpc.handshake import PYTHON
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
from actorlite.runtime.node_client import NodeClient
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.transport import Address, Transport
from actorlite.wire.calls import ActorCall, CallerWaits, Cancel, CreateActor, EndActor, TaskCall
from actorlite.wire.messages import Identity
from actorlite.wire.requests import NodeInfo, RegisterWorker, Retire, StopActor, Yes
from actorlite.wire.serialize import STORED
from actorlite.worker.actors import ActorShelf
from actorlite.worker.inbound import InboundCall, stop_stream
from actorlite.worker.interrupts import end_waits, stop_plain
from actorlite.worker.repeats import Repeats
from actorlite.worker.runner import Runner
from actorlite.worker.scope import cancel_children
from actorlite.worker.streaming import Producers
from actorlite.worker.tasks import TaskLane

logger = logging.getLogger("actorlite.worker")

END_GRACE_S = 5.0
"""How long the end of a worker waits for coroutines that were cancelled. A process is killed by then."""


class Worker:
    """Made by `start`. `on_end` is called once, when the node is gone: the worker has no reason to live on."""

    runtime: ProcessRuntime
    repeats: Repeats
    runner: Runner
    producers: Producers
    tasks: TaskLane
    actors: ActorShelf

    def __init__(
        self,
        spec: WorkerSpec,
        entropy: Entropy,
        pid: int,
        on_end: Callable[[str], None],
        transports: Callable[[Address], Transport] | None = None,
    ) -> None:
        self.spec = spec
        self.loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._started = False
        self._handlers = Handlers()
        identity = Identity(spec.process, "worker", "", pid, PYTHON)
        self.hub = Hub(
            identity, spec.token, entropy, self._handlers, on_peer_lost=self._peer_lost, transports=transports
        )

    async def start(self) -> None:
        """Listen, then register with the node: from then on calls may come."""
        await self.hub.listen(self.spec.listen)
        node = await self.hub.connect(self.spec.node)
        self.hub.belongs_to(node)
        client = NodeClient(self.hub, node, NodeInfo(node.identity.pid, 0, ""))
        self.runtime = ProcessRuntime(
            self.hub, client, job=self.spec.job, namespace=self.spec.namespace, address=self.spec.node
        )
        self.runtime.install(self._handlers)
        self.repeats = Repeats(self)
        self.runner = Runner(self)
        self.producers = Producers(self)
        self.tasks = TaskLane(self)
        self.actors = ActorShelf(self)
        self._started = True
        self._handlers.on_messages(
            {
                TaskCall: self.tasks.arrived,
                ActorCall: self.actors.arrived,
                CallerWaits: self.actors.turns.admission.caller_waits,
                CreateActor: self.actors.create,
                EndActor: self.actors.end,
                Cancel: self._cancel,
            }
        )
        self._handlers.on_requests({StopActor: self.actors.stop, Retire: self._retire})
        info = await node.request(next(self.hub.numbers), RegisterWorker())
        if isinstance(info, NodeInfo):
            client.info = info

    async def aclose(self) -> None:
        """Drop everything: running calls are cancelled, nobody is told anything but the end of the connection."""
        if not self._started:
            await self.hub.aclose()
            return
        self.tasks.close()
        self.actors.close()
        self.runtime.quiet = True
        if running := [*self.runner.cancel_all(), *self.actors.endings.close()]:
            _, deaf = await asyncio.wait(running, timeout=END_GRACE_S)
            for task in deaf:
                logger.error("%r goes on although it was cancelled, and its worker ends without it", task)
        self.runtime.node_ending("the worker ends")
        await self.runtime.aclose()

    async def fetch_slots(self, call: InboundCall) -> None:
        """Get the arguments that other processes own, and those that lie in the store. Raises what they failed with."""
        if not await self._open_stored(call):
            await self._open_stored(call)
        fetched: dict[int | str, Any] = {}
        refs = []
        for slot in call.foreign_slots:
            assert slot.ref is not None
            refs.append((slot.position, self.runtime.import_ref(*slot.ref)))
        for position, ref in refs:
            fetched[position] = await ref
        call.fetched = fetched

    async def _open_stored(self, call: InboundCall) -> bool:
        """False when some were lost, and are to be fetched from their owner."""
        stored = {place: payload for place, payload in enumerate(call.payloads) if payload.kind == STORED}
        try:
            call.opened = await self.runtime.stored.open_all(stored) if stored else None
        except ObjectLostError as error:
            # A call of an actor keeps its turn while its argument is made again. A task is sent once more by its
            # owner, and does not hold a CPU meanwhile.
            if call.actor is None or not call.ask_for_stored():
                raise
            error.__traceback__ = None  # it knows our frames, and through them what is fetched next
            return False
        return True

    def cancel_call(self, call: InboundCall, *, force: bool = False, recursive: bool = True) -> None:
        """Stop a call and what it submitted: one that waits never runs, a coroutine is cancelled, plain code is told,
        and interrupted if it goes on. `force` ends the process of a running task."""
        first = not call.cancelled
        call.cancelled = True
        if recursive:
            call.cascades = True
            cancel_children(call)
        if self.tasks.withdraw(call) if call.actor is None else self.actors.turns.withdraw(call):
            return
        end_waits(call)
        if force and call.actor is None:
            self.tasks.end_with(call)
        elif first and call.task is not None:
            call.task.cancel()
        elif first and not stop_stream(call):
            stop_plain(call)

    # --- handlers

    def _cancel(self, peer: Peer, message: Cancel, parts: Sequence[memoryview]) -> None:
        # The call came earlier on this connection, so one that is not known has been answered.
        call = peer.inbound.get(message.id)
        if call is not None:
            self.cancel_call(call, force=message.force, recursive=message.recursive)

    async def _retire(self, peer: Peer, body: Retire) -> Yes:
        if body.orphaned:
            await asyncio.gather(self.tasks.end_all(), self.runtime.handover.give())
        return Yes(not self.runtime.exports.is_needed and not len(self.actors))

    def _peer_lost(self, peer: Peer, error: ConnectionLost | None) -> None:
        runtime = getattr(self, "runtime", None)
        if runtime is None:
            return
        runtime.peer_lost(peer, error)
        if peer is runtime.node.peer:
            self._on_end(f"the node is gone: {error}")
            return
        self.tasks.peer_lost(peer)
        for call in list(peer.inbound.values()):
            # Whoever waited for it is gone, and so is the reader of a stream. What else was submitted with `.remote()`
            # runs on: nobody was to wait for it.
            envelope = call.envelope
            if envelope is not None and (envelope.structured or envelope.window) and not envelope.execution:
                self.cancel_call(call)  # one with retries may be asked for again, over another connection
        self.actors.caller_lost(peer)
        if peer.identity.process not in self.hub.peers:
            self.actors.creator_lost(peer.identity.process)

    def __repr__(self) -> str:
        return f"<Worker {self.spec.process} {self.tasks!r} {self.actors!r}>"
