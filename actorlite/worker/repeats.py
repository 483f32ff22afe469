"""Calls that may arrive twice: their caller lost the connection, not the actor, and sends again what had no answer.

The same execution of a call is known by its caller, id and number. While it runs, the repetition takes its place as the
one to answer; after its end it gets the recorded answer. What is recorded is bounded: the oldest answers are forgotten
first, and a repetition that comes later than that runs again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from actorlite.ids import ProcessId
from actorlite.rpc.peer import Peer
from actorlite.worker.inbound import Answer, InboundCall, LargeValue

if TYPE_CHECKING:
    from actorlite.worker.host import Worker

MAX_ANSWERS = 10_000
MAX_BYTES = 16 * 1024 * 1024
"""Of recorded answers, for all actors of a worker."""

Key = tuple[ProcessId, int, int]


class Repeats:
    """On the loop only."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.running: dict[Key, InboundCall] = {}
        self._storing: dict[Key, Peer] = {}
        """Of large results that are on their way into the store: who is to be answered."""
        self._answers: OrderedDict[Key, tuple[Answer, int]] = OrderedDict()
        self._bytes = 0

    def is_known(self, peer: Peer, message: Any) -> bool:
        """Whether this call is here already; then it is seen to."""
        key = (peer.identity.process, message.id, message.envelope.execution)
        call = self.running.get(key)
        if call is not None:
            call.peer.inbound.pop(call.id, None)
            call.peer = peer
            peer.inbound[call.id] = call
            return True
        if key in self._storing:
            self._storing[key] = peer
            return True
        recorded = self._answers.get(key)
        if recorded is None:
            return False
        self._worker.runner.answer(peer, message.id, recorded[0])
        return True

    def begin(self, call: InboundCall) -> None:
        self.running[_key(call)] = call

    def ended(self, call: InboundCall, answer: Answer) -> None:
        """A call has run to its end: keep what it ended with."""
        key = _key(call)
        if self.running.get(key) is not call:
            return
        del self.running[key]
        if call.cancelled:
            return
        large = answer[0]
        if isinstance(large, LargeValue):
            large.repeat = key
            self._storing[key] = call.peer
            return
        self._record(key, answer)

    def stored(self, large: LargeValue, peer: Peer, answer: Answer) -> Peer:
        """A large result has become an answer: whom to give it. It says where the value lies, which is not kept for
        that: some seconds after it was written for a caller who is gone it is freed."""
        if large.repeat is None:
            return peer
        self._record(large.repeat, answer)
        return self._storing.pop(large.repeat)

    def _record(self, key: Key, answer: Answer) -> None:
        if answer[1]:
            return  # references in a recorded answer would keep their values alive
        size = sum(len(part) for part in answer[0])
        if size > MAX_BYTES // 4:
            return  # one value must not push out everybody else's
        self._answers[key] = (answer, size)
        self._bytes += size
        while len(self._answers) > MAX_ANSWERS or self._bytes > MAX_BYTES:
            _, (_, forgotten) = self._answers.popitem(last=False)
            self._bytes -= forgotten

    def not_run(self, call: InboundCall) -> None:
        """A call was answered without having run to its end."""
        key = _key(call)
        if self.running.get(key) is call:
            del self.running[key]

    def __repr__(self) -> str:
        return f"<Repeats running={len(self.running)} answers={len(self._answers)} bytes={self._bytes}>"


def _key(call: InboundCall) -> Key:
    envelope = call.envelope
    return call.peer.identity.process, call.id, envelope.execution if envelope is not None else 0
