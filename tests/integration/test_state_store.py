"""The contract of control's state, with the meaning of etcd v3, against every provider."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from actorlite.control.stores.contract import StateStore, Watch
from actorlite.control.stores.memory import MemoryStore
from actorlite.control.stores.sqlite import open_sqlite
from actorlite.errors import ControlUnavailable
from actorlite.state.revisions import CompactedError, Compare, Delete, Event, Get, KeyValue, NoSuchLease, Put

pytestmark = pytest.mark.asyncio

DEADLINE_S = 10.0
SHORT_S = 0.05

Opener = Callable[[], Awaitable[StateStore]]


async def _memory(directory: Path) -> StateStore:
    return MemoryStore()


async def _sqlite(directory: Path) -> StateStore:
    return await open_sqlite(str(directory / "control.state"))


PROVIDERS = {"memory": _memory, "sqlite": _sqlite}


@pytest_asyncio.fixture(params=PROVIDERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    store = await PROVIDERS[request.param](tmp_path)
    yield store
    await store.aclose()


def absent(key: str) -> Compare:
    return Compare(key, "create", "=", 0)


async def put(store: StateStore, key: str, value: bytes, lease: int = 0) -> int:
    return (await store.txn([], [Put(key, value, lease)])).revision


async def get(store: StateStore, key: str) -> KeyValue | None:
    (found,) = (await store.txn([], [Get(key)])).found
    return found[0] if found else None


async def following(watch: Watch, count: int) -> list[Event]:
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(watch) for _ in range(count)]


# --- keys and revisions


async def test_a_key_knows_when_it_was_created_and_changed_and_how_often(store: StateStore) -> None:
    first = await put(store, "a", b"1")
    assert await get(store, "a") == KeyValue("a", b"1", first, first, 1)
    await put(store, "other", b"")
    third = await put(store, "a", b"2")
    assert third == first + 2
    assert await get(store, "a") == KeyValue("a", b"2", first, third, 2)


async def test_a_deleted_key_begins_anew(store: StateStore) -> None:
    await put(store, "a", b"1")
    deleted = await store.txn([], [Delete("a")])
    assert [each.key for each in deleted.found[0]] == ["a"] and await get(store, "a") is None
    again = await put(store, "a", b"2")
    assert await get(store, "a") == KeyValue("a", b"2", again, again, 1)


async def test_what_changes_nothing_makes_no_revision(store: StateStore) -> None:
    revision = await put(store, "a", b"1")
    assert (await store.txn([], [Delete("b"), Get("a")])).revision == revision
    assert (await store.txn([absent("a")], [Put("a", b"2")])).revision == revision


async def test_prefixes_are_read_and_deleted_in_order(store: StateStore) -> None:
    for key in ("b/2", "a", "b/1", "b", "c", "b/10"):
        await put(store, key, key.encode())
    found, revision = await store.range("b/")
    assert [each.key for each in found] == ["b/1", "b/10", "b/2"]
    assert [each.key for each in (await store.range(""))[0]] == ["a", "b", "b/1", "b/10", "b/2", "c"]
    deleted = await store.txn([], [Delete("b", prefix=True)])
    assert [each.key for each in deleted.found[0]] == ["b", "b/1", "b/10", "b/2"] and deleted.revision == revision + 1
    assert [each.key for each in (await store.range(""))[0]] == ["a", "c"]


# --- transactions


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (Compare("a", "version", "=", 2), True),
        (Compare("a", "version", ">", 2), False),
        (Compare("a", "version", "<", 3), True),
        (Compare("a", "version", "!=", 2), False),
        (Compare("a", "value", "=", b"2"), True),
        (Compare("a", "value", ">", b"1"), True),
        (Compare("a", "value", "!=", b"2"), False),
        (Compare("a", "create", ">", 0), True),
        (Compare("a", "mod", "=", 0), False),
        (Compare("none", "create", "=", 0), True),
        (Compare("none", "mod", "=", 0), True),
        (Compare("none", "version", "=", 0), True),
        (Compare("none", "value", "=", b""), False),
        (Compare("none", "value", "!=", b"x"), False),
    ],
)
async def test_conditions(store: StateStore, compare: Compare, holds: bool) -> None:
    await put(store, "a", b"1")
    await put(store, "a", b"2")
    result = await store.txn([compare], [Put("yes", b"")], [Put("no", b"")])
    assert result.succeeded is holds
    assert (await get(store, "yes") is not None) is holds and (await get(store, "no") is not None) is not holds


async def test_conditions_on_revisions(store: StateStore) -> None:
    created = await put(store, "a", b"1")
    changed = await put(store, "a", b"2")
    same = [Compare("a", "create", "=", created), Compare("a", "mod", "=", changed)]
    assert (await store.txn(same, [Put("a", b"3")])).succeeded
    assert not (await store.txn(same, [Put("a", b"4")])).succeeded
    found = await get(store, "a")
    assert found is not None and found.value == b"3"


async def test_all_of_a_transaction_is_one_revision(store: StateStore) -> None:
    before = await put(store, "old", b"")
    result = await store.txn([absent("x")], [Put("x", b"1"), Put("y", b"2"), Delete("old"), Get("x")])
    assert result.succeeded and result.revision == before + 1
    assert [each.value for each in result.found[3]] == [b"1"]
    found, _ = await store.range("")
    assert {each.mod_revision for each in found} == {before + 1} and [each.key for each in found] == ["x", "y"]


async def test_one_of_many_gets_a_key_and_the_others_learn_who(store: StateStore) -> None:
    async def race(number: int) -> bytes:
        mine = str(number).encode()
        result = await store.txn([absent("name")], [Put("name", mine)], [Get("name")])
        return mine if result.succeeded else result.found[0][0].value

    answers = await asyncio.gather(*[race(number) for number in range(100)])
    assert len(set(answers)) == 1


@pytest.mark.parametrize(
    "ops",
    [[Put("a", b"1"), Put("a", b"2")], [Put("a", b"1"), Delete("a")], [Delete("", prefix=True), Put("a", b"")]],
)
async def test_a_key_is_written_once_in_a_transaction(store: StateStore, ops: list[Any]) -> None:
    with pytest.raises(ValueError, match="'a'"):
        await store.txn([], ops)
    assert await store.range("") == ((), 1)


# --- leases


async def gone(store: StateStore, key: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await get(store, key) is not None:
            await asyncio.sleep(0.005)


async def test_keys_end_with_their_lease_in_one_revision(store: StateStore) -> None:
    lease = await store.lease(SHORT_S)
    watch = store.watch("")
    result = await store.txn([], [Put("b", b"", lease), Put("a", b"", lease), Put("stays", b"")])
    await gone(store, "a")
    assert [each.key for each in (await store.range(""))[0]] == ["stays"]
    events = (await following(watch, 5))[3:]
    assert events == [Event("a", result.revision + 1, None), Event("b", result.revision + 1, None)]
    watch.close()
    with pytest.raises(NoSuchLease):
        await store.keep_alive(lease)
    with pytest.raises(NoSuchLease, match="is not put"):
        await put(store, "late", b"", lease)


async def test_a_lease_that_is_kept_alive_lasts(store: StateStore) -> None:
    lease = await store.lease(60)
    await put(store, "a", b"", lease)
    assert await store.keep_alive(lease) == 60
    found = await get(store, "a")
    assert found is not None and found.lease == lease
    await store.revoke(lease)
    assert await get(store, "a") is None
    with pytest.raises(NoSuchLease):
        await store.revoke(lease)


async def test_putting_a_key_again_replaces_its_lease(store: StateStore) -> None:
    first, second = await store.lease(60), await store.lease(60)
    assert first != second
    await put(store, "none", b"", first)
    await put(store, "none", b"")
    await put(store, "other", b"", first)
    await put(store, "other", b"", second)
    await store.revoke(first)
    assert [each.key for each in (await store.range(""))[0]] == ["none", "other"]
    await store.revoke(second)
    assert [each.key for each in (await store.range(""))[0]] == ["none"]


async def test_a_lease_without_time_is_refused(store: StateStore) -> None:
    for ttl in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="ttl"):
            await store.lease(ttl)


# --- watching


async def test_a_watch_gives_what_follows(store: StateStore) -> None:
    await put(store, "a/1", b"before")
    watch = store.watch("a/")
    first = await put(store, "a/1", b"1")
    await put(store, "b", b"")
    second = (await store.txn([], [Delete("a/1"), Put("a/2", b"2")])).revision
    one, two, three = await following(watch, 3)
    assert one.put is not None and (one.key, one.revision, one.put.value, one.put.version) == ("a/1", first, b"1", 2)
    assert two == Event("a/1", second, None)
    assert (three.key, three.revision) == ("a/2", second)
    watch.close()
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


async def test_a_watch_begins_in_the_past_and_goes_on(store: StateStore) -> None:
    await put(store, "a", b"0")
    start = await put(store, "a", b"1")
    await put(store, "a", b"2")
    watch = store.watch("a", start)
    await put(store, "a", b"3")
    assert [each.put.value for each in await following(watch, 3) if each.put] == [b"1", b"2", b"3"]
    watch.close()


async def test_a_watch_after_a_read_misses_nothing(store: StateStore) -> None:
    async def write() -> None:
        for number in range(200):
            await put(store, f"a/{number % 7}", str(number).encode())

    writing = asyncio.ensure_future(write())
    await asyncio.sleep(0)
    found, revision = await store.range("a/")
    known = {each.key: each for each in found}
    watch = store.watch("a/", revision + 1)
    await writing
    final, last = await store.range("a/")
    while revision < last:
        (event,) = await following(watch, 1)
        assert event.put is not None and event.revision > revision
        revision, known[event.key] = event.revision, event.put
    assert sorted(known.items()) == [(each.key, each) for each in final]
    watch.close()


async def test_a_watch_of_a_revision_to_come_waits_for_it(store: StateStore) -> None:
    revision = await put(store, "a", b"0")
    watch = store.watch("a", revision + 2)
    await put(store, "a", b"1")
    await put(store, "a", b"2")
    (event,) = await following(watch, 1)
    assert event.revision == revision + 2
    watch.close()


async def test_what_was_compacted_cannot_be_watched(store: StateStore) -> None:
    first = await put(store, "a", b"0")
    await put(store, "a", b"1")
    last = await put(store, "a", b"2")
    await store.compact(last)
    watch = store.watch("a", first)
    with pytest.raises(CompactedError, match="was compacted") as caught:
        await anext(watch)
    assert first < caught.value.revision <= last
    fresh = store.watch("a", last + 1)
    await put(store, "a", b"3")
    assert (await following(fresh, 1))[0].revision == last + 1
    fresh.close()
    with pytest.raises(CompactedError):
        await store.compact(first)
    with pytest.raises(ValueError, match="still to come"):
        await store.compact(last + 100)
    found = await get(store, "a")
    assert found is not None and found.value == b"3"


async def test_a_cancelled_reader_loses_nothing(store: StateStore) -> None:
    watch = store.watch("")
    reading = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    await put(store, "a", b"")
    assert (await following(watch, 1))[0].key == "a"
    watch.close()


# --- the end


async def test_after_the_end_nothing_is_taken(store: StateStore) -> None:
    watch = store.watch("")
    waiting = asyncio.ensure_future(anext(watch))
    await put(store, "b", b"")
    await waiting
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await store.aclose()
    await store.aclose()
    with pytest.raises(ControlUnavailable):
        await waiting
    with pytest.raises(ControlUnavailable):
        await put(store, "a", b"")
    with pytest.raises(ControlUnavailable):
        await store.range("")
    late = store.watch("")
    with pytest.raises(ControlUnavailable):
        await anext(late)


# --- what SQLite has beside


async def test_sqlite_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = await open_sqlite(str(path))
    lease, short = await store.lease(60), await store.lease(SHORT_S)
    await store.txn([], [Put("a", b"1"), Put("held", b"", lease), Put("short", b"", short)])
    await put(store, "a", b"2")
    before, revision = await store.range("a")
    await store.aclose()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store = await open_sqlite(str(path))
    assert (await store.range("a")) == (before, revision)
    await gone(store, "short")
    assert await store.keep_alive(lease) == 60
    assert await store.lease(60) > short
    with pytest.raises(CompactedError):
        await anext(store.watch("", revision))
    await store.revoke(lease)
    assert [each.key for each in (await store.range(""))[0]] == ["a"]
    await store.aclose()


async def test_sqlite_writes_many_changes_at_once(tmp_path: Path) -> None:
    store = await open_sqlite(str(tmp_path / "s"))
    await asyncio.gather(*[put(store, f"k{number}", b"") for number in range(500)])
    journal: Any = store._journal
    assert 0 < journal.commits < 100
    assert len((await store.range("k"))[0]) == 500
    await store.aclose()


PROGRAM = """
import asyncio, sys
from actorlite.control.stores.sqlite import open_sqlite
from actorlite.state.revisions import Put

