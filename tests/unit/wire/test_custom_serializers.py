"""A class travels as its registered serializer says, wherever a value of it is, and nothing else does."""

from __future__ import annotations

import importlib
import pickle
import sys
import threading
import types
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actorlite import deregister_serializer, register_serializer
from actorlite.actor import ActorHandle
from actorlite.errors import SerializationError, TaskError
from actorlite.refs import ObjectRef
from actorlite.wire import handlers, pickling
from actorlite.wire.code import decode_code, encode_code
from actorlite.wire.explain import inspect_serializability
from actorlite.wire.failures import decode_failure, encode_failure
from actorlite.wire.serialize import INLINE_LIMIT, ExportScope, current_import, decode, encode, encode_call


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """What a test registers, and which modules it meets, is its own."""
    tables: list[dict[Any, Any]] = [pickling.REDUCERS, handlers.UNMET]
    kept = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


def travel(value: Any, scope: object = None) -> Any:
    encoded = encode(value)
    return decode(encoded.kind, bytes(encoded.data), [bytearray(part) for part in encoded.buffers], scope)


class Guarded:
    """Holds what cannot be pickled."""

    def __init__(self, content: Any) -> None:
        self.content = content
        self.lock = threading.Lock()


class Below(Guarded):
    pass


class Failed(Exception):
    def __init__(self, code: int, *, lock: object = None) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.lock = lock or threading.Lock()


Pair = namedtuple("Pair", "left right")


def content_of(value: Guarded) -> Any:
    return value.content


def code_of(error: Failed) -> int:
    return error.code


def refuse(value: object) -> Any:
    raise LookupError("not today")


def register() -> None:
    register_serializer(Guarded, serializer=content_of, deserializer=Guarded)


def test_a_registered_class_travels_wherever_it_is() -> None:
    register()
    assert travel(Guarded(1)).content == 1
    assert travel({"deep": [(Guarded(Guarded("inner")),)]})["deep"][0][0].content.content == "inner"
    encoded = encode_call((Guarded(2),), {"key": Guarded(3)})
    (first,), kwargs = decode(encoded.kind, encoded.data, encoded.buffers)
    assert (first.content, kwargs["key"].content) == (2, 3)
    guarded = Guarded(4)
    blob = encode_code(lambda: guarded.content)
    assert decode_code(blob.data)() == 4


def test_a_value_met_twice_is_one_value() -> None:
    register()
    guarded = Guarded([])
    first, second = travel([guarded, guarded])
    assert first is second


def test_it_is_for_the_class_itself() -> None:
    register()
    with pytest.raises(SerializationError, match="lock"):
        encode([Below(1)])


def test_the_last_registration_counts_until_it_is_taken_back() -> None:
    register()
    register()
    register_serializer(Guarded, serializer=lambda value: value.content, deserializer=lambda content: ("seen", content))
    assert travel([Guarded(1)]) == [("seen", 1)]
    deregister_serializer(Guarded)
    deregister_serializer(Guarded)
    with pytest.raises(SerializationError):
        encode(Guarded(1))


def test_picklers_that_are_kept_see_a_later_registration() -> None:
    encode([object, Pair(1, 2)])
    register_serializer(Pair, serializer=list, deserializer=sum)
    assert travel(Pair(1, 2)) == 3
    deregister_serializer(Pair)
    assert travel(Pair(1, 2)) == Pair(1, 2)


def test_what_we_do_ourselves_for_a_class_comes_back() -> None:
    register_serializer(memoryview, serializer=bytes, deserializer=bytes)
    register_serializer(memoryview, serializer=bytes, deserializer=bytearray)
    assert travel([memoryview(b"ab")]) == [bytearray(b"ab")]
    deregister_serializer(memoryview)
    assert isinstance(travel([memoryview(b"ab")])[0], memoryview)


def test_arrays_of_the_payload_go_out_of_band() -> None:
    register()
    numbers = np.arange(INLINE_LIMIT)
    numbers.flags.writeable = False
    encoded = encode([Guarded({"numbers": numbers})])
    assert len(encoded.data) < 500
    assert np.shares_memory(np.frombuffer(encoded.buffers[0], numbers.dtype), numbers)
    (guarded,) = decode(encoded.kind, encoded.data, encoded.buffers)
    assert np.shares_memory(guarded.content["numbers"], numbers)


