"""All that is public in `actorlite`, which loads this when the first of its names is used."""

from actorlite import errors, sync
from actorlite.actor import Actor, ActorClass, ActorHandle
from actorlite.api import (
    ActorInfo,
    RuntimeContext,
    arg,
    as_completed,
    cancel,
    describe,
    exit_actor,
    get,
    get_actor,
    kill,
    list_named_actors,
    put,
    ready,
    remote,
    runtime_context,
    terminate,
    wait,
)
from actorlite.context import current_trace as traceparent
from actorlite.deadlines import timeout
from actorlite.inspection import MemoryInfo, StoredObjectInfo, memory
from actorlite.mailboxes import Mailbox
from actorlite.methods import BoundGenerator, BoundMethod, method
from actorlite.placement import (
    NodeAffinityStrategy,
    PlacementGroup,
    PlacementGroupInfo,
    PlacementGroupStrategy,
    SpreadStrategy,
    current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from actorlite.propagation import propagate
from actorlite.refs import ObjectRef
from actorlite.session import Session, init, shutdown
from actorlite.streams import ObjectRefStream, ValueStream
from actorlite.task import RemoteFunction, RemoteGenerator
from actorlite.wire.registration import deregister_serializer, register_serializer

__all__ = [
    "Actor",
    "ActorClass",
    "ActorHandle",
    "ActorInfo",
    "BoundGenerator",
    "BoundMethod",
    "Mailbox",
    "MemoryInfo",
    "NodeAffinityStrategy",
    "ObjectRef",
    "ObjectRefStream",
    "PlacementGroup",
    "PlacementGroupInfo",
    "PlacementGroupStrategy",
    "RemoteFunction",
    "RemoteGenerator",
    "RuntimeContext",
    "Session",
    "SpreadStrategy",
    "StoredObjectInfo",
    "ValueStream",
    "arg",
    "as_completed",
    "cancel",
    "current_placement_group",
    "deregister_serializer",
    "describe",
    "errors",
    "exit_actor",
    "get",
    "get_actor",
    "get_placement_group",
    "init",
    "kill",
    "list_named_actors",
    "memory",
    "method",
    "placement_group",
    "placement_group_table",
    "propagate",
    "put",
    "ready",
    "register_serializer",
    "remote",
    "remove_placement_group",
    "runtime_context",
    "shutdown",
    "sync",
    "terminate",
    "timeout",
    "traceparent",
    "wait",
]
