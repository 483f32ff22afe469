"""Good ends: the calls that came before are done, `on_stop` runs, then those who asked are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from actorlite.ids import ActorId, ProcessId
from actorlite.rpc.peer import Peer
from actorlite.wire.calls import ActorEnded, Exists
from actorlite.wire.messages import encode
from actorlite.worker.scope import HostedActor

if TYPE_CHECKING:
    from actorlite.worker.host import Worker

logger = logging.getLogger("actorlite.worker")


class _Ending:
    __slots__ = ("actor", "text", "asked", "left", "stopping", "gone")

    def __init__(self, actor: HostedActor, text: str, left: bool) -> None:
        self.actor = actor
        self.text = text
        self.asked: list[tuple[Peer, int]] = []
        self.left = left
        """Whether the actor itself wants to end: then its creator is told."""
        self.stopping: asyncio.Task[None] | None = None
        self.gone: asyncio.Future[None] | None = None


class Endings:
    """Actors that take no more calls. `forget` drops one at last. On the loop."""

    def __init__(self, worker: Worker, forget: Callable[[HostedActor, str], None]) -> None:
        self._worker = worker
        self._forget = forget
        self.ending: dict[ActorId, _Ending] = {}

    def begin(self, actor: HostedActor, text: str, *, left: bool = False) -> _Ending:
        """The actor, which takes no more calls, ends when it is idle."""
        ending = self.ending[actor.id] = _Ending(actor, text, left)
        if left:
            actor.creator.tell(encode(ActorEnded(actor.id, text)))
        # After it is noted here: a call that is answered from its thread looks whether somebody waits for its end.
        self._worker.runner.collect_ended()
        self.idle(actor)
        return ending

    def ask(self, identifier: ActorId, peer: Peer, number: int) -> bool:
        """Tell `peer` when it is gone; False when it is not ending here."""
        ending = self.ending.get(identifier)
        if ending is not None:
            ending.asked.append((peer, number))
        return ending is not None

    def why(self, identifier: ActorId) -> str:
        ending = self.ending.get(identifier)
        return ending.text if ending is not None else "the actor has ended"

    def idle(self, actor: HostedActor) -> None:
        """A call has ended: if it was the last one, the actor stops."""
        ending = self.ending.get(actor.id)
        mailbox = actor.mailbox
        if ending is None or ending.actor is not actor or ending.stopping is not None:
            return
        if not mailbox.running and not mailbox.waiting and not self._worker.runner.storing.get(actor):
            self._stop(ending)

    async def hurry(self, identifier: ActorId) -> bool:
        """Stop at once, whatever still runs; return when it is gone."""
        ending = self.ending.get(identifier)
        if ending is None:
            return False
        if ending.gone is None:
            ending.gone = self._worker.loop.create_future()
        if ending.stopping is None:
            self._stop(ending)
        if identifier in self.ending:
            await asyncio.shield(ending.gone)
        return True

    def drop(self, actor: HostedActor) -> bool:
        """It ended otherwise meanwhile."""
        ending = self.ending.get(actor.id)
        if ending is None:
            return False
        if ending.stopping is not None:
            ending.stopping.cancel()
        self._gone(ending)
        return True

    def has(self, actor: HostedActor) -> bool:
        ending = self.ending.get(actor.id)
        return ending is not None and ending.actor is actor

    def of_creator(self, process: ProcessId) -> list[HostedActor]:
        return [each.actor for each in self.ending.values() if each.actor.creator.identity.process == process]

    def close(self) -> list[asyncio.Task[None]]:
        """The worker ends: hooks that run are cancelled."""
        tasks = [each.stopping for each in self.ending.values() if each.stopping is not None]
        for task in tasks:
            task.cancel()
        return tasks

    def _stop(self, ending: _Ending) -> None:
        if hasattr(ending.actor.instance, "on_stop"):
            work = self._run_on_stop(ending)
            ending.stopping = self._worker.loop.create_task(work, name=f"actorlite on_stop {ending.actor.id}")
        else:
            self._end(ending)

    async def _run_on_stop(self, ending: _Ending) -> None:
        actor = ending.actor
        try:
            async with asyncio.timeout(actor.stop_timeout_s):
                await self._worker.runner.run_hook(actor.instance.on_stop())
        except TimeoutError as error:
            # In words: a record that is kept shall keep no actor.
            logger.warning("on_stop of %s took longer than %g s: %r", repr(actor), actor.stop_timeout_s, error)
        except Exception:
            logger.exception("on_stop of %s failed", repr(actor))
        self._end(ending)

    def _end(self, ending: _Ending) -> None:
        self._forget(ending.actor, ending.text)
        self._gone(ending)

    def _gone(self, ending: _Ending) -> None:
        actor = ending.actor
        self.ending.pop(actor.id, None)
        if ending.left:
            actor.creator.tell(encode(ActorEnded(actor.id, ending.text, gone=True)))
        for peer, number in ending.asked:
            peer.tell(encode(Exists(number)))
        if ending.gone is not None and not ending.gone.done():
            ending.gone.set_result(None)

    def __repr__(self) -> str:
        return f"<Endings actors={len(self.ending)}>"
