from __future__ import annotations

import contextvars
import threading
from dataclasses import dataclass, field

import pytest

from actorlite.context import current_runtime, find_runtime, sessions
from actorlite.errors import NoSessionError


@dataclass
class Loop:
    closed: bool = False

    def is_closed(self):
        return self.closed


@dataclass(eq=False)
class FakeRuntime:
    name: str = "only"
    closing: bool = False
    loop: Loop = field(default_factory=Loop)

    def __repr__(self):
        return f"<session {self.name}>"


@pytest.fixture
def opened():
    """Opens sessions that end with the test."""
    assert sessions.all() == ()
    runtimes = []

    def open_one(name="only"):
        runtimes.append(FakeRuntime(name))
        sessions.add(runtimes[-1])
        return runtimes[-1]

    yield open_one
    for each in runtimes:
        sessions.discard(each)
    assert sessions.all() == ()


def with_current(runtime, work):
    context = contextvars.copy_context()
    context.run(current_runtime.set, runtime)
    return context.run(work)


def test_without_a_session_the_error_says_how_to_open_one():
    with pytest.raises(NoSessionError, match=r"async with al\.init"):
        find_runtime()


def test_the_only_open_session_is_found_in_any_thread(opened):
    runtime = opened()
    found = []
    thread = threading.Thread(target=lambda: found.append(find_runtime()))
    thread.start()
    thread.join()
    assert found == [runtime] and find_runtime() is runtime


def test_of_two_sessions_none_is_chosen_and_the_error_names_both(opened):
    opened("a"), opened("b")
    with pytest.raises(NoSessionError, match=r"2 sessions are open \(<session a>, <session b>\).*session\.use"):
        find_runtime()


def test_the_current_session_goes_before_the_others(opened):
    opened("a")
    other = opened("b")
    assert with_current(other, find_runtime) is other


def test_a_worker_s_runtime_is_current_without_being_a_session():
    worker = FakeRuntime()
    assert with_current(worker, find_runtime) is worker


def test_a_current_session_that_closes_gives_way_to_the_open_one(opened):
    runtime = opened()
    assert with_current(FakeRuntime("old", closing=True), find_runtime) is runtime


def test_a_session_whose_loop_was_closed_is_no_choice(opened):
    gone, runtime = opened("gone"), opened("here")
    gone.loop.closed = True
    assert find_runtime() is runtime
    runtime.loop.closed = True
    with pytest.raises(NoSessionError, match="no session is open"):
        find_runtime()


def test_a_session_that_ended_is_no_choice(opened):
    first, second = opened("a"), opened("b")
    sessions.discard(first)
    sessions.discard(first)
    assert find_runtime() is second
