from __future__ import annotations

import functools
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorlite.signatures import CallShape


def nothing() -> None: ...
def plain(a: int, b: int = 1) -> None: ...
def positional_only(a: int, b: int = 1, /, c: int = 2) -> None: ...
def keyword_only(a: int, *, by: int, k: int = 0) -> None: ...
def variadic(a: int, *rest: int, **named: int) -> None: ...
def shadowing(a: int, /, **named: int) -> None: ...
def many(a: int, b: int, c: int) -> None: ...


class NoSignature:
    __signature__ = "nonsense"

    def __call__(self) -> None: ...


FUNCTIONS = [nothing, plain, positional_only, keyword_only, variadic, shadowing, many]


@given(
    function=st.sampled_from(FUNCTIONS),
    args=st.lists(st.just(0), max_size=4),
    kwargs=st.dictionaries(st.sampled_from(["a", "b", "c", "by", "k", "x"]), st.just(0), max_size=4),
)
def test_accepts_exactly_what_python_binds(function: Any, args: list[int], kwargs: dict[str, int]) -> None:
    shape = CallShape.from_callable(function, skip_first=False)
    try:
        function(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError, match=function.__name__):
            shape.check(function.__name__, args, kwargs)
    else:
        shape.check(function.__name__, args, kwargs)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "text"),
    [
        (many, (), {}, "f() missing 3 required positional arguments: 'a', 'b' and 'c'; its signature is f(a, b, c)"),
        (many, (1, 2), {}, "f() missing 1 required positional argument: 'c'"),
        (nothing, (1,), {}, "f() takes 0 positional arguments but 1 was given"),
        (plain, (1, 2, 3), {}, "f() takes from 1 to 2 positional arguments but 3 were given"),
        (plain, (1,), {"a": 2}, "f() got multiple values for argument 'a'"),
        (plain, (1,), {"bb": 2}, "f() got an unexpected keyword argument 'bb'; did you mean 'b'?"),
        (positional_only, (), {"a": 1}, "f() got some positional-only arguments passed as keyword arguments: 'a'"),
        (keyword_only, (1,), {}, "f() missing 1 required keyword-only argument: 'by'; its signature is f(a, *, by, k="),
    ],
)
def test_says_what_python_says(function: Any, args: tuple[int, ...], kwargs: dict[str, int], text: str) -> None:
    shape = CallShape.from_callable(function, skip_first=False)
    with pytest.raises(TypeError) as caught:
        shape.check("f", args, kwargs)
    assert str(caught.value).startswith(text)


def test_skips_self_but_not_star_args() -> None:
    assert CallShape.from_callable(plain, skip_first=True).positional == ("b",)
    assert CallShape.from_callable(lambda *args: args, skip_first=True).varargs


def test_shows_the_signature() -> None:
    assert str(CallShape.from_callable(positional_only, skip_first=False)) == "(a, b=..., /, c=...)"
    assert str(CallShape.from_callable(variadic, skip_first=False)) == "(a, *args, **kwargs)"


def test_a_callable_without_a_signature_accepts_everything() -> None:
    unknown = CallShape.from_callable(NoSignature(), skip_first=False)
    unknown.check("unknown", (1, 2, 3), {"x": 1})
    assert unknown == CallShape(varargs=True, varkw=True)


def test_follows_wrapped_functions() -> None:
    @functools.wraps(plain)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    assert CallShape.from_callable(wrapper, skip_first=False) == CallShape.from_callable(plain, skip_first=False)


def test_travels_small() -> None:
    shape = CallShape.from_callable(keyword_only, skip_first=False)
    data = pickle.dumps(shape, protocol=5)
    assert pickle.loads(data) == shape
    assert len(data) < 120
    with pytest.raises(TypeError):
        pickle.loads(data).check("f", (1,), {})
