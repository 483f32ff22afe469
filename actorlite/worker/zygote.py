"""The zygote: a process that has imported everything, forks workers, and outlives none of them.

Role: one thread, one `poll` over the daemon's channel, SIGCHLD and the workers' standard error.
Invariant: the zygote's children are workers. A worker adopts its own orphans, the zygote adopts those of a dead worker:
so any other child is a leftover and is killed. (What a preloaded module started is left alone until the end.)
Owner: the node daemon, whose end of the channel keeps it alive. At end of file it kills all descendants, removes the
session directory and exits; if it is killed instead, its workers follow (`PR_SET_PDEATHSIG`) and the daemon adopts the
rest.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import NoReturn

import msgspec

from actorlite import proctree
from actorlite.host import ExitReport, WorkerSpec
from actorlite.pages import before_fork, fill_holes, make_immortal
from actorlite.wire import zygote as wire
from actorlite.worker.preload import Entry, PreloadError, adopt_path, preload
from actorlite.worker.stderr import STDERR, StderrTee

END_WITHIN_S = 1.5
RESEEDED = ("random", "numpy.random", "torch")
"""Their generators would otherwise go on alike in every worker; each has a `seed()` that takes fresh bits."""
CALLED_BY_WORKERS = frozenset(
    "actorlite actorlite_transports asyncio _asyncio builtins collections concurrent contextlib contextvars functools"
    " msgspec os signal socket threading types uvloop weakref".split()
)
"""The packages that a worker's start goes through. None of the user's: what is his goes away when he drops it."""
FORKS_IN_A_ROW = 8
"""How many workers at most before their node hears of the first."""
WORKER_VARIABLE = "ACTORLITE_WORKER"
"""In the environment of everything that a worker starts: the worker's process id."""


@dataclass(frozen=True, slots=True)
class ZygoteProcess:
    """The daemon's side of a new zygote: what a spawner is made of."""

    pid: int
    channel: socket.socket


def fork_zygote(config: wire.ZygoteConfig) -> ZygoteProcess:
    """Fork a zygote; on return its session directory exists, and the zygote will remove it.

    To be called before this process has threads or an event loop. Imports go on in the zygote: it reports `Ready` or
    `PreloadFailed` on the channel. Raises `OSError` when the session directory cannot be made.
    """
    channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        daemon = os.getpid()
        with theirs:
            pid = os.fork()
            if pid == 0:
                try:
                    _zygote_main(config, theirs, daemon)
                finally:
                    # Whatever happens, the zygote never goes on as a second daemon.
                    os._exit(1)
        packet = channel.recv(wire.MAX_PACKET_BYTES)
        answer = wire.decode_event(packet) if packet else wire.OpenFailed("the zygote died at once")
        if isinstance(answer, wire.OpenFailed):
            os.waitpid(pid, 0)
            raise OSError(answer.error)
    except BaseException:
        channel.close()
        raise
    return ZygoteProcess(pid, channel)


def _zygote_main(config: wire.ZygoteConfig, channel: socket.socket, daemon: int) -> NoReturn:
    code = 1
    opened = False

    def daemon_gone(number: int, frame: FrameType | None) -> None:
        # While modules are imported nobody polls the channel. Not an exception: what is imported could catch it.
        _end(config if opened else None, 0)

    try:
        # A loop that ran here before may have set one: its end is closed soon.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGTERM, daemon_gone)
        # Sent when the daemon is killed during a long import. Its only thread forked us, so thread means process here.
        proctree.die_with_parent(signal.SIGTERM)
        if os.getppid() == daemon:
            proctree.become_subreaper()
            _close_others({channel.fileno(), config.stderr})
            opened = _open_session(config, channel)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if opened:
            entry, _filling = _prepare(config, channel)
            _Zygote(channel, entry).serve()
            code = 0
    except PreloadError as error:
        _tell(channel, wire.PreloadFailed(error.module, str(error)))
    except BaseException:
        traceback.print_exc()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end(config if opened else None, code)


def _end(config: wire.ZygoteConfig | None, code: int) -> NoReturn:
    try:
        proctree.kill_all_children(END_WITHIN_S)
        if config is not None and config.session_directory:
            remove_directory(config.session_directory)
    finally:
        os._exit(code)


