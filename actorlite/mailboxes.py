"""How much may wait in an actor's mailbox: what the option `mailbox` takes."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

WHEN_FULL = ("wait", "raise", "drop-oldest", "shed")


class Mailbox(Struct, frozen=True):
    """How much may wait in an actor's mailbox, and what happens to a call that finds it full.

    `"wait"`: it waits at its caller, in order, under its deadline. `"raise"`: it fails with `MailboxFullError`, not
    executed. `"drop-oldest"`: the call that has waited longest fails so, and makes room. `"shed"`: as `"raise"`, and
    a call with a deadline that it cannot meet, by what calls took so far, is refused at once.
    """

    calls: int = 10_000
    """Waiting calls of all callers together; one caller has at most so many under way."""
    bytes: int = 256 * 2**20
    """Bytes of their messages. A larger message is taken when nothing else waits."""
    when_full: Literal["wait", "raise", "drop-oldest", "shed"] = "wait"

    def __post_init__(self) -> None:
        for name in ("calls", "bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"Mailbox({name}={value!r}) must be an int, not {type(value).__name__}")
            if value < 1:
                raise ValueError(f"Mailbox({name}={value!r}) must be at least 1")
        if self.when_full not in WHEN_FULL:
            raise ValueError(f"Mailbox(when_full={self.when_full!r}) must be one of {', '.join(map(repr, WHEN_FULL))}")


DEFAULT_MAILBOX = Mailbox()
