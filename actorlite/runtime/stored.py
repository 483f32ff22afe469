"""References whose values lie in the node's store, and what goes there.

To a reference such a value is `ELSEWHERE` until somebody wants it: then it is opened, and stays at hand, pinned, until
the node is short of room. A value that user code holds stays pinned by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType
from weakref import ref as weak

from actorlite.errors import (
    ActorliteError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectStoreFullError,
    SessionClosedError,
)
from actorlite.ids import ProcessId
from actorlite.loading import load
from actorlite.refs import ELSEWHERE, Failure, ObjectRef, block_on
from actorlite.rpc.peer import Peer
from actorlite.runtime.lineage import PUT, Origin
from actorlite.runtime.waiting import check_timeout
from actorlite.store.client import DEFAULT_TIMEOUT_S, STORE_BYTES, Holding, StoreClient
from actorlite.wire.calls import Payload
from actorlite.wire.objects import Explained, ExplainObjects, Stored, decode_stored, encode_stored
from actorlite.wire.serialize import STORED, Encoded, encode, settled

if TYPE_CHECKING:
    from actorlite.runtime.calls import Outbound
    from actorlite.runtime.runtime import ProcessRuntime

logger = logging.getLogger("actorlite.runtime")

FAILED_S = 1.0
"""How long a reference says that its value could not be opened for want of room; then it may be tried again."""
UNWANTED_S = 1.0
"""How long a value is brought on for nobody: who asks again and again with a short timeout gets it in the end."""
SOON_S = 0.2
MANY = 64
NOT_READ = ("a call under way, or a stream that was not read so far",)
"""Who holds a value that has no reference."""
RECORDS_CALL_SITES = "actorlite.config:records_call_sites"


def is_large(encoded: Encoded) -> bool:
    """Whether a value belongs into the store."""
    if not encoded.buffers:
        return len(encoded.data) >= STORE_BYTES
    return encoded.total_bytes >= STORE_BYTES


def value_of(ref: ObjectRef[Any], kept: Sequence[object]) -> Encoded:
    """What goes into a message for an own reference that is ready: its value, or where in the store that lies."""
    if ref._stored is not None:
        return Encoded(STORED, ref._stored.packed, (), kept)
    value: Encoded = ref._outcome
    return Encoded(value.kind, value.data, value.buffers, kept)


class Written:
    """What the plain code of a call writes into the store for its answer, which may not come to be. From any thread."""

    __slots__ = ("answer", "_runtime", "_stored", "_is_unwanted")

    def __init__(self, runtime: ProcessRuntime) -> None:
        self.answer: object = None
        """The answer that tells of it."""
        self._runtime = runtime
        self._stored: list[Stored] = []
        self._is_unwanted = False

    def write(self, encoded: Encoded, owner: ProcessId) -> Encoded:
        """`StoredValues.write_for`, for a thread, which waits for it, and may be interrupted anywhere."""
        if (placed := self.place(encoded, owner)) is not None:
            return placed
        writing = asyncio.run_coroutine_threadsafe(self._write(encoded, owner), self._runtime.loop)
        try:
            return block_on(writing, None)
        except BaseException:
            writing.cancel()
            raise

    def place(self, encoded: Encoded, owner: ProcessId) -> Encoded | None:
        """At once: None when no room is at hand."""
        stored = self._runtime.stored.client.place(encoded, owner)
        if stored is None:
            return None
        self._stored.append(stored)
        return Encoded(STORED, encode_stored(stored), (), encoded.handles)

    def drop(self) -> None:
        """The answer is not sent: it is nobody's, also what is still being written."""
        self._is_unwanted = True
        while self._stored:
            with contextlib.suppress(IndexError):  # the loop and the thread take turns
                self._runtime.stored.client.dropped(self._stored.pop())

    async def _write(self, encoded: Encoded, owner: ProcessId) -> Encoded:
        stored = await self._runtime.stored.client.write(encoded, owner)
        self._stored.append(stored)
        if self._is_unwanted:
            self.drop()
        return Encoded(STORED, encode_stored(stored), (), encoded.handles)

    def __repr__(self) -> str:
        return f"<Written {self._stored}>"


