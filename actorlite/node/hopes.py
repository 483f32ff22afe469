"""Requests that no node has enough for, and that wait for nodes to come."""

from __future__ import annotations

import asyncio
from collections import Counter

from actorlite.resources import Pairs, ResourceSet
from actorlite.rpc.peer import Peer


class Hopes:
    """Owned by the lease desk; on the loop."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[Peer, int], tuple[asyncio.Future[bool], ResourceSet]] = {}
        """By who asked, and the ticket."""

    async def wait(self, peer: Peer, ticket: int, needs: ResourceSet) -> bool:
        """Until other nodes have changed; False when the request was withdrawn."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[peer, ticket] = future, needs
        try:
            return await future
        finally:
            self._waiting.pop((peer, ticket), None)

    def nodes_changed(self) -> None:
        """All look again."""
        self._settle([future for future, _ in self._waiting.values()], True)

    def withdraw(self, peer: Peer, ticket: int) -> None:
        if (found := self._waiting.get((peer, ticket))) is not None:
            self._settle([found[0]], False)

    def peer_lost(self, peer: Peer) -> None:
        """Nobody waits there any more."""
        self._settle([future for (each, _), (future, _) in self._waiting.items() if each is peer], False)

    def demand(self) -> list[tuple[Pairs, int]]:
        """How many wait, by what they need."""
        return list(Counter(needs.pairs for _, needs in self._waiting.values()).items())

    def _settle(self, futures: list[asyncio.Future[bool]], answer: bool) -> None:
        for future in futures:
            if not future.done():
                future.set_result(answer)

    def __repr__(self) -> str:
        return f"<Hopes waiting={len(self._waiting)}>"
