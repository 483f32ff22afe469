"""Values survive the trip, buffers are shared or fixed as promised, references are listed."""

from __future__ import annotations

import enum
import importlib
import pickle
import sys
import threading
import types
import typing
from array import array
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudpickle import cloudpickle
from hypothesis import given
from hypothesis import strategies as st

from actorlite.errors import SerializationError
from actorlite.wire.serialize import (
    EMPTY_CALL,
    INLINE_LIMIT,
    PACKED,
    PICKLE,
    Encoded,
    ExportScope,
    current_import,
    decode,
    encode,
    encode_call,
    importing,
)


def travel(value: Any) -> Any:
    return arrive(encode(value))


def arrive(encoded: Encoded, scope: object = None) -> Any:
    """Decode from what a socket would give: writable buffers of the receiver's own."""
    return decode(encoded.kind, bytes(encoded.data), [bytearray(part) for part in encoded.buffers], scope)


Point = namedtuple("Point", "x y")


@dataclass
class Box:
    content: Any
    label: str = ""


class Colour(enum.Enum):
    RED = 1


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.tuples(inner, inner)
        | st.frozensets(scalars)
        | st.builds(Box, inner)
    ),
    max_leaves=12,
)


@given(values)
def test_a_value_arrives_equal(value: Any) -> None:
    assert travel(value) == value


