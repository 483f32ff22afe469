"""Why a request has no worker, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actorlite.resources import ACCELERATOR, PREDEFINED, Pairs, ResourceSet, shown

MAX_LISTED = 5

NodeTotal = tuple[str, ResourceSet]
NodeRoom = tuple[str, ResourceSet, ResourceSet]
"""A node, what it has, and what of it is free."""


def infeasible(label: str, needs: ResourceSet, nodes: Sequence[NodeTotal]) -> str:
    """No node will ever have room: which of them lacks what."""
    what = f"{label or 'this'} needs {needs}, but "
    short = sorted(((total.shortfall(needs), name, total) for name, total in nodes), key=lambda each: _sum(each[0]))
    if len(short) == 1:
        missing, _, total = short[0]
        where = f"the node has {_of(total, needs)} in all ({missing} too few)"
    else:
        listed = [f"node {name} has {_of(total, needs)} ({missing} too few)" for missing, name, total in short]
        where = "no node has as much: " + _some(listed)
    return f"{what}{where}: ask for less with {_keywords(needs)}, or start {_node(short)} with more"


def not_in_time(label: str, needs: ResourceSet, timeout_s: float) -> str:
    return f"{label or 'this'} needs {needs} and had no worker within schedule_timeout={timeout_s:g} s; "


def still_waiting(
    label: str,
    needs: ResourceSet,
    timeout_s: float,
    nodes: Sequence[NodeRoom],
    holders: Iterable[tuple[str, Pairs, int]],
    ahead: int,
) -> str:
    """It has waited for `timeout_s`; the first node is the caller's, where `holders` are and `ahead` others wait."""
    text = not_in_time(label, needs, timeout_s)
    rooms = []
    for name, total, free in nodes:
        if lacking := total.shortfall(needs):
            rooms.append(f"node {name} has {_of(total, needs)} in all ({lacking} too few)")
        else:
            missing = free.shortfall(needs)
            short = f" ({missing} too few)" if missing else ""
            rooms.append(f"node {name} has {_of(free, needs)} of {_of(total, needs)} free{short}")
    text += _some(rooms)
    wanted = [
        f"{count} x {what} ({ResourceSet(pairs)})"
        for what, pairs, count in holders
        if any(needs.units_of(name) for name, _ in pairs)
    ]
    if wanted:
        text += f"; held on the first by {_some(wanted)}"
    if ahead:
        text += f"; {ahead} requests wait there"
    return text


def _of(have: ResourceSet, needs: ResourceSet) -> str:
    return ", ".join(f"{name}: {shown(have.units_of(name))}" for name, _ in needs.items()) or "nothing"


def _some(listed: Sequence[str]) -> str:
    more = len(listed) - MAX_LISTED
    return "; ".join(listed[:MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _sum(resources: ResourceSet) -> int:
    return sum(units for _, units in resources.items())


def _keywords(needs: ResourceSet) -> str:
    found = []
    for name in dict(needs.pairs):
        word = PREDEFINED.get(name) or ("accelerator_type" if name.startswith(ACCELERATOR) else "resources")
        if f"{word}=" not in found:
            found.append(f"{word}=")
    return ", ".join(found)


def _node(short: Sequence[object]) -> str:
    return "the node" if len(short) == 1 else "a node"
