"""A session inside a FastAPI application: it lives as long as the application, and handlers just use it.

    python examples/fastapi_app.py [ADDRESS]                       # or: uvicorn fastapi_app:app --app-dir examples
    curl 'http://127.0.0.1:8000/digest?text=hello&rounds=100000'

No handler is given the session: it is this process's only one, and that is where calls go.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request

import actorlite as al


@al.remote
def stretch(text: str, rounds: int) -> str:
    """CPU-bound work: in a worker process it stops neither the application's event loop nor its other threads."""
    return hashlib.pbkdf2_hmac("sha256", text.encode(), b"an example", rounds).hex()


class Visits(al.Actor):
    """State shared by all requests; its calls are serialized, so there is no lock."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    async def add(self, name: str) -> int:
        self._counts[name] = self._counts.get(name, 0) + 1
        return self._counts[name]

    async def count(self, name: str) -> int:
        return self._counts[name]


def create_app(address: str | None = None) -> FastAPI:
    """Without an address that of `ACTORLITE_ADDRESS` counts, else worker processes of its own."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with al.init(address):
            app.state.visits = Visits.remote()
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/digest")
    async def digest(text: str, rounds: Annotated[int, Query(ge=1, le=10_000_000)] = 1) -> dict[str, str]:
        return {"digest": await stretch(text, rounds)}

    @app.get("/digests")
    def digests(text: Annotated[list[str], Query()]) -> dict[str, str]:
        """A plain handler runs in one of FastAPI's threads: there references are waited for with `al.sync`."""
        refs = [stretch.remote(each, 1) for each in text]
        return dict(zip(text, al.sync.get(refs), strict=True))

    @app.post("/visits/{name}")
    async def visit(name: str, request: Request) -> dict[str, int]:
        visits: Visits = request.app.state.visits
        return {"count": await visits.add(name)}

    @app.get("/visits/{name}")
    async def visits_of(name: str, request: Request) -> dict[str, int]:
        visits: Visits = request.app.state.visits
        try:
            return {"count": await visits.count(name)}
        except KeyError:  # raised in the actor's process
            raise HTTPException(404, f"{name} has not been here") from None

    return app


app = create_app()

if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]) if len(sys.argv) > 1 else app)
