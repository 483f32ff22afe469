"""Running user code: coroutines on the loop, plain functions in threads, each in a context of its own.

Whoever starts a call gives a `done` function; it is called on the loop, once, with the answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from actorlite.context import current_runtime
from actorlite.errors import Outcome, ProtocolError
from actorlite.rpc.peer import Peer
from actorlite.runtime.payloads import pack
from actorlite.runtime.stored import as_ours
from actorlite.transport import Buffer
from actorlite.wire.calls import EXPIRED, Failed, Reply
from actorlite.wire.failures import encode_failure
from actorlite.wire.messages import encode
from actorlite.wire.objects import decode_stored
from actorlite.worker.coroutines import Coroutines, Done, enter_call, is_late
from actorlite.worker.executor import ThreadExecutor
from actorlite.worker.inbound import Answer, InboundCall, LargeValue
from actorlite.worker.interrupts import run_interruptibly
from actorlite.worker.scope import HostedActor, RunningCall, cancel_children

if TYPE_CHECKING:
    from actorlite.worker.host import Worker

BURST = 8
"""Calls that end in threads while the loop is on its way to see to one: then it comes again by itself for a while.
Each time it is woken it takes the interpreter's lock from the thread that works."""
COME_BY_S = 0.001

SENT: Answer = ((), ())
"""Stands for an answer that went out already."""


class Runner:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = worker.loop
        self._base = Context()
        self._base.run(current_runtime.set, worker.runtime)
        self.coroutines = Coroutines(worker.loop, self._base)
        self.storing: dict[HostedActor | None, int] = {}
        """By actor: results that are being copied into the store, before they are answered."""
        self._running: dict[asyncio.Task[None], tuple[Done, InboundCall]] = {}
        """Tasks of ours, and what they were made for."""
        self._ended: deque[tuple[Done, InboundCall, Answer]] = deque()
        self._wake_up_sent = False
        self._comes_by = False
        """Whether the loop looks for ended calls every `COME_BY_S`, so that threads need not wake it."""
        self._silent = False

    def context_for(self, call: RunningCall) -> Context:
        """A call sees the runtime, itself and what came with it; nothing of the call before it."""
        context = self._base.copy()
        context.run(enter_call, call)
        return context

    # --- on the loop

    def start_coroutine(self, call: InboundCall, function: Callable[..., Any], done: Done) -> None:
        """Decode the arguments and run a coroutine function."""
        self.coroutines.start(call, function, done)

    def start_plain(
        self, call: InboundCall, find: Callable[[], Callable[..., Any]], executor: ThreadExecutor, done: Done
    ) -> None:
        """Decode the arguments and run a plain function in a thread; `find` gives it, there, unless `call.function` is
        set."""
        call.task = None
        executor.submit(partial(self._run_plain, call, find, executor, done))

    def start_work(self, call: InboundCall, work: Any, done: Done) -> None:
        """Run a coroutine of ours for a call, cancelled with it. It calls `done` itself, unless it never ran."""
        self._own(call, work, done)

    async def run_hook(self, hook: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine of the user's that belongs to no call. Raises what it raises."""
        await self._loop.create_task(hook, context=self._base.copy())

    def deliver(self, call: InboundCall, answer: Answer) -> None:
        """Send an answer; first let the owners of references that came with the call know that they are held here."""
        peer = call.peer
        if peer.inbound.get(call.id) is call:
            del peer.inbound[call.id]
        if call.written is not None and answer is not SENT:
            self._worker.runtime.stored.client.slabs.say()
            if call.written.answer is not answer:
                call.written.drop()
            elif not peer.is_open:
                if call.is_repeatable:
                    self._worker.runtime.stored.client.reader_lost(peer.identity.process)
                else:
                    call.written.drop()
        if call.cascades:
            cancel_children(call)  # those that it submitted after it was told
        if self._worker.repeats.running:
            self._worker.repeats.not_run(call)
        if answer is SENT or self._silent:
            return
        self.answer(peer, call.id, answer, call.actor)

    def answer(self, peer: Peer, number: int, answer: Answer, actor: HostedActor | None = None) -> None:
        if type(answer[0]) is LargeValue:
            self.storing[actor] = self.storing.get(actor, 0) + 1
            self._worker.runtime.spawn(_store_and_answer(self._worker, peer, number, answer[0], answer[1], actor))
            return
        borrows = self._worker.runtime.borrows
        if borrows.unregistered:
            borrows.when_registered(partial(self._send, peer, number, answer))
        elif answer[1]:
            self._send(peer, number, answer)
        else:
            self._tell(peer, number, answer[0])

    def _tell(self, peer: Peer, number: int, parts: Sequence[Buffer]) -> None:
        try:
            peer.tell(*parts)
        except ProtocolError as error:
            # What the format cannot express was refused where it was packed; the caller must hear of it all the same.
            peer.tell(encode(Failed(number, encode_failure(error, "worker"))))

    def cancel_all(self) -> list[asyncio.Task[None]]:
        """The worker ends: its callers learn that from their connections, not from what its end does to user code."""
        self._silent = True
        for task in self._running:
            task.cancel()
        return [*self._running, *self.coroutines.cancel_all()]

    def _own(self, call: InboundCall, work: Any, done: Done) -> None:
        if self._silent:
            work.close()
            return
        task = self._loop.create_task(work, context=self.context_for(call))
        call.task = task
        self._running[task] = (done, call)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        done, call = self._running.pop(task)
        if task.cancelled():
            # Before its first step: nothing of it has run, so it could not say that it is done.
            done(call, call.cancellation())

    def _send(self, peer: Peer, call: int, answer: Answer) -> None:
        if not peer.is_open:
            return
        parts, handles = answer
        if handles:
            self._worker.runtime.exports.hold_for_reply(peer, call, handles)
        peer.tell(*parts)

    # --- in threads

    def _run_plain(
        self, call: InboundCall, find: Callable[[], Callable[..., Any]], executor: ThreadExecutor, done: Done
    ) -> None:
        if not call.claim():
            return  # the loop took it back, and has answered
        answer = run_interruptibly(call, self._base.copy(), self._call_plain, find) or call.stopped()
        if call.written is not None and call.written.answer is not answer:
            call.written.drop()
        # The last call of a burst is answered from here; what else its end means can wait until the loop is up anyway.
        # Not one that tells of a value in the store: the node has to hear of that first, from the loop.
        at_once = executor.is_idle and len(answer[0]) == 1 and call.written is None and call.may_answer_at_once(answer)
        sent = at_once and call.peer.send_from_thread(*answer[0])
        self._ended.append((done, call, SENT if sent else answer))
        if sent and not call.others_wait and call.written is None:
            return
        # In a burst the loop comes by itself. It looks at what has ended after it said that it comes no more, and this
        # was noted before it was asked: so nothing is left lying.
        if not self._comes_by or executor.is_idle:
            self._wake_loop()

    def ended_in_thread(self, done: Done, call: InboundCall, answer: Answer) -> None:
        """A call that ran in a thread without `start_plain` has ended there: `done` follows on the loop."""
        self._ended.append((done, call, answer))
        self._wake_loop()

    def _wake_loop(self) -> None:
        if not self._wake_up_sent:
            self._wake_up_sent = True
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._collect)

    def _call_plain(self, call: InboundCall, find: Callable[[], Callable[..., Any]]) -> Answer:
        if is_late(call):
            return call.rejection(EXPIRED)
        try:
            enter_call(call)
            function = call.function or find()
            args, kwargs = call.arguments()
            return call.success(function(*args, **kwargs))
        except asyncio.CancelledError as error:
            return call.stopped() if call.cancelled else call.failure(error)
        except BaseException as error:
            # SystemExit too: a thread that ends does not end the process, and its caller must hear of it.
            return call.failure(error)

    def collect_ended(self) -> None:
        """See to calls that were answered from their thread; whoever asks what runs now must do this first."""
        if self._ended:
            self._collect()

    def _collect(self) -> None:
        # Cleared first: a thread that appends from now on wakes the loop again.
        self._wake_up_sent = False
        ended = self._ended
        count = 0
        while ended:
            done, call, answer = ended.popleft()
            done(call, answer)
            count += 1
        if count >= BURST and not self._comes_by and not self._silent:
            self._comes_by = True
            self._loop.call_later(COME_BY_S, self._come_by)

    def _come_by(self) -> None:
        if self._ended and not self._silent:
            self._collect()
            self._loop.call_later(COME_BY_S, self._come_by)
            return
        self._comes_by = False
        self.collect_ended()


