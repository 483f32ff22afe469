"""What one process may have pending, in calls and bytes, and who waits for his turn. Pure.

Room that becomes free belongs to the one who has waited longest: it is counted as his before he knows, so nobody who
comes later takes it from him. A request larger than all of it goes when nothing else is pending.
"""

from __future__ import annotations

from typing import Generic, TypeVar

W = TypeVar("W")

UNLIMITED = 2**62


class Quota(Generic[W]):
    __slots__ = ("max_calls", "max_bytes", "calls", "bytes", "posted", "waiting")

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self.max_calls = max_calls
        self.max_bytes = max_bytes
        self.calls = 0
        self.bytes = 0
        self.posted = 0
        """Calls of other threads on their way here: changed under a lock of whoever posts."""
        self.waiting: dict[W, int] | None = None
        """In order, with the size of each; None when nobody waits."""

    def fits(self, size: int) -> bool:
        """Whether a call may be made now: there is room, and nobody waits for it."""
        if self.calls + self.posted >= self.max_calls or self.waiting:
            return False
        return self.bytes + size <= self.max_bytes or not self.calls

    def take(self, size: int) -> None:
        self.calls += 1
        self.bytes += size

    def give(self, size: int) -> None:
        """A call has ended. Ask for `turns` when somebody waits."""
        self.calls -= 1
        self.bytes -= size

    def wait(self, waiter: W, size: int) -> None:
        if self.waiting is None:
            self.waiting = {}
        self.waiting[waiter] = size

    def leave(self, waiter: W) -> bool:
        """No longer wait. False when its turn had come: then it holds room, which it must `give` if it has no use."""
        if self.waiting is None or waiter not in self.waiting:
            return False
        del self.waiting[waiter]
        if not self.waiting:
            self.waiting = None
        return True

    def turns(self) -> list[W]:
        """Those who have waited long enough; their room is taken."""
        ready: list[W] = []
        waiting, self.waiting = self.waiting, None
        while waiting:
            waiter = next(iter(waiting))
            if not self.fits(waiting[waiter]):
                break
            self.take(waiting.pop(waiter))
            ready.append(waiter)
        self.waiting = waiting or None
        return ready

    def __repr__(self) -> str:
        return f"<Quota calls={self.calls}/{self.max_calls} bytes={self.bytes} waiting={len(self.waiting or ())}>"
