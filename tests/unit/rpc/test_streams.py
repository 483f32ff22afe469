from __future__ import annotations

import threading

import pytest

from actorlite.errors import ProtocolError
from actorlite.rpc.streams import LoopStream, ThreadStream
from actorlite.state.streams import SendWindow
from actorlite.wire.calls import Credit, Payload, StreamItem


def value(number: int) -> Payload:
    return Payload(1, b"%d" % number)


def outbound(link, items=2, size=0):
    return LoopStream(link.peer, 7, SendWindow(items, size))


def room(link, stream):
    return link.loop.run(stream.room())


def send(link, stream, number, size=1):
    assert room(link, stream).result()
    stream.send(value(number), [b"part"], size)


def test_items_are_numbered_and_carry_their_parts(link):
    stream = outbound(link)
    send(link, stream, 0)
    send(link, stream, 1)
    assert [parts[1:] for parts in link.connection.raw] == [(b"part",)] * 2
    assert link.connection.sent == [StreamItem(7, 0, value(0)), StreamItem(7, 1, value(1))]
    assert repr(stream) == "<LoopStream 7 open <SendWindow sent=2 out=2/2 items, 2/any bytes>>"


def test_a_sender_waits_for_credit(link):
    stream = outbound(link, 1)
    send(link, stream, 0)
    task = room(link, stream)
    assert not task.done()
    link.receive(Credit(7, 1, 1))
    link.loop.turn()
    assert task.result() is True


def test_bytes_count_too_and_one_item_of_any_size_finds_room(link):
    stream = outbound(link, 10, 100)
    send(link, stream, 0, 99)
    send(link, stream, 1, 5000)
    task = room(link, stream)
    assert not task.done()
    link.receive(Credit(7, 1, 99))
    link.loop.turn()
    assert not task.done()
    link.receive(Credit(7, 1, 5000))
    link.loop.turn()
    assert task.result() is True


def test_a_sender_waits_for_the_connection_too(link):
    stream = outbound(link)
    link.connection.full = link.loop.create_future()
    task = room(link, stream)
    assert not task.done()
    link.connection.full.set_result(None)
    link.loop.turn()
    assert task.result() is True


def test_a_cancelled_wait_leaves_the_stream_as_it_was(link):
    stream = outbound(link, 1)
    send(link, stream, 0)
    task = room(link, stream)
    task.cancel()
    link.loop.turn()
    assert task.cancelled()
    link.receive(Credit(7, 1, 1))
    send(link, stream, 1)


def test_there_is_one_waiting_sender_at_a_time(link):
    stream = outbound(link, 1)
    send(link, stream, 0)
    first = room(link, stream)
    with pytest.raises(RuntimeError, match="has a sender that waits already"):
        room(link, stream).result()
    stream.stop()
    link.loop.turn()
    assert first.result() is False


@pytest.mark.parametrize(
    ("sent", "items", "size"), [(0, 1, 0), (1, 0, 0), (1, -1, 0), (1, 2, 1), (1, 1, 2), (2, 2**62, 0)]
)
def test_credit_that_the_receiver_cannot_have_is_a_protocol_error(link, sent, items, size):
    stream = outbound(link, 2)
    for number in range(sent):
        send(link, stream, number)
    with pytest.raises(ProtocolError, match=f"credit of {items} items and {size} bytes"):
        link.receive(Credit(7, items, size))


@pytest.mark.parametrize("end", ["lost", "stopped"])
def test_the_end_wakes_the_sender_and_nothing_more_is_sent(link, end):
    stream = outbound(link, 1)
    send(link, stream, 0)
    waiting = room(link, stream)
    link.connection.raw.clear()
    if end == "lost":
        link.lose("the cable")
    else:
        stream.stop()
    link.loop.turn()
    assert waiting.result() is False and room(link, stream).result() is False
    stream.window.credit(1, 1)
    stream.send(value(1), [], 1)
    assert link.connection.raw == []


