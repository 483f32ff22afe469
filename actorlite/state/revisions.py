"""Keys with revisions, transactions, leases and history, with the meaning that etcd v3 gives them; pure.

A transaction that changes anything makes one revision, whatever it changes. A key knows the revision that created it,
the one that changed it last, and its version: how often it was written since it was created. Deleting forgets all that.
Keys are text; ranges are prefixes, in the order of the keys.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from msgspec import Struct

MAX_HISTORY = 10_000
"""Revisions that a provider keeps for those who watch from the past, unless it is told to compact earlier."""


class KeyValue(Struct, frozen=True):
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0
    """With which the key ends; 0 for none."""


class Compare(Struct, frozen=True):
    """A condition on one key; a key that does not exist has revisions and version 0 and no value."""

    key: str
    target: Literal["create", "mod", "version", "value"]
    relation: Literal["=", "!=", "<", ">"]
    operand: int | bytes


class Put(Struct, frozen=True):
    key: str
    value: bytes
    lease: int = 0
    """Replaces the lease that the key had."""


class Delete(Struct, frozen=True):
    key: str
    prefix: bool = False
    """Whether all keys are meant that start with `key`."""


class Get(Struct, frozen=True):
    key: str
    prefix: bool = False


Op: TypeAlias = Put | Delete | Get


class TxnResult(Struct, frozen=True):
    succeeded: bool
    """Whether all conditions held, and so which operations were done."""
    revision: int
    """Of the store, after it."""
    found: tuple[tuple[KeyValue, ...], ...] = ()
    """For each operation in turn: what a `Get` found; what a `Delete` deleted; nothing for a `Put`."""


class Event(Struct, frozen=True):
    """One change, as those who watch are told."""

    key: str
    revision: int
    put: KeyValue | None
    """None when the key was deleted."""


class CompactedError(ValueError):
    """The history that was asked for is gone; `revision` is the first that can be watched from."""

    def __init__(self, asked: int, revision: int) -> None:
        super().__init__(f"revision {asked} was compacted: read the keys again, and watch from {revision} on")
        self.revision = revision


class NoSuchLease(ValueError):
    """It has expired, was revoked, or never was."""


class _Lease(Struct):
    ttl: float
    ends: float
    keys: set[str]


_RELATIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


class Revisions:
    """All of a store, in memory. What changes is returned as events, for whoever writes them down or watches."""

    def __init__(self, max_history: int = MAX_HISTORY) -> None:
        self.revision = 1
        """etcd counts from 1: the empty store."""
        self.compacted = 0
        """Nobody can watch from a revision below this one."""
        self._keys: dict[str, KeyValue] = {}
        self._sorted: list[str] = []
        self._leases: dict[int, _Lease] = {}
        self._next_lease = 1
        self._history: deque[tuple[int, tuple[Event, ...]]] = deque()
        self._max_history = max_history

    # --- reading

    def get(self, key: str) -> KeyValue | None:
        return self._keys.get(key)

    def range(self, prefix: str) -> tuple[KeyValue, ...]:
        """All keys that start with `prefix`, in order."""
        start = bisect_left(self._sorted, prefix)
        found = []
        for index in range(start, len(self._sorted)):
            key = self._sorted[index]
            if not key.startswith(prefix):
                break
            found.append(self._keys[key])
        return tuple(found)

    def since(self, prefix: str, revision: int) -> list[Event]:
        """What changed from `revision` on. Raises `CompactedError`."""
        if revision < self.compacted:
            raise CompactedError(revision, self.compacted)
        return [
            event
            for number, events in self._history
            if number >= revision
            for event in events
            if event.key.startswith(prefix)
        ]

    @property
    def leases(self) -> Mapping[int, float]:
        """Those that are held, and when each ends."""
        return {number: each.ends for number, each in self._leases.items()}

    # --- transactions

    def txn(
        self, compares: Iterable[Compare], ops: Sequence[Op], otherwise: Sequence[Op] = ()
    ) -> tuple[TxnResult, tuple[Event, ...]]:
        """Do `ops` if all conditions hold, else `otherwise`; all of it or nothing.

        Raises `ValueError` for a key that is written twice, `NoSuchLease`; then nothing has changed.
        """
        _check(ops)
        _check(otherwise)
        succeeded = all(self._holds(each) for each in compares)
        chosen = ops if succeeded else otherwise
        for each in chosen:
            if isinstance(each, Put) and each.lease and each.lease not in self._leases:
                raise NoSuchLease(f"lease {each.lease} has expired, was revoked, or never was: {each.key!r} is not put")
        events: list[Event] = []
        found = tuple([self._do(each, events) for each in chosen])
        self._record(events)
        return TxnResult(succeeded, self.revision, found), tuple(events)

    def _holds(self, compare: Compare) -> bool:
        known = self._keys.get(compare.key)
        if compare.target == "value":
            # As in etcd: what does not exist has no value that anything could be said of.
            return known is not None and _RELATIONS[compare.relation](known.value, compare.operand)
        if known is None:
            actual = 0
        elif compare.target == "create":
            actual = known.create_revision
        elif compare.target == "mod":
            actual = known.mod_revision
        else:
            actual = known.version
        return _RELATIONS[compare.relation](actual, compare.operand)

    def _do(self, op: Op, events: list[Event]) -> tuple[KeyValue, ...]:
        if isinstance(op, Put):
            self._put(op, events)
            return ()
        found = self.range(op.key) if op.prefix else tuple([each for each in (self._keys.get(op.key),) if each])
        if isinstance(op, Delete):
            for each in found:
                self._delete(each, events)
        return found

    def _put(self, op: Put, events: list[Event]) -> None:
        before, now = self._keys.get(op.key), self.revision + 1
        if before is None:
            insort(self._sorted, op.key)
            put = KeyValue(op.key, op.value, now, now, 1, op.lease)
        else:
            self._detach(before)
            put = KeyValue(op.key, op.value, before.create_revision, now, before.version + 1, op.lease)
        self._keys[op.key] = put
        if op.lease:
            self._leases[op.lease].keys.add(op.key)
        events.append(Event(op.key, now, put))

    def _delete(self, known: KeyValue, events: list[Event]) -> None:
        del self._keys[known.key]
        del self._sorted[bisect_left(self._sorted, known.key)]
        self._detach(known)
        events.append(Event(known.key, self.revision + 1, None))

    def _detach(self, known: KeyValue) -> None:
        lease = self._leases.get(known.lease)
        if lease is not None:
            lease.keys.discard(known.key)

    def _record(self, events: Sequence[Event]) -> None:
        if events:
            self.revision += 1
            self._history.append((self.revision, tuple(events)))
            if len(self._history) > self._max_history:
                self._compact_to(self._history[len(self._history) - self._max_history][0])

    # --- leases

    def grant(self, ttl: float, now: float) -> int:
        """A lease that ends `ttl` seconds from now unless it is kept alive. Raises `ValueError`."""
        if not ttl > 0:
            raise ValueError(f"ttl={ttl!r} of a lease must be above 0 seconds")
        number = self._next_lease
        self._next_lease += 1
        self._leases[number] = _Lease(ttl, now + ttl, set())
        return number

    def keep_alive(self, lease: int, now: float) -> float:
        """It ends its whole `ttl` from now. Returns that. Raises `NoSuchLease`."""
        known = self._lease(lease)
        known.ends = now + known.ttl
        return known.ttl

    def revoke(self, lease: int) -> tuple[Event, ...]:
        """End it, and with it its keys, in one revision. Raises `NoSuchLease`."""
        known = self._lease(lease)
        events: list[Event] = []
        for key in sorted(known.keys):
            self._delete(self._keys[key], events)
        del self._leases[lease]
        self._record(events)
        return tuple(events)

    def expired(self, now: float) -> list[int]:
        """The leases whose time is over: for `revoke`."""
        return [number for number, each in self._leases.items() if each.ends <= now]

    def _lease(self, lease: int) -> _Lease:
        known = self._leases.get(lease)
        if known is None:
            raise NoSuchLease(f"lease {lease} has expired, was revoked, or never was")
        return known

    # --- history

    def compact(self, revision: int) -> None:
        """Forget what changed before `revision`. Raises `ValueError` for one to come, `CompactedError`."""
        if revision > self.revision:
            raise ValueError(f"revision {revision} is still to come: the store is at {self.revision}")
        if revision <= self.compacted:
            raise CompactedError(revision, self.compacted)
        self._compact_to(revision)

    def _compact_to(self, revision: int) -> None:
        self.compacted = revision
        while self._history and self._history[0][0] < revision:
            self._history.popleft()

    # --- from what a provider has written down

    def restore(
        self, keys: Iterable[KeyValue], leases: Mapping[int, float], next_lease: int, revision: int, now: float
    ) -> None:
        """Fill an empty store. Leases get their whole time again, as when etcd changes its leader; history is gone."""
        self._leases = {number: _Lease(ttl, now + ttl, set()) for number, ttl in leases.items()}
        self._next_lease = next_lease
        self._keys = {each.key: each for each in keys}
        self._sorted = sorted(self._keys)
        for each in self._keys.values():
            if each.lease in self._leases:
                self._leases[each.lease].keys.add(each.key)
        self.revision = revision
        self.compacted = revision + 1

    def check(self) -> None:
        """Raise `AssertionError` when its parts contradict each other: for tests."""
        assert self._sorted == sorted(self._keys)
        held = {key for each in self._leases.values() for key in each.keys}
        assert held == {each.key for each in self._keys.values() if each.lease}
        for number, each in self._leases.items():
            assert all(self._keys[key].lease == number for key in each.keys)
        for known in self._keys.values():
            assert 0 < known.create_revision <= known.mod_revision <= self.revision and known.version >= 1

    def __repr__(self) -> str:
        return f"<Revisions revision={self.revision} keys={len(self._keys)} leases={len(self._leases)}>"


def _check(ops: Sequence[Op]) -> None:
    """Raise `ValueError` when a key is put twice, or put and deleted: etcd refuses that."""
    put: set[str] = set()
    deleted: list[Delete] = []
    for each in ops:
        if isinstance(each, Put):
            if each.key in put:
                raise ValueError(f"key {each.key!r} is put twice in one transaction: put it once")
            put.add(each.key)
        elif isinstance(each, Delete):
            deleted.append(each)
    for each in deleted:
        twice = {key for key in put if (key.startswith(each.key) if each.prefix else key == each.key)}
        if twice:
            raise ValueError(f"key {min(twice)!r} is put and deleted in one transaction: do one of them")
