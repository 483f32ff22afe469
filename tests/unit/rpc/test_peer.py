from __future__ import annotations

import logging
import pickle

import pytest

from actorlite.errors import (
    ActorliteError,
    AuthenticationError,
    ConnectionLost,
    Outcome,
    ProtocolError,
    TaskUnschedulableError,
    VersionMismatch,
)
from actorlite.rpc import peer as peer_module
from actorlite.rpc.handshake import MAX_HANDSHAKE_BYTES
from actorlite.rpc.peer import MAX_MESSAGE_BYTES
from actorlite.wire.calls import Cancel, Credit, Exists, Failed, Payload, Rejected, Reply, StreamItem, Taken
from actorlite.wire.messages import CancelRequest, Hello, Proof, Refused, Request, Response, Welcome, encode
from actorlite.wire.nodes import Chunk
from actorlite.wire.requests import NodeStatus, Retire, StopNode, Yes

VALUE = Payload(1, b"value")


class Waiter:
    """A `Pending` that keeps what it is told."""

    def __init__(self, then=None):
        self.answers = []
        self.losses = []
        self.then = then

    def answered(self, message, parts):
        self.answers.append(message)
        if self.then is not None:
            self.then()

    item = answered

    def lost(self, error):
        self.losses.append(error)


# --- opening


def test_a_peer_opens_when_both_sides_have_proved_themselves(link):
    assert link.opened == [link.peer]
    assert link.peer.is_open and link.peer.opened.result() is link.peer
    assert link.peer.identity == link.other.identity
    assert link.peer.address == "fake://peer"
    assert repr(link.peer) == f"<Peer worker {2:016x} open pending=0 deferred=0>"


def test_an_accepted_peer_opens_too(new_link):
    link = new_link(connecting=False).open()
    assert link.opened == [link.peer] and link.peer.is_open


def test_before_it_is_open_only_small_messages_are_taken_and_nobody_is_known(new_link):
    link = new_link()
    assert link.peer.max_message_bytes == MAX_HANDSHAKE_BYTES
    assert repr(link.peer) == "<Peer handshaking opening pending=0 deferred=0>"
    assert link.peer.address == "?"
    with pytest.raises(ProtocolError, match="not over"):
        link.peer.identity  # noqa: B018
    assert link.open().peer.max_message_bytes == MAX_MESSAGE_BYTES


@pytest.mark.parametrize("data", [b"", b"garbage", pickle.dumps(print), encode(Cancel(1)), encode(Proof(b"proof"))])
def test_a_stranger_who_talks_nonsense_is_refused_and_the_connection_closed(new_link, data):
    link = new_link(connecting=False)
    link.attach()
    link.receive_raw(data)
    link.loop.turn()
    [refused] = link.connection.sent
    assert isinstance(refused, Refused) and refused.kind == "authentication"
    assert link.connection.ended
    assert isinstance(link.peer.opened.exception(), ProtocolError)
    assert link.opened == [] and link.lost == []


def test_a_stranger_with_another_token_is_refused(new_link):
    link = new_link(connecting=False)
    link.attach()
    link.receive_raw(link.other.start())
    assert len(link.connection.sent) == 1
    link.receive(Proof(b"\x00" * 32))
    link.loop.turn()
    [refused] = link.connection.sent
    assert refused.kind == "authentication"
    assert isinstance(link.peer.opened.exception(), AuthenticationError)


def test_another_version_is_told_so(new_link):
    link = new_link(connecting=False)
    link.attach()
    link.receive(Hello(99, link.other.identity, bytes(32)))
    link.loop.turn()
    [refused] = link.connection.sent
    assert refused.kind == "version" and "version 99" in refused.text
    assert isinstance(link.peer.opened.exception(), VersionMismatch)


def test_what_a_refused_stranger_says_next_is_not_heard(new_link):
    link = new_link(connecting=False)
    link.attach()
    link.receive_raw(b"garbage")
    link.receive_raw(link.other.start())
    assert len(link.connection.sent) == 1, "the refusal only"
    link.loop.turn()


