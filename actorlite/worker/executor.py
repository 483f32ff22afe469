"""Threads for plain functions: started when needed, kept, and never waited for.

Not `concurrent.futures`: its threads hold up the interpreter's exit, and its futures cost more than the hop itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], None]


class ThreadExecutor:
    """Up to `size` daemon threads. With size 1 work runs in order, always on the same thread."""

    __slots__ = ("size", "name", "_queue", "_threads", "_idle", "_lock", "_closed")

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self.name = name
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, work: Work) -> None:
        self._queue.put(work)
        if len(self._threads) < self.size:
            self._maybe_start()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued behind the work that runs."""
        return self._queue.empty()

    def close(self) -> None:
        """Take no more work; threads end when idle. Never waits for a blocked thread."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)

    def _maybe_start(self) -> None:
        with self._lock:
            if self._closed or len(self._threads) >= self.size or self._idle > self._queue.qsize():
                return
            # One thread alone need not be counted: it is never the wrong one.
            run = self._run if self.size == 1 else self._run_counted
            thread = threading.Thread(target=run, name=f"{self.name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        get = self._queue.get
        while (work := get()) is not None:
            work()
            del work  # an idle thread must not keep the last call's arguments alive

    def _run_counted(self) -> None:
        get = self._queue.get
        while True:
            with self._lock:
                self._idle += 1
            work = get()
            with self._lock:
                self._idle -= 1
            if work is None:
                return
            work()
            del work

    def __repr__(self) -> str:
        return f"<ThreadExecutor {self.name} threads={len(self._threads)}/{self.size}>"
