"""Why a value cannot be serialized: the path to the member that fails by itself.

Runs only after a failure. It takes apart what pickle would take apart, in the same way, and tries each part alone.
"""

from __future__ import annotations

import copyreg
import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec import Struct

from actorlite.errors import SerializationError
from actorlite.wire.pickling import PROTOCOL, Pickler, by_reference, global_names, reduce_special
from actorlite.wire.registration import registered

MAX_DEPTH = 20
MAX_TRIALS = 2000
MAX_OFFENDERS = 5
_KEY_LENGTH = 40
_REASON_LENGTH = 300
_NEVER_AT_FAULT = frozenset({type(None), bool, int, float, str, bytes})


class Offender(Struct, frozen=True):
    """A member that cannot be serialized although everything inside it can."""

    path: str
    """From the value inspected, as one would write it: `cfg.db._lock`, `f.<closure> db`, `args[0]['x']`."""
    type_name: str
    reason: str
    trail: tuple[tuple[str, str], ...] = ()
    """Each step of the path with the type found there, from the value inspected to the offender."""


class Report(Struct, frozen=True):
    """What `inspect_serializability` found; `str()` gives a readable tree."""

    name: str
    serializable: bool
    offenders: tuple[Offender, ...] = ()

    def __str__(self) -> str:
        if self.serializable:
            return f"{self.name} can be serialized"
        lines = [f"{self.name} cannot be serialized"]
        shown: set[tuple[str, ...]] = set()
        for offender in self.offenders:
            for depth in range(1, len(offender.trail) + 1):
                steps = tuple(step for step, _ in offender.trail[:depth])
                step, type_name = offender.trail[depth - 1]
                if steps in shown:
                    continue
                shown.add(steps)
                last = depth == len(offender.trail)
                lines.append(f"{'  ' * depth}{step}  ({type_name})" + (f": {offender.reason}" if last else ""))
            if advice := advice_for(offender):
                lines.append(f"{'  ' * (len(offender.trail) + 1)}-> {advice}")
        return "\n".join(lines)


def inspect_serializability(value: object, name: str | None = None) -> Report:
    """Try to serialize `value` and say which members cannot be. Raises nothing, whatever the value."""
    label = name or getattr(value, "__qualname__", None) or type(value).__name__
    if try_to_pickle(value) is None:
        return Report(label, True)
    return Report(label, False, tuple(find_offender(value, label)))


def find_offender(value: object, name: str = "value") -> list[Offender]:
    """The deepest members of `value` that fail alone; empty when `value` can be serialized.

    Bounded in depth and number of trials: a very large value may get a shorter path than it deserves.
    """
    search = _Search()
    trail = ((name, type_name_of(value)),)
    if search.visit(value, name, trail) and not search.offenders:
        # No part fails without the whole.
        error = try_to_pickle(value)
        search.offenders.append(Offender(name, type_name_of(value), reason_of(error or TypeError()), trail))
    return search.offenders


def serialization_error(
    error: BaseException, named: Iterable[tuple[str, object]], lead: str = ""
) -> SerializationError:
    """The error to raise for `error`, which pickling the named values ended with. `lead` opens its text."""
    if isinstance(error, RecursionError):
        where = ", ".join([name for name, value in named if try_to_pickle(value) is not None])
        return SerializationError(f"{lead}{where or 'value'}: nested too deeply to be serialized", path=where)
    labels: list[str] = []
    offenders: list[Offender] = []
    for name, value in named:
        labels.append(name)
        offenders += find_offender(value, name)
    if not offenders:
        path = labels[0] if len(labels) == 1 else ""
        return SerializationError(f"{lead}{path or 'arguments'}: {reason_of(error)}", path=path)
    lines: list[str] = []
    for offender in offenders[:MAX_OFFENDERS]:
        lines.append(f"{offender.path}: {offender.reason}")
        if advice := advice_for(offender):
            lines.append(f"  {advice}")
    return SerializationError(lead + "\n".join(lines), path=offenders[0].path)


_ADVICE = {
    "lock": "leave the lock out in __getstate__ and make a new one in __setstate__",
    "thread": "start it where it is used",
    "socket": "open the connection inside the task or actor that uses it",
    "connection": "open the connection inside the task or actor that uses it",
    "file": "send the path, or the contents read from it",
    "generator": "send a list of its items",
    "coroutine": "await it first and send the result",
    "future": "await it first and send the result",
    "loop": "an event loop belongs to one thread of one process; use the running one there",
    "module": "import it inside the function",
}
_KIND_OF = {
    "_thread.lock": "lock",
    "_thread.RLock": "lock",
    "threading.Condition": "lock",
    "threading.Thread": "thread",
    "_thread._local": "thread",
    "socket.socket": "socket",
    "sqlite3.Connection": "connection",
    "sqlite3.Cursor": "connection",
    "_io.TextIOWrapper": "file",
    "_io.BufferedReader": "file",
    "_io.BufferedWriter": "file",
    "_io.BufferedRandom": "file",
    "_io.FileIO": "file",
    "builtins.generator": "generator",
    "builtins.async_generator": "generator",
    "builtins.coroutine": "coroutine",
    "_asyncio.Future": "future",
    "_asyncio.Task": "future",
    "uvloop.Loop": "loop",
    "builtins.module": "module",
}


def advice_for(offender: Offender) -> str:
    """What to do instead, when the kind of offender is a usual one."""
    kind = _KIND_OF.get(offender.type_name)
    if kind is None and offender.type_name.endswith("EventLoop"):
        kind = "loop"
    return _ADVICE[kind] if kind else ""


def type_name_of(value: object) -> str:
    cls = type(value)
    return f"{cls.__module__}.{cls.__qualname__}"


