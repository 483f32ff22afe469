from __future__ import annotations

import abc
import asyncio
import copy
import pickle
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import pytest
from msgspec import structs

import actorlite as al
from actorlite.actor import definition_of
from actorlite.context import current_runtime
from actorlite.definitions import ActorDefinition, CallKind, MethodDefinition
from actorlite.options import ActorOptions, MethodOptions
from actorlite.wire.serialize import decode, encode

T = TypeVar("T")


class FakeLink:
    def __init__(self, runtime: Any, definition: ActorDefinition, number: int) -> None:
        self.runtime = runtime
        self.definition = definition
        self.id = f"{'0' * 16}-{number:012x}"
        self.state = "ALIVE"
        self.claim = ""
        self.alias: FakeLink | None = None
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any], MethodOptions]] = []

    def call(self, method: MethodDefinition, args: Any, kwargs: Any, options: MethodOptions) -> Any:
        self.calls.append((method.name, args, dict(kwargs), options))
        return f"ref {len(self.calls)}"

    async def run(self, method: MethodDefinition, args: Any, kwargs: Any, options: MethodOptions) -> Any:
        return self.call(method, args, kwargs, options)

    async def submit(self, method: MethodDefinition, args: Any, kwargs: Any, options: MethodOptions) -> Any:
        return self.call(method, args, kwargs, options)


class FakeRuntime:
    closing = False

    def __init__(self) -> None:
        self.created: list[tuple[FakeLink, tuple[Any, ...], dict[str, Any], ActorOptions]] = []

    def create_actor(self, definition: ActorDefinition, args: Any, kwargs: Any, options: ActorOptions) -> FakeLink:
        link = FakeLink(self, definition, len(self.created) + 1)
        self.created.append((link, args, dict(kwargs), options))
        return link

    def export_actor(self, link: FakeLink) -> tuple[Any, ...]:
        return (link.id, "uds://creator")

    def import_actor(self, data: tuple[Any, ...], definition: ActorDefinition) -> FakeLink:
        link = FakeLink(self, definition, 0)
        link.id = data[0]
        return link


@pytest.fixture
def runtime() -> Iterator[FakeRuntime]:
    fake: Any = FakeRuntime()
    token = current_runtime.set(fake)
    yield fake
    current_runtime.reset(token)


class Counter(al.Actor, num_cpus=1):
    limit: int = 100

    def __init__(self, start: int = 0) -> None:
        self.n = start

    async def incr(self, by: int = 1) -> int:
        self.n += by
        return self.n

    @al.method
    def slow(self, k: int) -> int:
        return self.n * k

    @al.method(num_returns=2, timeout=5)
    def pair(self) -> tuple[int, int]:
        return self.n, self.n

    def untyped(self) -> int:
        return self.slow_inside()

    def slow_inside(self) -> Any:
        return self.slow(2)

    @property
    def value(self) -> int:
        return self.n

    @staticmethod
    def version(major: int) -> str:
        return f"{major}.0"

    @classmethod
    def make(cls, start: int) -> int:
        return start

    async def on_start(self) -> None: ...


def link_of(handle: Any) -> FakeLink:
    return cast(FakeLink, handle.__actorlite_link__)


def untyped(handle: Any) -> Any:
    return handle


def test_remote_returns_a_handle(runtime: FakeRuntime) -> None:
    counter = Counter.remote(10)
    link, args, kwargs, options = runtime.created[0]
    assert isinstance(counter, al.ActorHandle)
    assert (args, kwargs, options.num_cpus) == ((10,), {}, 1)
    assert repr(counter) == f"Actor(Counter, {link.id})"
    assert dir(counter) == ["incr", "make", "pair", "slow", "slow_inside", "untyped", "version"]


def test_constructor_arguments_are_checked_at_the_call(runtime: FakeRuntime) -> None:
    with pytest.raises(TypeError, match=r"Counter\(\) got an unexpected keyword argument 'begin'"):
        untyped(Counter).remote(begin=1)
    with pytest.raises(TypeError, match="takes from 0 to 1"):
        untyped(Counter).options(num_cpus=2).remote(1, 2)
    assert not runtime.created


def test_a_local_object_is_an_ordinary_one() -> None:
    local = Counter(3)
    assert asyncio.run(local.incr(by=2)) == 5
    assert untyped(local).untyped() == 10
    assert local.value == 5


