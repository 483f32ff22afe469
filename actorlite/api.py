"""The functions of `import actorlite as al`: thin calls on the current runtime."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Literal, NoReturn, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from actorlite.actor import Actor, ActorClass, ActorHandle, definition_of, link_of, set_class_options, wrap_class
from actorlite.context import ActorExit, ActorLink, Runtime, current_call, find_runtime
from actorlite.errors import ActorNotFoundError
from actorlite.inspection import ActorInfo, RuntimeContext, runtime_context
from actorlite.options import ActorOptionsDict, TaskOptions, TaskOptionsDict
from actorlite.refs import ObjectRef
from actorlite.runtime.waiting import as_completed, get, wait
from actorlite.streams import ObjectRefStream
from actorlite.task import ManyReturns, Remote, RemoteFunction, RemoteGenerator, define_function, remote_class

__all__ = [
    "ActorInfo",
    "RuntimeContext",
    "arg",
    "as_completed",
    "cancel",
    "describe",
    "exit_actor",
    "get",
    "get_actor",
    "kill",
    "list_named_actors",
    "put",
    "ready",
    "remote",
    "runtime_context",
    "terminate",
    "wait",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVar("A", bound=Actor)


class DecoratorOptionsDict(TaskOptionsDict, ActorOptionsDict, total=False):
    """Keywords of `@al.remote(...)`: a function takes a task's, a class an actor's."""


class RemoteDecorator(Protocol):
    @overload
    def __call__(self, target: type[A], /) -> type[A]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: type[T], /) -> Any: ...
    @overload
    def __call__(self, target: Callable[P, Coroutine[Any, Any, R]], /) -> RemoteFunction[P, R]: ...
    @overload
    def __call__(self, target: Callable[P, AsyncIterator[R]], /) -> RemoteGenerator[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, Iterator[R]], /) -> RemoteGenerator[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, R], /) -> RemoteFunction[P, R]: ...


class RemoteOfManyDecorator(Protocol):
    def __call__(self, target: Callable[P, Any], /) -> ManyReturns[P]: ...


@overload
def remote(target: type[A], /) -> type[A]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: type[T], /) -> Any: ...
@overload
def remote(target: Callable[P, Coroutine[Any, Any, R]], /) -> RemoteFunction[P, R]: ...
@overload
def remote(target: Callable[P, AsyncIterator[R]], /) -> RemoteGenerator[P, R]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, Iterator[R]], /) -> RemoteGenerator[P, R]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[P, R]: ...
@overload
def remote(  # type: ignore[overload-overlap]
    *, num_returns: Literal[1, "streaming"] | None = None, **options: Unpack[DecoratorOptionsDict]
) -> RemoteDecorator: ...
@overload
def remote(*, num_returns: int, **options: Unpack[TaskOptionsDict]) -> RemoteOfManyDecorator: ...
def remote(*targets: Any, **options: Any) -> Any:
    """Make a function or class remote: `@al.remote`, or `@al.remote(num_cpus=2)`.

    A function becomes a `RemoteFunction`, a generator function a `RemoteGenerator`. A subclass of `al.Actor` stays what
    it is; any other class becomes an untyped `ActorClass`. Raises `TypeError` for other targets and unknown options,
    `ValueError` for bad values.
    """
    if len(targets) == 1 and not options:
        return _make_remote(targets[0], {})
    if targets or not options:
        raise TypeError(
            "write @al.remote without parentheses, or with at least one option and nothing else: @al.remote(num_cpus=2)"
        )
    return lambda target: _make_remote(target, options)


def _make_remote(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, Remote | ActorClass):
        raise TypeError(f"{target!r} is remote already: change its options with .options(...)")
    if isinstance(target, type):
        if not issubclass(target, Actor):
            return wrap_class(target, options)
        if options:
            set_class_options(target, options)
        return target
    if inspect.isfunction(target) or inspect.isbuiltin(target):
        validated = TaskOptions.make(**options)
        definition = define_function(target, validated)
        return remote_class(definition, validated)(definition, validated)
    raise TypeError(f"@al.remote must be applied to a function or a class, not to {target!r}")


def arg(ref: ObjectRef[R], /) -> R:
    """`ref` itself, typed as its value: for passing a reference where a function declares the value's type."""
    _require_ref("arg", ref)
    return cast(R, ref)


