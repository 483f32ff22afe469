"""Resource arithmetic in integers: one unit is 1/10 000, so that sums are exact."""

from __future__ import annotations

import math
from collections.abc import ItemsView, Mapping
from typing import Any

from msgspec import Struct, field

from actorlite.labels import check_labels

UNITS_PER_ONE = 10_000
MAX_QUANTITY = 1e14
CPU = "CPU"
GPU = "GPU"
MEMORY = "memory"
ACCELERATOR = "accelerator_type:"
"""Before the name of a kind of GPU: a node that has some has one unit of this (Ray, R-4)."""
ACCELERATOR_UNITS = 10
"""What a request for a kind of GPU takes of it: 0.001, so that it is never what is short."""
MIN_STORE_BYTES = 1 << 20
"""Of `object_store_memory`."""

PREDEFINED = {CPU: "num_cpus", GPU: "num_gpus", MEMORY: "memory"}
"""Resources that have a keyword of their own."""
RESERVED = frozenset({"object_store_memory", "bundle"})

Pairs = tuple[tuple[str, int], ...]
"""Names and units, as they travel."""


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


def shown(units: int) -> str:
    """For people: `1`, `0.5`, `1073741824`."""
    whole, rest = divmod(units, UNITS_PER_ONE)
    return f"{from_units(units):.4f}".rstrip("0") if rest else str(whole)


class ResourceSet:
    """Non-negative units by resource name. Immutable; names with zero units are not kept, so equality is by meaning."""

    __slots__ = ("_hash", "_more", "_units")

    def __init__(self, units: Mapping[str, int] | Pairs | None = None) -> None:
        kept: dict[str, int] = {}
        for name, number in sorted(units.items() if isinstance(units, dict) else dict(units or {}).items()):
            if number > 0:
                kept[name] = number
            elif number < 0:
                raise ValueError(f"{name} would be {shown(number)}: resources cannot be negative")
        self._units = kept
        self._hash: int | None = None
        self._more: Pairs | None = None

    @classmethod
    def in_order(cls, units: dict[str, int]) -> ResourceSet:
        """Of what is in the order of the names, and above zero: nodes reckon with sets for every lease and bundle."""
        made = cls.__new__(cls)
        made._units, made._hash, made._more = units, None, None
        return made

    @property
    def cpus(self) -> int:
        """Units of CPU, which travel by themselves."""
        return self._units.get(CPU, 0)

    @property
    def more(self) -> Pairs:
        """All else, in the order of the names."""
        if self._more is None:
            self._more = tuple([each for each in self._units.items() if each[0] != CPU])
        return self._more

    @property
    def accelerator_types(self) -> list[str]:
        return [name.removeprefix(ACCELERATOR) for name in self._units if name.startswith(ACCELERATOR)]

    @classmethod
    def from_floats(cls, quantities: Mapping[str, float]) -> ResourceSet:
        return cls({name: to_units(name, quantity) for name, quantity in quantities.items()})

    def to_floats(self) -> dict[str, float]:
        return {name: from_units(units) for name, units in self._units.items()}

    @property
    def pairs(self) -> Pairs:
        """In the order of the names."""
        return tuple(self._units.items())

    def items(self) -> ItemsView[str, int]:
        return self._units.items()

    def units_of(self, name: str) -> int:
        return self._units.get(name, 0)

    def less(self, other: ResourceSet) -> ResourceSet:
        """What is left of this set, where there may be less than `other` takes: then nothing is left."""
        if not other._units:
            return self
        left = self._units.copy()
        for name, units in other._units.items():
            if name in left:
                left[name] -= units
                if left[name] <= 0:
                    del left[name]
        return self.in_order(left)

    def at_most(self, other: ResourceSet) -> ResourceSet:
        """Of each resource the smaller quantity."""
        theirs = other._units
        return self.in_order({name: min(units, theirs[name]) for name, units in self._units.items() if name in theirs})

    def only(self, name: str) -> ResourceSet:
        return self.in_order({name: self._units[name]} if name in self._units else {})

    def without(self, name: str) -> ResourceSet:
        return self.in_order({each: units for each, units in self._units.items() if each != name})

    def __bool__(self) -> bool:
        return bool(self._units)

    def __eq__(self, other: object) -> bool:
        return self._units == other._units if isinstance(other, ResourceSet) else NotImplemented

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(tuple(self._units.items()))
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return ResourceSet, (dict(self._units),)

    def __repr__(self) -> str:
        return f"ResourceSet({self._units})"

    def __str__(self) -> str:
        return ", ".join(f"{name}: {shown(units)}" for name, units in self._units.items()) or "nothing"

    def fits(self, request: ResourceSet) -> bool:
        """Whether `request` can be acquired from this set."""
        mine = self._units
        for name, units in request._units.items():  # a loop: `all` makes a generator
            if mine.get(name, 0) < units:
                return False
        return True

    def acquire(self, request: ResourceSet) -> ResourceSet:
        """What remains. Raises `ValueError` naming the shortfall when it does not fit."""
        if not self.fits(request):
            raise ValueError(f"cannot acquire {request} from {self}: short of {self.shortfall(request)}")
        return self.less(request)

    def release(self, request: ResourceSet) -> ResourceSet:
        """This set with what was acquired back in it."""
        if not self._units or not request._units:
            return self if self._units else request
        total, known = self._units.copy(), True
        for name, units in request._units.items():
            known = known and name in total
            total[name] = total.get(name, 0) + units
        return self.in_order(total) if known else ResourceSet(total)

    def shortfall(self, request: ResourceSet) -> ResourceSet:
        """What is missing to fit `request`; empty when it fits."""
        return NOTHING if self.fits(request) else request.less(self)


