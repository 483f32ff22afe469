"""The objects of one process: those it owns and others hold, and those it holds and others own.

An owned reference carries its own value; nothing is recorded for it until it leaves the process. Then an *export* keeps
it alive for those who hold it: messages under way (pins) and processes that registered (borrowers). A borrowed
reference registers with its owner when it appears here and releases when the last copy in this process is gone.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol
from weakref import ReferenceType, WeakValueDictionary
from weakref import ref as weak

from actorlite.errors import ActorliteError, ConnectionLost, ObjectLostError, OwnerDiedError, ProtocolError
from actorlite.ids import ObjectId, ProcessId, owner_of
from actorlite.refs import ELSEWHERE, Failure, ObjectRef
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.runtime.payloads import RefEntries, pack, unpack
from actorlite.wire.failures import decode_failure, encode_failure
from actorlite.wire.messages import Borrow, Exists, Failed, Fetch, Release, Reply, Taken, encode
from actorlite.wire.serialize import Encoded, current_import


class Scope(Protocol):
    """The runtime as the object table needs it."""

    loop: asyncio.AbstractEventLoop
    process: ProcessId
    hub: Hub

    def in_loop(self) -> bool: ...

    def post(self, work: Callable[..., object], *args: Any) -> None:
        """Run on the loop: now when on its thread, else soon."""

    def spawn(self, work: Any) -> None:
        """Own a task until it ends."""

    async def why_died(self, process: ProcessId) -> str: ...


class _Export:
    """An owned reference that others hold."""

    __slots__ = ("ref", "borrowers", "pins")

    def __init__(self, ref: ObjectRef[Any]) -> None:
        self.ref = ref
        self.borrowers: set[ProcessId] = set()
        self.pins = 0


class ObjectTable:
    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._lock = threading.Lock()
        self._exports: dict[ObjectId, _Export] = {}
        self._borrowed: WeakValueDictionary[ObjectId, ObjectRef[Any]] = WeakValueDictionary()
        self._watchers: dict[ObjectId, ReferenceType[ObjectRef[Any]]] = {}
        self._dropped: deque[tuple[ObjectId, str]] = deque()
        self._fetching: set[tuple[ObjectId, bool]] = set()
        self._held_for_reply: dict[tuple[Peer, int], Sequence[object]] = {}
        self._unregistered: set[asyncio.Future[None]] = set()
        """Registrations with owners that were not acknowledged yet."""

    # --- sending references away

    def export(self, ref: ObjectRef[Any]) -> tuple[Callable[..., object], tuple[object, ...]]:
        """How a message rebuilds the reference. The sender must `pin` it until the receiver has registered."""
        return rebuild_ref, (ref.id, ref.owner_address or self._scope.hub.identity.address)

    def pin(self, handles: Iterable[object]) -> None:
        """A message with these references is under way. On the loop."""
        for ref in handles:
            if isinstance(ref, ObjectRef) and not ref.owner_address:
                self._export_of(ref).pins += 1

    def unpin(self, handles: Iterable[object]) -> None:
        """The message has arrived and its receiver has registered, or it never will."""
        for ref in handles:
            if isinstance(ref, ObjectRef) and not ref.owner_address:
                export = self._exports.get(ref.id)
                if export is not None:
                    export.pins -= 1
                    self._drop_export(export)

    def hold_for_reply(self, peer: Peer, call: int, handles: Sequence[object]) -> None:
        """A reply with these references goes to `peer`: hold them until it says `Taken`."""
        self.pin(handles)
        self._held_for_reply[peer, call] = handles

    @property
    def is_needed(self) -> bool:
        """Whether other processes hold objects that this one owns."""
        return bool(self._exports or self._held_for_reply)

    @property
    def registering(self) -> bool:
        """Whether an owner has not yet acknowledged that this process holds its object."""
        return bool(self._unregistered)

    # --- receiving references

    def import_ref(self, identifier: ObjectId, owner_address: str) -> ObjectRef[Any]:
        """The reference for an id that came in a message. From any thread."""
        if owner_of(identifier) == self._scope.process:
            export = self._exports.get(identifier)
            if export is None:
                raise ObjectLostError(f"object {identifier} came back to its owner after everybody had let it go")
            return export.ref
        with self._lock:
            ref = self._borrowed.get(identifier)
            if ref is not None:
                return ref
            ref = ObjectRef(self._scope, identifier, owner_address)  # type: ignore[arg-type]
            self._borrowed[identifier] = ref
            dropped = partial(self._on_dropped, identifier, owner_address)
            self._watchers[identifier] = weak(ref, dropped)
        self._scope.post(self._register, identifier, owner_address)
        return ref

    def take(self, peer: Peer, call: int, entries: RefEntries) -> list[ObjectRef[Any]]:
        """Hold the references listed in a reply, and tell its sender once their owners know. On the loop."""
        refs = [self.import_ref(identifier, address) for identifier, address in entries]
        self.when_registered(partial(peer.tell, encode(Taken(call))))
        return refs

    def when_registered(self, work: Callable[[], object]) -> None:
        """Run `work` once all registrations known now are acknowledged; at once when there are none. On the loop."""
        waiting = [future for future in self._unregistered if not future.done()]
        if not waiting:
            work()
            return
        everyone = asyncio.gather(*waiting, return_exceptions=True)
        everyone.add_done_callback(lambda _: work())

    def _register(self, identifier: ObjectId, owner_address: str) -> None:
        future = self._scope.loop.create_future()
        self._unregistered.add(future)
        future.add_done_callback(self._unregistered.discard)
        peer = self._scope.hub.known(owner_address)
        if peer is not None:
            self._send_borrow(peer, identifier, future)
        else:
            self._scope.spawn(self._connect_and_register(identifier, owner_address, future))

    async def _connect_and_register(
        self, identifier: ObjectId, owner_address: str, future: asyncio.Future[None]
    ) -> None:
        try:
            peer = await self._scope.hub.connect(owner_address)
        except ActorliteError:
            future.set_result(None)
            self._owner_gone(identifier)
        else:
            self._send_borrow(peer, identifier, future)

    def _send_borrow(self, peer: Peer, identifier: ObjectId, future: asyncio.Future[None]) -> None:
        number = next(self._scope.hub.numbers)
        try:
            peer.call(number, _Registration(self, identifier, future), encode(Borrow(number, identifier)))
        except ConnectionLost:
            future.set_result(None)
            self._owner_gone(identifier)

    def _owner_gone(self, identifier: ObjectId) -> None:
        ref = self._borrowed.get(identifier)
        if ref is not None:
            self._scope.spawn(self._fail_borrowed(ref))

    async def _fail_borrowed(self, ref: ObjectRef[Any]) -> None:
        text = await self._scope.why_died(owner_of(ref.id))
        ref._resolve(Failure(partial(OwnerDiedError, f"the owner of object {ref.id} is gone: {text}"), quiet=True))

    def _on_dropped(self, identifier: ObjectId, owner_address: str, _: Any) -> None:
        # Runs anywhere, also inside the collector: only note it, and let the loop do the rest.
        self._dropped.append((identifier, owner_address))
        if len(self._dropped) == 1 and not self._scope.loop.is_closed():
            self._scope.loop.call_soon_threadsafe(self._release_dropped)

    def _release_dropped(self) -> None:
        while self._dropped:
            identifier, owner_address = self._dropped.popleft()
            with self._lock:
                if identifier in self._borrowed:
                    continue
                self._watchers.pop(identifier, None)
            peer = self._scope.hub.known(owner_address)
            if peer is not None:
                peer.tell(encode(Release(identifier)))

    # --- values of others

    def want(self, ref: ObjectRef[Any], *, value: bool) -> None:
        """Fetch a borrowed value, or learn that it is ready. From any thread; repeated wishes are one fetch."""
        self._scope.post(self._start_fetch, ref, value)

    def _start_fetch(self, ref: ObjectRef[Any], value: bool) -> None:
        key = (ref.id, value)
        outcome = ref._outcome
        if key in self._fetching or (outcome is not None and (outcome is not ELSEWHERE or not value)):
            return
        self._fetching.add(key)
        self._scope.spawn(self._fetch(ref, value))

    async def _fetch(self, ref: ObjectRef[Any], value: bool) -> None:
        number = next(self._scope.hub.numbers)
        try:
            peer = await self._scope.hub.connect(ref.owner_address)
            peer.call(number, _Fetching(self, ref, value, peer), encode(Fetch(number, ref.id, value)))
        except ActorliteError:
            self._fetching.discard((ref.id, value))
            await self._fail_borrowed(ref)

    # --- handlers of messages

    def borrow(self, peer: Peer, message: Borrow, parts: Sequence[memoryview]) -> None:
        export = self._exports.get(message.object)
        if export is not None:
            export.borrowers.add(peer.identity.process)
        peer.tell(encode(Exists(message.id)))

    def release(self, peer: Peer, message: Release, parts: Sequence[memoryview]) -> None:
        export = self._exports.get(message.object)
        if export is not None:
            export.borrowers.discard(peer.identity.process)
            self._drop_export(export)

    def taken(self, peer: Peer, message: Taken, parts: Sequence[memoryview]) -> None:
        handles = self._held_for_reply.pop((peer, message.id), None)
        if handles is not None:
            self.unpin(handles)

    def fetch(self, peer: Peer, message: Fetch, parts: Sequence[memoryview]) -> None:
        export = self._exports.get(message.object)
        if export is None:
            error = ObjectLostError(f"object {message.object} is gone: nobody held a reference when it was asked for")
            peer.tell(encode(Failed(message.id, encode_failure(error, "owner"))))
            return
        export.ref._subscribe_waker(partial(self._answer, peer, message, export.ref), value=False)

    def _answer(self, peer: Peer, message: Fetch, ref: ObjectRef[Any]) -> None:
        outcome = ref._outcome
        if not message.value:
            peer.tell(encode(Exists(message.id)))
        elif isinstance(outcome, Failure):
            peer.tell(encode(Failed(message.id, encode_failure(outcome.exception(), "owner"))))
        else:
            kept = ref._kept or ()
            payload, extra = pack(Encoded(outcome.kind, outcome.data, outcome.buffers, kept), self._own_address)
            if kept:
                self.hold_for_reply(peer, message.id, kept)
            peer.tell(encode(Reply(message.id, payload)), *extra)

    def peer_lost(self, peer: Peer) -> None:
        """A process is gone: it holds nothing any more, and what it owned is lost."""
        process = peer.identity.process
        for key in [key for key in self._held_for_reply if key[0] is peer]:
            self.unpin(self._held_for_reply.pop(key))
        for export in list(self._exports.values()):
            export.borrowers.discard(process)
            self._drop_export(export)
        with self._lock:
            orphans = [ref for key, ref in self._borrowed.items() if owner_of(key) == process]
        for ref in orphans:
            if ref._outcome is None or ref._outcome is ELSEWHERE:
                self._scope.spawn(self._fail_borrowed(ref))

    # --- inside

    @property
    def _own_address(self) -> str:
        return self._scope.hub.identity.address

    def _export_of(self, ref: ObjectRef[Any]) -> _Export:
        export = self._exports.get(ref.id)
        if export is None:
            export = self._exports[ref.id] = _Export(ref)
        return export

    def _drop_export(self, export: _Export) -> None:
        if not export.borrowers and export.pins <= 0:
            self._exports.pop(export.ref.id, None)

    def __repr__(self) -> str:
        return f"<ObjectTable exports={len(self._exports)} borrowed={len(self._borrowed)}>"


class _Registration:
    """Waits for the owner's acknowledgement."""

    __slots__ = ("table", "identifier", "future")

    def __init__(self, table: ObjectTable, identifier: ObjectId, future: asyncio.Future[None]) -> None:
        self.table = table
        self.identifier = identifier
        self.future = future

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def lost(self, error: ConnectionLost) -> None:
        if not self.future.done():
            self.future.set_result(None)
        self.table._owner_gone(self.identifier)


