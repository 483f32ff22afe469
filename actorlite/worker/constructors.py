"""Constructors of actors: the first call in an actor's mailbox, in the thread where its plain methods run, then
`on_start` on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actorlite.worker.inbound import Answer, InboundCall

if TYPE_CHECKING:
    from actorlite.worker.host import Worker


class Constructors:
    """Ends each constructor call by `opened` or `failed`, on the loop."""

    def __init__(
        self,
        worker: Worker,
        opened: Callable[[InboundCall, Answer], None],
        failed: Callable[[InboundCall, Answer], None],
    ) -> None:
        self._worker = worker
        self._opened = opened
        self._failed = failed

    def start(self, call: InboundCall) -> None:
        if call.must_fetch:
            self._worker.runner.start_work(call, self._fetch_and_construct(call), self._constructed)
        else:
            self._construct(call)

    def _construct(self, call: InboundCall) -> None:
        actor = call.actor
        assert actor is not None
        self._worker.runner.start_plain(call, lambda: self._constructor(call), actor.executor, self._constructed)

    def _constructor(self, call: InboundCall) -> Any:
        """In the thread: user modules are imported here."""
        actor = call.actor
        assert actor is not None
        cls = actor.cls = self._worker.runtime.code.find(call.message.code)

        def construct(*args: Any, **kwargs: Any) -> None:
            actor.instance = cls(*args, **kwargs)

        return construct

    async def _fetch_and_construct(self, call: InboundCall) -> None:
        try:
            await self._worker.fetch_slots(call)
        except asyncio.CancelledError:
            self._constructed(call, call.cancellation())
        except BaseException as error:
            self._constructed(call, call.failure(error))
        else:
            self._construct(call)

    def _constructed(self, call: InboundCall, answer: Answer) -> None:
        actor = call.actor
        assert actor is not None
        if actor.instance is None:
            self._failed(call, answer)
        elif hasattr(actor.cls, "on_start") or (actor.restarts and hasattr(actor.cls, "on_restart")):
            self._worker.runner.start_work(call, self._run_on_start(call, answer), self._failed)
        else:
            self._opened(call, answer)

    async def _run_on_start(self, call: InboundCall, answer: Answer) -> None:
        actor = call.actor
        assert actor is not None
        try:
            if actor.restarts and hasattr(actor.cls, "on_restart"):
                await actor.instance.on_restart()
            if hasattr(actor.cls, "on_start"):
                await actor.instance.on_start()
        except BaseException as error:
            self._failed(call, call.failure(error))
        else:
            self._opened(call, answer)
