"""The mailbox of an actor with concurrency groups, readonly methods or reentrancy. Pure.

Each group is a lane: ordered by itself, with its own limit, independent of the others. In a lane, calls that only read
run beside one another and never beside others; one that does not read holds back the reads that come after it, so it
is not starved. In a reentrant actor a call runs beside the running one that it came through, ahead of all that waits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Generic

from actorlite.state.mailbox import C, Mailbox

READS_AT_ONCE = 256
"""How many readonly calls of one lane run at once; more where its limit is higher."""


class Lane(Mailbox[C]):
    """One group. Knows what runs in it."""

    __slots__ = ("reentrant", "calls", "readers", "_nested", "inward")

    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__(0)  # opened when the constructor is through
        self.reentrant = reentrant
        self.calls: dict[C, None] = {}
        """What runs."""
        self.readers = 0
        self._nested: list[C] = []
        """Waiting calls that came through a running one, in a reentrant actor: they go before the queue."""
        self.inward: dict[C, None] = {}
        """Waiting calls that came through this actor, in order."""

    def try_start(self, call: C) -> bool:
        if self._is_nested(call):
            if self._nested or not self._nested_may_start(call):
                return False
        elif self._nested or self._queue or not self._may_start(call):
            return False
        self._started(call)
        return True

    def wait(self, call: C) -> None:
        if call.through:
            self.inward[call] = None
        if self._is_nested(call):
            self._nested.append(call)
            self.bytes += call.size
        else:
            super().wait(call)

    def finished(self, call: C) -> list[C]:
        if call not in self.calls:
            raise ValueError("finished without a running call")
        del self.calls[call]
        self.running -= 1
        self.readers -= call.readonly
        return self.start_waiting()

    def remove(self, call: C) -> list[C]:
        self.inward.pop(call, None)
        if call in self._nested:
            self._nested.remove(call)
            self.bytes -= call.size
        else:
            self._take_out(call)
        return self.start_waiting()

    def withdraw(self, unwanted: Callable[[C], bool]) -> list[C]:
        taken = [call for call in self._nested if unwanted(call)]
        self._nested = [call for call in self._nested if not unwanted(call)]
        taken += super().withdraw(unwanted)
        self.inward = {call: None for call in self.inward if not unwanted(call)}
        self.bytes = sum([call.size for call in [*self._nested, *self._waiting_calls()]])
        return taken

    @property
    def waiting(self) -> int:
        return super().waiting + len(self._nested)

    def start_waiting(self) -> list[C]:
        """The calls to start now, in order."""
        started: list[C] = []
        while self._nested and self._nested_may_start(self._nested[0]):
            call = self._nested.pop(0)
            self.bytes -= call.size
            self._started(call)
            started.append(call)
        if not self._nested:
            started += self._start_waiting()
        return started

    def is_stuck(self, refused: list[C], blocked: Collection[str]) -> bool:
        """Whether what the first waiting call needs will not come, if the calls `blocked` do not end."""
        head = next((each for each in [*self._nested, *self._waiting_calls()] if each not in refused), None)
        if head is None:
            return False
        nested = head in self._nested
        others = [each for each in self.calls if not (nested and each.key in head.through)]
        readers = [each.key in blocked for each in others if each.readonly]
        writers = [each.key in blocked for each in others if not each.readonly]
        if head.readonly:
            # All that write must end; else as many run already as may.
            return any(writers) if writers else bool(readers) and all(readers)
        # All that read must end, and one of those that write.
        return any(readers) or (len(writers) >= self.limit and bool(writers) and all(writers))

    def _is_nested(self, call: C) -> bool:
        if not self.reentrant or not call.through:
            return False
        return any(each.key in call.through for each in self.calls)

    def _nested_may_start(self, call: C) -> bool:
        """Beside the calls that it came through, which wait for it, as if they did not run."""
        others = [each for each in self.calls if each.key not in call.through]
        writers = sum([not each.readonly for each in others])
        if call.readonly:
            return not writers
        return writers == len(others) and writers < max(1, self.limit)

    def _may_start(self, call: C) -> bool:
        if call.readonly:
            return self.limit > 0 and self.readers == self.running < max(self.limit, READS_AT_ONCE)
        return not self.readers and self.running < self.limit

    def _started(self, call: C) -> None:
        if self.inward:
            self.inward.pop(call, None)
        self.running += 1
        self.readers += call.readonly
        self.calls[call] = None

    def __repr__(self) -> str:
        return f"<Lane running={self.running}/{self.limit} readers={self.readers} waiting={self.waiting}>"


class Lanes(Generic[C]):
    """What `Mailbox` is, for several groups. Closed to all but the constructor until `open`."""

    __slots__ = ("lanes", "_groups", "_opened", "_constructor")

    def __init__(self, groups: Mapping[str, int] | None = None, *, reentrant: bool = False) -> None:
        self._groups = dict(groups or {})
        self.lanes: dict[str, Lane[C]] = {name: Lane(reentrant=reentrant) for name in ("", *self._groups)}
        self._constructor: C | None = None
        self._opened = False

    def open(self, limit: int) -> None:
        """The constructor is through; `finished` with it starts what came meanwhile."""
        for name, lane in self.lanes.items():
            lane.limit = self._groups.get(name, limit)
        self._opened = True

    def would_start(self, call: C) -> bool:
        """Never without being asked to: such calls take their turn."""
        return False

    def try_start(self, call: C) -> bool:
        lane = self.lanes.get(call.group)
        return lane is not None and lane.try_start(call)

    def wait(self, call: C) -> None:
        self.lanes[call.group].wait(call)

    def wait_among_few(self, call: C, calls: int, size_bytes: int) -> bool:
        return False  # each call that waits here is looked at

    def offer(self, call: C) -> bool:
        """True: start the call now. The first one is the constructor, which starts whatever the limit is."""
        if self._opened or self._constructor is not None:
            if self.try_start(call):
                return True
            self.wait(call)
            return False
        self._constructor = call
        self.lanes[""]._started(call)
        return True

    def finished(self, call: C) -> list[C]:
        started = self.lanes[call.group].finished(call)
        if call is self._constructor:
            self._constructor = None
            for name, lane in self.lanes.items():
                if name:
                    started += lane.start_waiting()
        return started

    def remove(self, call: C) -> list[C]:
        return self.lanes[call.group].remove(call)

    def withdraw(self, unwanted: Callable[[C], bool]) -> list[C]:
        return [call for lane in self.lanes.values() for call in lane.withdraw(unwanted)]

    def oldest(self, group: str) -> C | None:
        """The call that has waited longest in a group, or in the fullest one when nothing waits there."""
        return self.lanes[group].oldest("") or max(self.lanes.values(), key=lambda lane: lane.waiting).oldest("")

    @property
    def running(self) -> int:
        return sum([lane.running for lane in self.lanes.values()])

    @property
    def limit(self) -> int:
        return sum([lane.limit for lane in self.lanes.values()])

    @property
    def bytes(self) -> int:
        return sum([lane.bytes for lane in self.lanes.values()])

    @property
    def waiting(self) -> int:
        return sum([lane.waiting for lane in self.lanes.values()])

    @property
    def behind(self) -> int:
        return self.waiting

    def is_full(self, calls: int, size_bytes: int, size: int) -> bool:
        """Whether one more waiting call of `size` exceeds the bounds. Any fits when nothing else waits."""
        behind = self.waiting
        return behind >= calls or (behind > 0 and self.bytes + size > size_bytes)

    def deadlocked(self, call: C, running: Iterable[C]) -> list[C]:
        """The waiting calls to refuse now that `call` waits or has ended: those that would wait for ever.

        A running call does not end while one that came through it waits, and nothing in a lane starts before the first
        that waits there. A lane is stuck when that one needs the end of calls which wait for calls in stuck lanes.
        """
        victims: list[C] = []
        while stuck := self._stuck(victims):
            held = {each.key for lane in self.lanes.values() for each in lane.calls}
            waiting = [each for lane in stuck for each in lane.inward if each not in victims]
            candidates = [each for each in waiting if not held.isdisjoint(each.through)]
            victims.append(call if call in candidates else candidates[-1])
        return victims

    def _stuck(self, refused: list[C]) -> list[Lane[C]]:
        if not any([lane.inward for lane in self.lanes.values()]):
            return []
        stuck = list(self.lanes.values())
        while True:
            blocked = {key for lane in stuck for each in lane.inward if each not in refused for key in each.through}
            still = [lane for lane in stuck if lane.is_stuck(refused, blocked)]
            if len(still) == len(stuck):
                return stuck
            stuck = still

    def __repr__(self) -> str:
        return f"<Lanes running={self.running} waiting={self.waiting}>"
