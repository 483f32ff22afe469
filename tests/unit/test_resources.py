from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorlite.resources import (
    CPU,
    ResourceSet,
    actor_request,
    from_units,
    task_request,
    to_units,
)

sets = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory", "x"]), st.integers(0, 10**9)).map(ResourceSet)


@given(st.integers(0, 10**12))
def test_units_survive_the_way_through_floats(units: int) -> None:
    assert to_units("x", from_units(units)) == units


@given(sets, sets)
def test_releasing_what_was_acquired_restores_the_set(have: ResourceSet, want: ResourceSet) -> None:
    if have.fits(want):
        assert not have.shortfall(want)
        assert have.acquire(want).release(want) == have
    else:
        assert have.shortfall(want)
        with pytest.raises(ValueError, match="short of"):
            have.acquire(want)


@given(sets, sets)
def test_the_shortfall_is_exactly_what_is_missing(have: ResourceSet, want: ResourceSet) -> None:
    assert have.release(have.shortfall(want)).fits(want)


@given(sets)
def test_equal_by_meaning_and_portable(resources: ResourceSet) -> None:
    assert pickle.loads(pickle.dumps(resources)) == resources
    assert hash(ResourceSet.from_floats(resources.to_floats())) == hash(resources)
    assert ResourceSet({"never": 0}).release(resources) == resources


def test_tenths_add_up() -> None:
    rest = ResourceSet.from_floats({CPU: 1})
    for _ in range(10):
        rest = rest.acquire(ResourceSet.from_floats({CPU: 0.1}))
    assert rest == ResourceSet()
    assert str(rest) == "nothing"
    assert not rest


@pytest.mark.parametrize("value", [True, "1", None])
def test_a_quantity_is_a_number(value: Any) -> None:
    with pytest.raises(TypeError, match="num_cpus"):
        to_units("num_cpus", value)


@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), float("inf"), 1e15, 0.00001])
def test_a_quantity_has_bounds(value: float) -> None:
    with pytest.raises(ValueError, match="num_cpus"):
        to_units("num_cpus", value)


def test_thirds_are_rounded_to_the_granularity() -> None:
    assert to_units("num_cpus", 1 / 3) == 3333
    assert to_units("num_cpus", 0.0001) == 1


def test_no_negative_resources() -> None:
    with pytest.raises(ValueError, match="CPU would be -1"):
        ResourceSet({CPU: -10_000})


def test_defaults_of_tasks_and_actors() -> None:
    one = ResourceSet.from_floats({CPU: 1})
    assert task_request(None) == one
    assert task_request(0) == ResourceSet()
    assert task_request(0.5).units_of(CPU) == 5000
    assert actor_request(None).placement == one
    assert actor_request(None).lifetime == ResourceSet()
    assert actor_request(2).placement == actor_request(2).lifetime == ResourceSet.from_floats({CPU: 2})
