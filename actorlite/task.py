"""Remote functions: what `@al.remote` makes of a function."""

from __future__ import annotations

import copyreg
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Literal, ParamSpec, Protocol, Self, TypeVar, Unpack, cast, overload

from actorlite.context import Runtime, find_runtime
from actorlite.definitions import CallKind, FunctionDefinition
from actorlite.options import STREAMING, SessionLike, TaskCallOptionsDict, TaskOptions, check_streaming
from actorlite.refs import ObjectRef
from actorlite.signatures import CallShape
from actorlite.streams import ObjectRefStream, StreamSource, ValueStream
from actorlite.wire.importable import importable

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class ManyReturns(Protocol[P]):
    """How a function or method looks once `num_returns` is given: `.remote()` returns a list of references.

    For `num_returns=0` it returns None.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Any]: ...
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> list[ObjectRef[Any]]: ...
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, list[ObjectRef[Any]]]: ...


def call_kind(function: Callable[..., Any]) -> CallKind:
    """How a function or method runs."""
    if inspect.isasyncgenfunction(function):
        return CallKind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(function):
        return CallKind.GENERATOR
    return CallKind.COROUTINE if inspect.iscoroutinefunction(function) else CallKind.PLAIN


def define_function(function: Callable[..., Any], options: TaskOptions) -> FunctionDefinition:
    name = function.__name__
    kind = call_kind(function)
    check_streaming(options, name, generator=kind.streams)
    return FunctionDefinition(
        function=function,
        name=name,
        kind=kind,
        shape=CallShape.from_callable(function, skip_first=False),
        options=options,
    )


class Remote(Generic[P, R_co]):
    """What `RemoteFunction` and `RemoteGenerator` have in common."""

    __actorlite_remote__ = True
    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __init__(
        self,
        definition: FunctionDefinition,
        options: TaskOptions,
        *,
        runtime: Runtime | None = None,
        origin: Remote[P, R_co] | None = None,
    ) -> None:
        functools.update_wrapper(cast(Callable[..., Any], self), definition.function)
        self._definition = definition
        self._options = options
        self._runtime = runtime
        self._origin = origin
        """The function as decorated, when `.options()` made this one."""

    def _replaced(self, session: SessionLike | None, options: dict[str, Any]) -> Any:
        merged = self._options.merged(**options)
        definition = self._definition
        if options:
            check_streaming(merged, definition.name, generator=definition.kind.streams)
        return remote_class(definition, merged)(
            definition,
            merged,
            runtime=self._runtime if session is None else session.runtime,
            origin=self._origin or self,
        )

    def __repr__(self) -> str:
        return f"<remote function {self.__module__}.{self.__qualname__}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name where a worker can import it. Else in two phases, so that a function may refer to itself.

        A session chosen with `.options()` does not travel: where it arrives there is another one.
        """
        named = self._origin or self
        if importable(named.__module__, named.__qualname__, named):
            return self.__qualname__ if named is self else (_with_options, (named, self._options))
        return copyreg.__newobj__, (type(self),), {**vars(self), "_runtime": None}  # type: ignore[attr-defined]


class RemoteFunction(Remote[P, R_co]):
    """A function that runs on a worker. Wrong arguments raise `TypeError` at the call.

    `f.remote(x)` returns an `ObjectRef` at once. `await f(x)` is a structured call: cancelling the awaiting task
    cancels the remote work, and everything that it called. `await f.submit(x)` is `.remote()` that waits for room.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        definition = self._definition
        definition.shape.check(definition.name, args, kwargs)
        return (self._runtime or find_runtime()).run(definition, args, kwargs, self._options)

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R_co]:
        """Submit and return a reference to the result, never waiting; from any thread."""
        definition = self._definition
        definition.shape.check(definition.name, args, kwargs)
        result: ObjectRef[R_co] = (self._runtime or find_runtime()).submit(definition, args, kwargs, self._options)
        return result

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, ObjectRef[R_co]]:
        """`.remote()` that waits for room where `.remote()` would raise `PendingCallsLimitExceeded`."""
        definition = self._definition
        definition.shape.check(definition.name, args, kwargs)
        return (self._runtime or find_runtime()).submit_in_turn(definition, args, kwargs, self._options)

    @overload
    def options(self, *, num_returns: Literal[1] | None = None, **options: Unpack[TaskCallOptionsDict]) -> Self: ...  # type: ignore[overload-overlap]
    @overload
    def options(self, *, num_returns: int, **options: Unpack[TaskCallOptionsDict]) -> ManyReturns[P]: ...
    def options(self, *, session: SessionLike | None = None, **options: Any) -> Any:
        """This function with some options replaced; `session` chooses where it runs."""
        return self._replaced(session, options)


class RemoteGenerator(Remote[P, R_co]):
    """A generator function that runs on a worker, plain or asynchronous. Wrong arguments raise `TypeError` at the call.

    `f.remote(x)` starts it and returns an `ObjectRefStream` at once. `async for value in f(x)` is a structured call:
    it starts with the loop, and leaving the loop closes the generator.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ValueStream[R_co]:
        definition = self._definition
        definition.shape.check(definition.name, args, kwargs)
        return ValueStream(lambda: self._open(args, kwargs, structured=True))

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRefStream[R_co]:
        """Start it and return its stream, never waiting; from any thread."""
        definition = self._definition
        definition.shape.check(definition.name, args, kwargs)
        return ObjectRefStream.begin(self._open(args, kwargs, structured=False))

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, ObjectRefStream[R_co]]:
        """`.remote()` that waits for room where `.remote()` would raise `PendingCallsLimitExceeded`."""
        definition = self._definition
        definition.shape.check(definition.name, args, kwargs)
        return (self._runtime or find_runtime()).submit_in_turn(definition, args, kwargs, self._options)

    @overload
    def options(  # type: ignore[overload-overlap]
        self, *, num_returns: Literal[1, "streaming"] | None = None, **options: Unpack[TaskCallOptionsDict]
    ) -> Self: ...
    @overload
    def options(self, *, num_returns: int, **options: Unpack[TaskCallOptionsDict]) -> ManyReturns[P]: ...
    def options(self, *, session: SessionLike | None = None, **options: Any) -> Any:
        """This generator with some options replaced; `num_returns=n` makes it a list of n references."""
        return self._replaced(session, options)

    def _open(self, args: Any, kwargs: Any, *, structured: bool) -> StreamSource:
        runtime = self._runtime or find_runtime()
        return runtime.open_stream(self._definition, args, kwargs, self._options, structured=structured)


def remote_class(definition: FunctionDefinition, options: TaskOptions) -> type[Remote[Any, Any]]:
    """A generator with `num_returns=n` is called as a function with n results is."""
    streams = definition.kind.streams and options.num_returns in (1, STREAMING)
    return RemoteGenerator if streams else RemoteFunction


def _with_options(named: Remote[P, R_co], options: TaskOptions) -> Remote[P, R_co]:
    remote: Remote[P, R_co] = remote_class(named._definition, options)(named._definition, options, origin=named)
    return remote
