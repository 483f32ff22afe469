"""The objects and actors of this process that others hold.

An owned reference carries its own value; nothing is recorded for it until it leaves the process. Then an *export* keeps
it alive for those who hold it: messages under way (pins) and processes that registered (borrowers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from actorlite.errors import ObjectLostError, ProtocolError
from actorlite.ids import ActorId, ObjectId, ProcessId
from actorlite.refs import Failure, ObjectRef
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.runtime.payloads import entry_of_actor, pack
from actorlite.runtime.stored import value_of
from actorlite.wire.calls import Borrow, Exists, Failed, Fetch, Release, Reply, Taken
from actorlite.wire.failures import encode_failure
from actorlite.wire.messages import encode
from actorlite.wire.serialize import current_import


class Export:
    """An owned reference, or the link of an own actor, that others hold."""

    __slots__ = ("id", "ref", "borrowers", "pins")

    def __init__(self, id: ObjectId, ref: Any) -> None:
        self.id = id
        self.ref = ref
        self.borrowers: set[ProcessId] = set()
        self.pins = 0


class Exports:
    """On the loop only, but for `export` and `find`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._exports: dict[ObjectId, Export] = {}
        self.find_actor: Callable[[ActorId], object | None] = lambda identifier: None
        """The link of an actor that this process created, while somebody holds it."""
        self.find_again: Callable[[ObjectRef[Any], str, Callable[[], None]], None] = lambda ref, key, known: None
        """Looks after a value that somebody did not find in the store; then calls `known`. Set by the runtime."""
        self._held_for_reply: dict[tuple[Peer, int], Sequence[object]] = {}
        self._pickled: WeakValueDictionary[ObjectId, ObjectRef[Any]] = WeakValueDictionary()
        """Own references inside values: found again while something here keeps them, exported or not."""

    def export(self, ref: ObjectRef[Any]) -> tuple[Callable[..., object], tuple[object, ...]]:
        """How a message rebuilds the reference. The sender must `pin` it until the receiver has registered."""
        if not ref.owner_address:
            self._pickled[ref.id] = ref
        return rebuild_ref, (ref.id, ref.owner_address or self._hub.identity.address)

    def pin(self, handles: Iterable[object]) -> None:
        """A message with these references is under way. On the loop."""
        for ref in handles:
            if isinstance(ref, ObjectRef) and not ref.owner_address:
                self._export(ref.id, ref).pins += 1

    def unpin(self, handles: Iterable[object]) -> None:
        """The message has arrived and its receiver has registered, or it never will."""
        for ref in handles:
            if isinstance(ref, ObjectRef) and not ref.owner_address:
                export = self._exports.get(ref.id)
                if export is not None:
                    export.pins -= 1
                    self._drop(export)

    def hold_for_reply(self, peer: Peer, call: int, handles: Sequence[object]) -> None:
        """A reply with these references goes to `peer`: hold them until it says `Taken`."""
        if not peer.is_open:
            return  # nobody would ever let them go
        self.pin(handles)
        self._held_for_reply[peer, call] = handles

    def holders(self, ref: ObjectRef[Any]) -> tuple[str, ...]:
        """Who holds an own reference, for people."""
        export = self._exports.get(ref.id)
        if export is None:
            return ("a reference here",)
        borrowers = tuple([f"borrowed by {process}" for process in sorted(export.borrowers)])
        return (
            *borrowers,
            *(("on its way in a message, or an argument of a call under way",) if export.pins > 0 else ()),
        )

    @property
    def is_needed(self) -> bool:
        """Whether other processes hold objects that this one owns."""
        return bool(self._exports or self._held_for_reply)

    def find(self, identifier: ObjectId) -> ObjectRef[Any]:
        """An own reference that came back. Raises `ObjectLostError`."""
        ref = self.known(identifier)
        if ref is None:
            raise ObjectLostError(f"object {identifier} came back to its owner after everybody had let it go")
        return ref

    # --- handlers of messages

    def borrow(self, peer: Peer, message: Borrow, parts: Sequence[memoryview]) -> None:
        known = self._known(message.object)
        if known is not None:
            self._export(message.object, known).borrowers.add(peer.identity.process)
        peer.tell(encode(Exists(message.id)))

    def release(self, peer: Peer, message: Release, parts: Sequence[memoryview]) -> None:
        export = self._exports.get(message.object)
        if export is not None:
            export.borrowers.discard(peer.identity.process)
            self._drop(export)

    def taken(self, peer: Peer, message: Taken, parts: Sequence[memoryview]) -> None:
        handles = self._held_for_reply.pop((peer, message.id), None)
        if handles is not None:
            self.unpin(handles)

    def fetch(self, peer: Peer, message: Fetch, parts: Sequence[memoryview]) -> None:
        ref = self.known(message.object)
        if ref is None:
            error = ObjectLostError(f"object {message.object} is gone: nobody held a reference when it was asked for")
            peer.tell(encode(Failed(message.id, encode_failure(error, "owner"))))
            return
        answer = partial(self._answer, peer, message, ref)
        if message.lost and ref._stored is not None:
            self.find_again(ref, message.lost, answer)
        else:
            ref._subscribe_waker(answer, value=False)

    def _answer(self, peer: Peer, message: Fetch, ref: ObjectRef[Any]) -> None:
        outcome = ref._outcome
        if not message.value:
            peer.tell(encode(Exists(message.id)))
        elif isinstance(outcome, Failure) and ref._stored is None:
            peer.tell(encode(Failed(message.id, encode_failure(outcome.exception(), "owner"))))
        else:
            kept = ref._kept or ()
            payload, extra = pack(value_of(ref, kept), self._hub.identity.address)
            if kept:
                self.hold_for_reply(peer, message.id, kept)
            peer.tell(encode(Reply(message.id, payload)), *extra)

    def connection_lost(self, peer: Peer) -> None:
        """What was held for replies on it is not held any more."""
        for key in [key for key in self._held_for_reply if key[0] is peer]:
            self.unpin(self._held_for_reply.pop(key))

    def process_lost(self, process: ProcessId) -> None:
        """A process is gone: it holds nothing any more."""
        for export in list(self._exports.values()):
            export.borrowers.discard(process)
            self._drop(export)

    def known(self, identifier: ObjectId) -> ObjectRef[Any] | None:
        """An own reference that others hold, or that is in a value here."""
        ref = self._known(identifier)
        return ref if isinstance(ref, ObjectRef) else None

    def _known(self, identifier: ObjectId) -> Any:
        export = self._exports.get(identifier)
        if export is not None:
            return export.ref
        actor = entry_of_actor(identifier)
        return self._pickled.get(identifier) if actor is None else self.find_actor(actor)

    def _export(self, identifier: ObjectId, known: Any) -> Export:
        export = self._exports.get(identifier)
        if export is None:
            export = self._exports[identifier] = Export(identifier, known)
        return export

    def _drop(self, export: Export) -> None:
        if not export.borrowers and export.pins <= 0:
            self._exports.pop(export.id, None)

    def __repr__(self) -> str:
        return f"<Exports objects={len(self._exports)} held_for_reply={len(self._held_for_reply)}>"


def rebuild_ref(identifier: ObjectId, owner_address: str) -> ObjectRef[Any]:
    """Unpickles a reference inside a message."""
    scope = current_import()
    if scope is None:
        raise ProtocolError(f"object reference {identifier} can only be unpickled inside a session")
    return scope.import_ref(identifier, owner_address)  # type: ignore[no-any-return]
