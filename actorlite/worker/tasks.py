"""The worker's tasks: one at a time, in order, and never stuck behind one another.

A lease pays for one task at a time. Calls that were pipelined behind one that takes long, or that waits for others, go
back to their owner, who runs them elsewhere; so a task may wait for one that was sent after it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from actorlite.errors import ObjectLostError
from actorlite.rpc.peer import Peer
from actorlite.state.mailbox import Mailbox
from actorlite.wire.calls import HANDED_BACK, LOST_ARGUMENT, STOPPED
from actorlite.worker.executor import ThreadExecutor
from actorlite.worker.functions import TaskFunctions
from actorlite.worker.inbound import Answer, InboundCall

if TYPE_CHECKING:
    from actorlite.worker.host import Worker

HAND_BACK_S = 0.01
"""How long tasks may sit behind a running one before their owner gets them back."""

BLOCKED_S = 0.002
"""How long a task may wait for others before its CPU is lent out: shorter waits are not worth two messages."""


class TaskLane:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = worker.loop
        self.mailbox: Mailbox[InboundCall] = Mailbox(chain=True)
        self._executor = ThreadExecutor(1, "actorlite-task")
        self.functions = TaskFunctions(worker, self._executor)
        self._started: dict[InboundCall, None] = {}
        """The running call, and behind it those that are queued in the thread."""
        self._hand_back_timer: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._blocked_timer: asyncio.TimerHandle | None = None
        self._lent = False
        self._ending = False
        """Whether the process is to end, and runs no more tasks."""
        self._all_ended = asyncio.Event()
        """For `end_all`."""

    def arrived(self, peer: Peer, message: Any, parts: Any) -> None:
        """Handler of `TaskCall`."""
        call = InboundCall(self._worker, peer, message, parts, None, "")
        peer.inbound[call.id] = call
        if self._ending:
            self._worker.runner.deliver(call, call.rejection(HANDED_BACK))
            return
        started = self.mailbox.offer(call)
        # After the offer: a task that is answered from its thread looks for those that wait once it is noted here.
        self._worker.runner.collect_ended()
        if started:
            self._start(call)
            if len(self._started) == 1:
                return
        if self._lent:
            self._hand_back()
        elif self._hand_back_timer is None:
            self._hand_back_timer = self._loop.call_later(HAND_BACK_S, self._stuck, self._oldest)

    def withdraw(self, call: InboundCall) -> bool:
        """Cancel a task that has not started; False when it has."""
        if call in self._started:
            if call.task is None and call.claim():
                self._done(call, call.cancellation())
                return True
            return False
        following = self.mailbox.remove(call)
        self._worker.runner.deliver(call, call.cancellation())
        for each in following:
            self._start(each)
        return True

    def end_with(self, call: InboundCall) -> None:
        """The owner wants the process to end with this running task: say so, and give back all others. The owner then
        returns the worker to its node, which ends it."""
        text = f"was cancelled with force=True while it ran, and its worker (pid {self._worker.hub.identity.pid}) ended"
        self._ending = True
        self._worker.runner.deliver(call, call.rejection(STOPPED, text))
        self._hand_back()

    async def end_all(self) -> None:
        """The owner is gone, and the process will end: cancel all tasks and return when they have ended."""
        self._ending = True
        for call in self.mailbox.withdraw(lambda each: True):
            call.peer.inbound.pop(call.id, None)
        self._all_ended.clear()
        for call in list(self._started):
            self._worker.cancel_call(call)
        if self._started:
            await self._all_ended.wait()

    def waits(self, change: int) -> None:
        """The running task begins (1) or ends (-1) to wait for others. From any thread."""
        if self._worker.runtime.in_loop():
            self._waits(change)
        else:
            self._loop.call_soon_threadsafe(self._waits, change)

    def peer_lost(self, peer: Peer) -> None:
        """Nobody wants the tasks of a process that is gone."""
        for call in self.mailbox.withdraw(lambda each: each.peer is peer):
            peer.inbound.pop(call.id, None)
        for call in [each for each in self._started if each.peer is peer]:
            self._worker.cancel_call(call)

    def close(self) -> None:
        for timer in (self._hand_back_timer, self._blocked_timer):
            if timer is not None:
                timer.cancel()
        for call in self._started:
            call.worker_ends()
        self._executor.close()

    # --- running

    def _start(self, call: InboundCall) -> None:
        self._started[call] = None
        worker = self._worker
        if call.must_fetch:
            worker.runner.start_work(call, self._fetch_and_start(call), self._done)
            return
        self._start_now(call)

    def _start_now(self, call: InboundCall) -> None:
        functions = self.functions
        kind = functions.kind(call.message.code)
        if kind is None:
            call.task = None
            functions.build(call, self._built)
        elif kind is True:
            self._worker.runner.start_coroutine(call, functions.find(call), self._done)
        elif kind is False:
            self._worker.runner.start_plain(call, lambda: functions.find(call), self._executor, self._done)
        else:
            self._worker.producers.start(call, kind, lambda: functions.find(call), self._executor, self._done)

    def _built(self, call: InboundCall, answer: Answer | None) -> None:
        if call not in self._started:
            return  # it was cancelled meanwhile, and has been answered
        if answer is not None:
            self._done(call, answer)
        else:
            self._start_now(call)

    async def _fetch_and_start(self, call: InboundCall) -> None:
        try:
            await self._worker.fetch_slots(call)
        except ObjectLostError as error:
            self._done(call, call.rejection(LOST_ARGUMENT, str(error)))
        except asyncio.CancelledError:
            self._done(call, call.cancellation())
        except BaseException as error:
            self._done(call, call.failure(error))
        else:
            self._start_now(call)

    def _done(self, call: InboundCall, answer: Answer) -> None:
        if call is self._oldest:  # the one that ran; else it was cancelled behind it
            if self._lent:
                self._lent = False
                self._worker.runtime.node.blocked(False)
            self._waiting = 0
        self._started.pop(call, None)
        if not self._started:
            self._all_ended.set()
        if call.peer.inbound.get(call.id) is call:  # else it was answered when the process was to end with it
            self._worker.runner.deliver(call, answer)
        for following in self.mailbox.finished(call):
            self._start(following)

    # --- not in the way of others

    def _stuck(self, call: InboundCall | None) -> None:
        self._hand_back_timer = None
        self._worker.runner.collect_ended()
        if self._oldest is call:
            self._hand_back()
        elif self.mailbox.waiting or len(self._started) > 1:
            self._hand_back_timer = self._loop.call_later(HAND_BACK_S, self._stuck, self._oldest)

    @property
    def _oldest(self) -> InboundCall | None:
        return next(iter(self._started), None)

    def _hand_back(self) -> None:
        """Give everything back that does not run, newest first: the owner puts each at the front of its queue."""
        behind = [call for call in list(self._started)[1:] if call.task is None and call.claim()]
        waiting = self.mailbox.withdraw(lambda each: True)
        for call in reversed([*behind, *waiting]):
            self._worker.runner.deliver(call, call.rejection(HANDED_BACK))
        for call in behind:
            del self._started[call]
            self.mailbox.finished(call)

    def _waits(self, change: int) -> None:
        self._worker.runner.collect_ended()
        if not self._started:
            return
        self._waiting = max(0, self._waiting + change)
        if self._waiting and not self._lent and self._blocked_timer is None:
            self._blocked_timer = self._loop.call_later(BLOCKED_S, self._lend)
        elif not self._waiting and self._lent:
            self._lent = False
            self._worker.runtime.node.blocked(False)

    def _lend(self) -> None:
        self._blocked_timer = None
        if self._waiting and not self._lent:
            self._lent = True
            self._worker.runtime.node.blocked(True)
            self._hand_back()

    def __repr__(self) -> str:
        return f"<TaskLane started={len(self._started)} waiting={self.mailbox.waiting} lent={self._lent}>"
