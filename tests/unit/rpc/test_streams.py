from __future__ import annotations

import pytest

from actorlite.errors import ConnectionLost, Outcome, ProtocolError
from actorlite.rpc.streams import InboundStream, OutboundStream
from actorlite.wire.messages import Cancel, Credit, Failed, Payload, Rejected, Reply, StreamItem, encode


def value(number: int) -> Payload:
    return Payload(1, b"%d" % number)


def inbound(link, window=4, id=7):
    stream = InboundStream(link.peer, id, window=window)
    link.peer.call(id, stream, encode(Cancel(99)))
    assert link.connection.sent == [Cancel(99)]
    return stream


def arrive(link, *numbers, id=7):
    for number in numbers:
        link.receive(StreamItem(id, number, value(number)), b"part %d" % number)


async def take(stream):
    payload, parts = await anext(stream)
    return payload.data, bytes(parts[1])


def taken(link, stream):
    return link.loop.run(take(stream)).result()


# --- receiving


def test_items_are_yielded_in_order_with_their_parts_until_the_answer(link):
    stream = inbound(link)
    arrive(link, 0, 1)
    link.receive(Reply(7, value(0)))

    async def everything():
        return [(payload.data, bytes(parts[1])) async for payload, parts in stream]

    assert link.loop.run(everything()).result() == [(b"0", b"part 0"), (b"1", b"part 1")]
    assert stream.end == Reply(7, value(0))
    assert repr(stream) == "<InboundStream 7 ended by Reply received=2 waiting=0/4>"


@pytest.mark.parametrize("answer", [Reply(7, value(0)), Failed(7, b"failure"), Rejected(7, "cancelled")])
def test_the_answer_ends_the_stream_for_good(link, answer):
    stream = inbound(link)
    task = link.loop.run(take(stream))
    assert not task.done()
    link.receive(answer)
    link.loop.turn()
    for each in (task, link.loop.run(take(stream))):
        with pytest.raises(StopAsyncIteration):
            each.result()
    assert stream.end == answer


def test_a_reader_waits_for_the_next_item(link):
    stream = inbound(link)
    task = link.loop.run(take(stream))
    arrive(link, 0)
    link.loop.turn()
    assert task.result() == (b"0", b"part 0")


def test_a_cancelled_reader_loses_no_item(link):
    stream = inbound(link)
    task = link.loop.run(take(stream))
    task.cancel()
    arrive(link, 0)
    link.loop.turn()
    assert task.cancelled()
    assert taken(link, stream) == (b"0", b"part 0")


def test_there_is_one_reader_at_a_time(link):
    stream = inbound(link)
    first = link.loop.run(take(stream))
    with pytest.raises(RuntimeError, match="is being read already"):
        link.loop.run(take(stream)).result()
    arrive(link, 0)
    link.loop.turn()
    assert first.result() == (b"0", b"part 0")


@pytest.mark.parametrize(("window", "credits"), [(1, [1] * 6), (2, [1] * 6), (4, [2, 2, 2]), (5, [3, 3]), (16, [])])
def test_credit_is_given_for_half_a_window_at_a_time(link, window, credits):
    stream = inbound(link, window)
    for number in range(6):
        arrive(link, number)
        taken(link, stream)
    assert link.connection.sent == [Credit(7, items) for items in credits]


def test_no_credit_is_given_for_items_that_were_not_taken(link):
    stream = inbound(link, 4)
    arrive(link, 0, 1, 2, 3)
    assert link.connection.sent == []
    assert repr(stream) == "<InboundStream 7 open received=4 waiting=4/4>"


def test_no_credit_is_given_after_the_answer(link):
    stream = inbound(link, 2)
    arrive(link, 0, 1)
    link.receive(Reply(7, value(0)))
    taken(link, stream)
    assert link.connection.sent == []


@pytest.mark.parametrize("read", [0, 1])
def test_an_item_that_there_is_no_room_for_is_a_protocol_error(link, read):
    stream = inbound(link, 4)
    arrive(link, 0, 1, 2, 3)
    for _ in range(read):
        taken(link, stream)
    with pytest.raises(ProtocolError, match="stream 7 sent more than the 4 items"):
        arrive(link, 4)


@pytest.mark.parametrize("numbers", [[1], [0, 0], [0, 2]])
def test_an_item_out_of_turn_is_a_protocol_error(link, numbers):
    stream = inbound(link)
    with pytest.raises(ProtocolError, match=f"item {numbers[-1]} of stream 7"):
        arrive(link, *numbers)
    assert stream.end is None


def test_a_lost_connection_is_raised_after_the_items_that_came_and_every_time(link):
    stream = inbound(link)
    arrive(link, 0)
    link.lose("the cable")
    assert taken(link, stream) == (b"0", b"part 0")
    assert repr(stream) == "<InboundStream 7 lost received=1 waiting=0/4>"
    errors = []
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="the cable") as raised:
            taken(link, stream)
        errors.append(raised.value)
    assert errors[0] is not errors[1] and errors[0].outcome is Outcome.UNKNOWN


def test_a_reader_that_waits_is_told_of_a_lost_connection(link):
    stream = inbound(link)
    task = link.loop.run(take(stream))
    link.lose()
    with pytest.raises(ConnectionLost):
        task.result()