class _Bringing:
    """A value that is being opened for a reference."""

    __slots__ = ("losses", "task", "timer")

    task: asyncio.Task[None]
    timer: asyncio.TimerHandle

    def __init__(self, losses: int) -> None:
        self.losses = losses
        """How often a borrowed value was found lost for this wish."""


class StoredValues:
    """On the loop, but for `bind`."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self._runtime = runtime
        self.client = StoreClient(runtime)
        self._bringing: dict[int, _Bringing] = {}
        """By the identity of the reference."""
        self._at_hand: list[ReferenceType[ObjectRef[Any]]] = []
        self._prune_at = MANY
        runtime.fetches.open_stored = self._open_borrowed
        runtime.exports.find_again = partial(find_for, runtime)

    # --- into the store

    async def put(self, value: Any, timeout: float | None = None) -> ObjectRef[Any]:
        check_timeout("put", timeout)
        runtime = self._runtime
        encoded = encode(value, copy=False)
        where = call_site() if is_large(encoded) and load(RECORDS_CALL_SITES)() else ""
        ref: ObjectRef[Any] = ObjectRef(runtime, next(runtime.hub.numbers))
        ref._kept = encoded.handles or None
        if is_large(encoded):
            timeout_s = DEFAULT_TIMEOUT_S if timeout is None else timeout
            stored = await self.client.write(encoded, runtime.process, timeout_s)
            self.bind(ref, Holding(self.client, stored, f"put{where}", PUT))
            ref._outcome = ELSEWHERE
        else:
            encoded = settled(encoded, value)
            ref._outcome = Encoded(encoded.kind, encoded.data, encoded.buffers)
        return ref

    async def write(self, encoded: Encoded, what: str) -> Holding:
        """Arguments, which are this process's own until their call has ended."""
        return Holding(self.client, await self.client.write(encoded, self._runtime.process), what, "")

    async def write_for(self, encoded: Encoded, owner: ProcessId) -> Encoded:
        """A value that `owner` will hold: what stands for it in the message that goes there."""
        stored = await self.client.write(encoded, owner)
        return Encoded(STORED, encode_stored(stored), (), encoded.handles)

    # --- out of it

    def claim(self, payload: Payload | Encoded, what: str, origin: Origin = "") -> Holding:
        """A value that another process wrote for this one."""
        return self.client.claim(decode_stored(payload.data), what, origin)

    def bind(self, ref: ObjectRef[Any], holding: Holding) -> None:
        """From now on `ref` keeps the value there. From any thread that made the reference."""
        ref._stored = holding
        holding.ref = weak(ref)

    def arrived(self, holding: Holding, sink: Any) -> None:
        """The result of a call: to its reference, or to whoever waits for it."""
        if isinstance(sink, ObjectRef):
            self.bind(sink, holding)
            if sink._is_wanted:
                self.bring(sink)
            else:
                sink._resolve(ELSEWHERE)
        elif sink is not None:
            self._runtime.spawn(self._deliver(holding, sink))

    def bring(self, ref: ObjectRef[Any]) -> None:
        """Open the value of an own reference, once, however many want it."""
        if ref._stored is not None and (ref._outcome is None or ref._outcome is ELSEWHERE):
            self._bring(ref, ref._stored.stored)

    async def find_again(self, ref: ObjectRef[Any], key: str = "") -> None:
        """Somebody has said that the value of an own reference is lost, where he was told its `key`. Returns when it is
        known what became of it: it may be there, by now under another key."""
        if ref._stored is not None and ref._outcome is ELSEWHERE and key in ("", ref._stored.stored.key):
            stored = ref._stored.stored
            try:
                await self.client.open(stored)
            except ObjectLostError as error:
                self._make_again(ref, stored, error)
            except Exception as error:
                # Whoever needs it will say what is wrong. In words: a record that is kept shall keep nothing alive.
                logger.debug("%s is not known to be lost: %s", repr(ref), str(error))
        await ref.ready()

    async def open_all(self, payloads: Mapping[int, Payload]) -> dict[int, Encoded]:
        """The values that payloads stand for, on views of the store.

        Who has some and waits for others in a full store may wait for somebody who has those and waits for these: so
        what was opened is let go when the next does not come soon, and it begins anew, at a moment of its own.
        """
        loop = self._runtime.loop
        ends = loop.time() + DEFAULT_TIMEOUT_S
        while True:
            opened: dict[int, Encoded] = {}
            try:
                for place, payload in payloads.items():
                    left = ends - loop.time()
                    timeout_s = min(left, SOON_S) if opened else left
                    opened[place] = await self.client.open(decode_stored(payload.data), max(timeout_s, 0.001))
            except ObjectStoreFullError:
                if loop.time() + SOON_S >= ends:
                    raise
                opened.clear()
                await asyncio.sleep(SOON_S * self._runtime.hub.luck())
            else:
                return opened

    def let_go(self) -> None:
        """The node is short of room: values that are only at hand go, those that user code holds stay."""
        self.client.slabs.give_back()
        at_hand, self._at_hand = self._at_hand, []
        for each in at_hand:
            ref = each()
            if ref is not None and type(ref._outcome) is Encoded:
                ref._outcome = ELSEWHERE

    def close(self) -> None:
        self.let_go()
        self.client.close()

    def _open_borrowed(self, ref: ObjectRef[Any], payload: Payload, losses: int) -> None:
        self._bring(ref, decode_stored(payload.data), losses)

    def _bring(self, ref: ObjectRef[Any], stored: Stored, losses: int = 0) -> None:
        if id(ref) not in self._bringing:
            bringing = self._bringing[id(ref)] = _Bringing(losses)
            bringing.task = self._runtime.spawn(self._open_for(ref, stored, bringing))
            bringing.timer = self._runtime.loop.call_later(UNWANTED_S, self._look_who_waits, ref, bringing)

    def _look_who_waits(self, ref: ObjectRef[Any], bringing: _Bringing) -> None:
        """What takes long, and nobody waits for any more, is given up: the reference stays as it is."""
        if ref._is_wanted:
            bringing.timer = self._runtime.loop.call_later(UNWANTED_S, self._look_who_waits, ref, bringing)
        else:
            del self._bringing[id(ref)]
            bringing.task.cancel()

    async def _open_for(self, ref: ObjectRef[Any], stored: Stored, bringing: _Bringing) -> None:
        try:
            encoded = await self.client.open(stored)
        except asyncio.CancelledError:
            if self._bringing.get(id(ref)) is bringing:
                ref._resolve(Failure(partial(copy_of, session_over()), quiet=True))
            raise
        except Exception as reason:
            error = as_ours(reason)
            if type(error) is ObjectLostError:
                if not ref.owner_address:
                    self._make_again(ref, stored, error)
                    return
                if self._runtime.fetches.lost(ref, stored.key, bringing.losses):
                    return
            failure = Failure(partial(copy_of, error), quiet=True)
            ref._resolve(failure)
            if isinstance(error, ObjectStoreFullError):
                self._runtime.delays.after(FAILED_S, partial(_try_again, ref, failure))
        else:
            ref._resolve(encoded)
            self._keep_at_hand(ref)
        finally:
            bringing.timer.cancel()
            if self._bringing.get(id(ref)) is bringing:
                del self._bringing[id(ref)]
            if ref._waiters is not None and ref._stored is not None and ref._stored.stored is not stored:
                self.bring(ref)  # it was made again meanwhile

    def _make_again(self, ref: ObjectRef[Any], stored: Stored, error: ObjectLostError) -> None:
        """A value of an own reference is lost."""
        if ref._stored is None or ref._stored.stored is not stored:
            return  # it is being made already, or was
        origin: Origin = ref._stored.origin
        ref._stored, ref._outcome = None, None
        try:
            if isinstance(origin, str):
                raise ObjectReconstructionFailedError(origin)
            origin.cook(ref)
        except ObjectReconstructionFailedError as why:
            failed = ObjectReconstructionFailedError(f"{error}; it cannot be made again: {why}")
            ref._resolve(Failure(partial(copy_of, failed), quiet=True))
        else:
            logger.warning("%s; it is made again: %s", str(error), repr(origin))

    async def _deliver(self, holding: Holding, sink: Any) -> None:
        try:
            outcome: Any = await self.client.open(holding.stored)
        except asyncio.CancelledError:
            sink._resolve(Failure(partial(copy_of, session_over()), quiet=True))
            raise
        except Exception as error:
            outcome = Failure(partial(copy_of, as_ours(error)))
        sink._resolve(outcome)

    def _keep_at_hand(self, ref: ObjectRef[Any]) -> None:
        self._at_hand.append(weak(ref))
        if len(self._at_hand) >= self._prune_at:
            self._at_hand = [each for each in self._at_hand if each() is not None]
            self._prune_at = 2 * len(self._at_hand) + MANY

    def __repr__(self) -> str:
        return f"<StoredValues at hand={len(self._at_hand)}>"


