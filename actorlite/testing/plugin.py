"""The pytest plugin: a session per test, and a check that nothing of it is left.

`actorlite_session` runs in the test's own event loop and takes milliseconds; `actorlite_local_session` has a node
daemon and worker processes. Both work in tests that pytest-asyncio runs (strict or auto mode, any loop scope) and in
tests that anyio's plugin runs. `actorlite_leak_check` can be used alone; the ini option
`actorlite_leak_check = false` turns it off.

An async fixture must run in the test's own loop, and each async plugin wants its fixtures declared in its own way. So
each fixture exists once per way, under a private name, and the public one is a plain fixture that asks for its variant.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, Literal

import pytest

import actorlite as al
from actorlite.testing import leaks

try:
    import pytest_asyncio
except ImportError:
    pytest_asyncio = None  # type: ignore[assignment]

_Scope = Literal["function", "class", "module", "package", "session"]
_LOOP_SCOPES: tuple[_Scope, ...] = ("function", "class", "module", "package", "session")
_AsyncFixture = Callable[..., AsyncIterator[Any]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("actorlite_leak_check", "fail a test whose session leaves something behind", "bool", default=True)


@pytest.fixture
def actorlite_session(request: pytest.FixtureRequest) -> al.Session:
    """A session in the test's event loop: `inproc://`, closed and checked for leaks after the test."""
    session: al.Session = request.getfixturevalue(_variant(request, "inproc"))
    return session


@pytest.fixture
def actorlite_local_session(request: pytest.FixtureRequest) -> al.Session:
    """A session with a node daemon and worker processes of its own, closed and checked for leaks after the test."""
    session: al.Session = request.getfixturevalue(_variant(request, "local"))
    return session


@pytest.fixture
def actorlite_leak_check(request: pytest.FixtureRequest) -> None:
    """Fails the test when tasks, threads, processes, descriptors or mapped segments that it began still exist."""
    if request.config.getini("actorlite_leak_check"):
        request.getfixturevalue(_variant(request, "leaks"))


def _variant(request: pytest.FixtureRequest, kind: str) -> str:
    """The private fixture for whoever runs this test."""
    marker = request.node.get_closest_marker("asyncio")
    if marker is not None and request.config.pluginmanager.hasplugin("asyncio"):
        scope = marker.kwargs.get("loop_scope") or request.config.getini("asyncio_default_test_loop_scope")
        return f"_actorlite_{kind}_{scope}"
    if "anyio_backend" in request.fixturenames:
        name = request.getfixturevalue("anyio_backend_name")
        if name != "asyncio":
            pytest.fail(f"actorlite runs on asyncio, not on {name}: have anyio_backend return 'asyncio'", pytrace=False)
        return f"_actorlite_{kind}_anyio"
    if kind == "leaks":
        return "_actorlite_leaks_blocking"
    pytest.fail(
        f"{request.fixturename} needs an async test: mark it with pytest.mark.asyncio (pytest-asyncio) or "
        "pytest.mark.anyio",
        pytrace=False,
    )


@pytest.fixture
def _actorlite_leaks_blocking() -> Iterator[None]:
    before = leaks.Snapshot.take()
    yield
    leaks.check_blocking(before)


def _session_in(address: str) -> _AsyncFixture:
    async def fixture(actorlite_leak_check: None) -> AsyncIterator[al.Session]:
        async with al.init(address) as session:
            yield session

    return fixture


def _leaks() -> _AsyncFixture:
    async def fixture() -> AsyncIterator[None]:
        before = leaks.Snapshot.take()
        yield
        await leaks.check(before)

    return fixture


def _variants() -> dict[str, Any]:
    # A function object for each, because pytest-asyncio writes its marks on the function.
    makers: dict[str, Callable[[], _AsyncFixture]] = {
        "inproc": partial(_session_in, "inproc://"),
        "local": partial(_session_in, "local"),
        "leaks": _leaks,
    }
    found: dict[str, Any] = {}
    for kind, make in makers.items():
        name = f"_actorlite_{kind}_anyio"
        found[name] = pytest.fixture(name=name)(make())
        if pytest_asyncio is not None:
            for scope in _LOOP_SCOPES:
                name = f"_actorlite_{kind}_{scope}"
                found[name] = pytest_asyncio.fixture(loop_scope=scope, name=name)(make())
    return found


globals().update(_variants())
