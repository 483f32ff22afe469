"""Actors as users write and hold them: the typed base class, `@al.method`, and handles.

A handle is statically an instance of the actor's class. At run time it has the class's methods and nothing else: state
lives in another process.
"""

from __future__ import annotations

import copyreg
import difflib
import functools
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from typing import (
    Any,
    ClassVar,
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

from actorlite.context import ActorLink, Runtime, find_runtime
from actorlite.definitions import ActorDefinition, CallKind, MethodDefinition
from actorlite.options import (
    DEFAULT_GROUP,
    STREAMING,
    ActorCallOptionsDict,
    ActorOptions,
    ActorOptionsDict,
    MethodDecoratorOptionsDict,
    MethodOptions,
    MethodOptionsDict,
    SessionLike,
    check_streaming,
)
from actorlite.refs import ObjectRef
from actorlite.signatures import CallShape
from actorlite.streams import ObjectRefStream, ValueStream
from actorlite.task import ManyReturns, call_kind
from actorlite.wire.importable import importable
from actorlite.wire.serialize import current_import

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

HOOKS = ("on_start", "on_restart", "on_stop")
"""Coroutine methods that the actor runs itself: after the constructor, between the two when it was made anew after a
crash, and before a graceful end."""
RESERVED = ("remote", "options")


# --- methods ------------------------------------------------------------------------------------------------


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
        return _bound(self._link, self._method, merged)

    def __repr__(self) -> str:
        return f"<method {self._method.name} of {_show(self._link)}>"

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
        return _bound(self._link, self._method, self._options.merged(**options))

    def __repr__(self) -> str:
        return f"<generator method {self._method.name} of {_show(self._link)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled: pass the actor's handle and call the method there")


def _bound(
    link: ActorLink, method: MethodDefinition, options: MethodOptions
) -> BoundMethod[..., Any] | BoundGenerator[..., Any]:
    streams = method.kind.streams and options.num_returns in (1, STREAMING)
    return (BoundGenerator if streams else BoundMethod)(link, method, options)


class Method(Generic[P, R_co]):
    """What `@al.method` makes: through a handle a `BoundMethod`; inside the actor the plain method."""

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


# --- from a class to its definition -------------------------------------------------------------------------


class _DefinitionCache:
    """The definition of one class, made on first use. Pickles as an empty one: it would carry the class along."""

    __slots__ = ("definition",)

    def __init__(self) -> None:
        self.definition: ActorDefinition | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _DefinitionCache, ()


_PLAIN_METHOD = MethodOptions()


def _members(cls: type[Any]) -> dict[str, Any]:
    """Class attributes as written, inherited ones included; without dunder names."""
    found: dict[str, Any] = {}
    for each in reversed(cls.__mro__):
        if each is not object and each is not Actor:
            found.update(vars(each))
    return {name: value for name, value in found.items() if not (name.startswith("__") and name.endswith("__"))}


def _method_definition(cls: type[Any], name: str, value: Any) -> MethodDefinition | None:
    """None for what is no method."""
    options = value.options if isinstance(value, Method) else _PLAIN_METHOD
    skip_first = not isinstance(value, staticmethod)
    if isinstance(value, Method | staticmethod | classmethod):
        value = value.__wrapped__
    if not callable(value) or not hasattr(type(value), "__get__"):
        return None
    kind = call_kind(value)
    return MethodDefinition(name, kind, CallShape.from_callable(value, skip_first), options)


def _check_class(cls: type[Any]) -> Iterator[MethodDefinition]:
    """The methods of an actor class. Raises `TypeError` for what an actor cannot have, with the remedy."""
    if inspect.iscoroutinefunction(cls.__init__):
        raise TypeError(
            f"{cls.__name__}.__init__ is a coroutine function, which Python cannot construct with: keep __init__ plain "
            "and await in `async def on_start(self)`, which runs right after it"
        )
    for name, value in _members(cls).items():
        definition = _method_definition(cls, name, value)
        if definition is None:
            continue
        if name not in HOOKS:
            yield definition
        elif definition.kind is not CallKind.COROUTINE:
            raise TypeError(f"{cls.__name__}.{name} must be `async def {name}(self)`: it runs on the event loop")


