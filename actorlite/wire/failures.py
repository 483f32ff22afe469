"""Exceptions of user code, carried over: the user's own type is raised on the other side.

Beside the pickled exception always travel its type, arguments and traceback as text, so that one that cannot be
pickled or rebuilt still says what happened. A carried exception has one note: the traceback of the process where it
was raised, and a line for each process that it passed through.
"""

from __future__ import annotations

import builtins
import functools
import pickle
import traceback
from collections.abc import Callable, Iterator
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, TypeVar, cast

import msgspec

from actorlite.errors import TaskError
from actorlite.wire.pickling import PROTOCOL, Chunks, Pickler, loads
from actorlite.wire.registration import registered

MAX_ARGS_TEXT = 1024
MAX_TRACEBACK_TEXT = 64 * 1024
MAX_PICKLED = 16 * 1024 * 1024
MAX_HOPS = 32
_MAX_GROUP_DEPTH = 16
_MARK = "__actorlite_failure__"
_HEADER = "Traceback (most recent call last):"
_INTERNAL = ("actorlite", "actorlite_transports")


class _Failure(msgspec.Struct, array_like=True):
    """What travels. The first of `pickled`, `members`, `rebuilt` that works gives the exception; text always does."""

    type_name: str
    args_text: str
    message: str
    traceback_text: str = ""
    """Empty for the members of a group, whose traceback is in the group's, unless they were carried before."""
    hops: list[str] = []
    """One line for each process, first the one that raised."""
    pickled: bytes | None = None
    """The exception as pickle takes it."""
    rebuilt: bytes | None = None
    """Pickled `_Parts`, when its own pickling or unpickling fails."""
    members: list[_Failure] = []
    """The exceptions in a group, which is then made from `rebuilt` around them."""


class _Carried:
    """Left on a carried exception, so that the next hop keeps the first traceback instead of nesting another."""

    __slots__ = ("hops", "note", "traceback_text")

    def __init__(self, traceback_text: str, hops: list[str], note: str) -> None:
        self.traceback_text = traceback_text
        self.hops = hops
        self.note = note

    def __reduce__(self) -> tuple[Any, ...]:
        # When user code pickles the exception as a value, the note goes with it and this does not.
        return _nothing, ()


def _nothing() -> None:
    return None


