"""The list of pending references that `wait` returns: waiting for one reference after another costs little with it.

A program passes the list that it got back to the next `wait`. What is known of it is not found out again: that it
holds references only, none twice, and, where it had to be waited for, which of them are still to come.
Invariant: changing the list forgets all that, and a list that nobody holds leaves no subscription behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from actorlite.refs import ELSEWHERE, ObjectRef

T = TypeVar("T")

UNKNOWN = -1
FEW = 8


class Watch:
    """Subscriptions to all references of one list that stay between two calls of `wait`: it counts who is here.

    It holds no reference. Its loop is the one on which the references change, so that the count is never late.
    """

    __slots__ = ("loop", "in_loop", "value", "here", "notify")

    def __init__(self, loop: asyncio.AbstractEventLoop, in_loop: Callable[[], bool], value: bool) -> None:
        self.loop = loop
        self.in_loop = in_loop
        """Whether this is its thread."""
        self.value = value
        self.here = 0
        self.notify: Callable[[], object] | None = None

    def arrived(self) -> None:
        self.here += 1
        if self.notify is not None:
            self.notify()

    def close(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """End the subscriptions; `refs` is what is left of the list. From any thread."""
        if not refs:
            return
        if not self.in_loop():
            # The list may have been dropped by a thread, or by a program that has closed its loop.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.close, list(refs))
            return
        for ref in refs:
            if isinstance(ref, ObjectRef):  # `list.append` can put anything into the list unseen
                ref._remove(self.arrived)


class Pending(list[ObjectRef[T]]):
    """A list, in every way. Copies, slices and what is made of it by pickling are plain lists."""

    __slots__ = ("_known", "_watch")

    def __init__(self, refs: Iterable[ObjectRef[T]] = ()) -> None:
        super().__init__(refs)
        self._known = UNKNOWN
        self._watch: Watch | None = None

    def is_known(self) -> bool:
        """Whether it holds what `wait` returned, and may be waited for without looking at each reference."""
        return self._known == len(self)

    def keep(self, watch: Watch | None) -> None:
        """For `wait`, which has checked the references: hand the list out."""
        self._known = len(self)
        self._watch = watch

    def lend_watch(self, loop: asyncio.AbstractEventLoop, value: bool) -> Watch | None:
        """The subscriptions, if they are of use to who waits on this loop; they leave the list meanwhile."""
        watch = self._watch
        if watch is None or watch.loop is not loop:
            return None
        self._watch = None
        if watch.value is not value:
            watch.close(self)
            return None
        return watch

    def open_watch(self, loop: asyncio.AbstractEventLoop, value: bool) -> Watch | None:
        """Subscribe to all, for whoever waits; None where that is not to be had: references of another loop."""
        if not all(ref.runtime.loop is loop for ref in self):
            return None
        watch = Watch(loop, self[0].runtime.in_loop, value)
        for ref in self:
            ref._subscribe_waker(watch.arrived, value=value)
        return watch

    def find_ready(self, limit: int, value: bool) -> list[int]:
        """Where the first `limit` references are that are ready, or fewer."""
        found: list[int] = []
        for position, ref in enumerate(self):
            outcome = ref._outcome
            if outcome is not None and not (value and outcome is ELSEWHERE):
                found.append(position)
                if len(found) == limit:
                    break
        return found

    def take(self, found: list[int]) -> list[ObjectRef[T]]:
        """Remove the references at these positions and return them."""
        ready = [self[position] for position in found]
        if len(found) <= FEW:
            for position in reversed(found):
                list.__delitem__(self, position)
        else:
            gone = set(found)
            list.__setitem__(self, slice(None), [ref for position, ref in enumerate(self) if position not in gone])
        return ready

    def forget(self) -> None:
        self._known = UNKNOWN
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close(self)

    def __del__(self) -> None:
        if self._watch is not None:
            self._watch.close(self)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return list, (list(self),)


def _forgetting(name: str) -> Callable[..., Any]:
    change = getattr(list, name)

    @functools.wraps(change)
    def method(self: Pending[Any], *args: Any, **options: Any) -> Any:
        self.forget()
        return change(self, *args, **options)

    return method


for _name in (
    "append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse",
    "__setitem__", "__delitem__", "__iadd__", "__imul__",
):  # fmt: skip
    setattr(Pending, _name, _forgetting(_name))
