"""Actors as users write and hold them: the typed base class, `@al.method`, and handles.

A handle is statically an instance of the actor's class. At run time it has the class's methods and nothing else: state
lives in another process.
"""

from __future__ import annotations

import copyreg
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import (
    Any,
    ClassVar,
    Generic,
    NoReturn,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    cast,
)

from msgspec import structs

from actorlite.context import ActorLink, Runtime, find_runtime
from actorlite.definitions import ActorDefinition, CallKind, MethodDefinition
from actorlite.loading import nearest
from actorlite.methods import BoundGenerator, BoundMethod, Method, bound_method, show_actor
from actorlite.options import (
    DEFAULT_GROUP,
    ActorCallOptionsDict,
    ActorOptions,
    ActorOptionsDict,
    MethodOptions,
    SessionLike,
)
from actorlite.signatures import CallShape
from actorlite.task import call_kind
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
    if options.name is None:
        options.check_name()
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

    async def get_or_create(self, *args: P.args, **kwargs: P.kwargs) -> tuple[T_co, bool]:
        """The living actor that has the name given with `.options(name=...)`, or a new one: its handle, and whether it
        is new. Of all who ask at once, in any process, one makes the actor.

        The arguments are for a new one only. The handle keeps the actor alive as its creator's does; unless it is
        detached, it ends all the same with the process that made it. Raises `ValueError` without a name,
        `ControlUnavailable`.
        """
        if self._options.name is None:
            raise ValueError(f"{self.__name__}.get_or_create() needs a name: {self.__name__}.options(name=...)")
        definition = self._definition
        definition.constructor.check(definition.name, args, kwargs)
        options = self._options.merged(get_if_exists=True)
        runtime = self._runtime or find_runtime()
        link, created = await runtime.names.get_or_create(definition, args, kwargs, options)
        return cast(T_co, ActorHandle(link)), created

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
        if link.alias is not None:
            link = _settle(self, link.alias)
        method = link.definition.methods.get(name)
        if method is None:
            raise _no_attribute(link.definition, name)
        if method.kind.streams:
            return bound_method(link, method, method.options)
        return BoundMethod(link, method, method.options)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"cannot set {name!r} on {self!r}: its state is in another process; call a method")

    def __dir__(self) -> list[str]:
        return sorted(self.__actorlite_link__.definition.methods)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and (self is other or _known(other).id == _known(self).id)

    def __hash__(self) -> int:
        return hash(_known(self).id)

    def __repr__(self) -> str:
        link = self.__actorlite_link__
        return show_actor(link.alias or link)

    def __actorlite_export__(self, scope: Any) -> tuple[Any, ...]:
        link = _known(self)
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


def _settle(handle: ActorHandle, link: ActorLink) -> ActorLink:
    """The handle is that of an actor that had the name already."""
    object.__setattr__(handle, "__actorlite_link__", link)
    return link


def _known(handle: ActorHandle) -> ActorLink:
    """The link of a handle, for what depends on which actor it is."""
    link = handle.__actorlite_link__
    if link.claim == "open":
        raise TypeError(
            f"{show_actor(link)} may turn out to be the one that has the name already: until that is known it can be "
            "called, but not be compared, hashed or sent; `await al.ready(handle)` first, or write "
            f"`{link.definition.name}.options(name=...).get_or_create(...)`"
        )
    return link if link.alias is None else _settle(handle, link.alias)


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
    near = nearest(name, definition.methods)
    hint = f"did you mean {near!r}?" if near else f"its methods are {', '.join(sorted(definition.methods)) or 'none'}"
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
        bare = _portable[definition] = structs.replace(definition, cls=None)
    return bare


def _import_handle(data: tuple[Any, ...], definition: ActorDefinition) -> ActorHandle:
    runtime: Runtime = current_import()
    return ActorHandle(runtime.import_actor(data, definition))


def link_of(handle: object) -> ActorLink | None:
    """The link behind a handle; None for anything else."""
    if not isinstance(handle, ActorHandle):
        return None
    link = handle.__actorlite_link__
    return link.alias or link
