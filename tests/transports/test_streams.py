"""Streams between two hubs: what only shows when both ends and a connection are there."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing, asynccontextmanager

import pytest

from actorlite.errors import ConnectionLost
from actorlite.host import SystemEntropy
from actorlite.ids import process_id
from actorlite.rpc.handshake import PYTHON
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers
from actorlite.rpc.streams import InboundStream, OutboundStream
from actorlite.wire.messages import CANCELLED, Cancel, Failed, Fetch, Identity, Payload, Rejected, Reply, encode

WINDOW = 4
SCHEMES = ("inproc", "uds")


class Producer:
    """Answers every `Fetch` by a stream of as many items as its object's id says."""

    def __init__(self, size=0):
        self.size = size
        self.sent = 0
        self.tasks = {}
        self.streams = []
        self.errors = []
        self.handlers = Handlers()
        self.handlers.on_messages({Fetch: self.begin, Cancel: self.cancel})

    def begin(self, peer, message, parts):
        stream = OutboundStream(peer, message.id, window=WINDOW)
        self.streams.append(stream)
        self.tasks[message.id] = asyncio.get_running_loop().create_task(self.produce(stream, int(message.object)))

    def cancel(self, peer, message, parts):
        self.tasks[message.id].cancel()

    async def produce(self, stream, count):
        try:
            for number in range(count):
                payload = Payload(1, b"%d" % number, 1 if self.size else 0)
                await stream.send(payload, *([bytes(self.size)] if self.size else []))
                self.sent += 1
            stream.finish(encode(Reply(stream.id, Payload(1, b"end"))))
        except asyncio.CancelledError:
            stream.finish(encode(Rejected(stream.id, CANCELLED)))
        except ConnectionLost as error:
            self.errors.append(error)
            stream.finish(encode(Failed(stream.id, b"lost")))


def hub_of(handlers, number):
    me = Identity(process_id(bytes([number]) * 8), "worker", "", os.getpid(), PYTHON)
    return Hub(me, b"token", SystemEntropy(), handlers)


@asynccontextmanager
async def between(producer, address):
    """The consumer's peer, connected to the producer."""
    serving, asking = hub_of(producer.handlers, 1), hub_of(Handlers(), 2)
    try:
        peer = await asking.connect(await serving.listen(address))
        yield asking, peer
    finally:
        await asking.aclose()
        await serving.aclose()
        await asyncio.gather(*producer.tasks.values())


def ask(hub, peer, count):
    number = next(hub.numbers)
    stream = InboundStream(peer, number, window=WINDOW)
    peer.call(number, stream, encode(Fetch(number, str(count), True)))
    return stream


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


async def numbers(stream):
    return [int(payload.data) async for payload, parts in stream]


@pytest.fixture(params=SCHEMES)
def address(request, directory):
    return {"inproc": "inproc://streams", "uds": f"uds://{directory}/s.sock"}[request.param]


@pytest.mark.parametrize("count", [0, 1, WINDOW, 100])
def test_all_items_and_then_the_end(run, address, count):
    async def main():
        producer = Producer()
        async with between(producer, address) as (hub, peer):
            stream = ask(hub, peer, count)
            assert await numbers(stream) == list(range(count))
            assert stream.end == Reply(stream.id, Payload(1, b"end"))
            assert await numbers(stream) == []

    run(main)


def test_many_streams_share_a_connection(run, address):
    async def main():
        producer = Producer()
        async with between(producer, address) as (hub, peer):
            streams = [ask(hub, peer, count) for count in range(30)]
            assert await asyncio.gather(*map(numbers, streams)) == [list(range(count)) for count in range(30)]
            assert "pending=0" in repr(peer) and not any(each._peer.streams for each in producer.streams)

    run(main)


def test_a_slow_consumer_never_holds_more_than_a_window(run, address):
    async def main():
        producer = Producer()
        async with between(producer, address) as (hub, peer):
            stream = ask(hub, peer, 50)
            for taken in range(50):
                # The producer goes as far as it can.
                credited = taken - taken % (WINDOW // 2)
                allowed = min(50, credited + WINDOW)
                await until(lambda allowed=allowed: producer.sent == allowed)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert producer.sent == allowed
                payload, _ = await anext(stream)
                assert int(payload.data) == taken
            assert await numbers(stream) == []

    run(main)


def test_large_items_arrive_whole(run, address):
    async def main():
        producer = Producer(size=2**20)
        async with between(producer, address) as (hub, peer):
            sizes = [len(parts[1]) async for _, parts in ask(hub, peer, 2 * WINDOW)]
            assert sizes == [2**20] * 2 * WINDOW

    run(main)


def test_closing_early_ends_the_producer_that_waits_for_credit(run, address):
    async def main():
        producer = Producer()
        async with between(producer, address) as (hub, peer):
            async with aclosing(ask(hub, peer, 10**6)) as stream:
                async for payload, _ in stream:
                    if int(payload.data) == 10:
                        break
            await until(lambda: stream.end is not None)
            assert stream.end == Rejected(stream.id, CANCELLED)
            assert producer.sent <= 11 + WINDOW
            assert await numbers(ask(hub, peer, 3)) == [0, 1, 2], "the connection is as good as before"

    run(main)


def test_cancelling_the_reading_task_and_closing_ends_the_producer(run, address):
    async def main():
        producer = Producer()
        async with between(producer, address) as (hub, peer):
            stream = ask(hub, peer, 10**6)

            async def read():
                async with aclosing(stream):
                    await numbers(stream)

            task = asyncio.create_task(read())
            await until(lambda: producer.sent > 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: stream.end is not None)
            assert isinstance(stream.end, Rejected)

    run(main)


@pytest.mark.parametrize("who", ["consumer", "producer"])
def test_a_cut_connection_ends_both_sides(run, address, who):
    async def main():
        producer = Producer()
        async with between(producer, address) as (hub, peer):
            stream = ask(hub, peer, 10**6)
            await until(lambda: producer.sent == WINDOW)
            await (peer if who == "consumer" else producer.streams[0]._peer).aclose()
            with pytest.raises(ConnectionLost):
                await numbers(stream)
            await until(lambda: producer.errors)
            assert stream.end is None and not peer.streams

    run(main)


def test_a_sender_that_ignores_its_credit_loses_its_connection(run, caplog):
    async def main():
        producer = Producer()
        async with between(producer, "inproc://greedy") as (hub, peer):
            number = next(hub.numbers)
            stream = InboundStream(peer, number, window=WINDOW // 2)
            peer.call(number, stream, encode(Fetch(number, "100", True)))
            await until(lambda: not peer.is_open)
            with pytest.raises(ConnectionLost, match="more than the 2 items"):
                await numbers(stream)

    run(main)
    assert "the sink failed" in caplog.text