def test_a_refused_connecting_side_raises_what_it_was_told(new_link):
    link = new_link()
    link.attach()
    link.receive(Refused("version", "upgrade"))
    link.loop.turn()
    assert isinstance(link.peer.opened.exception(), VersionMismatch)
    assert link.connection.ended


def test_a_connection_lost_during_the_handshake_fails_opening(new_link):
    link = new_link()
    link.attach()
    link.lose("gone")
    with pytest.raises(ConnectionLost, match="gone"):
        link.peer.opened.result()
    assert link.lost == [], "it never was a peer"


def test_a_late_stranger_is_refused_once_and_an_open_peer_no_more(new_link):
    link = new_link(connecting=False)
    link.attach()
    link.peer.refuse(AuthenticationError("late"))
    link.peer.refuse(AuthenticationError("later"))
    link.loop.turn()
    assert [each.text for each in link.connection.sent] == ["late"]


def test_handshake_messages_after_the_handshake_are_a_protocol_error(link):
    with pytest.raises(ProtocolError, match="does not take Welcome"):
        link.receive(Welcome())


# --- calls


def test_an_answer_goes_to_whoever_waits_for_its_id(link):
    first, second = Waiter(), Waiter()
    link.peer.call(1, first, b"one", b"part")
    link.peer.call(2, second, b"two")
    assert link.connection.raw == [(b"one", b"part"), (b"two",)]
    link.receive(Reply(2, VALUE))
    link.receive(Failed(1, b"failure"))
    assert first.answers == [Failed(1, b"failure")]
    assert second.answers == [Reply(2, VALUE)]


@pytest.mark.parametrize("answer", [Reply(1, VALUE), Failed(1, b""), Rejected(1, "expired"), Exists(1)])
def test_only_the_first_answer_counts(link, answer):
    waiter = Waiter()
    link.peer.call(1, waiter, b"call")
    link.receive(answer)
    link.receive(answer)
    link.lose()
    assert waiter.answers == [answer] and waiter.losses == []


def test_an_answer_that_nobody_waits_for_is_ignored(link):
    link.receive(Reply(7, VALUE))
    assert link.peer.is_open


def test_items_of_a_stream_come_before_its_answer(link):
    waiter = Waiter()
    link.peer.call(1, waiter, b"call")
    messages = [StreamItem(1, 0, VALUE), StreamItem(1, 1, VALUE), Reply(1, VALUE)]
    for message in [*messages, StreamItem(1, 2, VALUE)]:
        link.receive(message)
    assert waiter.answers == messages


def test_an_item_for_what_is_no_stream_is_a_protocol_error(link):
    task = link.loop.run(link.peer.request(1, NodeStatus()))
    with pytest.raises(ProtocolError, match="which is no stream"):
        link.receive(StreamItem(1, 0, VALUE))
    task.cancel()
    link.loop.turn()


def test_a_lost_connection_tells_everybody_once_what_is_known(link):
    waiters = [Waiter() for _ in range(3)]
    for number, waiter in enumerate(waiters):
        link.peer.call(number, waiter, b"call")
    link.receive(Reply(0, VALUE))
    link.lose("the cable")
    assert waiters[0].losses == []
    for waiter in waiters[1:]:
        [error] = waiter.losses
        assert "the cable" in str(error) and error.outcome is Outcome.UNKNOWN
    assert [str(error) for error in link.lost] == ["the cable"]
    assert repr(link.peer) == f"<Peer worker {2:016x} closed pending=0 deferred=0>"


def test_a_waiter_that_fails_does_not_hide_the_end_from_the_others(link, caplog):
    class Broken(Waiter):
        def lost(self, error):
            raise LookupError("on purpose")

    waiter = Waiter()
    link.peer.call(1, Broken(), b"call")
    link.peer.call(2, waiter, b"call")
    link.lose()
    assert len(waiter.losses) == 1 and len(link.lost) == 1
    assert "on purpose" in caplog.text


