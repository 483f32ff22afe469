"""A node on its way out: how long it still has, and what it is waited for. Pure: now is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from actorlite.ids import ProcessId
from actorlite.state.leases import BUNDLE, HeldLease, LeaseTable
from actorlite.state.scheduling import NodeView


@dataclass(slots=True)
class Drain:
    """What was asked for: of several wishes the one that ends first counts."""

    until: float | None
    """When what still runs is ended; None is without end."""
    timeout_s: float | None
    """That was said with it."""

    @classmethod
    def begin(cls, now: float, timeout_s: float | None) -> Drain:
        return cls(None if timeout_s is None else now + timeout_s, timeout_s)

    def again(self, now: float, timeout_s: float | None) -> bool:
        """It was asked for once more; whether there is less time now."""
        if timeout_s is None or (self.until is not None and self.until <= now + timeout_s):
            return False
        self.until, self.timeout_s = now + timeout_s, timeout_s
        return True

    def left_s(self, now: float) -> float | None:
        """None is without end; 0 when it is over."""
        return None if self.until is None else max(0.0, self.until - now)

    @property
    def over(self) -> str:
        """Why what still runs is ended."""
        return f"its node was drained, and the timeout of {self.timeout_s:g} s for what ran there was over"


def check_timeout(timeout: float | None) -> None:
    """Raises `ValueError`."""
    if timeout is not None and not 0 <= timeout < float("inf"):
        raise ValueError(f"timeout={timeout!r}: give seconds, 0 or more, or None to wait as long as it takes")


def refusal(here: ProcessId, leader: ProcessId, others: Iterable[NodeView]) -> str:
    """Why a node cannot be drained, and what to do instead; empty when it can."""
    if here == leader:
        return (
            f"node {here} leads the cluster and cannot be drained: names, detached actors and placement groups are "
            "kept on it; drain the other nodes, and end this one last with `actorlite stop`"
        )
    if all(view.draining for view in others):
        return (
            f"node {here} cannot be drained: it knows no other node that its work could go to; add one first with "
            "`actorlite start --join`, or end it with `actorlite stop`"
        )
    return ""


def working(tables: Sequence[LeaseTable]) -> list[HeldLease]:
    """The leases that keep a node from leaving: all but those that are bundles."""
    return [lease for table in tables for lease in table.held.values() if lease.request.purpose != BUNDLE]


def is_working(tables: Sequence[LeaseTable]) -> bool:
    """Whether there are any of those."""
    return any(lease.request.purpose != BUNDLE for table in tables for lease in table.held.values())


def asked_back(leases: Iterable[HeldLease], may_move: Callable[[HeldLease], bool]) -> list[HeldLease]:
    """Those whose owners have something to do when they hear that the node is to leave: run the rest elsewhere, make
    actors anew there, give the worker of light actors back that have ended. Those that no other node can ever have stay
    as long as they may."""
    return [lease for lease in leases if lease.request.purpose != "actor" or may_move(lease)]
