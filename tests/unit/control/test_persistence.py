"""What control wants written down, when its store will not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from actorlite.control import persistence
from actorlite.control.persistence import Persistence
from actorlite.control.stores.memory import MemoryStore
from actorlite.errors import ControlUnavailable
from actorlite.state.revisions import Compare, Op, TxnResult

pytestmark = pytest.mark.asyncio


class Refusing(MemoryStore):
    """Takes no changes while `full`."""

    full = False

    async def txn(self, compares: Sequence[Compare], ops: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        if self.full:
            raise ControlUnavailable("no room on the disk")
        return await super().txn(compares, ops, otherwise)


async def opened(monkeypatch: pytest.MonkeyPatch) -> tuple[Persistence, Refusing]:
    store = Refusing()
    monkeypatch.setattr(persistence, "MemoryStore", lambda: store)
    found = Persistence("", "me")
    await found.open()
    await found.put("a", b"1")
    return found, store


async def keys(store: Refusing) -> list[str]:
    return [each.key for each in (await store.range(""))[0]]


async def test_a_deletion_is_told_when_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    found, store = await opened(monkeypatch)
    found.delete_soon("a")
    await found.deleted("a")
    assert await keys(store) == ["leader"]
    await found.deleted("never there")
    await found.aclose(keep=False)


async def test_a_deletion_that_is_not_written_is_told_until_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found, store = await opened(monkeypatch)
    store.full = True
    with caplog.at_level(logging.ERROR, "actorlite.control"):
        found.delete_soon("a")
        for _ in range(2):
            with pytest.raises(ControlUnavailable, match=r"is done, but .* \(no room on the disk\)"):
                await found.deleted("a")
    assert [each for each in caplog.messages if each.startswith("a stays in control's state")]
    await found.deleted("another")
    store.full = False
    await found.deleted("a")
    assert await keys(store) == ["leader"]
    store.full = True
    await found.deleted("a")
    await found.aclose(keep=False)


async def test_deletions_that_were_not_written_are_remembered_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "MAX_UNDELETED", 2)
    found, store = await opened(monkeypatch)
    store.full = True
    for key in "xyz":
        found.delete_soon(key)
    await found.deleted("x")
    for key in "yz":
        with pytest.raises(ControlUnavailable):
            await found.deleted(key)
    await found.aclose(keep=True)


async def test_what_ends_with_the_node_stays_but_what_is_asked_for_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    found, store = await opened(monkeypatch)
    await found.put("b", b"2")
    found.freeze()
    found.delete_soon("a")
    found.delete_soon("b")
    found.put_soon("c", b"3")
    await found.written()
    assert await keys(store) == ["a", "b", "leader"]
    await found.deleted("b")
    assert await keys(store) == ["a", "leader"]
    await found.aclose(keep=True)
    with pytest.raises(ControlUnavailable, match="starting, or ends"):
        await found.deleted("a")


async def test_each_that_leads_on_the_same_state_has_a_higher_epoch(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        found = Persistence(str(tmp_path / "state"), f"node {epoch}")
        await found.open()
        assert found.epoch == epoch
        await found.put("a", b"1")
        await found.aclose(keep=True)