def test_methods_in_every_spelling(runtime: FakeRuntime) -> None:
    counter = Counter.remote()

    async def main() -> None:
        assert untyped(await counter.incr(by=2)) == "ref 1"
        assert untyped(counter.slow.remote(3)) == "ref 2"
        assert untyped(await counter.slow.submit(k=4)) == "ref 3"
        assert untyped(await counter.slow.options(timeout=1)(5)) == "ref 4"
        assert untyped(await untyped(counter).version(1)) == "ref 5"
        assert untyped(await untyped(counter).make(1)) == "ref 6"

    asyncio.run(main())
    plain = MethodOptions()
    assert link_of(counter).calls == [
        ("incr", (), {"by": 2}, plain),
        ("slow", (3,), {}, plain),
        ("slow", (), {"k": 4}, plain),
        ("slow", (5,), {}, MethodOptions(timeout=1)),
        ("version", (1,), {}, plain),
        ("make", (1,), {}, plain),
    ]


def test_method_options_come_from_the_declaration(runtime: FakeRuntime) -> None:
    counter = Counter.remote()
    counter.pair.remote()
    untyped(counter).pair.options(num_returns=None).remote()
    assert [call[3] for call in link_of(counter).calls] == [
        MethodOptions(num_returns=2, timeout=5),
        MethodOptions(num_returns=1, timeout=5),
    ]
    assert definition_of(Counter).methods["incr"].kind is CallKind.COROUTINE
    assert definition_of(Counter).methods["slow"].kind is CallKind.PLAIN


def test_method_arguments_are_checked_at_the_call(runtime: FakeRuntime) -> None:
    counter = untyped(Counter.remote())
    for call in (counter.incr, counter.incr.remote, counter.incr.submit):
        with pytest.raises(TypeError, match=r"incr\(\) got an unexpected keyword argument 'byy'; did you mean 'by'"):
            call(byy=1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'k'"):
        counter.slow.remote()
    assert not link_of(counter).calls


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("icnr", "did you mean 'incr'"),
        ("n", "cannot be read from outside"),
        ("limit", "is not a method"),
        ("value", "is not a method"),
        ("on_start", "is a hook"),
        ("remote", "no method 'remote'"),
        ("__array__", "__array__"),
    ],
)
def test_unknown_attributes_say_why(runtime: FakeRuntime, name: str, text: str) -> None:
    with pytest.raises(AttributeError, match=text):
        getattr(Counter.remote(), name)


def test_attributes_cannot_be_set(runtime: FakeRuntime) -> None:
    with pytest.raises(AttributeError, match="another process"):
        Counter.remote().n = 3


def test_handles_are_equal_by_actor(runtime: FakeRuntime) -> None:
    first, second = untyped(Counter.remote()), untyped(Counter.remote())
    again = type(first)(link_of(first))
    assert first == again and hash(first) == hash(again)
    assert first != second
    assert len({first, second, again}) == 2


# --- options


def test_class_keywords_are_inherited_and_merged() -> None:
    class Shared(Counter, process="shared"): ...

    class Busy(Shared, max_concurrency=8, num_cpus=None): ...

    assert definition_of(Shared).options == ActorOptions(num_cpus=1, process="shared")
    assert definition_of(Busy).options == ActorOptions(max_concurrency=8, process="shared")
    assert definition_of(Counter).options == ActorOptions(num_cpus=1)


def test_options_replace_per_actor(runtime: FakeRuntime) -> None:
    Counter.options(name="hits", max_pending_calls=5).options(name="other").remote(1)
    assert runtime.created[0][3] == ActorOptions(num_cpus=1, name="other", max_pending_calls=5)
    assert runtime.created[0][0].definition is definition_of(Counter)


def test_a_session_is_chosen_per_actor(runtime: FakeRuntime) -> None:
    class Session:
        runtime: Any = FakeRuntime()

    Counter.options(session=Session()).remote()
    assert not runtime.created
    assert len(Session.runtime.created) == 1


def test_bad_class_keywords_fail_where_they_are_written() -> None:
    with pytest.raises(TypeError, match="did you mean 'max_concurrency'"):
        type("Bad", (al.Actor,), {}, max_concurency=1)
    with pytest.raises(ValueError, match="lifetime=.* must be one of 'detached'"):
        type("Bad", (al.Actor,), {}, lifetime="forever")
    with pytest.raises(TypeError, match="per call"):
        type("Bad", (al.Actor,), {}, session=None)


def test_remote_on_an_actor_class_is_the_identity() -> None:
    class Plain(al.Actor): ...

    assert al.remote(Plain) is Plain
    before = definition_of(Plain)
    assert al.remote(num_cpus=3)(Plain) is Plain
    assert definition_of(Plain).options.num_cpus == 3
    assert definition_of(Plain) is not before


