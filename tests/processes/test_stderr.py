from __future__ import annotations

import os
import select

import pytest

from actorlite.worker.stderr import StderrTee

pytestmark = pytest.mark.asyncio


async def test_what_workers_have_said_is_passed_on_before_they_end(capfd: pytest.CaptureFixture[str]) -> None:
    tee = StderrTee(select.poll())
    writers = []
    for number in range(2):
        reader, writer = os.pipe()
        tee.add(reader)
        os.write(writer, b"last words of %d\n" % number)
        writers.append(writer)
    tee.pass_on_all()
    assert capfd.readouterr().err == "last words of 0\nlast words of 1\n"
    tee.pass_on_all()  # nothing more, and no waiting for more
    assert capfd.readouterr().err == ""
    tee.close_all()
    for writer in writers:
        os.close(writer)
