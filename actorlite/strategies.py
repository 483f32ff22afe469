"""Where work is to run, as users say it: strategies, label selectors, placement groups. Values only.

All three options together become one `Where`, which is what requests for workers carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict

from msgspec import Struct

from actorlite.labels import LabelSelector
from actorlite.loading import nearest
from actorlite.resources import CPU, RESERVED, ResourceSet, check_gpus, to_units

PACK_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_PACKS = ", ".join(map(repr, PACK_STRATEGIES))
LIFETIMES = ("detached",)
NODE_ID_CHARS = 16
ANY_BUNDLE = -1

Selector = tuple[tuple[str, str], ...]
"""A label selector as given, in a fixed order."""


class GroupLike(Protocol):
    """What a strategy must know of a placement group."""

    @property
    def id(self) -> str: ...

    @property
    def shape(self) -> Any:
        """As it travels."""
        ...

    @property
    def is_detached(self) -> bool | None:
        """None when that is not known."""
        ...

    @property
    def sizes(self) -> Sequence[ResourceSet]:
        """Of its bundles."""
        ...


class SpreadStrategy(Struct, frozen=True):
    """Go round all nodes that have room: the same as `scheduling_strategy="SPREAD"`."""


class NodeAffinityStrategy(Struct, frozen=True):
    """Run on one node. When it is gone, or too small, the call fails; with `soft=True` it runs elsewhere then.

    A busy node is waited for in either case.
    """

    node_id: str
    soft: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.node_id, str):
            raise TypeError(
                f"NodeAffinityStrategy(node_id={self.node_id!r}) must be a str, not {type(self.node_id).__name__}: "
                "give the id that runtime_context().node_id shows"
            )
        if len(self.node_id) != NODE_ID_CHARS or not all(char in "0123456789abcdef" for char in self.node_id):
            raise ValueError(
                f"NodeAffinityStrategy(node_id={self.node_id!r}) must be {NODE_ID_CHARS} hexadecimal digits: give the "
                "id that runtime_context().node_id shows"
            )
        if not isinstance(self.soft, bool):
            raise TypeError(f"NodeAffinityStrategy(soft={self.soft!r}) must be True or False")


class PlacementGroupStrategy(Struct, frozen=True):
    """Run in a bundle of a placement group: in the one of `bundle_index`, or in any (-1).

    `capture_children`: what such work starts runs in the group, too, unless it names a strategy of its own. With
    `placement_group=None` work runs outside the group that would capture it.
    """

    placement_group: GroupLike | None
    bundle_index: int = ANY_BUNDLE
    capture_children: bool = False

    def __post_init__(self) -> None:
        group, index = self.placement_group, self.bundle_index
        if group is not None and not (hasattr(group, "id") and hasattr(group, "sizes")):
            raise TypeError(
                f"PlacementGroupStrategy(placement_group={group!r}) must be a PlacementGroup or None, not "
                f"{type(group).__name__}: give what `await al.placement_group(...)` returned"
            )
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(
                f"PlacementGroupStrategy(bundle_index={index!r}) must be an int, not {type(index).__name__}: give the "
                "number of a bundle, or -1 for any of them"
            )
        if not isinstance(self.capture_children, bool):
            raise TypeError(f"PlacementGroupStrategy(capture_children={self.capture_children!r}) must be True or False")
        if group is None and index != ANY_BUNDLE:
            raise ValueError(
                f"PlacementGroupStrategy(bundle_index={index!r}) needs placement_group=...: without a group there are "
                "no bundles; leave bundle_index out"
            )
        if group is not None and not ANY_BUNDLE <= index < len(group.sizes):
            raise ValueError(
                f"PlacementGroupStrategy(bundle_index={index!r}) must be from 0 to {len(group.sizes) - 1}, the bundles "
                "of the group, or -1 for any of them"
            )

    def check(self, what: str, needs: ResourceSet) -> None:
        """Raise `ValueError` when no bundle that may be used is large enough, even empty."""
        group = self.placement_group
        if group is not None:
            check_fit(what, needs, group.id, group.sizes, self.bundle_index)


def check_fit(what: str, needs: ResourceSet, group: str, sizes: Sequence[ResourceSet], index: int) -> None:
    """Raise `ValueError` when the bundle, or with an index of -1 any bundle, is too small even when it is empty."""
    sizes = sizes if index < 0 else [sizes[index]]
    if any(size.fits(needs) for size in sizes):
        return
    listed = "; ".join(f"{{{size}}}" for size in list(dict.fromkeys(sizes))[:5])
    which = "any bundle" if index < 0 else f"bundle {index}"
    also = ""
    if needs.units_of(CPU) and not any(size.units_of(CPU) for size in sizes):
        also = ", or give num_cpus=0 if it needs none"
    raise ValueError(
        f"{what} needs {{{needs}}} and cannot fit into {which} of placement group {group} ({listed}): ask for less, or "
        f"make the bundles larger{also}"
    )


Strategy = Literal["DEFAULT", "SPREAD"] | SpreadStrategy | NodeAffinityStrategy | PlacementGroupStrategy


class Where(Struct, frozen=True):
    """What a request for a worker says of the place. Equal ones share leases."""

    spread: bool = False
    node: str = ""
    """The id of the only node that will do, or (`soft`) of the preferred one."""
    soft: bool = False
    selectors: tuple[Selector, ...] = ()
    """Tried in this order."""
    group: str = ""
    bundle: int = ANY_BUNDLE
    captures: bool = False


ANYWHERE = Where()


def where(strategy: Strategy | None, selector: Selector, fallback: tuple[Selector, ...]) -> Where:
    """Of options that were checked one by one. Raises `ValueError` when they contradict each other."""
    if fallback and not selector:
        raise ValueError(
            "option fallback_strategy needs label_selector=...: it says what to try when that finds no node"
        )
    selectors = (selector, *fallback) if selector else ()
    if isinstance(strategy, NodeAffinityStrategy):
        return Where(node=strategy.node_id, soft=strategy.soft, selectors=selectors)
    if isinstance(strategy, PlacementGroupStrategy) and strategy.placement_group is not None:
        if selectors:
            raise ValueError(
                f"option label_selector={dict(selector)!r} contradicts a PlacementGroupStrategy: bundles have their "
                "nodes; give placement_group(bundle_label_selector=...) instead"
            )
        group, index, captures = strategy.placement_group, strategy.bundle_index, strategy.capture_children
        return Where(group=group.id, bundle=index, captures=captures)
    return Where(spread=strategy == "SPREAD" or isinstance(strategy, SpreadStrategy), selectors=selectors)


def ordered(selector: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(selector.items()))


def fallbacks(strategies: Sequence[Mapping[str, Any]]) -> tuple[Selector, ...]:
    return tuple([ordered(each["label_selector"]) for each in strategies])


class PlacedOptionsDict(TypedDict, total=False):
    """What tasks and actors ask of a node."""

    num_cpus: float | None
    num_gpus: float | None
    memory: float | None
    resources: dict[str, float] | None
    accelerator_type: str | None
    schedule_timeout: float | None
    scheduling_strategy: Strategy | None
    label_selector: Mapping[str, str] | None
    fallback_strategy: Sequence[Mapping[str, Mapping[str, str]]] | None


KEPT_AS: Mapping[str, Callable[[Any], Any]] = {
    "resources": ordered,
    "label_selector": ordered,
    "fallback_strategy": fallbacks,
}
"""Options whose values are kept in a fixed order."""


# --- what users give


def check_strategy(name: str, value: Any) -> None:
    if isinstance(value, SpreadStrategy | NodeAffinityStrategy | PlacementGroupStrategy):
        return
    known = '"DEFAULT", "SPREAD", SpreadStrategy(), NodeAffinityStrategy(...) or PlacementGroupStrategy(...)'
    if not isinstance(value, str):
        raise TypeError(f"option {name} must be {known}, not {value!r} of type {type(value).__name__}")
    if value not in ("DEFAULT", "SPREAD"):
        raise ValueError(f"option {name}={value!r} must be {known}")


def check_selector(name: str, value: Any) -> None:
    LabelSelector.parse(f"option {name}", value)


def check_fallback(name: str, value: Any) -> None:
    """A list of `{"label_selector": {...}}`."""
    if not isinstance(value, list | tuple):
        raise TypeError(
            f'option {name} must be a list of {{"label_selector": ...}}, not {value!r} of type {type(value).__name__}'
        )
    for number, each in enumerate(value):
        where = f"option {name}[{number}]"
        if not isinstance(each, Mapping):
            raise TypeError(
                f'{where} must be a dict {{"label_selector": ...}}, not {each!r} of type {type(each).__name__}'
            )
        for key in each:
            if key != "label_selector":
                near = ": did you mean 'label_selector'?" if nearest(str(key), ["label_selector"]) else ""
                raise ValueError(f"{where} has the key {key!r}, but only 'label_selector' can be there{near}")
        if not each:
            raise ValueError(f'{where} is empty: write {{"label_selector": {{...}}}}, or leave it out')
        LabelSelector.parse(f"{where}['label_selector']", each["label_selector"])


def check_light(process: str) -> None:
    """Raise `ValueError` for an actor with a place of its own that shares its process."""
    if process == "shared":
        raise ValueError(
            'option process="shared" contradicts scheduling_strategy=, label_selector=: light actors are all in one '
            "worker of their creator's node; leave one of them out"
        )


class GroupRequest(Struct, frozen=True):
    """A placement group that is asked for, validated."""

    sizes: tuple[ResourceSet, ...]
    strategy: str = "PACK"
    name: str = ""
    lifetime: str | None = None
    selectors: tuple[Selector, ...] = ()
    """One for each bundle, or none at all."""


def group_request(bundles: Any, strategy: Any, name: Any, lifetime: Any, selectors: Any) -> GroupRequest:
    """Raises `TypeError` and `ValueError` that name the argument of `placement_group` and the remedy."""
    if not isinstance(bundles, list | tuple):
        raise TypeError(
            f'bundles must be a list of dicts, such as [{{"CPU": 1}}], not {bundles!r} of type {type(bundles).__name__}'
        )
    if not bundles:
        raise ValueError('bundles=[] is empty: give at least one bundle, such as [{"CPU": 1}]')
    sizes = tuple(_bundle(f"bundles[{number}]", bundle) for number, bundle in enumerate(bundles))
    if not isinstance(strategy, str):
        raise TypeError(f"strategy must be one of {_PACKS}, not {strategy!r} of type {type(strategy).__name__}")
    if strategy not in PACK_STRATEGIES:
        near = nearest(strategy.upper(), PACK_STRATEGIES)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"strategy={strategy!r} must be one of {_PACKS}{hint}")
    if name is not None and not isinstance(name, str):
        raise TypeError(
            f"name must be a str, not {name!r} of type {type(name).__name__}: leave it out for a group without a name"
        )
    if lifetime is not None and lifetime not in LIFETIMES:
        raise ValueError(
            f'lifetime={lifetime!r} must be "detached", or None for a group that ends with its creator: '
            "leave it out for that"
        )
    return GroupRequest(sizes, strategy, name or "", lifetime, _selectors(selectors, len(sizes)))


def _bundle(where: str, bundle: Any) -> ResourceSet:
    if not isinstance(bundle, Mapping):
        raise TypeError(
            f"{where} must be a dict of resource names and quantities, not {bundle!r} of type {type(bundle).__name__}"
        )
    if not bundle:
        raise ValueError(f'{where} is an empty dict: give it what it reserves, such as {{"CPU": 1}}')
    units: dict[str, int] = {}
    for key, quantity in bundle.items():
        if not isinstance(key, str):
            raise TypeError(f"{where} must have names that are str, not {key!r} of type {type(key).__name__}")
        if not key:
            raise ValueError(f"{where} has an empty resource name: give it a name such as 'CPU'")
        if key == "object_store_memory":
            raise ValueError(
                f"{where} must not contain 'object_store_memory': the store is no resource to reserve; leave it out"
            )
        if key in RESERVED:
            raise ValueError(f"{where} must not contain {key!r}: the name is reserved; choose another one")
        if key == "GPU":
            check_gpus(f"{where}['GPU']", quantity)
        units[key] = to_units(f"{where}[{key!r}]", quantity)
    size = ResourceSet(units)
    if not size:
        raise ValueError(f"{where}={dict(bundle)!r} reserves nothing: give at least one quantity above 0")
    return size


def _selectors(selectors: Any, bundles: int) -> tuple[Selector, ...]:
    name = "bundle_label_selector"
    if selectors is None:
        return ()
    if not isinstance(selectors, list | tuple):
        raise TypeError(
            f"{name} must be a list with one dict for each bundle, not {selectors!r} of type {type(selectors).__name__}"
        )
    if len(selectors) != bundles:
        raise ValueError(
            f"{name} has {len(selectors)} entries for {bundles} bundles: give one for each, {{}} for no selector"
        )
    for number, each in enumerate(selectors):
        LabelSelector.parse(f"{name}[{number}]", each)
    return tuple(ordered(each) for each in selectors) if any(selectors) else ()