def _check_groups(cls: type[Any], options: ActorOptions) -> None:
    """Raise `ValueError` for a method whose concurrency group the class does not have."""
    for method in _check_class(cls):
        group = method.options.concurrency_group
        if group is not None and group != DEFAULT_GROUP and group not in options.concurrency_groups:
            raise ValueError(
                f"{cls.__name__}.{method.name} names the concurrency group {group!r}, which {cls.__name__} does not "
                f"have: add it with concurrency_groups={{{group!r}: 1}}, known are {sorted(options.concurrency_groups)}"
            )


def _constructor(cls: type[Any]) -> CallShape:
    if cls.__init__ is object.__init__:
        return CallShape.from_callable(cls, skip_first=False)
    return CallShape.from_callable(cls.__init__, skip_first=True)


def _define(cls: type[Any], options: ActorOptions) -> ActorDefinition:
    methods = {each.name: each for each in _check_class(cls)}
    _check_groups(cls, options)
    declared = {name for each in cls.__mro__ for name in vars(each).get("__annotations__", ())}
    return ActorDefinition(
        cls=cls,
        name=cls.__name__,
        constructor=_constructor(cls),
        methods=methods,
        options=options,
        attributes=frozenset(declared | set(_members(cls))) - set(methods),
        has_readonly=any(each.options.readonly for each in methods.values()),
    )


def _class_options(cls: type[Any]) -> ActorOptions:
    """The class keywords of `cls` over those that it inherits."""
    merged: dict[str, Any] = {}
    for each in reversed(cls.__mro__):
        merged.update(vars(each).get("__actorlite_keywords__", {}))
    return ActorOptions.make(**merged)


_plain_definitions: weakref.WeakKeyDictionary[type[Any], ActorDefinition] = weakref.WeakKeyDictionary()


def definition_of(cls: type[Any]) -> ActorDefinition:
    """The definition of an actor's class; made once. `al.Actor` subclasses bring their own options."""
    cache: _DefinitionCache | None = vars(cls).get("__actorlite_cache__")
    if cache is None:
        plain = _plain_definitions.get(cls)
        if plain is None:
            plain = _plain_definitions[cls] = _define(cls, ActorOptions())
        return plain
    if cache.definition is None:
        cache.definition = _define(cls, _class_options(cls))
    return cache.definition


def set_class_options(cls: type[Any], keywords: Mapping[str, Any]) -> None:
    """Add class keywords, as `class X(al.Actor, **keywords)` does. Raises for invalid ones."""
    # dataclass(slots=True) makes a class a second time, without its keywords but with its attributes: keep those.
    cls.__actorlite_keywords__ = {**vars(cls).get("__actorlite_keywords__", {}), **keywords}
    cls.__actorlite_cache__ = _DefinitionCache()
    _class_options(cls)


# --- classes ------------------------------------------------------------------------------------------------


