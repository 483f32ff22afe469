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
from actorlite.methods import BoundGenerator, BoundMethod, method
from actorlite.options import Mailbox
from actorlite.propagation import propagate
from actorlite.refs import ObjectRef
from actorlite.session import Session, init, shutdown
from actorlite.streams import ObjectRefStream, ValueStream
from actorlite.task import RemoteFunction, RemoteGenerator

__all__ = [
    "Actor",
    "ActorClass",
    "ActorHandle",
    "ActorInfo",
    "BoundGenerator",
    "BoundMethod",
    "Mailbox",
    "ObjectRef",
    "ObjectRefStream",
    "RemoteFunction",
    "RemoteGenerator",
    "RuntimeContext",
    "Session",
    "ValueStream",
    "arg",
    "as_completed",
    "cancel",
    "describe",
    "errors",
    "exit_actor",
    "get",
    "init",
    "kill",
    "method",
    "propagate",
    "put",
    "ready",
    "remote",
    "runtime_context",
    "shutdown",
    "sync",
    "terminate",
    "timeout",
    "traceparent",
    "wait",
]
