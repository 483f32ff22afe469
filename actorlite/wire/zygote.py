"""The protocol between a node daemon and its zygote: one message per packet of a `SOCK_SEQPACKET` pair.

The end of the channel is part of the protocol: a zygote that reads it ends everything it started. A worker's
specification and exit report travel encoded: their types belong to the host's seam, and this layer only carries them.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

MAX_PACKET_BYTES = 128 * 1024
"""Room for a `sys.path` of some thousand entries, and below the send buffer that Linux gives a socket by default."""
DEFAULT_WORKER_ENTRY = "actorlite.worker.process:run_worker"


class ZygoteConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a zygote is made for. It never crosses the channel: the zygote is a fork and simply has it."""

    entry: str = DEFAULT_WORKER_ENTRY
    """`module:function`; called with the `WorkerSpec` in each new worker."""
    preload: tuple[str, ...] = ()
    """Modules imported once, before any worker is forked."""
    allow_preload_threads: bool = False
    """Accept modules that start threads or initialise CUDA when imported: both rarely survive a fork."""
    sys_path: tuple[str, ...] = ()
    cwd: str = ""
    session_directory: str = ""
    """Made by the zygote, removed by it when the channel ends; must not exist before. Empty: none."""
    stderr: int = -1
    """A descriptor that becomes the zygote's standard error once it is ready: -1 keeps the one it has."""


class ForkRequest(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Start a worker. Answered by `Forked` or `ForkFailed`, in any order among several."""

    process: str
    spec: msgspec.Raw
    """An encoded `WorkerSpec`."""


class KillRequest(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """End a worker and everything it started. Not answered; `Exited` follows if it still ran."""

    process: str


class Opened(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The zygote's first message: the session directory is made, and the zygote will remove it."""


class OpenFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Instead of `Opened`; the zygote ends and has left nothing."""

    error: str


class Ready(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """All imports are done; requests that came earlier are served from now on."""

    pid: int
    preload_seconds: float


class PreloadFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Instead of `Ready`: `module` cannot be imported or must not be forked. The zygote ends."""

    module: str
    error: str


class Forked(msgspec.Struct, frozen=True, tag=True, array_like=True):
    process: str
    pid: int


class ForkFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    process: str
    error: str


class Exited(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A worker is gone, and its process group has been sent SIGKILL. Once per `Forked`, after it."""

    process: str
    report: msgspec.Raw
    """An encoded `ExitReport`."""


Request: TypeAlias = ForkRequest | KillRequest
Event: TypeAlias = Opened | OpenFailed | Ready | PreloadFailed | Forked | ForkFailed | Exited

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_events: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def encode(message: Request | Event) -> bytes:
    """One packet. Raises `ValueError` when it would be larger than the other side reads."""
    packet = _encoder.encode(message)
    if len(packet) > MAX_PACKET_BYTES:
        raise ValueError(
            f"a {type(message).__name__} of {len(packet)} bytes is larger than the {MAX_PACKET_BYTES} bytes a zygote "
            f"reads: shorten sys.path"
        )
    return packet


def decode_request(packet: bytes) -> Request:
    return _requests.decode(packet)


def decode_event(packet: bytes) -> Event:
    return _events.decode(packet)


def pack(value: object) -> msgspec.Raw:
    """Encode a dataclass of the host's seam."""
    return msgspec.Raw(_encoder.encode(value))