def test_closing_early_cancels_the_call_and_drops_what_comes(link):
    stream = inbound(link, 2)
    arrive(link, 0)
    task = link.loop.run(stream.aclose())
    assert task.done() and link.connection.sent == [Cancel(7)]
    arrive(link, 1, 2, 3)
    assert repr(stream) == "<InboundStream 7 closed received=4 waiting=0/2>"
    link.receive(Rejected(7, "cancelled"))
    link.loop.run(stream.aclose())
    assert link.connection.sent == []
    with pytest.raises(StopAsyncIteration):
        taken(link, stream)


def test_closing_wakes_the_reader(link):
    stream = inbound(link)
    task = link.loop.run(take(stream))
    link.loop.run(stream.aclose())
    with pytest.raises(StopAsyncIteration):
        task.result()


@pytest.mark.parametrize("end", ["answer", "loss"])
def test_closing_what_has_ended_cancels_nothing(link, end):
    stream = inbound(link)
    if end == "answer":
        link.receive(Reply(7, value(0)))
    else:
        link.lose()
    link.loop.run(stream.aclose())
    assert link.connection.raw == []


# --- sending


def outbound(link, window=2, id=7):
    return OutboundStream(link.peer, id, window=window)


def send(link, stream, number):
    return link.loop.run(stream.send(value(number), b"part"))


def test_items_are_numbered_and_carry_their_parts(link):
    stream = outbound(link)
    assert send(link, stream, 0).done() and send(link, stream, 1).done()
    assert [parts[1:] for parts in link.connection.raw] == [(b"part",)] * 2
    assert link.connection.sent == [StreamItem(7, 0, value(0)), StreamItem(7, 1, value(1))]
    assert repr(stream) == "<OutboundStream 7 open sent=2 room=0/2>"


def test_a_sender_waits_for_credit(link):
    stream = outbound(link, 1)
    send(link, stream, 0)
    task = send(link, stream, 1)
    assert not task.done() and len(link.connection.sent) == 1
    link.receive(Credit(7, 1))
    link.loop.turn()
    assert task.exception() is None
    assert link.connection.sent == [StreamItem(7, 1, value(1))]


def test_a_sender_waits_for_the_connection_too(link):
    link.connection.full = link.loop.create_future()
    task = send(link, outbound(link), 0)
    assert link.connection.raw == []
    link.connection.full.set_result(None)
    link.loop.turn()
    assert task.exception() is None and len(link.connection.raw) == 1


@pytest.mark.parametrize("where", ["credit", "connection"])
def test_a_cancelled_send_has_sent_nothing(link, where):
    stream = outbound(link, 1)
    if where == "credit":
        send(link, stream, 0)
    else:
        link.connection.full = link.loop.create_future()
    link.connection.raw.clear()
    task = send(link, stream, 1)
    task.cancel()
    link.loop.turn()
    assert task.cancelled() and link.connection.raw == []
    link.connection.full = None
    if where == "credit":
        link.receive(Credit(7, 1))
    send(link, stream, 2)
    [item] = link.connection.sent
    assert item == StreamItem(7, int(where == "credit"), value(2)), "the next item takes its number"


def test_there_is_one_waiting_sender_at_a_time(link):
    stream = outbound(link, 1)
    send(link, stream, 0)
    first = send(link, stream, 1)
    with pytest.raises(RuntimeError, match="has a sender that waits already"):
        send(link, stream, 2).result()
    stream.finish(encode(Reply(7, value(0))))
    link.loop.turn()
    with pytest.raises(RuntimeError, match="takes no more items"):
        first.result()


@pytest.mark.parametrize(("sent", "items"), [(0, 1), (1, 0), (1, -1), (1, 2), (2, 3), (2, 2**62)])
def test_credit_that_the_receiver_cannot_have_is_a_protocol_error(link, sent, items):
    stream = outbound(link, 2)
    for number in range(sent):
        send(link, stream, number)
    with pytest.raises(ProtocolError, match=f"credit of {items} items"):
        link.receive(Credit(7, items))
    assert repr(stream) == f"<OutboundStream 7 open sent={sent} room={2 - sent}/2>"


def test_the_first_answer_ends_the_stream_and_late_credit_is_ignored(link):
    stream = outbound(link)
    send(link, stream, 0)
    stream.finish(encode(Reply(7, value(1))), b"part")
    stream.finish(encode(Failed(7, b"too late")))
    assert link.connection.sent == [StreamItem(7, 0, value(0)), Reply(7, value(1))]
    assert link.peer.streams == {}
    link.receive(Credit(7, 1))
    with pytest.raises(RuntimeError, match="takes no more items"):
        send(link, stream, 1).result()
    assert repr(stream) == "<OutboundStream 7 ended sent=1 room=1/2>"


def test_a_lost_connection_is_raised_at_the_sender_that_waits_and_at_the_next(link):
    stream = outbound(link, 1)
    send(link, stream, 0)
    waiting = send(link, stream, 1)
    link.lose("the cable")
    assert repr(stream) == "<OutboundStream 7 lost sent=1 room=0/1>"
    for task in (waiting, send(link, stream, 2)):
        with pytest.raises(ConnectionLost):
            task.result()
    stream.finish(encode(Reply(7, value(1))))


def test_a_stream_that_begins_on_a_lost_connection_fails_at_its_first_item(link):
    link.lose()
    with pytest.raises(ConnectionLost):
        send(link, outbound(link), 0).result()


def test_finishing_leaves_a_later_stream_of_the_same_id_alone(link):
    old = outbound(link)
    new = outbound(link)
    old.finish(encode(Reply(7, value(0))))
    assert link.peer.streams == {7: new}