def remove_directory(path: str) -> None:
    """With all that is in it; what cannot be removed stays.

    Not by `shutil`: with the compressors that it imports it takes half a megabyte, and daemons start 3 ms later.
    """
    for folder, folders, files in os.walk(path, topdown=False):
        for name in (*files, *folders):
            each = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                (os.unlink if name in files or os.path.islink(each) else os.rmdir)(each)
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _close_others(keep: set[int]) -> None:
    """Close what the daemon had open, besides standard input, output and error.

    The objects that own those descriptors live on in frames that are never left, so nothing closes them twice.
    """
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > STDERR and fd not in keep:
            with contextlib.suppress(OSError):
                os.close(fd)


def _open_session(config: wire.ZygoteConfig, channel: socket.socket) -> bool:
    """Make the session directory: here, so that no moment exists in which nobody would remove it."""
    try:
        adopt_path(config.sys_path, config.cwd)
    except OSError as error:
        _tell(channel, wire.OpenFailed(f"workers cannot work in the directory of the driver: {error}"))
        return False
    try:
        if config.session_directory:
            os.mkdir(config.session_directory, 0o700)
    except OSError as error:
        _tell(channel, wire.OpenFailed(f"cannot make the session directory: {error}"))
        return False
    _tell(channel, wire.Opened())
    return True


def _prepare(config: wire.ZygoteConfig, channel: socket.socket) -> tuple[Entry, list[object]]:
    """What workers run, and objects to keep as long as this process forks."""
    # Whoever replaced the streams in the daemon is not in this process.
    if sys.__stdout__ is not None and sys.__stderr__ is not None:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    faulthandler.enable()
    gc.disable()
    # What is preloaded reads it once, here; workers for several CPUs are told another number.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    entry, seconds = preload(config)
    sys.stdout.flush()
    sys.stderr.flush()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Into a pipe, `print` would otherwise show nothing until the worker ends.
        sys.stdout.reconfigure(line_buffering=True)
    if config.stderr >= 0:
        os.dup2(config.stderr, STDERR)
        os.close(config.stderr)
    gc.collect()
    make_immortal(CALLED_BY_WORKERS)
    filling = fill_holes()
    before_fork()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _tell(channel, wire.Ready(os.getpid(), seconds))
    return entry, filling


def _tell(channel: socket.socket, event: wire.Event) -> None:
    # A daemon that is gone is noticed where the channel is read.
    with contextlib.suppress(ConnectionError):
        channel.send(wire.encode(event))


@dataclass(slots=True)
class _Worker:
    process: str
    stderr: int
    killed: bool = False


