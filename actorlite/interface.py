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
    kill,
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
    "ObjectRef",
    "ObjectRefStream",
    "RemoteFunction",
    "RemoteGenerator",
    "RuntimeContext",
    "Session",
    "StoredObjectInfo",
    "ValueStream",
    "arg",
    "as_completed",
    "cancel",
    "deregister_serializer",
    "describe",
    "errors",
    "exit_actor",
    "get",
    "init",
    "kill",
    "memory",
    "method",
    "propagate",
    "put",
    "ready",
    "register_serializer",
    "remote",
    "runtime_context",
    "shutdown",
    "sync",
    "terminate",
    "timeout",
    "traceparent",
    "wait",
]