class Reference:
    """Stands for an object reference or an actor handle."""

    def __actorlite_export__(self, scope: ExportScope) -> tuple[Any, ...]:
        return current_import, ()


def test_references_of_the_payload_are_listed_and_rebuilt_in_the_receiving_scope() -> None:
    register()
    reference = Reference()
    assert list(encode([Guarded(reference)]).handles) == [reference]
    assert travel([Guarded(reference)], "here")[0].content == "here"


def test_the_receiver_needs_no_registration() -> None:
    module = types.ModuleType("loaded_by_path")
    module.__file__ = str(Path("/nowhere/loaded_by_path.py"))
    sys.modules[module.__name__] = module
    try:
        exec("factor = 10\ndef build(content): return content * factor", vars(module))
        register_serializer(Guarded, serializer=content_of, deserializer=module.build)
        encoded = encode(Guarded(3))
    finally:
        del sys.modules[module.__name__]
    deregister_serializer(Guarded)
    assert decode(encoded.kind, encoded.data) == 30


def test_deserializers_that_workers_can_import_go_by_name() -> None:
    register_serializer(Pair, serializer=list, deserializer=importlib.import_module("fractions").Fraction)
    assert b"fractions" in bytes(encode(Pair(1, 2)).data)
    assert len(encode(Pair(1, 2)).data) < 100


def test_an_error_of_the_serializer_names_the_member_and_is_the_cause() -> None:
    register_serializer(Guarded, serializer=refuse, deserializer=Guarded)
    with pytest.raises(SerializationError) as caught:
        encode_call(([1, {"db": Guarded(1)}],), {})
    assert caught.value.path == "args[0][1]['db']"
    assert "in the serializer registered for Guarded: LookupError: not today" in str(caught.value)
    assert isinstance(caught.value.__cause__, LookupError)
    register_serializer(Guarded, serializer=lambda value: value, deserializer=Guarded)
    with pytest.raises(SerializationError, match="the value itself was returned: return what it is made of"):
        encode(Guarded(1))
    with pytest.raises(SerializationError, match="nested too deeply"):
        register_serializer(Guarded, serializer=lambda value: [value], deserializer=Guarded)
        encode(Guarded(1))


def test_a_payload_or_deserializer_that_cannot_be_sent_is_named() -> None:
    register()
    with pytest.raises(SerializationError) as caught:
        encode({"db": Guarded({"deep": threading.Lock()})})
    assert caught.value.path == "value['db'].<serialized>['deep']"
    lock = threading.Lock()
    register_serializer(Guarded, serializer=content_of, deserializer=lambda content: lock)
    report = inspect_serializability([Guarded(1)], "x")
    assert [each.path for each in report.offenders] == ["x[0].<deserializer>.<closure> lock"]


def test_a_registered_named_tuple_is_looked_into_as_it_travels() -> None:
    register_serializer(Pair, serializer=lambda pair: {"right": pair.right}, deserializer=dict)
    assert travel(Pair(threading.Lock(), 1)) == {"right": 1}
    with pytest.raises(SerializationError) as caught:
        encode(Pair(threading.Lock(), threading.Lock()))
    assert caught.value.path == "value.<serialized>['right']"


def test_an_error_of_the_deserializer_is_raised_as_it_is() -> None:
    register_serializer(Guarded, serializer=content_of, deserializer=refuse)
    encoded = encode([Guarded(1)])
    with pytest.raises(LookupError, match="not today"):
        decode(encoded.kind, encoded.data)


def carry(error: BaseException, hops: int = 1) -> BaseException:
    for _ in range(hops):
        error = decode_failure(encode_failure(error, "task parse() in worker pid 17"))
    return error


@pytest.mark.parametrize("hops", [1, 3])
def test_an_exception_travels_as_registered(hops: int) -> None:
    register_serializer(Failed, serializer=code_of, deserializer=lambda code: Failed(code, lock="of the other side"))
    error = carry(Failed(7), hops)
    assert isinstance(error, Failed)
    assert (error.code, error.lock, len(error.__notes__)) == (7, "of the other side", 1)


