from __future__ import annotations

from types import SimpleNamespace

import pytest

from actorlite.worker import repeats
from actorlite.worker.inbound import LargeValue
from actorlite.worker.repeats import Repeats


class Peer:
    def __init__(self, process="p"):
        self.identity = SimpleNamespace(process=process)
        self.inbound = {}


def message(number=1, execution=1):
    return SimpleNamespace(id=number, envelope=SimpleNamespace(execution=execution))


def call(peer, number=1, execution=1):
    made = SimpleNamespace(peer=peer, id=number, envelope=message(number, execution).envelope, cancelled=False)
    peer.inbound[number] = made
    return made


@pytest.fixture
def answered():
    return []


@pytest.fixture
def known(answered):
    return Repeats(SimpleNamespace(runner=SimpleNamespace(answer=lambda *what: answered.append(what))))


def test_a_repetition_takes_the_place_of_the_one_that_runs(known, answered):
    before, after = Peer(), Peer()
    assert not known.is_known(before, message())
    running = call(before)
    known.begin(running)
    assert known.is_known(after, message())
    assert running.peer is after and after.inbound == {1: running} and not before.inbound
    assert not answered


def test_after_the_end_it_gets_the_recorded_answer(known, answered):
    peer = Peer()
    running = call(peer)
    known.begin(running)
    known.ended(running, ((b"answer",), ()))
    assert known.is_known(peer, message())
    assert answered == [(peer, 1, ((b"answer",), ()))]
    assert not known.running


def test_another_execution_caller_or_number_is_another_call(known):
    peer = Peer()
    known.begin(call(peer))
    assert not known.is_known(peer, message(execution=2))
    assert not known.is_known(peer, message(number=2))
    assert not known.is_known(Peer("q"), message())


def test_what_did_not_run_to_its_end_is_not_recorded(known):
    peer = Peer()
    running = call(peer)
    known.begin(running)
    known.not_run(running)
    cancelled = call(peer, 2)
    cancelled.cancelled = True
    known.begin(cancelled)
    known.ended(cancelled, ((b"",), ()))
    assert not known.is_known(peer, message())
    assert not known.is_known(peer, message(2))


def test_memory_is_bounded(known, monkeypatch):
    monkeypatch.setattr(repeats, "MAX_ANSWERS", 3)
    monkeypatch.setattr(repeats, "MAX_BYTES", 40)
    peer = Peer()
    for number, size in enumerate([1, 1, 1, 1, 11, 10, 10, 10]):
        running = call(peer, number)
        known.begin(running)
        known.ended(running, ((b"x" * size,), ()))
    assert [number for number in range(8) if known.is_known(peer, message(number))] == [5, 6, 7]
    assert not known.running


def test_while_a_large_result_is_stored_a_repetition_is_the_one_to_answer(known, answered):
    before, after = Peer(), Peer()
    running = call(before)
    known.begin(running)
    large = LargeValue(None)
    known.ended(running, (large, ()))
    assert not known.running
    assert known.is_known(after, message()) and not answered
    answer = ((b"where it lies",), ())
    assert known.stored(large, before, answer) is after
    assert known.is_known(before, message())
    assert answered == [(before, 1, answer)]


def test_a_large_result_of_a_call_that_is_not_repeated_goes_to_its_caller(known):
    peer = Peer()
    assert known.stored(LargeValue(None), peer, ((b"",), ())) is peer