@given(st.lists(values, max_size=3), st.dictionaries(st.text(), values, max_size=3))
def test_arguments_arrive_equal(args: list[Any], kwargs: dict[str, Any]) -> None:
    assert arrive(encode_call(tuple(args), kwargs)) == (tuple(args), kwargs)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x" * 100_000,
        bytearray(b"y" * 100_000),
        bytearray(b"small"),
        2**5000,
        "\ud800 lone surrogate",
        Fraction(1, 3),
        Colour.RED,
        Point(1, [2]),
        OrderedDict(a=1),
        defaultdict(list, a=[1]),
        deque([1, 2], maxlen=3),
        array("d", [1.5]),
        range(3),
        slice(1, 2),
        complex(1, 2),
        type(None),
        int,
        len,
        [1] * 1000,
        {index: (index,) for index in range(1000)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds_of_values(value: Any) -> None:
    result = travel(value)
    assert result == value
    assert type(result) is type(value)


def test_a_call_without_arguments_is_one_constant() -> None:
    encoded = encode_call((), {})
    assert encoded is encode_call((), {})
    assert (encoded.kind, encoded.total_bytes) == (EMPTY_CALL, 0)
    args, kwargs = arrive(encoded)
    kwargs["mine"] = 1
    assert (args, arrive(encoded)) == ((), ((), {}))


def test_shared_and_cyclic_structure_is_kept() -> None:
    shared: list[Any] = []
    cyclic: list[Any] = [shared, shared]
    cyclic.append(cyclic)
    result = travel(cyclic)
    assert result[0] is result[1]
    assert result[2] is result


def test_unknown_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown encoding 99"):
        decode(99, b"")


def test_large_bytes_leave_without_a_copy() -> None:
    value = b"z" * INLINE_LIMIT
    encoded = encode(value)
    assert encoded.data == b""
    assert encoded.buffers[0].obj is value
    assert encoded.total_bytes == len(value)


def test_large_bytes_arguments_leave_without_a_copy() -> None:
    value = b"z" * 100_000
    encoded = encode_call((value, 1), {"more": bytearray(value)})
    assert len(encoded.data) < 300
    assert encoded.buffers[0].obj is value
    assert arrive(encoded) == ((value, 1), {"more": bytearray(value)})


def test_a_read_only_array_is_not_copied() -> None:
    numbers = np.arange(10_000)
    numbers.flags.writeable = False
    encoded = encode({"numbers": numbers})
    assert encoded.kind == PICKLE
    assert np.shares_memory(np.frombuffer(encoded.buffers[0], numbers.dtype), numbers)


@pytest.mark.parametrize("size", [10, 10_000])
@pytest.mark.parametrize("make", [np.arange, lambda size: memoryview(np.arange(size)), lambda size: bytearray(size)])
def test_a_value_is_fixed_when_encode_returns(size: int, make: Callable[[int], Any]) -> None:
    value = make(size)
    expected = bytes(value)
    encoded, call = encode([value]), encode_call((value,), {})
    value[0] = 77
    assert bytes(arrive(encoded)[0]) == expected
    assert bytes(arrive(call)[0][0]) == expected


@pytest.mark.parametrize("size", [0, 10, 10_000])
def test_arrays_arrive_read_only_whatever_their_size(size: int) -> None:
    result = travel(np.arange(size))
    assert not result.flags.writeable
    assert result.flags.aligned
    assert np.array_equal(result, np.arange(size))


def test_a_large_array_shares_the_received_buffer() -> None:
    encoded = encode(np.arange(10_000))
    received = bytearray(encoded.buffers[0])
    result = decode(encoded.kind, encoded.data, [received])
    assert np.shares_memory(result, np.frombuffer(received, np.uint8))


@pytest.mark.parametrize(
    "view",
    [
        np.zeros((100, 100))[:, ::2],
        np.asfortranarray(np.arange(10_000.0).reshape(100, 100)),
        np.array([("a", 1)], dtype=[("name", "U5"), ("n", "i4")]),
        np.array([{"object": 1}], dtype=object),
        np.array(5),
        np.zeros((0, 3)),
        np.array([np.datetime64("2024-01-01")]),
    ],
    ids=["strided", "fortran", "record", "object", "scalar", "empty", "datetime"],
)
def test_odd_arrays_arrive_equal(view: Any) -> None:
    result = travel(view)
    assert result.dtype == view.dtype
    assert result.shape == view.shape
    assert np.array_equal(result, view)


def test_small_and_large_buffers_keep_their_order() -> None:
    arrays = [np.full(size, index) for index, size in enumerate([3, 5_000, 0, 7, 6_000, 1])]
    encoded = encode(arrays)
    assert encoded.kind == PACKED
    assert [part.nbytes for part in encoded.buffers] == [40_000, 48_000]
    assert all(np.array_equal(left, right) for left, right in zip(arrive(encoded), arrays, strict=True))


@pytest.mark.parametrize("size", [8, 10_000])
def test_a_view_arrives_as_a_read_only_view(size: int) -> None:
    result = travel(memoryview(bytearray(b"ab" * size)))
    assert result.readonly
    assert result == b"ab" * size
    shaped = travel({"view": memoryview(array("d", range(size))).cast("B").cast("d", (2, size // 2))})["view"]
    assert (shaped.format, shaped.shape, shaped.tolist()[1][0]) == ("d", (2, size // 2), size / 2)
    assert travel(memoryview(b"abcdef")[::2]) == b"ace"
    assert travel(memoryview(np.array([("a", 1)], dtype=[("s", "S1"), ("n", "i4")]))).nbytes == 5


class Reference:
    """Stands for an object reference or an actor handle."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __actorlite_export__(self, scope: ExportScope) -> tuple[Any, ...]:
        return _imported, (self.number,)

    def __reduce__(self) -> Any:
        raise TypeError("outside of a session")


def _imported(number: int) -> tuple[int, object]:
    return number, current_import()


def test_references_are_listed_once_and_rebuilt_in_the_receiving_scope() -> None:
    first, second = Reference(1), Reference(2)
    encoded = encode_call((first, {"deep": [Box(second)]}, first), {})
    assert list(encoded.handles) == [first, second]
    (one, deep, again), _ = arrive(encoded, scope="here")
    assert one == again == (1, "here")
    assert deep["deep"][0].content == (2, "here")
    assert current_import() is None


def test_the_next_value_does_not_inherit_references() -> None:
    encode([Reference(1)])
    assert list(encode([Box(1)]).handles) == []


def test_import_scopes_nest() -> None:
    encoded = encode([Reference(1)])
    with importing("outer"):
        assert arrive(encoded, "inner") == [(1, "inner")]
        assert arrive(encoded) == [(1, "outer")]
        with pytest.raises(pickle.UnpicklingError):
            decode(PICKLE, b"\x80\x05x", (), "broken")
        assert current_import() == "outer"
    assert current_import() is None


class Nested:
    """Encodes another value while it is being pickled."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        inner = encode(self.value)
        return decode, (inner.kind, inner.data, [bytes(part) for part in inner.buffers])


def test_pickling_may_encode_other_values() -> None:
    deep = Nested(Nested([np.arange(3), Box(Nested({"x": Box(1)}))]))
    result = travel([deep, np.arange(2)])
    assert result[0][1].content == {"x": Box(1)}
    assert result[1].tolist() == [0, 1]


def test_threads_do_not_share_picklers() -> None:
    results: list[Any] = []

    def work(seed: int) -> None:
        results.extend(travel([Box(seed), np.full(3, seed)]) for _ in range(50))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted({(box.content, int(numbers[2])) for box, numbers in results}) == [(seed, seed) for seed in range(4)]


def test_nothing_of_a_value_stays_alive_in_the_pickler() -> None:
    box = Box("mine")
    before = sys.getrefcount(box)
    encode([box, box])
    assert sys.getrefcount(box) == before


def test_a_failure_names_the_path() -> None:
    with pytest.raises(SerializationError) as caught:
        encode_call((Box({"db": Box(threading.Lock())}),), {})
    assert caught.value.path == "args[0].content['db'].content"
    assert "cannot pickle '_thread.lock' object" in str(caught.value)
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(SerializationError) as caught:
        encode_call((), {"cfg": [threading.Lock()]})
    assert caught.value.path == "kwargs['cfg'][0]"
    with pytest.raises(SerializationError) as caught:
        encode((value for value in "abc"), "the result of parse")
    assert caught.value.path == "the result of parse"
    assert "list of its items" in str(caught.value)


def test_encoding_works_after_a_failure() -> None:
    with pytest.raises(SerializationError):
        encode([np.arange(3), Reference(1), threading.Lock()])
    encoded = encode([np.arange(3), Box(1)])
    assert list(encoded.handles) == []
    assert arrive(encoded)[0].tolist() == [0, 1, 2]


def test_nesting_too_deep_is_a_serialization_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match="nested too deeply") as caught:
        encode_call((1, deep), {})
    assert caught.value.path == "args[1]"
    while deep:  # one level at a time: freeing it all at once would recurse as well
        deep = deep.pop()


@contextmanager
def another_process(module: types.ModuleType) -> Iterator[None]:
    """Make this process forget the module and every class that travelled."""
    trackers = (cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID, cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS)
    kept = [dict(tracker) for tracker in trackers]
    for tracker in trackers:
        tracker.clear()
    del sys.modules[module.__name__]
    try:
        yield
    finally:
        sys.modules[module.__name__] = module
        for tracker, entries in zip(trackers, kept, strict=True):
            tracker.clear()
            tracker.update(entries)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that is loaded but that nobody else can import."""
    module = types.ModuleType("loaded_by_path")
    module.__file__ = str(Path("/nowhere/loaded_by_path.py"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    source = """
import enum, typing
from dataclasses import dataclass
T = typing.TypeVar("T")
P = typing.ParamSpec("P")
UserId = typing.NewType("UserId", int)
factor = 10
class Level(enum.Enum):
    LOW = 1
@dataclass
class Item:
    n: int
    total = 0
    def scaled(self) -> int:
        return self.n * factor
class Big(Item):
    def scaled(self) -> int:
        return super().scaled() + 1
def generic(a: T, b: UserId, *args: P.args) -> T:
    return a
"""
    exec(compile(source, module.__file__, "exec", dont_inherit=True), vars(module))
    return module


def test_instances_of_local_classes_go_by_value(script: types.ModuleType) -> None:
    encoded = encode([script.Big(2), script.Item(3), script.Level.LOW])
    with another_process(script):
        big, item, level = arrive(encoded)
    assert type(big) is not script.Big
    assert (big.scaled(), item.scaled(), level.value) == (21, 30, 1)
    assert isinstance(big, type(item))


def test_a_class_is_itself_again_when_it_comes_home(script: types.ModuleType) -> None:
    method = script.Item.scaled
    encoded = encode([script.Item(1), script.Level.LOW])
    with another_process(script):
        there = arrive(encoded)
        back = encode(there)
    script.Item.total = 5
    script.factor = 100
    here, level = arrive(back)
    assert type(here) is script.Item
    assert level is script.Level.LOW
    # What the program did to its class meanwhile stands, and its methods still see the program's globals.
    assert script.Item.total == 5
    assert script.Item.scaled is method
    assert here.scaled() == 100


def test_a_class_is_filled_once_in_each_process(script: types.ModuleType) -> None:
    encoded = encode([script.Item(1)])
    with another_process(script):
        (first,) = arrive(encoded)
        type(first).total = 7
        (second,) = arrive(encoded)
        assert type(second) is type(first)
        assert second.total == 7


def test_typing_objects_of_a_script_travel(script: types.ModuleType) -> None:
    encoded = encode([script.generic, script.T, script.P, script.UserId])
    with another_process(script):
        generic, variable, parameters, user_id = arrive(encoded)
    assert generic.__annotations__["a"] is variable
    assert isinstance(variable, typing.TypeVar)
    assert parameters.__name__ == "P"
    assert (user_id.__supertype__, user_id.__qualname__) == (int, "UserId")


def test_code_that_workers_can_import_goes_by_name() -> None:
    assert b"fractions" in bytes(encode([Fraction]).data)
    assert travel([Fraction, typing.get_type_hints]) == [Fraction, typing.get_type_hints]
    assert len(encode([Fraction(1, 2)]).data) < 100


def test_lambdas_and_closures() -> None:
    offset = 3
    assert travel({"f": lambda x: x + offset})["f"](4) == 7


def test_a_wrapped_class_goes_by_the_name_of_its_wrapper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wrapped_class_module.py").write_text(
        "class Wrapper:\n"
        "    __actorlite_remote__ = True\n"
        "    def __init__(self, cls): self.__wrapped__ = cls\n"
        "@Wrapper\n"
        "class Model:\n"
        "    size = 4\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = importlib.import_module("wrapped_class_module").Model.__wrapped__
    encoded = encode([model()])
    assert b"size" not in bytes(encoded.data)
    assert type(arrive(encoded)[0]) is model
    sys.modules.pop("wrapped_class_module")
