"""Sessions: opening one by its address, making it current, shutting it down.

What a session is made of (runtime, node, workers) is imported when the first one is opened: a program that only defines
remote functions does not pay for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from actorlite.config import Settings, shared_node_address
from actorlite.context import current_runtime, find_runtime, sessions
from actorlite.errors import NoSessionError
from actorlite.loading import load
from actorlite.resources import MIN_STORE_BYTES, NodeResources, check_node

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime

Opener: TypeAlias = "Callable[[Plan, AsyncExitStack], Awaitable[ProcessRuntime]]"

OPENERS = {
    "inproc": "actorlite.opening.in_process:open_runtime",
    "local": "actorlite.opening.private:open_runtime",
    "uds": "actorlite.opening.attached:open_runtime",
}
"""Who opens an address, by its scheme."""


class Session:
    """One driver's connection to one node: made by `al.init`. Shut it down, or use `async with`."""

    def __init__(self, runtime: ProcessRuntime, resources: AsyncExitStack) -> None:
        self.runtime = runtime
        self._resources = resources
        self._shutting_down: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The address that the session was opened with."""
        return self.runtime.address

    @property
    def namespace(self) -> str:
        return self.runtime.namespace

    @property
    def node_pid(self) -> int:
        """The process id of the node daemon; this process for `inproc://`."""
        return self.runtime.node_pid

    @property
    def is_open(self) -> bool:
        return not self.runtime.closing and not self.runtime.gone

    @contextlib.contextmanager
    def use(self) -> Iterator[Self]:
        """Make this session the current one for the code inside the block, in this task or thread."""
        before = current_runtime.get()
        current_runtime.set(self.runtime)
        try:
            yield self
        finally:
            # Not reset(token): a fixture or lifespan may leave in another context than it entered.
            current_runtime.set(before)

    async def status(self) -> dict[str, Any]:
        """What the node says of itself: pid, address, resources in all and free, workers, jobs, and what
        it knows of other nodes; and what waits on any node, which those are asked that answer within a second."""
        runtime = self.runtime
        return await runtime.on_own_loop(runtime.node.status())

    async def shutdown(self) -> None:
        """Run `on_stop` of its actors, end what the session started, close. Idempotent; goes on when cancelled."""
        if not self.runtime.in_loop():
            await self.runtime.on_own_loop(self.shutdown())
            return
        if self._shutting_down is None:
            sessions.discard(self.runtime)
            if current_runtime.get() is self.runtime:
                current_runtime.set(None)
            loop = asyncio.get_running_loop()
            self._shutting_down = loop.create_task(self._shutdown(), name="actorlite session shutdown")
        await asyncio.shield(self._shutting_down)

    async def _shutdown(self) -> None:
        try:
            await self.runtime.aclose()
        finally:
            await self._resources.aclose()

    def __repr__(self) -> str:
        return repr(self.runtime)


class Opening:
    """What `al.init` returns: await it for the session, or enter it as an asynchronous context manager."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._session: Session | None = None
        self._before: Any = None

    def __await__(self) -> Generator[Any, None, Session]:
        return self._open().__await__()

    async def __aenter__(self) -> Session:
        self._before = current_runtime.get()
        self._session = await self._open()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session = self._session
        if session is not None:
            try:
                await session.shutdown()
            finally:
                current_runtime.set(self._before)

    async def _open(self) -> Session:
        session = await open_session(self._plan)
        current_runtime.set(session.runtime)
        return session


@dataclass(frozen=True, slots=True)
class Plan:
    """The validated arguments of `al.init`."""

    address: str
    namespace: str
    resources: NodeResources
    preload: tuple[str, ...]
    settings: Settings
    transport: str = "inproc"
    """The scheme that an in-process session's parts talk over; tests choose others."""
    object_store_memory: int | None = None
    object_spilling_directory: str | None = None


