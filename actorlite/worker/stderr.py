"""What workers write to standard error: passed on unchanged, the last lines kept for the exit report.

Owned by the zygote, a single thread that must stay able to reap and to kill: it never writes to a standard error that
would block. While that is full it stops reading, so that workers wait, as they would if they wrote there themselves.
"""

from __future__ import annotations

import contextlib
import os
import select

STDERR = 2
TAIL_BYTES = 8192
TAIL_LINES = 20
CRASH = "Fatal Python error:"
CHUNK_BYTES = select.PIPE_BUF
"""A pipe that polls as writable takes this much without blocking."""
DRAIN_BYTES = 256 * 1024
"""What is still read from the pipe of a dead worker: whatever a pipe can hold, not what its heirs go on writing."""


class StderrTee:
    """Read ends of workers' pipes, registered with the zygote's `poll`."""

    def __init__(self, poll: select.poll) -> None:
        self._poll = poll
        self._tails: dict[int, bytearray] = {}
        self._full = False

    def __repr__(self) -> str:
        return f"<StderrTee of {len(self._tails)} pipes{', standard error is full' if self._full else ''}>"

    def add(self, pipe: int) -> None:
        """Take over the read end of a pipe."""
        os.set_blocking(pipe, False)
        self._tails[pipe] = bytearray()
        if not self._full:
            self._poll.register(pipe, select.POLLIN)

    def owns(self, fd: int) -> bool:
        return fd in self._tails or (self._full and fd == STDERR)

    def on_event(self, fd: int) -> None:
        """`poll` reported something about a descriptor that `owns` accepts."""
        if self._full:
            if fd == STDERR:
                self._resume()
        elif not _writable():
            self._pause()
        elif self._copy(fd) == b"":
            # The end of the pipe: the tail stays until `take`.
            self._poll.unregister(fd)

    def take(self, pipe: int) -> str:
        """The last lines of a worker that has ended; closes the pipe. Drops what standard error has no room for."""
        left = DRAIN_BYTES
        while left > 0 and (chunk := self._copy(pipe)):
            left -= len(chunk)
        with contextlib.suppress(KeyError):
            self._poll.unregister(pipe)
        os.close(pipe)
        text = self._tails.pop(pipe).decode(errors="replace")
        crash = text.rfind(CRASH)
        if crash >= 0:
            # A crash tells its cause and the innermost frames first.
            return "\n".join(text[crash:].splitlines()[:TAIL_LINES])
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def pass_on_all(self) -> None:
        """What the workers have said so far, before they are ended: what came before a result is seen, too."""
        for pipe in self._tails:
            left = DRAIN_BYTES
            while left > 0 and (chunk := self._copy(pipe)):
                left -= len(chunk)

    def close_all(self) -> None:
        """In a new worker: the pipes of the others are not its business."""
        for pipe in self._tails:
            os.close(pipe)
        self._tails.clear()

    def _copy(self, pipe: int) -> bytes | None:
        """Pass on one chunk: empty at the end of the pipe, None when there is nothing now."""
        try:
            chunk = os.read(pipe, CHUNK_BYTES)
        except BlockingIOError:
            return None
        tail = self._tails[pipe]
        tail += chunk
        del tail[:-TAIL_BYTES]
        if chunk and _writable():
            # Nobody may read our standard error any more: workers' output is then lost, as it would be without us.
            with contextlib.suppress(OSError):
                os.write(STDERR, chunk)
        return chunk

    def _pause(self) -> None:
        self._full = True
        for pipe in self._tails:
            with contextlib.suppress(KeyError):
                self._poll.unregister(pipe)
        self._poll.register(STDERR, select.POLLOUT)

    def _resume(self) -> None:
        self._full = False
        self._poll.unregister(STDERR)
        for pipe in self._tails:
            self._poll.register(pipe, select.POLLIN)


def _writable() -> bool:
    probe = select.poll()
    probe.register(STDERR, select.POLLOUT)
    return bool(probe.poll(0))