def test_a_waiter_may_call_again_when_it_is_told_of_the_end(link):
    class Retrying(Waiter):
        def lost(self, error):
            super().lost(error)
            with pytest.raises(ConnectionLost) as raised:
                link.peer.call(2, Waiter(), b"again")
            assert raised.value.outcome is Outcome.NOT_EXECUTED

    waiter = Retrying()
    link.peer.call(1, waiter, b"call")
    link.lose()
    assert len(waiter.losses) == 1


def test_closing_here_tells_everybody_too_and_the_owner_that_it_was_us(link):
    waiter = Waiter()
    link.peer.call(1, waiter, b"call")
    link.loop.run(link.peer.aclose())
    assert "closed here" in str(waiter.losses[0])
    assert link.lost == [None]
    link.loop.run(link.peer.aclose())
    assert len(waiter.losses) == 1


@pytest.mark.parametrize("how", ["ended", "closing"])
def test_on_a_closed_connection_a_call_was_surely_not_sent(link, how):
    if how == "ended":
        link.lose()
    link.connection.closing = True
    waiter = Waiter()
    with pytest.raises(ConnectionLost) as raised:
        link.peer.call(1, waiter, b"call")
    assert raised.value.outcome is Outcome.NOT_EXECUTED
    link.lose()
    assert waiter.losses == [], "the caller knows already"


@pytest.mark.parametrize("how", ["ended", "closing", "unattached"])
def test_news_for_a_lost_peer_are_dropped(link, new_link, how):
    if how == "unattached":
        new_link().peer.tell(b"news")
        return
    if how == "ended":
        link.lose()
    link.connection.closing = True
    link.peer.tell(b"news")
    assert link.connection.raw == []


# --- cancels


def test_cancel_asks_and_the_answer_still_comes(link):
    waiter = Waiter()
    link.peer.call(1, waiter, encode(Cancel(99)))
    link.peer.cancel(1)
    assert link.connection.sent == [Cancel(99), Cancel(1)]
    link.receive(Rejected(1, "cancelled"))
    assert waiter.answers == [Rejected(1, "cancelled")]


def test_cancel_of_an_unknown_or_answered_call_sends_nothing(link):
    link.peer.cancel(7)
    link.peer.call(1, Waiter(), b"call")
    link.receive(Reply(1, VALUE))
    link.connection.raw.clear()
    link.peer.cancel(1)
    assert link.connection.raw == []


def test_cancel_on_a_connection_that_is_closing_does_not_raise(link):
    link.peer.call(1, Waiter(), b"call")
    link.connection.closing = True
    link.peer.cancel(1)
    link.lose()
    link.peer.cancel(1)


# --- too many calls


@pytest.fixture
def only_two(monkeypatch):
    monkeypatch.setattr(peer_module, "MAX_UNANSWERED", 2)


@pytest.mark.usefixtures("only_two")
def test_calls_above_the_bound_wait_here_and_go_in_order(link):
    waiters = [Waiter() for _ in range(5)]
    for number, waiter in enumerate(waiters):
        link.peer.call(number, waiter, b"%d" % number)
    assert link.connection.raw == [(b"0",), (b"1",)]
    assert "pending=2 deferred=3" in repr(link.peer)
    link.receive(Reply(1, VALUE))
    assert link.connection.raw[2:] == [(b"2",)]
    link.receive(Reply(0, VALUE))
    link.receive(Reply(2, VALUE))
    assert link.connection.raw[3:] == [(b"3",), (b"4",)]
    assert all(len(waiter.answers) == 1 for waiter in waiters[:3])


@pytest.mark.usefixtures("only_two")
def test_a_call_made_while_an_answer_is_given_does_not_overtake_those_that_wait(link):
    late = Waiter()
    link.peer.call(0, Waiter(then=lambda: link.peer.call(9, late, b"late")), b"0")
    for number in (1, 2):
        link.peer.call(number, Waiter(), b"%d" % number)
    link.receive(Reply(0, VALUE))
    link.receive(Reply(1, VALUE))
    assert link.connection.raw == [(b"0",), (b"1",), (b"2",), (b"late",)]


