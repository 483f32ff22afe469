"""What a decorator or an actor class turns user code into: plain values that the runtime submits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from msgspec import Struct, field

from actorlite.options import ActorOptions, MethodOptions, TaskOptions
from actorlite.signatures import CallShape


class CallKind(Enum):
    """How user code runs: plain code in a thread, coroutines on the worker's loop."""

    PLAIN = "plain"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"

    @property
    def streams(self) -> bool:
        """Whether a call is answered item by item."""
        return self is CallKind.GENERATOR or self is CallKind.ASYNC_GENERATOR


class FunctionDefinition(Struct, eq=False, weakref=True):
    """A remote function. Compared by identity: its code is encoded once per session."""

    function: Callable[..., Any]
    name: str
    kind: CallKind
    shape: CallShape
    options: TaskOptions


class MethodDefinition(Struct, frozen=True):
    """A method as a handle sees it; plain data, so that it travels with the handle."""

    name: str
    kind: CallKind
    shape: CallShape
    options: MethodOptions


class ActorDefinition(Struct, eq=False, weakref=True):
    """An actor class. `cls` is None in a process that only received a handle."""

    cls: type[Any] | None
    name: str
    constructor: CallShape
    methods: Mapping[str, MethodDefinition]
    options: ActorOptions
    attributes: frozenset[str] = field(default_factory=frozenset)
    """Names that exist on the class but are no methods, for a clear `AttributeError`."""
    has_readonly: bool = False
    """Whether any of its methods only reads."""