class _Fetching:
    """Waits for a borrowed value."""

    __slots__ = ("table", "ref", "value", "peer")

    def __init__(self, table: ObjectTable, ref: ObjectRef[Any], value: bool, peer: Peer) -> None:
        self.table = table
        self.ref = ref
        self.value = value
        self.peer = peer

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        self.table._fetching.discard((self.ref.id, self.value))
        if isinstance(message, Exists):
            if self.ref._outcome is None:
                self.ref._resolve(ELSEWHERE)
        elif isinstance(message, Reply):
            if message.value.refs:
                self.ref._kept = self.table.take(self.peer, message.id, message.value.refs)
            self.ref._resolve(unpack(message.value, parts))
        elif isinstance(message, Failed):
            self.ref._resolve(Failure(partial(decode_failure, message.failure), quiet=True))

    def lost(self, error: ConnectionLost) -> None:
        self.table._fetching.discard((self.ref.id, self.value))
        self.table._scope.spawn(self.table._fail_borrowed(self.ref))


def rebuild_ref(identifier: ObjectId, owner_address: str) -> ObjectRef[Any]:
    """Unpickles a reference inside a message."""
    scope = current_import()
    if scope is None:
        raise ProtocolError(f"object reference {identifier} can only be unpickled inside a session")
    return scope.import_ref(identifier, owner_address)  # type: ignore[no-any-return]