async def put(value: T, *, timeout: float | None = None) -> ObjectRef[T]:
    """Store a copy of a value and return a reference to it. The copy is made when this returns, not earlier.

    Values of 100 KiB and more go to the object store of the node. While that has no room this waits: for `timeout`
    seconds, by default 60. Raises `ObjectStoreFullError` then, which says who uses what, and at once for a value larger
    than the whole store; `SerializationError` for what cannot be sent.
    """
    if isinstance(value, ObjectRef):
        raise TypeError(f"put() takes a value, not a reference: {value!r} can be passed on as it is, or in a list")
    runtime = find_runtime()
    return await _on_loop_of(runtime, runtime.put(value, timeout))


async def cancel(ref: ObjectRef[Any] | ObjectRefStream[Any], *, force: bool = False, recursive: bool = True) -> bool:
    """Cancel the work behind `ref`: from its owner or from any process that holds it. Idempotent.

    Returns False when the work had ended already. What was queued never runs. A coroutine gets `CancelledError` at its
    next await. Plain code sees `runtime_context().is_cancelled()` at once, its blocking `al.sync` waits end, and half a
    second later `CancelledError` is raised into its thread. How it ended is what the reference says: awaiting it, or
    the next one of a stream, raises
    `TaskCancelledError`, whose `outcome` tells whether it had started, or gives the value if the work ended normally
    all the same.

    `force` ends the worker process of a running task, and the error says so; for a call of an actor it raises
    `ValueError`. `recursive` cancels what the work itself had submitted.
    """
    if not isinstance(ref, ObjectRefStream):
        _require_ref("cancel", ref)
    return await _on_loop_of(ref.runtime, ref.runtime.cancel(ref, force=force, recursive=recursive))


async def kill(actor: Actor | Any, *, no_restart: bool = True) -> None:
    """End an actor at once: no `on_stop`; its running and queued calls fail with `ActorDiedError`.

    With `no_restart=False` it is made anew if its `max_restarts` still allows that, as after a crash.
    """
    link = _require_link("kill", actor)
    await _on_loop_of(link.runtime, link.runtime.kill(link, no_restart=no_restart))


@overload
async def get_actor(name: str, cls: type[T], /, *, namespace: str | None = None) -> T: ...
@overload
async def get_actor(name: str, cls: None = None, /, *, namespace: str | None = None) -> Any: ...
async def get_actor(name: str, cls: type[Any] | None = None, /, *, namespace: str | None = None) -> Any:
    """The handle of the living actor that has the name, in the session's namespace or another one.

    It does not keep the actor alive: that ends with the handles that its creator gave out, unless it is detached. With
    `cls` the handle is typed, and the actor must have the methods of that class. Raises `ActorNotFoundError`,
    `ControlUnavailable`; `TypeError` and `ValueError` for wrong arguments.
    """
    _check_name("name", name)
    _check_name("namespace", namespace)
    runtime = find_runtime()
    found = await _on_loop_of(runtime, runtime.names.find(name, namespace or ""))
    if found is None:
        raise ActorNotFoundError(
            f"no living actor has the name {name!r} in namespace {namespace or runtime.namespace!r}: it may have "
            "ended, be in another namespace (namespace=...), or not be made yet; al.list_named_actors() tells"
        )
    if cls is not None:
        _check_methods(name, cls, found)
    return ActorHandle(found)


