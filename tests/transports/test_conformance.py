"""Every scheme keeps every guarantee of the seam."""

from __future__ import annotations

import pytest

from actorlite.testing.transport import CHECKS, STREAM_CHECKS, check_transport, run_check

SCHEMES = ("inproc", "tcp", "uds")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_guarantee(scheme, check, run, bench_of):
    run(lambda: run_check(check, bench_of(scheme)))


@pytest.mark.parametrize("check", STREAM_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("scheme", ("tcp", "uds"))
def test_guarantee_on_a_byte_stream(scheme, check, run, bench_of):
    run(lambda: run_check(check, bench_of(scheme)))


def test_the_suite_names_the_check_that_fails(run, bench_of):
    """The suite as third parties call it, on a transport that sends everything twice."""

    class Twice:
        def __init__(self, inner):
            self.inner = inner

        async def connect(self, address, sink):
            connection = await self.inner.connect(address, sink)
            original = connection.send

            def send(*parts):
                original(*parts)
                original(*parts)

            connection.send = send
            return connection

        async def listen(self, address, accept):
            return await self.inner.listen(address, accept)

    async def main():
        bench = bench_of("inproc")
        with pytest.raises(AssertionError, match="keeps_order: messages are not what was sent"):
            await check_transport(bench.make_address, transport=Twice(bench.transport))

    run(main)


def test_the_whole_suite_passes_in_one_call(run, bench_of):
    async def main():
        bench = bench_of("uds")
        await check_transport(bench.make_address, transport=bench.transport, connect_raw=bench.connect_raw)

    run(main)
