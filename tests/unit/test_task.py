from __future__ import annotations

import asyncio
import pickle
import sys
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest

import actorlite as al
from actorlite.context import current_runtime
from actorlite.definitions import CallKind
from actorlite.errors import NoSessionError
from actorlite.options import TaskOptions
from actorlite.wire.serialize import decode, encode


class FakeRuntime:
    """Records what is submitted; `submit` answers at once."""

    closing = False

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], TaskOptions]] = []

    def submit(self, definition: Any, args: Any, kwargs: Any, options: TaskOptions) -> Any:
        self.calls.append((definition, args, dict(kwargs), options))
        return len(self.calls)

    async def submit_in_turn(self, definition: Any, args: Any, kwargs: Any, options: TaskOptions) -> Any:
        return self.submit(definition, args, kwargs, options)

    async def run(self, definition: Any, args: Any, kwargs: Any, options: TaskOptions) -> Any:
        self.submit(definition, args, kwargs, options)
        return definition.function(*args, **kwargs)


class FakeSession:
    def __init__(self) -> None:
        self.runtime: Any = FakeRuntime()


@pytest.fixture
def runtime() -> Iterator[FakeRuntime]:
    fake: Any = FakeRuntime()
    token = current_runtime.set(fake)
    yield fake
    current_runtime.reset(token)


@al.remote
def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


@al.remote(num_cpus=2, name="sum")
async def aadd(a: int, b: int = 0) -> int:
    return a + b


@al.remote
def countdown(n: int) -> Any:
    return countdown.remote(n - 1) if n else 0


def test_remote_submits_to_the_current_runtime(runtime: FakeRuntime) -> None:
    assert add.remote(1, b=2) == 1
    (definition, args, kwargs, options) = runtime.calls[0]
    assert (definition.name, args, kwargs, options) == ("add", (1,), {"b": 2}, TaskOptions())
    assert definition.kind is CallKind.PLAIN


def test_a_coroutine_function_is_a_task_with_its_options(runtime: FakeRuntime) -> None:
    aadd.remote(1)
    definition, *_, options = runtime.calls[0]
    assert definition.kind is CallKind.COROUTINE
    assert (options.num_cpus, options.name) == (2, "sum")


def test_structured_call_and_submit(runtime: FakeRuntime) -> None:
    async def main() -> tuple[int, Any]:
        return await add(1, 2), await add.submit(3)

    assert asyncio.run(main()) == (3, 2)
    assert [call[1] for call in runtime.calls] == [(1, 2), (3,)]


def test_wrong_arguments_fail_at_the_call(runtime: FakeRuntime) -> None:
    wrong: Any = add
    for call in (wrong.remote, wrong):
        with pytest.raises(TypeError, match=r"add\(\) got an unexpected keyword argument 'c'"):
            call(1, c=2)
    assert not runtime.calls


def test_options_replace_and_keep_the_rest(runtime: FakeRuntime) -> None:
    aadd.options(timeout=3).remote(1)
    aadd.options(timeout=3).options(num_cpus=None).remote(1)
    first, second = (call[3] for call in runtime.calls)
    assert (first.num_cpus, first.name, first.timeout) == (2, "sum", 3)
    assert (second.num_cpus, second.name, second.timeout) == (None, "sum", 3)
    assert runtime.calls[0][0] is runtime.calls[1][0]


def test_options_are_checked_when_given() -> None:
    function: Any = add
    with pytest.raises(TypeError, match="did you mean 'num_cpus'"):
        function.options(num_cpu=1)
    with pytest.raises(ValueError, match="max_calls"):
        function.options(max_calls=1)


def test_a_session_is_chosen_per_call(runtime: FakeRuntime) -> None:
    session = FakeSession()
    chosen = add.options(session=session)
    chosen.remote(1)
    chosen.options(timeout=1).remote(2)
    assert not runtime.calls
    assert [call[1] for call in session.runtime.calls] == [(1,), (2,)]


def test_without_a_session_the_error_says_what_to_do() -> None:
    with pytest.raises(NoSessionError, match=r"al\.init\(\)"):
        add.remote(1)


