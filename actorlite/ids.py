"""Identifiers: fixed-width, printable, without behaviour.

A process draws its `ProcessId` once, from its host's entropy. Everything that it creates (objects, tasks, actors) is
numbered by one counter, so an id names its owner and needs no random number of its own.
"""

from __future__ import annotations

from typing import NewType

ProcessId = NewType("ProcessId", str)
"""16 hex digits; drivers, daemons and workers alike."""
ObjectId = NewType("ObjectId", str)
"""`<owner>-<number>`: 16 + 1 + 12 hex digits. The id of a task is the id of its first result."""
ActorId = NewType("ActorId", str)
"""`<creator>-<number>`, as for objects."""

PROCESS_ID_BYTES = 8


def process_id(random_bytes: bytes) -> ProcessId:
    if len(random_bytes) != PROCESS_ID_BYTES:
        raise ValueError(f"a process id is made from {PROCESS_ID_BYTES} random bytes, not {len(random_bytes)}")
    return ProcessId(random_bytes.hex())


def object_id(owner: ProcessId, number: int) -> ObjectId:
    return ObjectId(f"{owner}-{number:012x}")


def actor_id(creator: ProcessId, number: int) -> ActorId:
    return ActorId(f"{creator}-{number:012x}")


def owner_of(identifier: ObjectId | ActorId) -> ProcessId:
    return ProcessId(identifier[: 2 * PROCESS_ID_BYTES])


def number_of(identifier: ObjectId | ActorId) -> int:
    return int(identifier[2 * PROCESS_ID_BYTES + 1 :], 16)
