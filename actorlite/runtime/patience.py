"""How long tasks wait for a worker that are not to wait for ever (`schedule_timeout`)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from actorlite.errors import ActorliteError, Outcome, TaskUnschedulableError
from actorlite.refs import Failure

if TYPE_CHECKING:
    from actorlite.runtime.tasks import LeaseGroup, TaskOut


class Patience:
    """Owned by the tasks of one shape, all with the same `schedule_timeout`; on the loop."""

    def __init__(self, group: LeaseGroup) -> None:
        self._group = group
        self._timers: dict[TaskOut, asyncio.TimerHandle] = {}

    def begin(self, call: TaskOut) -> None:
        """It waits, from now on; for a task that comes back, anew."""
        timeout_s = self._group.want.timeout_s
        assert timeout_s is not None
        self.end(call)
        self._timers[call] = self._group.runtime.loop.call_later(timeout_s, self._over, call)

    def end(self, call: TaskOut) -> None:
        """It has a worker, or needs none."""
        timer = self._timers.pop(call, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _over(self, call: TaskOut) -> None:
        self._timers.pop(call, None)
        if call.queued:
            self._group.runtime.spawn(self._fail(call))

    async def _fail(self, call: TaskOut) -> None:
        """Ask what keeps it waiting before it is taken out of the queue: until then that is true."""
        group = self._group
        try:
            error: ActorliteError = await group.runtime.node.why_no_lease(group.want, call.name)
        except ActorliteError as unknown:
            error = TaskUnschedulableError(f"{call.name} had no worker in time; its node does not say why: {unknown}")
        if call.queued:
            group.withdraw(call)
            outcome = Outcome.UNKNOWN if call.may_have_run else Outcome.NOT_EXECUTED
            call.end(Failure(partial(TaskUnschedulableError, str(error), outcome=outcome)))

    def __repr__(self) -> str:
        return f"<Patience {self._group.want.timeout_s} s, waiting={len(self._timers)}>"