def test_looks_like_the_function() -> None:
    assert (add.__name__, add.__doc__, add.__module__) == ("add", "Add two numbers.", __name__)
    assert add.__wrapped__(1, 2) == 3
    assert repr(add) == f"<remote function {__name__}.add>"


def test_generator_functions_stream_unless_a_number_of_values_is_asked_for() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def anumbers() -> AsyncIterator[int]:
        yield 1

    remote: Any = al.remote
    for function in (numbers, anumbers):
        generator = remote(function)
        assert isinstance(generator, al.RemoteGenerator)
        assert isinstance(generator(), al.ValueStream)
        assert isinstance(generator.options(stream_window=3, num_returns="streaming"), al.RemoteGenerator)
        assert isinstance(remote(num_returns="streaming")(function), al.RemoteGenerator)
        many = generator.options(num_returns=2)
        assert isinstance(many, al.RemoteFunction)
        assert isinstance(many.options(num_returns=1), al.RemoteGenerator)
        with pytest.raises(TypeError, match="is remote already"):
            remote(generator)


def test_options_of_a_stream_need_a_generator() -> None:
    remote: Any = al.remote
    with pytest.raises(ValueError, match=r"num_returns='streaming' needs a generator, and add\(\) is none"):
        remote(num_returns="streaming")(add.__wrapped__)
    with pytest.raises(ValueError, match="stream_window=2 needs a generator"):
        cast(Any, add).options(stream_window=2)
    with pytest.raises(ValueError, match="'dynamic' is not supported: a generator streams"):
        remote(num_returns="dynamic")(add.__wrapped__)


@pytest.mark.parametrize("target", [3, "name", print.__self__, lambda: 0], ids=["int", "str", "module", "lambda"])
def test_targets(target: Any) -> None:
    if callable(target):
        assert isinstance(al.remote(target), al.RemoteFunction)
    else:
        with pytest.raises(TypeError, match="function or a class"):
            al.remote(target)


def test_wrong_spellings_of_the_decorator() -> None:
    remote: Any = al.remote
    for arguments, options in [((), {}), ((print, print), {}), ((print,), {"num_cpus": 1})]:
        with pytest.raises(TypeError, match="without parentheses"):
            remote(*arguments, **options)
    with pytest.raises(TypeError, match="is remote already"):
        remote(add)
    with pytest.raises(TypeError, match="did you mean 'num_cpus'"):
        remote(num_cpu=1)(lambda: 0)


def travel(value: Any) -> Any:
    encoded = encode(value)
    return decode(encoded.kind, encoded.data, encoded.buffers)


def test_a_function_of_an_importable_module_travels_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    source = "import actorlite as al\n@al.remote\ndef double(x):\n    return 2 * x\n"
    (tmp_path / "importable_for_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        from importable_for_test import double
    finally:
        module = sys.modules.get("importable_for_test")
    assert pickle.loads(pickle.dumps(double)) is double
    again = pickle.loads(pickle.dumps(double.options(num_cpus=2)))
    assert (again._definition, again._options.num_cpus) == (double._definition, 2)
    assert module is not None
    monkeypatch.delitem(sys.modules, "importable_for_test")


def test_a_function_elsewhere_travels_by_value_and_may_name_itself(runtime: FakeRuntime) -> None:
    module = types.ModuleType("not_importable")
    exec(
        "import actorlite as al\n"
        "@al.remote(num_cpus=3)\n"
        "def down(n):\n    return down.remote(n - 1) if n else 'end'\n"
        "other = down.options(timeout=5)\n",
        vars(module),
    )
    again = travel([module.down, module.other])
    down, other = again
    assert down is not module.down
    assert down.__wrapped__.__globals__["down"] is down
    assert other._definition is down._definition
    assert (down._options.num_cpus, other._options.timeout) == (3, 5)
    down.__wrapped__(2)
    assert runtime.calls[-1][0] is down._definition
    assert down.__name__ == "down"


def test_a_session_does_not_travel(runtime: FakeRuntime) -> None:
    local = 5

    @al.remote
    def closure() -> int:
        return local

    again = travel(closure.options(session=FakeSession(), timeout=2))
    again.remote()
    assert runtime.calls[0][3].timeout == 2
