from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

import pytest

from actorlite.errors import (
    AuthenticationError,
    ConnectFailed,
    ConnectionLost,
    SessionClosedError,
    VersionMismatch,
)
from actorlite.host import SystemEntropy
from actorlite.ids import process_id
from actorlite.rpc import hub as hub_module
from actorlite.rpc.handshake import MAX_HANDSHAKE_BYTES, PYTHON
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers
from actorlite.testing.transport import Recorder
from actorlite.transport import get_transport
from actorlite.wire.messages import Identity, Refused, decode_handshake
from actorlite.wire.requests import NodeStatus, Retire, Yes


class Site:
    """A hub and what it reported."""

    def __init__(self, number, *, token=b"token", python=PYTHON, address=""):
        self.handlers = Handlers()
        self.handlers.on_requests({NodeStatus: self.yes})
        self.peers = []
        self.lost = []
        me = Identity(process_id(bytes([number]) * 8), "worker", address, os.getpid(), python)
        self.hub = Hub(
            me,
            token,
            SystemEntropy(),
            self.handlers,
            on_peer=self.peers.append,
            on_peer_lost=lambda peer, error: self.lost.append((peer, error)),
        )

    async def yes(self, peer, body):
        return Yes(True)


@pytest.fixture(params=["inproc", "uds"])
def address(request, directory):
    return {"inproc": "inproc://hub", "uds": f"uds://{directory}/h.sock"}[request.param]


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def sites(stack, *options):
    made = [Site(number, **each) for number, each in enumerate(options, 1)]
    for site in made:
        stack.push_async_callback(site.hub.aclose)
    return made


def test_two_processes_meet(run, address):
    async def main():
        async with AsyncExitStack() as stack:
            a, b = sites(stack, {}, {})
            bound = await a.hub.listen(address)
            assert a.hub.identity.address == bound
            peer = await b.hub.connect(bound)
            assert peer.identity == a.hub.identity
            await until(lambda: a.peers)
            assert a.peers[0].identity == b.hub.identity and b.peers == [peer]
            assert a.hub.peers == {b.hub.identity.process: a.peers[0]}
            assert b.hub.known(bound) is peer
            assert await peer.request(next(b.hub.numbers), NodeStatus()) == Yes(True)
            assert repr(b.hub) == f"<Hub worker {b.hub.identity.process} peers=1 open=1>"

    run(main)


def test_several_callers_share_one_attempt_and_later_ones_its_peer(run, address):
    async def main():
        async with AsyncExitStack() as stack:
            a, b = sites(stack, {}, {})
            bound = await a.hub.listen(address)
            peers = await asyncio.gather(*(b.hub.connect(bound) for _ in range(5)))
            assert len({*peers, await b.hub.connect(bound)}) == 1
            assert len(a.peers) == 1

    run(main)


def test_the_accepted_peer_is_found_by_its_address_too(run):
    async def main():
        async with AsyncExitStack() as stack:
            a, b = sites(stack, {}, {})
            at_a, at_b = await a.hub.listen("inproc://a"), await b.hub.listen("inproc://b")
            await b.hub.connect(at_a)
            await until(lambda: a.peers)
            assert await a.hub.connect(at_b) is a.peers[0], "no second connection"

    run(main)


def test_two_that_connect_to_each_other_at_once_can_both_talk(run):
    async def main():
        async with AsyncExitStack() as stack:
            a, b = sites(stack, {}, {})
            at_a, at_b = await a.hub.listen("inproc://a"), await b.hub.listen("inproc://b")
            to_b, to_a = await asyncio.gather(a.hub.connect(at_b), b.hub.connect(at_a))
            assert await to_b.request(1, NodeStatus()) == await to_a.request(1, NodeStatus()) == Yes(True)

    run(main)


def test_a_caller_that_gives_up_does_not_take_the_attempt_from_the_others(run, address):
    async def main():
        async with AsyncExitStack() as stack:
            a, b = sites(stack, {}, {})
            bound = await a.hub.listen(address)
            first, second = (asyncio.create_task(b.hub.connect(bound)) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            peer = await second
            assert first.cancelled() and peer.is_open

    run(main)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"token": b"other"}, AuthenticationError, "token"),
        ({"python": "3.99"}, VersionMismatch, r"Python 3\.99 meets"),
    ],
)
def test_who_does_not_belong_is_refused(run, address, options, error, text):
    async def main():
        async with AsyncExitStack() as stack:
            a, b = sites(stack, {}, options)
            bound = await a.hub.listen(address)
            for _ in range(2):
                with pytest.raises(error, match=text):
                    await b.hub.connect(bound)
            await until(lambda: not a.hub._all and not b.hub._all)
            assert a.peers == b.peers == a.lost == b.lost == []
            assert b.hub.known(bound) is None

    run(main)


def test_nobody_listens(run, address):
    async def main():
        async with AsyncExitStack() as stack:
            [a] = sites(stack, {})
            with pytest.raises(ConnectFailed):
                await a.hub.connect(address)
            assert repr(a.hub).endswith("peers=0 open=0>")

    run(main)


def test_a_lost_peer_is_forgotten_on_both_sides_and_can_be_met_again(run, address):
    async def main():
        async with AsyncExitStack() as stack:
            a, b = sites(stack, {}, {})
            bound = await a.hub.listen(address)
            peer = await b.hub.connect(bound)
            await until(lambda: a.peers)
            await a.peers[0].aclose()
            await until(lambda: b.lost)
            assert a.lost == [(a.peers[0], None)]
            [(lost, error)] = b.lost
            assert lost is peer and isinstance(error, ConnectionLost)
            assert not a.hub.peers and not b.hub.peers and b.hub.known(bound) is None
            again = await b.hub.connect(bound)
            assert again is not peer and await again.request(1, NodeStatus()) == Yes(True)

    run(main)