@pytest.mark.usefixtures("only_two")
def test_a_call_that_waits_here_is_cancelled_without_being_sent(link):
    waiters = [Waiter() for _ in range(4)]
    for number, waiter in enumerate(waiters):
        link.peer.call(number, waiter, b"%d" % number)
    link.peer.cancel(2)
    assert waiters[2].answers == [Rejected(2, "cancelled")]
    link.receive(Reply(0, VALUE))
    assert link.connection.raw == [(b"0",), (b"1",), (b"3",)]


@pytest.mark.usefixtures("only_two")
def test_when_the_connection_is_lost_those_that_waited_here_have_surely_not_run(link):
    waiters = [Waiter() for _ in range(4)]
    for number, waiter in enumerate(waiters):
        link.peer.call(number, waiter, b"call")
    link.lose()
    outcomes = [error.outcome for waiter in waiters for error in waiter.losses]
    assert outcomes == [Outcome.UNKNOWN] * 2 + [Outcome.NOT_EXECUTED] * 2


@pytest.mark.usefixtures("only_two")
def test_a_call_that_cannot_be_sent_any_more_is_not_forgotten(link):
    waiters = [Waiter() for _ in range(3)]
    for number, waiter in enumerate(waiters):
        link.peer.call(number, waiter, b"call")
    link.connection.closing = True
    link.receive(Reply(0, VALUE))
    link.lose()
    [error] = waiters[2].losses
    assert error.outcome is Outcome.NOT_EXECUTED


@pytest.mark.usefixtures("only_two")
def test_cancelled_requests_make_room_for_calls_that_wait(link):
    tasks = [link.loop.run(link.peer.request(number, NodeStatus())) for number in range(2)]
    link.peer.call(2, Waiter(), encode(Cancel(2)))
    tasks[0].cancel()
    link.loop.turn()
    assert tasks[0].cancelled()
    assert link.connection.sent[-1] == Cancel(2)
    tasks[1].cancel()
    link.loop.turn()


# --- requests


def test_a_request_returns_the_typed_response(link):
    task = link.loop.run(link.peer.request(5, NodeStatus()))
    assert link.connection.sent == [Request(5, NodeStatus())]
    link.receive(Response(5, Yes(True)))
    link.loop.turn()
    assert task.result() == Yes(True)


@pytest.mark.parametrize(
    ("kind", "text", "raised"),
    [
        ("TaskUnschedulableError", "too big", TaskUnschedulableError),
        ("ActorliteError", "", ActorliteError),
        ("NoSuchError", "new", ActorliteError),
        ("Enum", "not an error", ActorliteError),
        ("annotations", "not a class", ActorliteError),
    ],
)
def test_a_request_raises_what_the_other_side_answered(link, kind, text, raised):
    task = link.loop.run(link.peer.request(5, NodeStatus()))
    link.receive(Response(5, None, text, kind))
    link.loop.turn()
    assert type(task.exception()).__name__ == raised.__name__ and str(task.exception()) == text


def test_a_request_raises_when_the_connection_is_lost(link):
    task = link.loop.run(link.peer.request(5, NodeStatus()))
    link.lose("gone")
    with pytest.raises(ConnectionLost, match="gone"):
        task.result()


def test_the_response_to_a_cancelled_request_is_ignored(link):
    task = link.loop.run(link.peer.request(5, NodeStatus()))
    task.cancel()
    link.loop.turn()
    link.receive(Response(5, Yes(True)))
    link.lose()
    assert task.cancelled()


def serve(link, body, handler):
    link.handlers.on_requests({type(body): handler})
    link.receive(Request(3, body))
    link.loop.turn()
    return link.connection.sent


def test_a_request_is_served_by_the_handler_of_its_type(link):
    async def retire(peer, body):
        assert peer is link.peer and body == Retire()
        return Yes(False)

    assert serve(link, Retire(), retire) == [Response(3, Yes(False))]


def test_an_error_of_ours_travels_with_its_type(link):
    async def refuse(peer, body):
        raise TaskUnschedulableError("no room")

    assert serve(link, Retire(), refuse) == [Response(3, None, "no room", "TaskUnschedulableError")]


