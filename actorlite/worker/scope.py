"""A call that runs here, as user code and its actor see it; how it came and how it is answered differs by kind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from actorlite.context import CallInfo
from actorlite.errors import ActorDiedError, Outcome, TaskCancelledError
from actorlite.ids import ActorId, ObjectId
from actorlite.resources import CPU, from_units
from actorlite.rpc.peer import Peer
from actorlite.wire.failures import encode_failure
from actorlite.wire.messages import ONE_CPU, Envelope

if TYPE_CHECKING:
    from actorlite.state.mailbox import Mailbox
    from actorlite.worker.executor import ThreadExecutor
    from actorlite.worker.host import Worker


class HostedActor:
    """One actor here. Slim: a worker may host a hundred thousand."""

    __slots__ = ("id", "instance", "mailbox", "executor", "creator", "cls", "name", "units")

    def __init__(self, id: ActorId, mailbox: Mailbox[Any], executor: ThreadExecutor, creator: Peer, name: str) -> None:
        self.id = id
        self.instance: Any = None
        """None until the constructor has returned."""
        self.mailbox = mailbox
        self.executor = executor
        self.creator = creator
        self.cls: type[Any] | None = None
        self.name = name
        self.units = 0
        """The CPU that it holds while it lives."""

    @property
    def class_name(self) -> str:
        return self.cls.__name__ if self.cls is not None else "?"

    def __repr__(self) -> str:
        return f"<HostedActor {self.class_name} {self.id} {self.mailbox!r}>"


class RunningCall(ABC):
    """The `CallScope` of the user code that it runs; what an actor's mailbox holds."""

    __slots__ = ("worker", "actor", "name", "task", "envelope", "cancelled", "deadline", "_children")

    worker: Worker
    actor: HostedActor | None
    name: str
    task: asyncio.Task[Any] | None
    envelope: Envelope | None
    """What came with the call beside its arguments."""
    cancelled: bool
    deadline: float | None
    """When it must have ended, on the loop's clock."""
    _children: set[Any] | None

    @property
    def units(self) -> int:
        """The CPU that is held for the task, or for the actor."""
        if self.actor is not None:
            return self.actor.units
        envelope = self.envelope
        return envelope.units if envelope is not None else ONE_CPU

    @property
    @abstractmethod
    def task_id(self) -> ObjectId: ...

    @property
    @abstractmethod
    def chain(self) -> tuple[Any, ...]: ...

    @property
    @abstractmethod
    def chainable(self) -> bool:
        """Whether it may be queued in the thread where it runs."""

    @property
    def children(self) -> set[Any]:
        """The calls that it submitted and that have not ended."""
        children = self._children
        if children is None:
            children = self._children = set()
        return children

    def cancel_children(self) -> None:
        for child in list(self._children or ()):
            child.cancel()

    @abstractmethod
    def claim(self) -> bool:
        """True for the first who asks: the thread that is to run the call, or the loop that takes it back."""

    @abstractmethod
    def interrupt(self, error: ActorDiedError) -> None:
        """The actor ends under the call."""

    @abstractmethod
    def worker_ends(self) -> None:
        """The whole worker ends under the call."""

    @property
    def info(self) -> CallInfo:
        actor = self.actor
        envelope = self.envelope
        function_name = f"{type(actor.instance).__name__}.{self.name}" if actor is not None else self.name
        return CallInfo(
            task_id=self.task_id,
            task_name=(envelope.name if envelope is not None else "") or function_name,
            function_name=function_name,
            attempt=envelope.attempt if envelope is not None else 0,
            actor_id=actor.id if actor is not None else None,
            actor_name=(actor.name or None) if actor is not None else None,
            actor_class=actor.cls if actor is not None else None,
            actor_data=(actor.id, actor.creator.identity.address) if actor is not None else (),
            resources={CPU: from_units(self.units)} if self.units else {},
        )

    @abstractmethod
    def blocks_on(self, future: concurrent.futures.Future[Any]) -> None: ...

    @abstractmethod
    def blocks_no_more(self, future: concurrent.futures.Future[Any]) -> None: ...

    def enter_wait(self) -> None:
        if self.actor is None:
            self.worker.tasks.waits(1)

    def leave_wait(self) -> None:
        if self.actor is None:
            self.worker.tasks.waits(-1)

    def where(self) -> str:
        """One line for remote tracebacks."""
        actor = self.actor
        what = f"actor {actor.class_name}.{self.name}()" if actor is not None else f"task {self.name}()"
        return f"{what} in worker pid {os.getpid()}"

    def carried(self, error: BaseException) -> bytes:
        """An error of user code as it travels."""
        if isinstance(error, asyncio.CancelledError):
            # As it is it would pass for the cancellation of whoever awaits the call.
            cancelled = TaskCancelledError(f"{self.name}() raised CancelledError: {error}", outcome=Outcome.EXECUTED)
            cancelled.__cause__ = error
            error = cancelled
        return encode_failure(error, self.where())
