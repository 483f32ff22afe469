"""Methods of actors: what `@al.method` makes of them in a class, and what a handle makes of them for its user."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from actorlite.context import ActorLink
from actorlite.definitions import MethodDefinition
from actorlite.options import (
    STREAMING,
    MethodDecoratorOptionsDict,
    MethodOptions,
    MethodOptionsDict,
    check_streaming,
)
from actorlite.refs import ObjectRef
from actorlite.streams import ObjectRefStream, ValueStream
from actorlite.task import ManyReturns, call_kind

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class BoundMethod(Generic[P, R_co]):
    """A method of one actor. Wrong arguments raise `TypeError` at the call.

    `actor.m.remote(x)` returns an `ObjectRef` at once, or raises `PendingCallsLimitExceeded`; `await actor.m.submit(x)`
    waits for room instead. `await actor.m(x)` is a structured call: cancelling the awaiting task cancels the work.
    """

    __slots__ = ("_link", "_method", "_options")

    def __init__(self, link: ActorLink, method: MethodDefinition, options: MethodOptions) -> None:
        self._link = link
        self._method = method
        self._options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        method = self._method
        method.shape.check(method.name, args, kwargs)
        return self._link.run(method, args, kwargs, self._options)

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R_co]:
        """Submit and return a reference to the result, never waiting; from any thread."""
        method = self._method
        method.shape.check(method.name, args, kwargs)
        result: ObjectRef[R_co] = self._link.call(method, args, kwargs, self._options)
        return result

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, ObjectRef[R_co]]:
        """`.remote()` that waits for room where `.remote()` would raise `PendingCallsLimitExceeded`."""
        method = self._method
        method.shape.check(method.name, args, kwargs)
        return self._link.submit(method, args, kwargs, self._options)

    @overload
    def options(self, *, num_returns: Literal[1] | None = None, **options: Unpack[MethodOptionsDict]) -> Self: ...  # type: ignore[overload-overlap]
    @overload
    def options(self, *, num_returns: int, **options: Unpack[MethodOptionsDict]) -> ManyReturns[P]: ...
    def options(self, **options: Any) -> Any:
        """This method with some options replaced."""
        merged = self._options.merged(**options)
        check_streaming(merged, self._method.name, generator=self._method.kind.streams)
        return bound_method(self._link, self._method, merged)

    def __repr__(self) -> str:
        return f"<method {self._method.name} of {show_actor(self._link)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled: pass the actor's handle and call the method there")


class BoundGenerator(Generic[P, R_co]):
    """A generator method of one actor. Wrong arguments raise `TypeError` at the call.

    `actor.m.remote(x)` starts it and returns an `ObjectRefStream` at once, or raises `PendingCallsLimitExceeded`;
    `await actor.m.submit(x)` waits for room instead. `async for value in actor.m(x)` is a structured call: it starts
    with the loop, and leaving the loop closes the generator.
    """

    __slots__ = ("_link", "_method", "_options")

    def __init__(self, link: ActorLink, method: MethodDefinition, options: MethodOptions) -> None:
        self._link = link
        self._method = method
        self._options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ValueStream[R_co]:
        method = self._method
        method.shape.check(method.name, args, kwargs)
        return ValueStream(lambda: self._link.open_stream(method, args, kwargs, self._options, structured=True))

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRefStream[R_co]:
        """Start it and return its stream, never waiting; from any thread."""
        method = self._method
        method.shape.check(method.name, args, kwargs)
        return ObjectRefStream.begin(self._link.open_stream(method, args, kwargs, self._options, structured=False))

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, ObjectRefStream[R_co]]:
        """`.remote()` that waits for room where `.remote()` would raise `PendingCallsLimitExceeded`."""
        method = self._method
        method.shape.check(method.name, args, kwargs)
        return self._link.submit(method, args, kwargs, self._options)

    @overload
    def options(  # type: ignore[overload-overlap]
        self, *, num_returns: Literal[1, "streaming"] | None = None, **options: Unpack[MethodOptionsDict]
    ) -> Self: ...
    @overload
    def options(self, *, num_returns: int, **options: Unpack[MethodOptionsDict]) -> ManyReturns[P]: ...
    def options(self, **options: Any) -> Any:
        """This method with some options replaced; `num_returns=n` makes it a list of n references."""
        return bound_method(self._link, self._method, self._options.merged(**options))

    def __repr__(self) -> str:
        return f"<generator method {self._method.name} of {show_actor(self._link)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled: pass the actor's handle and call the method there")


def bound_method(
    link: ActorLink, method: MethodDefinition, options: MethodOptions
) -> BoundMethod[..., Any] | BoundGenerator[..., Any]:
    streams = method.kind.streams and options.num_returns in (1, STREAMING)
    return (BoundGenerator if streams else BoundMethod)(link, method, options)


class Method(Generic[P, R_co]):
    """What `@al.method` makes: through a handle a `BoundMethod`; inside the actor the plain method."""

    __actorlite_method__ = True
    __wrapped__: Callable[..., Any]

    def __init__(self, function: Callable[..., Any], options: MethodOptions) -> None:
        functools.update_wrapper(cast(Callable[..., Any], self), function)
        self.options = options

    @property
    def __isabstractmethod__(self) -> bool:
        return getattr(self.__wrapped__, "__isabstractmethod__", False)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> BoundMethod[P, R_co]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else self.__wrapped__.__get__(instance, owner)


class GeneratorMethod(Method[P, R_co]):
    """What `@al.method` makes of a generator: through a handle a `BoundGenerator`."""

    @overload  # type: ignore[override]
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> BoundGenerator[P, R_co]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().__get__(instance, owner)


class MethodOfMany(Protocol[P]):
    """What `@al.method(num_returns=...)` makes, for type checkers."""

    def __get__(self, instance: object, owner: type | None = None) -> ManyReturns[P]: ...


class MethodDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Method[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], AsyncIterator[R]], /) -> GeneratorMethod[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Iterator[R]], /) -> GeneratorMethod[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Method[P, R]: ...


class MethodOfManyDecorator(Protocol):
    def __call__(self, function: Callable[Concatenate[Any, P], Any], /) -> MethodOfMany[P]: ...


@overload
def method(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Method[P, R]: ...
@overload
def method(function: Callable[Concatenate[Any, P], AsyncIterator[R]], /) -> GeneratorMethod[P, R]: ...
@overload
def method(function: Callable[Concatenate[Any, P], Iterator[R]], /) -> GeneratorMethod[P, R]: ...
@overload
def method(function: Callable[Concatenate[Any, P], R], /) -> Method[P, R]: ...
@overload
def method(  # type: ignore[overload-overlap]
    *, num_returns: Literal[1, "streaming"] | None = None, **options: Unpack[MethodDecoratorOptionsDict]
) -> MethodDecorator: ...
@overload
def method(*, num_returns: int, **options: Unpack[MethodDecoratorOptionsDict]) -> MethodOfManyDecorator: ...
def method(function: Any = None, /, **options: Any) -> Any:
    """Declare a method of an actor class, bare or with options; gives plain methods their type through a handle."""
    if function is not None and options:
        raise TypeError("@al.method takes options only: @al.method(num_returns=2)")
    if function is None and not options:
        raise TypeError("write @al.method without parentheses, or with at least one option")
    validated = MethodOptions.make(**options)
    return _method(function, validated) if function is not None else lambda each: _method(each, validated)


def _method(function: Any, options: MethodOptions) -> Method[..., Any]:
    if not inspect.isfunction(function):
        raise TypeError(f"@al.method must be applied to a function in a class body, not to {function!r}")
    kind = call_kind(function)
    check_streaming(options, function.__name__, generator=kind.streams)
    return (GeneratorMethod if kind.streams else Method)(function, options)


def show_actor(link: ActorLink) -> str:
    return f"Actor({link.definition.name}, {link.id})"
