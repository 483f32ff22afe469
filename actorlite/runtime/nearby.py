"""Actors in the caller's own loop: a structured call may go straight to them.

In process, caller and actor share a loop, and the way through the transport is most of what a call costs. The shortcut
gives up nothing: arguments and results are copied unless they are immutable builtins, the call runs in a context of its
own, one at a time, in order, and errors arrive as from elsewhere. Whoever hosts actors in a loop registers here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from actorlite.context import Args, Kwargs
from actorlite.ids import ActorId, ProcessId

IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes})


class LocalHost(Protocol):
    """A worker whose actors live in this loop."""

    def admit(
        self, target: ActorId, method: str, caller: Any, args: Args, kwargs: Kwargs
    ) -> Coroutine[Any, Any, Any] | None:
        """Start a coroutine method now; None when the actor is not idle or not here, or the method is plain.

        `caller` is the calling runtime. The coroutine is the call: await it at once.
        """
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
