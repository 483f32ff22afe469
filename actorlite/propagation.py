"""Context variables that travel with calls.

A call runs in a context of its own, so by itself it sees nothing of its caller's context. What is registered here goes
along: by the variable's name, with the value that the caller has set. A process that does not know a name hands its
value on to what it calls, and sets it when a module registers the name later.
"""

from __future__ import annotations

import pickle
import sys
from contextvars import Context, ContextVar
from importlib import import_module
from typing import Any, TypeVar

from actorlite.errors import SerializationError

T = TypeVar("T")

Travelling = tuple[tuple[str, bytes], ...]
"""The name and the pickled value of each variable."""

_received: ContextVar[Travelling] = ContextVar("actorlite_received", default=())
"""What came with the running call and nobody here has registered."""

registered: dict[str, ContextVar[Any]] = {}
"""Like classes and functions, variables are known to a process by name; modules register theirs when imported."""

_modules: dict[str, str] = {}
"""Where each was registered."""
_MISSING = object()


def propagate(var: ContextVar[T]) -> ContextVar[T]:
    """Let a context variable travel with calls; returns it: `user = al.propagate(ContextVar("user"))`.

    To be called where the variable is defined, at the top of a module, so that every process that imports it knows the
    variable too. Values must be small and picklable by name; a variable that is not set does not travel. Raises
    `ValueError` when another variable has the same name.
    """
    if not isinstance(var, ContextVar):
        raise TypeError(f"propagate() takes a ContextVar, not {var!r} of type {type(var).__name__}")
    known = registered.setdefault(var.name, var)
    if known is not var:
        raise ValueError(
            f"propagate() knows another context variable named {var.name!r}: the name says which one a value is for; "
            "give one of them another name"
        )
    _modules.setdefault(var.name, sys._getframe(1).f_globals.get("__name__", ""))
    receive(_received.get())
    return var


def anything_travels() -> bool:
    """Whether a call made now may have to take variables along."""
    return bool(registered or _received.get())


def travelling() -> Travelling:
    """What goes along with a call made now. Raises `SerializationError` for a value that cannot be pickled."""
    if not registered:
        return _received.get()
    found = list(_received.get())
    for name, var in registered.items():
        value = var.get(_MISSING)
        if value is not _MISSING:
            try:
                found.append((name, pickle.dumps(value, pickle.HIGHEST_PROTOCOL)))
            except Exception as error:
                raise SerializationError(
                    f"the context variable {name!r} travels with calls, and its value cannot be pickled "
                    f"({type(error).__name__}: {error}): set it to plain data, or to None",
                    path=name,
                ) from error
    return tuple(found)


def receive(values: Travelling) -> None:
    """Set what came with a call, in the running context. Raises what unpickling raises."""
    if not values:
        return
    _received.set(tuple([each for each in values if each[0] not in registered]))
    for name, pickled in values:
        if name in registered:
            registered[name].set(pickle.loads(pickled))


def reduce_variable(var: ContextVar[Any]) -> tuple[Any, ...]:
    """How code that goes by value takes a variable along. Raises `TypeError` for one that does not travel."""
    if registered.get(var.name) is not var:
        raise TypeError(f"cannot pickle the context variable {var.name!r}: make it travel with al.propagate(...)")
    try:
        default: tuple[Any, ...] = (Context().run(var.get),)
    except LookupError:
        default = ()
    return _find_variable, (var.name, _modules[var.name], default)


def _find_variable(name: str, module: str, default: tuple[Any, ...]) -> ContextVar[Any]:
    if name not in registered and module not in ("", "__main__"):
        try:
            import_module(module)
        except ImportError:
            pass  # its code went by value, and so does the variable
    known = registered.get(name)
    if known is not None:
        return known
    return propagate(ContextVar(name, default=default[0]) if default else ContextVar(name))


__all__ = ["propagate"]
