"""Messages between nodes; part of the union in `wire.messages`.

Each node is connected to each other one, and only nodes talk to foreign nodes: a process asks its own, which asks.
"""

from __future__ import annotations

from msgspec import Struct

from actorlite.ids import ProcessId


class _NodeMessage(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    pass


class JobInfo(_NodeMessage, frozen=True):
    """What another node needs to know to start workers for a job."""

    name: str
    namespace: str
    sys_path: tuple[str, ...]
    cwd: str
    home: ProcessId
    """The node of its driver, with which it ends."""


class NodeLoad(_NodeMessage, tag=70, frozen=True):
    """What the sender has, in units of CPU, and what of it is free."""

    total: int
    free: int
    more: tuple[tuple[str, int, int], ...] = ()
    """Other resources: name, in all, and free."""
    labels: tuple[tuple[str, str], ...] = ()
    kept: tuple[tuple[str, int], ...] = ()
    """Free, too, but for placement groups only."""
    lasting: tuple[tuple[str, int], ...] = ()
    """Held by what may not end by itself."""
    draining: bool = False
    """Whether it takes nothing new, and leaves soon."""
    waited: tuple[tuple[str, int], ...] = ()
    """Free, too, but for requests that have waited for long."""
    devices: tuple[int, ...] = ()
    """What is free of each GPU."""


class ProcessEnded(_NodeMessage, tag=71, frozen=True):
    """A process of the sender's node is gone: it holds and owns nothing any more. Of any other it is not believed."""

    process: ProcessId
    job: str = ""
    """The job that has ended with it, when it was a driver."""


class SendChunk(_NodeMessage, tag=72, frozen=True):
    """Send a part of an object that the sender has opened."""

    id: int
    """Chosen by the sender; in the answer."""
    key: str
    start: int
    length: int


class Chunk(_NodeMessage, tag=73, frozen=True):
    """Answers `SendChunk`: the bytes are the second part of the message. With `error` there are none."""

    id: int
    error: str = ""


class Capacity(_NodeMessage, tag=74, frozen=True):
    """Node to its processes: what all nodes have together, in units of CPU, and how many they are."""

    cpu_units: int
    nodes: int
    more: tuple[tuple[str, int], ...] = ()
    """Other resources."""


class JoinNode(_NodeMessage, tag=135, frozen=True):
    """The sender is a node, and wants to know the others. The one that leads hears a `NodeLoad` of it next: from then
    on it is obeyed."""

    load: NodeLoad
    leader: ProcessId = ProcessId("")
    """The node that control is on, as far as the sender knows; empty when it is new."""


class DrainNode(_NodeMessage, tag=139, frozen=True):
    """Take nothing new, and end when what runs there has ended, or is ended after `timeout_s`. Answered by `Yes`, when
    that is so. To a node that is being drained it says at most that there is less time. Refused by a node that leads,
    and by the last one."""

    timeout_s: float | None = None
    """None: as long as it takes."""
    node: ProcessId = ProcessId("")
    """Another node that is meant, which the receiver asks."""


class HasObject(_NodeMessage, tag=136, frozen=True):
    """Has the receiver all of it?"""

    key: str


class KnownNodes(_NodeMessage, tag=145, frozen=True):
    """Answers `JoinNode`: the receiver's load, and where the others are that it knows."""

    load: NodeLoad
    addresses: tuple[str, ...]
    leader: ProcessId = ProcessId("")
    """The node that control is on; empty when the sender knows none, or has lost it."""
