"""Why there is no room for an object, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actorlite.state.objects import ObjectTable

NAMED = 8
"""Objects that the text of an error names."""


def too_large(capacity: int, size: int) -> str:
    """Why an object can never be there."""
    return (
        f"a value of {size} bytes does not fit into the object store, which has {capacity} bytes: "
        "split it, or start the node with a larger object_store_memory"
    )


def why_full(table: ObjectTable, size: int) -> str:
    """Why there is no room now: who keeps what, largest first."""
    pinned = sorted((each for each in table.objects.values() if each.pins), key=lambda each: -each.size)
    lines = [
        f"no room for {size} bytes: {table.allocator.free_bytes} of {table.allocator.capacity} bytes are free, the "
        f"largest free range has {table.allocator.largest_free}"
    ]
    if table.spill_error:
        lines.append(f"spilling to disk failed: {table.spill_error}")
    elif not table.spills:
        lines.append("spilling to disk is off")
    for each in pinned[:NAMED]:
        holders = ", ".join(f"{process} ({count})" for process, count in each.pins.items())
        lines.append(f"object {each.key} of {each.size} bytes, {each.place.value}, is in use by {holders}")
    if len(pinned) > NAMED:
        lines.append(f"and {len(pinned) - NAMED} more in use")
    return "; ".join(lines)
