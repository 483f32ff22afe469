"""The current session, the current call, and the runtime as the public surface sees it.

`ObjectRef` and the decorators need a runtime without importing one: it is declared here as Protocols and implemented in
`actorlite.runtime`. The current session is looked up as: the `ContextVar`; else the process's only open session.
A `ContextVar` alone is not seen in request handlers, threads and fixtures.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from actorlite.errors import NoSessionError
from actorlite.ids import ActorId, ObjectId, ProcessId

if TYPE_CHECKING:
    from actorlite.definitions import ActorDefinition, FunctionDefinition, MethodDefinition
    from actorlite.options import ActorOptions, MethodOptions, TaskOptions
    from actorlite.refs import ObjectRef
    from actorlite.streams import ObjectRefStream, StreamSource

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


class ActorLink(Protocol):
    """One actor as one process sees it: what an `ActorHandle` holds."""

    @property
    def id(self) -> ActorId: ...

    @property
    def definition(self) -> ActorDefinition: ...

    @property
    def runtime(self) -> Runtime: ...

    @property
    def state(self) -> str:
        """A word of `state/actors.py`: `"PENDING_CREATION"`, `"ALIVE"`, `"DEAD"`, ..."""
        ...

    @property
    def claim(self) -> str:
        """While control has not said yet whose its name is: `"fixed"`, or `"open"` when it may be another actor's."""
        ...

    @property
    def alias(self) -> ActorLink | None:
        """The actor that had the name, when this one was not made for that."""
        ...

    def call(self, what: MethodDefinition, args: Args, kwargs: Kwargs, options: MethodOptions) -> Any:
        """Submit; returns an `ObjectRef` (a list of them for `num_returns` above 1, None for 0)."""

    async def run(self, what: MethodDefinition, args: Args, kwargs: Kwargs, options: MethodOptions) -> Any:
        """Structured call: the value itself; cancelling the awaiting task cancels the remote work."""

    def open_stream(
        self, what: MethodDefinition, args: Args, kwargs: Kwargs, options: MethodOptions, *, structured: bool
    ) -> StreamSource:
        """Call a generator."""
        ...

    async def submit(self, what: MethodDefinition, args: Args, kwargs: Kwargs, options: MethodOptions) -> Any:
        """`call` that waits for room instead of raising `PendingCallsLimitExceeded`."""


class ActorNames(Protocol):
    """Named actors."""

    async def get_or_create(
        self, definition: ActorDefinition, args: Args, kwargs: Kwargs, options: ActorOptions
    ) -> tuple[ActorLink, bool]:
        """The actor that has the name of `options`, and whether it was made for this call. From any loop."""
        ...

    async def find(self, name: str, namespace: str) -> ActorLink | None:
        """The actor that has the name, without holding it; in the session's namespace when that is empty."""

    async def listed(self, namespace: str) -> list[tuple[str, str]]:
        """Namespaces and names; of all namespaces when it is empty."""
        ...


class NodeLink(Protocol):
    """The node that a process belongs to."""

    @property
    def id(self) -> str: ...

    def new_id(self) -> str:
        """For something that this process makes."""
        ...

    async def ask(self, body: Any) -> Any:
        """What the node, or the one that leads the cluster, answers to a message of `wire`. On the runtime's loop."""


class Runtime(Protocol):
    """What every process of a session has: it owns references and submits work."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def process(self) -> ProcessId: ...

    @property
    def namespace(self) -> str: ...

    @property
    def job(self) -> str: ...

    @property
    def node_pid(self) -> int: ...

    @property
    def address(self) -> str:
        """The address the session was opened with, as shown to users."""
        ...

    @property
    def shut_down(self) -> Callable[[], Awaitable[None]] | None:
        """Shuts the driver's session down; None in a worker."""
        ...

    @property
    def closing(self) -> bool:
        """Whether the session was shut down, or is being shut down."""
        ...

    def in_loop(self) -> bool:
        """Whether the calling thread is the one that runs this runtime's loop."""
        ...

    @property
    def node(self) -> NodeLink: ...

    # objects
    async def list_objects(self) -> Any:
        """What is in the node's store: an `Objects`."""

    # tasks
    def submit(self, definition: FunctionDefinition, args: Args, kwargs: Kwargs, options: TaskOptions) -> Any: ...

    async def run(self, definition: FunctionDefinition, args: Args, kwargs: Kwargs, options: TaskOptions) -> Any: ...

    def open_stream(
        self, definition: FunctionDefinition, args: Args, kwargs: Kwargs, options: TaskOptions, *, structured: bool
    ) -> StreamSource:
        """Call a generator."""
        ...

    def import_stream(self, anchor: ObjectRef[Any], completed: ObjectRef[None], name: str) -> StreamSource:
        """The source of a stream that came in a message; `anchor` is what its owner knows it by."""
        ...

    async def submit_in_turn(
        self, definition: FunctionDefinition, args: Args, kwargs: Kwargs, options: TaskOptions
    ) -> Any:
        """`submit` that waits for room instead of raising `PendingCallsLimitExceeded`."""

    # actors
    def create_actor(
        self, definition: ActorDefinition, args: Args, kwargs: Kwargs, options: ActorOptions
    ) -> ActorLink: ...

    @property
    def names(self) -> ActorNames: ...

    async def kill(self, link: ActorLink, *, no_restart: bool) -> None: ...

    async def terminate(self, link: ActorLink) -> None:
        """End it after the calls made before; returns when it is gone."""

    async def describe_actor(self, link: ActorLink) -> Any:
        """Its state as its creator knows it: an `ActorPlace`."""

    def hold_actor(self, link: ActorLink) -> ActorLink:
        """A link to the same actor that keeps it alive."""
        ...

    async def actor_ready(self, link: ActorLink) -> None:
        """Return once the constructor has run; raises what creation ended with."""

    def export_actor(self, link: ActorLink) -> tuple[Any, ...]:
        """What another process needs to reach the actor: plain picklable data."""
        ...

    def import_actor(self, data: tuple[Any, ...], definition: ActorDefinition, *, weak: bool = False) -> ActorLink:
        """The link to an actor that `export_actor` described elsewhere; a `weak` one does not keep it alive."""
        ...

    # objects
    async def put(self, value: Any, timeout: float | None = None) -> ObjectRef[Any]: ...

    async def cancel(self, ref: ObjectRef[Any] | ObjectRefStream[Any], *, force: bool, recursive: bool) -> bool: ...

    def want(self, ref: ObjectRef[Any], *, value: bool) -> None:
        """Start to fetch a reference owned by another process (`value`), or only its readiness. From any thread."""

    def unwrap(self, outcome: Any, *, copy: bool = False) -> Any:
        """Decode a value, or raise the error that it carries."""

    def export(self, ref: ObjectRef[Any]) -> tuple[Callable[..., object], tuple[object, ...]]:
        """How the reference is rebuilt in the process that receives it (as `__reduce__` says it)."""
        ...


