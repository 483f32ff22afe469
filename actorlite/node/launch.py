"""Starting a node daemon from the user's process: exec, never fork.

It touches neither the process's signal handlers nor the loop's subprocess support: the daemon's end is seen through a
pidfd. The daemon sees ours through its end of a socket pair, and through a pidfd of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec

from actorlite.errors import NodeStartError
from actorlite.host import ExitReport
from actorlite.wire import launch as wire

START_TIMEOUT_S = 30.0
STOP_GRACE_S = 5.0
SAID_BYTES = 8192
BOOTSTRAP = """\
import gc, sys
gc.disable()
sys.path[:0] = [root for root in {roots!r} if root not in sys.path]
from actorlite.daemon import main
main({control}, {stderr})
"""


class DaemonHandle:
    """A node daemon that this process started. Made by `launch_daemon`; belongs to the loop that ran it."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(process.pid)
        self._ended = asyncio.Event()
        self._report: ExitReport | None = None
        self._address = ""
        self._loop.add_reader(self._pidfd, self._on_end)

    def __repr__(self) -> str:
        state = "running" if self._report is None else self._report.describe()
        return f"<DaemonHandle pid {self.pid} at {self._address}, {state}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._report is None

    @property
    def address(self) -> str:
        """Where the daemon listens."""
        return self._address

    async def wait(self) -> ExitReport:
        """How the daemon ended; `reason` is its own word, if it had one. For several awaiters, also after the end."""
        while self._report is None:
            await self._ended.wait()
        return self._report

    async def stop(self, grace_s: float = STOP_GRACE_S) -> ExitReport:
        """Ask it to end; kill it after `grace_s`, or when this is cancelled. Idempotent."""
        if self._report is None:
            with contextlib.suppress(ConnectionError, BlockingIOError):
                self._control.send(wire.encode(wire.Stop()))
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()
        except asyncio.CancelledError:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL. The zygote ends the workers and removes the session directory. Idempotent."""
        if self._report is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def release(self) -> None:
        """Let a daemon that is not owned run on without this process. The handle is of no use afterwards."""
        if self._report is None:
            self._close()
            # Popen warns about children whose end it has not seen; this one is not ours to wait for.
            self._process.returncode = 0
            self._end(ExitReport(pid=self.pid, reason="released"))

    async def started(self) -> wire.Report | None:
        """For `launch_daemon`: the daemon's first word, or None when it ended without one."""
        first: asyncio.Future[bytes] = self._loop.create_future()
        ended = asyncio.ensure_future(self.wait())
        fd = self._control.fileno()

        def readable() -> None:
            self._loop.remove_reader(fd)
            with contextlib.suppress(ConnectionError, BlockingIOError):
                if packet := self._control.recv(wire.MAX_PACKET_BYTES):
                    first.set_result(packet)

        self._loop.add_reader(fd, readable)
        try:
            await asyncio.wait((first, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._control.fileno() >= 0:
                self._loop.remove_reader(fd)
            ended.cancel()
        return None if not first.done() else self._first_word(wire.decode_report(first.result()))

    def _first_word(self, report: wire.Report) -> wire.Report:
        if isinstance(report, wire.NodeReady):
            self._address = report.address
        return report

    def _on_end(self) -> None:
        code = self._process.poll()
        if code is None:
            return
        self._end(
            ExitReport(
                pid=self.pid,
                exit_code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                reason=self._last_word(),
            )
        )
        self._close()

    def _last_word(self) -> str:
        with contextlib.suppress(ConnectionError, BlockingIOError):
            while packet := self._control.recv(wire.MAX_PACKET_BYTES):
                match wire.decode_report(packet):
                    case wire.NodeEnded(text) | wire.NodeFailed(text):
                        return text
                    case wire.NodeReady():
                        continue
        return ""

    def _end(self, report: ExitReport) -> None:
        self._report = report
        self._ended.set()

    def _close(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._control.fileno())
        os.close(self._pidfd)
        self._control.close()


async def launch_daemon(config: wire.DaemonConfig, *, start_timeout_s: float = START_TIMEOUT_S) -> DaemonHandle:
    """Start a node daemon; returns when it listens and its zygote can fork.

    Raises `NodeStartError` with what the daemon said when it fails or takes longer than `start_timeout_s`. When this
    raises, or is cancelled, the daemon has ended, and its zygote is removing the rest.
    """
    if not config.owned and not config.log_path:
        raise ValueError("a daemon that outlives the process that starts it needs a log_path")
    packet = wire.encode(msgspec.structs.replace(config, parent_pid=os.getpid()))
    with _output(config.log_path) as output:
        offset = os.lseek(output, 0, os.SEEK_END)
        try:
            handle = _spawn(packet, output, redirect=not config.log_path)
        except OSError as error:
            raise NodeStartError(f"cannot start a node daemon: {error}") from error
        try:
            async with asyncio.timeout(start_timeout_s):
                report = await handle.started()
        except TimeoutError:
            handle.kill()
            await handle.wait()
            text = f"the node daemon was not ready within {start_timeout_s:g} s"
            raise NodeStartError(text + _said(output, offset)) from None
        except BaseException:
            handle.kill()
            await handle.wait()
            raise
        match report:
            case wire.NodeReady():
                return handle
            case wire.NodeFailed(text):
                await handle.stop()
                raise NodeStartError(f"the node daemon could not start: {text}" + _said(output, offset))
            case _:
                ended = (await handle.stop()).describe()
                raise NodeStartError(f"the node daemon ended while it started: {ended}" + _said(output, offset))


@contextlib.contextmanager
def _output(log_path: str) -> Iterator[int]:
    """Where the daemon writes while it starts: its log, or memory that we can read for an error message."""
    if log_path:
        fd = os.open(log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    else:
        fd = os.memfd_create("actorlite-daemon-start")
    try:
        yield fd
    finally:
        os.close(fd)


def _said(output: int, offset: int) -> str:
    size = os.fstat(output).st_size
    start = max(offset, size - SAID_BYTES)
    text = os.pread(output, SAID_BYTES, start).decode(errors="replace").strip()
    return f"; it said:\n{text}" if text else ""


def _spawn(packet: bytes, output: int, *, redirect: bool) -> DaemonHandle:
    """Exec the daemon and send it its configuration. With `redirect` its standard error becomes ours when it is ready,
    and its standard output is ours; otherwise both are `output` for good."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stderr = -1
    try:
        with theirs:
            stderr = _our_stderr() if redirect else -1
            code = BOOTSTRAP.format(roots=package_roots(), control=theirs.fileno(), stderr=stderr)
            process = subprocess.Popen(
                # -P: the current directory is no place to look for modules; it is the user's.
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=None if redirect else output,
                stderr=output,
                pass_fds=(theirs.fileno(), *((stderr,) if stderr >= 0 else ())),
                # Ctrl-C in a terminal is for the user's process: it decides what happens to the daemon.
                start_new_session=True,
            )
        control.setblocking(False)
        with contextlib.suppress(ConnectionError):
            control.send(packet)
        return DaemonHandle(process, control)
    except BaseException:
        control.close()
        raise
    finally:
        if stderr >= 0:
            os.close(stderr)


def _our_stderr() -> int:
    try:
        return os.dup(2)
    except OSError:
        # A process without standard error.
        return os.open(os.devnull, os.O_WRONLY)


def package_roots() -> list[str]:
    """The directories to import our packages from: two in a checkout, one in an installation."""
    roots: list[str] = []
    for name in ("actorlite", "actorlite_transports"):
        spec = find_spec(name)
        for location in (spec.submodule_search_locations or ()) if spec is not None else ():
            root = str(Path(location).parent)
            if root not in roots:
                roots.append(root)
    return roots
