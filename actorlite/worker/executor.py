"""Threads for plain functions: started when needed, kept, and never waited for.

Not `concurrent.futures`: its threads hold up the interpreter's exit, and its futures cost more than the hop itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

logger = logging.getLogger("actorlite.worker")

Work = Callable[[], None]


class ThreadExecutor:
    """Up to `size` daemon threads. With size 1 work runs in order, always on the same thread."""

    __slots__ = ("size", "name", "_queue", "_threads", "_unfinished", "_lock", "_closed")

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self.name = name
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        """Work that was submitted and has not ended; counted only as long as there may be more threads."""
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, work: Work) -> None:
        self._queue.put(work)
        if self.size == 1:
            if not self._threads:
                self._start_thread(self._run)
            return
        if len(self._threads) == self.size:
            return
        with self._lock:
            self._unfinished += 1
            if len(self._threads) < min(self.size, self._unfinished):
                self._start_thread(self._run_counted)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued behind the work that runs."""
        return self._queue.empty()

    def close(self) -> None:
        """Take no more work; threads end when idle. Never waits for a blocked thread."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)

    def _start_thread(self, run: Callable[[], None]) -> None:
        if not self._closed:
            thread = threading.Thread(target=run, name=f"{self.name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        get = self._queue.get
        while (work := get()) is not None:
            try:
                work()
            except BaseException:
                _say_failed()
            del work  # an idle thread must not keep the last call's arguments alive

    def _run_counted(self) -> None:
        get = self._queue.get
        while (work := get()) is not None:
            try:
                work()
            except BaseException:
                _say_failed()
            del work
            if len(self._threads) < self.size:
                with self._lock:
                    self._unfinished -= 1

    def __repr__(self) -> str:
        return f"<ThreadExecutor {self.name} threads={len(self._threads)}/{self.size}>"


def _say_failed() -> None:
    """Work reports what it raises itself. Should it fail to, those behind it still have their thread."""
    logger.exception("work in %s failed", threading.current_thread().name)
