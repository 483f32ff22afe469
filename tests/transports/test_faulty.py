from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from actorlite.errors import ConnectionLost, Outcome
from actorlite.testing.transport import CHECKS, Bench, Faults, FaultyTransport, passes, run_check

SCHEMES = ("inproc", "uds")


@asynccontextmanager
async def faulty_pair(bench, faults=None):
    transport = FaultyTransport(bench.transport, faults)
    async with Bench(transport, bench.make_address).pair() as pair:
        yield transport, pair


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_faults_it_keeps_every_guarantee(scheme, check, run, bench_of):
    async def main():
        bench = bench_of(scheme)
        await run_check(check, Bench(FaultyTransport(bench.transport), bench.make_address))

    run(main)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_cut_after_so_many_messages(scheme, run, bench_of):
    async def main():
        async with faulty_pair(bench_of(scheme)) as (_, pair):
            pair.client.faults = Faults(cut_after=3)
            for number in range(3):
                pair.client.send(b"%d" % number)
            with pytest.raises(ConnectionLost, match="cut on purpose; nothing was sent") as caught:
                pair.client.send(b"3")
            assert caught.value.outcome is Outcome.NOT_EXECUTED
            assert pair.client_sink.ends == [], "not from inside send"
            await pair.client_sink.until_closed(by_us=False)
            await pair.server_sink.until_closed(by_us=False)
            assert pair.server_sink.contents() == [[b"0"], [b"1"], [b"2"]]
            with pytest.raises(ConnectionLost, match="cut on purpose"):
                await pair.client.drain()
            await pair.client.aclose()
            assert pair.client_sink.ends[0] is not None

    run(main)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_cut_all_connections_now(scheme, run, bench_of):
    async def main():
        async with faulty_pair(bench_of(scheme), Faults(delay_s=60)) as (transport, pair):
            assert len(transport.connections) == 2
            pair.client.send(b"delayed and lost")
            assert "1 messages delayed" in repr(pair.client)
            transport.cut()
            await pair.client_sink.until_closed(by_us=False)
            await pair.server_sink.until_closed(by_us=False)
            assert not pair.server_sink.messages
            assert transport.connections == []

    run(main)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_half_open_messages_vanish_and_the_connection_stays(scheme, run, bench_of):
    async def main():
        async with faulty_pair(bench_of(scheme)) as (transport, pair):
            transport.faults.lose_sent = True
            pair.client.send(b"vanishes when it is sent")
            await pair.client.drain()
            transport.faults.lose_sent = False
            pair.client.faults = Faults(lose_received=True)
            pair.server.send(b"vanishes when it arrives")
            pair.client.send(b"arrives")
            await pair.server_sink.until_messages(1)
            pair.client.faults = transport.faults
            pair.server.send(b"arrives again")
            await pair.client_sink.until_messages(1)
            assert pair.server_sink.contents() == [[b"arrives"]]
            assert pair.client_sink.contents() == [[b"arrives again"]]
            assert not pair.client_sink.ends and not pair.server_sink.ends

    run(main)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_delay_keeps_order_and_drain_waits_for_it(scheme, run, bench_of):
    async def main():
        loop = asyncio.get_running_loop()
        delays = [0.02, 0.0, 0.01]
        async with faulty_pair(bench_of(scheme), Faults(delay_s=lambda number: delays[number])) as (_, pair):
            begin = loop.time()
            for number in range(3):
                pair.client.send(b"%d" % number)
            await passes(5)
            assert not pair.server_sink.messages
            await pair.client.drain()
            assert loop.time() - begin >= 0.019
            await pair.server_sink.until_messages(3)
            assert pair.server_sink.contents() == [[b"0"], [b"1"], [b"2"]]

    run(main)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_aclose_sends_what_is_delayed_at_once(scheme, run, bench_of):
    async def main():
        async with faulty_pair(bench_of(scheme), Faults(delay_s=60)) as (_, pair):
            pair.client.send(b"delayed")
            await pair.client.aclose()
            await pair.server_sink.until_closed(by_us=False)
            assert pair.server_sink.contents() == [[b"delayed"]]
            assert pair.client_sink.ends == [None]

    run(main)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_arrives_waits_in_order_and_comes_before_the_end(scheme, run, bench_of):
    async def main():
        async with faulty_pair(bench_of(scheme)) as (_, pair):
            loop = asyncio.get_running_loop()
            pair.client.faults = Faults(delay_received_s=0.05)
            began = loop.time()
            pair.server.send(b"0", b"part")
            await pair.client_sink.until_messages(1)
            assert loop.time() - began >= 0.05
            pair.client.faults.delay_received_s = 60
            pair.server.send(b"1")
            pair.server.send(b"2")
            await pair.server.aclose()
            await pair.client_sink.until_closed(by_us=False)
            assert pair.client_sink.contents() == [[b"0", b"part"], [b"1"], [b"2"]]

    run(main)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_waits_to_arrive_is_lost_when_the_connection_is_cut(scheme, run, bench_of):
    async def main():
        async with faulty_pair(bench_of(scheme), Faults(delay_received_s=60)) as (transport, pair):
            pair.server.send(b"lost")
            while not pair.client._arriving:
                await asyncio.sleep(0)
            transport.cut()
            await pair.client_sink.until_closed(by_us=False)
            assert not pair.client_sink.messages

    run(main)