def reason_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    if not text:
        text = type(error).__name__
    elif not isinstance(error, TypeError | AttributeError | ValueError) and "pickle" not in text:
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _REASON_LENGTH else text[:_REASON_LENGTH] + "..."


class _Nowhere:
    """A file that forgets, so that a trial of a large value costs no memory."""

    def write(self, data: object) -> None:
        pass


def try_to_pickle(value: object) -> Exception | None:
    """The error that pickling `value` alone ends with; None when it works."""
    try:
        Pickler(_Nowhere(), lambda buffer: None).dump(value)
    except Exception as error:
        return error
    return None


class _Search:
    def __init__(self) -> None:
        self.offenders: list[Offender] = []
        self._trials = 0
        # The objects are kept: an id is good only while its object lives.
        self._seen: dict[int, tuple[object, bool]] = {}

    def visit(self, value: object, path: str, trail: tuple[tuple[str, str], ...]) -> bool:
        """True when `value` cannot be pickled; what is to blame was then recorded, here or on an earlier visit."""
        if type(value) in _NEVER_AT_FAULT:
            return False
        seen = self._seen.get(id(value))
        if seen is not None:
            # Also for an object met again below itself: what is wrong with it is found elsewhere in it.
            return seen[1]
        if self._trials >= MAX_TRIALS or len(self.offenders) >= MAX_OFFENDERS:
            return False
        self._trials += 1
        error = try_to_pickle(value)
        self._seen[id(value)] = (value, error is not None)
        if error is None:
            return False
        blamed_inside = False
        if len(trail) < MAX_DEPTH:
            for step, child in _children(value):
                failed = self.visit(child, path + step, (*trail, (step, type_name_of(child))))
                blamed_inside = blamed_inside or failed
        if not blamed_inside and len(self.offenders) < MAX_OFFENDERS:
            known = registered(type(value))
            lead = "" if known is None else f"in the serializer registered for {known.cls.__qualname__}: "
            self.offenders.append(Offender(path, type_name_of(value), lead + reason_of(error), trail))
        return True


def _children(value: Any) -> Iterator[tuple[str, object]]:
    """The parts that pickle would save for `value`, each with the text that leads to it."""
    try:
        yield from _parts(value)
    except Exception:  # a value that cannot even be taken apart is itself the offender
        return


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    cls = type(value)
    if (known := registered(cls)) is not None:
        yield ".<serialized>", known.payload_of(value)
        yield ".<deserializer>", known.deserializer
    elif cls in (list, tuple):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif cls in (set, frozenset):
        yield from ((f".<item {_short(item)}>", item) for item in value)
    elif cls is dict:
        yield from _items(value.items())
    elif isinstance(value, types.FunctionType):
        if not by_reference(value):
            yield from _function_parts(value)
    elif isinstance(value, type):
        if not by_reference(value):
            yield from _class_parts(value)
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif isinstance(value, classmethod | staticmethod):
        yield "", value.__func__
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield from ((f".args[{index}]", item) for index, item in enumerate(value.args))
        yield from ((f".keywords[{key!r}]", item) for key, item in value.keywords.items())
    elif isinstance(value, tuple) and hasattr(cls, "_fields"):
        yield from ((f".{field}", item) for field, item in zip(cls._fields, value, strict=False))
    else:
        yield from _reduced_parts(value)


def _function_parts(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f".<closure> {name}", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in global_names(code):
        if name in function.__globals__:
            yield f".<global> {name}", function.__globals__[name]
    arguments = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    for name, default in zip(arguments[len(arguments) - len(defaults) :], defaults, strict=False):
        yield f".<default> {name}", default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield f".<default> {name}", default
    yield from ((f".{name}", item) for name, item in vars(function).items())


def _class_parts(cls: type) -> Iterator[tuple[str, object]]:
    skipped = ("__dict__", "__weakref__", "__doc__", "__module__", "__abstractmethods__", "_abc_impl")
    for base in cls.__bases__:
        yield f".<base> {base.__qualname__}", base
    for name, item in vars(cls).items():
        if name not in skipped and not isinstance(item, types.MemberDescriptorType):
            yield f".{name}", item


def _reduced_parts(value: Any) -> Iterator[tuple[str, object]]:
    if hasattr(type(value), "__actorlite_export__"):
        return
    reduced = _reduce(value)
    if not isinstance(reduced, tuple) or len(reduced) < 2:
        return
    padded: list[Any] = [*reduced, None, None, None]
    function, arguments, state, list_items, dict_items = padded[:5]
    # `object.__reduce_ex__` names the class first; instances of a class by value fail with the class.
    for index, argument in enumerate(arguments):
        if argument is type(value):
            yield ".__class__", argument
        else:
            yield f".<argument {index}>", argument
    states = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for part in states:
        if isinstance(part, dict):
            yield from (
                (f".{name}" if isinstance(name, str) else f".<state {name!r}>", item) for name, item in part.items()
            )
        elif part is not None:
            yield ".<state>", part
    yield from ((f"[{index}]", item) for index, item in enumerate(list_items or ()))
    yield from _items(dict_items or ())
    yield ".<constructor>", function


def _reduce(value: Any) -> Any:
    special = reduce_special(value)
    if special is not NotImplemented:
        return special
    reducer: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
    return value.__reduce_ex__(PROTOCOL) if reducer is None else reducer(value)


def _items(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, object]]:
    for key, item in items:
        yield f".<key {_short(key)}>", key
        yield f"[{_short(key)}]", item


def _short(key: object) -> str:
    try:
        text = repr(key)
    except Exception:
        text = f"<{type(key).__name__}>"
    return text if len(text) <= _KEY_LENGTH else text[:_KEY_LENGTH] + "..."
