"""The objects and actors of others that this process holds.

A borrowed reference registers with its owner when it appears here and releases when the last copy in this process is
gone. Its value is fetched when somebody wants it: see `fetches`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import ReferenceType, WeakValueDictionary
from weakref import ref as weak

from actorlite.errors import ActorliteError, ConnectionLost, OwnerDiedError, TransportError
from actorlite.ids import ActorId, ObjectId, ProcessId, owner_of
from actorlite.refs import ELSEWHERE, Failure, ObjectRef
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Peer
from actorlite.runtime.exports import Exports
from actorlite.runtime.payloads import RefEntries, actor_entry, entry_of_actor
from actorlite.wire.calls import Borrow, Release, Taken
from actorlite.wire.messages import encode
from actorlite.wire.requests import CancelWork, Yes

T = TypeVar("T")


class Scope(Protocol):
    """The runtime as borrowed references need it."""

    loop: asyncio.AbstractEventLoop
    process: ProcessId
    hub: Hub
    exports: Exports

    def in_loop(self) -> bool: ...

    def post(self, work: Callable[..., object], *args: Any) -> None:
        """Run on the loop: now when on its thread, else soon."""

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Own a task until it ends."""
        ...

    async def why_died(self, process: ProcessId) -> str: ...


class HeldActor:
    """An actor of another process, held here: by handles, or by a value that a handle is in."""

    __slots__ = ("id", "owner_address", "__weakref__")

    def __init__(self, id: ActorId, owner_address: str) -> None:
        self.id = id
        self.owner_address = owner_address