def test_another_exception_may_arrive() -> None:
    register_serializer(Failed, serializer=code_of, deserializer=OSError)
    error = carry(Failed(7))
    assert (type(error), error.args) == (OSError, (7,))
    assert "code 7" in error.__notes__[0]


def test_exceptions_inside_exceptions_and_groups_travel_as_registered() -> None:
    register_serializer(Failed, serializer=code_of, deserializer=lambda code: Failed(code, lock="new"))
    outer = carry(ValueError("outer", Failed(1)))
    assert outer.args[1].lock == "new"
    group = carry(ExceptionGroup("several", [Failed(1), KeyError("k")]), 2)
    assert isinstance(group, ExceptionGroup)
    assert [getattr(each, "lock", None) for each in group.exceptions] == ["new", None]


class Several(ExceptionGroup[Exception]):
    pass


def test_a_registered_group_travels_as_registered() -> None:
    register_serializer(
        Several, serializer=lambda group: len(group.exceptions), deserializer=lambda count: ValueError(count)
    )
    error = carry(Several("several", [KeyError("k"), KeyError("l")]))
    assert (type(error), error.args) == (ValueError, (2,))


@pytest.mark.parametrize(
    ("serializer", "deserializer"),
    [(refuse, Failed), (code_of, refuse), (code_of, str), (lambda error: Reference(), Failed)],
    ids=["serializer", "deserializer", "no exception", "reference"],
)
def test_an_exception_whose_registration_fails_travels_without(
    serializer: Callable[[Failed], Any], deserializer: Callable[[Any], object]
) -> None:
    register_serializer(Failed, serializer=serializer, deserializer=deserializer)
    error = carry(Failed(7))
    assert isinstance(error, Failed) and not isinstance(error, TaskError)
    assert error.code == 7


