"""Sessions: opening one by its address, making it current, shutting it down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actorlite.config import Settings, read_token, session_directory_of, shared_node_address
from actorlite.context import current_runtime, find_runtime, sessions
from actorlite.errors import ActorliteError, ConnectFailed, NodeStartError, NoSessionError
from actorlite.host import Entropy, SystemEntropy
from actorlite.ids import PROCESS_ID_BYTES, ProcessId, process_id
from actorlite.node.daemon import Node, NodeOptions
from actorlite.node.launch import DaemonHandle, launch_daemon
from actorlite.node.run import available_cpus
from actorlite.resources import to_units
from actorlite.rpc.handshake import PYTHON
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers
from actorlite.runtime.node_client import NodeClient
from actorlite.runtime.runtime import ProcessRuntime
from actorlite.transport import Address, scheme_of
from actorlite.wire.launch import DaemonConfig
from actorlite.wire.messages import Identity, NodeInfo, NodeStatus, RegisterDriver, Status, StopNode
from actorlite.worker.inproc import LoopSpawner

TOKEN_BYTES = 32


class Session:
    """One driver's connection to one node: made by `al.init`. Shut it down, or use `async with`."""

    def __init__(self, runtime: ProcessRuntime, resources: AsyncExitStack) -> None:
        self.runtime = runtime
        self._resources = resources
        self._shutting_down: asyncio.Task[None] | None = None

    @property
    def address(self) -> Address:
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
        """What the node says of itself: pid, address, CPUs in all and free, workers, jobs, waiting requests."""
        runtime = self.runtime
        return _shown(await runtime.on_own_loop(runtime.node.peer.request(next(runtime.hub.numbers), NodeStatus())))

    async def shutdown(self) -> None:
        """Run `on_stop` of its actors, end what the session started, close. Idempotent; goes on when cancelled."""
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

    address: Address
    namespace: str
    num_cpus: float | None
    preload: tuple[str, ...]
    settings: Settings
    entropy: Entropy
    transport: str = "inproc"
    """The scheme that an in-process session's parts talk over; tests choose others."""


def init(
    address: str | None = None,
    *,
    namespace: str | None = None,
    num_cpus: float | None = None,
    preload: Sequence[str] = (),
) -> Opening:
    """Open a session: `async with al.init(): ...`, or `session = await al.init()` and `await al.shutdown()`.

    `address`: `"local"` (default: a private node daemon with worker processes, which ends with this process),
    `"inproc://"` (everything in this loop), `"auto"` (the node that `actorlite start` started), or `"uds:///..."`.
    Without it `ACTORLITE_ADDRESS` counts. `num_cpus`: default all CPUs this process may use. `preload`: modules that
    worker processes share from the start. Several sessions may be open at once.

    Raises `TypeError` and `ValueError` at once; when awaited `NodeStartError`, `ConnectFailed`, `AuthenticationError`,
    `VersionMismatch`.
    """
    settings = Settings.from_environment()
    address = settings.address if address is None else address
    _check(address, namespace, num_cpus, preload)
    return Opening(
        Plan(
            shared_node_address(settings) if address == "auto" else address,
            settings.namespace if namespace is None else namespace,
            num_cpus,
            tuple(preload),
            settings,
            SystemEntropy(),
        )
    )


async def shutdown() -> None:
    """Shut down the current session. Nothing happens when none is open."""
    if sessions.all():
        runtime = find_runtime()
        if runtime.shut_down is None:
            raise NoSessionError("a worker cannot shut its session down: only the driver that opened it can")
        await runtime.shut_down()


