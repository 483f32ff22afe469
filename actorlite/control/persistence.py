"""Writing control's state as the leader: each write holds only while nobody else leads.

Whoever opens the state becomes its leader, at a higher epoch than the one before. A former leader that still runs finds
its writes refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine, Sequence
from typing import Any

from actorlite.control.stores.contract import StateStore
from actorlite.control.stores.memory import MemoryStore
from actorlite.errors import ActorliteError, ControlUnavailable
from actorlite.loading import load
from actorlite.state.revisions import Compare, Delete, Get, Op, Put

logger = logging.getLogger("actorlite.control")

LEADER = "leader"
MAX_UNDELETED = 10_000
"""Deletions that failed, and are remembered."""
SQLITE = "actorlite.control.stores.sqlite:open_sqlite"
"""Loaded where there is a file to open: sqlite3 makes a node start later."""


class Persistence:
    """Owned by control; on the loop."""

    def __init__(self, path: str, leader: str) -> None:
        self.epoch = 0
        """How many leaders this state has had."""
        self._path = path
        self._leader = leader
        self._store: StateStore | None = None
        self._fence: tuple[Compare, ...] = ()
        self._loop = asyncio.get_running_loop()
        self._frozen = False
        self._writing: set[asyncio.Task[None]] = set()
        self._undeleted: dict[str, None] = {}
        """Keys whose deletion was not written."""

    async def open(self) -> None:
        """Lead. Raises `ControlUnavailable` when the state is in use, or cannot be read; then nothing has changed."""
        is_new = _is_missing(self._path)
        try:
            await self._open()
        except BaseException:
            store, self._store = self._store, None
            if store is not None:
                await store.aclose()
            if is_new:
                _remove(self._path)
            raise

    async def _open(self) -> None:
        self._store = store = await load(SQLITE)(self._path) if self._path else MemoryStore()
        (found,) = (await store.txn([], [Get(LEADER)])).found
        before, epoch = (found[0].mod_revision, int(found[0].value.split()[0])) if found else (0, 0)
        mine = f"{epoch + 1} {self._leader}".encode()
        result = await store.txn([Compare(LEADER, "mod", "=", before)], [Put(LEADER, mine)])
        if not result.succeeded:
            raise ControlUnavailable("another node became the leader at the same moment")
        self.epoch = epoch + 1
        self._fence = (Compare(LEADER, "mod", "=", result.revision),)

    async def read(self, prefix: str) -> list[tuple[str, bytes]]:
        """In the order in which they were written first."""
        found, _ = await self._opened().range(prefix)
        return [(each.key, each.value) for each in sorted(found, key=lambda each: each.create_revision)]

    async def put(self, key: str, value: bytes) -> None:
        """Return when it is safe. Raises `ControlUnavailable`."""
        await self._write([Put(key, value)])

    def put_soon(self, key: str, value: bytes) -> None:
        """In the order of the calls: tasks begin in theirs, and a store keeps that of its transactions."""
        if not self._frozen:
            self._soon(self._put_soon(Put(key, value)))

    def delete_soon(self, key: str) -> None:
        """`deleted` tells what became of it."""
        if self._frozen:
            self._not_deleted(key)
        else:
            self._soon(self._delete_soon(key))

    async def deleted(self, key: str) -> None:
        """Return when what was to be deleted is so for good; what has failed is tried once more. Raises
        `ControlUnavailable`, which says that it would be there again."""
        await self.written()
        if key not in self._undeleted:
            return
        try:
            await self._write([Delete(key)])
        except ActorliteError as error:
            raise ControlUnavailable(
                f"what was asked for is done, but could not be written down ({error}): when the node that leads is "
                "started again, all is there as before. Ask once more, now or then"
            ) from None
        self._undeleted.pop(key, None)

    async def written(self) -> None:
        """Return when all that was to be written soon is safe, or cannot be."""
        if self._writing:
            await asyncio.wait(self._writing)

    async def aclose(self, *, keep: bool) -> None:
        """Idempotent. Without `keep`, or when there is nothing to keep, nothing is left behind."""
        await self.written()
        store, self._store = self._store, None
        if store is not None:
            try:
                found, _ = await store.range("")
                keep = keep and any(each.key != LEADER for each in found)
            except ControlUnavailable as error:
                logger.warning("what control had written down is left as it is: %s", error)
                keep = True
            await store.aclose()
            if self._path and not keep:
                _remove(self._path)

    def _opened(self) -> StateStore:
        if self._store is None:
            raise ControlUnavailable("the node has no state of control: it is starting, or ends")
        return self._store

    async def _write(self, ops: Sequence[Op]) -> None:
        result = await self._opened().txn(self._fence, ops)
        if not result.succeeded:
            raise ControlUnavailable("another node leads the cluster by now")

    def freeze(self) -> None:
        """What ends now is there for the next node: only what was asked for is still deleted, by `deleted`."""
        self._frozen = True

    def _soon(self, writing: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(writing, name="actorlite control writes")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _put_soon(self, put: Put) -> None:
        try:
            await self._write([put])
        except ActorliteError as error:
            logger.error("control's state was not written: %s", error)

    async def _delete_soon(self, key: str) -> None:
        try:
            await self._write([Delete(key)])
        except ActorliteError as error:
            logger.error("%s stays in control's state, and would come back: %s", key, error)
            self._not_deleted(key)

    def _not_deleted(self, key: str) -> None:
        self._undeleted[key] = None
        if len(self._undeleted) > MAX_UNDELETED:
            del self._undeleted[next(iter(self._undeleted))]

    def __repr__(self) -> str:
        return f"<Persistence {self._path or 'in memory'} epoch={self.epoch}>"


def _is_missing(path: str) -> bool:
    return bool(path) and not os.path.lexists(path)


def _remove(path: str) -> None:
    """The file, and what SQLite has beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)