def place_arguments(runtime: ProcessRuntime, encoded: Encoded, name: str) -> Encoded | None:
    """The arguments of a call, kept in the store by what is returned: None when no room is at hand. From any thread."""
    client = runtime.stored.client
    stored = client.place(encoded, runtime.process)
    if stored is None:
        return None
    holding = Holding(client, stored, f"arguments of {name}()", "")
    return Encoded(STORED, holding.packed, (), encoded.handles, holding)


async def store_arguments(call: Outbound) -> None:
    """Arguments that are large go to the store before the call is sent."""
    try:
        stored = await call.runtime.stored.write(call.encoded, f"arguments of {call.name}()")
    except asyncio.CancelledError:
        if not call.ended:
            call.not_stored(session_over())
        raise
    except Exception as error:
        call.not_stored(as_ours(error))
        return
    if call.ended:
        return  # given up meanwhile
    call.stored = stored
    call.encoded = Encoded(STORED, stored.packed, (), call.encoded.handles)
    call._one_arrived()


def take_stored(call: Outbound, payload: Payload) -> None:
    """The result of a call lies in the store, and is this process's from now on."""
    sink, call.sink = call.sink, None
    if isinstance(sink, ObjectRef):
        sink._call = None
    origin = call.origin()
    call.end(None)
    call.runtime.stored.arrived(call.runtime.stored.claim(payload, f"result of {call.name}()", origin), sink)