def _check(address: Any, namespace: Any, num_cpus: Any, preload: Any) -> None:
    if not isinstance(address, str):
        raise TypeError(f'address must be text such as "local" or "inproc://", not {address!r}')
    known = address in ("local", "auto") or address.startswith("inproc://") or address.startswith("uds://")
    if not known:
        later = "; clusters over TCP are not in this version" if address.startswith("tcp://") else ""
        raise ValueError(f'address={address!r} is not "local", "auto", "inproc://" or "uds:///path"{later}')
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"namespace must be text, not {namespace!r}")
    if namespace == "":
        raise ValueError("namespace is empty: leave it out for one of the session's own")
    if num_cpus is not None:
        if isinstance(num_cpus, bool) or not isinstance(num_cpus, int | float):
            raise TypeError(f"num_cpus must be a number, not {num_cpus!r}")
        if num_cpus < 0:
            raise ValueError(f"num_cpus={num_cpus!r} is negative: give the number of CPUs that tasks may use")
        to_units("num_cpus", num_cpus)
    if isinstance(preload, str) or not all(isinstance(each, str) for each in preload):
        raise TypeError(f'preload must be a list of module names such as ["numpy"], not {preload!r}')
    if address == "auto" or address.startswith("uds://"):
        given = [name for name, value in (("num_cpus", num_cpus), ("preload", preload or None)) if value is not None]
        if given:
            raise ValueError(f"{given[0]} cannot be given when attaching to a node that runs already: it has its own")
    elif address.startswith("inproc://") and preload:
        raise ValueError("preload is for worker processes: an in-process session has none")


async def open_session(plan: Plan) -> Session:
    """Open, register, announce. When it fails or is cancelled nothing is left."""
    async with AsyncExitStack() as stack:
        if plan.address.startswith("inproc://"):
            runtime = await _open_in_process(plan, stack)
        elif plan.address == "local":
            runtime = await _open_private(plan, stack)
        else:
            token = read_token(plan.address)
            directory = session_directory_of(plan.address)
            runtime = await _attach(plan, plan.address, token, _socket_in(directory), stack)
        session = Session(runtime, stack.pop_all())
    runtime.shut_down = session.shutdown
    sessions.add(runtime)
    return session


AddressMaker = Callable[[ProcessId, str], Address]


def _socket_in(directory: Path | str) -> AddressMaker:
    return lambda process, role: f"uds://{directory}/{role[0]}-{process}.sock"


async def _open_private(plan: Plan, stack: AsyncExitStack) -> ProcessRuntime:
    """A node daemon of our own: it ends with this process, whatever happens."""
    name = plan.entropy.token_bytes(PROCESS_ID_BYTES).hex()
    directory = Path(plan.settings.runtime_root) / f"actorlite-{name}"
    token = plan.entropy.token_bytes(TOKEN_BYTES)
    daemon = await launch_daemon(
        DaemonConfig(
            session_directory=str(directory),
            node=f"uds://{directory}/node.sock",
            token=token,
            num_cpus=plan.num_cpus,
            loop=plan.settings.loop,
            preload=plan.preload,
            sys_path=own_sys_path(),
            cwd=_cwd(),
        )
    )
    stack.push_async_callback(daemon.stop)
    runtime = await _attach(plan, daemon.address, token, _socket_in(directory), stack)
    runtime.node.explain = lambda: _how_it_ended(daemon)
    return runtime


async def _how_it_ended(daemon: DaemonHandle) -> str:
    return f"the node daemon of this session ended: {(await daemon.wait()).describe()}"


async def _open_in_process(plan: Plan, stack: AsyncExitStack) -> ProcessRuntime:
    """The same parts in this loop, over the in-process transport unless a test chose another."""
    entropy = plan.entropy
    address_of, node_address = _in_process_addresses(plan, stack)
    token = entropy.token_bytes(TOKEN_BYTES)
    cpus = available_cpus() if plan.num_cpus is None else plan.num_cpus
    options = NodeOptions(
        process=process_id(entropy.token_bytes(PROCESS_ID_BYTES)),
        token=token,
        cpu_units=to_units("num_cpus", cpus),
        worker_address=lambda process: address_of(process, "worker"),
        pid=os.getpid(),
    )
    node = Node(options, LoopSpawner(entropy), entropy, lambda: None)
    bound = await node.start(node_address)
    stack.push_async_callback(node.aclose, "its session was shut down")
    return await _attach(plan, bound, token, address_of, stack)


