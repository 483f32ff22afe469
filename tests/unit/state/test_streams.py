from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.state.streams import ReceiveWindow, SendWindow


def test_credit_comes_half_a_window_at_a_time():
    window = ReceiveWindow(4)
    for index in range(4):
        window.arrive(index, 10)
    assert [window.take(10) for _ in range(4)] == [None, (2, 20), None, (2, 20)]


def test_a_window_of_one_is_lock_step():
    window = ReceiveWindow(1)
    window.arrive(0, 5)
    assert window.take(5) == (1, 5)


def test_bytes_give_credit_too():
    window = ReceiveWindow(100, 1000)
    window.arrive(0, 499)
    window.arrive(1, 1)
    assert window.take(499) is None
    assert window.take(1) == (2, 500)


def test_an_item_of_any_size_has_room_and_then_the_sender_waits():
    window = SendWindow(100, 1000)
    assert window.send(999) == 0 and window.has_room
    assert window.send(10**9) == 1 and not window.has_room
    with pytest.raises(ValueError, match="no room"):
        window.send(0)
    window.credit(1, 999)
    assert not window.has_room
    window.credit(1, 10**9)
    assert window.has_room


def test_what_the_other_side_may_not_do_is_refused():
    receive = ReceiveWindow(2, 100)
    with pytest.raises(ValueError, match="item 1 came in place of item 0"):
        receive.arrive(1, 1)
    with pytest.raises(ValueError, match="to take"):
        receive.take(1)
    receive.arrive(0, 100)
    with pytest.raises(ValueError, match="more came than the 2 items and 100 bytes"):
        receive.arrive(1, 1)
    send = SendWindow(2)
    send.send(5)
    for items, size in [(0, 0), (-1, 0), (2, 5), (1, 6), (1, -1)]:
        with pytest.raises(ValueError, match="a credit of"):
            send.credit(items, size)


class Channel(RuleBasedStateMachine):
    """A sender, a receiver, and the two directions between them, each in order."""

    @initialize(items=st.integers(1, 20), size=st.sampled_from([0, 1, 10, 1000]))
    def begin(self, items: int, size: int) -> None:
        self.sender = SendWindow(items, size)
        self.receiver = ReceiveWindow(items, size)
        self.there: deque[tuple[int, int]] = deque()
        self.back: deque[tuple[int, int]] = deque()
        self.waiting: deque[int] = deque()

    @precondition(lambda self: self.sender.has_room)
    @rule(size=st.integers(0, 1500))
    def send(self, size: int) -> None:
        self.there.append((self.sender.send(size), size))

    @precondition(lambda self: self.there)
    @rule()
    def deliver(self) -> None:
        index, size = self.there.popleft()
        self.receiver.arrive(index, size)
        self.waiting.append(size)

    @precondition(lambda self: self.waiting)
    @rule()
    def take(self) -> None:
        credit = self.receiver.take(self.waiting.popleft())
        if credit is not None:
            self.back.append(credit)

    @precondition(lambda self: self.back)
    @rule()
    def give_credit(self) -> None:
        self.sender.credit(*self.back.popleft())

    @invariant()
    def the_receiver_never_holds_more_than_a_window_and_one_item(self) -> None:
        assert len(self.waiting) <= self.receiver.items
        if self.receiver.size and self.waiting:
            assert sum(self.waiting) - self.waiting[-1] < self.receiver.size

    @invariant()
    def a_sender_whose_reader_has_caught_up_has_room(self) -> None:
        if not (self.there or self.waiting or self.back):
            assert self.sender.has_room

    @invariant()
    def nothing_is_counted_twice_or_lost(self) -> None:
        under_way = sum(size for _, size in self.there) + sum(size for _, size in self.back)
        assert self.sender.out_size == under_way + self.receiver.held_size


TestChannel = Channel.TestCase
TestChannel.settings = settings(max_examples=100, deadline=None)
