"""Can a worker import this? Decided without importing anything.

Being in `sys.modules` proves nothing: scripts, notebooks and test modules loaded by path are there too and cannot be
imported by name elsewhere. A module counts as importable when the import system, walking from `sys.path` through the
parent packages, finds the very file that the loaded module came from. Workers get the driver's `sys.path`.
"""

from __future__ import annotations

import sys
import weakref
from importlib import import_module
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from cloudpickle import cloudpickle as _untyped  # type: ignore[import-untyped]

_cloudpickle: Any = _untyped
_NEVER = frozenset({"__main__", "__mp_main__"})
_MISSING = object()

_verdicts: dict[str, tuple[weakref.ref[ModuleType], bool]] = {}
"""By module name; an entry holds for one module object only, so that a reloaded module is looked at again."""


def importable(module_name: str | None, qualname: str, obj: object) -> bool:
    """True when a worker that imports `module_name` finds `obj`, or a wrapper of it, under `qualname`."""
    return bound_object(module_name, qualname, obj) is not _MISSING


def is_missing(bound: object) -> bool:
    """True for what `bound_object` returns when it found nothing."""
    return bound is _MISSING


def bound_object(module_name: object, qualname: object, obj: object) -> object:
    """What a worker would find under that name: `obj` itself or a wrapper whose `__wrapped__` is `obj`.

    A wrapper counts when it says `__actorlite_remote__ = True`. `is_missing` tells when there is neither.
    """
    if not isinstance(module_name, str) or not isinstance(qualname, str):
        return _MISSING
    module = sys.modules.get(module_name)
    if module is None:
        return _MISSING
    bound = getattr(module, qualname, _MISSING)
    if bound is _MISSING and "." in qualname:
        bound = _walk(module, qualname)
    if bound is not obj and unwrapped(bound) is not obj:
        return _MISSING
    return bound if module_importable(module_name) else _MISSING


def unwrapped(bound: object) -> object:
    """The function or class behind a module-level `@remote` wrapper; any other object unchanged."""
    try:
        if getattr(bound, "__actorlite_remote__", False) is True:
            return getattr(bound, "__wrapped__", bound)
    except Exception:  # a module attribute may be any object, with any __getattr__
        return bound
    return bound


def load_global(module_name: str, qualname: str) -> object:
    """Import what a sender found importable and return the function or class itself, never its wrapper.

    Raises ImportError or AttributeError with a note that says why the sender did not ship it by value.
    """
    try:
        found: Any = import_module(module_name)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        error.add_note(
            f"{module_name}.{qualname} was sent by name because the sender can import {module_name!r}; "
            "make the same module importable in the worker"
        )
        raise
    return unwrapped(found)


def module_importable(name: str) -> bool:
    """True when `name` is loaded here and importing it in another process would run the same file."""
    module = sys.modules.get(name)
    if module is None or name in _NEVER:
        return False
    entry = _verdicts.get(name)
    if entry is not None and entry[0]() is module:
        known = entry[1]
    else:
        known = _decide(name, module)
        try:
            _verdicts[name] = (weakref.ref(module), known)
        except TypeError:  # some libraries put objects in sys.modules that cannot be weakly referenced
            pass
    return known and not _by_user_request(module)


def _by_user_request(module: ModuleType) -> bool:
    registered = _cloudpickle._PICKLE_BY_VALUE_MODULES
    return bool(registered) and bool(_cloudpickle._is_registered_pickle_by_value(module))


def _walk(module: ModuleType, qualname: str) -> object:
    found: object = module
    for part in qualname.split("."):
        found = getattr(found, part, _MISSING)
        if found is _MISSING:
            break
    return found


def _decide(name: str, module: ModuleType) -> bool:
    if name in sys.builtin_module_names:
        return True
    parent, _, _ = name.rpartition(".")
    real_name = getattr(getattr(module, "__spec__", None), "name", name)
    if real_name != name and sys.modules.get(real_name) is module:
        # `os.path`, `collections.abc`: a second name that importing the parent gives to another module.
        return bool(parent) and module_importable(parent) and module_importable(real_name)
    try:
        spec = _find(name)
    except Exception:  # finders of other people; one that fails here fails in the worker too
        spec = None
    file = getattr(module, "__file__", None)
    if spec is not None:
        return _same_source(spec, file)
    # Without a file it was made by its parent's import: C extensions and lazy packages do this.
    return file is None and bool(parent) and module_importable(parent)


def _find(name: str) -> ModuleSpec | None:
    parent, _, _ = name.rpartition(".")
    path: Any = None
    if parent:
        if not module_importable(parent):
            return None
        path = getattr(sys.modules[parent], "__path__", None)
        if path is None:
            return None
    spec = PathFinder.find_spec(name, path)
    if spec is None and not parent:
        spec = BuiltinImporter.find_spec(name) or FrozenImporter.find_spec(name)
    if spec is not None:
        return spec
    for finder in sys.meta_path:
        # Editable installs put a finder there from a .pth file, which workers run as well. A finder of the
        # program's own is not in the worker, and its module is not importable by name.
        owner = getattr(finder, "__module__", None)
        if finder in (PathFinder, BuiltinImporter, FrozenImporter) or not isinstance(owner, str):
            continue
        if module_importable(owner):
            spec = finder.find_spec(name, path)
            if spec is not None:
                return spec
    return None


def _same_source(spec: ModuleSpec, file: object) -> bool:
    if file is None:
        # Namespace packages have no file; builtin and frozen modules have no location.
        return not spec.has_location
    if not isinstance(file, str):
        return False
    if spec.origin == file:
        return True
    if spec.origin == "frozen":
        return True
    if spec.origin is None or not spec.has_location:
        return False
    try:
        return Path(spec.origin).samefile(file)
    except OSError:
        return False
