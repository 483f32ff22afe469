"""The pickler under every user value: protocol 5, code by value where workers cannot import it, references found.

It is cloudpickle's, with two differences. Whether code goes by value is decided by `importable`, not by `sys.modules`.
A class that travels by value is filled once in each process and never in the process that defined it: coming home, it
is the user's own class, untouched.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, cast

from cloudpickle import cloudpickle as _untyped  # type: ignore[import-untyped]

from actorlite.propagation import reduce_variable
from actorlite.wire.handlers import UNMET, reducers_of
from actorlite.wire.importable import bound_object, is_missing, load_global, module_importable

_cloudpickle: Any = _untyped  # it has no types, and most of what is used here is private
PROTOCOL = 5
_HEAP_TYPE = 1 << 9


class ExportScope:
    """What one encoding finds on its way; handed to `__actorlite_export__`."""

    __slots__ = ("handles",)

    def __init__(self) -> None:
        self.handles: list[object] = []
        """References and actor handles inside the value, each once, in the order found."""


class Portable(Protocol):
    """A reference or a handle: travels inside values and is listed beside them."""

    def __actorlite_export__(self, scope: ExportScope) -> tuple[Any, ...]:
        """Return a reduce value: a function of the importing side with its arguments.

        That function finds the receiving runtime with `current_import()`.
        """
        ...


class _ImportState(threading.local):
    scope: object = None


_importing = _ImportState()


def current_import() -> Any:
    """The scope given to the innermost running `decode` or `importing` of this thread; None outside."""
    return _importing.scope


@contextmanager
def importing(scope: object) -> Iterator[None]:
    """Make `scope` what `current_import()` returns in this thread; nests."""
    outer = _importing.scope
    _importing.scope = scope
    try:
        yield
    finally:
        _importing.scope = outer


def loads(data: Any, buffers: Any = None, scope: object = None) -> Any:
    """`pickle.loads` under `importing(scope)`; without a scope the surrounding one stays."""
    if scope is None:
        return pickle.loads(data, buffers=buffers)
    outer = _importing.scope
    _importing.scope = scope
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        _importing.scope = outer


class Chunks(list[bytes]):
    """The file that a pickler writes to: a list of what was written."""

    __slots__ = ()
    write = list.append

    def take(self) -> bytes:
        """Everything written so far as one object, and start over."""
        data = self[0] if len(self) == 1 else b"".join(self)
        self.clear()
        return data


class Pickler(_cloudpickle.Pickler):  # type: ignore[misc]
    """One dump at a time: not re-entrant, not thread-safe. `reset` makes it ready for the next value."""

    # A plain dict is looked up in C; cloudpickle's own table is consulted in reducer_override.
    dispatch_table = copyreg.dispatch_table
    dump = pickle.Pickler.dump

    def __init__(self, file: Any, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None) -> None:
        super().__init__(file, PROTOCOL, buffer_callback)
        self.scope = ExportScope()

    def reset(self) -> None:
        """Forget the last value, so that nothing of it stays alive."""
        self.clear_memo()
        if self.globals_ref:
            self.globals_ref.clear()

    def reducer_override(self, obj: Any) -> Any:
        cls = type(obj)
        if cls is types.FunctionType:
            return self._function_reduce(obj)
        if issubclass(cls, type):
            return _reduce_class(obj)
        export = getattr(cls, "__actorlite_export__", None)
        if export is not None:
            reduced = export(obj, self.scope)
            self.scope.handles.append(obj)
            return reduced
        reducer = REDUCERS.get(cls)
        if reducer is not None:
            return reducer(obj)
        if getattr(cls, "__module__", None) in UNMET:
            meet(cls.__module__)
            return reduce_special(obj)
        return NotImplemented

    def _function_reduce(self, obj: Any) -> Any:
        bound = bound_object(obj.__module__, obj.__qualname__, obj)
        if bound is obj:
            return NotImplemented
        if is_missing(bound):
            return self._dynamic_function_reduce(obj)
        return load_global, (obj.__module__, obj.__qualname__)


def reduce_special(obj: object) -> Any:
    """The reduce value of a type that is not left to plain pickle, such as a cell; else NotImplemented."""
    reducer = REDUCERS.get(type(obj))
    return NotImplemented if reducer is None else reducer(obj)


def meet(module_name: str) -> None:
    """Install what `handlers` has for types of a module, of which the first is met. Idempotent."""
    for cls, reducer in reducers_of(module_name).items():
        REDUCERS.setdefault(cls, reducer)
    UNMET.pop(module_name, None)


def global_names(code: types.CodeType) -> Iterable[str]:
    """The globals that a function by value takes along."""
    names: Iterable[str] = _cloudpickle._extract_code_globals(code)
    return names


def by_reference(code: type | types.FunctionType) -> bool:
    """True when a function or class goes by name."""
    return not is_missing(bound_object(code.__module__, code.__qualname__, code))


_unfilled: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes made by `_make_class` whose body has not arrived yet."""


