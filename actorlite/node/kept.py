"""Detached placement groups, as the leading node writes them down and one that is started in its place finds them.

A group is written down before its creator hears that it was made, and forgotten before whoever removes it hears that it
is gone. Without a file to write to, the groups end with the node.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

import msgspec

from actorlite.wire.groups import GroupShape

logger = logging.getLogger("actorlite.node")

PREFIX = "groups/"


class Shelf(Protocol):
    """Where control keeps its state."""

    @property
    def epoch(self) -> int:
        """How many leaders it has had."""
        ...

    async def read(self, prefix: str) -> list[tuple[str, bytes]]:
        """In the order in which they were written first. Raises `ControlUnavailable`."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Return when it is safe. Raises `ControlUnavailable`."""

    def delete_soon(self, key: str) -> None: ...

    async def deleted(self, key: str) -> None:
        """Return when what was to be deleted is so for good; what has failed is tried once more. Raises
        `ControlUnavailable`."""


class KeptGroups:
    """Owned by the group desk; on the loop."""

    def __init__(self, shelf: Shelf) -> None:
        self.restored: set[str] = set()
        """Groups that an earlier node had."""
        self.not_restored: list[str] = []
        """What could not be brought back, and why."""
        self._shelf = shelf

    @property
    def epoch(self) -> int:
        """Of the leader whose groups these are: grows with each that finds the state of an earlier one."""
        return self._shelf.epoch

    async def keep(self, shape: GroupShape) -> None:
        """Return when it is safe. Raises `ControlUnavailable`."""
        await self._shelf.put(PREFIX + shape.group, msgspec.msgpack.encode(shape))

    def forget(self, group: str) -> None:
        self._shelf.delete_soon(PREFIX + group)

    async def forgotten(self, group: str) -> None:
        """Return when a group that was forgotten will not be back. Raises `ControlUnavailable`."""
        await self._shelf.deleted(PREFIX + group)

    async def found(self) -> list[GroupShape]:
        """What an earlier node had, in the order in which it was made. Raises `ControlUnavailable`."""
        shapes, unreadable = read(await self._shelf.read(PREFIX))
        for text in unreadable:
            self.lost(text)
        return shapes

    def back(self, shape: GroupShape) -> None:
        self.restored.add(shape.group)
        logger.warning("the detached placement group %s is reserved anew", told(shape))

    def lost(self, text: str) -> None:
        logger.warning("not brought back: %s", text)
        self.not_restored.append(text)

    def __repr__(self) -> str:
        return f"<KeptGroups restored={len(self.restored)} lost={len(self.not_restored)}>"


def read(entries: Iterable[tuple[str, bytes]]) -> tuple[list[GroupShape], list[str]]:
    """The groups among what was written down, and a text for each that cannot be read."""
    shapes, unreadable = [], []
    for key, value in entries:
        try:
            shapes.append(msgspec.msgpack.decode(value, type=GroupShape))
        except msgspec.DecodeError as error:
            unreadable.append(f"placement group {key.removeprefix(PREFIX)}, which cannot be read any more: {error}")
    return shapes, unreadable


def told(shape: GroupShape) -> str:
    """Which group it is, for people."""
    name = f" {shape.name!r}" if shape.name else ""
    return f"{shape.group}{name} in namespace {shape.namespace!r}"
