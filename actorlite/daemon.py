"""The node daemon's process: what surrounds the node itself.

Role: takes its configuration from the process that started it, forks the zygote while it is still a single thread
without a loop, runs the node, and ends with nothing left: no child, no session directory.
It ends when the node ends, on `Stop`, on SIGTERM, when its zygote dies, and, if owned, when its starter is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import NoReturn

from actorlite import proctree
from actorlite.errors import NodeStartError, WorkerStartError
from actorlite.host import ExitReport
from actorlite.loading import load
from actorlite.node.spawner import ZygoteSpawner
from actorlite.node.stop import RunNode, StopSignal
from actorlite.pages import before_fork, give_back_zeros
from actorlite.transport import get_transport
from actorlite.wire import launch as wire
from actorlite.wire.zygote import ZygoteConfig
from actorlite.worker.zygote import ZygoteProcess, fork_zygote, remove_directory

STDERR = 2
END_CHILDREN_WITHIN_S = 1.5
ABRUPT_END_WITHIN_S = 1.0
"""For the node to say goodbye when its starter or its zygote is gone; on `Stop` and SIGTERM it takes its time."""
GIVE_UP_AFTER_S = 1.8
"""When the starter is gone, a daemon that hangs is killed by the kernel, and the zygote clears up after it."""
ERROR_CHARACTERS = 16_000
YOUNG_OBJECTS = 10_000
"""Of the collector: a daemon makes many objects that live for a moment, and few circles. Python says 700."""
NODE_AND_WORKERS_NEED = "actorlite.rpc.hub"
WORKERS_NEED = "actorlite.interface"
"""What user code will import anyway."""


def main(control_fd: int, stderr_fd: int) -> NoReturn:
    """Run a daemon to its end. `stderr_fd` becomes standard error once the node is ready; -1 keeps the present one.

    The collector is off when this is called, and on when all is imported: nothing of that is garbage.
    """
    code = 1
    directory = ""
    try:
        # The starter decides about Ctrl-C; the daemon is not even in its session.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        control = socket.socket(fileno=control_fd)
        for fd in (control_fd, stderr_fd):
            if fd >= 0:
                os.set_inheritable(fd, False)
        packet = control.recv(wire.MAX_PACKET_BYTES)
        if packet:
            config = wire.decode_config(packet)
            proctree.become_subreaper()
            zygote = _open(config, control, stderr_fd)
            if zygote is not None:
                directory = config.session_directory
                code = _run(config, control, zygote, stderr_fd)
    except BaseException:
        traceback.print_exc()
    finally:
        proctree.kill_all_children(END_CHILDREN_WITHIN_S)
        if directory:
            # The zygote's duty, unless it was killed.
            remove_directory(directory)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # Threads that still run something must not hold up the end.
        os._exit(code)


def _open(config: wire.DaemonConfig, control: socket.socket, stderr_fd: int) -> ZygoteProcess | None:
    # Imports before the fork are shared with all workers.
    if config.loop == "uvloop":
        import_module("uvloop")
    if config.node:
        get_transport(config.node)
    import_module(NODE_AND_WORKERS_NEED)
    before_fork()
    try:
        return fork_zygote(
            ZygoteConfig(
                entry=config.worker_entry,
                preload=(WORKERS_NEED, *config.preload),
                allow_preload_threads=config.allow_preload_threads,
                sys_path=config.sys_path,
                cwd=config.cwd,
                session_directory=config.session_directory,
                stderr=stderr_fd,
            )
        )
    except OSError as error:
        _tell(control, wire.NodeFailed(str(error)))
        return None


def _run(config: wire.DaemonConfig, control: socket.socket, zygote: ZygoteProcess, stderr_fd: int) -> int:
    factory: Callable[[], asyncio.AbstractEventLoop] = (
        import_module("uvloop").new_event_loop if config.loop == "uvloop" else asyncio.new_event_loop
    )
    # After the fork: the zygote imports what workers need meanwhile.
    run_node: RunNode = load(config.node_entry)
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    gc.enable()
    with asyncio.Runner(loop_factory=factory) as runner:
        give_back_zeros(runner.get_loop())
        return runner.run(_Daemon(config, control, stderr_fd, run_node).run(zygote))


def _tell(control: socket.socket, report: wire.Report) -> None:
    # Whether the starter is gone is seen where the channel is read; a report that finds no room has no reader either.
    with contextlib.suppress(ConnectionError, BlockingIOError):
        control.send(wire.encode(report))


def _failure(node: asyncio.Task[None]) -> BaseException | None:
    return None if node.cancelled() else node.exception()


class _Daemon:
    """One run of a node, between the starter's channel and the zygote."""

    def __init__(self, config: wire.DaemonConfig, control: socket.socket, stderr_fd: int, run_node: RunNode) -> None:
        self._config = config
        self._control = control
        self._stderr_fd = stderr_fd
        self._run_node = run_node
        self._ready = False
        self._zygote_end = ""
        self._abrupt = asyncio.Event()

    async def run(self, zygote: ZygoteProcess) -> int:
        """The exit code: 0 after an end that was asked for."""
        stop = StopSignal()
        spawner = ZygoteSpawner(zygote.pid, zygote.channel, lambda report: self._zygote_died(report, stop))

        async def on_ready(address: str) -> None:
            if self._config.preload:
                # What cannot be preloaded must fail the start; our own imports need not hold it up.
                await spawner.ready()
            self._take_real_stderr()
            self._ready = True
            _tell(self._control, wire.NodeReady(address, os.getpid()))

        with self._watched(stop):
            node = asyncio.create_task(self._run_node(self._config, spawner, on_ready, stop), name="node")
            try:
                await self._until_end(node, stop)
            finally:
                await spawner.aclose()
        self._report_end(node, spawner.refusal or self._zygote_end, stop.reason)
        return 0 if self._ready and not self._abrupt.is_set() and not _failure(node) else 1

    async def _until_end(self, node: asyncio.Task[None], stop: StopSignal) -> None:
        """Wait for the node, which ends by itself or by `stop`; a node that is still starting is cancelled."""
        stopped = asyncio.create_task(stop.wait(), name="stop")
        abrupt = asyncio.create_task(self._abrupt.wait(), name="abrupt")
        try:
            await asyncio.wait((node, stopped), return_when=asyncio.FIRST_COMPLETED)
            if self._ready:
                await asyncio.wait((node, abrupt), return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait((node,), timeout=ABRUPT_END_WITHIN_S)
            node.cancel()
            await asyncio.wait((node,))
        finally:
            stopped.cancel()
            abrupt.cancel()

    def _report_end(self, node: asyncio.Task[None], zygote: str, stopped: str) -> None:
        """Tell the starter why it ended: the cause, where a node failed because its zygote had."""
        error = _failure(node)
        if error is not None and not isinstance(error, WorkerStartError | NodeStartError) and not zygote:
            if self._ready:
                traceback.print_exception(error)
            text = "".join(traceback.format_exception(error))
        else:
            text = zygote or (str(error) if error is not None else stopped) or "the node ended by itself"
        text = text[-ERROR_CHARACTERS:]
        _tell(self._control, wire.NodeEnded(text) if self._ready else wire.NodeFailed(text))

    def _zygote_died(self, report: ExitReport, stop: StopSignal) -> None:
        self._zygote_end = f"the zygote died: {report.describe()}"
        self._abrupt.set()
        stop.set(self._zygote_end, keep=True)
        # We have adopted its descendants, and have no other children that are worth keeping now.
        for pid in proctree.children():
            proctree.kill_process(pid)

    @contextlib.contextmanager
    def _watched(self, stop: StopSignal) -> Iterator[None]:
        """Set `stop` on SIGTERM, on `Stop` and, as long as it matters, at the end of the starter.

        A forked child of the starter may hold the channel open for ever: hence also a pidfd.
        """
        loop = asyncio.get_running_loop()
        control = self._control.fileno()
        self._control.setblocking(False)
        loop.add_signal_handler(signal.SIGTERM, stop.set, "SIGTERM")
        loop.add_reader(control, self._control_readable, stop)
        starter = self._open_starter(stop) if self._config.owned else -1
        if starter >= 0:
            loop.add_reader(starter, self._starter_gone, stop)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            loop.remove_reader(control)
            if starter >= 0:
                loop.remove_reader(starter)
                os.close(starter)

    def _open_starter(self, stop: StopSignal) -> int:
        try:
            starter = os.pidfd_open(self._config.parent_pid)
        except ProcessLookupError:
            self._starter_gone(stop)
            return -1
        if os.getppid() != self._config.parent_pid:
            self._starter_gone(stop)
        return starter

    def _control_readable(self, stop: StopSignal) -> None:
        try:
            packet = self._control.recv(wire.MAX_PACKET_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            packet = b""
        if packet:
            wire.decode_stop(packet)
            stop.set("it was told to stop")
            return
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        if self._config.owned or not self._ready:
            self._starter_gone(stop)

    def _starter_gone(self, stop: StopSignal) -> None:
        self._abrupt.set()
        signal.setitimer(signal.ITIMER_REAL, GIVE_UP_AFTER_S)
        stop.set("the process that started it ended")

    def _take_real_stderr(self) -> None:
        """The starter has collected what was said so far, for its error; now it may be seen."""
        if self._stderr_fd < 0:
            return
        sys.stderr.flush()
        offset = 0
        with contextlib.suppress(OSError):
            while said := os.pread(STDERR, 65536, offset):
                offset += os.write(self._stderr_fd, said)
        os.dup2(self._stderr_fd, STDERR)
        os.close(self._stderr_fd)
        self._stderr_fd = -1
