"""Messages about placement groups; part of the union in `wire.messages`.

A process asks its own node, and that the node that leads the cluster, which coordinates all groups; the leading node
asks those that bundles are to be on.
"""

from __future__ import annotations

from msgspec import Struct

from actorlite.ids import ProcessId
from actorlite.wire.nodes import NodeLoad

Pairs = tuple[tuple[str, int], ...]
"""Names and units of resources."""
Labels = tuple[tuple[str, str], ...]


class _GroupMessage(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    pass


class Place(_GroupMessage, frozen=True):
    """Where a worker is to be: `strategies.Where`."""

    spread: bool = False
    node: ProcessId = ProcessId("")
    soft: bool = False
    selectors: tuple[Labels, ...] = ()
    group: str = ""
    bundle: int = -1


class GroupShape(_GroupMessage, frozen=True):
    """What a group is, whatever becomes of it."""

    group: str
    bundles: tuple[Pairs, ...]
    strategy: str = "PACK"
    name: str = ""
    namespace: str = ""
    selectors: tuple[Labels, ...] = ()
    """One for each bundle, or none at all."""


class InGroup(_GroupMessage, frozen=True):
    """What runs in a group."""

    shape: GroupShape
    captures: bool = False
    """Whether what it starts runs there, too."""


class CreateGroup(_GroupMessage, tag=150, frozen=True):
    """Reserve the group's bundles. Answered by `GroupInfo`; fails when the name is taken."""

    shape: GroupShape
    detached: bool = False
    owner: str = ""
    """The sender's job, as its node says. With its end the group ends, unless it is detached."""
    home: ProcessId = ProcessId("")
    """The node of that job's driver, as its node says."""


class AwaitGroup(_GroupMessage, tag=151, frozen=True):
    """Answered by `GroupInfo` as soon as all bundles are reserved; fails when the group is removed."""

    group: str


class RemoveGroup(_GroupMessage, tag=152, frozen=True):
    """Give all its bundles back. Answered by `Yes` when what ran in them has ended."""

    group: str


class DescribeGroups(_GroupMessage, tag=153, frozen=True):
    """Answered by `Groups`: the one with this id, or name, or all."""

    group: str = ""
    namespace: str = ""
    name: str = ""


class PrepareBundles(_GroupMessage, tag=154, frozen=True):
    """The leading node asks for room. Answered by `BundlesDone`."""

    group: str
    epoch: int
    bundles: tuple[tuple[int, Pairs], ...]
    """Indices and sizes."""


class CommitBundles(_GroupMessage, tag=155, frozen=True):
    """What was prepared is the group's. Answered by `BundlesDone`."""

    group: str
    epoch: int


class ReturnBundles(_GroupMessage, tag=156, frozen=True):
    """Give back what was prepared, or is committed, in that attempt. Answered by `BundlesDone`, when it is free."""

    group: str
    epoch: int
    removed: bool = False
    """Whether the group is gone; else only this attempt."""


class KeepRoom(_GroupMessage, tag=157, frozen=True):
    """The leading node has a group wait for room; with no `size`, not any more. Nobody answers."""

    group: str
    size: Pairs = ()


class GroupInfo(_GroupMessage, tag=160, frozen=True):
    shape: GroupShape
    state: str
    reason: str = ""
    """Why it is not created."""
    nodes: tuple[ProcessId, ...] = ()
    """Of each bundle; empty for one without a node."""
    detached: bool = False
    history: tuple[str, ...] = ()
    """Its latest states, this one last."""


class Groups(_GroupMessage, tag=161, frozen=True):
    groups: tuple[GroupInfo, ...]


class BundlesDone(_GroupMessage, tag=162, frozen=True):
    load: NodeLoad
    """What the sender has now."""
    refusal: str = ""
    """Why it has not set anything aside."""
