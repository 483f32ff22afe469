"""The pytest plugin under each way of running async tests: the inner runs are those of a user's project."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from actorlite.testing import plugin

pytest_plugins = ["pytester"]

BODY = """
import asyncio
import pytest
import actorlite as al

{mark}

@al.remote
async def double(x: int) -> int:
    return 2 * x

async def test_a_task(actorlite_session):
    assert await double.remote(21) == 42

async def test_each_test_has_a_session_of_its_own(actorlite_session):
    assert await asyncio.gather(*(double(n) for n in range(3))) == [0, 2, 4]
"""

LEAKING = """
import asyncio
import pytest
import threading

{mark}

@pytest.fixture
def end():
    event = threading.Event()
    yield event
    event.set()

async def test_it(end, actorlite_session):
    end.task = asyncio.create_task(asyncio.Event().wait(), name="left-over task")
    threading.Thread(target=end.wait, name="left-over thread").start()
"""

MODES = {
    "strict": ("pytestmark = pytest.mark.asyncio", ["-o", "asyncio_mode=strict", "-p", "no:anyio"]),
    "strict, loop per module": ("pytestmark = pytest.mark.asyncio(loop_scope='module')", ["-o", "asyncio_mode=strict"]),
    "auto": ("", ["-o", "asyncio_mode=auto"]),
    "auto, loop per session": ("", ["-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session"]),
    "anyio": ("pytestmark = pytest.mark.anyio\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'", []),
    "anyio alone": (
        "pytestmark = pytest.mark.anyio\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'",
        ["-p", "no:asyncio"],
    ),
}


def run(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(source)
    # Installed, the plugin is found by its entry point; from a bare checkout it is given.
    given = () if entry_points(group="pytest11", name="actorlite") else (plugin,)
    scope = ("-o", "asyncio_default_fixture_loop_scope=function") if "no:asyncio" not in options else ()
    return pytester.runpytest_inprocess(*scope, "-W", "error", *options, plugins=given)


@pytest.mark.parametrize("mode", MODES)
def test_a_session_per_test(pytester: pytest.Pytester, mode: str) -> None:
    mark, options = MODES[mode]
    run(pytester, BODY.format(mark=mark), *options).assert_outcomes(passed=2)


@pytest.mark.parametrize("mode", ["strict", "auto", "anyio"])
def test_a_session_with_processes(pytester: pytest.Pytester, mode: str) -> None:
    mark, options = MODES[mode]
    source = BODY.format(mark=mark).replace("actorlite_session", "actorlite_local_session")
    run(pytester, source, *options).assert_outcomes(passed=2)


@pytest.mark.parametrize("mode", ["strict", "auto", "anyio"])
def test_what_a_test_leaves_behind_fails_it_by_name(pytester: pytest.Pytester, mode: str) -> None:
    mark, options = MODES[mode]
    result = run(pytester, LEAKING.format(mark=mark), *options)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines_random(["*left behind:*", "*left-over task*", "*left-over thread*"])


def test_the_leak_check_can_be_turned_off(pytester: pytest.Pytester) -> None:
    mark, options = MODES["strict"]
    run(pytester, LEAKING.format(mark=mark), *options, "-o", "actorlite_leak_check=false").assert_outcomes(passed=1)


def test_the_leak_check_alone_works_in_a_plain_test(pytester: pytest.Pytester) -> None:
    source = """
    import pytest

    @pytest.fixture
    def kept():
        with open(__file__) as file:
            yield [file]

    def test_it(kept, actorlite_leak_check):
        kept.append(open(__file__))
    """
    result = run(pytester, source)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*left behind:*", "*descriptor *test_the_leak_check_alone*"])


def test_a_plain_test_is_told_how_to_have_a_session(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_it(actorlite_session): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*actorlite_session needs an async test: mark it with pytest.mark.asyncio*"])


def test_another_backend_is_refused_by_name(pytester: pytest.Pytester) -> None:
    source = """
    import pytest

    @pytest.fixture
    def anyio_backend():
        return "trio"

    @pytest.mark.anyio
    async def test_it(actorlite_session):
        pass
    """
    result = run(pytester, source)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*actorlite runs on asyncio, not on trio*"])
