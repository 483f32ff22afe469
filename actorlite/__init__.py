"""An asyncio-native distributed runtime."""

from actorlite import errors, sync
from actorlite.actor import Actor, ActorClass, ActorHandle, BoundMethod, method
from actorlite.api import (
    RuntimeContext,
    arg,
    as_completed,
    cancel,
    get,
    kill,
    put,
    ready,
    remote,
    runtime_context,
    wait,
)
from actorlite.refs import ObjectRef
from actorlite.task import RemoteFunction

__all__ = [
    "Actor",
    "ActorClass",
    "ActorHandle",
    "BoundMethod",
    "ObjectRef",
    "RemoteFunction",
    "RuntimeContext",
    "arg",
    "as_completed",
    "cancel",
    "errors",
    "get",
    "kill",
    "method",
    "put",
    "ready",
    "remote",
    "runtime_context",
    "sync",
    "wait",
]
