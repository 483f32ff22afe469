"""The values of borrowed references: fetched from their owners when somebody wants them, once for all who do.

The owner answers with the value, or with where it lies in the store. If it is lost there, the owner is told: it has it
made again, and answers anew, or says why that cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from actorlite.errors import ActorliteError, ConnectionLost
from actorlite.ids import ObjectId
from actorlite.refs import ELSEWHERE, Failure, ObjectRef
from actorlite.rpc.peer import Peer
from actorlite.runtime.borrows import Borrows, Scope
from actorlite.runtime.payloads import unpack
from actorlite.wire.calls import Exists, Failed, Fetch, Payload, Reply
from actorlite.wire.failures import decode_failure
from actorlite.wire.messages import encode
from actorlite.wire.serialize import STORED

MAX_LOSSES = 3
"""How often one wish for a value is told to its owner as lost: then there is more wrong than a lost value."""


class Fetches:
    """On the loop, but for `want`."""

    def __init__(self, scope: Scope, borrows: Borrows) -> None:
        self._scope = scope
        self._borrows = borrows
        self._fetching: set[tuple[ObjectId, bool]] = set()
        self.open_stored: Callable[[ObjectRef[Any], Payload, int], None] = lambda ref, payload, losses: None
        """Resolves a reference whose value lies in the store, or says that it is `lost`; set by the runtime."""

    def want(self, ref: ObjectRef[Any], *, value: bool) -> None:
        """Fetch a borrowed value, or learn that it is ready. From any thread; repeated wishes are one fetch."""
        self._scope.post(self._start, ref, value)

    def lost(self, ref: ObjectRef[Any], key: str, losses: int) -> bool:
        """Tell the owner that the value is not where it said, and fetch it anew. False when it was told that too often
        for this wish: `losses` times."""
        if losses >= MAX_LOSSES:
            return False
        wish = ref.id, True
        if wish not in self._fetching:  # else somebody wanted it meanwhile, and will be told the same
            self._fetching.add(wish)
            self._scope.spawn(self._fetch(ref, True, key, losses + 1))
        return True

    def _start(self, ref: ObjectRef[Any], value: bool) -> None:
        wish = ref.id, value
        outcome = ref._outcome
        if wish in self._fetching or (outcome is not None and (outcome is not ELSEWHERE or not value)):
            return
        self._fetching.add(wish)
        self._scope.spawn(self._fetch(ref, value))

    async def _fetch(self, ref: ObjectRef[Any], value: bool, lost: str = "", losses: int = 0) -> None:
        if not ref.owner_address:
            self._fetching.discard((ref.id, value))
            ref.runtime.want(ref, value=value)  # it was handed over meanwhile
            return
        number = next(self._scope.hub.numbers)
        try:
            peer = await self._scope.hub.connect(ref.owner_address)
            pending = _Fetching(self, ref, value, peer, losses)
            peer.call(number, pending, encode(Fetch(number, ref.id, value, lost)))
        except ActorliteError:
            self._fetching.discard((ref.id, value))
            await self._borrows.fail(ref)

    def _answered(self, fetching: _Fetching, message: Any, parts: Sequence[memoryview]) -> None:
        ref = fetching.ref
        self._fetching.discard((ref.id, fetching.value))
        if isinstance(message, Exists):
            if ref._outcome is None:
                ref._resolve(ELSEWHERE)
        elif isinstance(message, Reply):
            if message.value.refs:
                ref._kept = self._borrows.take(fetching.peer, message.id, message.value.refs)
            if message.value.kind == STORED:
                self.open_stored(ref, message.value, fetching.losses)
            else:
                ref._resolve(unpack(message.value, parts))
        elif isinstance(message, Failed):
            ref._resolve(Failure(partial(decode_failure, message.failure), quiet=True))

    def _lost(self, fetching: _Fetching) -> None:
        self._fetching.discard((fetching.ref.id, fetching.value))
        self._scope.spawn(self._borrows.fail(fetching.ref))

    def __repr__(self) -> str:
        return f"<Fetches {len(self._fetching)}>"


class _Fetching:
    """Waits for a borrowed value."""

    __slots__ = ("fetches", "ref", "value", "peer", "losses")

    def __init__(self, fetches: Fetches, ref: ObjectRef[Any], value: bool, peer: Peer, losses: int) -> None:
        self.fetches = fetches
        self.ref = ref
        self.value = value
        self.peer = peer
        self.losses = losses
        """How often its owner was told that it is lost."""

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        self.fetches._answered(self, message, parts)

    def lost(self, error: ConnectionLost) -> None:
        self.fetches._lost(self)