async def main():
    store = await open_sqlite(sys.argv[1])
    number = 0
    while True:
        await store.txn([], [Put("a", b"%d" % number), Put("b", b"%d" % number)])
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


async def test_sqlite_has_what_it_acknowledged_before_it_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [await asyncio.to_thread(writer.stdout.readline) for _ in range(20)]
        with pytest.raises(ControlUnavailable, match="locked"):
            await open_sqlite(str(path))
        writer.kill()
        said += await asyncio.to_thread(writer.stdout.readlines)
    store = await open_sqlite(str(path))
    (a, b), revision = await store.range("")
    assert a.value == b.value and int(a.value) >= int(said[-1])
    assert revision == int(a.value) + 2
    await store.aclose()


async def test_sqlite_that_cannot_write_says_so_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = await open_sqlite(str(path))
    await put(store, "a", b"")
    watch = store.watch("")
    refusing = sqlite3.connect(path)
    journal: Any = store._journal
    journal.write(None)  # a defect in the writer, as good as a full disk
    with pytest.raises(ControlUnavailable, match="could not be written"):
        await put(store, "b", b"")
    with pytest.raises(ControlUnavailable):
        await anext(watch)
    with pytest.raises(ControlUnavailable):
        await store.range("")
    refusing.close()
    await store.aclose()
    store = await open_sqlite(str(path))
    assert [each.key for each in (await store.range(""))[0]] == ["a"]
    await store.aclose()


async def test_sqlite_refuses_what_is_not_its_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(os.urandom(5000))
    with pytest.raises(ControlUnavailable, match=str(path)):
        await open_sqlite(str(path))
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(ControlUnavailable, match="version 99"):
        await open_sqlite(str(path))
