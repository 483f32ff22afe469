"""The path leads to the member that is at fault, whatever it is hidden in."""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections import deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from actorlite.errors import SerializationError
from actorlite.wire.explain import MAX_OFFENDERS, MAX_TRIALS, Offender, find_offender, inspect_serializability
from actorlite.wire.serialize import encode

LOCK = "cannot pickle '_thread.lock' object"


@dataclass
class Database:
    _lock: Any = field(default_factory=threading.Lock)


@dataclass
class Config:
    db: Any
    name: str = "main"


class Slotted:
    __slots__ = ("fine", "lock")

    def __init__(self) -> None:
        self.fine = 1
        self.lock = threading.Lock()


class Partial:
    """Leaves its own lock out, so that only what it keeps can be at fault."""

    def __init__(self, kept: Any) -> None:
        self.lock = threading.Lock()
        self.kept = kept

    def __getstate__(self) -> dict[str, Any]:
        return {"kept": self.kept}


class Broken:
    def __reduce__(self) -> Any:
        raise ValueError("not today")


class Holder(dict[str, Any]):
    pass


class Wrapped(Exception):
    pass


Pair = namedtuple("Pair", "left right")


def paths(value: object, name: str = "x") -> list[str]:
    return [offender.path for offender in find_offender(value, name)]


def holder() -> Holder:
    made = Holder(good=1)
    made["bad"] = threading.Lock()
    return made


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: threading.Lock(), "x"),
        (lambda: Config(Database()), "x.db._lock"),
        (lambda: [1, (2, {"k": threading.Lock()})], "x[1][1]['k']"),
        (lambda: {1, threading.Lock()}, "x.<item <unlocked _thread.lock object"),
        (lambda: {threading.Lock(): 1}, "x.<key <unlocked _thread.lock object"),
        (lambda: Slotted(), "x.lock"),
        (lambda: Partial([threading.Lock()]), "x.kept[0]"),
        (lambda: Pair(1, threading.Lock()), "x.right"),
        (lambda: holder(), "x['bad']"),
        (lambda: deque([1, threading.Lock()]), "x[1]"),
        (lambda: functools.partial(print, 1, end=threading.Lock()), "x.keywords['end']"),
        (lambda: Wrapped("text", threading.Lock()), "x.<argument 1>"),
        (lambda: Config(Broken()), "x.db"),
        (lambda: Config(Database()).__eq__, "x.__self__.db._lock"),
        (lambda: Config(value for value in "abc"), "x.db"),
    ],
)
def test_the_path(make: Callable[[], object], path: str) -> None:
    value = make()
    (found,) = paths(value)
    assert found == path or found.startswith(path + " at")


def test_an_offender_says_what_and_why() -> None:
    lock = threading.Lock()
    assert find_offender(Config([lock]), "cfg") == [
        Offender(
            "cfg.db[0]",
            "_thread.lock",
            LOCK,
            (
                ("cfg", f"{__name__}.Config"),
                (".db", "builtins.list"),
                ("[0]", "_thread.lock"),
            ),
        )
    ]


def test_what_a_function_captures() -> None:
    db = Database()

    def closure() -> object:
        return db

    def default(using: object = db, *, also: object = None) -> object:
        return using, also

    assert paths(closure, "f") == ["f.<closure> db._lock"]
    assert paths(default, "f") == ["f.<default> using._lock"]
    namespace: dict[str, Any] = {"db": db, "__name__": "nowhere"}
    exec("def uses_global():\n    return [db for _ in range(3)]\n", namespace)
    assert paths(namespace["uses_global"], "f") == ["f.<global> db._lock"]
    closure.cache = db  # type: ignore[attr-defined]
    assert paths([closure], "fs") == ["fs[0].<closure> db._lock"]


def test_what_a_local_class_captures() -> None:
    lock = threading.Lock()

    class Local:
        shared = lock

        @staticmethod
        def method() -> object:
            return lock

    assert paths(Local(), "actor") == ["actor.__class__.shared"]
    del Local.shared
    assert paths(Local, "Local") == ["Local.method.<closure> lock"]


def test_several_offenders_each_once() -> None:
    lock, connection = threading.Lock(), sqlite3.connect(":memory:")
    value = {"a": lock, "b": lock, "c": [connection]}
    assert paths(value) == ["x['a']", "x['c'][0]"]
    connection.close()
    assert len(paths([threading.Lock() for _ in range(50)])) == MAX_OFFENDERS


def test_cycles_end_and_the_root_of_the_evil_is_blamed() -> None:
    parent = Config(None)
    parent.db = [Config(parent), threading.Lock()]
    assert paths(parent) == ["x.db[1]"]
    broken: list[Any] = [Broken()]
    broken.append(broken)
    assert paths(broken) == ["x[0]"]


def test_the_search_is_bounded() -> None:
    value = [[threading.Lock()] if index == 10 * MAX_TRIALS else [index] for index in range(10 * MAX_TRIALS + 1)]
    (found,) = paths(value)
    assert found == "x"


def test_nothing_to_find() -> None:
    assert find_offender({"fine": [1, Config(2)]}) == []


def test_the_report_is_a_readable_tree() -> None:
    report = inspect_serializability({"cfg": Config(Database()), "gen": (i for i in "ab")}, "job")
    assert not report.serializable
    assert str(report).splitlines() == [
        "job cannot be serialized",
        "  job  (builtins.dict)",
        f"    ['cfg']  ({__name__}.Config)",
        f"      .db  ({__name__}.Database)",
        f"        ._lock  (_thread.lock): {LOCK}",
        "          -> leave the lock out in __getstate__ and make a new one in __setstate__",
        "    ['gen']  (builtins.generator): cannot pickle 'generator' object",
        "      -> send a list of its items",
    ]


def test_the_report_of_a_good_value() -> None:
    report = inspect_serializability(Config)
    assert (report.serializable, report.name, report.offenders) == (True, "Config", ())
    assert str(report) == "Config can be serialized"


def test_a_hostile_value_still_gets_a_report() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

        def __reduce__(self) -> Any:
            raise SystemError

        def __hash__(self) -> int:
            return 1

    assert paths({Hostile(): 1}) == ["x.<key <Hostile>>"]
    (offender,) = inspect_serializability([Hostile()]).offenders
    assert offender.reason == "SystemError"


def test_the_raised_error_carries_the_advice() -> None:
    with pytest.raises(SerializationError) as caught:
        encode(Config(Database()), "cfg")
    assert str(caught.value).splitlines() == [
        f"cfg.db._lock: {LOCK}",
        "  leave the lock out in __getstate__ and make a new one in __setstate__",
    ]