class CallScope(Protocol):
    """The call that user code runs in, for `runtime_context()` and for giving the CPU back while it waits."""

    @property
    def info(self) -> CallInfo: ...

    @property
    def task_id(self) -> ObjectId: ...

    @property
    def actor_id(self) -> ActorId | None:
        """Of the actor that it is a call of."""
        ...

    @property
    def function_name(self) -> str: ...

    @property
    def chain(self) -> tuple[Any, ...]:
        """The structured calls that wait for this one, outermost first."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether the call was asked to stop."""
        ...

    @property
    def inside(self) -> Any:
        """The placement group that it runs in, as it travels: an `InGroup`, or None."""
        ...

    @property
    def captures(self) -> bool:
        """Whether what it starts runs in that group, too."""
        ...

    def exit_actor(self) -> bool:
        """The actor takes no more calls and ends after those that run; False in a task. From any thread."""
        ...

    @property
    def children(self) -> set[Any]:
        """The calls that it submitted and that have not ended; cancelling it cancels them."""
        ...

    def enter_wait(self) -> None:
        """The call blocks in `get`, `wait` or `await ref`: its CPU goes back to the node. From any thread."""

    def leave_wait(self) -> None: ...

    def blocks_on(self, future: concurrent.futures.Future[Any]) -> None:
        """Plain code of the call blocks its thread until `future` is done: cancelling the call cancels that."""

    def blocks_no_more(self, future: concurrent.futures.Future[Any]) -> None: ...


class CallInfo(Struct, frozen=True):
    """What `runtime_context()` tells about the running call."""

    task_id: ObjectId
    task_name: str
    function_name: str
    attempt: int
    actor_id: ActorId | None
    actor_name: str | None
    actor_class: type[Any] | None
    actor_data: tuple[Any, ...]
    """Id, address of its creator, and limits of the running actor; empty outside one."""
    resources: Mapping[str, float]
    reconstructed: bool = False
    """Whether the actor was made anew after its worker died."""
    gpus: tuple[str, ...] = ()
    """The devices that are held for it."""


current_call: ContextVar[CallScope | None] = ContextVar("actorlite_call", default=None)
current_trace: ContextVar[str] = ContextVar("actorlite_trace", default="")
"""W3C `traceparent`, carried along with calls."""
current_runtime: ContextVar[Runtime | None] = ContextVar("actorlite_runtime", default=None)


class ActorExit(BaseException):
    """Raised by `al.exit_actor()` to leave the method; no error, and not to be caught. Callers see `ActorDiedError`."""


class _OpenSessions:
    """The registry of this process's open driver sessions: the one process-wide variable."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runtimes: list[Runtime] = []

    def add(self, runtime: Runtime) -> None:
        with self._lock:
            self._runtimes.append(runtime)

    def discard(self, runtime: Runtime) -> None:
        with self._lock:
            self._runtimes = [each for each in self._runtimes if each is not runtime]

    def all(self) -> Sequence[Runtime]:
        """Those whose loop still runs or may run again: a session whose loop was closed under it is no choice."""
        return tuple(each for each in self._runtimes if not each.loop.is_closed())


sessions = _OpenSessions()


def find_runtime() -> Runtime:
    """The current session's runtime. Raises `NoSessionError` naming the open ones and the remedies."""
    runtime = current_runtime.get()
    if runtime is not None and not runtime.closing:
        return runtime
    open_now = sessions.all()
    if len(open_now) == 1:
        return open_now[0]
    if not open_now:
        raise NoSessionError("no session is open: write `async with al.init(): ...`, or `await al.init()` first")
    listed = ", ".join(repr(each) for each in open_now)
    raise NoSessionError(
        f"{len(open_now)} sessions are open ({listed}) and none is current here: enter one with "
        "`with session.use(): ...`, or name it per call with `f.options(session=session)`"
    )