ONE_CPU = ResourceSet({CPU: UNITS_PER_ONE})
NOTHING = ResourceSet()


def _others(
    num_gpus: float | None, memory: float | None, resources: Mapping[str, float], accelerator_type: str | None
) -> dict[str, int]:
    """Units of what is asked for beside CPU."""
    units = {name: to_units(f"resources[{name!r}]", quantity) for name, quantity in resources.items()}
    units[GPU] = to_units("num_gpus", num_gpus or 0)
    units[MEMORY] = to_units("memory", memory or 0)
    if accelerator_type:
        units[ACCELERATOR + accelerator_type] = ACCELERATOR_UNITS
    return units


def task_request(
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    resources: Mapping[str, float] | None = None,
    accelerator_type: str | None = None,
) -> ResourceSet:
    """What a task holds while it runs: one CPU unless told otherwise, and what else it asks for."""
    units = _others(num_gpus, memory, resources or {}, accelerator_type)
    return ResourceSet({**units, CPU: to_units("num_cpus", 1 if num_cpus is None else num_cpus)})


class ActorRequest(Struct, frozen=True):
    """What an actor needs to be placed, and what it holds while it lives."""

    placement: ResourceSet
    lifetime: ResourceSet


def actor_request(
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    resources: Mapping[str, float] | None = None,
    accelerator_type: str | None = None,
) -> ActorRequest:
    """Nothing asked for: one CPU to be placed and none while alive. Memory is always held for life; with anything else
    all of it is, and one CPU if no number is given (Ray, R-6)."""
    units = _others(num_gpus, memory, resources or {}, accelerator_type)
    anything = num_cpus is not None or any(number for name, number in units.items() if name != MEMORY)
    cpus = to_units("num_cpus", 1 if num_cpus is None else num_cpus)
    placement = ResourceSet({**units, CPU: cpus})
    return ActorRequest(placement, placement if anything else placement.without(CPU))


# --- what users give


def check_gpus(name: str, value: float) -> None:
    """Of a request: a share of one device, or whole devices."""
    to_units(name, value)
    if value > 1 and value != int(value):
        raise ValueError(
            f"{name}={value!r}: above 1 it must be a whole number of devices, since only one device can be shared"
        )


def check_resources(name: str, value: Any) -> None:
    """A dict of custom resources. Raises `TypeError` and `ValueError` that name the entry."""
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a dict of names and quantities, not {value!r} of type {type(value).__name__}")
    for key, quantity in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{name} key must be a str, not {key!r} of type {type(key).__name__}")
        if not key:
            raise ValueError(f"{name} must not contain an empty name: give the resource one")
        if key in PREDEFINED:
            raise ValueError(f"{name} must not contain {key!r}: use {PREDEFINED[key]}=...")
        if key in RESERVED:
            raise ValueError(f"{name} must not contain {key!r}: the name is reserved")
        to_units(f"{name}[{key!r}]", quantity)


class NodeResources(Struct, frozen=True):
    """What a new node is told to have; None is what is found on the host."""

    num_cpus: float | None = None
    num_gpus: int | None = None
    memory: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    max_workers: int | None = None
    """Worker processes at a time; None is without limit."""
    idle_workers: int | None = None
    """Workers that are kept for what comes, when they have nothing to do; None is one for each CPU."""

    def given(self) -> list[str]:
        """The names of what was given."""
        empty = NodeResources()
        return [name for name in self.__struct_fields__ if getattr(self, name) != getattr(empty, name)]


def check_node(what: NodeResources) -> None:
    """Raises `TypeError` and `ValueError` naming the argument of `init`."""
    cpus = what.num_cpus
    if cpus is not None:
        if isinstance(cpus, bool) or not isinstance(cpus, int | float):
            raise TypeError(f"num_cpus must be a number, not {cpus!r}")
        if cpus < 0:
            raise ValueError(f"num_cpus={cpus!r} is negative: give the number of CPUs that tasks may use")
        to_units("num_cpus", cpus)
    for name, remedy in (
        ("num_gpus", "the number of devices; tasks may ask for a share of one"),
        ("memory", "a number of bytes"),
        ("max_workers", "the number of worker processes"),
        ("idle_workers", "how many workers are kept although they have nothing to do"),
    ):
        value = getattr(what, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(
                f"{name} must be a whole number, not {value!r} of type {type(value).__name__}: give {remedy}"
            )
        least = 1 if name == "max_workers" else 0
        if value < least:
            raise ValueError(f"{name}={value!r} must be at least {least}: give {remedy}")
        to_units(name, value)
    check_resources("resources", what.resources)
    check_labels("labels", what.labels)
