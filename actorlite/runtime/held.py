"""Calls that came back from a full mailbox: they wait here, in order, before those that were never sent.

Everything behind the first of them came back too, so nothing overtakes; what this process has for the actor stays here
until its worker gives `Room` for some.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from actorlite.rpc.peer import Peer
from actorlite.wire.calls import CallerWaits, Room
from actorlite.wire.messages import encode

if TYPE_CHECKING:
    from actorlite.runtime.actor_calls import ActorOut
    from actorlite.runtime.actors import Link
    from actorlite.runtime.runtime import ProcessRuntime


class HeldBack:
    """As long as a link has one it sends nothing."""

    __slots__ = ("link", "_returned")

    def __init__(self, link: Link) -> None:
        self.link = link
        self._returned: deque[ActorOut] = deque()
        link.runtime.held_back[link.id] = self  # keeps the link and its calls alive

    def came_back(self, call: ActorOut) -> None:
        if call.unwanted:
            call.cancel()
        elif not call.ended:
            self._returned.append(call)

    @property
    def last(self) -> ActorOut | None:
        return self._returned[-1] if self._returned else None

    def release(self) -> None:
        """Put what came back before what was never sent; the link may send again."""
        link = self.link
        link.held_back = None
        link.runtime.held_back.pop(link.id, None)
        if self._returned:
            self._returned.extend(link.outbox or ())
            link.outbox = self._returned
            link.runtime.directory.with_unsent.add(link)

    def room(self, peer: Peer, calls: int, size: int) -> None:
        """The mailbox has room for so much: send it, and say whether there is more."""
        link = self.link
        self.release()
        outbox = link.outbox
        while outbox and peer.is_open and (outbox[0].ended or calls > 0 and size > 0 and not outbox[0].missing):
            call = outbox.popleft()
            if not call.ended:
                calls -= 1
                size -= call.size
                link.send(call)
        more = False
        if outbox and not outbox[0].missing:
            more = True
            link.held_back = HeldBack(link)
        peer.tell(encode(CallerWaits(link.id, more)))
        link.flush()

    def __repr__(self) -> str:
        return f"<HeldBack {self.link!r} calls={len(self._returned)}>"


def room(runtime: ProcessRuntime, message: Room) -> None:
    """A full mailbox has places again."""
    held = runtime.held_back.get(message.target)
    if held is not None and held.link.peer is not None:
        held.room(held.link.peer, message.calls, message.bytes)
