from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorlite.resources import UNITS_PER_ONE
from actorlite.state.devices import Devices, Share, fits, without

ONE = UNITS_PER_ONE


def test_shares_are_packed_and_whole_ones_stay_free() -> None:
    devices = Devices(3)
    assert devices.take(ONE // 2) == ((0, ONE // 2),)
    assert devices.take(ONE // 4) == ((0, ONE // 4),)
    assert devices.take(ONE // 2) == ((1, ONE // 2),)
    assert devices.take(ONE // 4) == ((0, ONE // 4),), "the fullest that has room"
    assert devices.take(ONE) == ((2, ONE),)
    assert not devices.fits(ONE) and devices.fits(ONE // 2) and devices.fits(0)
    assert repr(devices) == "<Devices free=['0', '0.5', '0']>"


def test_what_does_not_fit_is_refused() -> None:
    devices = Devices(1)
    assert devices.take(0) == ()
    with pytest.raises(ValueError, match="no room for 2 GPUs"):
        devices.take(2 * ONE)
    with pytest.raises(ValueError, match="given back"):
        devices.give(((0, 1),))


@given(st.integers(0, 4), st.lists(st.tuples(st.sampled_from([1, 2500, 5000, ONE, 2 * ONE]), st.booleans())))
def test_a_device_is_never_given_twice(count: int, steps: list[tuple[int, bool]]) -> None:
    devices = Devices(count)
    taken: list[Share] = []
    for units, give in steps:
        if give and taken:
            devices.give(taken.pop(0))
        elif devices.fits(units):
            taken.append(devices.take(units))
            assert sum(part for _, part in taken[-1]) == units
        for index, free in enumerate(devices.free):
            parts = [part for share in taken for each, part in share if each == index]
            assert free == ONE - sum(parts) >= 0
            assert ONE not in parts or len(parts) == 1
    for share in taken:
        devices.give(share)
    assert devices.free == [ONE] * count


@pytest.mark.parametrize("units", [0, 3_000, 5_000, 10_000, 20_000, 30_000])
def test_what_is_left_is_told_as_it_is_when_it_is_taken(units: int) -> None:
    devices = Devices(4)
    devices.take(6_000)
    devices.take(10_000)
    assert fits(tuple(devices.free), units) == devices.fits(units)
    left = without(tuple(devices.free), units)
    if devices.fits(units):
        devices.take(units)
    assert left == tuple(devices.free)
