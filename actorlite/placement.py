"""Placement groups: resources on one node or several that are reserved together, for work that needs all of them.

What runs in a group uses its bundles only, and what runs outside never does. All calls here are coroutines: the node
that leads the cluster keeps the groups.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from weakref import WeakValueDictionary

from msgspec import Struct

from actorlite.context import Runtime, current_call, find_runtime
from actorlite.errors import ActorliteError, GetTimeoutError
from actorlite.resources import ResourceSet
from actorlite.strategies import (
    NodeAffinityStrategy,
    PlacementGroupStrategy,
    SpreadStrategy,
    group_request,
)
from actorlite.wire.groups import AwaitGroup, CreateGroup, DescribeGroups, GroupInfo, Groups, GroupShape, RemoveGroup

__all__ = [
    "NodeAffinityStrategy",
    "PlacementGroup",
    "PlacementGroupInfo",
    "PlacementGroupStrategy",
    "SpreadStrategy",
    "current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

logger = logging.getLogger("actorlite.runtime")

REASON_TIMEOUT_S = 2.0
"""For the reason why a group is not there in time."""

PackStrategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


class PlacementGroupInfo(Struct, frozen=True):
    """A placement group, as the node that leads the cluster knows it now."""

    id: str
    name: str
    namespace: str
    strategy: str
    bundles: tuple[Mapping[str, float], ...]
    state: str
    """`"PENDING"`, `"PREPARED"`, `"CREATED"`, `"RESCHEDULING"` or `"REMOVED"`."""
    reason: str
    """Why it is not created; empty when it is."""
    nodes: tuple[str | None, ...]
    """The node of each bundle, None for one that has none."""
    history: tuple[str, ...]
    """Its latest states, this one last."""
    is_detached: bool


class PlacementGroup:
    """What the user holds of a group: `await al.placement_group(...)` makes it. Equal by id, and can be sent along."""

    __slots__ = ("_shape", "_runtime", "_sizes", "_is_detached", "__weakref__")

    def __init__(self, shape: GroupShape, runtime: Runtime | None = None, *, is_detached: bool | None = None) -> None:
        self._shape = shape
        self._runtime = runtime
        self._is_detached = is_detached
        self._sizes = tuple([ResourceSet(pairs) for pairs in shape.bundles])

    @property
    def id(self) -> str:
        return self._shape.group

    @property
    def name(self) -> str:
        return self._shape.name

    @property
    def strategy(self) -> str:
        return self._shape.strategy

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What each bundle reserves."""
        return [size.to_floats() for size in self._sizes]

    @property
    def is_detached(self) -> bool | None:
        """Whether it outlives the session that made it; None for `current_placement_group()`: `state()` tells."""
        return self._is_detached

    @property
    def sizes(self) -> tuple[ResourceSet, ...]:
        """The same, exactly."""
        return self._sizes

    @property
    def shape(self) -> GroupShape:
        """As it travels."""
        return self._shape

    @property
    def bundle_count(self) -> int:
        return len(self._sizes)

    async def ready(self, timeout: float | None = None) -> PlacementGroup:
        """Return the group once all its bundles are reserved.

        Raises `PlacementGroupRemoved` when it is removed before, and, after `timeout` seconds, `GetTimeoutError` with
        the reason why it is not there yet. Right after its creation what that said is believed, once: a removal by
        another process meanwhile is seen by the first use of the group.
        """
        _check_timeout(timeout)
        runtime = self._runtime or find_runtime()
        if _fresh.pop(self.id, None) is not None:
            return self
        scope = current_call.get()
        if scope is not None:
            scope.enter_wait()  # the group may need the CPU of the task that waits for it
        try:
            async with asyncio.timeout(timeout):
                await _ask(runtime, AwaitGroup(self.id))
        except TimeoutError as error:
            if isinstance(error, ActorliteError):
                raise
            raise GetTimeoutError(await self._why_not(f"after {timeout:g} s")) from None
        finally:
            if scope is not None:
                scope.leave_wait()
        return self

    async def _why_not(self, when: str) -> str:
        """Its state, and why it is not there yet, in words. Whoever had a deadline does not wait for that for ever."""
        try:
            async with asyncio.timeout(REASON_TIMEOUT_S):
                info = await self.state()
        except TimeoutError:
            why = f"the node that leads has not said within {REASON_TIMEOUT_S:g} s why"
            return f"placement group {self.id} is not there {when}; {why}"
        return f"placement group {self.id} is {info.state} {when}; {info.reason or 'it is there now'}"

    async def wait(self, timeout: float | None = 30.0) -> bool:
        """Whether all its bundles are reserved, at the latest after `timeout` seconds. Raises
        `PlacementGroupRemoved`."""
        try:
            await self.ready(timeout)
        except GetTimeoutError:
            return False
        return True

    async def state(self) -> PlacementGroupInfo:
        """What it is now, and why it is not created. Raises `ValueError` for a group that is not known any more."""
        found = await _described(self._runtime or find_runtime(), DescribeGroups(group=self.id))
        if not found:
            raise ValueError(f"placement group {self.id} is not known: it ended long ago, or in another cluster")
        return _public(found[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return _group, (self._shape, self._is_detached)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<PlacementGroup {self.id}{name} {self.strategy} {self.bundles}>"


_fresh: WeakValueDictionary[str, PlacementGroup] = WeakValueDictionary()
"""Made by this process, and there at once, as the answer said: who waits for one need not ask, the first time. One that
is removed by this process, through whichever handle, is none of them any more."""


async def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: PackStrategy = "PACK",
    *,
    name: str = "",
    lifetime: Literal["detached"] | None = None,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
) -> PlacementGroup:
    """Ask for a group; it is there when `await group.ready()` returns.

    `bundles`: what each reserves on one node, such as `[{"CPU": 1, "GPU": 1}, {"CPU": 4}]`. All are reserved, or none.
    `strategy`: `"PACK"` on few nodes if possible, `"SPREAD"` over many if possible, `"STRICT_PACK"` on one node,
    `"STRICT_SPREAD"` each on another. It ends with the session that asked for it, unless `lifetime="detached"`.

    Raises `TypeError` and `ValueError` naming the argument, `PlacementGroupError` when the name is taken,
    `ControlUnavailable` without the node that leads the cluster.
    """
    request = group_request(bundles, strategy, name, lifetime, bundle_label_selector)
    runtime = find_runtime()
    shape = GroupShape(
        runtime.node.new_id(),
        tuple([size.pairs for size in request.sizes]),
        request.strategy,
        request.name,
        runtime.namespace,
        request.selectors,
    )
    is_detached = request.lifetime == "detached"
    if is_detached and request.name and runtime.namespace == runtime.job:
        logger.warning(
            "the detached placement group %r is in a namespace of this session only, %r: give al.init() a namespace=, "
            "or others cannot find it by its name",
            request.name,
            runtime.namespace,
        )
    try:
        info = await _ask(runtime, CreateGroup(shape, is_detached))
    except asyncio.CancelledError:
        await _remove(runtime, shape.group)
        raise
    group = PlacementGroup(shape, runtime, is_detached=is_detached)
    if info.state == "CREATED":
        _fresh[group.id] = group
    return group


async def remove_placement_group(group: PlacementGroup) -> None:
    """Give all its bundles back; returns when that is done. Idempotent.

    What runs in it is killed, and what waits for it fails with `TaskPlacementGroupRemoved`, also tasks that had retries
    left.
    """
    _check_group("remove_placement_group", group)
    _fresh.pop(group.id, None)
    await _remove(group._runtime or find_runtime(), group.id)


async def get_placement_group(name: str) -> PlacementGroup:
    """The group that has this name in the session's namespace. Raises `ValueError` when there is none."""
    if not isinstance(name, str):
        raise TypeError(
            f"name must be a str, not {name!r} of type {type(name).__name__}: give the name that the group was made "
            "with"
        )
    if not name:
        raise ValueError("name='' is empty: give the name that the group was made with")
    runtime = find_runtime()
    found = await _described(runtime, DescribeGroups(namespace=runtime.namespace, name=name))
    if not found:
        raise ValueError(
            f"name={name!r}: no placement group has it in namespace {runtime.namespace!r}; "
            "al.placement_group_table() lists all"
        )
    return PlacementGroup(found[0].shape, runtime, is_detached=found[0].detached)


async def placement_group_table(group: PlacementGroup | None = None) -> dict[str, PlacementGroupInfo]:
    """All groups of the cluster by id, those that were removed of late included; or only `group`."""
    if group is not None:
        _check_group("placement_group_table", group)
    wanted = DescribeGroups() if group is None else DescribeGroups(group=group.id)
    return {info.shape.group: _public(info) for info in await _described(find_runtime(), wanted)}


def current_placement_group() -> PlacementGroup | None:
    """The group that the running task or actor is in; None outside one, so always None in a driver."""
    scope = current_call.get()
    inside = scope.inside if scope is not None else None
    return None if inside is None else PlacementGroup(inside.shape)


def _group(shape: GroupShape, is_detached: bool | None) -> PlacementGroup:
    """As it was sent along."""
    return PlacementGroup(shape, is_detached=is_detached)


async def _ask(runtime: Runtime, body: Any) -> Any:
    """On the runtime's loop, whichever loop this is."""
    work = runtime.node.ask(body)
    if asyncio.get_running_loop() is runtime.loop:
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, runtime.loop))


async def _described(runtime: Runtime, wanted: DescribeGroups) -> Sequence[GroupInfo]:
    found = await _ask(runtime, wanted)
    if not isinstance(found, Groups):
        raise ActorliteError(f"the node answered {found!r}")
    return found.groups


async def _remove(runtime: Runtime, group: str) -> None:
    await _ask(runtime, RemoveGroup(group))


def _check_group(function: str, group: object) -> None:
    if not isinstance(group, PlacementGroup):
        raise TypeError(
            f"{function}() takes a PlacementGroup, not {group!r} of type {type(group).__name__}: give what "
            "`await al.placement_group(...)` or `await al.get_placement_group(name)` returned"
        )


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float)):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout={timeout!r} must not be negative: give 0 to look once, None to wait for ever")


def _public(info: GroupInfo) -> PlacementGroupInfo:
    shape = info.shape
    return PlacementGroupInfo(
        shape.group,
        shape.name,
        shape.namespace,
        shape.strategy,
        tuple([ResourceSet(pairs).to_floats() for pairs in shape.bundles]),
        info.state,
        info.reason,
        tuple([node or None for node in info.nodes]),
        info.history,
        info.detached,
    )