def _reduce_class(cls: type) -> Any:
    bound = bound_object(cls.__module__, cls.__qualname__, cls)
    if bound is cls:
        return NotImplemented
    if not is_missing(bound):
        return load_global, (cls.__module__, cls.__qualname__)
    if cls in _SINGLETON_TYPES or cls in _cloudpickle._BUILTIN_TYPE_NAMES:
        return _cloudpickle._class_reduce(cls)
    if not cls.__flags__ & _HEAP_TYPE:
        return NotImplemented  # a C type cannot be taken apart; the pickler's own error is the clearest
    make, args, state, *_ = _cloudpickle._dynamic_class_reduce(cls)
    return _make_class, (make, *args), state, None, None, _fill_class


_SINGLETON_TYPES = (type(None), type(Ellipsis), type(NotImplemented))


def _make_class(make: Callable[..., type], *args: Any) -> type:
    identity = args[-2]
    with _cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
        known = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(identity)
    if known is not None:
        return cast(type, known)
    cls = make(*args)
    _unfilled.add(cls)
    return cls


def _fill_class(cls: type, state: Any) -> None:
    if cls in _unfilled:
        _cloudpickle._class_setstate(cls, state)
        # Only now: a thread that met the unfinished class meanwhile fills it as well, with the same.
        _unfilled.discard(cls)


def _reduce_code(code: types.CodeType) -> Any:
    """With its file name, which cloudpickle 3.1.3 leaves out: a remote traceback shows the user's source lines."""
    make, args, *rest = _cloudpickle._code_reduce(code)
    return make, tuple([code.co_filename if arg == "<dynamic-code>" else arg for arg in args]), *rest


def _reduce_module(module: types.ModuleType) -> Any:
    name = module.__name__
    if sys.modules.get(name) is module and (name == "__main__" or module_importable(name)):
        return _cloudpickle.subimport, (name,)
    state = {key: value for key, value in vars(module).items() if key not in _MODULE_INTERNALS}
    return _cloudpickle.dynamic_subimport, (name, state)


_MODULE_INTERNALS = frozenset({"__builtins__", "__loader__", "__spec__", "__cached__"})


def _reduce_typevar(var: Any) -> Any:
    if not is_missing(bound_object(var.__module__, var.__name__, var)):
        return var.__name__
    return _cloudpickle._make_typevar, _cloudpickle._decompose_typevar(var)


def _reduce_parameters(var: Any) -> Any:
    if not is_missing(bound_object(var.__module__, var.__name__, var)):
        return var.__name__
    return type(var), (var.__name__,)


def _reduce_newtype(new: Any) -> Any:
    if not is_missing(bound_object(new.__module__, new.__qualname__, new)):
        return new.__qualname__
    return _make_newtype, (new.__name__, new.__qualname__, new.__module__, new.__supertype__)


def _make_newtype(name: str, qualname: str, module: str, supertype: Any) -> Any:
    make: Any = typing.NewType
    new = make(name, supertype)
    new.__qualname__ = qualname
    new.__module__ = module
    return new


_CASTABLE = frozenset("bBhHiIlLqQnNfd?c")


def _reduce_memoryview(view: memoryview) -> Any:
    buffer = pickle.PickleBuffer(view if view.c_contiguous else view.tobytes())
    plain = view.format == "B" and view.ndim == 1
    if plain or view.format not in _CASTABLE or not view.shape or 0 in view.shape:
        return _make_view, (buffer,)
    return _make_view, (buffer, view.format, view.shape)


def _make_view(buffer: Any, view_format: str = "", shape: tuple[int, ...] = ()) -> memoryview:
    view = memoryview(buffer).toreadonly()
    if view.ndim != 1 or view.format != "B":
        view = view.cast("B")
    return view.cast(view_format, shape) if view_format else view  # type: ignore[call-overload]


REDUCERS: dict[type, Callable[[Any], Any]] = {
    **_cloudpickle.Pickler._dispatch_table,
    types.CodeType: _reduce_code,
    types.ModuleType: _reduce_module,
    memoryview: _reduce_memoryview,
    ContextVar: reduce_variable,
    typing.TypeVar: _reduce_typevar,
    typing.ParamSpec: _reduce_parameters,
    typing.TypeVarTuple: _reduce_parameters,
    typing.NewType: _reduce_newtype,
}
"""By exact type. What `register_serializer` was told is in it as well."""