def test_classes_made_twice_keep_their_options() -> None:
    @dataclass(slots=True)
    class Point(al.Actor, num_cpus=2):
        x: int
        y: int = 0

    assert definition_of(Point).cls is Point
    assert definition_of(Point).options.num_cpus == 2
    assert str(definition_of(Point).constructor) == "(x, y=...)"
    assert {"x", "y"} <= definition_of(Point).attributes


def test_generic_and_abstract_actors(runtime: FakeRuntime) -> None:
    class Box(al.Actor, Generic[T]):
        def __init__(self, value: T) -> None:
            self.value = value

        async def get(self) -> T:
            return self.value

    class Shape(al.Actor, abc.ABC):
        @al.method
        @abc.abstractmethod
        def area(self) -> float: ...

    assert dir(Box[int].remote(3)) == ["get"]
    with pytest.raises(TypeError, match="abstract"):
        untyped(Shape)()


# --- what a class cannot have


def test_refusals_at_class_creation_name_the_remedy() -> None:
    async def coroutine(self: Any) -> None: ...

    def plain(self: Any) -> None: ...

    async def anumbers(self: Any) -> AsyncIterator[int]:
        yield 1

    bodies: list[tuple[dict[str, Any], str]] = [
        ({"__init__": coroutine}, r"async def on_start\(self\)"),
        ({"on_start": plain}, "must be `async def on_start"),
        ({"on_stop": plain}, "must be `async def on_stop"),
        ({"on_start": anumbers}, "must be `async def on_start"),
        ({"on_stop": al.method(anumbers)}, "must be `async def on_stop"),
        ({"remote": plain}, "choose another name"),
        ({"options": plain}, "choose another name"),
    ]
    for body, text in bodies:
        with pytest.raises(TypeError, match=text):
            type("Bad", (al.Actor,), body)
    for body, text in bodies[:5]:
        with pytest.raises(TypeError, match=text):
            al.remote(type("Bad", (), body))


class Words(al.Actor):
    @al.method(stream_window=2)
    def each(self, upto: int = 3) -> Iterator[str]:
        yield "a"

    async def later(self) -> AsyncIterator[str]:
        yield "b"

    def undeclared(self) -> Iterator[str]:
        yield "c"

    async def all(self) -> list[str]:
        return list(self.each())


def test_generators_are_methods_that_stream(runtime: FakeRuntime) -> None:
    handle = Words.remote()
    assert dir(handle) == ["all", "each", "later", "undeclared"]
    for name in ("each", "later", "undeclared"):
        bound = getattr(handle, name)
        assert isinstance(bound, al.BoundGenerator)
        assert repr(bound) == f"<generator method {name} of {handle!r}>"
        assert isinstance(bound(), al.ValueStream)
        assert isinstance(bound.options(stream_window=5), al.BoundGenerator)
        assert isinstance(bound.options(num_returns="streaming"), al.BoundGenerator)
        many = bound.options(num_returns=2)
        assert isinstance(many, al.BoundMethod) and isinstance(many.options(num_returns=None), al.BoundGenerator)
    with pytest.raises(TypeError, match=r"each\(\) takes from 0 to 1"):
        handle.each(1, 2)
    with pytest.raises(TypeError, match="pass the actor's handle"):
        pickle.dumps(handle.each)
    assert list(Words().each()) == ["a"], "inside the class it is the generator as written"


def test_options_of_a_stream_need_a_generator(runtime: FakeRuntime) -> None:
    def plain(self: Any) -> None: ...

    method: Any = al.method
    with pytest.raises(ValueError, match=r"stream_window=3 needs a generator, and plain\(\) is none"):
        method(stream_window=3)(plain)
    with pytest.raises(ValueError, match="num_returns='streaming' needs a generator"):
        method(num_returns="streaming")(plain)
    with pytest.raises(ValueError, match="stream_window_bytes=9 needs a generator"):
        Words.remote().all.options(stream_window_bytes=9)


def test_wrong_uses_of_method() -> None:
    method: Any = al.method
    with pytest.raises(TypeError, match="function in a class body"):
        method(3)
    with pytest.raises(TypeError, match="did you mean 'num_returns'"):
        method(num_return=2)
    with pytest.raises(TypeError, match="without parentheses"):
        method()
    with pytest.raises(TypeError, match="options only"):
        method(print, num_returns=2)


# --- classes that come from Ray


@al.remote(num_cpus=2)
class Legacy:
    """Counts."""

    def __init__(self, start: int) -> None:
        self.n = start

    def add(self, by: int) -> int:
        return self.n + by