def test_any_other_error_is_logged_and_answered(link, caplog):
    async def fail(peer, body):
        raise KeyError("x")

    assert serve(link, Retire(), fail) == [Response(3, None, "KeyError: 'x'", "ActorliteError")]
    assert "request Retire failed" in caplog.text


def test_a_request_that_is_not_served_here_is_answered(link):
    link.receive(Request(3, StopNode()))
    [response] = link.connection.sent
    assert response.error_kind == "ProtocolError" and "StopNode is not served here" in response.error


def test_handlers_end_with_the_connection(link):
    ended = []

    async def for_ever(peer, body):
        try:
            await link.loop.create_future()
        finally:
            ended.append(True)

    assert serve(link, Retire(), for_ever) == []
    link.lose()
    assert ended == [True] and link.connection.raw == []


def test_a_response_that_cannot_be_sent_any_more_is_dropped(link, caplog):
    gate = link.loop.create_future()

    async def slow(peer, body):
        return await gate

    serve(link, Retire(), slow)
    link.connection.closing = True
    gate.set_result(Yes(True))
    link.loop.turn()
    assert link.loop.problems == [] and not [each for each in caplog.records if each.levelno >= logging.ERROR]


# --- requests whose cancellation the other side hears of


def asked(link, number=5):
    """A request under way, and what is to be undone of it."""
    undone = []
    task = link.loop.run(link.peer.ask(number, NodeStatus(), undone.append))
    assert link.connection.sent == [Request(number, NodeStatus())]
    return task, undone


def has_no_entries(link):
    return not link.peer._pending and not link.peer._deferred and not link.peer._serving


def test_asking_returns_the_typed_response(link):
    task, undone = asked(link)
    link.receive(Response(5, Yes(True)))
    link.loop.turn()
    assert task.result() == Yes(True) and undone == [] and has_no_entries(link)


def test_asking_raises_what_the_other_side_answered(link):
    task, undone = asked(link)
    link.receive(Response(5, None, "no room", "TaskUnschedulableError"))
    link.loop.turn()
    assert isinstance(task.exception(), TaskUnschedulableError) and undone == [] and has_no_entries(link)


def test_the_other_side_hears_when_who_asks_is_cancelled(link):
    task, undone = asked(link)
    task.cancel()
    link.loop.turn()
    assert task.cancelled() and link.connection.sent == [CancelRequest(5)]
    link.receive(Response(5, None, "it was cancelled", "ActorliteError"))
    assert undone == [] and has_no_entries(link)


def test_an_answer_that_was_under_way_is_undone_once(link):
    task, undone = asked(link)
    task.cancel()
    link.loop.turn()
    link.receive(Response(5, Yes(True)))
    link.receive(Response(5, Yes(False)))
    link.lose()
    assert task.cancelled() and undone == [Yes(True)] and has_no_entries(link)


def test_an_answer_that_comes_before_who_asks_hears_of_his_cancellation_is_undone(link):
    task, undone = asked(link)
    task.cancel()
    link.receive(Response(5, Yes(True)))
    link.loop.turn()
    assert task.cancelled() and undone == [Yes(True)]
    assert link.connection.sent == [] and has_no_entries(link)


def test_an_answer_that_who_asks_has_not_seen_yet_is_undone(link):
    task, undone = asked(link)
    link.receive(Response(5, Yes(True)))
    task.cancel()
    link.loop.turn()
    assert task.cancelled() and undone == [Yes(True)]
    assert link.connection.sent == [] and has_no_entries(link)


@pytest.mark.parametrize("when", ["before", "after"])
def test_of_an_error_nothing_is_undone(link, when):
    task, undone = asked(link)
    if when == "after":
        task.cancel()
    link.receive(Response(5, None, "no", "ActorliteError"))
    task.cancel()
    link.loop.turn()
    assert task.cancelled() and undone == [] and has_no_entries(link)


