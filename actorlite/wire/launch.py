"""The protocol between the process that starts a node daemon and the daemon: one message per packet.

The first packet is the configuration: it holds the cluster token, which a command line or an environment would show to
others. For an owned daemon the end of the channel is part of the protocol: it means that the starter is gone.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from actorlite.wire.zygote import DEFAULT_WORKER_ENTRY

DEFAULT_NODE_ENTRY = "actorlite.node.run:run_node"
MAX_PACKET_BYTES = 128 * 1024
"""As for a zygote: below the send buffer that Linux gives a socket by default."""


class DaemonConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a new node daemon needs to know."""

    session_directory: str
    """Absolute, not existing yet, in an existing directory. Made with mode 0700; gone when the daemon is."""
    node: str
    """The address where the daemon listens."""
    token: bytes
    owned: bool = True
    """Ends with the process that started it; otherwise it runs on until it is told to stop, or by SIGTERM."""
    parent_pid: int = 0
    """Filled in by `launch_daemon`."""
    num_cpus: float | None = None
    """None: what the host has."""
    object_store_memory: int | None = None
    """None: a part of what the host has."""
    object_spilling_directory: str | None = None
    """None: one inside the session directory; empty: nothing is spilled."""
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    preload: tuple[str, ...] = ()
    allow_preload_threads: bool = False
    sys_path: tuple[str, ...] = ()
    """Where preloaded modules are looked for, before the daemon's own places."""
    cwd: str = ""
    log_path: str = ""
    """Standard output and error of the daemon and its workers, appended; needed when it is not owned. Not inside the
    session directory."""
    control_state: str = ""
    """The file of control's state, not inside the session directory; empty when that ends with the daemon."""
    worker_entry: str = DEFAULT_WORKER_ENTRY
    node_entry: str = DEFAULT_NODE_ENTRY
    """`module:function`: what the daemon runs; a test of processes brings a node of its own."""
    num_gpus: int | None = None
    """None: what the host has."""
    memory: int | None = None
    """Bytes for tasks and actors. None: what the object store leaves of the host's."""
    resources: dict[str, float] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    max_workers: int | None = None
    idle_workers: int | None = None
    """None: without limit."""
    join: str = ""
    """The address of a node to join before this one counts as started; `token` is that of its cluster. Empty: the
    first of a cluster."""


class Stop(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Starter to daemon: end in good order."""


class NodeReady(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The daemon listens at `address`, and its zygote can fork."""

    address: str
    pid: int


class NodeFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Instead of `NodeReady`; the daemon ends and has left nothing."""

    error: str


class NodeEnded(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The daemon's last message, after `NodeReady`: why it ends."""

    reason: str


Report: TypeAlias = NodeReady | NodeFailed | NodeEnded

_encoder = msgspec.msgpack.Encoder()
_configs = msgspec.msgpack.Decoder(DaemonConfig)
_stops = msgspec.msgpack.Decoder(Stop)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def encode(message: DaemonConfig | Stop | Report) -> bytes:
    """One packet. Raises `ValueError` when it would be larger than the other side reads."""
    packet = _encoder.encode(message)
    if len(packet) > MAX_PACKET_BYTES:
        raise ValueError(
            f"a {type(message).__name__} of {len(packet)} bytes is larger than the {MAX_PACKET_BYTES} bytes a node "
            f"daemon reads: shorten sys.path or preload"
        )
    return packet


def decode_config(packet: bytes) -> DaemonConfig:
    return _configs.decode(packet)


def decode_stop(packet: bytes) -> Stop:
    return _stops.decode(packet)


def decode_report(packet: bytes) -> Report:
    return _reports.decode(packet)
