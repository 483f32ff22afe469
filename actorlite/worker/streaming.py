"""Running generators: async ones on the loop, plain ones in the thread where plain code runs, item by item.

A generator is resumed only while its reader has room, so it is never ahead by more than the window. It ends in three
ways: by itself, by its own error, or closed because nobody reads any more; then its clean-up runs where it ran, and the
call holds its place until that has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from actorlite.definitions import CallKind
from actorlite.errors import ActorliteError, Outcome, TaskCancelledError
from actorlite.options import STREAMING
from actorlite.refs import block_on
from actorlite.rpc.streams import LoopStream, OutboundStream, ThreadStream
from actorlite.runtime.payloads import pack
from actorlite.runtime.stored import as_ours, is_large
from actorlite.state.streams import SendWindow
from actorlite.transport import Buffer
from actorlite.wire.calls import EXPIRED, Payload, Reply
from actorlite.wire.messages import encode
from actorlite.wire.objects import encode_stored
from actorlite.wire.serialize import STORED, Encoded, settled
from actorlite.wire.serialize import encode as encode_value
from actorlite.worker.coroutines import is_late
from actorlite.worker.executor import ThreadExecutor
from actorlite.worker.inbound import Answer, InboundCall

if TYPE_CHECKING:
    from actorlite.worker.coroutines import Done
    from actorlite.worker.host import Worker

logger = logging.getLogger("actorlite.worker")

FOR_ROOM_S = 0.2
"""A copy into the store that takes longer is taken to wait for room."""

_NONE = encode_value(None)
END = Payload(_NONE.kind, bytes(_NONE.data))


class Producing:
    """One generator call: what it may send, how far it is, and how it ends."""

    __slots__ = ("call", "wanted", "yielded", "broken", "large")

    def __init__(self, call: InboundCall) -> None:
        envelope = call.envelope
        self.call = call
        self.wanted = envelope.num_returns if envelope is not None else 1
        """How many values the caller has references for; `STREAMING` for a stream."""
        if self.wanted == 1:
            self.wanted = STREAMING
        self.yielded = 0
        self.broken = False
        """Whether it was closed because nobody reads any more."""
        self.large = False
        """Whether the last value that was `encoded` belongs into the store."""

    @property
    def window(self) -> SendWindow:
        """References of a call with `num_returns` have room for all of its values, and one too many is found out."""
        envelope = self.call.envelope
        if self.wanted != STREAMING:
            return SendWindow(self.wanted + 1)
        return SendWindow(envelope.window, envelope.window_bytes) if envelope is not None else SendWindow(1)

    def may_go_on(self, room: bool) -> bool:
        """Whether to resume the generator."""
        self.broken = self.call.cancelled or not room
        return not self.broken

    def encoded(self, value: Any) -> Encoded | None:
        """A yielded value as it travels; None when nobody wants it. Raises for one too many.

        A large one has buffers that can be written to: it is fixed when it was copied into the store, before the
        generator goes on.
        """
        self.yielded += 1
        if not self.wanted:
            return None
        if self.yielded > self.wanted != STREAMING:
            raise ValueError(
                f"{self.call.name}() yielded more than {self.wanted} values, but num_returns={self.wanted}: leave "
                "num_returns out for a stream of any length"
            )
        try:
            encoded = encode_value(value, copy=False)
            self.large = is_large(encoded)
            if self.large or (not encoded.buffers and type(encoded.data) is bytes):
                return encoded
            return settled(encoded, value)
        except ActorliteError as error:
            error.outcome = Outcome.EXECUTED
            raise

    def ended(self) -> Answer:
        """The answer when the generator has ended without an error of its own."""
        if self.broken:
            return self.call.failure(self.cancelled())
        if self.yielded < self.wanted:
            text = f"{self.call.name}() yielded {self.yielded} values, but num_returns={self.wanted}"
            return self.call.failure(ValueError(text))
        return (encode(Reply(self.call.id, END)),), ()

    def failed(self, error: BaseException) -> Answer:
        """The answer when it raised, or its clean-up did."""
        cancelled = self.broken or self.call.cancelled
        if cancelled and isinstance(error, asyncio.CancelledError):
            return self.call.failure(self.cancelled())
        if cancelled:
            # Whoever closed it has gone on.
            logger.warning("%s raised while it was closed", self.call.where(), exc_info=error)
        return self.call.failure(error)

    def cancelled(self) -> TaskCancelledError:
        text = f"{self.call.name}() was closed after {self.yielded} items"
        return TaskCancelledError(text, outcome=Outcome.UNKNOWN)


class _Waiting:
    """A call that waits for room in the store lends its CPU, as one that waits for its reader does."""

    __slots__ = ("call", "begun")

    def __init__(self, call: InboundCall) -> None:
        self.call = call
        self.begun = False

    def begin(self) -> None:
        self.begun = True
        self.call.enter_wait()

    def end(self) -> None:
        if self.begun:
            self.call.leave_wait()


class Producers:
    """Starts generator calls; `done` is called on the loop, once, as for other calls."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def start(
        self,
        call: InboundCall,
        kind: CallKind,
        find: Callable[[], Callable[..., Any]],
        executor: ThreadExecutor,
        done: Done,
    ) -> None:
        """Decode the arguments and run the generator that `find` gives."""
        if kind is CallKind.ASYNC_GENERATOR:
            self._worker.runner.start_work(call, self._on_loop(call, find, done), done)
        else:
            call.task = None
            executor.submit(partial(self._in_thread, call, find, done))

    # --- on the loop

    async def _on_loop(self, call: InboundCall, find: Callable[[], Callable[..., Any]], done: Done) -> None:
        producing = Producing(call)
        stream = LoopStream(call.peer, call.id, producing.window)
        try:
            if is_late(call):
                answer = call.rejection(EXPIRED)
            else:
                await self._drain(producing, stream, find)
                answer = producing.ended()
        except BaseException as error:
            # SystemExit too: it would end the loop, which belongs to the caller when in process.
            answer = producing.failed(error)
        stream.forget()
        done(call, answer)

    async def _drain(self, producing: Producing, stream: LoopStream, find: Callable[[], Callable[..., Any]]) -> None:
        args, kwargs = producing.call.arguments()
        generator = find()(*args, **kwargs)
        try:
            while producing.may_go_on(not producing.wanted or await stream.room()):
                try:
                    value = await generator.__anext__()
                except StopAsyncIteration:
                    return
                encoded = producing.encoded(value)
                if encoded is not None:
                    if producing.large:
                        await self._store(producing, stream, encoded)
                    else:
                        payload, parts = self._pack(encoded)
                        hold = self._hold(stream, encoded.handles) if encoded.handles else 0
                        stream.send(payload, parts, encoded.total_bytes, hold)
                del value, encoded  # the reader holds it now
        finally:
            await generator.aclose()

    async def _store(self, producing: Producing, stream: LoopStream, encoded: Encoded) -> None:
        """Send a large item by way of the store. Returns early when nobody reads any more."""
        storing = self._worker.runtime.spawn(self._store_and_send(producing.call, stream, encoded))
        stream.storing = storing
        try:
            error = await storing
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not stream.stopped or (task is not None and task.cancelling()):
                raise
        else:
            if error is not None:
                raise error
        finally:
            stream.storing = None

    # --- in threads

    def _in_thread(self, call: InboundCall, find: Callable[[], Callable[..., Any]], done: Done) -> None:
        if not call.claim():
            return  # the loop took it back, and has answered
        producing = Producing(call)
        stream = ThreadStream(call.peer, call.id, producing.window, self._worker.loop)
        runner = self._worker.runner
        answer = runner.context_for(call).run(self._call_plain, producing, stream, find)
        runner.ended_in_thread(partial(self._ended, stream, done), call, answer)

    def _call_plain(self, producing: Producing, stream: ThreadStream, find: Callable[[], Callable[..., Any]]) -> Answer:
        try:
            if is_late(producing.call):
                return producing.call.rejection(EXPIRED)
            self._drain_plain(producing, stream, find)
            return producing.ended()
        except BaseException as error:
            # SystemExit too: a thread that ends does not end the process, and its caller must hear of it.
            return producing.failed(error)

    def _drain_plain(self, producing: Producing, stream: ThreadStream, find: Callable[[], Callable[..., Any]]) -> None:
        call = producing.call
        function = find()
        args, kwargs = call.arguments()
        generator = function(*args, **kwargs)
        try:
            while producing.may_go_on(not producing.wanted or stream.room(call.enter_wait, call.leave_wait)):
                try:
                    value = next(generator)
                except StopIteration:
                    return
                encoded = producing.encoded(value)
                if encoded is not None:
                    if producing.large:
                        self._store_plain(producing, stream, encoded)
                    else:
                        self._send_plain(stream, encoded)
                del value, encoded
        finally:
            generator.close()

    def _send_plain(self, stream: ThreadStream, encoded: Encoded) -> None:
        payload, parts = self._pack(encoded)
        if encoded.handles:
            stream.send_held(payload, parts, encoded.total_bytes, partial(self._hold, stream, encoded.handles))
        else:
            stream.send(payload, parts, encoded.total_bytes)

    def _store_plain(self, producing: Producing, stream: ThreadStream, encoded: Encoded) -> None:
        """`_store` for a thread, which waits for it."""
        storing = asyncio.run_coroutine_threadsafe(
            self._store_and_send(producing.call, stream, encoded), self._worker.loop
        )
        stream.storing = storing
        try:
            if stream.stopped:  # before it could be cancelled with the stream
                storing.cancel()
            error = block_on(storing, None)
        except asyncio.CancelledError:
            storing.cancel()
            if not stream.stopped:
                raise
        else:
            if error is not None:
                raise error
        finally:
            stream.storing = None

    def _ended(self, stream: ThreadStream, done: Done, call: InboundCall, answer: Answer) -> None:
        stream.flush()
        stream.forget()
        done(call, answer)

    # --- both

    async def _store_and_send(
        self, call: InboundCall, stream: OutboundStream, encoded: Encoded
    ) -> ActorliteError | None:
        """Copy a large item into the store, for the reader to free, and tell the reader; or why that cannot be: not
        raised, for whoever was to hear of it may be gone. On the loop. Cancelled, it leaves nothing behind."""
        client = self._worker.runtime.stored.client
        waiting = _Waiting(call)
        timer = self._worker.loop.call_later(FOR_ROOM_S, waiting.begin)
        try:
            stored = await client.write(encoded, stream.peer.identity.process)
        except Exception as reason:
            error = as_ours(reason)
            error.outcome = Outcome.EXECUTED
            return error
        finally:
            timer.cancel()
            waiting.end()
        # Nothing is awaited from here on, so that somebody owns it, whoever is cancelled.
        if stream.stopped or call.cancelled:  # and its clean-up may have changed what was copied
            client.dropped(stored)
            return None
        payload, _ = self._pack(Encoded(STORED, encode_stored(stored), (), encoded.handles))
        hold = self._hold(stream, encoded.handles) if encoded.handles else 0
        stream.send_now(payload, stored.size, hold)
        return None

    def _pack(self, encoded: Encoded) -> tuple[Payload, Sequence[Buffer]]:
        return pack(encoded, self._worker.hub.identity.address)

    def _hold(self, stream: OutboundStream, handles: Sequence[object]) -> int:
        """Keep the references inside an item until its reader has registered. On the loop."""
        number = -next(self._worker.hub.numbers)
        self._worker.runtime.exports.hold_for_reply(stream.peer, number, handles)
        return number
