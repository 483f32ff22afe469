"""A call that runs here, as user code and its actor see it; how it came and how it is answered differs by kind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from actorlite.context import ActorExit, CallInfo
from actorlite.errors import ActorDiedError, ActorError, Outcome, TaskCancelledError
from actorlite.ids import ActorId, ObjectId
from actorlite.mailboxes import DEFAULT_MAILBOX, Mailbox
from actorlite.resources import CPU, Pairs, from_units
from actorlite.rpc.peer import Peer
from actorlite.runtime.calls import Submitted
from actorlite.state.crowd import Crowd
from actorlite.state.lanes import READS_AT_ONCE, Lanes
from actorlite.state.mailbox import CHAIN_DEPTH
from actorlite.state.mailbox import Mailbox as Inbox
from actorlite.state.pace import Pace
from actorlite.wire.calls import MAX_CHAIN, ONE_CPU, Conduct, CreateActor, Envelope
from actorlite.wire.failures import encode_failure
from actorlite.wire.groups import InGroup
from actorlite.worker.executor import ThreadExecutor

if TYPE_CHECKING:
    from actorlite.worker.host import Worker


class Manner:
    """How an actor takes calls. Plain actors share one."""

    __slots__ = ("box", "limits", "reentrant", "is_special", "executors", "aside", "pace", "is_watched")

    def __init__(self, conduct: Conduct | None = None, name: str = "") -> None:
        conduct = conduct or Conduct()
        self.box = Mailbox(*conduct.limits[1:]) if conduct.limits else DEFAULT_MAILBOX  # type: ignore[arg-type]
        self.limits: tuple[Any, ...] = conduct.limits or ()
        self.reentrant = conduct.reentrant
        self.is_special = bool(conduct.groups or conduct.reentrant or conduct.readonly)
        """Whether its mailbox has lanes."""
        self.executors = {group: ThreadExecutor(size, f"actorlite-{name}-{group}") for group, size in conduct.groups}
        """Of the plain methods of each group."""
        self.aside = ThreadExecutor(READS_AT_ONCE + MAX_CHAIN, f"actorlite-{name}-aside") if self.is_special else None
        """Of the plain methods that run beside others in their group."""
        self.pace = Pace() if self.box.when_full == "shed" else None
        self.is_watched = self.is_special or self.pace is not None

    def inbox(self, message: CreateActor) -> Inbox[Any] | Lanes[Any]:
        """Closed to all but the constructor."""
        conduct = message.conduct
        if conduct is not None and self.is_special:
            return Lanes(dict(conduct.groups), reentrant=conduct.reentrant)
        # Light actors share their threads, and what is queued there cannot be dropped any more.
        chain = not message.shared
        return Inbox(1, chain=chain and self.box.calls >= CHAIN_DEPTH and self.box.when_full in ("wait", "raise"))

    def executor_for(self, call: RunningCall, default: ThreadExecutor) -> ThreadExecutor:
        if self.aside is not None and (call.readonly or self.reentrant and call.through):
            return self.aside
        return self.executors.get(call.group, default)

    def close(self) -> None:
        for executor in self.executors.values():
            executor.close()
        if self.aside is not None:
            self.aside.close()


PLAIN = Manner()
_creating = threading.Lock()
EXIT_NOTED_S = 10.0
"""How long a thread waits for its loop to note that the actor ends."""


class HostedActor:
    """One actor here. Slim: a worker may host a hundred thousand."""

    __slots__ = (
        "id", "instance", "mailbox", "executor", "creator", "cls", "name", "units", "more", "inside", "restarts",
        "stop_timeout_s", "manner", "crowd", "watched",
    )  # fmt: skip

    def __init__(
        self,
        id: ActorId,
        mailbox: Inbox[Any] | Lanes[Any],
        executor: ThreadExecutor,
        creator: Peer,
        name: str,
        manner: Manner = PLAIN,
    ) -> None:
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
        self.more: Pairs = ()
        """What else it holds."""
        self.inside: InGroup | None = None
        """The placement group that it lives in."""
        self.manner = manner
        self.crowd: Crowd[Peer] | None = None
        """Its callers, while its mailbox is full."""
        self.watched = manner.is_watched
        """Whether anything beside the mailbox must hear of its calls."""
        self.restarts = 0
        self.stop_timeout_s = 30.0

    @property
    def class_name(self) -> str:
        return self.cls.__name__ if self.cls is not None else "?"

    def __repr__(self) -> str:
        return f"<HostedActor {self.class_name} {self.id} {self.mailbox!r}>"


class RunningCall(ABC):
    """The `CallScope` of the user code that it runs; what an actor's mailbox holds."""

    __slots__ = ("worker", "actor", "name", "task", "envelope", "cancelled", "deadline", "chained", "_children")

    worker: Worker
    actor: HostedActor | None
    name: str
    task: asyncio.Task[Any] | None
    envelope: Envelope | None
    """What came with the call beside its arguments."""
    cancelled: bool
    deadline: float | None
    """When it must have ended, on the loop's clock."""
    chained: bool
    """Whether its mailbox counts it as one of the chain."""
    _children: Submitted | None

    @property
    def units(self) -> int:
        """The CPU that is held for the task, or for the actor."""
        if self.actor is not None:
            return self.actor.units
        envelope = self.envelope
        return envelope.units if envelope is not None else ONE_CPU

    @property
    def held(self) -> dict[str, float]:
        """All that is held for it."""
        more = self.actor.more if self.actor is not None else self.envelope.more if self.envelope is not None else ()
        return {name: from_units(units) for name, units in ((CPU, self.units), *more) if units}

    @property
    def inside(self) -> InGroup | None:
        if self.actor is not None:
            return self.actor.inside
        return self.envelope.inside if self.envelope is not None else None

    @property
    def captures(self) -> bool:
        inside = self.inside
        return inside is not None and inside.captures

    size = 0
    """Bytes that it holds while it waits."""
    readonly = False

    @property
    def group(self) -> str:
        envelope = self.envelope
        return envelope.group if envelope is not None else ""

    @property
    def key(self) -> ObjectId:
        return self.task_id

    @property
    def through(self) -> list[ObjectId]:
        """The calls of its own actor that it came through."""
        chain, actor = self.chain, self.actor
        return [hop.call for hop in chain if hop.target == actor.id] if chain and actor is not None else []

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
    def children(self) -> Submitted:
        """The calls that it submitted and that have not ended."""
        children = self._children
        if children is None:
            with _creating:  # several threads may be at work for the call
                children = self._children
                if children is None:
                    children = self._children = Submitted(self.task_id)
        return children

    @abstractmethod
    def claim(self) -> bool:
        """True for the first who asks: the thread that is to run the call, or the loop that takes it back."""

    @abstractmethod
    def interrupt(self, error: ActorError) -> None:
        """The actor ends under the call."""

    @abstractmethod
    def worker_ends(self) -> None:
        """The whole worker ends under the call."""

    @property
    def actor_id(self) -> ActorId | None:
        return self.actor.id if self.actor is not None else None

    @property
    def function_name(self) -> str:
        return f"{self.actor.class_name}.{self.name}" if self.actor is not None else self.name

    @property
    def info(self) -> CallInfo:
        actor = self.actor
        envelope = self.envelope
        function_name = self.function_name
        return CallInfo(
            task_id=self.task_id,
            task_name=(envelope.name if envelope is not None else "") or function_name,
            function_name=function_name,
            attempt=envelope.attempt if envelope is not None else 0,
            actor_id=self.actor_id,
            actor_name=(actor.name or None) if actor is not None else None,
            actor_class=actor.cls if actor is not None else None,
            actor_data=(actor.id, actor.creator.identity.address, *actor.manner.limits) if actor is not None else (),
            resources=self.held,
            gpus=self.worker.spec.gpus,
            reconstructed=actor is not None and actor.restarts > 0,
        )

    @abstractmethod
    def blocks_on(self, future: concurrent.futures.Future[Any]) -> None: ...

    @abstractmethod
    def blocks_no_more(self, future: concurrent.futures.Future[Any]) -> None: ...

    def exit_actor(self) -> bool:
        """The actor ends after this call; returns once nothing that waits can start any more. False in a task."""
        actor = self.actor
        if actor is None:
            return False
        worker = self.worker
        if worker.runtime.in_loop():
            worker.actors.exit(actor)
            return True
        seen_to = threading.Event()

        def leave() -> None:
            worker.actors.exit(actor)
            seen_to.set()

        worker.loop.call_soon_threadsafe(leave)
        seen_to.wait(EXIT_NOTED_S)
        return True

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
        if isinstance(error, ActorExit):
            text = f"{self.name}() ended its actor with al.exit_actor()"
            error = ActorDiedError(text, outcome=Outcome.EXECUTED)
        if isinstance(error, asyncio.CancelledError):
            # As it is it would pass for the cancellation of whoever awaits the call.
            cancelled = TaskCancelledError(f"{self.name}() raised CancelledError: {error}", outcome=Outcome.EXECUTED)
            cancelled.__cause__ = error
            error = cancelled
        return encode_failure(error, self.where())


def cancel_children(call: RunningCall) -> None:
    """Cancel what a call submitted and what has not ended."""
    for child in list(call._children or ()):
        child.cancel()
