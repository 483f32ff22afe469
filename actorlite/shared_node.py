"""The node daemon that several sessions share: starting it, finding it, stopping it.

Its session directory is named by its address and holds its socket and its token. Beside it, in this user's runtime
directory, are the daemon's log and a lock that lets one `start` at a time look for what an earlier node left and
remove it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actorlite.config import (
    Settings,
    prepare_private_directory,
    read_token,
    runtime_directory,
    session_directory_of,
    shared_node_address,
    write_token,
)
from actorlite.errors import ActorliteError, ConnectFailed, NodeStartError
from actorlite.host import SystemEntropy
from actorlite.node.launch import DaemonHandle, launch_daemon
from actorlite.opening.attached import drain_node, node_status, stop_node
from actorlite.resources import NodeResources
from actorlite.state.draining import check_timeout
from actorlite.wire.launch import DaemonConfig

TOKEN_BYTES = 32
STOP_TIMEOUT_S = 15.0
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shared node is, or would be."""

    address: str
    settings: Settings

    @classmethod
    def at(cls, address: str | None, settings: Settings | None = None) -> Place:
        """The place of `address`; for None that of the environment, else this user's own. Raises `ValueError`."""
        settings = settings or Settings.from_environment()
        if address is None and settings.address.startswith("uds://"):
            address = settings.address
        if address is None or address == "auto":
            address = shared_node_address(settings)
        session_directory_of(address)
        return cls(address, settings)

    @property
    def is_default(self) -> bool:
        return self.address == shared_node_address(self.settings)

    @property
    def directory(self) -> Path:
        return session_directory_of(self.address)

    @property
    def log(self) -> Path:
        return self._beside(".log")

    @property
    def lock(self) -> Path:
        return self._beside(".lock")

    @property
    def state(self) -> Path:
        """What a node that is started here again finds of one that was killed."""
        return self._beside(".state")

    def _beside(self, suffix: str) -> Path:
        name = self.directory.name if self.is_default else str(self.directory).strip("/").replace("/", "_")
        return runtime_directory(self.settings) / (name + suffix)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new node shall be like."""

    resources: NodeResources = NodeResources()
    preload: tuple[str, ...] = ()
    object_store_memory: int | None = None
    object_spilling_directory: str | None = None
    join: str = ""
    """The address of a node whose cluster it joins. Empty: it is the first of a cluster."""


@dataclass(frozen=True, slots=True)
class SharedNode:
    pid: int
    address: str


class OwnedNode:
    """A shared node that ends with this process. Made by `running`."""

    def __init__(self, handle: DaemonHandle) -> None:
        self._handle = handle

    @property
    def pid(self) -> int:
        return self._handle.pid

    @property
    def address(self) -> str:
        return self._handle.address

    @property
    def is_running(self) -> bool:
        return self._handle.is_running

    async def stop(self) -> str:
        """End it in good order; returns how it has ended. Idempotent."""
        return (await self._handle.stop()).describe()

    async def drain(self, *, timeout: float | None = None) -> str:
        """End it when nothing runs there any more, or has run for `timeout` seconds: `Cluster.drain_node` says more.
        Returns how it has ended. To cancel it changes nothing. Raises `DrainRefused`, `NodeDiedError`."""
        check_timeout(timeout)
        await drain_node(self._handle.address, timeout)
        return (await self._handle.wait()).describe()

    async def kill(self) -> str:
        """SIGKILL; its workers end as well. Returns when the daemon has ended. Idempotent."""
        self._handle.kill()
        return (await self._handle.wait()).describe()

    async def ended_or(self, asked: asyncio.Event) -> str:
        """Wait until the node ends by itself or `asked` is set; then say why it ended, once it has."""
        ended = asyncio.create_task(self._handle.wait(), name="node ended")
        stopped = asyncio.create_task(asked.wait(), name="stop asked for")
        try:
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            stopped.cancel()
        return (await self._handle.stop()).describe()


async def start(place: Place, wanted: Wanted) -> SharedNode:
    """Start a node that outlives this process. Raises `NodeStartError`, also when one runs there already, and when the
    one that it shall join does not."""
    handle = await _launch(place, wanted, owned=False)
    node = SharedNode(handle.pid, handle.address)
    handle.release()
    return node


@contextlib.asynccontextmanager
async def running(place: Place, wanted: Wanted) -> AsyncIterator[OwnedNode]:
    """As `start`, but the node ends with the block, or with this process."""
    handle = await _launch(place, wanted, owned=True)
    try:
        yield OwnedNode(handle)
    finally:
        await handle.stop()


async def status(place: Place) -> dict[str, Any]:
    """What the node says of itself. Raises `ConnectFailed` when none runs."""
    return await node_status(place.address)


async def stop(place: Place) -> SharedNode:
    """Stop the node; returns when it and its session directory are gone. Raises `ConnectFailed` when none runs."""
    pid = (await node_status(place.address))["pid"]
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        process = -1
    try:
        await stop_node(place.address)
        if process >= 0:
            await _readable(process)
        await _until(lambda: not _exists(place.directory))
    except TimeoutError:
        raise ActorliteError(
            f"the node at {place.address} (pid {pid}) has not ended after {STOP_TIMEOUT_S:g} s"
        ) from None
    finally:
        if process >= 0:
            os.close(process)
    return SharedNode(pid, place.address)


async def _launch(place: Place, wanted: Wanted, *, owned: bool) -> DaemonHandle:
    prepare_private_directory(runtime_directory(place.settings))
    if not place.directory.parent.is_dir():
        raise NodeStartError(f"{place.directory.parent} does not exist: the node makes only the last directory")
    with _locked(place.lock):
        await _make_room(place)
        token = await _cluster_token(wanted.join) if wanted.join else SystemEntropy().token_bytes(TOKEN_BYTES)
        handle = await launch_daemon(
            DaemonConfig(
                session_directory=str(place.directory),
                node=place.address,
                token=token,
                owned=owned,
                num_cpus=wanted.resources.num_cpus,
                num_gpus=wanted.resources.num_gpus,
                memory=wanted.resources.memory,
                resources=dict(wanted.resources.resources),
                labels=dict(wanted.resources.labels),
                max_workers=wanted.resources.max_workers,
                idle_workers=wanted.resources.idle_workers,
                object_store_memory=wanted.object_store_memory,
                object_spilling_directory=wanted.object_spilling_directory,
                loop=place.settings.loop,
                preload=wanted.preload,
                sys_path=(os.getcwd(), *filter(None, sys.path)) if wanted.preload else (),
                # What an earlier node here has left waits for one that leads again.
                control_state="" if wanted.join else str(place.state),
                join=wanted.join,
                log_path="" if owned else str(place.log),
            )
        )
        try:
            write_token(place.directory, token)
        except BaseException:
            await handle.stop()
            raise
    return handle


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One `start` for a place at a time. The file stays: removing it would let two lock two files of one name."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeStartError("another `actorlite start` for this address is under way") from None
        yield
    finally:
        os.close(descriptor)


async def _make_room(place: Place) -> None:
    """Remove what a node that was killed has left. Raises `NodeStartError` when one runs, or it is no node's."""
    if not _exists(place.directory):
        return
    try:
        found = await node_status(place.address)
    except ConnectFailed:
        _remove_left_over(place.directory)
        return
    raise NodeStartError(f"a node already runs at {place.address}, pid {found['pid']}: end it with `actorlite stop`")