def test_a_peer_that_is_lost_at_once_is_not_handed_out(run):
    """It opens and ends within one pass of the loop, before whoever connects has run."""

    async def main():
        async with AsyncExitStack() as stack:
            a, b = sites(stack, {}, {})
            bound = await a.hub.listen("inproc://short")
            b.hub._on_peer = lambda peer: asyncio.get_running_loop().call_soon(peer._connection.fail, "cut on purpose")
            with pytest.raises(ConnectionLost, match="lost at once"):
                await b.hub.connect(bound)
            b.hub._on_peer = b.peers.append
            assert b.hub.known(bound) is None
            assert (await b.hub.connect(bound)).is_open

    run(main)


def test_a_peer_that_is_gone_before_it_is_attached_leaves_nothing(run, monkeypatch):
    class Dead:
        peer = "inproc://dead"

        def send(self, *parts):
            raise ConnectionLost("gone")

        async def aclose(self):
            return None

    class DeadOnArrival:
        async def connect(self, address, sink):
            sink.closed(ConnectionLost("gone"))
            return Dead()

    async def main():
        async with AsyncExitStack() as stack:
            [a] = sites(stack, {})
            monkeypatch.setattr(hub_module, "get_transport", lambda address: DeadOnArrival())
            with pytest.raises(ConnectionLost):
                await a.hub.connect("inproc://dead")
            assert not a.hub._all

    run(main)


def test_closing_ends_everything_and_refuses_what_comes(run, address):
    async def main():
        async with AsyncExitStack() as stack:
            a, b = sites(stack, {}, {})
            bound = await a.hub.listen(address)
            peer = await b.hub.connect(bound)
            await until(lambda: a.peers)
            await a.hub.aclose()
            assert not a.peers[0].is_open
            await until(lambda: not peer.is_open)
            with pytest.raises(ConnectFailed):
                await b.hub.connect(bound)
            with pytest.raises(SessionClosedError):
                await a.hub.connect("inproc://other")
            await a.hub.aclose()

    run(main)


def test_closing_while_connecting_ends_the_attempt(run, address):
    async def main():
        async with AsyncExitStack() as stack:
            [a] = sites(stack, {})
            silent = Recorder()
            listener = await get_transport(address).listen(address, lambda connection: silent)
            task = asyncio.create_task(a.hub.connect(listener.address))
            await silent.until_messages(1)
            await a.hub.aclose()
            with pytest.raises(asyncio.CancelledError):
                await task
            await silent.until_closed(by_us=False)
            await listener.aclose()

    run(main)


def test_a_listener_that_never_answers_is_given_up(run, address, monkeypatch):
    monkeypatch.setattr(hub_module, "HANDSHAKE_S", 0.02)

    async def main():
        async with AsyncExitStack() as stack:
            [a] = sites(stack, {})
            silent = Recorder()
            listener = await get_transport(address).listen(address, lambda connection: silent)
            with pytest.raises(ConnectFailed, match=r"did not finish the handshake within 0\.02 s"):
                await a.hub.connect(listener.address)
            await silent.until_closed(by_us=False)
            assert not a.hub._all
            await listener.aclose()

    run(main)


async def stranger(address):
    """A connection that says nothing."""
    sink = Recorder()
    return sink, await get_transport(address).connect(address, sink)


def refusals(sink):
    return [decode_handshake(parts[0]) for parts in sink.messages]


def test_a_stranger_that_says_nothing_is_closed(run, address, monkeypatch):
    monkeypatch.setattr(hub_module, "HANDSHAKE_S", 0.02)

    async def main():
        async with AsyncExitStack() as stack:
            [a] = sites(stack, {})
            sink, connection = await stranger(await a.hub.listen(address))
            await sink.until_closed(by_us=False)
            assert refusals(sink) == [Refused("authentication", "no handshake within 0.02 s")]
            await until(lambda: not a.hub._all)

    run(main)


def test_a_stranger_cannot_make_a_process_take_a_large_message(run, address):
    async def main():
        async with AsyncExitStack() as stack:
            [a] = sites(stack, {})
            sink, connection = await stranger(await a.hub.listen(address))
            connection.send(bytes(2 * MAX_HANDSHAKE_BYTES))
            await sink.until_closed(by_us=False)
            await until(lambda: not a.hub._all)

    run(main)


def test_strangers_above_the_bound_are_closed_and_members_still_get_in_later(run, address, monkeypatch):
    monkeypatch.setattr(hub_module, "MAX_STRANGERS", 2)

    async def main():
        async with AsyncExitStack() as stack:
            a, b = sites(stack, {}, {})
            bound = await a.hub.listen(address)
            strangers = [await stranger(bound) for _ in range(2)]
            await until(lambda: len(a.hub._all) == 2)
            third, _ = await stranger(bound)
            await third.until_closed(by_us=False)
            assert "too many connections" in refusals(third)[0].text
            for sink, connection in strangers:
                await connection.aclose()
                await sink.until_closed(by_us=True)
            await until(lambda: not a.hub._all)
            assert (await b.hub.connect(bound)).is_open

    run(main)


def test_an_unserved_request_says_so_and_the_connection_stays(run, address):
    async def main():
        async with AsyncExitStack() as stack:
            a, b = sites(stack, {}, {})
            peer = await b.hub.connect(await a.hub.listen(address))
            with pytest.raises(ConnectionError, match="Retire is not served here"):
                await peer.request(1, Retire())
            assert await peer.request(2, NodeStatus()) == Yes(True)

    run(main)
