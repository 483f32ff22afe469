"""State that survives its process, and the machine's power failure: SQLite with a write-ahead log, fully synchronous.

All of it is in memory as well; what changes is written by one thread, everything that waits in one transaction, so that
many changes share one `fsync`. The loop never waits for the disk. One process at a time has the file.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial

from actorlite.control.stores.memory import Change, MemoryStore
from actorlite.errors import ControlUnavailable
from actorlite.state.revisions import KeyValue, Revisions

SCHEMA_VERSION = 1
MAX_GROUP = 1000
"""Changes in one transaction."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, value BLOB NOT NULL, create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (lease INTEGER PRIMARY KEY, ttl REAL NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
_COUNT = "INSERT OR REPLACE INTO counters VALUES (?, ?)"


async def open_sqlite(path: str) -> MemoryStore:
    """The state in the file at `path`, which is made when it is missing, for this user only.

    Raises `ControlUnavailable` when it is in use, is no such file, or cannot be read.
    """
    journal = SqliteJournal(path)
    try:
        revisions = await journal.load()
    except BaseException:
        await journal.aclose()
        raise
    return MemoryStore(revisions, journal)


class SqliteJournal:
    """A `Journal`. Made by `open_sqlite`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.commits = 0
        """Transactions; never more than there were changes."""
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Change, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._loaded: asyncio.Future[Revisions] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._closed = False
        now = self._loop.time()
        self._thread = threading.Thread(target=self._run, args=(now,), name="actorlite control state", daemon=True)
        self._thread.start()

    async def load(self) -> Revisions:
        """What the file holds."""
        return await asyncio.shield(self._loaded)

    def write(self, change: Change) -> asyncio.Future[None]:
        written: asyncio.Future[None] = self._loop.create_future()
        if self._closed:
            _refuse(written, f"{self.path} was closed: the node ends")
        else:
            self._queue.put((change, written))
        return written

    async def aclose(self) -> None:
        """Idempotent; completes when cancelled."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await self._ended.wait()

    # --- in the thread

    def _run(self, now: float) -> None:
        try:
            with closing(_open(self.path)) as database:
                self._tell(partial(_resolve, self._loaded, _load(database, now)))
                while (group := self._next_group()) is not None:
                    self._write(database, group)
        except Exception as error:  # whatever it is: nobody may wait for ever
            self._fail(f"control's state in {self.path} cannot be used ({type(error).__name__}): {error}")
        finally:
            self._tell(self._ended.set)

    def _next_group(self) -> list[tuple[Change, asyncio.Future[None]]] | None:
        """What waits, at least one; None at the end."""
        first = self._queue.get()
        if first is None:
            return None
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                each = self._queue.get_nowait()
            except queue.Empty:
                break
            if each is None:
                self._queue.put(None)
                break
            group.append(each)
        return group

    def _write(self, database: sqlite3.Connection, group: list[tuple[Change, asyncio.Future[None]]]) -> None:
        try:
            database.execute("BEGIN IMMEDIATE")
            for change, _ in group:
                _apply(database, change)
            database.execute("COMMIT")
        except Exception as error:
            refusal = f"control's state could not be written to {self.path} ({type(error).__name__}): {error}"
            self._tell(partial(_refuse_all, [written for _, written in group], refusal))
            raise
        self.commits += 1
        self._tell(partial(_resolve_all, [written for _, written in group]))

    def _fail(self, text: str) -> None:
        """Nothing can be kept any more: whoever comes is told."""
        self._tell(partial(_refuse, self._loaded, text))
        while (group := self._next_group()) is not None:
            self._tell(partial(_refuse_all, [written for _, written in group], text))

    def _tell(self, work: Callable[[], object]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)

    def __repr__(self) -> str:
        return f"<SqliteJournal {self.path} commits={self.commits}>"


def _open(path: str) -> sqlite3.Connection:
    # SQLite gives its other files the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    database = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    try:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise ValueError(f"it is of version {version}, and this is {SCHEMA_VERSION}: move the file away")
        # Writing takes the lock at once, so that two processes do not find out later.
        database.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, _SCHEMA.split(";")):
            database.execute(statement)
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    return database


def _load(database: sqlite3.Connection, now: float) -> Revisions:
    keys = [KeyValue(*row) for row in database.execute("SELECT * FROM keys")]
    leases = dict(database.execute("SELECT lease, ttl FROM leases").fetchall())
    counters = dict(database.execute("SELECT name, value FROM counters").fetchall())
    revisions = Revisions()
    revisions.restore(keys, leases, counters.get("next_lease", 1), counters.get("revision", 1), now)
    return revisions


def _apply(database: sqlite3.Connection, change: Change) -> None:
    for event in change.events:
        put = event.put
        if put is None:
            database.execute("DELETE FROM keys WHERE key = ?", (event.key,))
        else:
            row = (put.key, put.value, put.create_revision, put.mod_revision, put.version, put.lease)
            database.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?)", row)
    if change.events:
        database.execute(_COUNT, ("revision", change.events[-1].revision))
    if change.granted is not None:
        database.execute("INSERT INTO leases VALUES (?, ?)", change.granted)
        database.execute(_COUNT, ("next_lease", change.granted[0] + 1))
    if change.ended:
        database.execute("DELETE FROM leases WHERE lease = ?", (change.ended,))


# --- on the loop


def _resolve(future: asyncio.Future[Revisions], value: Revisions) -> None:
    if not future.done():
        future.set_result(value)


def _refuse(future: asyncio.Future[Revisions] | asyncio.Future[None], text: str) -> None:
    if not future.done():
        future.set_exception(ControlUnavailable(text))
        future.exception()  # whoever waits has it


def _resolve_all(futures: list[asyncio.Future[None]]) -> None:
    for each in futures:
        if not each.done():
            each.set_result(None)


def _refuse_all(futures: list[asyncio.Future[None]], text: str) -> None:
    for each in futures:
        _refuse(each, text)
