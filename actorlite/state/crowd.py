"""The callers of a full mailbox: who was refused, who waits for room, who was given some. Pure.

A caller whose call finds no room is *held*: that call and all behind it are refused, so that none overtakes another.
It says that it waits, behind the last of them, and is given room in turn; what it was given is kept free for it until
it says that it has sent what it had. While somebody waits, others who find themselves refused wait behind him.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K")

SHARE = 4
"""Room is given when a quarter of the mailbox is free: each time costs its receiver a round trip."""


class Grant(NamedTuple, Generic[K]):
    caller: K
    calls: int
    bytes: int


class Crowd(Generic[K]):
    __slots__ = ("calls", "bytes", "_held", "_waiting", "_granted")

    def __init__(self, calls: int, bytes: int) -> None:
        self.calls = calls
        self.bytes = bytes
        self._held: set[K] = set()
        self._waiting: dict[K, None] = {}
        self._granted: dict[K, tuple[int, int]] = {}

    def refuses(self, caller: K, size: int, fits: bool) -> bool:
        """A call arrives that may start now or `fits`, or neither. True: refuse it, and its caller is held."""
        granted = self._granted.get(caller)
        if granted is not None and granted[0] > 0:
            self._granted[caller] = (granted[0] - 1, max(0, granted[1] - size))
            return False
        if caller not in self._held and caller not in self._waiting:
            # What is kept for others is not free, and those who wait come first.
            if fits and not self._waiting and not self._granted:
                return False
            self._held.add(caller)
        return True

    def waits(self, caller: K) -> None:
        """All that it had sent has been refused, or was taken; it waits for room."""
        self.leaves(caller)
        self._waiting[caller] = None

    def leaves(self, caller: K) -> None:
        """It has nothing more to send, or is gone."""
        self._held.discard(caller)
        self._granted.pop(caller, None)
        self._waiting.pop(caller, None)

    def grants(self, behind: int, used_bytes: int) -> list[Grant[K]]:
        """Room to give now, with so many calls and bytes in the mailbox. A share each, in turn."""
        free = self.calls - behind - sum([calls for calls, _ in self._granted.values()])
        free_bytes = self.bytes - used_bytes - sum([size for _, size in self._granted.values()])
        if behind or self._granted:
            if free < max(1, self.calls // SHARE) or free_bytes < max(1, self.bytes // SHARE):
                return []
        given: list[Grant[K]] = []
        while self._waiting and free > 0 and free_bytes > 0:
            caller = next(iter(self._waiting))
            calls = max(1, free // len(self._waiting))
            size = max(1, free_bytes // len(self._waiting))
            del self._waiting[caller]
            self._granted[caller] = (calls, size)
            free -= calls
            free_bytes -= size
            given.append(Grant(caller, calls, size))
        return given

    @property
    def callers(self) -> list[K]:
        """Those who wait to be told of room."""
        return [*self._held, *self._waiting]

    @property
    def is_over(self) -> bool:
        return not self._held and not self._waiting and not self._granted

    def __repr__(self) -> str:
        return f"<Crowd held={len(self._held)} waiting={len(self._waiting)} granted={len(self._granted)}>"
