"""The transport seam: ordered, reliable messages between two processes.

Guarantees that every implementation gives, checked by `actorlite.testing.check_transport`:

- *Order.* Messages arrive complete, in the order sent. Lost means closed: a connection never skips a message.
- *Back-pressure.* `send` queues and never waits; `drain` waits until the queue is below the low-water mark.
- *Ownership.* Buffers given to `send` must not change afterwards. Parts handed to `Sink.message` belong to the sink.
- *End.* `Sink.closed` is called exactly once, after the last message: with `None` when this side called `aclose`,
  with a `ConnectionLost` when the peer closed or the connection broke. After it, `send` raises `ConnectionLost`.
- *Cancellation.* A cancelled `aclose` still closes. A cancelled `connect` leaves nothing open.
- *Bounds.* A frame larger than `Sink.max_message_bytes` ends the connection before anything is allocated for it.
- *Errors.* No `OSError` crosses the seam: `connect` and `listen` raise `ConnectFailed`.

Addresses are text, `scheme://rest`. Implementations live in `actorlite_transports`; others register by entry point
group `actorlite.transports`, looked up only for schemes that the table does not name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, TypeAlias, cast

from actorlite.errors import ConnectFailed, ConnectionLost
from actorlite.loading import load

Buffer: TypeAlias = bytes | bytearray | memoryview
Address: TypeAlias = str

ENTRY_POINT_GROUP = "actorlite.transports"
TABLE = {
    "inproc": "actorlite_transports.inproc:InprocTransport",
    "uds": "actorlite_transports.uds:UdsTransport",
    "tcp": "actorlite_transports.tcp:TcpTransport",
}


class Sink(Protocol):
    """Receives what arrives on one connection; implemented by the core, called by the transport on the loop."""

    @property
    def max_message_bytes(self) -> int:
        """The largest frame accepted now; small until the peer has authenticated itself."""
        ...

    def message(self, parts: Sequence[memoryview]) -> None:
        """One message, at least one part. The parts are the sink's: the transport never touches them again."""

    def closed(self, error: ConnectionLost | None) -> None:
        """The connection has ended; exactly once, last."""


class Connection(Protocol):
    """Ordered, reliable messages to one peer."""

    @property
    def peer(self) -> Address: ...

    def send(self, *parts: Buffer) -> None:
        """Queue one message of one or more parts. Raises `ConnectionLost` once the connection has ended."""

    async def drain(self) -> None:
        """Return once the send queue is below the low-water mark. Raises `ConnectionLost`."""

    async def aclose(self) -> None:
        """Send what is queued, then close. Idempotent; a cancelled `aclose` still closes."""


class ThreadSender(Protocol):
    """What a connection may offer beside the seam, for answers that are computed in threads."""

    def send_from_thread(self, *parts: Buffer) -> bool:
        """Send one message now, from any thread; False when it must go through `send` on the loop instead."""
        ...


class Listener(Protocol):
    @property
    def address(self) -> Address:
        """The bound address: port 0 resolved."""
        ...

    async def aclose(self) -> None:
        """Stop accepting and remove the socket file; open connections stay."""


class Transport(Protocol):
    async def connect(self, address: Address, sink: Sink) -> Connection: ...

    async def listen(self, address: Address, accept: Callable[[Connection], Sink]) -> Listener: ...


def scheme_of(address: Address) -> str:
    scheme, separator, _ = address.partition("://")
    if not separator or not scheme:
        raise ConnectFailed(f"address {address!r} has no scheme; write it as scheme://..., one of {sorted(TABLE)}")
    return scheme


def get_transport(address: Address) -> Transport:
    """The transport for an address: from the table first, then from the entry points of other distributions."""
    scheme = scheme_of(address)
    target = TABLE.get(scheme)
    if target is None:
        # Imported late on purpose: it costs tens of milliseconds that a worker's start should not pay.
        metadata = import_module("importlib.metadata")
        for entry in metadata.entry_points(group=ENTRY_POINT_GROUP, name=scheme):
            target = entry.value
        if target is None:
            raise ConnectFailed(
                f"no transport for scheme {scheme!r} of address {address!r}: known are {sorted(TABLE)}, and an "
                f"installed distribution may add one by the entry point group {ENTRY_POINT_GROUP!r}"
            )
    return cast(Transport, load(target)())
