"""Every small example prints the same, whole and known, wherever it runs."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from actorlite.testing import daemons

OUTPUT = {
    "hello_task.py": """\
primes below 100: 25
hello worker, there are 2262 primes below 20000
""",
    "counter_actor.py": """\
no words yet: nothing has been counted
totals as the calls ran: [13, 16, 18]
total: 18
most common: ('a', 3)
sum over 100 light actors: 4950
the counter is gone
""",
    "many_refs.py": """\
in order: [0, 1, 4, 9, 16]
as they come: 328350
gathered: [0, 1, 4, 9, 16]
first: 49 and 3 still wait
nothing came through the closed gate in time
opened: [0, 1, 2]
""",
    "streaming.py": """\
values: [5, 4, 3, 2, 1]
references: [3, 2, 1]
token: A
token: STREAM
token: OF
closed: 1
read elsewhere: 5050
value: first
error: no second one
""",
}
GANG = """\
3 workers on 3 nodes
the parameter server is beside the first worker: True
step 0: loss 57.9654
step 5: loss 0.0608
step 9: loss 0.0003
the group is REMOVED
"""
TWO_SESSIONS = """\
other process: {}
this process: True
chosen by option: True
from a thread: True
"""


@pytest.mark.parametrize("address", ["inproc://", "local"])
@pytest.mark.parametrize("script", OUTPUT)
def test_prints_the_same_everywhere(programs: Any, script: str, address: str) -> None:
    assert programs.output(script, address) == OUTPUT[script]


@pytest.mark.parametrize(("address", "apart"), [("inproc://", False), ("local", True)])
def test_two_sessions(programs: Any, address: str, apart: bool) -> None:
    assert programs.output("two_sessions.py", address) == TWO_SESSIONS.format(apart)


@pytest.mark.parametrize("script", [*OUTPUT, "two_sessions.py"])
def test_runs_without_arguments(programs: Any, script: str) -> None:
    assert programs.output(script) == OUTPUT.get(script, TWO_SESSIONS.format(True))


@pytest.mark.parametrize("address", ["inproc://", "local"])
def test_shared_array_writes_each_byte_once(programs: Any, address: str) -> None:
    lines = programs.output("shared_array.py", "--address", address, "--megabytes", "8").splitlines()
    assert lines[0] == "24 images, 6 MB, in 8 parts"
    assert lines[2] == "written to the store: 13 MB (the stack once, the normalised parts once)"
    assert lines[3:5] == [
        "in messages 69 MB would have been copied",
        "the actor holds views of 24 images, writeable: False",
    ]


@pytest.mark.parametrize("where", [(), ("--daemons",)], ids=["in process", "daemons"])
def test_gang_training_comes_out_the_same(programs: Any, where: tuple[str, ...]) -> None:
    assert programs.output("gang_training.py", *where, "--steps", "10") == GANG


@pytest.mark.asyncio
async def test_gang_training_on_a_cluster_that_runs(programs: Any) -> None:
    async with daemons(nodes=3, num_cpus=2) as found:
        run = partial(programs.output, "gang_training.py", "--steps", "10", "--address", found.nodes[1].address)
        assert await asyncio.to_thread(run) == GANG
