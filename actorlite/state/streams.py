"""The credit of a stream: how much its sender may have out, and when its receiver gives room again. Pure.

Both sides count the same two things, items and bytes, against the same two bounds. The sender goes on while fewer items
and fewer bytes than that are out, so that one item of any size always finds room. The receiver gives credit for half a
window at a time: few messages, and a sender that is never stopped by a reader who keeps up. What a receiver has taken
and not yet given credit for is always less than half of each bound, so a sender is never stopped for ever.
"""

from __future__ import annotations


class SendWindow:
    """The sender's side. `size` 0 is without a bound on bytes."""

    __slots__ = ("items", "size", "sent", "out_items", "out_size")

    def __init__(self, items: int, size: int = 0) -> None:
        self.items = items
        self.size = size
        self.sent = 0
        self.out_items = 0
        self.out_size = 0

    @property
    def has_room(self) -> bool:
        return self.out_items < self.items and (not self.size or self.out_size < self.size)

    def send(self, size: int) -> int:
        """Count one item; its index. Raises `ValueError` without room."""
        if not self.has_room:
            raise ValueError(f"an item of {size} bytes for {self!r}, which has no room")
        index = self.sent
        self.sent += 1
        self.out_items += 1
        self.out_size += size
        return index

    def credit(self, items: int, size: int) -> None:
        """Raises `ValueError` for more than is out."""
        if items <= 0 or items > self.out_items or size < 0 or size > self.out_size:
            raise ValueError(f"a credit of {items} items and {size} bytes for {self!r}")
        self.out_items -= items
        self.out_size -= size

    def __repr__(self) -> str:
        return (
            f"<SendWindow sent={self.sent} out={self.out_items}/{self.items} items, "
            f"{self.out_size}/{self.size or 'any'} bytes>"
        )


class ReceiveWindow:
    """The receiver's side."""

    __slots__ = ("items", "size", "received", "held_items", "held_size", "taken_items", "taken_size")

    def __init__(self, items: int, size: int = 0) -> None:
        self.items = items
        self.size = size
        self.received = 0
        self.held_items = 0
        """Received, and no credit given for them yet."""
        self.held_size = 0
        self.taken_items = 0
        """Those of them that the reader has taken."""
        self.taken_size = 0

    def arrive(self, index: int, size: int) -> None:
        """Count an item. Raises `ValueError` for one out of turn, or without room for it."""
        if index != self.received:
            raise ValueError(f"item {index} came in place of item {self.received}")
        if self.held_items >= self.items or (self.size and self.held_size >= self.size):
            raise ValueError(f"more came than the {self.items} items and {self.size or 'any'} bytes that had room")
        self.received += 1
        self.held_items += 1
        self.held_size += size

    def take(self, size: int) -> tuple[int, int] | None:
        """The reader took one item; the credit to give now, in items and bytes. Raises `ValueError` for more."""
        if self.taken_items >= self.held_items or self.taken_size + size > self.held_size:
            raise ValueError(f"{self!r} has no item of {size} bytes to take")
        self.taken_items += 1
        self.taken_size += size
        if 2 * self.taken_items < self.items and (not self.size or 2 * self.taken_size < self.size):
            return None
        credit = self.taken_items, self.taken_size
        self.held_items -= self.taken_items
        self.held_size -= self.taken_size
        self.taken_items = self.taken_size = 0
        return credit

    def __repr__(self) -> str:
        return (
            f"<ReceiveWindow received={self.received} held={self.held_items}/{self.items} items, "
            f"{self.held_size}/{self.size or 'any'} bytes, taken={self.taken_items}>"
        )
