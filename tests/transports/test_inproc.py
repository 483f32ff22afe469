from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from actorlite.errors import ConnectFailed
from actorlite.testing.transport import Recorder
from actorlite_transports import inproc
from actorlite_transports.inproc import InprocTransport


def test_parts_are_read_only_views_of_the_memory_that_was_sent(run):
    async def main():
        sink = Recorder()
        listener = await InprocTransport().listen("inproc://a", lambda connection: sink)
        client = await InprocTransport().connect("inproc://a", Recorder())
        memory = bytearray(b"shared memory")
        text = b"bytes"
        client.send(memory, text, memoryview(memory)[7:])
        await sink.until_messages(1)
        first, second, third = sink.messages[0]
        assert first.obj is memory and second.obj is text and third.obj is memory
        assert first.readonly and second.readonly and third.readonly
        await client.aclose()
        await listener.aclose()

    run(main)


def test_delivery_is_one_callback_per_pass_and_never_inside_send(run):
    async def main():
        sink = Recorder()
        listener = await InprocTransport().listen("inproc://a", lambda connection: sink)
        client = await InprocTransport().connect("inproc://a", Recorder())
        for _ in range(100):
            client.send(b"x")
        assert not sink.messages
        await asyncio.sleep(0)
        assert len(sink.messages) == 100
        await client.aclose()
        await listener.aclose()

    run(main)


def test_drain_waits_until_the_receiver_has_the_messages(run):
    async def main():
        sink = Recorder()
        listener = await InprocTransport().listen("inproc://a", lambda connection: sink)
        client = await InprocTransport().connect("inproc://a", Recorder())
        client.send(bytes(inproc.HIGH_WATER_BYTES))
        await client.drain()
        assert not sink.messages, "not above the high-water mark yet"
        client.send(b"x")
        assert repr(client) == f"<InprocConnection inproc://a open, {inproc.HIGH_WATER_BYTES + 1} bytes unsent>"
        await client.drain()
        assert len(sink.messages) == 2
        await client.aclose()
        await listener.aclose()

    run(main)


def test_names_belong_to_a_loop(run):
    async def main():
        listener = await InprocTransport().listen("inproc://a", lambda connection: Recorder())
        assert repr(listener) == "<InprocListener inproc://a open>"
        failures = []

        async def other_loop():
            try:
                await InprocTransport().connect("inproc://a", Recorder())
            except ConnectFailed as error:
                failures.append(str(error))
            same_name = await InprocTransport().listen("inproc://a", lambda connection: Recorder())
            await same_name.aclose()

        thread = threading.Thread(target=lambda: asyncio.run(other_loop()))
        thread.start()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        assert failures == ["cannot connect to inproc://a: nobody listens there in this event loop"]
        await listener.aclose()
        assert repr(listener) == "<InprocListener inproc://a closed>"

    run(main)


def test_a_forgotten_listener_does_not_keep_its_loop(run):
    loops = []

    async def forget():
        loop = asyncio.get_running_loop()
        loops.append(weakref.ref(loop))
        await InprocTransport().listen("inproc://a", lambda connection, loop=loop: Recorder())

    async def another():
        listener = await InprocTransport().listen("inproc://a", lambda connection: Recorder())
        await listener.aclose()

    run(forget)
    run(another)
    gc.collect()
    assert loops[0]() is None


@pytest.mark.parametrize("address", ["inproc://", "uds:///a", "a"])
def test_addresses_that_cannot_be_used(address, run):
    async def main():
        with pytest.raises(ConnectFailed, match="inproc://name"):
            await InprocTransport().connect(address, Recorder())
        with pytest.raises(ConnectFailed, match="inproc://name"):
            await InprocTransport().listen(address, lambda connection: Recorder())

    run(main)


def test_a_failing_accept_refuses_the_connection(run, caplog):
    def fail(connection):
        raise LookupError("not this one")

    async def main():
        listener = await InprocTransport().listen("inproc://a", fail)
        sink = Recorder()
        client = await InprocTransport().connect("inproc://a", sink)
        client.send(b"x")
        await sink.until_closed(by_us=False)
        assert "not this one" in caplog.text
        await listener.aclose()

    run(main)


def test_failures_of_the_sink_are_logged(run, caplog):
    class Failing(Recorder):
        def message(self, parts):
            raise LookupError("in a message")

        def closed(self, error):
            super().closed(error)
            raise LookupError("at the end")

    async def main():
        sink = Failing()
        listener = await InprocTransport().listen("inproc://a", lambda connection: sink)
        client_sink = Recorder()
        client = await InprocTransport().connect("inproc://a", client_sink)
        client.send(b"x")
        await client_sink.until_closed(by_us=False)
        assert "in a message" in caplog.text and "at the end" in caplog.text
        assert {record.name for record in caplog.records} == {"actorlite.transport"}
        assert isinstance(sink.ends[0].__cause__, LookupError)
        await client.aclose()
        await listener.aclose()

    run(main)
