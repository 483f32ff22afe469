"""Actors in the caller's own loop: a structured call may be answered on the spot.

In process, caller and actor share a loop, and the way through the transport is most of what a call costs. The shortcut
takes calls that cannot be told from those that travel: of a coroutine method that awaits nothing, so that it runs in
one step and there is no moment at which its caller could be cancelled or its actor killed; of an actor that is idle;
with arguments that are immutable builtins. Results are copied unless they are immutable, the call has a context of its
own, and errors arrive as from elsewhere. Whoever hosts actors in a loop registers here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from actorlite.context import Args, Kwargs
from actorlite.ids import ActorId, ProcessId

IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes})


class _MustSend:
    def __repr__(self) -> str:
        return "must send"


MUST_SEND = _MustSend()
"""In place of a result: this call has to travel."""


class LocalHost(Protocol):
    """A worker whose actors live in this loop."""

    def run_now(self, target: ActorId, method: str, caller: Any, args: Args, kwargs: Kwargs) -> Any:
        """Run a method to its end and return its value, or raise its error; `MUST_SEND` when that cannot be.

        `caller` is the calling runtime.
        """
        ...

    def is_turn_over(self) -> bool:
        """Whether the caller of the last call should let others run before it goes on."""
        ...


_hosts: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[ProcessId, LocalHost]] = WeakKeyDictionary()


def hosts_in(loop: asyncio.AbstractEventLoop) -> dict[ProcessId, LocalHost]:
    """The hosts in a loop, by process id."""
    hosts = _hosts.get(loop)
    if hosts is None:
        hosts = _hosts[loop] = {}
    return hosts


def are_immutable(args: Args, kwargs: Mapping[str, Any]) -> bool:
    """Whether arguments can be handed over as they are."""
    for value in args:
        if type(value) not in IMMUTABLE:
            return False
    return not kwargs or all(type(value) in IMMUTABLE for value in kwargs.values())