class _Zygote:
    """The request loop and what it knows: which child is which worker."""

    def __init__(self, channel: socket.socket, entry: Entry) -> None:
        self._channel = channel
        self._entry = entry
        self._pid = os.getpid()
        self._workers: dict[int, _Worker] = {}
        self._pids: dict[str, int] = {}
        self._poll = select.poll()
        self._tee = StderrTee(self._poll)
        self._started_by_preload = frozenset(proctree.children())
        self._signals, self._signals_in = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(self._signals_in, False)

    def serve(self) -> None:
        """Until the daemon's end of the channel closes."""
        signal.set_wakeup_fd(self._signals_in, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noted)
        channel = self._channel.fileno()
        self._poll.register(channel, select.POLLIN)
        self._poll.register(self._signals, select.POLLIN)
        # What ended before the handler was there.
        self._reap()
        while True:
            for fd, _ in self._poll.poll():
                if fd == channel:
                    if not self._read_requests():
                        self._tee.pass_on_all()
                        return
                elif fd == self._signals:
                    self._reap()
                elif self._tee.owns(fd):
                    self._tee.on_event(fd)

    def _read_requests(self) -> bool:
        """Serve what has come; False at the end of the channel."""
        forks: list[tuple[str, WorkerSpec]] = []
        flags = 0
        try:
            while len(forks) < FORKS_IN_A_ROW:
                packet = self._channel.recv(wire.MAX_PACKET_BYTES, flags)
                if not packet:
                    return False
                flags = socket.MSG_DONTWAIT
                match wire.decode_request(packet):
                    case wire.ForkRequest(process, packed):
                        try:
                            forks.append((process, msgspec.msgpack.decode(packed, type=WorkerSpec)))
                        except msgspec.MsgspecError as error:
                            _tell(self._channel, wire.ForkFailed(process, str(error)))
                    case wire.KillRequest(process):
                        # Of a worker whose `Forked` was sent: none of those that are yet to be forked.
                        self._kill(process)
        except BlockingIOError:
            pass
        except ConnectionError:
            return False
        self._fork(forks)
        return True

    def _fork(self, requests: Sequence[tuple[str, WorkerSpec]]) -> None:
        """Fork in a row, keep books afterwards: a page that this process writes to between two forks is a page that
        the older worker has for itself."""
        forked: list[tuple[str, int, int]] = []
        for process, spec in requests:
            try:
                stderr, stderr_in = os.pipe()
            except OSError as error:
                _tell(self._channel, wire.ForkFailed(process, f"cannot make a pipe: {error}"))
                continue
            try:
                pid = os.fork()
            except OSError as error:
                os.close(stderr)
                os.close(stderr_in)
                _tell(self._channel, wire.ForkFailed(process, f"cannot fork: {error}"))
                continue
            if pid == 0:
                for fd in (stderr, *(other for _, _, other in forked)):
                    os.close(fd)
                _worker_main(self._entry, spec, partial(self._leave, stderr_in))
            os.close(stderr_in)
            forked.append((process, pid, stderr))
        for process, pid, stderr in forked:
            self._workers[pid] = _Worker(process, stderr)
            self._pids[process] = pid
            self._tee.add(stderr)
            _tell(self._channel, wire.Forked(process, pid))

    def _leave(self, stderr_in: int) -> None:
        """In the child: lead a session that dies with the zygote, and give back what is the zygote's."""
        os.setsid()
        proctree.die_with_parent(signal.SIGKILL)
        if os.getppid() != self._pid:
            os._exit(1)
        # Orphans of this worker stay its own until it ends: then the zygote adopts, knows and kills them.
        proctree.become_subreaper()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(stderr_in, STDERR)
        os.close(stderr_in)
        self._channel.close()
        os.close(self._signals)
        os.close(self._signals_in)
        self._tee.close_all()

    def _kill(self, process: str) -> None:
        pid = self._pids.get(process)
        if pid is None:
            return
        self._workers[pid].killed = True
        # Its group exists only once it has called setsid; before that it has started nothing.
        proctree.kill_process(pid)
        proctree.kill_group(pid)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._signals, 4096)
        with contextlib.suppress(ChildProcessError):
            # Looked at before it is reaped: the pid cannot name a new group meanwhile.
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                pid = ended.si_pid
                worker = self._workers.pop(pid, None)
                if worker is None:
                    os.waitpid(pid, 0)
                    # Its own children are ours now.
                    self._kill_leftovers()
                else:
                    self._bury(pid, worker)

    def _kill_leftovers(self) -> None:
        for pid in proctree.children():
            if pid not in self._workers and pid not in self._started_by_preload:
                proctree.kill_process(pid)

    def _bury(self, pid: int, worker: _Worker) -> None:
        proctree.kill_group(pid)
        _, status, usage = os.wait4(pid, 0)
        self._kill_leftovers()
        del self._pids[worker.process]
        signaled = os.WIFSIGNALED(status)
        report = ExitReport(
            pid=pid,
            exit_code=None if signaled else os.WEXITSTATUS(status),
            signal=os.WTERMSIG(status) if signaled else None,
            max_rss_bytes=usage.ru_maxrss * 1024,
            stderr_tail=self._tee.take(worker.stderr),
            reason="killed by its node" if worker.killed else "",
        )
        _tell(self._channel, wire.Exited(worker.process, wire.pack(report)))


def _noted(number: int, frame: FrameType | None) -> None:
    """SIGCHLD only has to interrupt `poll`: the wake-up descriptor does."""


def _worker_main(entry: Entry, spec: WorkerSpec, leave: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        leave()
        code = _run(entry, spec)
    except BaseException:
        traceback.print_exc()
    finally:
        # Not sys.exit: frames and exit handlers of the zygote are on this stack.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _run(entry: Entry, spec: WorkerSpec) -> int:
    gc.enable()
    os.environ[WORKER_VARIABLE] = spec.process
    if spec.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(spec.gpus)
    if spec.threads:
        os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    try:
        adopt_path(spec.sys_path, spec.cwd)
    except OSError as error:
        print(f"actorlite: cannot use the driver's directory {spec.cwd}: {error}", file=sys.stderr)
    for name in RESEEDED:
        if (module := sys.modules.get(name)) is not None:
            module.seed()
    try:
        entry(spec)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 0xFF
        sys.stderr.write(f"{stop.code}\n")
        return 1
    return 0
