"""What control asks of the place that keeps its state: few primitives, with the meaning of etcd v3.

Guarantees: a transaction is atomic and ordered with all others; when `txn` returns, what it changed survives whatever
the provider says it survives, and nobody has seen it earlier. Reads see all that was acknowledged. A watch gives every
change from its revision on, once, in order. A provider that has lost its storage raises `ControlUnavailable`, from then
on and for ever: whoever used it reads everything again from a new one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from actorlite.state.revisions import Compare, Event, KeyValue, Op, TxnResult


class Watch(Protocol):
    """Changes as they come. Raises `CompactedError` when the first of them is gone, `ControlUnavailable`."""

    def __aiter__(self) -> AsyncIterator[Event]: ...

    async def __anext__(self) -> Event: ...

    def close(self) -> None:
        """Nobody reads any more; whoever waits in it stops. Idempotent."""


class StateStore(Protocol):
    """Used on one loop, which it never blocks. Cancelling a call leaves open whether it took effect."""

    async def txn(self, compares: Sequence[Compare], ops: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        """Do `ops` if all conditions hold, else `otherwise`. Raises `ValueError`, `NoSuchLease`."""
        ...

    async def range(self, prefix: str) -> tuple[tuple[KeyValue, ...], int]:
        """The keys that start with `prefix`, in order, and the store's revision then: for a watch from the next one."""
        ...

    async def lease(self, ttl: float) -> int:
        """A lease of `ttl` seconds; with its end the keys end that were put with it. Raises `ValueError`."""
        ...

    async def keep_alive(self, lease: int) -> float:
        """It lasts its whole time from now on. Raises `NoSuchLease`."""
        ...

    async def revoke(self, lease: int) -> None:
        """End it now. Raises `NoSuchLease`."""

    def watch(self, prefix: str, from_revision: int = 0) -> Watch:
        """All changes of keys that start with `prefix`, from that revision on; 0: from now on."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget what changed before `revision`. Raises `CompactedError`, `ValueError`."""

    async def aclose(self) -> None:
        """Everything that was acknowledged is safe; whoever waits is told `ControlUnavailable`. Idempotent."""
