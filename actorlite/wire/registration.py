"""How the values of a class travel because the user said so: in this process, for that very class, before all else.

The deserializer goes along with each value, so that whoever gets it needs no registration.
"""

from __future__ import annotations

import inspect
import pickle
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

from actorlite.wire.pickling import REDUCERS, meet

T = TypeVar("T")
S = TypeVar("S")

_changing = threading.Lock()
_WRITTEN_BY_PICKLE = frozenset(
    {type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset, pickle.PickleBuffer}
)


class Registered:
    """The reducer of a registered class."""

    __slots__ = ("cls", "serializer", "deserializer", "replaced")

    def __init__(
        self,
        cls: type,
        serializer: Callable[[Any], Any],
        deserializer: Callable[[Any], object],
        replaced: Callable[[Any], Any] | None,
    ) -> None:
        self.cls = cls
        self.serializer = serializer
        self.deserializer = deserializer
        self.replaced = replaced
        """The reducer of our own that the class had before."""

    def __call__(self, value: Any) -> tuple[Callable[[Any], object], tuple[Any]]:
        return self.deserializer, (self.payload_of(value),)

    def payload_of(self, value: Any) -> Any:
        payload = self.serializer(value)
        if payload is value:
            raise TypeError("the value itself was returned: return what it is made of, a dict for instance")
        return payload


def registered(cls: type) -> Registered | None:
    """What was registered for the values of `cls`."""
    reducer = REDUCERS.get(cls)
    return reducer if isinstance(reducer, Registered) else None


def register_serializer(cls: type[T], *, serializer: Callable[[T], S], deserializer: Callable[[S], object]) -> None:
    """Let the values of `cls` travel as what `serializer(value)` returns, and be what `deserializer` makes of that.

    It holds in this process, from now on, for values whose class is `cls` itself and no subclass, wherever they are:
    arguments, results, what is put, exceptions, and members of any of these. What `serializer` returns may be anything
    that can be sent, references and arrays included, but must not contain the value again. `deserializer` goes along
    with each value, by name when a worker can import it and else by value: the receiver needs no registration. To send
    such values itself it makes its own. Registering again replaces. May be called in any thread.

    What `serializer` raises is the cause of a `SerializationError` that names the member; what `deserializer` raises is
    raised where the value is read. Raises `TypeError` for classes that are written without asking anybody, such as
    `int`, `list` and `ObjectRef`.
    """
    _check_class("register_serializer", cls)
    if (reason := _why_not(cls)) is not None:
        raise TypeError(
            f"register_serializer() does not take {cls.__qualname__} as cls, because {reason}: "
            "register a class that holds such values"
        )
    for name, function in (("serializer", serializer), ("deserializer", deserializer)):
        if not callable(function):
            raise TypeError(
                f"register_serializer() takes a function as {name}, not {function!r} of type "
                f"{type(function).__name__}: give it one that takes one argument"
            )
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(
                f"register_serializer() takes a plain function as {name}, and {function!r} is a coroutine or generator "
                "function: nobody would run it; return the result"
            )
    with _changing:
        meet(cls.__module__)
        before = REDUCERS.get(cls)
        replaced = before.replaced if isinstance(before, Registered) else before
        REDUCERS[cls] = Registered(cls, serializer, deserializer, replaced)


def deregister_serializer(cls: type) -> None:
    """Let the values of `cls` travel as they did before `register_serializer`. Nothing happens when none is registered.

    Values that are on their way already arrive all the same.
    """
    _check_class("deregister_serializer", cls)
    with _changing:
        found = registered(cls)
        if found is None:
            return
        if found.replaced is None:
            del REDUCERS[cls]
        else:
            REDUCERS[cls] = found.replaced


def _check_class(function: str, cls: object) -> None:
    if not isinstance(cls, type):
        raise TypeError(
            f"{function}() takes a class as cls, not {cls!r} of type {type(cls).__name__}: "
            "give it the class of the values"
        )


def _why_not(cls: type) -> str | None:
    if cls in _WRITTEN_BY_PICKLE:
        return "pickle writes such values by itself and asks nobody"
    if issubclass(cls, type) or cls is FunctionType:
        return "functions and classes travel as code"
    if hasattr(cls, "__actorlite_export__"):
        return "references and handles are counted on their way"
    return None
