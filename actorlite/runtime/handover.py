"""The end of an owner in good order: what others hold of it they own from then on (Ray: it is lost with its owner).

Each process that holds a reference gets its value, or the error that it failed with, and owns it as if it had made it:
small values as a copy, stored ones as one of several owners of what lies in the node's store. References inside go the
same way. What does not exist yet fails with `OwnerDiedError`: nobody is left to make it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from actorlite.errors import ActorliteError, ConnectionLost, OwnerDiedError
from actorlite.ids import ProcessId
from actorlite.refs import ELSEWHERE, Failure, ObjectRef
from actorlite.rpc.peer import Peer
from actorlite.runtime.exports import Export
from actorlite.runtime.lineage import HANDED_OVER
from actorlite.runtime.payloads import pack, unpack
from actorlite.runtime.stored import inherit, value_of
from actorlite.wire.calls import Exists, HandOver
from actorlite.wire.failures import decode_failure, encode_failure
from actorlite.wire.messages import encode
from actorlite.wire.objects import HandOverObjects, Heirs
from actorlite.wire.serialize import STORED

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime

logger = logging.getLogger("actorlite.runtime")

HAND_OVER_S = 5.0
"""How long those who hold what a process owns may take to receive it."""
AT_ONCE = 1000
"""Objects that are under way at a time."""

Held = tuple[Export, ProcessId]


class Handover:
    """On the loop."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self._runtime = runtime

    # --- who ends

    async def give(self) -> None:
        """Hand over what others hold; returns when they have it. Never raises but when it is cancelled."""
        try:
            async with asyncio.timeout(HAND_OVER_S):
                # More than once: what is inside the values is borrowed by those who get them, and handed over next.
                while held := self._held():
                    await self._give(held)
        except (ActorliteError, TimeoutError) as error:
            logger.warning("others lose %d objects that this process owned: %r", len(self._held()), error)

    def _held(self) -> list[Held]:
        found = [each for each in self._runtime.exports._exports.values() if isinstance(each.ref, ObjectRef)]
        return [(each, process) for each in found for process in each.borrowers]

    async def _give(self, held: Sequence[Held]) -> None:
        """One round: all that is held now."""
        hub = self._runtime.hub
        heirs = await self._heirs(held)
        for start in range(0, len(held), AT_ONCE):
            given = []
            for export, process in held[start : start + AT_ONCE]:
                peer = hub.peers.get(process)
                if process in heirs and peer is not None:
                    given.append(self._send(export, peer))
                else:
                    export.borrowers.discard(process)
            await asyncio.gather(*[each.future for each in given])

    async def _heirs(self, held: Sequence[Held]) -> frozenset[ProcessId]:
        """Those who live on. They own what of it lies in the store from now on."""
        stored: dict[str, list[ProcessId]] = {}
        for export, process in held:
            if (holding := export.ref._stored) is not None and not self._is_abroad(export.ref):
                stored.setdefault(holding.stored.key, []).append(process)
        processes = tuple({process for _, process in held})
        objects = tuple((key, tuple(each)) for key, each in stored.items())
        wish = HandOverObjects(processes, objects)
        answer = await self._runtime.node_peer.request(next(self._runtime.hub.numbers), wish)
        return frozenset(answer.processes) if isinstance(answer, Heirs) else frozenset()

    def _send(self, export: Export, peer: Peer) -> _Giving:
        runtime, number, ref = self._runtime, next(self._runtime.hub.numbers), export.ref
        outcome = ref._outcome
        giving = _Giving(runtime, export, peer.identity.process)
        extra: Sequence[Any] = ()
        if outcome is None:
            message = HandOver(number, ref.id)
        elif isinstance(outcome, Failure) and ref._stored is None:
            message = HandOver(number, ref.id, failure=encode_failure(outcome.exception(), "owner"))
        elif self._is_abroad(ref):
            error = OwnerDiedError(f"the owner of object {ref.id} ended, and its value lies on another node")
            message = HandOver(number, ref.id, failure=encode_failure(error, "owner"))
        else:
            giving.kept = ref._kept or ()
            runtime.exports.pin(giving.kept)
            payload, extra = pack(value_of(ref, giving.kept), runtime.hub.identity.address)
            message = HandOver(number, ref.id, payload)
        try:
            peer.call(number, giving, encode(message), *extra)
        except ConnectionLost as error:
            giving.lost(error)
        return giving

    def _is_abroad(self, ref: ObjectRef[Any]) -> bool:
        """What is in the store of another node is freed there when its owner ends."""
        return ref._stored is not None and ref._stored.stored.node != self._runtime.node_peer.identity.process

    # --- who holds

    def received(self, peer: Peer, message: HandOver, parts: Sequence[memoryview]) -> None:
        """Handler: what is held here of a process that ends is this one's now."""
        runtime, value = self._runtime, message.value
        said = partial(peer.tell, encode(Exists(message.id)))
        ref = runtime.borrows.borrowed(message.object)
        stored = None
        if value is not None and value.kind == STORED:
            stored = runtime.stored.claim(value, "handed over by its owner", HANDED_OVER)
        if ref is None or not ref.owner_address:
            said()  # it was let go meanwhile, and so is its place in the store
            return
        if value is None and not message.failure:
            who = f"the {peer.identity.role} pid {peer.identity.pid}"
            text = f"{who}, the owner of object {ref.id}, ended in good order before its value was there"
            ref._resolve(Failure(partial(OwnerDiedError, text), quiet=True))
            said()
            return
        ref.owner_address = ""
        if value is None:
            ref._resolve(Failure(partial(decode_failure, message.failure), quiet=True))
        else:
            if value.refs:
                ref._kept = runtime.borrows.hold_all(value.refs)
            if stored is not None:
                inherit(runtime, ref, stored)
            elif ref._outcome is None or ref._outcome is ELSEWHERE:
                ref._resolve(unpack(value, parts))
        runtime.borrows.when_registered(said)

    def __repr__(self) -> str:
        return "<Handover>"


class _Giving:
    """Waits for a process to have what is handed over to it."""

    __slots__ = ("runtime", "export", "process", "kept", "future")

    def __init__(self, runtime: ProcessRuntime, export: Export, process: ProcessId) -> None:
        self.runtime = runtime
        self.export = export
        self.process = process
        self.kept: Sequence[object] = ()
        """References in the value."""
        self.future: asyncio.Future[None] = runtime.loop.create_future()

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        self._over()

    def lost(self, error: ConnectionLost) -> None:
        self._over()

    def _over(self) -> None:
        self.runtime.exports.unpin(self.kept)
        self.export.borrowers.discard(self.process)
        if not self.future.done():
            self.future.set_result(None)
