"""The daemon's side of the zygote: starts workers by asking it to fork.

Owner: the daemon's loop. The zygote is this process's own child, so its end is seen through a pidfd and `waitpid`,
without signal handlers. When it ends, every worker has ended with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections import deque
from collections.abc import Callable

import msgspec

from actorlite import proctree
from actorlite.errors import NodeDiedError, Outcome, WorkerStartError
from actorlite.host import ExitReport, WorkerSpec
from actorlite.wire import zygote as wire

CLOSE_WITHIN_S = 2.0
"""A zygote that has not ended after this long is killed; its workers follow it."""


class WorkerHandle:
    """One forked worker; a `ProcessHandle`."""

    def __init__(self, process: str, pid: int, kill: Callable[[str], None]) -> None:
        self._process = process
        self._pid = pid
        self._kill = kill
        self._ended = asyncio.Event()
        self._report: ExitReport | None = None

    def __repr__(self) -> str:
        state = "running" if self._report is None else "ended"
        return f"<WorkerHandle {self._process} pid {self._pid}, {state}>"

    @property
    def pid(self) -> int:
        return self._pid

    async def wait(self) -> ExitReport:
        while self._report is None:
            await self._ended.wait()
        return self._report

    def kill(self) -> None:
        if self._report is None:
            self._kill(self._process)

    def end(self, report: ExitReport) -> None:
        """For the spawner: the worker is gone."""
        self._report = report
        self._ended.set()


class ZygoteSpawner:
    """A `Spawner` over one zygote. Made inside the daemon's loop; takes over the channel.

    `on_zygote_exit` is called once if the zygote ends by itself, after every handle has got its report. `aclose` does
    not call it.
    """

    def __init__(self, pid: int, channel: socket.socket, on_zygote_exit: Callable[[ExitReport], None]) -> None:
        self._pid = pid
        self._channel = channel
        self._on_zygote_exit = on_zygote_exit
        self._loop = asyncio.get_running_loop()
        self._starting: dict[str, asyncio.Future[WorkerHandle]] = {}
        self._handles: dict[str, WorkerHandle] = {}
        self._outgoing: deque[bytes] = deque()
        self._answered = asyncio.Event()
        self._answer: wire.Ready | wire.PreloadFailed | None = None
        self._closing = False
        self._ended = asyncio.Event()
        self._pidfd = os.pidfd_open(pid)
        channel.setblocking(False)
        self._loop.add_reader(channel.fileno(), self._readable)
        self._loop.add_reader(self._pidfd, self._zygote_ended)

    def __repr__(self) -> str:
        state = "ended" if self._ended.is_set() else "closing" if self._closing else "open"
        return f"<ZygoteSpawner pid {self._pid}, {state}, {len(self._handles)} workers, {len(self._starting)} starting>"

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def refusal(self) -> str:
        """Why the zygote refused to serve; empty if it did not."""
        return self._answer.error if isinstance(self._answer, wire.PreloadFailed) else ""

    async def ready(self) -> float:
        """Return once the zygote can fork, with the seconds that its imports took.

        Raises `WorkerStartError` naming the module that must not be preloaded. `start` need not wait for this.
        """
        await self._answered.wait()
        match self._answer:
            case wire.Ready(_, seconds):
                return seconds
            case wire.PreloadFailed(_, error):
                raise WorkerStartError(error)
            case None:
                raise WorkerStartError(f"the zygote (pid {self._pid}) died while it imported modules")

    async def start(self, spec: WorkerSpec) -> WorkerHandle:
        """Fork a worker. Raises `WorkerStartError`, and when the zygote is gone `NodeDiedError`.

        A cancelled start leaves no worker.
        """
        if self._closing or self._ended.is_set():
            raise self._no_worker()
        if spec.process in self._starting or spec.process in self._handles:
            raise ValueError(f"a worker with the process id {spec.process} exists already")
        try:
            packet = wire.encode(wire.ForkRequest(spec.process, wire.pack(spec)))
        except ValueError as error:
            raise WorkerStartError(str(error)) from error
        forked: asyncio.Future[WorkerHandle] = self._loop.create_future()
        self._starting[spec.process] = forked
        self._send(packet)
        try:
            return await forked
        except asyncio.CancelledError:
            # Forked in the same loop pass; otherwise `_on_forked` finds the cancelled future.
            if forked.done() and not forked.cancelled() and forked.exception() is None:
                forked.result().kill()
            raise

    async def aclose(self) -> None:
        """Kill all workers and everything they started; return when the zygote is gone. Idempotent.

        A cancelled `aclose` still closes.
        """
        if not self._closing and not self._ended.is_set():
            self._closing = True
            self._readable()
            self._drop_channel()
            # Seen only while it still imports: it does not look at its channel then.
            self._signal_zygote(signal.SIGTERM)
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._ended.wait()
        except TimeoutError:
            self._signal_zygote(signal.SIGKILL)
            await self._ended.wait()

    def _signal_zygote(self, number: signal.Signals) -> None:
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _kill(self, process: str) -> None:
        if not self._closing and not self._ended.is_set():
            self._send(wire.encode(wire.KillRequest(process)))

    def _send(self, packet: bytes) -> None:
        self._outgoing.append(packet)
        if len(self._outgoing) == 1:
            self._flush()

    def _flush(self) -> None:
        fd = self._channel.fileno()
        if fd < 0:
            return
        try:
            while self._outgoing:
                self._channel.send(self._outgoing[0])
                self._outgoing.popleft()
        except BlockingIOError:
            self._loop.add_writer(fd, self._flush)
            return
        except ConnectionError:
            # The zygote is going; its pidfd tells the rest.
            self._outgoing.clear()
        self._loop.remove_writer(fd)

    def _drop_channel(self) -> None:
        fd = self._channel.fileno()
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
            self._channel.close()

    def _readable(self) -> None:
        while self._channel.fileno() >= 0:
            try:
                packet = self._channel.recv(wire.MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # Reported once, before what the zygote had still sent.
                continue
            if not packet:
                self._drop_channel()
                return
            self._on_event(wire.decode_event(packet))

    def _on_event(self, event: wire.Event) -> None:
        match event:
            case wire.Ready() | wire.PreloadFailed():
                self._answer = event
                self._answered.set()
            case wire.Forked(process, pid):
                self._on_forked(process, pid)
            case wire.ForkFailed(process, error):
                forked = self._starting.pop(process)
                if not forked.done():
                    forked.set_exception(WorkerStartError(error))
            case wire.Exited(process, report):
                self._handles.pop(process).end(msgspec.msgpack.decode(report, type=ExitReport))
            case wire.Opened() | wire.OpenFailed():
                raise AssertionError(f"{event} belongs before the spawner was made")

    def _on_forked(self, process: str, pid: int) -> None:
        handle = self._handles[process] = WorkerHandle(process, pid, self._kill)
        forked = self._starting.pop(process)
        if forked.done():
            handle.kill()
        else:
            forked.set_result(handle)

    def _zygote_ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if not self._closing:
            self._readable()
        self._drop_channel()
        _, status = os.waitpid(self._pid, 0)
        os.close(self._pidfd)
        self._ended.set()
        code = os.waitstatus_to_exitcode(status)
        report = ExitReport(pid=self._pid, exit_code=code if code >= 0 else None, signal=-code if code < 0 else None)
        self._end_workers()
        self._answered.set()
        if not self._closing:
            self._on_zygote_exit(report)

    def _no_worker(self) -> WorkerStartError | NodeDiedError:
        if self._closing:
            return WorkerStartError("no worker was started: its node shut down")
        text = f"no worker was started: the zygote (pid {self._pid}) died"
        return NodeDiedError(text, outcome=Outcome.NOT_EXECUTED)

    def _end_workers(self) -> None:
        reason = "its node shut down" if self._closing else f"the zygote (pid {self._pid}) died"
        for handle in self._handles.values():
            if not self._closing:
                # The kernel kills the workers themselves; what they started is in their groups, or adopted by us.
                proctree.kill_group(handle.pid)
            handle.end(ExitReport(pid=handle.pid, signal=signal.SIGKILL, reason=reason))
        self._handles.clear()
        for forked in self._starting.values():
            if not forked.done():
                forked.set_exception(self._no_worker())
        self._starting.clear()