def test_any_class_works_untyped(runtime: FakeRuntime) -> None:
    actor = Legacy.remote(1)
    actor.add.remote(by=2)
    link, args, _, options = runtime.created[0]
    assert (args, options.num_cpus, link.calls[0][:3]) == ((1,), 2, ("add", (), {"by": 2}))
    Legacy.options(num_cpus=3).remote(1)
    assert runtime.created[1][3].num_cpus == 3
    assert runtime.created[1][0].definition is link.definition
    assert (Legacy.__name__, Legacy.__doc__) == ("Legacy", "Counts.")
    assert Legacy.__wrapped__(1).add(2) == 3


def test_calling_or_subclassing_a_decorated_class_names_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"Legacy\.remote\(\.\.\.\)"):
        Legacy(1)
    with pytest.raises(TypeError, match="subclass the undecorated class"):
        exec("class Sub(Legacy): ...", {"Legacy": Legacy})
    with pytest.raises(TypeError, match="is remote already"):
        al.remote(Legacy)


# --- travelling


def travel(value: Any, scope: Any = None) -> Any:
    encoded = encode(value)
    return decode(encoded.kind, encoded.data, encoded.buffers, scope)


def test_a_handle_travels_in_messages(runtime: FakeRuntime) -> None:
    counter = Counter.remote(1)
    there = FakeRuntime()
    first, second = travel([counter, counter], there)
    assert first is second
    assert first == counter
    assert (link_of(first).runtime, link_of(first).definition.cls) == (there, None)
    assert dir(first) == dir(counter)
    with pytest.raises(AttributeError, match="is a hook"):
        first.on_start  # noqa: B018
    onward = travel(first, FakeRuntime())
    assert onward == counter


def test_handles_of_one_class_share_its_definition(runtime: FakeRuntime) -> None:
    one, two = travel([Counter.remote(), Counter.remote()], FakeRuntime())
    assert link_of(one).definition is link_of(two).definition


def test_a_handle_cannot_be_pickled_elsewhere(runtime: FakeRuntime) -> None:
    counter = Counter.remote()
    for attempt in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="Pass it as an argument"):
            attempt(counter)
    with pytest.raises(TypeError, match="pass the actor's handle"):
        pickle.dumps(counter.incr)


def test_a_class_by_value_keeps_its_options_and_methods(runtime: FakeRuntime) -> None:
    seen = 7

    class Local(al.Actor, num_cpus=2, process="shared"):
        @al.method(num_returns=2)
        def both(self) -> tuple[int, int]:
            return seen, seen

        async def another(self) -> Any:
            return Local.options(name="next").remote()

    assert definition_of(Local).name == "Local"
    # The tracker of classes by value knows ours by identity: a copy only comes out where it is not known.
    data = encode(Local)
    again = forget_and_decode(data, Local)
    assert again is not Local
    assert definition_of(again).options == ActorOptions(num_cpus=2, process="shared")
    assert definition_of(again).methods["both"].options == MethodOptions(num_returns=2)
    assert again().both() == (7, 7)
    asyncio.run(again().another())
    assert runtime.created[0][0].definition is definition_of(again)


def test_a_decorated_class_by_value_may_name_itself(runtime: FakeRuntime) -> None:
    namespace: dict[str, Any] = {"__name__": "not_importable"}
    exec(
        "import actorlite as al\n"
        "@al.remote(num_cpus=2)\n"
        "class Tree:\n"
        "    def child(self, depth): return Tree.options(name='leaf').remote()\n",
        namespace,
    )
    tree = namespace["Tree"]
    again = forget_and_decode(encode(tree.__wrapped__), tree.__wrapped__)
    assert again is not tree.__wrapped__
    again().child(1)
    link, _, _, options = runtime.created[0]
    assert (link.definition.cls, sorted(link.definition.methods)) == (again, ["child"])
    assert (options.num_cpus, options.name) == (2, "leaf")


def test_actor_classes_of_an_importable_module_travel_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    source = "import actorlite as al\nclass A(al.Actor): ...\n@al.remote\nclass B: ...\n"
    (tmp_path / "importable_actors.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    from importable_actors import A, B

    assert travel([A, B]) == [A, B]
    assert pickle.loads(pickle.dumps(B)) is B
    chosen = travel(B.options(num_cpus=2))
    assert (chosen._definition, chosen._options.num_cpus) == (B._definition, 2)
    assert travel(A.options(num_cpus=2))._definition is definition_of(A)
    monkeypatch.delitem(sys.modules, "importable_actors")


def forget_and_decode(encoded: Any, cls: type[Any]) -> Any:
    from cloudpickle import cloudpickle

    identity = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.pop(cls)
    cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.pop(identity)
    return decode(encoded.kind, encoded.data, encoded.buffers)


def test_definitions_are_plain_data_without_the_class() -> None:
    bare = structs.replace(definition_of(Counter), cls=None)
    assert len(pickle.dumps(bare)) < 1500