@overload
async def list_named_actors(*, all_namespaces: Literal[False] = False) -> list[str]: ...
@overload
async def list_named_actors(*, all_namespaces: Literal[True]) -> list[dict[str, str]]: ...
async def list_named_actors(*, all_namespaces: bool = False) -> Any:
    """The names of the living actors in the session's namespace, in order.

    With `all_namespaces` those in all of them, each as `{"name": ..., "namespace": ...}`. Raises `ControlUnavailable`.
    """
    runtime = find_runtime()
    found = await _on_loop_of(runtime, runtime.names.listed("" if all_namespaces else runtime.namespace))
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, name in found]
    return [name for _, name in found]


def _check_name(what: str, value: str | None) -> None:
    remedy = "give the one that the actor was made with" if what == "name" else "leave it out for the session's own"
    if value is not None and not isinstance(value, str):
        raise TypeError(f"get_actor() takes a str as {what}, not {value!r} of type {type(value).__name__}: {remedy}")
    if value == "" or value is None and what == "name":
        raise ValueError(f"get_actor({what}={value!r}): it must not be empty; {remedy}")


def _check_methods(name: str, cls: Any, found: ActorLink) -> None:
    cls = getattr(cls, "__wrapped__", cls)
    if not isinstance(cls, type):
        raise TypeError(f"get_actor({name!r}, cls) takes a class as cls, not {cls!r} of type {type(cls).__name__}")
    missing = sorted(definition_of(cls).methods.keys() - found.definition.methods.keys())
    if missing:
        raise TypeError(
            f"the actor {name!r} is a {found.definition.name}, and has no {missing[0]}() as {cls.__name__} has: give "
            "its own class or a base of it, or none"
        )


async def terminate(actor: Actor | Any) -> None:
    """End an actor in good order: after the calls that were made before, and its `on_stop`; returns when it is gone.

    Calls that come later fail with `ActorDiedError`, not executed. It does not restart. Idempotent.
    """
    link = _require_link("terminate", actor)
    await _on_loop_of(link.runtime, link.runtime.terminate(link))


def exit_actor() -> NoReturn:
    """Leave the running method and end its actor: other running calls finish, waiting ones never run, `on_stop` runs.

    Whoever called the method sees `ActorDiedError`. The actor does not restart. Raises `TypeError` outside an actor.
    """
    scope = current_call.get()
    if scope is None or not scope.exit_actor():
        raise TypeError("exit_actor() is for methods of actors: this code does not run in one")
    raise ActorExit("the actor ends")


async def describe(actor: Actor | Any) -> ActorInfo:
    """The actor's state, restarts, process and, when it is dead, the cause: as its creator knows them now."""
    link = _require_link("describe", actor)
    place = await _on_loop_of(link.runtime, link.runtime.describe_actor(link))
    return ActorInfo(
        link.id,
        link.definition.name,
        place.state,
        place.restarts,
        place.pid or None,
        place.cause or None,
        place.error,
    )


async def ready(actor: Actor | Any) -> None:
    """Return once the actor's constructor and `on_start` have run. Raises `ActorDiedError` when they failed."""
    link = _require_link("ready", actor)
    scope = current_call.get()
    if scope is not None:
        scope.enter_wait()  # the actor may need the CPU of the task that waits for it
    try:
        await _on_loop_of(link.runtime, link.runtime.actor_ready(link))
    finally:
        if scope is not None:
            scope.leave_wait()


def _require_ref(what: str, ref: object) -> None:
    if not isinstance(ref, ObjectRef):
        raise TypeError(f"{what}() takes an ObjectRef, not {ref!r} of type {type(ref).__name__}")


def _require_link(what: str, actor: object) -> ActorLink:
    link = link_of(actor)
    if link is None:
        raise ValueError(f"{what}() takes the handle of an actor, not {actor!r} of type {type(actor).__name__}")
    return link


async def _on_loop_of(runtime: Runtime, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, on the runtime's loop when this is another one."""
    if asyncio.get_running_loop() is runtime.loop:
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, runtime.loop))
