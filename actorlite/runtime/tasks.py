"""Tasks from the owner's side: leases for each resource shape, calls pipelined to them, retries when a worker dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from actorlite.context import current_call
from actorlite.deadlines import time_left
from actorlite.definitions import FunctionDefinition
from actorlite.errors import (
    ActorliteError,
    ConnectionLost,
    NodeDiedError,
    ObjectLostError,
    Outcome,
    PendingCallsLimitExceeded,
    TaskCancelledError,
    WorkerCrashedError,
)
from actorlite.ids import ProcessId
from actorlite.options import MAX_PENDING_BYTES, MAX_PENDING_CALLS, TaskOptions
from actorlite.refs import Failure, ObjectRef
from actorlite.rpc.peer import Peer
from actorlite.runtime.calls import (
    Dependency,
    Outbound,
    StructuredResult,
    attempted,
    begin_quickly,
    encode_arguments,
    envelope_now,
    fail_with,
    find_sink,
    make_envelope,
    next_attempt,
    take_item,
)
from actorlite.runtime.lineage import Origin, Recipe, origin_of_result
from actorlite.runtime.node_client import NOWHERE, PLAIN, Want
from actorlite.runtime.patience import Patience
from actorlite.runtime.placing import wanted, within
from actorlite.runtime.room import RoomQuota, open_wide, size_of
from actorlite.runtime.streams import OwnStream
from actorlite.runtime.submission import SPECIAL, Submitter, origin_of
from actorlite.state.quota import UNLIMITED, Quota
from actorlite.state.retries import Backoff, after_try, is_retried
from actorlite.state.tasks import TaskPool
from actorlite.wire.calls import HANDED_BACK, LOST_ARGUMENT, STOPPED, Envelope, Failed, Rejected, Reply, TaskCall
from actorlite.wire.failures import decode_failure
from actorlite.wire.messages import encode
from actorlite.wire.nodes import Capacity
from actorlite.wire.requests import Lease, Reclaim
from actorlite.wire.serialize import encode_call

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime
    from actorlite.wire.code import CodeBlob

RETRY_BACKOFF = Backoff(first_s=0.1, cap_s=5.0, free=1)
"""Between an exception and the next attempt; a crash is followed by one at once."""

MAX_LOSSES = 3
"""How often a task is sent again because an argument was lost on its way."""
LINGER_S = 0.05
"""How long an idle lease is kept for the next task: a caller that awaits one task after the other needs no new lease.
The node asks for it back at once when somebody waits.
"""

MAX_CONNECT_FAILURES = 5
"""A worker may die between its lease and our connection; that many in a row mean that something else is wrong."""


class TaskOut(Outbound):
    """One task on its way, through as many attempts as it has."""

    __slots__ = ("blob", "retries", "retry_on", "group", "lease", "forced", "queued", "recipe", "losses")

    blob: CodeBlob
    retries: int
    retry_on: bool | tuple[type[Exception], ...]
    group: LeaseGroup
    lease: int
    forced: bool
    """Whether its worker process shall end with it."""
    queued: bool
    """Whether it waits in the queue of its group."""
    recipe: Recipe | None
    """What it is made from, when it makes a lost value again."""
    losses: int
    """How often a worker found that an argument is lost."""

    def set_out(self, blob: CodeBlob, options: TaskOptions, group: LeaseGroup) -> None:
        """What makes the call a task; once, before anything else."""
        self.blob = blob
        self.retries = options.max_retries
        self.retry_on = options.retry_exceptions
        self.lease = 0
        self.forced = False
        self.queued = False
        self.group = group
        self.recipe = None
        self.losses = 0

    def arguments_ready(self) -> None:
        failure = self.failed_dependency()
        if failure is not None:
            self.end(failure)
            return
        if self.dependencies and self.runtime.node.info.nodes > 1:
            self.group = self.runtime.tasks.group_near(self)
        self.group.submit(self)

    def answered(self, message: Any, parts: Any) -> None:
        group, lease = self.group, self.lease
        if type(message) is Reply:
            super().answered(message, parts)
            group.finished(lease, self)
            return
        if type(message) is Rejected and message.reason == HANDED_BACK and not self.ended:
            self.peer = None
            self.unsent()
            if self.unwanted:
                group.finished(lease, self)
                super().cancel()
            else:
                group.handed_back(lease, self)
            return
        if type(message) is Rejected and message.reason == LOST_ARGUMENT and not self.ended:
            self.peer = None
            self.unsent()
            group.finished(lease, self)
            self._argument_lost(message.text)
            return
        if type(message) is Failed and self.retry_on and not self.ended:
            group.finished(lease, self)
            self._raised(message.failure)
            return
        super().answered(message, parts)
        if self.forced and type(message) is Rejected and message.reason == STOPPED:
            group.end_worker(lease)
        else:
            group.finished(lease, self)

    def origin(self) -> Origin:
        return origin_of_result(self, self.dependencies)

    def once_more(self, ref: ObjectRef[Any], dependencies: Sequence[Dependency], recipe: Recipe) -> None:
        """Run the same task for `ref`, whose value is lost: without a deadline, and for nobody who waits."""
        runtime, old = self.runtime, self.envelope
        envelope = old and Envelope(
            num_returns=old.num_returns, units=old.units, name=old.name, more=old.more, inside=old.inside
        )
        call = TaskOut(runtime, next(runtime.hub.numbers), self.name, ref, self.encoded, dependencies, envelope)
        call.blob, call.group, call.retries, call.retry_on = self.blob, self.group, recipe.left, self.retry_on
        call.lease = call.losses = 0
        call.forced = call.queued = False
        call.recipe = recipe
        ref._call = call
        runtime.tasks.begin(call)

    def _argument_lost(self, text: str) -> None:
        own = [ref for _, ref in self.dependencies if ref._stored is not None or isinstance(ref._outcome, Failure)]
        if not own or self.losses >= MAX_LOSSES or self.unwanted:
            text = f"{self.name}() did not run: {text}"
            self.end(fail_with(ObjectLostError, text, outcome=Outcome.NOT_EXECUTED))
            return
        self.losses += 1
        self.runtime.spawn(self._find_arguments(own))

    async def _find_arguments(self, refs: Sequence[ObjectRef[Any]]) -> None:
        for ref in refs:
            await self.runtime.stored.find_again(ref)
        if not self.ended:
            self.arguments_ready()

    def cancel(self, *, force: bool = False, recursive: bool = True) -> bool:
        self.forced = self.forced or force
        self.retries = 0  # what was cancelled does not run again, however its attempt ends
        return super().cancel(force=force, recursive=recursive)

    def item(self, message: Any, parts: Any) -> None:
        self.retries = 0  # the reader may have seen it: another attempt could tell another story
        take_item(self, message, parts)

    def _raised(self, failure: bytes) -> None:
        """User code raised: try again, if its owner asked for that and the exception is one of those."""
        error = decode_failure(failure)
        attempt = self.envelope.attempt if self.envelope is not None else 0
        if not self.retries or not is_retried(error, self.retry_on) or isinstance(error, TaskCancelledError):
            self.end(attempted(failure, attempt + 1) if attempt else Failure(partial(decode_failure, failure)))
            return
        self.may_have_run = True
        self.retries = after_try(self.retries)
        self.envelope = next_attempt(self.envelope)
        self.peer = None
        self.unsent()
        self.runtime.delays.after(RETRY_BACKOFF.delay_s(attempt + 1, self.runtime.hub.luck()), self._again)

    def _again(self) -> None:
        if not self.ended:
            self.group.submit_again(self)

    def lost(self, error: ConnectionLost) -> None:
        # The worker ran its calls in order, so the oldest one is taken to be what it died of. Those behind it are run
        # again without being charged for it, if they may run twice at all.
        oldest = self.group.worker_lost(self.lease)
        if self.ended:
            return
        self.unsent()
        peer, self.peer = self.peer, None
        unsent = error.outcome is Outcome.NOT_EXECUTED
        self.may_have_run = self.may_have_run or not unsent
        if unsent and self.unwanted and not self.runtime.gone:
            super().cancel()
            return
        if self.runtime.gone or not (unsent or self.retries):
            self.runtime.spawn(self._crashed(peer)).add_done_callback(self._crash_said)
            return
        if oldest and not unsent:
            self.retries = after_try(self.retries)
            self.envelope = next_attempt(self.envelope)
        self.group.submit_again(self)

    def withdraw(self) -> None:
        self.group.withdraw(self)

    async def _crashed(self, peer: Peer | None) -> None:
        text = self.runtime.gone or (
            await self.runtime.why_died(peer.identity.process) if peer else "its worker is gone"
        )
        self._end_crashed(text)

    def _crash_said(self, saying: asyncio.Task[None]) -> None:
        """However that went: also when the end of the session has cancelled it."""
        if not self.ended:
            self._end_crashed(self.runtime.gone or "its worker is gone")

    def _end_crashed(self, text: str) -> None:
        if self.ended:
            return  # its caller gave it up meanwhile
        kind = NodeDiedError if self.runtime.gone else WorkerCrashedError
        attempts = (self.envelope.attempt if self.envelope else 0) + 1
        self.end(
            fail_with(
                kind,
                f"{self.name}() was running, or about to, when its worker died ({Outcome.UNKNOWN.value}, attempt "
                f"{attempts}, no retry left): {text}",
                outcome=Outcome.UNKNOWN,
            )
        )


class LeaseGroup:
    """The tasks and leases of one resource shape, which prefer one node."""

    def __init__(self, runtime: ProcessRuntime, want: Want, near: ProcessId) -> None:
        self.runtime = runtime
        self.want = want
        self.near = near
        info = runtime.node.info
        self.pool: TaskPool[TaskOut] = TaskPool(want.room(info.cpu_units, info.more))
        self.patience = Patience(self) if want.timeout_s is not None else None
        self.peers: dict[int, Peer] = {}
        self.requests: dict[int, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        """Leased workers in a row that could not be reached."""

    # --- events

    def capacity_changed(self, capacity: Capacity) -> None:
        self.pool.max_requests = self.want.room(capacity.cpu_units, capacity.more)
        self.pump()

    def submit(self, call: TaskOut) -> None:
        call.queued = True
        if self.patience is not None:
            self.patience.begin(call)
        if self.pool.submit(call):
            self.pump()

    def submit_again(self, call: TaskOut) -> None:
        call.queued = True
        if self.patience is not None:
            self.patience.begin(call)
        self.pool.submit_again(call)
        self.pump()

    def finished(self, lease: int, call: TaskOut) -> None:
        pool = self.pool
        following = pool.finished(lease, call, self.runtime.loop.time())
        if pool.leaving:
            self._return(pool.left())
        if pool.queue or following is not None:
            if following is not None:
                self._send(lease, following)
            if following is None or pool.waiting <= pool.max_requests:
                self.pump()
        elif self._timer is None and not self.runtime.closing:
            self._timer = self.runtime.loop.call_later(LINGER_S, self._linger_over)

    def handed_back(self, lease: int, call: TaskOut) -> None:
        call.queued = True
        if self.patience is not None:
            self.patience.begin(call)
        self.pool.handed_back(lease, call)
        self._return(self.pool.left())
        self.pump()

    def worker_lost(self, lease: int) -> bool:
        peer = self.peers.pop(lease, None)
        if peer is not None and not self.runtime.closing:
            self.runtime.spawn(self._give_up(lease, peer.identity.process))
        worker = self.pool.lost(lease)
        return worker is not None and not worker.drained

    def end_worker(self, lease: int) -> None:
        """The worker has handed back what it did not run, and is to end."""
        self.peers.pop(lease, None)
        if self.pool.lost(lease) is not None:
            self.runtime.node.return_lease(lease, reuse=False)
        self.pump()

    async def _give_up(self, lease: int, process: ProcessId) -> None:
        """Return the lease of a worker that we lost, in case only the connection broke and it lives on."""
        await self.runtime.why_died(process)
        self.runtime.node.return_lease(lease, reuse=False)

    def withdraw(self, call: TaskOut) -> None:
        if call.queued:
            call.queued = False
            if self.patience is not None:
                self.patience.end(call)
            self.pool.withdraw(call)
        self.pump()

    def reclaim(self) -> None:
        """Somebody else waits for room: give back what is idle."""
        self._return(self.pool.idle(self.runtime.loop.time(), 0))

    def ask_back(self, lease: int, drained: bool) -> None:
        """The node wants a lease back, though there is more to run: as soon as what runs there has ended."""
        self.pool.ask_back(lease, drained=drained)
        self._return(self.pool.left())
        self.pump()

    # --- effects

    def pump(self) -> None:
        """Send what can be sent, ask for what is missing."""
        for lease, call in self.pool.assign(self.runtime.loop.time()):
            self._send(lease, call)
        wanted = self.pool.requests_wanted()
        if wanted > 0:
            for _ in range(wanted):
                number = next(self.runtime.hub.numbers)
                self.pool.requested += 1
                label = self.pool.queue[0].name
                self.requests[number] = self.runtime.spawn(self._lease(number, label))
        elif wanted < 0:
            surplus = tuple(self.requests)[wanted:]
            self.runtime.node.withdraw(surplus)

    def fail_all(self, kind: Callable[..., BaseException], text: str) -> None:
        """Nothing that waits here will run; some of it may have, in an attempt before."""
        for call in self.pool.drain():
            call.queued = False
            if self.patience is not None:
                self.patience.end(call)
            outcome = Outcome.UNKNOWN if call.may_have_run else Outcome.NOT_EXECUTED
            call.end(Failure(partial(kind, text, outcome=outcome)))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.patience is not None:
            self.patience.close()

    def _send(self, lease: int, call: TaskOut) -> None:
        peer = self.peers.get(lease)
        call.queued = False
        if self.patience is not None:
            self.patience.end(call)
        call.lease = lease
        call.peer = peer
        try:
            if peer is None:
                raise ConnectionLost("its worker is gone", outcome=Outcome.NOT_EXECUTED)
            self.runtime.code.ensure_sent(peer, call.blob, self.runtime.hub.identity.address)
            args, slots, parts = call.compose()
            message = TaskCall(call.number, call.blob.digest, args, envelope_now(call), slots)
            peer.call(call.number, call, encode(message), *parts)
        except ConnectionLost as error:
            call.lost(error)

    async def _lease(self, number: int, label: str) -> None:
        runtime = self.runtime
        lease: Lease | None = None
        try:
            lease = await runtime.node.lease(number, self.want, "task", label, self.near)
            if lease is None:
                self._forget(number)
                self.pump()  # a task may have come after the request was taken back
                return
            peer = await runtime.hub.connect(lease.address)
        except ActorliteError as error:
            self._forget(number)
            if lease is not None:
                self._failures += 1
                runtime.node.return_lease(lease.lease, reuse=False)
            if lease is None or self._failures >= MAX_CONNECT_FAILURES:
                self.fail_all(type(error), str(error))
            else:
                self.pump()
            return
        except asyncio.CancelledError:
            self._forget(number)
            if lease is not None:
                runtime.node.return_lease(lease.lease)
            raise
        self._forget(number)
        self._failures = 0
        self.peers[lease.lease] = peer
        self.pool.granted(lease.lease, runtime.loop.time())
        if self.pool.queue:
            self.pump()
        else:
            self._return(self.pool.idle(runtime.loop.time(), 0))

    def _forget(self, number: int) -> None:
        if self.requests.pop(number, None) is not None:
            self.pool.requested -= 1

    def _linger_over(self) -> None:
        self._timer = None
        now = self.runtime.loop.time()
        self._return(self.pool.idle(now, LINGER_S * 0.9))
        idle = any(not worker.in_flight for worker in self.pool.leases.values())
        if idle and not self.runtime.closing:
            self._timer = self.runtime.loop.call_later(LINGER_S, self._linger_over)

    def _return(self, leases: list[int]) -> None:
        for lease in leases:
            self.peers.pop(lease, None)
            self.runtime.node.return_lease(lease)


class TaskSubmitter(Submitter[FunctionDefinition, TaskOptions, TaskOut]):
    """All tasks that this process submitted, grouped by resource shape."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime
        self._groups: dict[tuple[Want, ProcessId], LeaseGroup] = {}
        self._plain: LeaseGroup | None = None
        """Of tasks that need one CPU and nothing else, wherever it is."""
        self.quota: RoomQuota = Quota(MAX_PENDING_CALLS, MAX_PENDING_BYTES)

    def call(
        self, what: FunctionDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: TaskOptions
    ) -> Any:
        if options.is_plain and not kwargs:
            ref = self._call_quickly(what, args, options)
            if ref is not None:
                return ref
        return super().call(what, args, kwargs, options)

    def _call_quickly(
        self, definition: FunctionDefinition, args: tuple[Any, ...], options: TaskOptions
    ) -> ObjectRef[Any] | None:
        """What `call` does for most calls, in fewer steps. None when this is none of them, and nothing was done."""
        runtime, quota = self.runtime, self.quota
        origin = origin_of(runtime, args)
        if origin is SPECIAL:
            return None
        blob = runtime.code.blob_of(definition)
        encoded = encode_call(args, {})
        size = len(encoded.data)
        if encoded.buffers or not quota.fits(size):
            return None
        number = next(runtime.hub.numbers)
        ref: ObjectRef[Any] = ObjectRef(runtime, number)
        envelope = None if origin is None else origin.envelope
        call = TaskOut(runtime, number, definition.name, ref, encoded, (), envelope)
        call.set_out(blob, options, self._plain or self._group(PLAIN))
        begin_quickly(call, ref, quota, size, origin)
        call.group.submit(call)
        return ref

    def make(
        self,
        what: FunctionDefinition,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        *,
        structured: bool = False,
        sink: StructuredResult | OwnStream | None = None,
    ) -> tuple[TaskOut, Any]:
        runtime = self.runtime
        runtime.check_open()
        blob = runtime.code.blob_of(what)
        encoded, dependencies = encode_arguments(args, kwargs, runtime, options.name or what.name)
        scope = current_call.get()
        want, inside = wanted(options, scope, options.name or what.name)
        envelope = make_envelope(
            scope,
            structured=structured,
            timeout=time_left(options.timeout, runtime.loop.time()) if structured else options.timeout,
            num_returns=options.num_returns,
            name=options.name or "",
            request=want.needs,
        )
        number, result, where = find_sink(runtime, sink, options.num_returns)
        envelope = within(envelope, inside)
        call = TaskOut(runtime, number, options.name or what.name, where, encoded, dependencies, envelope)
        call.set_out(blob, options, self._group(want))
        call.size = size_of(encoded)
        return call, result

    def begin(self, call: TaskOut) -> None:
        if self.runtime.gone:
            call.end(fail_with(NodeDiedError, self.runtime.gone, outcome=Outcome.NOT_EXECUTED))
            return
        call.begin()
        if not call.missing and not call.ended:
            call.arguments_ready()

    def too_many(self, call: TaskOut) -> PendingCallsLimitExceeded:
        quota = self.quota
        return PendingCallsLimitExceeded(
            f"this process already has {quota.calls} pending tasks ({quota.bytes} bytes of arguments): await "
            f"some first, or write `await {call.name}.submit(...)`, which waits for room"
        )

    def reclaim(self) -> None:
        """Give back leases without work."""
        for group in list(self._groups.values()):
            group.reclaim()

    def asked_back(self, peer: Peer, message: Reclaim, parts: Sequence[memoryview]) -> None:
        """Handler: somebody waits for what leases hold."""
        if not message.leases:
            self.reclaim()
        for lease in message.leases:
            for group in list(self._groups.values()):
                group.ask_back(lease, message.drained)
            if message.drained:
                self.runtime.maker.drained(lease)

    def fail_all(self, kind: Callable[..., BaseException], text: str) -> None:
        """Nothing that waits for a worker will run."""
        for group in list(self._groups.values()):
            group.fail_all(kind, text)
        open_wide(self.quota, UNLIMITED)

    def close(self) -> None:
        for group in list(self._groups.values()):
            group.close()

    def capacity_changed(self, peer: Peer, message: Capacity, parts: Sequence[memoryview]) -> None:
        """Handler: nodes came or went."""
        node = self.runtime.node
        node.info = structs.replace(node.info, cpu_units=message.cpu_units, nodes=message.nodes, more=message.more)
        for group in list(self._groups.values()):
            group.capacity_changed(message)

    def group_near(self, call: TaskOut) -> LeaseGroup:
        """For a call whose arguments are ready: those that are large draw it to the node where most of them lie."""
        weights: dict[ProcessId, int] = {}
        for _, ref in call.dependencies:
            if ref._stored is not None:
                stored = ref._stored.stored
                weights[stored.node] = weights.get(stored.node, 0) + stored.size
        if not weights:
            return call.group
        return self._group(call.group.want, max(weights, key=lambda node: weights[node]))

    def _group(self, want: Want, near: ProcessId = NOWHERE) -> LeaseGroup:
        group = self._groups.get((want, near))
        if group is None:
            group = self._groups.setdefault((want, near), LeaseGroup(self.runtime, want, near))
        if want is PLAIN and near is NOWHERE:
            self._plain = group
        return group

    def __repr__(self) -> str:
        return f"<TaskSubmitter {', '.join(f'{group.want.needs}: {group.pool!r}' for group in self._groups.values())}>"