@pytest.mark.parametrize("how", ["lost", "cancelled, lost", "lost, cancelled", "cancelled at once, lost"])
def test_of_a_lost_connection_nothing_is_undone(link, how):
    task, undone = asked(link)
    if how.startswith("cancelled"):
        task.cancel()
    if how.startswith("cancelled,"):
        link.loop.turn()
    link.connection.end(ConnectionLost("gone"))
    if how.endswith("cancelled"):
        task.cancel()
    link.loop.turn()
    assert task.cancelled() == (how != "lost") and undone == [] and has_no_entries(link)
    if how == "lost":
        with pytest.raises(ConnectionLost, match="gone"):
            task.result()


def test_asking_on_a_lost_connection_raises_and_leaves_nothing(link):
    link.lose()
    task = link.loop.run(link.peer.ask(5, NodeStatus(), pytest.fail))
    assert task.exception().outcome is Outcome.NOT_EXECUTED and has_no_entries(link)


@pytest.mark.usefixtures("only_two")
def test_what_waits_here_to_be_asked_is_cancelled_without_being_sent(link):
    for number in range(2):
        link.peer.call(number, Waiter(), encode(Cancel(number)))
    tasks = [link.loop.run(link.peer.ask(number, NodeStatus(), pytest.fail)) for number in (2, 3)]
    tasks[0].cancel()
    link.loop.turn()
    assert tasks[0].cancelled() and link.connection.sent == [Cancel(0), Cancel(1)]
    link.receive(Reply(0, VALUE))
    link.receive(Reply(1, VALUE))
    assert link.connection.sent == [Request(3, NodeStatus())]
    link.receive(Response(3, Yes(True)))
    link.loop.turn()
    assert tasks[1].result() == Yes(True) and has_no_entries(link)


def test_a_request_that_is_cancelled_before_it_is_begun_is_never_begun(link):
    async def handler(peer, body):
        pytest.fail("it was begun")

    link.handlers.on_requests({Retire: handler})
    link.receive(Request(3, Retire()))
    link.receive(CancelRequest(3))
    link.loop.turn()
    assert link.connection.sent == [Response(3, None, "it was cancelled", "ActorliteError")]
    assert has_no_entries(link)


def test_a_request_that_is_cancelled_while_it_is_served_is_answered_when_it_has_cleaned_up(link):
    cleaned = link.loop.create_future()

    async def handler(peer, body):
        try:
            await link.loop.create_future()
        finally:
            await cleaned

    assert serve(link, Retire(), handler) == []
    link.receive(CancelRequest(3))
    link.loop.turn()
    assert link.connection.sent == []
    cleaned.set_result(None)
    link.loop.turn()
    assert link.connection.sent == [Response(3, None, "it was cancelled", "ActorliteError")]
    assert has_no_entries(link)


def test_a_handler_that_answers_in_spite_of_its_cancellation_has_answered(link):
    async def handler(peer, body):
        try:
            await link.loop.create_future()
        except BaseException:
            return Yes(True)

    serve(link, Retire(), handler)
    link.receive(CancelRequest(3))
    link.loop.turn()
    assert link.connection.sent == [Response(3, Yes(True))] and has_no_entries(link)


def test_cancelling_what_is_answered_or_unknown_does_nothing(link):
    async def handler(peer, body):
        return Yes(True)

    assert serve(link, Retire(), handler) == [Response(3, Yes(True))]
    link.receive(CancelRequest(3))
    link.receive(CancelRequest(4))
    link.loop.turn()
    assert link.connection.sent == [] and has_no_entries(link)


def test_of_two_requests_with_one_number_each_is_answered(link):
    gates = [link.loop.create_future() for _ in range(2)]
    turn = iter(gates)

    async def handler(peer, body):
        return await next(turn)

    serve(link, Retire(), handler)
    serve(link, Retire(), handler)
    for gate in gates:
        gate.set_result(Yes(True))
        link.loop.turn()
    assert link.connection.sent == [Response(3, Yes(True))] * 2
    assert link.loop.problems == [] and has_no_entries(link)


