"""What a call of a generator returns: `ObjectRefStream`, a stream of references, and `ValueStream`, one of values.

Both read from a `StreamSource`, which the runtime makes. A stream has one reader, and its producer lives as long as
somebody may read: closing a stream, or dropping the last object of it, closes the producer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, Self, TypeVar

from actorlite.refs import ELSEWHERE, ObjectRef, refuse_on_loop

if TYPE_CHECKING:
    from actorlite.context import Runtime

T_co = TypeVar("T_co", covariant=True)


class _Ended:
    def __repr__(self) -> str:
        return "ended"


ENDED = _Ended()
"""What `StreamSource.take` gives after the last item."""


class StreamItem:
    """One item: its outcome, as an `ObjectRef` has it, the references inside that it keeps alive, and, when its value
    lies in the node's store, what keeps that there."""

    __slots__ = ("outcome", "kept", "stored")

    def __init__(self, outcome: Any, kept: Any = None, stored: Any = None) -> None:
        self.outcome = outcome
        self.kept = kept
        self.stored = stored


class StreamSource(Protocol):
    """Where the items come from. Every method may be called from any thread, and none waits for another process."""

    @property
    def runtime(self) -> Runtime: ...

    @property
    def number(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def ended(self) -> bool:
        """Whether no more items come; some may not have been taken yet."""
        ...

    @property
    def waiting(self) -> int:
        """Items that are here and were not taken."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether `take` would give something."""
        ...

    def take(self) -> Any:
        """The next `StreamItem`, None when it is not here yet, or `ENDED`. Raises when somebody else reads."""

    async def ready(self) -> None:
        """Return when `take` gives something."""

    def wait_ready(self) -> None:
        """`ready` that blocks a plain thread."""

    def ref_of(self, item: StreamItem) -> ObjectRef[Any]: ...

    def completed(self) -> ObjectRef[None]: ...

    def watch(self, reader: object) -> None:
        """Close when `reader` is garbage."""

    def lend(self, anchor: ObjectRef[Any]) -> None:
        """Other processes that hold `anchor` may read."""

    def close(self) -> None:
        """Read no more. Idempotent."""

    def cancel(self, *, force: bool, recursive: bool) -> bool: ...


class ObjectRefStream(AsyncIterator[ObjectRef[T_co]], Generic[T_co]):
    """The items of a generator that runs elsewhere, each an `ObjectRef`, as they are yielded.

    `async for ref in stream` on an event loop, `for ref in stream` in a plain thread. When the generator raises after k
    items, the next reference raises its error, and then the stream ends. The generator is closed, and its `finally`
    runs, when the stream is closed (`aclose`, `close`, `async with`) or dropped; it waits while a window of items is
    not taken yet. A stream may be passed on to another process, as an argument or inside one, and is read in one place.
    """

    __slots__ = ("_anchor", "_source", "__weakref__")  # in this order they are let go: the source hears of the anchor

    def __init__(self, source: StreamSource, anchor: ObjectRef[Any]) -> None:
        self._source = source
        self._anchor = anchor
        """Never resolved. Who holds it, here or in another process, may read: its end closes the producer."""

    @classmethod
    def begin(cls, source: StreamSource) -> ObjectRefStream[T_co]:
        """The stream of a call that this process made."""
        anchor: ObjectRef[Any] = ObjectRef(source.runtime, source.number)
        source.watch(anchor)
        return cls(source, anchor)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ObjectRef[T_co]:
        source = self._source
        while (item := source.take()) is None:
            await source.ready()
        if item is ENDED:
            raise StopAsyncIteration
        return source.ref_of(item)

    def __iter__(self) -> Self:
        refuse_on_loop("iterating a stream with `for`", "write `async for`")
        return self

    def __next__(self) -> ObjectRef[T_co]:
        refuse_on_loop("next(stream)", "write `await anext(stream)`")
        source = self._source
        while (item := source.take()) is None:
            source.wait_ready()
        if item is ENDED:
            raise StopIteration
        return source.ref_of(item)

    def completed(self) -> ObjectRef[None]:
        """A reference to the end of the generator: None, or the error that it ended with. It yields no items."""
        return self._source.completed()

    def next_ready(self) -> bool:
        """Whether the next step gives something at once."""
        return self._source.is_ready

    def is_finished(self) -> bool:
        """Whether everything was read, and the generator has ended."""
        source = self._source
        return source.ended and not source.waiting

    def close(self) -> None:
        """Read no more and close the generator, which is told at once and not waited for. Idempotent; any thread."""
        self._source.close()

    async def aclose(self) -> None:
        """`close`, for `contextlib.aclosing` and `async with`."""
        self._source.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._source.close()

    def send(self, *values: Any) -> NoReturn:
        """Not offered, as `throw`, `asend` and `athrow`: raises `TypeError`, which says what to do instead."""
        raise _no_way_in("send")

    throw = asend = athrow = send

    # --- as `al.cancel` sees a reference

    @property
    def runtime(self) -> Runtime:
        return self._source.runtime

    @property
    def _call(self) -> StreamSource:
        return self._source

    def __repr__(self) -> str:
        return f"<ObjectRefStream of {self._source!r}>"

    def __actorlite_export__(self, scope: object) -> tuple[Callable[..., object], tuple[object, ...]]:
        source = self._source
        source.lend(self._anchor)
        return rebuild_stream, (self._anchor, source.completed(), source.name)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled outside a call: nobody would know who reads it. Pass it as an argument, "
            "return it, or put it into a value given to al.put"
        )


