"""What running code can ask about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from actorlite.actor import ActorHandle, definition_of
from actorlite.context import CallInfo, CallScope, Runtime, current_call, find_runtime
from actorlite.deadlines import current_deadline


@dataclass(frozen=True, slots=True)
class ActorInfo:
    """An actor as its creator knew it when it was asked."""

    id: str
    class_name: str
    state: str
    """`"PENDING_CREATION"`, `"ALIVE"`, `"RESTARTING"` or `"DEAD"`."""
    restarts: int
    """How often it was made anew."""
    pid: int | None
    """Of its worker, while it has one."""
    death_cause: str | None
    """`"INIT_FAILED"`, `"CRASHED"`, `"KILLED"`, `"TERMINATED"`, `"EXITED"`, `"OUT_OF_SCOPE"`, `"OWNER_DIED"`,
    `"SESSION_ENDED"`, `"NAME_TAKEN"` or `"PLACEMENT_GROUP_REMOVED"`; None while it lives."""
    death_reason: str
    """For humans: how its worker ended, what its constructor raised, ...; empty while it lives."""


class RuntimeContext:
    """The session and call that it was asked for in. On a driver the getters about a call or an actor return None."""

    __slots__ = ("_runtime", "_scope", "_info")

    def __init__(self, runtime: Runtime, scope: CallScope | None) -> None:
        self._runtime = runtime
        self._scope = scope
        self._info: CallInfo | None = None if scope is None else scope.info

    @property
    def namespace(self) -> str:
        return self._runtime.namespace

    @property
    def address(self) -> str:
        """The address the session was opened with."""
        return self._runtime.address

    @property
    def node_pid(self) -> int:
        """The process id of the node daemon; this process for `inproc://`."""
        return self._runtime.node_pid

    @property
    def node_id(self) -> str:
        """The id of the node that this process belongs to, for `NodeAffinityStrategy`."""
        return self._runtime.node.id

    @property
    def current_actor(self) -> Any:
        """A handle to the actor whose method runs now; it does not keep the actor alive (unless passed on). Raises
        `RuntimeError` outside an actor."""
        info = self._info
        if info is None or info.actor_class is None:
            raise RuntimeError("current_actor: this code does not run in an actor")
        identifier, owner, *limits = info.actor_data
        definition = definition_of(info.actor_class)
        data = (identifier, owner, definition.options.limited(tuple(limits)))
        return ActorHandle(self._runtime.import_actor(data, definition, weak=True))

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the running actor was made anew after its worker died. False outside an actor."""
        return self._info is not None and self._info.reconstructed

    @property
    def attempt(self) -> int | None:
        """0 for the first attempt of the running task, then 1, 2, ..."""
        return None if self._info is None else self._info.attempt

    @property
    def deadline(self) -> float | None:
        """When the running call must have ended, on the event loop's clock (`time.monotonic()`); None without one.

        It comes from the call's `timeout`, or from what was left to the call that made this one. For
        `asyncio.timeout_at(context.deadline)`.
        """
        deadline = current_deadline.get()
        return None if deadline is None else deadline.when

    def is_cancelled(self) -> bool:
        """Whether the running call was asked to stop; for plain functions that can end early by themselves.

        Raises `RuntimeError` outside a call.
        """
        if self._scope is None:
            raise RuntimeError("is_cancelled(): this code does not run in a task or in a method of an actor")
        return self._scope.cancelled

    def get_job_id(self) -> str:
        return self._runtime.job

    def get_worker_id(self) -> str:
        """The id of this process; a driver has one too."""
        return self._runtime.process

    def get_task_id(self) -> str | None:
        return None if self._info is None else self._info.task_id

    def get_task_name(self) -> str | None:
        """The `name` option of the call, else the function's name."""
        return None if self._info is None else self._info.task_name

    def get_task_function_name(self) -> str | None:
        return None if self._info is None else self._info.function_name

    def get_actor_id(self) -> str | None:
        return None if self._info is None else self._info.actor_id

    def get_actor_name(self) -> str | None:
        """The `name` option of the actor."""
        return None if self._info is None else self._info.actor_name

    def get_assigned_resources(self) -> dict[str, float]:
        """What the running task or actor holds; empty on a driver."""
        return {} if self._info is None else dict(self._info.resources)

    def accelerator_ids(self) -> dict[str, list[str]]:
        """The devices of the running task or actor, as `CUDA_VISIBLE_DEVICES` names them: `{"GPU": ["0"]}`. In a worker
        process only they are visible; in process everybody sees all, so code has to ask here."""
        return {"GPU": [] if self._info is None else list(self._info.gpus)}

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Ray's name of `accelerator_ids`."""
        return self.accelerator_ids()

    def __repr__(self) -> str:
        where = "driver" if self._info is None else f"{self._info.task_name} {self._info.task_id}"
        return f"<RuntimeContext {where} of job {self._runtime.job}, namespace {self._runtime.namespace!r}>"


def runtime_context() -> RuntimeContext:
    """What is known about the current session and call. Raises `NoSessionError` without a session."""
    scope = current_call.get()
    return RuntimeContext(find_runtime(), scope)


BORROWED = "borrowed by "


class StoredObjectInfo(Struct, frozen=True):
    """One value in the store."""

    key: str
    size: int
    """Bytes."""
    owner: str
    """The process that frees it: `"driver pid 123"`."""
    place: str
    """`"being written"`, `"in memory"`, `"in memory, being spilled"`, `"on disk"` or `"on disk, being restored"`."""
    used_by: tuple[tuple[str, int], ...]
    """Processes that read or write it now, and how often they have opened it."""
    what: str = ""
    """`"put"`, `"result of f()"`, `"arguments of f()"`; with `ACTORLITE_RECORD_CALL_SITES=1` also where it was put."""
    held_by: tuple[str, ...] = ()
    """Why its owner keeps it: `"a reference here"`, `"borrowed by worker pid 123"`, ..."""
    node: str = ""
    """The id of the node that it is on."""
    is_copy: bool = False
    """Whether it is a copy of what another node has."""


class MemoryInfo(Struct, frozen=True):
    """The object stores of all nodes of the session's cluster together, as they were when they were asked."""

    capacity: int
    """Bytes."""
    used: int
    """Bytes given out; sizes are rounded up to pages."""
    spilled: int
    """Bytes on disk."""
    fragmentation: float
    """0 when all free memory lies together, towards 1 the more it is scattered; of the node where it is most so."""
    waiting: int
    """Requests that wait for room."""
    objects: tuple[StoredObjectInfo, ...]
    leased: int = 0
    """Bytes given out to processes that write much, for values to come; they go back when nothing comes."""


async def memory() -> MemoryInfo:
    """What is in the object stores of all nodes now, of all sessions, and who uses it.

    Values below 100 KiB are with their owners, not in the store.
    """
    found = await find_runtime().list_objects()
    names = {process: f"{role} pid {pid}" for process, role, pid in found.processes}

    def name(process: str) -> str:
        return names.get(process, f"process {process}, which is gone")

    return MemoryInfo(
        capacity=found.capacity,
        used=found.used,
        spilled=found.spilled,
        fragmentation=found.fragmentation,
        waiting=found.waiting,
        objects=tuple(
            StoredObjectInfo(
                each.key,
                each.size,
                name(each.owner),
                each.place,
                tuple((name(who), count) for who, count in each.pins),
                each.what,
                tuple(
                    f"borrowed by {name(holder.removeprefix(BORROWED))}" if holder.startswith(BORROWED) else holder
                    for holder in each.held_by
                ),
                each.node,
                each.is_copy,
            )
            for each in found.objects
        ),
        leased=found.leased,
    )