def find_for(runtime: ProcessRuntime, ref: ObjectRef[Any], key: str, known: Callable[[], None]) -> None:
    """A borrower of an own reference did not find its value."""
    finding = runtime.spawn(runtime.stored.find_again(ref, key))
    finding.add_done_callback(lambda task: None if task.cancelled() else known())


def inherit(runtime: ProcessRuntime, ref: ObjectRef[Any], holding: Holding) -> None:
    """The value of a reference that was borrowed is this process's from now on."""
    ref._stored = holding
    holding.ref = weak(ref)
    if ref._outcome is None:
        ref._resolve(ELSEWHERE)
    elif ref._waiters is not None:
        runtime.stored.bring(ref)


async def explain(runtime: ProcessRuntime, peer: Peer, body: ExplainObjects) -> Explained:
    """Handler: what own objects are, and who holds them."""
    found = []
    for key in body.keys:
        holding = runtime.stored.client.holdings.get(key)
        if holding is not None:
            ref = holding.ref() if holding.ref is not None else None
            holders = runtime.exports.holders(ref) if ref is not None else NOT_READ
            found.append((key, holding.what, holders))
    return Explained(tuple(found))


def session_over() -> ActorliteError:
    return SessionClosedError("the session was shut down before a large value was there")


def as_ours(error: Exception) -> ActorliteError:
    """What went wrong with the store, as an error that says that, and can be kept: it knows no frames, which know what
    it is about."""
    if isinstance(error, ActorliteError):
        return copy_of(error)
    return ObjectStoreFullError(
        f"the object store cannot be used in this process: {type(error).__name__}: {error}; "
        "it maps object_store_memory bytes: is there a limit on address space, threads or descriptors (ulimit)?"
    )


def copy_of(error: ActorliteError) -> ActorliteError:
    """One for each who awaits, so that none shares a traceback."""
    return type(error)(str(error), outcome=error.outcome)


def _try_again(ref: ObjectRef[Any], failure: Failure) -> None:
    if ref._outcome is failure:
        ref._outcome = ELSEWHERE


def call_site() -> str:
    """Where the user's code is that asked for this: `" at app.py:12"`."""
    frame = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("actorlite."):
        frame = frame.f_back  # type: ignore[assignment]
    return f" at {frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""