class ValueStream(AsyncGenerator[T_co, None]):
    """The values of a generator that runs elsewhere: `async for value in f(x)`, a structured call.

    The generator starts at the first step. It is closed, and its `finally` runs, when the loop is left, the stream is
    closed (`aclose`, `contextlib.aclosing`) or dropped, or the task that reads it is cancelled.
    """

    __slots__ = ("_open", "_source", "__weakref__")

    def __init__(self, open: Callable[[], StreamSource]) -> None:
        self._open: Callable[[], StreamSource] | None = open
        self._source: StreamSource | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        source = self._source
        if source is None:
            if self._open is None:
                raise StopAsyncIteration
            source = self._source = self._open()
            self._open = None
            source.watch(self)
        while (item := source.take()) is None:
            try:
                await source.ready()
            except asyncio.CancelledError:
                source.close()
                raise
        if item is ENDED:
            raise StopAsyncIteration
        try:
            outcome = item.outcome
            value: T_co = await source.ref_of(item) if outcome is ELSEWHERE else source.runtime.unwrap(outcome)
        except BaseException:
            source.close()
            raise
        return value

    async def asend(self, value: None) -> T_co:
        if value is not None:
            raise _no_way_in("asend")
        return await self.__anext__()

    async def athrow(self, *error: Any) -> T_co:
        raise _no_way_in("athrow")

    async def aclose(self) -> None:
        """Read no more and close the generator, which is told at once and not waited for. Idempotent."""
        self._open = None
        if self._source is not None:
            self._source.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._open is None else "not started"
        return f"<ValueStream {repr(self._source) if self._source is not None else state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be passed on: its call ends with its caller's loop. Pass the stream that `.remote()` "
            "returns"
        )


def rebuild_stream(anchor: ObjectRef[Any], completed: ObjectRef[None], name: str) -> ObjectRefStream[Any]:
    """Unpickles a stream inside a message."""
    source = anchor.runtime.import_stream(anchor, completed, name)
    return ObjectRefStream(source, anchor)


def _no_way_in(method: str) -> TypeError:
    return TypeError(
        f"{method}() is not offered on a stream: the generator runs elsewhere, ahead of its reader, and takes nothing "
        "in; call a method of an actor to tell it something"
    )


__all__ = ["ENDED", "ObjectRefStream", "StreamItem", "StreamSource", "ValueStream"]