@pytest.mark.parametrize(
    "cls",
    [type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset, pickle.PickleBuffer],
)
def test_types_that_pickle_writes_by_itself_are_refused(cls: type[Any]) -> None:
    with pytest.raises(
        TypeError, match=rf"not take {cls.__qualname__} as cls, because pickle writes .*: register a class"
    ):
        register_serializer(cls, serializer=str, deserializer=str)


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (type, "travel as code"),
        (types.FunctionType, "travel as code"),
        (ObjectRef, "counted on their way"),
        (ActorHandle, "counted on their way"),
    ],
)
def test_code_and_references_are_refused(cls: type[Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        register_serializer(cls, serializer=str, deserializer=str)


async def in_a_loop(value: object) -> str:
    return str(value)


def test_wrong_arguments_are_named() -> None:
    anything: Any = register_serializer
    with pytest.raises(TypeError, match=r"takes a class as cls, not 3 of type int: give it the class of the values"):
        anything(3, serializer=str, deserializer=str)
    with pytest.raises(TypeError, match=r"as cls, not list\[int\]"):
        anything(list[int], serializer=str, deserializer=str)
    with pytest.raises(TypeError, match=r"takes a function as serializer, not None of type NoneType: give it one"):
        anything(Guarded, serializer=None, deserializer=str)
    with pytest.raises(TypeError, match=r"takes a function as deserializer, not 'x' of type str"):
        anything(Guarded, serializer=str, deserializer="x")
    with pytest.raises(TypeError, match=r"as deserializer, and .* is a coroutine .*return the result"):
        anything(Guarded, serializer=str, deserializer=in_a_loop)
    with pytest.raises(TypeError, match="'deserializer'"):
        anything(Guarded, serializer=str)
    with pytest.raises(TypeError, match="'cls'"):
        anything(serializer=str, deserializer=str)
    with pytest.raises(TypeError, match=r"deregister_serializer\(\) takes a class as cls, not 3"):
        deregister_serializer(3)  # type: ignore[arg-type]
    deregister_serializer(int)


def test_threads_may_register_while_others_encode() -> None:
    register()
    problems: list[Exception] = []

    def change() -> None:
        for _ in range(200):
            register_serializer(Guarded, serializer=content_of, deserializer=Guarded)

    def use() -> None:
        try:
            for number in range(200):
                assert travel([Guarded(number)])[0].content == number
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for work in (change, change, use, use)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    deregister_serializer(Guarded)
    assert Guarded not in pickling.REDUCERS


MADE_UP_TORCH = """
import numpy as np

class dtype:
    def __init__(self, name): self.name = name
    def __reduce__(self): return self.name

float32, uint8 = dtype("float32"), dtype("uint8")

class Tensor:
    __slots__ = ("__dict__", "array", "place", "requires_grad", "is_quantized")
    def __init__(self, array, place="cpu"):
        self.array, self.place, self.requires_grad, self.is_quantized = array, place, False, False
    @property
    def shape(self): return self.array.shape
    @property
    def dtype(self): return globals()[self.array.dtype.name]
    def numel(self): return self.array.size
    def is_contiguous(self): return self.array.flags.c_contiguous
    def reshape(self, shape): return Tensor(self.array.reshape(shape), self.place)
    def view(self, dtype): return Tensor(self.array.view(dtype.name), self.place)
    def requires_grad_(self): self.requires_grad = True; return self
    def t(self): return Tensor(self.array.T, self.place)
    def tolist(self): return self.array.tolist()
    def add_(self, number): self.array += number
    def numpy(self):
        if self.place != "cpu": raise TypeError("can't convert meta device type tensor to numpy")
        return self.array
    def __reduce__(self): return by_default, (self.array, self.place)

class Parameter(Tensor):
    def __reduce__(self): return Parameter, (self.array,)

def by_default(array, place): return Tensor(array, place)
def empty(shape, *, dtype, device): return Tensor(np.empty(shape, dtype.name))
def ones(shape, device="cpu"): return Tensor(np.ones(shape, "float32"), device)
"""


@pytest.fixture(params=["made up", "real"])
def torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "real":
        return pytest.importorskip("torch")
    module = types.ModuleType("torch")
    exec(MADE_UP_TORCH, vars(module))
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


@pytest.mark.parametrize("shape", [(), (3,), (100, 100)])
def test_a_dense_tensor_goes_out_of_band_and_arrives_writable(torch: Any, shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape)
    encoded = encode({"weights": tensor})
    assert encoded.total_bytes < 4 * tensor.numel() + 400
    assert [part.nbytes for part in encoded.buffers] == [40_000] * (len(shape) == 2)
    result = travel({"weights": tensor})["weights"]
    assert type(result) is torch.Tensor
    assert (tuple(result.shape), result.dtype) == (shape, tensor.dtype)
    result.add_(1)
    assert result.tolist() == (np.ones(shape) + 1).tolist()
    assert tensor.tolist() == np.ones(shape).tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda torch: torch.ones((2, 3)).t(),
        lambda torch: torch.ones(3).requires_grad_(),
        lambda torch: torch.ones((0, 3)),
        lambda torch: torch.ones(3, device="meta"),
    ],
    ids=["strided", "gradient", "empty", "elsewhere"],
)
def test_other_tensors_go_as_torch_pickles_them(torch: Any, make: Callable[[Any], Any]) -> None:
    encode([torch.ones(1)])
    tensor = make(torch)
    assert pickling.reduce_special(tensor) is NotImplemented
    result = travel([tensor])[0]
    assert tuple(result.shape) == tuple(tensor.shape)


def test_a_tensor_with_attributes_keeps_them(torch: Any) -> None:
    encode([torch.ones(1)])
    tensor = torch.ones(3)
    tensor.label = "mine"
    assert pickling.reduce_special(tensor) is NotImplemented


def test_what_is_installed_for_a_module_is_asked_for_once_and_after_the_user(torch: Any) -> None:
    assert "torch" in handlers.UNMET
    register_serializer(torch.Tensor, serializer=lambda tensor: tensor.tolist(), deserializer=list)
    assert travel([torch.float32, torch.ones(2)]) == [torch.float32, [1.0, 1.0]]
    assert "torch" not in handlers.UNMET
    deregister_serializer(torch.Tensor)
    assert type(travel(torch.ones(2))) is torch.Tensor
    assert pickling.reduce_special(torch.ones(2)) is not NotImplemented


def test_a_module_that_is_not_loaded_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would raise
    monkeypatch.setattr(Below, "__module__", "torch")
    monkeypatch.setattr(Below, "__reduce__", lambda self: (list, ()))
    assert travel(Below(1)) == []
