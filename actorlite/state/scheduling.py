"""Which node a request goes to. Pure.

What is known of other nodes is what they last said, so a request may find less room where it goes than was seen from
here: then it waits there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from actorlite.ids import ProcessId
from actorlite.resources import CPU, ResourceSet

CROWDED = 0.5
"""From this use on a node is avoided (Ray: `scheduler_spread_threshold`): below it work is packed, above it spread."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node: what it has, and what of that is free."""

    node: ProcessId
    total: ResourceSet
    free: ResourceSet
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def use(self) -> float:
        """Of its CPUs, from 0 to 1; what is below `CROWDED` counts as nothing."""
        total = self.total.units_of(CPU)
        use = (total - self.free.units_of(CPU)) / total if total else 0.0
        return use if use >= CROWDED else 0.0


def choose(needs: ResourceSet, near: ProcessId, here: NodeView, others: Sequence[NodeView]) -> ProcessId | None:
    """The node for a request, or None when no node has as much, even empty.

    In this order: the node where the arguments lie (`near`), this one, the least used one; of those with room, else of
    all that could ever have it.
    """
    everyone = [here, *others]
    able = [each for each in everyone if each.total.fits(needs)]
    ready = [each for each in able if each.free.fits(needs)]
    for found in ready or able:
        if found.node == near:
            return found.node
    if ready:
        return min(ready, key=lambda each: (each.use, each is not here, each.node)).node
    if here.total.fits(needs):
        return here.node
    return max(able, key=lambda each: (each.total.units_of(CPU), each.node)).node if able else None