class Actor:
    """Base class of actors. Class keywords are the options: `class Counter(al.Actor, num_cpus=1): ...`.

    `Counter.remote(10)` starts one and returns its handle, at once; `Counter(10)` is an ordinary local object. Methods
    to be called through a handle are `async def`, or plain with `@al.method`. `async def on_start(self)` runs after the
    constructor, `async def on_stop(self)` before a graceful end. With `max_restarts`, `async def on_restart(self)` runs
    between constructor and `on_start` when the actor is made anew after a crash.
    """

    __actorlite_keywords__: ClassVar[Mapping[str, Any]] = {}
    __actorlite_cache__: ClassVar[_DefinitionCache] = _DefinitionCache()

    def __init_subclass__(cls, **options: Unpack[ActorOptionsDict]) -> None:
        super().__init_subclass__()
        for name in RESERVED:
            if name in vars(cls):
                raise TypeError(f"{cls.__name__}.{name}: actor classes have a {name}() already; choose another name")
        set_class_options(cls, options)
        for _ in _check_class(cls):
            pass

    @classmethod
    def remote(cls: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Start an actor and return its handle at once; what the constructor raises comes with the first call."""
        definition = definition_of(cast(type[Any], cls))
        return cast(T, _create(definition, args, kwargs, definition.options, None))

    @classmethod
    def options(cls: Callable[P, T], **options: Unpack[ActorCallOptionsDict]) -> ActorClass[P, T]:
        """This class with some options replaced; `session` chooses where the actor runs."""
        actor_class = cast(type[Any], cls)
        plain: ActorClass[P, T] = ActorClass(actor_class, _class_options(actor_class))
        return plain.options(**options)


def _create(
    definition: ActorDefinition, args: Any, kwargs: Any, options: ActorOptions, runtime: Runtime | None
) -> ActorHandle:
    definition.constructor.check(definition.name, args, kwargs)
    return ActorHandle((runtime or find_runtime()).create_actor(definition, args, kwargs, options))


class ActorClass(Generic[P, T_co]):
    """An actor class with its options: what `@al.remote` makes of a class that is no `al.Actor`, and `.options()`."""

    __actorlite_remote__ = True
    __wrapped__: type[Any]
    __name__: str
    __qualname__: str

    def __init__(
        self,
        cls: type[Any],
        options: ActorOptions,
        *,
        runtime: Runtime | None = None,
        origin: ActorClass[P, T_co] | None = None,
    ) -> None:
        self.__wrapped__ = cls
        self.__module__ = cls.__module__
        self.__name__ = cls.__name__
        self.__qualname__ = cls.__qualname__
        self.__doc__ = cls.__doc__
        self._options = options
        self._runtime = runtime
        self._origin = origin
        """The class as decorated, when `.options()` made this one."""
        self._defined: ActorDefinition | None = None

    @property
    def _definition(self) -> ActorDefinition:
        # Made on use: when this arrives inside its own class, that class is still empty.
        if self._origin is not None:
            return self._origin._definition
        if issubclass(self.__wrapped__, Actor):
            return definition_of(self.__wrapped__)
        if self._defined is None:
            self._defined = _define(self.__wrapped__, self._options)
        return self._defined

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Start an actor and return its handle at once; what the constructor raises comes with the first call."""
        return cast(T_co, _create(self._definition, args, kwargs, self._options, self._runtime))

    def options(self, *, session: SessionLike | None = None, **options: Unpack[ActorOptionsDict]) -> Self:
        """This class with some options replaced; `session` chooses where the actor runs."""
        return type(self)(
            self.__wrapped__,
            self._options.merged(**options),
            runtime=self._runtime if session is None else session.runtime,
            origin=self._origin or self,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"the actor class {self.__name__} cannot be called: start an actor with {self.__name__}.remote(...); for a "
            f"local object call {self.__name__}.__wrapped__(...), or derive the class from al.Actor"
        )

    def __mro_entries__(self, bases: tuple[object, ...]) -> NoReturn:
        raise TypeError(
            f"the actor class {self.__name__} cannot be subclassed: subclass the undecorated class and decorate the "
            "result, or derive both from al.Actor, where @al.remote is not needed"
        )

    def __repr__(self) -> str:
        return f"<actor class {self.__module__}.{self.__qualname__}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name where a worker can import it. Else in two phases, so that a method may refer to its own class.

        A session chosen with `.options()` does not travel: where it arrives there is another one.
        """
        named = self._origin or self
        if importable(named.__module__, named.__qualname__, named):
            return self.__qualname__ if named is self else (_with_options, (named, self._options))
        state = {**vars(self), "_runtime": None, "_defined": None}
        return copyreg.__newobj__, (type(self),), state  # type: ignore[attr-defined]


def _with_options(named: ActorClass[P, T], options: ActorOptions) -> ActorClass[P, T]:
    return ActorClass(named.__wrapped__, options, origin=named)


def wrap_class(cls: type[Any], keywords: Mapping[str, Any]) -> ActorClass[..., Any]:
    """`@al.remote` on a class that is no `al.Actor`."""
    options = ActorOptions.make(**keywords)
    _check_groups(cls, options)
    return ActorClass(cls, options)


# --- handles ------------------------------------------------------------------------------------------------


class ActorHandle:
    """What the user holds of an actor: its methods, each a `BoundMethod`. Equal and hashed by actor.

    A handle travels inside arguments, results and `al.put` values, and keeps the actor alive: when the last one of all
    processes is gone, and the calls that were made have ended, the actor ends gracefully.
    """

    __slots__ = ("__actorlite_link__", "__weakref__")
    __actorlite_link__: ActorLink

    def __init__(self, link: ActorLink) -> None:
        object.__setattr__(self, "__actorlite_link__", link)

    def __getattr__(self, name: str) -> BoundMethod[..., Any] | BoundGenerator[..., Any]:
        link = self.__actorlite_link__
        method = link.definition.methods.get(name)
        if method is None:
            raise _no_attribute(link.definition, name)
        if method.kind.streams:
            return _bound(link, method, method.options)
        return BoundMethod(link, method, method.options)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"cannot set {name!r} on {self!r}: its state is in another process; call a method")

    def __dir__(self) -> list[str]:
        return sorted(self.__actorlite_link__.definition.methods)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other.__actorlite_link__.id == self.__actorlite_link__.id

    def __hash__(self) -> int:
        return hash(self.__actorlite_link__.id)

    def __repr__(self) -> str:
        return _show(self.__actorlite_link__)

    def __actorlite_export__(self, scope: Any) -> tuple[Any, ...]:
        link = self.__actorlite_link__
        if getattr(link, "is_weak", False):
            # Whoever gets it holds the actor; until then the value that it travels in does.
            strong = ActorHandle(link.runtime.hold_actor(link))
            scope.handles.append(strong)
        return _import_handle, (link.runtime.export_actor(link), _without_class(link.definition))

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled outside a call: nobody would know who holds it. Pass it as an argument, "
            "return it, or put it into a value given to al.put"
        )


def _show(link: ActorLink) -> str:
    return f"Actor({link.definition.name}, {link.id})"


def _no_attribute(definition: ActorDefinition, name: str) -> AttributeError:
    if name.startswith("__"):
        return AttributeError(name)
    if name in HOOKS:
        return AttributeError(f"{definition.name}.{name} is a hook: the actor runs it itself")
    if name in definition.attributes:
        return AttributeError(
            f"{definition.name}.{name} is not a method to call through a handle: it is an attribute, whose value is in "
            f"another process; write a method that returns the value"
        )
    near = difflib.get_close_matches(name, definition.methods, n=1)
    hint = (
        f"did you mean {near[0]!r}?" if near else f"its methods are {', '.join(sorted(definition.methods)) or 'none'}"
    )
    return AttributeError(
        f"actor {definition.name} has no method {name!r}; {hint} (attributes of an actor cannot be read from outside)"
    )


_portable: weakref.WeakKeyDictionary[ActorDefinition, ActorDefinition] = weakref.WeakKeyDictionary()


def _without_class(definition: ActorDefinition) -> ActorDefinition:
    """The definition as it travels with a handle; the same object each time, so that a pickle holds it once."""
    if definition.cls is None:
        return definition
    bare = _portable.get(definition)
    if bare is None:
        bare = _portable[definition] = replace(definition, cls=None)
    return bare


def _import_handle(data: tuple[Any, ...], definition: ActorDefinition) -> ActorHandle:
    runtime: Runtime = current_import()
    return ActorHandle(runtime.import_actor(data, definition))


def link_of(handle: object) -> ActorLink | None:
    """The link behind a handle; None for anything else."""
    return handle.__actorlite_link__ if isinstance(handle, ActorHandle) else None
