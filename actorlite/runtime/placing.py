"""Where tasks and actors are to run: what their options say, and the placement group of the call that makes them."""

from __future__ import annotations

from functools import lru_cache

from msgspec import structs

from actorlite.context import CallScope
from actorlite.ids import ProcessId
from actorlite.options import ActorOptions, TaskOptions
from actorlite.resources import ResourceSet
from actorlite.runtime.node_client import PLAIN, Want
from actorlite.strategies import ANYWHERE, PlacementGroupStrategy, Where, check_fit
from actorlite.wire.calls import Envelope
from actorlite.wire.groups import GroupShape, InGroup, Place

Placed = tuple[Place | None, InGroup | None]
"""What is asked of the node, and the placement group that the work is in."""
NOT_PLACED: Placed = (None, None)


def placed(options: TaskOptions | ActorOptions, needs: ResourceSet, scope: CallScope | None, name: str) -> Placed:
    """Raises `ValueError` when it fits into no bundle of its group."""
    strategy, where = options.scheduling_strategy, options.where
    if where is ANYWHERE:
        if strategy is not None or scope is None or not scope.captures:
            return NOT_PLACED
        captured: InGroup = scope.inside
        shape = captured.shape
        check_fit(name, needs, shape.group, [ResourceSet(pairs) for pairs in shape.bundles], -1)
        return Place(group=shape.group), captured
    if isinstance(strategy, PlacementGroupStrategy) and strategy.placement_group is not None:
        strategy.check(name, needs)
        group: GroupShape = strategy.placement_group.shape
        return _place(where), InGroup(group, where.captures)
    return _place(where), None


def wanted(options: TaskOptions, scope: CallScope | None, name: str) -> tuple[Want, InGroup | None]:
    """What a worker for a task is asked for with, and the placement group that the task is in."""
    request = options.request
    place, inside = placed(options, request, scope, name)
    if options.is_plain and place is None:
        return PLAIN, None
    return Want(request, request, options.schedule_timeout, place), inside


def within(envelope: Envelope | None, inside: InGroup | None) -> Envelope | None:
    """What goes with a call, when the call is in a placement group."""
    return envelope if inside is None else structs.replace(envelope or Envelope(), inside=inside)


@lru_cache(maxsize=1000)
def _place(where: Where) -> Place:
    return Place(where.spread, ProcessId(where.node), where.soft, where.selectors, where.group, where.bundle)
