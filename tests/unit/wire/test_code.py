"""Code goes by name exactly when somebody else can import it, and works on the other side either way."""

from __future__ import annotations

import importlib
import importlib.util
import os.path
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import numpy as np
import pytest

from actorlite.errors import SerializationError
from actorlite.wire import code as code_module
from actorlite.wire.code import CodeBlob, decode_code, encode_code, importable
from actorlite.wire.importable import module_importable
from actorlite.wire.serialize import ExportScope, current_import

WRAPPER = """
class Remote:
    __actorlite_remote__ = True
    def __init__(self, function):
        self.__wrapped__ = function
    def __call__(self, *args):
        return self.__wrapped__(*args)
    def __reduce__(self):
        return _empty, (), vars(self)
def _empty():
    return Remote.__new__(Remote)
"""

SOURCE = (
    WRAPPER
    + """
import functools
limit = 10
def plain(x):
    return x + limit
@Remote
def wrapped(x):
    return x + 1
@Remote
def countdown(n):
    return [n] if n == 0 else [n, *countdown(n - 1)]
@Remote
def even(n):
    return True if n == 0 else odd(n - 1)
@Remote
def odd(n):
    return False if n == 0 else even(n - 1)
class Outer:
    class Inner:
        def value(self):
            return limit
anonymous = lambda: limit
def make():
    def local():
        return limit
    return local
def replaced():
    return "old"
original = replaced
def replaced():
    return "new"
@functools.cache
def cached():
    return limit
"""
)