def test_a_lost_connection_leaves_no_requests_that_are_served(link):
    async def handler(peer, body):
        await link.loop.create_future()

    serve(link, Retire(), handler)
    link.lose()
    assert link.loop.problems == [] and has_no_entries(link)


# --- room for what comes


class Roomy(Waiter):
    def __init__(self):
        super().__init__()
        self.sizes = []
        self.memory = memoryview(bytearray(10))

    def room(self, size):
        self.sizes.append(size)
        return self.memory[:size] if size <= 10 else None


def test_who_waits_for_bytes_says_where_they_go(link):
    waiter = Roomy()
    link.peer.call(1, waiter, b"call")
    room = link.peer.room_for(memoryview(encode(Chunk(1))), 4)
    room[:] = b"data"
    assert bytes(waiter.memory[:4]) == b"data"
    assert link.peer.room_for(memoryview(encode(Chunk(1))), 11) is None
    assert waiter.sizes == [4, 11]
    assert waiter.answers == [], "only when all of it is there"
    link.receive(Chunk(1), b"data")
    assert waiter.answers == [Chunk(1)]


@pytest.mark.parametrize(
    "first", [encode(Chunk(2)), encode(Chunk(3)), encode(Reply(1, VALUE)), encode(Taken(1)), b"", b"garbage"]
)
def test_for_everything_else_there_is_no_room(link, first):
    link.peer.call(1, Roomy(), b"call")
    link.peer.call(2, Waiter(), b"call")
    assert link.peer.room_for(memoryview(first), 4) is None
    assert link.peer.is_open, "it is refused when it is whole, if it has to be"


def test_what_has_its_answer_has_no_room_any_more(link):
    link.peer.call(1, Roomy(), b"call")
    link.receive(Chunk(1, "no"))
    assert link.peer.room_for(memoryview(encode(Chunk(1))), 4) is None


def test_a_stranger_is_given_no_room(new_link):
    link = new_link(connecting=False)
    link.attach()
    link.peer._pending[1] = Roomy()
    assert link.peer.room_for(memoryview(encode(Chunk(1))), 4) is None


# --- other messages


def test_a_message_goes_to_the_handler_of_its_type_with_its_parts(link):
    seen = []
    link.handlers.on_messages({Taken: lambda *given: seen.append(given)})
    link.receive(Taken(4), b"part")
    [(peer, message, parts)] = seen
    assert peer is link.peer and message == Taken(4)
    assert [bytes(part) for part in parts] == [encode(Taken(4)), b"part"]


def test_a_message_that_nobody_takes_is_a_protocol_error(link):
    with pytest.raises(ProtocolError, match="does not take Taken"):
        link.receive(Taken(4))


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x92\x2a\xa1\xff"])
def test_undecodable_bytes_are_a_protocol_error_that_says_from_whom(link, data):
    with pytest.raises(ProtocolError, match="undecodable message from <Peer worker"):
        link.receive_raw(data)


def test_credit_goes_to_the_stream_and_is_ignored_when_that_has_ended(link):
    class Stream:
        items = 0
        losses = 0

        def credit(self, items, size):
            self.items += items

        def lost(self, error):
            self.losses += 1

    stream = link.peer.streams[3] = Stream()
    link.receive(Credit(3, 8))
    link.receive(Credit(4, 8))
    assert stream.items == 8
    link.lose()
    assert stream.losses == 1 and not link.peer.streams


def test_send_puts_out_the_parts_as_they_are(link):
    link.peer.send(b"one", memoryview(b"two"))
    assert link.connection.raw == [(b"one", memoryview(b"two"))]


def test_drain_waits_for_the_connection(link):
    link.connection.full = link.loop.create_future()
    task = link.loop.run(link.peer.drain())
    assert not task.done()
    link.connection.full.set_result(None)
    link.loop.turn()
    assert task.done() and task.exception() is None


def test_an_unattached_peer_drains_and_closes_at_once(new_link):
    link = new_link()
    assert link.loop.run(link.peer.drain()).done()
    assert link.loop.run(link.peer.aclose()).done()