async def _cluster_token(address: str) -> bytes:
    """That of the cluster of a node on this host, from its session directory. Raises `NodeStartError`."""
    try:
        token = read_token(address)
        await node_status(address)  # a node that was killed may have left its token
    except ActorliteError as error:
        raise NodeStartError(
            f"cannot join the node at {address}: {error}; start that node first, or name another one of the cluster"
        ) from error
    return token


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _remove_left_over(directory: Path) -> None:
    # The address is the user's word: this must not be able to remove anything but what a node makes.
    prepare_private_directory(directory)
    entries = list(directory.iterdir())
    strange = [each.name for each in entries if each.name != "token" and not stat.S_ISSOCK(each.lstat().st_mode)]
    if strange:
        raise NodeStartError(
            f"{directory} exists and is no session directory, it holds {', '.join(sorted(strange)[:5])}: remove it, or "
            "choose an address in a directory that does not exist yet"
        )
    for each in entries:
        each.unlink(missing_ok=True)
    directory.rmdir()


async def _readable(descriptor: int) -> None:
    """Wait until the process of a pidfd has ended. Raises `TimeoutError`."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)


async def _until(condition: Callable[[], bool]) -> None:
    # The directory's remover is not our child, and no descriptor tells of its end.
    async with asyncio.timeout(STOP_TIMEOUT_S):
        while True:
            if condition():
                return
            await asyncio.sleep(POLL_S)