def forget(*names: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        del sys.modules[name]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module in a package that anybody with this `sys.path` can import."""
    package = tmp_path / "installed_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inside.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("installed_package.inside")
    forget("installed_package")


@pytest.fixture
def by_path(tmp_path: Path) -> Iterator[types.ModuleType]:
    """A module loaded from a file off `sys.path`, as pytest's importlib mode does."""
    file = tmp_path / "loaded_by_path.py"
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("loaded_by_path", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loaded_by_path"] = module
    spec.loader.exec_module(module)
    yield module
    forget("loaded_by_path")


@pytest.mark.parametrize(
    "name",
    [
        "builtins", "sys", "os", "os.path", "collections.abc", "json.decoder", "xml.etree.ElementTree", "_thread",
        "importlib._bootstrap", "numpy", "numpy.linalg", "msgspec", "cloudpickle.cloudpickle", "actorlite.wire.code",
    ],
)  # fmt: skip
def test_modules_that_anybody_can_import(name: str) -> None:
    importlib.import_module(name)
    assert module_importable(name)


def test_modules_that_only_this_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("made_here", "made_here.child"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        assert not module_importable(name)
    assert not module_importable("__main__")
    assert not module_importable("never_imported_at_all")
    monkeypatch.setitem(sys.modules, "__mp_main__", os)
    assert not module_importable("__mp_main__")


def test_importable_module(installed: types.ModuleType) -> None:
    name = installed.__name__
    assert importable(name, "plain", installed.plain)
    assert importable(name, "Outer.Inner", installed.Outer.Inner)
    assert importable(name, "wrapped", installed.wrapped.__wrapped__)
    assert importable(name, "wrapped", installed.wrapped)
    assert not importable(name, "make.<locals>.local", installed.make())
    assert not importable(name, "<lambda>", installed.anonymous)
    assert not importable(name, "replaced", installed.original)
    assert not importable(None, "plain", installed.plain)
    # functools.cache is no @remote: importing the name would give the wrapper.
    assert not importable(name, "cached", installed.cached.__wrapped__)


def test_module_loaded_by_path_is_not_importable(by_path: types.ModuleType) -> None:
    assert not importable("loaded_by_path", "plain", by_path.plain)


def test_the_verdict_is_for_one_module_object(
    by_path: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not module_importable("loaded_by_path")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget("loaded_by_path")
    importlib.import_module("loaded_by_path")
    assert module_importable("loaded_by_path")


def test_another_file_under_the_same_name_does_not_count(
    by_path: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "first_on_the_path"
    other.mkdir()
    (other / "loaded_by_path.py").write_text("plain = None\n")
    monkeypatch.syspath_prepend(str(other))
    assert not module_importable("loaded_by_path")


def test_a_namespace_package_and_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spacious" / "deep").mkdir(parents=True)
    (tmp_path / "spacious" / "deep" / "leaf.py").write_text("def f(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    leaf = importlib.import_module("spacious.deep.leaf")
    assert module_importable("spacious")
    assert importable("spacious.deep.leaf", "f", leaf.f)
    forget("spacious")


def test_a_finder_of_an_editable_install_is_asked(
    tmp_path: Path, installed: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "editable").mkdir()
    file = tmp_path / "editable" / "elsewhere.py"
    file.write_text("def f(): return 1\n")

    class Finder:
        __module__ = installed.__name__

        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> Any:
            return importlib.util.spec_from_file_location(name, file) if name == "elsewhere" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    importlib.import_module("elsewhere")
    assert module_importable("elsewhere")
    forget("elsewhere")
    # The same finder, defined in a script: workers do not have it.
    Finder.__module__ = "__main__"
    importlib.import_module("elsewhere")
    assert not module_importable("elsewhere")
    forget("elsewhere")


def test_by_value_on_request(installed: types.ModuleType) -> None:
    cloudpickle.register_pickle_by_value(installed)
    try:
        assert encode_code(installed.plain).by_value
    finally:
        cloudpickle.unregister_pickle_by_value(installed)
    assert not encode_code(installed.plain).by_value


def test_a_name_leads_to_the_code_itself(installed: types.ModuleType) -> None:
    for code in (installed.plain, installed.Outer.Inner, installed.wrapped.__wrapped__):
        blob = encode_code(code)
        assert not blob.by_value
        assert len(blob.data) < 100
        assert decode_code(blob.data) is code
    assert encode_code(installed.plain).name == "installed_package.inside.plain"


def test_the_receiver_imports_the_module(installed: types.ModuleType) -> None:
    blob = encode_code(installed.wrapped.__wrapped__)
    forget("installed_package")
    there = decode_code(memoryview(blob.data))
    assert there(1) == 2
    assert there is not installed.wrapped.__wrapped__


def test_a_receiver_without_the_module_says_what_was_tried(installed: types.ModuleType) -> None:
    blob = encode_code(installed.plain)
    forget("installed_package")
    sys.path.pop(0)
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="installed_package") as caught:
        decode_code(blob.data)
    assert "importable in the worker" in caught.value.__notes__[0]


def test_functions_and_classes_by_value(by_path: types.ModuleType) -> None:
    local, lambda_, plain, inner = (
        encode_code(code) for code in (by_path.make(), by_path.anonymous, by_path.plain, by_path.Outer.Inner)
    )
    forget("loaded_by_path")
    assert decode_code(local.data)() == 10
    assert decode_code(lambda_.data)() == 10
    assert decode_code(plain.data)(1) == 11
    assert decode_code(inner.data) is by_path.Outer.Inner
    assert plain.by_value


def test_globals_are_those_of_encoding_time(by_path: types.ModuleType) -> None:
    blob = encode_code(by_path.plain)
    by_path.limit = 99
    assert decode_code(blob.data)(1) == 11
    assert by_path.plain(1) == 100


def test_remote_functions_that_call_themselves_and_each_other(by_path: types.ModuleType) -> None:
    countdown, even = (encode_code(by_path.countdown.__wrapped__), encode_code(by_path.even.__wrapped__))
    forget("loaded_by_path")
    assert decode_code(countdown.data)(3) == [3, 2, 1, 0]
    assert decode_code(even.data)(7) is False


def test_equal_code_has_an_equal_digest(by_path: types.ModuleType) -> None:
    blob = encode_code(by_path.plain)
    assert len(blob.digest) == 16
    assert encode_code(by_path.plain).digest == blob.digest
    by_path.limit = 11
    assert encode_code(by_path.plain).digest != blob.digest


class Reference:
    def __actorlite_export__(self, scope: ExportScope) -> tuple[Any, ...]:
        return current_import, ()


def test_captured_references_are_listed(by_path: types.ModuleType) -> None:
    reference = Reference()
    blob = encode_code(lambda: reference)
    assert list(blob.handles) == [reference]
    assert decode_code(blob.data, "here")() == "here"


def test_a_captured_lock_is_named(by_path: types.ModuleType) -> None:
    lock = threading.Lock()

    def job() -> object:
        return lock

    with pytest.raises(SerializationError) as caught:
        encode_code(job)
    assert caught.value.path == "job.<closure> lock"
    assert f"could not serialize {__name__}.test_a_captured_lock_is_named.<locals>.job" in str(caught.value)


def test_large_code_is_flagged_and_very_large_code_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.zeros(200_000)

    def heavy() -> Any:
        return data

    assert not encode_code(heavy).is_large
    monkeypatch.setattr(code_module, "WARN_BYTES", 1_000_000)
    assert encode_code(heavy).is_large
    monkeypatch.setattr(code_module, "ERROR_BYTES", 1_500_000)
    with pytest.raises(ValueError, match=r"heavy is 2 MiB when serialized, the limit is 1 MiB"):
        encode_code(heavy)


def test_unknown_form_is_refused() -> None:
    with pytest.raises(Exception, match="unknown form of code"):
        decode_code(b"?what")


def test_a_blob_is_a_plain_value() -> None:
    blob = encode_code(os.path.join)
    assert msgspec.structs.replace(blob, name="other").data == blob.data
    with pytest.raises(AttributeError):
        blob.name = "changed"  # type: ignore[misc]
    assert isinstance(blob, CodeBlob)


def test_a_script_sends_its_code_to_another_interpreter(tmp_path: Path) -> None:
    """The one test with real processes: what is in `__main__` here is not in `__main__` there."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from dataclasses import dataclass\n"
        "from actorlite.wire.code import encode_code\n"
        "@dataclass\n"
        "class Item:\n"
        "    n: int\n"
        "def job(n):\n"
        "    return Item(n + offset)\n"
        "offset = 5\n"
        "sys.stdout.buffer.write(encode_code(job).data)\n"
    )
    blob = subprocess.run([sys.executable, script], env=environment(), check=True, capture_output=True).stdout
    receiver = "import sys; from actorlite.wire.code import decode_code; print(decode_code(sys.stdin.buffer.read())(1))"
    result = subprocess.run(
        [sys.executable, "-c", receiver], env=environment(), check=True, capture_output=True, input=blob
    )
    assert result.stdout.decode().strip() == "Item(n=6)"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