def _in_process_addresses(plan: Plan, stack: AsyncExitStack) -> tuple[AddressMaker, Address]:
    name = plan.entropy.token_bytes(PROCESS_ID_BYTES).hex()
    if plan.transport == "inproc":
        return (lambda process, role: f"inproc://{name}/{process}"), f"inproc://{name}/node"
    if plan.transport == "tcp":
        return (lambda process, role: "tcp://127.0.0.1:0"), "tcp://127.0.0.1:0"
    directory = Path(plan.settings.runtime_root) / f"actorlite-{name}"
    directory.mkdir(0o700)
    stack.callback(directory.rmdir)
    return _socket_in(directory), f"uds://{directory}/node.sock"


async def _attach(
    plan: Plan, node: Address, token: bytes, address_of: AddressMaker, stack: AsyncExitStack
) -> ProcessRuntime:
    """Register with a node as a driver."""
    process = process_id(plan.entropy.token_bytes(PROCESS_ID_BYTES))
    handlers = Handlers()
    runtime: ProcessRuntime | None = None
    hub = Hub(
        Identity(process, "driver", "", os.getpid(), PYTHON),
        token,
        plan.entropy,
        handlers,
        on_peer_lost=lambda peer, error: runtime.peer_lost(peer, error) if runtime is not None else None,
    )
    stack.push_async_callback(hub.aclose)
    await hub.listen(address_of(process, "driver"))
    peer = await hub.connect(node)
    job = f"job-{process}"
    namespace = plan.namespace or job
    info = await peer.request(next(hub.numbers), RegisterDriver(job, namespace, own_sys_path(), _cwd()))
    if not isinstance(info, NodeInfo):
        raise NodeStartError(f"the node at {node} did not answer the registration")
    runtime = ProcessRuntime(hub, NodeClient(hub, peer, info), job=job, namespace=namespace, address=plan.address)
    runtime.install(handlers)
    return runtime


def own_sys_path() -> tuple[str, ...]:
    """Where this process finds modules, with the current directory spelled out."""
    return tuple(os.path.abspath(entry) for entry in sys.path)


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # it was removed under us


# --- for the command line: a node without a session ----------------------------------------------------------


async def node_status(address: Address) -> dict[str, Any]:
    """What the node at `address` says of itself. Raises `ConnectFailed` when none runs there."""
    async with _visit(address) as (hub, peer):
        return _shown(await peer.request(next(hub.numbers), NodeStatus()))


async def stop_node(address: Address) -> None:
    """Tell the node at `address` to end; returns when it has heard. Raises `ConnectFailed` when none runs there."""
    async with _visit(address) as (hub, peer):
        await peer.request(next(hub.numbers), StopNode())


@contextlib.asynccontextmanager
async def _visit(address: Address) -> AsyncIterator[tuple[Hub, Any]]:
    if scheme_of(address) != "uds":
        raise ConnectFailed(f"{address} is not a node of this host: write uds:///path/node.sock")
    entropy = SystemEntropy()
    process = process_id(entropy.token_bytes(PROCESS_ID_BYTES))
    hub = Hub(Identity(process, "visitor", "", os.getpid(), PYTHON), read_token(address), entropy, Handlers())
    try:
        yield hub, await hub.connect(address)
    finally:
        await hub.aclose()


def _shown(status: Any) -> dict[str, Any]:
    if not isinstance(status, Status):
        raise ActorliteError("the node did not answer")
    return {
        "pid": status.pid,
        "address": status.address,
        "num_cpus": status.cpu_units / 10_000,
        "free_cpus": status.cpu_units_free / 10_000,
        "workers": [{"process": process, "pid": pid, "use": use} for process, pid, use in status.workers],
        "jobs": list(status.jobs),
        "waiting": status.waiting,
    }