def test_a_stream_that_begins_on_a_lost_connection_is_stopped(link):
    link.lose()
    stream = outbound(link)
    assert room(link, stream).result() is False


def test_forgetting_leaves_a_later_stream_of_the_same_id_alone(link):
    old = outbound(link)
    new = outbound(link)
    old.forget()
    assert link.peer.streams == {7: new}
    new.forget()
    assert link.peer.streams == {}
    link.receive(Credit(7, 1))  # late credit is ignored


class ThreadLoop:
    """Keeps what a thread asks the loop to do."""

    def __init__(self):
        self.asked = []

    def is_closed(self):
        return False

    def call_soon_threadsafe(self, work):
        self.asked.append(work)


def threaded(link, items=2):
    loop = ThreadLoop()
    return ThreadStream(link.peer, 7, SendWindow(items), loop), loop


def nothing():
    pass


def test_what_a_thread_cannot_write_goes_out_by_the_loop_in_order(link):
    stream, loop = threaded(link)
    stream.send(value(0), [b"part"], 1)
    stream.send_held(value(1), [], 1, lambda: -5)
    assert link.connection.raw == [] and len(loop.asked) == 1
    loop.asked.pop()()
    assert link.connection.sent == [StreamItem(7, 0, value(0)), StreamItem(7, 1, value(1), -5)]
    stream.flush()
    assert link.connection.raw == []


def test_a_thread_writes_by_itself_only_when_nothing_is_queued(link):
    stream, loop = threaded(link, 4)
    written = []
    link.peer.send_from_thread = lambda *parts: written.append(parts) or True
    stream.send(value(0), [], 1)
    assert len(written) == 1 and not loop.asked
    stream.send_held(value(1), [], 1, lambda: -1)
    stream.send(value(2), [], 1)
    assert len(written) == 1, "item 2 must not overtake item 1"
    loop.asked.pop()()
    stream.send(value(3), [], 1)
    assert len(written) == 2
    assert [each.index for each in link.connection.sent] == [1, 2]


@pytest.mark.parametrize("end", ["credit", "stop", "loss"])
def test_a_thread_blocks_for_room_until_credit_or_the_end(link, end):
    stream, _ = threaded(link, 1)
    steps = []
    assert stream.room(nothing, nothing)
    stream.send(value(0), [], 1)
    waiting = threading.Event()
    found = []

    def wait():
        found.append(stream.room(lambda: (steps.append("waits"), waiting.set()), lambda: steps.append("goes on")))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(10)
    if end == "credit":
        link.receive(Credit(7, 1, 1))
    elif end == "stop":
        stream.stop()
    else:
        link.lose()
    thread.join(10)
    assert found == [end == "credit"] and steps == ["waits", "goes on"]
    assert "stopped" in repr(stream) or end == "credit"


def test_what_the_loop_sends_for_a_thread_comes_behind_what_the_thread_left_to_it(link):
    stream, loop = threaded(link, 3)
    stream.send(value(0), [b"part"], 1)
    stream.send_now(value(1), 1, -5)
    stream.send(value(2), [], 1)
    for work in loop.asked:
        work()
    assert link.connection.sent == [
        StreamItem(7, 0, value(0)),
        StreamItem(7, 1, value(1), -5),
        StreamItem(7, 2, value(2)),
    ]
    assert not stream.window.has_room


class Work:
    def __init__(self):
        self.cancelled = 0

    def cancel(self):
        self.cancelled += 1


@pytest.mark.parametrize("make", [outbound, lambda link: threaded(link)[0]], ids=["loop", "thread"])
@pytest.mark.parametrize("end", ["lost", "stopped"])
def test_the_end_cancels_the_storing_of_an_item(link, make, end):
    stream = make(link)
    stream.storing = work = Work()
    if end == "lost":
        link.lose("the cable")
    else:
        stream.stop()
    assert work.cancelled == 1
    link.connection.raw.clear()
    stream.send_now(value(0), 1, 0)
    assert link.connection.raw == []
