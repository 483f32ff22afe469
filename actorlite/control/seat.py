"""What control needs of the node that it is part of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from actorlite.host import Entropy
from actorlite.ids import ProcessId
from actorlite.transport import Address, Transport


class Seat(Protocol):
    """Where a node's part in control sits."""

    @property
    def node(self) -> Address: ...

    @property
    def token(self) -> bytes: ...

    @property
    def entropy(self) -> Entropy: ...

    @property
    def pid(self) -> int: ...

    @property
    def listen(self) -> Callable[[ProcessId], Address]:
        """Where a process of this node listens."""
        ...

    @property
    def transports(self) -> Callable[[Address], Transport] | None:
        """What connections are made by; None is the usual."""
        ...

    @property
    def state_path(self) -> str:
        """The file that control's state is kept in; empty when it ends with the node."""
        ...
