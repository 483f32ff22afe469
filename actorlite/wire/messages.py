"""Every message as a typed frozen struct, in one tagged union with one decoder; those of each part in its module.

A message is a list of buffers. The first is one of these structs; the rest are the payload's buffers. A payload (an
encoded user value) whose in-band bytes are small travels inside the struct; otherwise the first extra part holds them.

Tags are part of the protocol: never reuse one. `PROTOCOL_VERSION` changes when the meaning of a message changes.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from actorlite.ids import ProcessId
from actorlite.wire.calls import (
    ActorCall,
    ActorEnded,
    Borrow,
    CallerWaits,
    Cancel,
    CreateActor,
    Credit,
    Define,
    EndActor,
    Exists,
    Failed,
    Fetch,
    HandOver,
    Rejected,
    Release,
    Replies,
    Reply,
    Room,
    StreamClose,
    StreamItem,
    StreamNext,
    Taken,
    TaskCall,
)
from actorlite.wire.control import (
    ClaimName,
    CreateDetached,
    FindName,
    ListNames,
    NameHolder,
    Names,
    ReleaseName,
)
from actorlite.wire.groups import (
    AwaitGroup,
    BundlesDone,
    CommitBundles,
    CreateGroup,
    DescribeGroups,
    GroupInfo,
    Groups,
    KeepRoom,
    PrepareBundles,
    RemoveGroup,
    ReturnBundles,
)
from actorlite.wire.nodes import (
    Capacity,
    Chunk,
    DrainNode,
    HasObject,
    JoinNode,
    KnownNodes,
    NodeLoad,
    ProcessEnded,
    SendChunk,
)
from actorlite.wire.objects import (
    AbandonObject,
    AttachStore,
    ClaimObjects,
    CloseObjects,
    CreateObject,
    Explained,
    ExplainObjects,
    FreeObjects,
    HandOverObjects,
    Heirs,
    Leased,
    LeaseRoom,
    ListObjects,
    Objects,
    OpenObject,
    PinsWanted,
    Placed,
    PlaceObjects,
    ReaderLost,
    SealObjects,
    StoreInfo,
)
from actorlite.wire.requests import (
    ActorPlace,
    Blocked,
    CancelWork,
    Death,
    Demand,
    KillActor,
    KillWorker,
    Lease,
    LeaseWorker,
    NodeInfo,
    NodeStatus,
    Reclaim,
    RegisterDriver,
    RegisterWorker,
    ResolveActor,
    Retire,
    ReturnLease,
    Status,
    StopActor,
    StopNode,
    TellDemand,
    WhyDied,
    WithdrawLeases,
    Yes,
)

PROTOCOL_VERSION = 1


class _Message(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    pass


# --- handshake ----------------------------------------------------------------------------------------------


class Identity(_Message, frozen=True):
    """Who a process is; sent by both sides and covered by both proofs."""

    process: ProcessId
    role: str
    """`"driver"`, `"worker"` or `"node"`."""
    address: str
    """Where the process accepts connections; empty when it does not."""
    pid: int
    python: str
    """Minor version, `"3.12"`: code goes by value, so it must be equal."""
    node: ProcessId = ProcessId("")
    """The node that the process belongs to; empty in a node, and until it is known."""


class Hello(_Message, tag=1, frozen=True):
    """The connecting side's first message."""

    version: int
    identity: Identity
    nonce: bytes


class Challenge(_Message, tag=2, frozen=True):
    identity: Identity
    nonce: bytes
    proof: bytes


class Proof(_Message, tag=3, frozen=True):
    proof: bytes


class Welcome(_Message, tag=4, frozen=True):
    pass


class Refused(_Message, tag=5, frozen=True):
    """The handshake failed; `kind` is `"version"` or `"authentication"`."""

    kind: str
    text: str


# --- requests between daemon, drivers and workers ---------------------------------------------------------------


class Request(_Message, tag=40, frozen=True):
    id: int
    body: RequestBody


class Response(_Message, tag=41, frozen=True):
    id: int
    body: ResponseBody | None = None
    error: str = ""
    error_kind: str = ""


class CancelRequest(_Message, tag=43, frozen=True):
    """The sender of a request does not want its answer any more; one comes all the same."""

    id: int


class Ending(_Message, tag=42, frozen=True):
    """The node says goodbye to everybody, and why: the last message on the connection."""

    reason: str


RequestBody = (
    RegisterDriver
    | RegisterWorker
    | LeaseWorker
    | ReturnLease
    | KillWorker
    | WhyDied
    | NodeStatus
    | StopNode
    | Retire
    | StopActor
    | ResolveActor
    | KillActor
    | CancelWork
    | AttachStore
    | CreateObject
    | OpenObject
    | ListObjects
    | ExplainObjects
    | JoinNode
    | HasObject
    | DrainNode
    | TellDemand
    | HandOverObjects
    | LeaseRoom
    | ClaimName
    | ReleaseName
    | FindName
    | ListNames
    | CreateDetached
    | CreateGroup
    | AwaitGroup
    | RemoveGroup
    | DescribeGroups
    | PrepareBundles
    | CommitBundles
    | ReturnBundles
)
ResponseBody = (
    NodeInfo
    | Lease
    | Death
    | Status
    | Demand
    | Yes
    | ActorPlace
    | StoreInfo
    | Placed
    | Objects
    | Explained
    | KnownNodes
    | Heirs
    | Leased
    | NameHolder
    | Names
    | GroupInfo
    | Groups
    | BundlesDone
)
HandshakeMessage = Hello | Challenge | Proof | Welcome | Refused
Message = (
    Hello
    | Challenge
    | Proof
    | Welcome
    | Refused
    | Define
    | TaskCall
    | ActorCall
    | CreateActor
    | EndActor
    | Reply
    | Replies
    | Failed
    | Rejected
    | Cancel
    | StreamItem
    | Credit
    | Taken
    | CallerWaits
    | Room
    | Borrow
    | Release
    | ActorEnded
    | Fetch
    | HandOver
    | Exists
    | StreamNext
    | StreamClose
    | Request
    | Response
    | CancelRequest
    | WithdrawLeases
    | Reclaim
    | Blocked
    | Ending
    | SealObjects
    | AbandonObject
    | ClaimObjects
    | FreeObjects
    | CloseObjects
    | ReaderLost
    | PinsWanted
    | NodeLoad
    | ProcessEnded
    | SendChunk
    | Chunk
    | Capacity
    | PlaceObjects
    | KeepRoom
)

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode
decode_handshake = msgspec.msgpack.Decoder(HandshakeMessage).decode
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoders raise for bytes that are no message, broken text and bottomless nesting included."""
