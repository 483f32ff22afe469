"""How fast a mailbox is emptied, from when calls ended while others waited. Pure."""

from __future__ import annotations

WEIGHT = 0.2
"""Of the newest sample."""


class Pace:
    __slots__ = ("interval_s", "_since")

    def __init__(self) -> None:
        self.interval_s = 0.0
        """From one end of a call to the next; 0 as long as nothing is known."""
        self._since: float | None = None

    def waits(self, now: float) -> None:
        """A call waits: from now on the next end says how long calls take."""
        if self._since is None:
            self._since = now

    def opened(self, now: float) -> None:
        """The constructor is through, which says nothing about calls."""
        if self._since is not None:
            self._since = now

    def ended(self, now: float, waiting: bool) -> None:
        """A call has ended; `waiting` says whether the next one starts at once."""
        if self._since is not None:
            sample = now - self._since
            self.interval_s += (sample - self.interval_s) * (WEIGHT if self.interval_s else 1.0)
        self._since = now if waiting else None

    def least_s(self, behind: int) -> float:
        """How long a call takes that has so many before it, if they take what others took: its own run included."""
        return (behind + 1) * self.interval_s

    def __repr__(self) -> str:
        return f"<Pace {self.interval_s * 1000:.3f} ms>"