async def _store_and_answer(
    worker: Worker,
    peer: Peer,
    number: int,
    large: LargeValue,
    handles: Sequence[object],
    actor: HostedActor | None,
) -> None:
    """A result that the loop must not copy itself."""
    stored = worker.runtime.stored
    try:
        encoded = await stored.write_for(large.encoded, peer.identity.process)
    except Exception as reason:
        error = as_ours(reason)
        error.outcome = Outcome.EXECUTED
        failed = (encode(Failed(number, encode_failure(error, "worker"))),), ()
        worker.runner.answer(worker.repeats.stored(large, peer, failed), number, failed)
        return
    finally:
        storing = worker.runner.storing
        storing[actor] -= 1
        if not storing[actor]:
            del storing[actor]
            if actor is not None:
                # After the answer: it may be all that the actor's end waits for.
                worker.loop.call_soon(worker.actors.endings.idle, actor)
    payload, _ = pack(encoded, worker.hub.identity.address)
    answer = (encode(Reply(number, payload)),), handles
    peer = worker.repeats.stored(large, peer, answer)
    if peer.is_open:
        worker.runner.answer(peer, number, answer)
    elif large.repeat is None:
        stored.client.dropped(decode_stored(encoded.data))  # nobody is there who could own it
    else:
        stored.client.reader_lost(peer.identity.process)  # it may come again, and ask for it
