"""Resource arithmetic in integers: one unit is 1/10 000, so that sums are exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNITS_PER_ONE = 10_000
MAX_QUANTITY = 1e14
CPU = "CPU"
MIN_STORE_BYTES = 1 << 20
"""Of `object_store_memory`."""


def to_units(name: str, quantity: float) -> int:
    """Units of a quantity, to the nearest 0.0001. Raises `TypeError` or `ValueError` naming `name` and the value."""
    if isinstance(quantity, bool) or not isinstance(quantity, int | float):
        raise TypeError(f"{name} must be a number, not {quantity!r} of type {type(quantity).__name__}")
    if math.isnan(quantity) or not 0 <= quantity <= MAX_QUANTITY:
        raise ValueError(f"{name}={quantity!r} must be between 0 and {MAX_QUANTITY:g}")
    units = round(quantity * UNITS_PER_ONE)
    if quantity and quantity * UNITS_PER_ONE < 1:
        raise ValueError(
            f"{name}={quantity!r} is below the granularity of {1 / UNITS_PER_ONE}: give 0 or at least that"
        )
    return units


def from_units(units: int) -> float:
    return units / UNITS_PER_ONE


@dataclass(frozen=True, slots=True, init=False)
class ResourceSet:
    """Non-negative units by resource name. Immutable; names with zero units are not kept, so equality is by meaning."""

    _units: Mapping[str, int]

    def __init__(self, units: Mapping[str, int] | None = None) -> None:
        kept = {name: number for name, number in (units or {}).items() if number}
        for name, number in kept.items():
            if number < 0:
                raise ValueError(f"{name} would be {from_units(number):g}: resources cannot be negative")
        object.__setattr__(self, "_units", kept)

    @classmethod
    def from_floats(cls, quantities: Mapping[str, float]) -> ResourceSet:
        return cls({name: to_units(name, quantity) for name, quantity in quantities.items()})

    def to_floats(self) -> dict[str, float]:
        return {name: from_units(units) for name, units in self._units.items()}

    def units_of(self, name: str) -> int:
        return self._units.get(name, 0)

    def __bool__(self) -> bool:
        return bool(self._units)

    def __hash__(self) -> int:
        return hash(frozenset(self._units.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return ResourceSet, (dict(self._units),)

    def __str__(self) -> str:
        return ", ".join(f"{name}: {from_units(units):g}" for name, units in sorted(self._units.items())) or "nothing"

    def fits(self, request: ResourceSet) -> bool:
        """Whether `request` can be acquired from this set."""
        mine = self._units
        return all(mine.get(name, 0) >= units for name, units in request._units.items())

    def acquire(self, request: ResourceSet) -> ResourceSet:
        """What remains. Raises `ValueError` naming the shortfall when it does not fit."""
        if not self.fits(request):
            raise ValueError(f"cannot acquire {request} from {self}: short of {self.shortfall(request)}")
        return ResourceSet({name: units - request.units_of(name) for name, units in self._units.items()})

    def release(self, request: ResourceSet) -> ResourceSet:
        """This set with what was acquired back in it."""
        return ResourceSet(
            {name: self.units_of(name) + request.units_of(name) for name in (*self._units, *request._units)}
        )

    def shortfall(self, request: ResourceSet) -> ResourceSet:
        """What is missing to fit `request`; empty when it fits."""
        return ResourceSet({name: max(0, units - self.units_of(name)) for name, units in request._units.items()})


def cpu_request(num_cpus: float | None, default: float) -> ResourceSet:
    """A request for CPUs only."""
    return ResourceSet({CPU: to_units("num_cpus", default if num_cpus is None else num_cpus)})


def task_request(num_cpus: float | None) -> ResourceSet:
    """What a task holds while it runs: one CPU unless told otherwise."""
    return cpu_request(num_cpus, 1)


@dataclass(frozen=True, slots=True)
class ActorRequest:
    """What an actor needs to be placed, and what it holds while it lives."""

    placement: ResourceSet
    lifetime: ResourceSet


def actor_request(num_cpus: float | None) -> ActorRequest:
    """Nothing asked for: one CPU to be placed and none while alive. Asked for: held for life."""
    return ActorRequest(placement=cpu_request(num_cpus, 1), lifetime=cpu_request(num_cpus, 0))
