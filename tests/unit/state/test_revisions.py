"""Keys with revisions against a model that keeps every state of the store."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actorlite.state.revisions import CompactedError, Compare, Delete, Event, Get, NoSuchLease, Put, Revisions

KEYS = st.sampled_from(["a", "a/1", "a/2", "ab", "b", "b/1"])
PREFIXES = st.sampled_from(["", "a", "a/", "b", "c"])
VALUES = st.binary(max_size=2)


class RevisionsAgainstHistory(RuleBasedStateMachine):
    """The model: the value of every key after every revision."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Revisions(max_history=20)
        self.states: dict[int, dict[str, bytes]] = {1: {}}
        self.current: dict[str, bytes] = {}
        self.leases: dict[int, float] = {}
        self.of_lease: dict[str, int] = {}
        self.now = 0.0

    def changed(self, events: tuple[Event, ...]) -> None:
        if events:
            assert {each.revision for each in events} == {self.store.revision}
            self.states[self.store.revision] = copy.copy(self.current)
        else:
            assert self.store.revision == max(self.states)

    @rule(key=KEYS, value=VALUES, data=st.data())
    def put(self, key: str, value: bytes, data: Any) -> None:
        lease = data.draw(st.sampled_from([0, *self.leases]))
        _, events = self.store.txn([], [Put(key, value, lease)])
        self.current[key] = value
        self.of_lease.pop(key, None)
        if lease:
            self.of_lease[key] = lease
        self.changed(events)

    @rule(key=PREFIXES, prefix=st.booleans())
    def delete(self, key: str, prefix: bool) -> None:
        gone = [each for each in self.current if (each.startswith(key) if prefix else each == key)]
        result, events = self.store.txn([], [Delete(key, prefix)])
        assert [each.key for each in result.found[0]] == [each.key for each in events] == sorted(gone)
        for each in gone:
            del self.current[each]
            self.of_lease.pop(each, None)
        self.changed(events)

    @rule(key=KEYS, expected=VALUES, value=VALUES)
    def compare_and_put(self, key: str, expected: bytes, value: bytes) -> None:
        known = self.current.get(key)
        result, events = self.store.txn([Compare(key, "value", "=", expected)], [Put(key, value)], [Get(key)])
        assert result.succeeded is (known is not None and known == expected)
        if result.succeeded:
            self.current[key] = value
            self.of_lease.pop(key, None)
        else:
            assert [each.value for each in result.found[0]] == ([] if known is None else [known])
        self.changed(events)

    @rule(ttl=st.floats(0.5, 5))
    def grant(self, ttl: float) -> None:
        self.leases[self.store.grant(ttl, self.now)] = self.now + ttl

    @rule(seconds=st.floats(0.1, 2))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        due = [lease for lease, ends in self.leases.items() if ends <= self.now]
        assert sorted(self.store.expired(self.now)) == sorted(due)
        for lease in due:
            gone = sorted(key for key, each in self.of_lease.items() if each == lease)
            events = self.store.revoke(lease)
            assert [each.key for each in events] == gone
            for key in gone:
                del self.current[key], self.of_lease[key]
            del self.leases[lease]
            self.changed(events)
            with pytest.raises(NoSuchLease):
                self.store.keep_alive(lease, self.now)

    @precondition(lambda self: self.leases)
    @rule()
    def keep_alive(self) -> None:
        lease = min(self.leases)
        self.leases[lease] = self.now + self.store.keep_alive(lease, self.now)

    @rule(prefix=PREFIXES)
    def range(self, prefix: str) -> None:
        found = [(each.key, each.value) for each in self.store.range(prefix)]
        assert found == sorted((key, value) for key, value in self.current.items() if key.startswith(prefix))

    @rule(prefix=PREFIXES, back=st.integers(0, 30))
    def history_leads_to_the_present(self, prefix: str, back: int) -> None:
        start = max(1, self.store.revision - back)
        try:
            events = self.store.since(prefix, start + 1)
        except CompactedError as error:
            assert start + 1 < error.revision == self.store.compacted
            return
        replayed = dict(self.states[start])
        for event in events:
            if event.put is None:
                del replayed[event.key]
            else:
                replayed[event.key] = event.put.value
        now = {key: value for key, value in self.current.items() if key.startswith(prefix)}
        assert {key: value for key, value in replayed.items() if key.startswith(prefix)} == now

    @invariant()
    def its_parts_agree(self) -> None:
        self.store.check()


RevisionsAgainstHistory.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_revisions_against_history = RevisionsAgainstHistory.TestCase


def test_what_was_written_down_is_filled_in() -> None:
    store = Revisions()
    lease = store.grant(5, 0)
    store.txn([], [Put("a", b"1", lease), Put("b", b"2")])
    again = Revisions()
    again.restore(store.range(""), {lease: 5.0}, lease + 1, store.revision, 100.0)
    again.check()
    assert again.range("") == store.range("") and again.revision == store.revision
    assert again.leases == {lease: 105.0} and again.grant(1, 0) == lease + 1
    with pytest.raises(CompactedError):
        again.since("", store.revision)
    assert again.since("", store.revision + 1) == []