def encode_failure(error: BaseException, where: str) -> bytes:
    """Encode an exception that user code raised. Never raises an Exception itself, whatever the user's class does.

    `where` is this process's line: "task parse() in worker pid 17". References inside the exception do not travel,
    they are replaced by their text. StopIteration and StopAsyncIteration become RuntimeError, as in a coroutine.
    """
    if isinstance(error, StopIteration | StopAsyncIteration):
        replacement = RuntimeError(f"{where} raised {type(error).__name__}")
        replacement.__cause__ = error
        error = replacement
    failure = _describe(error, 0)
    if not failure.hops:
        failure.traceback_text = _traceback_text(error)
    hops = [*failure.hops, where]
    failure.hops = hops if len(hops) <= MAX_HOPS else [*hops[: MAX_HOPS // 2], "...", *hops[-MAX_HOPS // 2 :]]
    return msgspec.msgpack.encode(failure)


def decode_failure(data: bytes | bytearray | memoryview) -> BaseException:
    """The exception to raise: of the user's type if at all possible, else a TaskError that quotes it."""
    failure = msgspec.msgpack.decode(data, type=_Failure)
    return _restore(failure)


def _carry(error: BaseException, failure: _Failure) -> None:
    note = _note(failure.traceback_text, failure.hops)
    attributes = error.__dict__
    # Not add_note(): a frozen dataclass may be an exception.
    attributes["__notes__"] = [*_notes(error), note]
    attributes[_MARK] = _Carried(failure.traceback_text, failure.hops, note)


def describe_failure(data: bytes | bytearray | memoryview) -> str:
    """`ValueError('bad',)` in short, without unpickling anything; for logs and task records."""
    failure = msgspec.msgpack.decode(data, type=_Failure)
    return f"{failure.type_name}{failure.args_text}"


def _note(traceback_text: str, hops: list[str]) -> str:
    lines = [traceback_text.replace(_HEADER, f"Remote {_HEADER[0].lower()}{_HEADER[1:]}").rstrip("\n")]
    lines.append(f"raised in {hops[0]}")
    lines += [f"  via {hop}" for hop in hops[1:]]
    return "\n".join(lines)


def _carried(error: BaseException) -> _Carried | None:
    mark = error.__dict__.get(_MARK)
    return mark if isinstance(mark, _Carried) else None


def _notes(error: BaseException) -> list[Any]:
    notes = error.__dict__.get("__notes__")
    return notes if isinstance(notes, list) else []


def _own_state(error: BaseException, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """The attributes that the user's code set, without what `_carry` added."""
    state = dict(error.__dict__ if state is None else state)
    mark = state.pop(_MARK, None)
    if isinstance(mark, _Carried) and "__notes__" in state:
        notes = [note for note in _notes(error) if note is not mark.note]
        if notes:
            state["__notes__"] = notes
        else:
            del state["__notes__"]
    return state


def _type_name(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _safe(make: Callable[[], str], what: str) -> str:
    try:
        return str(make())
    except Exception as error:
        return f"<{what} raised {type(error).__name__}>"


def _shorten(text: str, limit: int) -> str:
    """Bounded in UTF-8 bytes, which also replaces lone surrogates: the text always encodes."""
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) > limit:
        head, tail = encoded[: limit * 2 // 3], encoded[len(encoded) - limit // 3 + 32 :]
        encoded = head + b"\n... shortened ...\n" + tail
    return encoded.decode("utf-8", "ignore")


def _args_text(error: BaseException) -> str:
    return _shorten(_safe(lambda: repr(error.args), "repr of its arguments"), MAX_ARGS_TEXT)


def _traceback_text(error: BaseException) -> str:
    def render() -> str:
        summary = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        _prune(summary, error, set())
        return "".join(summary.format())

    return _shorten(_safe(render, "formatting its traceback"), MAX_TRACEBACK_TEXT)


def _prune(summary: traceback.TracebackException, error: BaseException, seen: set[int]) -> None:
    """Remove actorlite's own frames, also from causes, contexts and groups."""
    if id(error) in seen:
        return
    seen.add(id(error))
    frames = list(traceback.walk_tb(error.__traceback__))
    if len(frames) == len(summary.stack):
        kept = [
            line
            for line, (frame, _) in zip(summary.stack, frames, strict=True)
            if str(frame.f_globals.get("__name__")).partition(".")[0] not in _INTERNAL
        ]
        summary.stack[:] = kept
    for inner, original in ((summary.__cause__, error.__cause__), (summary.__context__, error.__context__)):
        if inner is not None and original is not None:
            _prune(inner, original, seen)
    if isinstance(error, BaseExceptionGroup):
        for inner, original in zip(summary.exceptions or (), error.exceptions, strict=False):
            _prune(inner, original, seen)


class _FailurePickler(Pickler):
    """Refuses references (nobody would release them) and leaves out what carrying added to an exception."""

    def reducer_override(self, obj: Any) -> Any:
        if hasattr(type(obj), "__actorlite_export__"):
            raise pickle.PicklingError("a reference inside an exception does not travel")
        if isinstance(obj, BaseException) and _MARK in obj.__dict__ and registered(type(obj)) is None:
            reduced = obj.__reduce_ex__(PROTOCOL)
            if isinstance(reduced, tuple) and len(reduced) > 2 and isinstance(reduced[2], dict):
                return (*reduced[:2], _own_state(obj, reduced[2]), *reduced[3:])
            return reduced
        return super().reducer_override(obj)


def _dump(value: object) -> bytes | None:
    chunks = Chunks()
    try:
        _FailurePickler(chunks).dump(value)
    except Exception:
        return None
    data = chunks.take()
    return data if len(data) <= MAX_PICKLED else None


_Parts = tuple[type[BaseException], tuple[Any, ...], dict[str, Any], dict[str, Any]]
"""An exception taken apart, to be put together without its `__init__`: class, arguments, slots, `__dict__`."""


def _describe(error: BaseException, depth: int) -> _Failure:
    failure = _Failure(
        _type_name(error),
        _args_text(error),
        _shorten(_safe(lambda: str(error), "str()"), MAX_ARGS_TEXT),
    )
    carried = _carried(error)
    if carried is not None:
        failure.traceback_text, failure.hops = carried.traceback_text, carried.hops
    if registered(type(error)) is not None:
        # It need not come back the same: what the deserializer makes is what the user wants.
        failure.pickled = _dump(error)
        if _attempt(lambda: _from_pickle(failure)) is not None:
            return failure
        failure.pickled = None
    if isinstance(error, BaseExceptionGroup) and depth < _MAX_GROUP_DEPTH:
        failure.members = [_describe(member, depth + 1) for member in error.exceptions]
        failure.rebuilt = _dump_parts(error, (error.message,))
        return failure
    data = _dump(error)
    if data is not None and _survives(error, lambda: loads(data)):
        failure.pickled = data
        return failure
    data = _dump_parts(error, error.args)
    if data is not None and _survives(error, lambda: _assemble(loads(data))):
        failure.rebuilt = data
    return failure


def _survives(error: BaseException, build: Callable[[], object]) -> bool:
    """True when `build` gives the same exception: same type, same plain arguments.

    A custom `__init__` that formats its message would otherwise be applied to its own result.
    """
    try:
        copy = build()
        if type(copy) is not type(error) or not isinstance(copy, BaseException):
            return False
        if len(copy.args) != len(error.args):
            return False
        for ours, theirs in zip(error.args, copy.args, strict=True):
            if type(ours) in (str, int, float, bytes, bool) and type(theirs) is type(ours) and ours != theirs:
                return bool(ours != ours)  # NaN
        return True
    except Exception:
        return False


def _dump_parts(error: BaseException, arguments: tuple[Any, ...]) -> bytes | None:
    parts: _Parts = (
        type(error),
        tuple([_portable(argument) for argument in arguments]),
        {name: _portable(value) for name, value in _slots(error)},
        {name: _portable(value) for name, value in _own_state(error).items()},
    )
    return _dump(parts)


def _portable(value: object) -> object:
    """`value` itself when it travels alone, else its text."""
    data = _dump(value)
    if data is not None and _attempt(lambda: (loads(data),)) is not None:
        return value
    return _shorten(_safe(lambda: repr(value), "repr"), MAX_ARGS_TEXT)


_T = TypeVar("_T")


def _attempt(step: Callable[[], _T]) -> _T | None:
    """What `step` returns; None when the code of the user's class raises in it. The caller has another way."""
    try:
        return step()
    except Exception:
        return None


def _slots(error: BaseException) -> Iterator[tuple[str, Any]]:
    """Attributes outside `__dict__`: those of builtin exceptions (`errno`, `code`, ...) and of `__slots__`."""
    for cls in type(error).__mro__:
        if cls is BaseException:
            return
        for name, descriptor in vars(cls).items():
            if name.startswith("__") or not isinstance(descriptor, MemberDescriptorType | GetSetDescriptorType):
                continue
            # AttributeError.obj may be anything and is not pickled by Python either.
            if cls is AttributeError and name == "obj" or isinstance(error, BaseExceptionGroup):
                continue
            held = _attempt(functools.partial(_read, descriptor, error))
            if held is not None:
                yield name, held[0]


def _read(descriptor: MemberDescriptorType | GetSetDescriptorType, error: BaseException) -> tuple[Any]:
    return (descriptor.__get__(error),)


def _assemble(parts: _Parts) -> BaseException:
    cls, arguments, slots, state = parts
    error = _bare(cls, arguments)
    if not isinstance(error, BaseExceptionGroup):
        _set_args(error, arguments)
    for name, value in slots.items():
        # Some are read-only in one version of Python and not in the next.
        _attempt(functools.partial(object.__setattr__, error, name, value))
    error.__dict__.update(state)
    return error


# What a class does with its attributes is its own business, but not here.
_set_args: Callable[[BaseException, tuple[Any, ...]], None] = vars(BaseException)["args"].__set__


def _bare(cls: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    """An instance whose `__init__` was not called."""
    made: BaseException | None = _attempt(lambda: cls.__new__(cls, *arguments))
    if made is not None and type(made) is cls:
        return made
    native = next(base for base in cls.__mro__ if getattr(builtins, base.__name__, None) is base)
    return cast(BaseException, native.__new__(cls, *arguments))


def _restore(failure: _Failure) -> BaseException:
    error = _rebuild(failure)
    if failure.hops:
        _carry(error, failure)
    return error


def _rebuild(failure: _Failure) -> BaseException:
    for build in (_from_pickle, _from_members, _from_parts):
        error = _attempt(functools.partial(build, failure))
        if error is not None:
            return error
    text = f"{failure.type_name}{failure.args_text}"
    if failure.message and failure.message not in failure.args_text:
        text += f": {failure.message}"
    return TaskError(text, type_name=failure.type_name, traceback_text=failure.traceback_text)


def _from_pickle(failure: _Failure) -> BaseException | None:
    if failure.pickled is None:
        return None
    error = loads(failure.pickled)
    return error if isinstance(error, BaseException) else None


def _from_members(failure: _Failure) -> BaseException | None:
    if not failure.members:
        return None
    members = [_restore(member) for member in failure.members]
    rebuilt = failure.rebuilt
    if rebuilt is not None:
        group = _attempt(lambda: _assemble_group(loads(rebuilt), members))
        if group is not None:
            return group
    # Its class does not travel; its members do.
    return BaseExceptionGroup(f"{failure.type_name}: {failure.message}", members)


def _assemble_group(parts: _Parts, members: list[BaseException]) -> BaseException:
    cls, arguments, slots, state = parts
    return _assemble((cls, (*arguments, members), slots, state))


def _from_parts(failure: _Failure) -> BaseException | None:
    return None if failure.rebuilt is None else _assemble(loads(failure.rebuilt))
