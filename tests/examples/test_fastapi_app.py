"""The FastAPI application: in the test's loop, and under a real server with a loop of its own in a thread."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn

pytestmark = pytest.mark.asyncio


@pytest.fixture
def fastapi_app(load_example: Callable[[str], ModuleType]) -> Any:
    return load_example("fastapi_app")


async def exercise(client: httpx.AsyncClient) -> None:
    """What the application promises, wherever it runs."""
    digest = (await client.get("/digest", params={"text": "hello", "rounds": 1000})).json()["digest"]
    assert digest == hashlib.pbkdf2_hmac("sha256", b"hello", b"an example", 1000).hex()
    both = (await client.get("/digests", params={"text": ["a", "b"]})).json()
    assert both == {text: hashlib.pbkdf2_hmac("sha256", text.encode(), b"an example", 1).hex() for text in "ab"}

    assert (await client.get("/digest", params={"text": "hello", "rounds": 0})).status_code == 422
    assert (await client.get("/visits/nobody")).status_code == 404
    counts = await asyncio.gather(*(client.post("/visits/ann") for _ in range(10)))
    assert sorted(reply.json()["count"] for reply in counts) == list(range(1, 11))
    assert (await client.get("/visits/ann")).json() == {"count": 10}


@pytest.mark.parametrize("address", ["inproc://", "local"])
async def test_in_the_loop_of_the_test(fastapi_app: Any, address: str) -> None:
    app = fastapi_app.create_app(address)
    async with asyncio.timeout(60), app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            await exercise(client)


async def test_each_lifespan_has_a_session_of_its_own(fastapi_app: Any) -> None:
    app = fastapi_app.create_app("inproc://")
    for _ in range(2):
        async with asyncio.timeout(60), app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                assert (await client.post("/visits/ann")).json() == {"count": 1}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("address", ["inproc://", "local"])
async def test_under_a_real_server(fastapi_app: Any, address: str, loop: str) -> None:
    config = uvicorn.Config(fastapi_app.create_app(address), loop=loop, ws="none", log_level="warning")
    server = uvicorn.Server(config)
    # Listening from here on: a request made before the application has started waits in the backlog.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                await exercise(client)
        finally:
            server.should_exit = True
            await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()
