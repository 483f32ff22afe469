"""An exception arrives as the user's own type, with one note, whatever its class does."""

from __future__ import annotations

import asyncio
import builtins
import gc
import pickle
import sys
import threading
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actorlite.errors import ActorDiedError, ActorliteError, Outcome, SerializationError, TaskError
from actorlite.wire.failures import MAX_HOPS, decode_failure, describe_failure, encode_failure
from actorlite.wire.serialize import ExportScope, decode, encode

HERE = "task parse() in worker pid 17"


def raised(make: Callable[[], BaseException]) -> BaseException:
    try:
        raise make()
    except BaseException as error:
        return error


def carry(error: BaseException, where: str = HERE) -> BaseException:
    return decode_failure(encode_failure(error, where))


def note_of(error: BaseException) -> str:
    (note,) = error.__notes__
    return str(note)


class Plain(Exception):
    pass


class Formatting(Exception):
    """Would be formatted twice by its own `__init__`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class TwoArguments(Exception):
    """Cannot be unpickled: `__init__` wants more than `args` holds."""

    def __init__(self, path: str, *, line: int) -> None:
        super().__init__(f"{path}:{line}")
        self.path = path
        self.line = line


class Unpicklable(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message, threading.Lock())
        self.lock = threading.Lock()
        self.detail = {"kept": [1]}


class OwnReduce(Exception):
    def __init__(self, left: int, right: int) -> None:
        super().__init__("sum", left + right)
        self.parts = (left, right)

    def __reduce__(self) -> Any:
        return OwnReduce, self.parts


class Strange(OSError):
    def __new__(cls, *args: Any) -> Strange:
        if len(args) != 3:
            raise RuntimeError("three, please")
        return super().__new__(cls, *args)

    def __init__(self, number: int, text: str, extra: str) -> None:
        OSError.__init__(self, number, text)
        self.extra = extra


class Slotted(Exception):
    __slots__ = ("lock", "position")

    def __init__(self, position: int, *, lock: object) -> None:
        super().__init__("slotted")
        self.position = position
        self.lock = lock


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@dataclass(frozen=True)
class Frozen(Exception):
    reason: str


def test_the_users_own_type_arrives() -> None:
    error = carry(raised(lambda: Plain("bad", 3, {"k": [1]})))
    assert type(error) is Plain
    assert error.args == ("bad", 3, {"k": [1]})
    with pytest.raises(Plain, match="bad"):
        raise error


@pytest.mark.parametrize(
    "original",
    [
        KeyError("k"),
        FileNotFoundError(2, "No such file", "a.txt"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
        ImportError("no", name="n", path="p"),
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError("msg"),
        ActorDiedError("gone", actor_init_failed=True, outcome=Outcome.EXECUTED),
        SerializationError("no", path="a.b", outcome=Outcome.UNKNOWN),
        TaskError("t", type_name="x.Y", traceback_text="..."),
        OwnReduce(1, 2),
        Frozen("cold"),
        Plain(float("nan")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_fields_survive(original: BaseException) -> None:
    error = carry(original)
    assert type(error) is type(original)
    assert repr(error.args) == repr(original.args)
    fields = ("errno", "filename", "object", "name", "path", "code", "outcome", "actor_init_failed", "type_name")
    for field in (*fields, "traceback_text", "parts", "reason"):
        assert getattr(error, field, None) == getattr(original, field, None)
    assert HERE in note_of(error)


def test_custom_constructors() -> None:
    formatted = carry(Formatting(5))
    assert isinstance(formatted, Formatting)
    assert (str(formatted), formatted.code) == ("code 5", 5)
    error = carry(TwoArguments("a.py", line=7))
    assert isinstance(error, TwoArguments)
    assert (str(error), error.path, error.line) == ("a.py:7", "a.py", 7)
    strange = carry(Strange(2, "odd", "more"))
    assert isinstance(strange, Strange)
    assert (strange.errno, strange.strerror, strange.extra, strange.args) == (2, "odd", "more", (2, "odd"))


def test_members_that_cannot_travel_become_text() -> None:
    error = carry(raised(lambda: Unpicklable("why")))
    assert isinstance(error, Unpicklable)
    assert error.args[0] == "why"
    assert "_thread.lock" in error.args[1]
    assert "_thread.lock" in error.lock  # type: ignore[operator]
    assert error.detail == {"kept": [1]}
    slotted = carry(Slotted(4, lock=threading.Lock()))
    assert isinstance(slotted, Slotted)
    assert slotted.position == 4
    assert "_thread.lock" in slotted.lock  # type: ignore[operator]


class Reference:
    def __actorlite_export__(self, scope: ExportScope) -> tuple[Any, ...]:
        raise AssertionError("nobody would release it")

    def __repr__(self) -> str:
        return "<reference 5>"


def test_references_do_not_travel_in_exceptions() -> None:
    error = carry(Plain("lost", Reference()))
    assert type(error) is Plain
    assert error.args == ("lost", "<reference 5>")


def test_a_class_that_cannot_travel_becomes_a_task_error() -> None:
    lock = threading.Lock()

    class Local(Exception):
        held = lock

    error = carry(raised(lambda: Local("text", 2)))
    assert isinstance(error, TaskError)
    assert error.outcome is Outcome.EXECUTED
    assert error.type_name.endswith("Local")
    assert "Local('text', 2)" in str(error)
    assert "return error" not in error.traceback_text
    assert "raise make()" in error.traceback_text
    assert HERE in note_of(error)


def test_a_local_class_is_the_same_class_at_home() -> None:
    class Local(Exception):
        pass

    assert type(carry(Local(1))) is Local


def test_a_receiver_that_lacks_the_module_still_shows_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "only_there.py").write_text("class Theirs(Exception): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__("only_there")
    data = encode_failure(raised(lambda: module.Theirs("x", 1)), HERE)
    del sys.modules["only_there"]
    sys.path.remove(str(tmp_path))
    error = decode_failure(data)
    assert isinstance(error, TaskError)
    assert str(error) == "only_there.Theirs('x', 1)"
    assert "raise make()" in note_of(error)
    assert describe_failure(data) == "only_there.Theirs('x', 1)"


def test_str_and_repr_may_raise() -> None:
    error = carry(raised(lambda: Silent("quiet")))
    assert type(error) is Silent
    assert error.args == ("quiet",)
    text = carry(raised(lambda: Plain(Silent())))
    assert type(text) is Plain


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_stop_iteration_becomes_a_runtime_error(kind: type[Exception]) -> None:
    error = carry(raised(lambda: kind(5)))
    assert type(error) is RuntimeError
    assert str(error) == f"{HERE} raised {kind.__name__}"
    assert f"{kind.__name__}: 5" in note_of(error)


def user_code(value: int) -> float:
    return 1 / value


def test_the_traceback_is_the_users() -> None:
    module = types.ModuleType("actorlite.worker.executor")
    exec(compile("def run(f, x):\n    return f(x)\n", "executor.py", "exec"), vars(module))
    try:
        module.run(user_code, 0)
    except ZeroDivisionError as caught:
        error = carry(caught)
    lines = note_of(error).splitlines()
    assert lines[0] == "Remote traceback (most recent call last):"
    assert "return 1 / value" in note_of(error)
    assert "executor.py" not in note_of(error)
    assert lines[-2:] == ["ZeroDivisionError: division by zero", f"raised in {HERE}"]


def test_causes_and_contexts_are_in_the_text() -> None:
    def fail() -> None:
        try:
            user_code(0)
        except ZeroDivisionError as error:
            raise Plain("above") from error

    with pytest.raises(Plain) as caught:
        fail()
    note = note_of(carry(caught.value))
    assert "division by zero" in note
    assert "direct cause" in note
    assert note.count("Remote traceback") == 2


def test_each_process_adds_one_line() -> None:
    error = carry(raised(lambda: Plain("deep")), "task inner() in worker pid 1")
    for where in ("task middle() in worker pid 2", "actor Outer.run() in worker pid 3"):
        error = carry(raised(lambda: error), where)  # noqa: B023  # called at once
    lines = note_of(error).splitlines()
    assert lines[-3:] == [
        "raised in task inner() in worker pid 1",
        "  via task middle() in worker pid 2",
        "  via actor Outer.run() in worker pid 3",
    ]
    assert note_of(error).count("Remote traceback") == 1
    assert vars(error).keys() <= {"__notes__", "__actorlite_failure__"}


def test_hops_are_bounded() -> None:
    error: BaseException = Plain()
    for number in range(MAX_HOPS * 2):
        error = carry(error, f"hop {number}")
    lines = note_of(error).splitlines()
    assert len(lines) < MAX_HOPS + 5
    assert "raised in hop 0" in lines
    assert f"  via hop {MAX_HOPS * 2 - 1}" in lines


def test_notes_of_the_user_stay() -> None:
    original = Plain("noted")
    original.add_note("mine")
    twice = carry(carry(original), "again")
    assert twice.__notes__[0] == "mine"
    assert len(twice.__notes__) == 2
    assert original.__notes__ == ["mine"]


def test_a_task_error_keeps_its_story_on_the_next_hop() -> None:
    lock = threading.Lock()

    class Local(Exception):
        held = lock

    twice = carry(carry(raised(lambda: Local("text"))), "next")
    assert isinstance(twice, TaskError)
    assert note_of(twice).splitlines()[-2:] == [f"raised in {HERE}", "  via next"]
    assert "raise make()" in twice.traceback_text


def test_a_carried_exception_can_be_pickled_as_a_value() -> None:
    error = carry(raised(lambda: Plain("value")))
    encoded = encode({"error": error})
    for copy in (decode(encoded.kind, encoded.data, encoded.buffers)["error"], pickle.loads(pickle.dumps(error))):
        assert type(copy) is Plain
        assert HERE in note_of(copy)
        assert copy.__actorlite_failure__ is None
        # Raised again, it starts a story of its own; the note that it had is now one of its contents.
        old, new = carry(copy, "elsewhere").__notes__
        assert old == note_of(error)
        assert new.endswith("raised in elsewhere")


def test_exception_groups() -> None:
    group = ExceptionGroup("several", [Plain(1), ExceptionGroup("inner", [TwoArguments("a", line=1), KeyError("k")])])
    error = carry(raised(lambda: group))
    assert isinstance(error, ExceptionGroup)
    assert error.message == "several"
    first, inner = error.exceptions
    assert type(first) is Plain
    assert isinstance(inner, ExceptionGroup)
    assert [type(member) for member in inner.exceptions] == [TwoArguments, KeyError]
    assert "KeyError: 'k'" in note_of(error)
    matched, rest = error.split(KeyError)
    assert matched is not None and rest is not None


class OwnGroup(ExceptionGroup[Exception]):
    def derive(self, members: Any) -> OwnGroup:
        return OwnGroup(self.message, members)


def test_groups_of_the_users_own_and_members_that_do_not_travel() -> None:
    lock = threading.Lock()

    class Local(Exception):
        held = lock

    own = OwnGroup("mine", [Local("a"), Plain("b")])
    own.detail = 5  # type: ignore[attr-defined]
    error = carry(own)
    assert type(error) is OwnGroup
    assert vars(error)["detail"] == 5
    assert [type(member) for member in error.exceptions] == [TaskError, Plain]


def test_carried_members_of_a_group_keep_their_story() -> None:
    members = [carry(raised(lambda: Plain("a")), "task a"), carry(Plain("b"), "task b")]
    error = carry(ExceptionGroup("gathered", members), "task outer")  # type: ignore[type-var]
    assert isinstance(error, ExceptionGroup)
    assert [note_of(member).splitlines()[-1] for member in error.exceptions] == [
        "raised in task a",
        "raised in task b",
    ]


def test_a_base_exception_group() -> None:
    error = carry(BaseExceptionGroup("stop", [KeyboardInterrupt()]))
    assert type(error) is BaseExceptionGroup


def test_sizes_are_bounded() -> None:
    lock = threading.Lock()

    class Local(Exception):
        held = lock

    error = carry(Local("é" * 100_000))
    assert isinstance(error, TaskError)
    assert len(str(error).encode()) < 3000

    def recurse(depth: int) -> None:
        exec(compile(f"def f_{depth}(g, n):\n    g(n)\n", f"{'long' * 20}_{depth}.py", "exec"), namespace := {})
        if depth == 0:
            raise Plain("deep" * 20_000)
        namespace[f"f_{depth}"](recurse, depth - 1)

    with pytest.raises(Plain) as caught:
        recurse(200)
    note = note_of(carry(caught.value))
    assert len(note.encode()) < 70_000
    assert "... shortened ..." in note


def test_surrogates_survive_as_escapes() -> None:
    error = carry(Plain("\ud800"))
    assert error.args == ("\ud800",)


class Vandal(Exception):
    """Fails wherever it is touched."""

    def __init__(self) -> None:
        super().__init__("vandal")
        object.__setattr__(self, "lock", threading.Lock())

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(name)

    def __reduce_ex__(self, protocol: object) -> Any:
        raise RuntimeError("reduce")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    __hash__ = Exception.__hash__


def test_a_hostile_exception_arrives() -> None:
    error = carry(raised(Vandal))
    assert type(error) is Vandal
    assert HERE in "".join(map(str, vars(error)["__notes__"]))


def every_error() -> list[type[BaseException]]:
    return [
        cls
        for cls in vars(builtins).values()
        if isinstance(cls, type) and issubclass(cls, Exception) and not issubclass(cls, BaseExceptionGroup | Warning)
    ]


@pytest.mark.parametrize("cls", every_error(), ids=lambda cls: cls.__name__)
def test_every_builtin_exception(cls: type[BaseException]) -> None:
    arguments: tuple[Any, ...] = ("text",)
    if cls in (UnicodeDecodeError, UnicodeEncodeError):
        arguments = ("utf-8", b"\xff" if cls is UnicodeDecodeError else "x", 0, 1, "reason")
    elif cls is UnicodeTranslateError:
        arguments = ("x", 0, 1, "reason")
    error = carry(cls(*arguments))
    assert error.args == arguments or issubclass(cls, StopIteration | StopAsyncIteration)


def test_every_actorlite_error() -> None:
    pending = [ActorliteError]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if cls.__module__ == "actorlite.errors":
            sent = cls("text")
            error = carry(sent)
            assert isinstance(error, ActorliteError)
            assert (type(error), str(error), error.outcome) == (type(sent), "text", sent.outcome)


def test_printing_a_carried_exception_shows_the_note() -> None:
    text = "".join(traceback.format_exception(carry(raised(lambda: Plain("shown")))))
    assert "Remote traceback" in text
    assert f"raised in {HERE}" in text


def test_encoding_leaves_no_garbage_behind() -> None:
    class Local(Exception):
        pass

    carry(raised(lambda: Local("x")))
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found) is Local]