def init(
    address: str | None = None,
    *,
    namespace: str | None = None,
    num_cpus: float | None = None,
    num_gpus: int | None = None,
    memory: int | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    max_workers: int | None = None,
    idle_workers: int | None = None,
    preload: Sequence[str] = (),
    object_store_memory: int | None = None,
    object_spilling_directory: str | None = None,
) -> Opening:
    """Open a session: `async with al.init(): ...`, or `session = await al.init()` and `await al.shutdown()`.

    `address`: `"local"` (default: a private node daemon with worker processes, which ends with this process),
    `"inproc://"` (everything in this loop), `"auto"` (the node that `actorlite start` started), or `"uds:///..."`.
    Without it `ACTORLITE_ADDRESS` counts. `preload`: modules that worker processes share from the start. Several
    sessions may be open at once.

    What tasks and actors may ask for: `num_cpus`, default all CPUs this process may use; `num_gpus`, default those that
    are found and that `CUDA_VISIBLE_DEVICES` shows, in process none; `memory` in bytes, default what the object store
    leaves; `resources`, your own names and quantities. `labels` say what the node is like. `max_workers` bounds its
    worker processes: what needs one more waits. `idle_workers` are kept with nothing to do, default one for each CPU.

    `object_store_memory`: bytes for large values; default 30 % of the memory, bounded by what is free. What does not
    fit is written to `object_spilling_directory`: a directory or, with the extra `spill`, a URL. By default it is one
    of the session's own; `""` turns that off.

    Raises `TypeError` and `ValueError` at once; when awaited `NodeStartError`, `ConnectFailed`, `AuthenticationError`,
    `VersionMismatch`.
    """
    settings = Settings.from_environment()
    address = settings.address if address is None else address
    told = NodeResources(
        num_cpus,
        num_gpus,
        memory,
        {} if resources is None else resources,
        {} if labels is None else labels,
        max_workers,
        idle_workers,
    )
    _check(address, namespace, told, preload)
    _check_store(address, object_store_memory, object_spilling_directory)
    return Opening(
        Plan(
            shared_node_address(settings) if address == "auto" else address,
            settings.namespace if namespace is None else namespace,
            told,
            tuple(preload),
            settings,
            object_store_memory=object_store_memory,
            object_spilling_directory=object_spilling_directory,
        )
    )


async def shutdown() -> None:
    """Shut down the current session. Nothing happens when none is open."""
    if sessions.all():
        runtime = find_runtime()
        if runtime.shut_down is None:
            raise NoSessionError("a worker cannot shut its session down: only the driver that opened it can")
        await runtime.shut_down()


def _check(address: Any, namespace: Any, told: NodeResources, preload: Any) -> None:
    if not isinstance(address, str):
        raise TypeError(f'address must be text such as "local" or "inproc://", not {address!r}')
    known = address in ("local", "auto") or address.startswith("inproc://") or address.startswith("uds://")
    if not known:
        later = "; clusters over TCP are not in this version" if address.startswith("tcp://") else ""
        raise ValueError(f'address={address!r} is not "local", "auto", "inproc://" or "uds:///path"{later}')
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(
            f"namespace must be a str, not {namespace!r} of type {type(namespace).__name__}: give a name that other "
            "sessions can give as well, or leave it out for one of the session's own"
        )
    if namespace == "":
        raise ValueError("namespace='' is empty: leave it out for one of the session's own")
    check_node(told)
    if isinstance(preload, str) or not all(isinstance(each, str) for each in preload):
        raise TypeError(f'preload must be a list of module names such as ["numpy"], not {preload!r}')
    if address == "auto" or address.startswith("uds://"):
        given = [*told.given(), *(["preload"] if preload else [])]
        if given:
            raise ValueError(f"{given[0]} cannot be given when attaching to a node that runs already: it has its own")
    elif address.startswith("inproc://") and preload:
        raise ValueError("preload is for worker processes: an in-process session has none")


def _check_store(address: str, memory: Any, directory: Any) -> None:
    if memory is not None:
        if isinstance(memory, bool) or not isinstance(memory, int):
            raise TypeError(f"object_store_memory must be a number of bytes, not {memory!r}")
        if memory < MIN_STORE_BYTES:
            raise ValueError(f"object_store_memory={memory} is too little: give at least {MIN_STORE_BYTES} bytes")
    if directory is not None and not isinstance(directory, str):
        raise TypeError(f"object_spilling_directory must be text, a path or a URL, not {directory!r}")
    if address == "auto" or address.startswith("uds://"):
        given = [
            name
            for name, value in (("object_store_memory", memory), ("object_spilling_directory", directory))
            if value is not None
        ]
        if given:
            raise ValueError(f"{given[0]} cannot be given when attaching to a node that runs already: it has its own")


async def open_session(plan: Plan) -> Session:
    """Open, register, announce. When it fails or is cancelled nothing is left."""
    opener: Opener = load(OPENERS[plan.address.partition("://")[0]])
    async with AsyncExitStack() as stack:
        return session_of(await opener(plan, stack), stack)


def session_of(runtime: ProcessRuntime, stack: AsyncExitStack) -> Session:
    """The session of a runtime that has registered; it takes over what `stack` closes."""
    session = Session(runtime, stack.pop_all())
    runtime.shut_down = session.shutdown
    sessions.add(runtime)
    return session