class Borrows:
    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._lock = threading.Lock()
        self._borrowed: WeakValueDictionary[ObjectId, ObjectRef[Any] | HeldActor] = WeakValueDictionary()
        self._watchers: dict[ObjectId, ReferenceType[Any]] = {}
        self._dropped: deque[tuple[ObjectId, str]] = deque()
        self._release_due = False
        self.unregistered: set[asyncio.Future[None]] = set()
        """Registrations with owners that were not acknowledged yet."""

    def import_ref(self, identifier: ObjectId, owner_address: str) -> ObjectRef[Any]:
        """The reference for an id that came in a message. From any thread."""
        watcher = self._watchers.get(identifier)
        if watcher is not None and (held := watcher()) is not None:
            return held  # type: ignore[no-any-return]
        if owner_of(identifier) == self._scope.process:
            return self._scope.exports.find(identifier)
        make = partial(ObjectRef[Any], self._scope, identifier, owner_address)  # type: ignore[arg-type]
        return self._hold(identifier, owner_address, make)  # type: ignore[no-any-return]

    def hold_actor(self, identifier: ActorId, owner_address: str) -> Any:
        """What keeps the actor alive while it exists here; None for an own one that has ended. From any thread."""
        if owner_of(identifier) == self._scope.process:
            return self._scope.exports.find_actor(identifier)
        return self._hold(actor_entry(identifier), owner_address, partial(HeldActor, identifier, owner_address))

    def _hold(self, identifier: ObjectId, owner_address: str, make: Callable[[], Any]) -> Any:
        with self._lock:
            held = self._borrowed.get(identifier)
            if held is not None:
                return held
            held = self._borrowed[identifier] = make()
            dropped = partial(self._on_dropped, identifier, owner_address)
            self._watchers[identifier] = weak(held, dropped)
            registered = self._scope.loop.create_future()
            # Now, not on the loop: the answer to the call that brought the reference may be there first.
            self.unregistered.add(registered)
        self._scope.post(self._register, identifier, owner_address, registered)
        return held

    def take(self, peer: Peer, call: int, entries: RefEntries) -> list[Any]:
        """Hold the references listed in a reply, and tell its sender once their owners know. On the loop."""
        held = self.hold_all(entries)
        self.when_registered(partial(peer.tell, encode(Taken(call))))
        return held

    def hold_all(self, entries: RefEntries) -> list[Any]:
        """Hold what is listed beside a value that contains it."""
        held = []
        for identifier, address in entries:
            actor = entry_of_actor(identifier)
            each = self.import_ref(identifier, address) if actor is None else self.hold_actor(actor, address)
            if each is not None:
                held.append(each)
        return held

    def borrowed(self, identifier: ObjectId) -> ObjectRef[Any] | None:
        """The reference to an object of another process, if it is held here."""
        held = self._borrowed.get(identifier)
        return held if isinstance(held, ObjectRef) else None

    def when_registered(self, work: Callable[[], object]) -> None:
        """Run `work` once all registrations known now are acknowledged; at once when there are none. On the loop."""
        waiting = [future for future in list(self.unregistered) if not future.done()]
        if not waiting:
            work()
            return
        everyone = asyncio.gather(*waiting, return_exceptions=True)
        everyone.add_done_callback(lambda _: work())

    def _register(self, identifier: ObjectId, owner_address: str, future: asyncio.Future[None]) -> None:
        future.add_done_callback(self.unregistered.discard)
        if identifier not in self._borrowed:
            future.set_result(None)  # let go meanwhile, and perhaps released already
            return
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
            if identifier in self._borrowed:
                self._send_borrow(peer, identifier, future)
            else:
                future.set_result(None)  # let go meanwhile: registering now would hold it for ever

    def _send_borrow(self, peer: Peer, identifier: ObjectId, future: asyncio.Future[None]) -> None:
        number = next(self._scope.hub.numbers)
        try:
            peer.call(number, _Registration(self, identifier, future), encode(Borrow(number, identifier)))
        except ConnectionLost:
            future.set_result(None)
            self._owner_gone(identifier)

    def _owner_gone(self, identifier: ObjectId) -> None:
        ref = self._borrowed.get(identifier)
        if isinstance(ref, ObjectRef):  # calls of an actor learn it where they are made
            self._scope.spawn(self.fail(ref))

    async def fail(self, ref: ObjectRef[Any], owner: ProcessId | None = None) -> None:
        """Its owner is gone, by default the one that made it: say how that ended. Not for what was handed over."""
        text = await self._scope.why_died(owner or owner_of(ref.id))
        if not ref.owner_address:
            return
        ref._resolve(Failure(partial(OwnerDiedError, f"the owner of object {ref.id} is gone: {text}"), quiet=True))

    def _on_dropped(self, identifier: ObjectId, owner_address: str, _: Any) -> None:
        # Runs anywhere, also inside the collector: only note it, and let the loop do the rest.
        self._dropped.append((identifier, owner_address))
        if not self._release_due and not self._scope.loop.is_closed():
            self._release_due = True
            self._scope.loop.call_soon_threadsafe(self._release_dropped)

    def _release_dropped(self) -> None:
        # Cleared first: what is dropped from now on, on another thread, wakes the loop again.
        self._release_due = False
        while self._dropped:
            identifier, owner_address = self._dropped.popleft()
            with self._lock:
                if identifier in self._borrowed:
                    continue
                self._watchers.pop(identifier, None)
            peer = self._scope.hub.known(owner_address)
            if peer is not None:
                peer.tell(encode(Release(identifier)))

    async def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> bool:
        """Ask the owner to cancel the work behind a borrowed reference. False when it is gone."""
        try:
            peer = await self._scope.hub.connect(ref.owner_address)
            answer = await peer.request(next(self._scope.hub.numbers), CancelWork(ref.id, force, recursive))
        except TransportError:
            return False  # the value is lost with its owner, and the reference says so
        return isinstance(answer, Yes) and answer.value

    def peer_lost(self, peer: Peer) -> None:
        """A process is gone, and what it owned is lost."""
        who = peer.identity
        with self._lock:
            held = [ref for ref in self._borrowed.values() if isinstance(ref, ObjectRef)]
        # By the address: who inherited a value owns it under its old id.
        orphans = [ref for ref in held if ref.owner_address == who.address]
        for ref in orphans:
            if ref._outcome is None or ref._outcome is ELSEWHERE:
                self._scope.spawn(self.fail(ref, who.process))

    def close(self, text: str) -> None:
        """The session is over: nothing more is fetched."""
        with self._lock:
            held = [ref for ref in self._borrowed.values() if isinstance(ref, ObjectRef)]
        unresolved = [ref for ref in held if ref._outcome is None or ref._outcome is ELSEWHERE]
        for ref in unresolved:
            ref._resolve(Failure(partial(OwnerDiedError, f"object {ref.id} was not fetched: {text}"), quiet=True))

    def __repr__(self) -> str:
        return f"<Borrows objects={len(self._borrowed)}>"


class _Registration:
    """Waits for the owner's acknowledgement."""

    __slots__ = ("borrows", "identifier", "future")

    def __init__(self, borrows: Borrows, identifier: ObjectId, future: asyncio.Future[None]) -> None:
        self.borrows = borrows
        self.identifier = identifier
        self.future = future

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def lost(self, error: ConnectionLost) -> None:
        if not self.future.done():
            self.future.set_result(None)
        self.borrows._owner_gone(self.identifier)
