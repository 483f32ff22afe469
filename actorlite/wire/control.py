"""Messages to and from control; part of the union in `wire.messages`.

A process asks its own node, and that the node that leads the cluster, unless it is the one.
"""

from __future__ import annotations

from msgspec import Struct

from actorlite.ids import ActorId, ObjectId, ProcessId
from actorlite.wire.groups import InGroup, Place

CONTROL = "control://"
"""Stands for the address of whoever owns detached actors: each process asks its own node."""

ACTOR_KIND = "actor"

NOBODY = ProcessId("")


class _ControlMessage(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    pass


class ClaimName(_ControlMessage, tag=180, frozen=True):
    """`target`, which the sender owns, wants the name. Answered by `NameHolder`: whoever has it now."""

    kind: str
    namespace: str
    name: str
    target: str
    entry: bytes
    """What others need to use it, as the sender encoded it."""
    owner: ProcessId = NOBODY
    """The sender, when its node passes the request on."""


class ReleaseName(_ControlMessage, tag=181, frozen=True):
    """`target` has ended. Answered by `Yes`."""

    kind: str
    namespace: str
    name: str
    target: str


class FindName(_ControlMessage, tag=182, frozen=True):
    """Who has the name? Answered by `NameHolder`, or by nothing."""

    kind: str
    namespace: str
    name: str


class ListNames(_ControlMessage, tag=183, frozen=True):
    """All names, of one namespace unless it is empty. Answered by `Names`."""

    kind: str
    namespace: str = ""


class EncodedValue(_ControlMessage, frozen=True):
    """A user value with all its buffers, which nobody looks into on its way."""

    kind: int
    data: bytes
    buffers: tuple[bytes, ...] = ()
    refs: tuple[tuple[ObjectId, str], ...] = ()
    """As in `Payload`: what is contained, and its owners' addresses."""


class DetachedActor(_ControlMessage, frozen=True):
    """All that is needed to make an actor, also by a process that has not, and must not have, its class."""

    target: ActorId
    namespace: str
    name: str
    entry: bytes
    class_name: str
    options: bytes
    """Pickled; of classes of ours only."""
    code: EncodedValue
    code_name: str
    args: EncodedValue
    slots: tuple[tuple[int | str, EncodedValue], ...] = ()
    """Arguments that were given as references: their values."""
    sys_path: tuple[str, ...] = ()
    cwd: str = ""
    job_namespace: str = ""
    """The namespace of the job that it was made in: its own code's."""
    has_readonly: bool = False
    has_stop: bool = False
    """Whether the class has `on_stop`."""
    restarts: int = 0
    """How often it was made anew."""
    python: str = ""
    """Minor version: code goes by value."""
    place: Place | None = None
    """Where it is to be."""
    inside: InGroup | None = None
    """The placement group that it is in."""
    moves: int = 0
    """How often of that because its node was drained, which does not count."""


class CreateDetached(_ControlMessage, tag=184, frozen=True):
    """Make the actor, unless another one has its name. Answered by `NameHolder`."""

    actor: DetachedActor


class NameHolder(_ControlMessage, tag=190, frozen=True):
    target: str
    entry: bytes
    claimed: bool = False
    """Whether it is the sender's."""


class Names(_ControlMessage, tag=191, frozen=True):
    names: tuple[tuple[str, str], ...]
    """Namespace and name."""
