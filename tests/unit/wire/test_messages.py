"""The bytes of every message: a change here is a change of the protocol, and needs a new `PROTOCOL_VERSION`."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorlite.ids import ActorId, ObjectId
from actorlite.wire import messages
from actorlite.wire.calls import (
    REJECTIONS,
    ActorCall,
    ActorEnded,
    Borrow,
    CallerWaits,
    Cancel,
    Conduct,
    CreateActor,
    Credit,
    Define,
    EndActor,
    Envelope,
    Exists,
    Failed,
    Fetch,
    HandOver,
    Hop,
    Payload,
    Rejected,
    Release,
    Replies,
    Reply,
    Room,
    Slot,
    StreamClose,
    StreamItem,
    StreamNext,
    Taken,
    TaskCall,
)
from actorlite.wire.control import (
    ClaimName,
    CreateDetached,
    DetachedActor,
    EncodedValue,
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
    GroupShape,
    InGroup,
    KeepRoom,
    Place,
    PrepareBundles,
    RemoveGroup,
    ReturnBundles,
)
from actorlite.wire.messages import (
    DECODE_ERRORS,
    CancelRequest,
    Challenge,
    Ending,
    Hello,
    Identity,
    Proof,
    Refused,
    Request,
    Response,
    Welcome,
    decode,
    decode_handshake,
    encode,
)
from actorlite.wire.nodes import (
    Capacity,
    Chunk,
    DrainNode,
    HasObject,
    JobInfo,
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
    ListedObject,
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

ACTOR = ActorId("0011223344556677-00000000000b")
OBJECT = ObjectId("0011223344556677-00000000000a")
ME = Identity("0011223344556677", "worker", "uds:///w", 17, "3.12")
SMALL = Payload(1, b"\x80")
BIG = Payload(2, b"", 3, (("0011223344556677-00000000000a", "uds:///o"),))
SHAPE = GroupShape("g-1", ((("CPU", 10_000),), (("GPU", 5_000),)), "SPREAD", "gang", "ns", ((("zone", "a"),), ()))
ENVELOPE = Envelope(
    2,
    1.5,
    "0011223344556677-000000000001",
    (Hop("a.m", "0011223344556677-000000000002"),),
    True,
    "00-ab-cd-01",
    "nice",
    3,
)
SLOT = Slot("key", None, ("0011223344556677-00000000000a", "uds:///o"))
DETACHED = DetachedActor(
    ACTOR,
    "space",
    "hits",
    b"entry",
    "Counter",
    b"options",
    EncodedValue(0, b"code"),
    "m.Counter",
    EncodedValue(1, b"args", (b"buffer",), ((OBJECT, "uds:///o"),)),
    ((0, EncodedValue(0, b"slot")),),
    ("/a",),
    "/c",
    "job",
    True,
    True,
    2,
    "3.12",
    Place(group="g-1", bundle=0),
    InGroup(SHAPE, True),
)

GOLDEN = {
    "hello": (
        Hello(1, ME, b"nonce"),
        "94010196b030303131323233333434353536363737a6776f726b6572a87564733a2f2f2f7711a4332e3132a0c4056e6f6e6365",
    ),
    "challenge": (
        Challenge(ME, b"nonce", b"proof"),
        "940296b030303131323233333434353536363737a6776f726b6572a87564733a2f2f2f7711a4332e3132a0c4056e6f6e6365"
        "c40570726f6f66",
    ),
    "proof": (
        Proof(b"proof"),
        "9203c40570726f6f66",
    ),
    "welcome": (
        Welcome(),
        "9104",
    ),
    "refused": (
        Refused("version", "too old"),
        "9305a776657273696f6ea7746f6f206f6c64",
    ),
    "define": (
        Define(b"digest", "f", SMALL),
        "940ac406646967657374a1669401c401800090",
    ),
    "task call": (
        TaskCall(7, b"digest", SMALL),
        "960b07c4066469676573749401c401800090c090",
    ),
    "task call with everything": (
        TaskCall(7, b"digest", BIG, ENVELOPE, (Slot(0, SMALL), SLOT)),
        "960b07c4066469676573749402c400039192bd303031313232333334343535363637372d303030303030303030303061a875"
        "64733a2f2f2f6fdc001102cb3ff8000000000000bd303031313232333334343535363637372d303030303030303030303031"
        "9193a3612e6dbd303031313232333334343535363637372d303030303030303030303032a0c3ab30302d61622d63642d3031"
        "a46e69636503cd2710900000a0c20090c09293009401c401800090c093a36b6579c092bd3030313132323333343435353636"
        "37372d303030303030303030303061a87564733a2f2f2f6f",
    ),
    "actor call": (
        ActorCall(7, ACTOR, "incr", SMALL),
        "970c07bd303031313232333334343535363637372d303030303030303030303062a4696e63729401c401800090c090",
    ),
    "actor call with everything": (
        ActorCall(7, ACTOR, "incr", BIG, ENVELOPE, (SLOT,)),
        "970c07bd303031313232333334343535363637372d303030303030303030303062a4696e63729402c400039192bd30303131"
        "3232333334343535363637372d303030303030303030303061a87564733a2f2f2f6fdc001102cb3ff8000000000000bd3030"
        "31313232333334343535363637372d3030303030303030303030319193a3612e6dbd30303131323233333434353536363737"
        "2d303030303030303030303032a0c3ab30302d61622d63642d3031a46e69636503cd2710900000a0c20090c09193a36b6579"
        "c092bd303031313232333334343535363637372d303030303030303030303061a87564733a2f2f2f6f",
    ),
    "create actor": (
        CreateActor(7, ACTOR, b"digest", SMALL),
        "9f0d07bd303031313232333334343535363637372d303030303030303030303062c4066469676573749401c40180009001c2"
        "a09000c000cb403e00000000000090c0",
    ),
    "create actor with everything": (
        CreateActor(7, ACTOR, b"digest", BIG, 5, True, "name", (SLOT,), 5_000),
        "9f0d07bd303031313232333334343535363637372d303030303030303030303062c4066469676573749402c400039192bd30"
        "3031313232333334343535363637372d303030303030303030303061a87564733a2f2f2f6f05c3a46e616d659193a36b6579"
        "c092bd303031313232333334343535363637372d303030303030303030303061a87564733a2f2f2f6fcd1388c000cb403e00"
        "000000000090c0",
    ),
    "create actor with groups": (
        CreateActor(
            7, ACTOR, b"digest", SMALL, conduct=Conduct((("io", 2),), True, True, (5, 10, 2**20, "drop-oldest"))
        ),
        "9f0d07bd303031313232333334343535363637372d303030303030303030303062c4066469676573749401c40180009001c2"
        "a09000949192a2696f02c3c394050ace00100000ab64726f702d6f6c6465737400cb403e00000000000090c0",
    ),
    "caller waits": (
        CallerWaits(ACTOR, True),
        "9332bd303031313232333334343535363637372d303030303030303030303062c3",
    ),
    "room": (
        Room(ACTOR, 5, 1000),
        "9433bd303031313232333334343535363637372d30303030303030303030306205cd03e8",
    ),
    "actor call that reads, in a group": (
        ActorCall(7, ACTOR, "get", SMALL, Envelope(chain=(Hop(ACTOR, OBJECT, "A.m"),), group="io", readonly=True)),
        "970c07bd303031313232333334343535363637372d303030303030303030303062a36765749401c401800090dc001100c0c0"
        "9193bd303031313232333334343535363637372d303030303030303030303062bd303031313232333334343535363637372d"
        "303030303030303030303061a3412e6dc2a0a001cd2710900000a2696fc30090c090",
    ),
    "reply": (
        Reply(7, SMALL),
        "9314079401c401800090",
    ),
    "reply with parts": (
        Reply(7, BIG),
        "9314079402c400039192bd303031313232333334343535363637372d303030303030303030303061a87564733a2f2f2f6f",
    ),
    "replies": (
        Replies(7, (SMALL, BIG)),
        "931507929401c4018000909402c400039192bd303031313232333334343535363637372d303030303030303030303061a875"
        "64733a2f2f2f6f",
    ),
    "failed": (
        Failed(7, b"failure"),
        "931607c4076661696c757265",
    ),
    "rejected": (
        Rejected(7, "expired"),
        "941707a765787069726564a0",
    ),
    "rejected with text": (
        Rejected(7, "actor died", "why"),
        "941707aa6163746f722064696564a3776879",
    ),
    "cancel": (
        Cancel(7),
        "941807c2c3",
    ),
    "stream item": (
        StreamItem(7, 300, SMALL),
        "951907cd012c9401c40180009000",
    ),
    "credit": (
        Credit(7, 8),
        "941a070800",
    ),
    "stream item held": (
        StreamItem(7, 300, SMALL, -5),
        "951907cd012c9401c401800090fb",
    ),
    "credit with size": (
        Credit(7, 8, 300),
        "941a0708cd012c",
    ),
    "stream next": (
        StreamNext(7, OBJECT, 3),
        "942207bd303031313232333334343535363637372d30303030303030303030306103",
    ),
    "stream close": (
        StreamClose(OBJECT),
        "9323bd303031313232333334343535363637372d303030303030303030303061c2",
    ),
    "stream close cancel": (
        StreamClose(OBJECT, True),
        "9323bd303031313232333334343535363637372d303030303030303030303061c3",
    ),
    "envelope of a stream": (
        TaskCall(7, b"c", SMALL, Envelope(window=16, window_bytes=2**20)),
        "960b07c401639401c401800090dc001100c0c090c2a0a001cd27109010ce00100000a0c20090c090",
    ),
    "taken": (
        Taken(7),
        "921b07",
    ),
    "borrow": (
        Borrow(7, OBJECT),
        "931e07bd303031313232333334343535363637372d303030303030303030303061",
    ),
    "release": (
        Release(OBJECT),
        "921fbd303031313232333334343535363637372d303030303030303030303061",
    ),
    "fetch": (
        Fetch(7, OBJECT, True),
        "952007bd303031313232333334343535363637372d303030303030303030303061c3a0",
    ),
    "fetch what was lost": (
        Fetch(7, OBJECT, True, "k-1"),
        "952007bd303031313232333334343535363637372d303030303030303030303061c3a36b2d31",
    ),
    "hand over": (
        HandOver(7, OBJECT, SMALL),
        "952607bd303031313232333334343535363637372d3030303030303030303030619401c401800090c400",
    ),
    "hand over a failure": (
        HandOver(7, OBJECT, failure=b"failure"),
        "952607bd303031313232333334343535363637372d303030303030303030303061c0c4076661696c757265",
    ),
    "exists": (
        Exists(7),
        "922107",
    ),
    "withdraw leases": (
        WithdrawLeases((7, 8)),
        "9268920708",
    ),
    "reclaim": (
        Reclaim(),
        "936990c2",
    ),
    "blocked": (
        Blocked(True),
        "926ac3",
    ),
    "ending": (
        Ending("stopped"),
        "922aa773746f70706564",
    ),
    "empty response": (
        Response(7),
        "952907c0a0a0",
    ),
    "failed response": (
        Response(7, None, "no room", "ActorliteError"),
        "952907c0a76e6f20726f6f6dae4163746f726c6974654572726f72",
    ),
    "register driver": (
        Request(7, RegisterDriver("job", "space", ("/a", "/b"), "/c")),
        "9328079664a36a6f62a5737061636592a22f61a22f62a22f63c2",
    ),
    "register worker": (
        Request(7, RegisterWorker()),
        "9328079165",
    ),
    "lease worker": (
        Request(7, LeaseWorker(9, 10_000, 0, "actor", "Counter")),
        "9328079c6609cd271000a56163746f72a7436f756e746572a0a0c090c2c0",
    ),
    "return lease": (
        Request(7, ReturnLease(3)),
        "932807946703c3c2",
    ),
    "return a lease that is not clean": (
        Request(7, ReturnLease(3, False)),
        "932807946703c2c2",
    ),
    "kill worker": (
        Request(7, KillWorker("0011223344556677")),
        "932807936bb030303131323233333434353536363737c2",
    ),
    "why died": (
        Request(7, WhyDied("0011223344556677")),
        "932807936cb030303131323233333434353536363737c2",
    ),
    "node status": (
        Request(7, NodeStatus()),
        "932807926dc2",
    ),
    "tell demand": (
        Request(7, TellDemand()),
        "93280791cc90",
    ),
    "stop node": (
        Request(7, StopNode()),
        "932807916e",
    ),
    "retire": (
        Request(7, Retire()),
        "932807926fc2",
    ),
    "stop actor": (
        Request(7, StopActor(ACTOR, False)),
        "9328079470bd303031313232333334343535363637372d303030303030303030303062c2c2",
    ),
    "resolve actor": (
        Request(7, ResolveActor(ACTOR)),
        "9328079571bd303031313232333334343535363637372d303030303030303030303062c3c0c2",
    ),
    "cancel by force": (
        Cancel(7, True, False),
        "941807c3c2",
    ),
    "cancel work": (
        Request(7, CancelWork(OBJECT, False, True)),
        "9328079473bd303031313232333334343535363637372d303030303030303030303061c2c3",
    ),
    "kill actor": (
        Request(7, KillActor(ACTOR)),
        "9328079472bd303031313232333334343535363637372d303030303030303030303062c2c3",
    ),
    "node info": (
        Response(7, NodeInfo(17, 20_000, "/tmp/s")),
        "952907967811cd4e20a62f746d702f730190a0a0",
    ),
    "lease": (
        Response(7, Lease(3, "0011223344556677", "uds:///w", 17)),
        "952907957903b030303131323233333434353536363737a87564733a2f2f2f7711a0a0",
    ),
    "death": (
        Response(7, Death(True, "killed", 17, True)),
        "952907957ac3a66b696c6c656411c3a0a0",
    ),
    "status": (
        Response(7, Status(17, "uds:///n", 20_000, 10_000, (("0011223344556677", 18, "task f"),), ("job",), 2)),
        "952907dc00147b11a87564733a2f2f2f6ecd4e20cd27109193b03030313132323333343435353636373712a67461736b2066"
        "91a36a6f62029090909090009090a0909090a0a0",
    ),
    "demand": (
        Response(7, Demand((((("CPU", 10_000),), 3),), (((("GPU", 90_000),), 1),))),
        "95290794cc9391929192a3435055cd27100391929192a3475055ce00015f900190a0a0",
    ),
    "yes": (
        Response(7, Yes(True)),
        "952907927cc3a0a0",
    ),
    "actor place": (
        Response(7, ActorPlace("0011223344556677", "uds:///w", 17)),
        "952907997db030303131323233333434353536363737a87564733a2f2f2f7711a0c2a0a000a0a0",
    ),
    "end actor": (
        EndActor(7, ACTOR),
        "931107bd303031313232333334343535363637372d303030303030303030303062",
    ),
    "actor ended": (
        ActorEnded(ACTOR, "it left", True),
        "9425bd303031313232333334343535363637372d303030303030303030303062a76974206c656674c3",
    ),
    "stop actor to restart it": (
        Request(7, StopActor(ACTOR, False, True)),
        "9328079470bd303031313232333334343535363637372d303030303030303030303062c2c3",
    ),
    "resolve a lost actor": (
        Request(7, ResolveActor(ACTOR, False, ME.process)),
        "9328079571bd303031313232333334343535363637372d303030303030303030303062c2b030303131323233333434353536363737c2",
    ),
    "terminate actor": (
        Request(7, KillActor(ACTOR, True, True)),
        "9328079472bd303031313232333334343535363637372d303030303030303030303062c3c3",
    ),
    "retire a worker": (
        Request(7, ReturnLease(3, False, True)),
        "932807946703c2c3",
    ),
    "place of a dead actor": (
        Response(7, ActorPlace("", "", 0, "it died", True)),
        "952907997da0a000a769742064696564c3a0a000a0a0",
    ),
    "seal objects": (
        SealObjects(("w-1", "w-2")),
        "923c92a3772d31a3772d32",
    ),
    "abandon object": (
        AbandonObject("w-1"),
        "923da3772d31",
    ),
    "claim objects": (
        ClaimObjects(("w-1",)),
        "933e91a3772d31a0",
    ),
    "free objects": (
        FreeObjects(("w-1",)),
        "933f91a3772d31a0",
    ),
    "close objects": (
        CloseObjects((("w-1", 2),)),
        "92409192a3772d3102",
    ),
    "reader lost": (
        ReaderLost("driver"),
        "9241a6647269766572",
    ),
    "pins wanted": (
        PinsWanted(),
        "9142",
    ),
    "attach store": (
        Request(1, AttachStore()),
        "93280191cc82",
    ),
    "create object": (
        Request(1, CreateObject("w-1", 100000, "driver", 60.0)),
        "93280196cc83a3772d31ce000186a0a6647269766572cb404e000000000000a0",
    ),
    "open object": (
        Request(1, OpenObject("w-1", 60.0)),
        "93280195cc84a3772d31cb404e00000000000000a0",
    ),
    "explain objects": (
        Request(1, ExplainObjects(("w-1",))),
        "93280193cc8691a3772d31a0",
    ),
    "explained": (
        Response(1, Explained((("w-1", "put", ("a reference here",)),))),
        "95290192cc8f9193a3772d31a370757491b061207265666572656e63652068657265a0a0",
    ),
    "hand over objects": (
        Request(7, HandOverObjects(("p", "q"), (("k-1", ("p",)),))),
        "93280793cc8992a170a1719192a36b2d3191a170",
    ),
    "heirs": (
        Response(7, Heirs(("p",))),
        "95290792cc9291a170a0a0",
    ),
    "list objects": (
        Request(1, ListObjects()),
        "93280192cc85c2",
    ),
    "store info": (
        Response(1, StoreInfo(1048576, "/tmp/x/store.ctl")),
        "95290193cc8cce00100000b02f746d702f782f73746f72652e63746ca0a0",
    ),
    "placed": (
        Response(1, Placed(4096)),
        "95290194cc8dcd1000a0a0a0a0",
    ),
    "objects": (
        Response(
            1,
            Objects(
                1048576,
                4096,
                0.5,
                0,
                1,
                (ListedObject("w-1", 4000, "driver", "in memory", (("driver", 1),)),),
                (("driver", "driver", 12),),
            ),
        ),
        "95290199cc8ece00100000cd1000cb3fe000000000000000019199a3772d31cd0fa0a6647269766572a9696e206d656d6f72"
        "799192a664726976657201a090a0c29193a6647269766572a66472697665720c00a0a0",
    ),
    "lease room": (
        Request(1, LeaseRoom("w-1")),
        "93280192cc8aa3772d31",
    ),
    "leased": (
        Response(1, Leased(4096, 8192)),
        "95290193cc94cd1000cd2000a0a0",
    ),
    "place objects": (
        PlaceObjects((("w-1", 4096, "w-s1", 100000, "driver"),)),
        "92459195a3772d31cd1000a4772d7331ce000186a0a6647269766572",
    ),
    "cancel request": (
        CancelRequest(7),
        "922b07",
    ),
    "node load": (
        NodeLoad(40_000, 10_000),
        "9a46cd9c40cd271090909090c29090",
    ),
    "process ended": (
        ProcessEnded("0011223344556677", "job-1"),
        "9347b030303131323233333434353536363737a56a6f622d31",
    ),
    "send chunk": (
        SendChunk(5, "w-1", 524288, 1000),
        "954805a3772d31ce00080000cd03e8",
    ),
    "chunk": (
        Chunk(5),
        "934905a0",
    ),
    "chunk refused": (
        Chunk(5, "not open"),
        "934905a86e6f74206f70656e",
    ),
    "capacity": (
        Capacity(80_000, 2),
        "944ace000138800290",
    ),
    "join node": (
        Request(1, JoinNode(NodeLoad(40_000, 10_000), "n-1")),
        "93280193cc879a46cd9c40cd271090909090c29090a36e2d31",
    ),
    "has object": (
        Request(1, HasObject("w-1")),
        "93280192cc88a3772d31",
    ),
    "drain a node": (
        Request(1, DrainNode(2.5, "0011223344556677")),
        "93280193cc8bcb4004000000000000b030303131323233333434353536363737",
    ),
    "drain a node at leisure": (
        Request(1, DrainNode()),
        "93280193cc8bc0a0",
    ),
    "node load of one that is drained": (
        NodeLoad(40_000, 10_000, draining=True),
        "9a46cd9c40cd271090909090c39090",
    ),
    "reclaim for a drain": (
        Reclaim((7,), True),
        "93699107c3",
    ),
    "known nodes": (
        Response(1, KnownNodes(NodeLoad(40_000, 10_000), ("uds:///n",))),
        "95290194cc919a46cd9c40cd271090909090c2909091a87564733a2f2f2f6ea0a0a0",
    ),
    "known nodes and their leader": (
        Response(1, KnownNodes(NodeLoad(40_000, 10_000), ("uds:///n",), "0011223344556677")),
        "95290194cc919a46cd9c40cd271090909090c2909091a87564733a2f2f2f6eb030303131323233333434353536363737a0a0",
    ),
    "claim a name": (
        Request(7, ClaimName("actor", "space", "hits", ACTOR, b"entry")),
        "93280797ccb4a56163746f72a57370616365a468697473bd303031313232333334343535363637372d303030303030303030"
        "303062c405656e747279a0",
    ),
    "claim a name for another process": (
        Request(7, ClaimName("actor", "space", "hits", ACTOR, b"entry", "0011223344556677")),
        "93280797ccb4a56163746f72a57370616365a468697473bd303031313232333334343535363637372d303030303030303030"
        "303062c405656e747279b030303131323233333434353536363737",
    ),
    "release a name": (
        Request(7, ReleaseName("actor", "space", "hits", ACTOR)),
        "93280795ccb5a56163746f72a57370616365a468697473bd303031313232333334343535363637372d303030303030303030303062",
    ),
    "find a name": (
        Request(7, FindName("actor", "space", "hits")),
        "93280794ccb6a56163746f72a57370616365a468697473",
    ),
    "list names": (
        Request(7, ListNames("actor", "space")),
        "93280793ccb7a56163746f72a57370616365",
    ),
    "create detached": (
        Request(7, CreateDetached(DETACHED)),
        "93280792ccb8dc0014bd303031313232333334343535363637372d303030303030303030303062a57370616365a468697473"
        "c405656e747279a7436f756e746572c4076f7074696f6e739400c404636f64659090a96d2e436f756e7465729401c4046172"
        "677391c4066275666665729192bd303031313232333334343535363637372d303030303030303030303061a87564733a2f2f"
        "2f6f9192009400c404736c6f74909091a22f61a22f63a36a6f62c3c302a4332e313296c2a0c290a3672d31009296a3672d31"
        "929192a3435055cd27109192a3475055cd1388a6535052454144a467616e67a26e73929192a47a6f6e65a16190c300",
    ),
    "name holder": (
        Response(7, NameHolder(ACTOR, b"entry", True)),
        "95290794ccbebd303031313232333334343535363637372d303030303030303030303062c405656e747279c3a0a0",
    ),
    "names": (
        Response(7, Names((("space", "hits"),))),
        "95290792ccbf9192a57370616365a468697473a0a0",
    ),
    "lease passed on": (
        Request(7, LeaseWorker(9, 10_000, 0, "task", "f", "n1", "p1", JobInfo("job-1", "ns", ("/a",), "/b", "n0"))),
        "9328079c6609cd271000a47461736ba166a26e31a2703195a56a6f622d31a26e7391a22f61a22f62a26e3090c2c0",
    ),
    "open object elsewhere": (
        Request(1, OpenObject("w-1", 60.0, 100000, "n1")),
        "93280195cc84a3772d31cb404e000000000000ce000186a0a26e31",
    ),
    "free elsewhere": (
        FreeObjects(("w-1",), "n1"),
        "933f91a3772d31a26e31",
    ),
    "lease in a bundle": (
        Request(7, LeaseWorker(9, 10_000, 0, "task", "f", place=Place(group="g-1", bundle=2))),
        "9328079c6609cd271000a47461736ba166a0a0c090c296c2a0c290a3672d3102",
    ),
    "lease by label": (
        Request(
            7,
            LeaseWorker(
                9, 10_000, 0, "task", "f", place=Place(True, "n1", True, ((("zone", "in(a)"),), (("b", "!c"),)))
            ),
        ),
        "9328079c6609cd271000a47461736ba166a0a0c090c296c3a26e31c3929192a47a6f6e65a5696e2861299192a162a22163a0ff",
    ),
    "task call in a group": (
        TaskCall(7, b"c", SMALL, Envelope(inside=InGroup(SHAPE, True))),
        "960b07c401639401c401800090dc001100c0c090c2a0a001cd2710900000a0c200909296a3672d31929192a3435055cd2710"
        "9192a3475055cd1388a6535052454144a467616e67a26e73929192a47a6f6e65a16190c390",
    ),
    "create group": (
        Request(7, CreateGroup(SHAPE, True, "job-1", "0011223344556677")),
        "93280795cc9696a3672d31929192a3435055cd27109192a3475055cd1388a6535052454144a467616e67a26e73929192a47a"
        "6f6e65a16190c3a56a6f622d31b030303131323233333434353536363737",
    ),
    "await group": (
        Request(7, AwaitGroup("g-1")),
        "93280792cc97a3672d31",
    ),
    "remove group": (
        Request(7, RemoveGroup("g-1")),
        "93280792cc98a3672d31",
    ),
    "describe groups": (
        Request(7, DescribeGroups("", "ns", "gang")),
        "93280794cc99a0a26e73a467616e67",
    ),
    "prepare bundles": (
        Request(7, PrepareBundles("g-1", 3, ((0, (("CPU", 10_000),)),))),
        "93280794cc9aa3672d31039192009192a3435055cd2710",
    ),
    "commit bundles": (
        Request(7, CommitBundles("g-1", 3)),
        "93280793cc9ba3672d3103",
    ),
    "return bundles": (
        Request(7, ReturnBundles("g-1", 3, True)),
        "93280794cc9ca3672d3103c3",
    ),
    "keep room": (
        KeepRoom("g-1", (("CPU", 10_000),)),
        "93cc9da3672d319192a3435055cd2710",
    ),
    "keep room, not any more": (
        KeepRoom("g-1"),
        "93cc9da3672d3190",
    ),
    "node load, waited for and in parts": (
        NodeLoad(40_000, 10_000, waited=(("CPU", 10_000),), devices=(5_000, 0)),
        "9a46cd9c40cd271090909090c29192a3435055cd271092cd138800",
    ),
    "node load, kept and lasting": (
        NodeLoad(40_000, 10_000, (), (), (("CPU", 10_000),), (("x", 5_000),)),
        "9a46cd9c40cd271090909192a3435055cd27109192a178cd1388c29090",
    ),
    "group": (
        Response(7, GroupInfo(SHAPE, "PENDING", "no room", ("n1", ""), True, ("PENDING",))),
        "95290797cca096a3672d31929192a3435055cd27109192a3475055cd1388a6535052454144a467616e67a26e73929192a47a"
        "6f6e65a16190a750454e44494e47a76e6f20726f6f6d92a26e31a0c391a750454e44494e47a0a0",
    ),
    "groups": (
        Response(7, Groups((GroupInfo(GroupShape("g-2", ()), "REMOVED"),))),
        "95290792cca19197cca096a3672d3290a45041434ba0a090a752454d4f564544a090c290a0a0",
    ),
    "bundles done": (
        Response(7, BundlesDone(NodeLoad(40_000, 10_000), "no room")),
        "95290793cca29a46cd9c40cd271090909090c29090a76e6f20726f6f6da0a0",
    ),
}
HANDSHAKE = ("hello", "challenge", "proof", "welcome", "refused")
VALUES = [message for message, _ in GOLDEN.values()]


@pytest.mark.parametrize("name", GOLDEN)
def test_bytes(name):
    message, golden = GOLDEN[name]
    assert encode(message).hex() == golden


@pytest.mark.parametrize("name", GOLDEN)
def test_round_trip(name):
    message, golden = GOLDEN[name]
    decoded = decode(memoryview(bytes.fromhex(golden)))
    assert decoded == message and type(decoded) is type(message)


def test_every_message_has_golden_bytes():
    bodies = {type(each.body) for each in VALUES if isinstance(each, Request | Response)}
    assert {type(each) for each in VALUES} == set(get_args(messages.Message))
    assert bodies - {type(None)} == {*get_args(messages.RequestBody), *get_args(messages.ResponseBody)}


def test_the_version_of_these_bytes():
    assert messages.PROTOCOL_VERSION == 1


def test_tags_are_never_shared():
    bodies = [*get_args(messages.RequestBody), *get_args(messages.ResponseBody)]
    tags = [each.__struct_config__.tag for each in [*get_args(messages.Message), *bodies]]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_message_that_was_cut_short_is_refused(name):
    whole = bytes.fromhex(GOLDEN[name][1])
    for size in range(len(whole)):
        with pytest.raises(DECODE_ERRORS):
            decode(whole[:size])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90",
        msgspec.msgpack.encode([99]),
        msgspec.msgpack.encode([-1, 7]),
        msgspec.msgpack.encode(["Reply", 7]),
        msgspec.msgpack.encode({"type": 24, "id": 7}),
        msgspec.msgpack.encode([24]),
        msgspec.msgpack.encode([24, "7"]),
        msgspec.msgpack.encode([24, 2**64 - 1]) + b"\x00",
        b"\x92\x2a\xa1\xff",
        b"\x93\x18\x07" + b"\x91" * 200_000 + b"\xc0",
        msgspec.msgpack.encode([40, 7, [99]]),
        msgspec.msgpack.encode([41, 7, [102, 9, 1, 1, "task", ""]]),
    ],
    ids=[
        "empty",
        "a reserved byte",
        "no tag",
        "an unknown tag",
        "a negative tag",
        "a tag of another type",
        "a map",
        "a field is missing",
        "a field of another type",
        "bytes behind the end",
        "text that is not UTF-8",
        "bottomless nesting",
        "an unknown body",
        "a request in a response",
    ],
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(DECODE_ERRORS):
        decode(data)


def test_fields_of_a_newer_peer_are_ignored():
    assert decode(msgspec.msgpack.encode([24, 7, False, True, "new"])) == Cancel(7)


def test_before_the_handshake_only_its_messages_are_decoded():
    for name, (message, golden) in GOLDEN.items():
        if name in HANDSHAKE:
            assert decode_handshake(bytes.fromhex(golden)) == message
        else:
            with pytest.raises(DECODE_ERRORS):
                decode_handshake(bytes.fromhex(golden))


def test_messages_are_values():
    with pytest.raises(AttributeError):
        Cancel(7).id = 8  # type: ignore[misc]
    assert Cancel(7) == Cancel(7) != Cancel(8)


def test_the_reasons_of_a_rejection_are_part_of_the_protocol():
    expected = {"handed back", "no such actor", "actor died", "cancelled", "expired", "bad request", "stopped"}
    expected |= {"stream ended", "mailbox full", "held", "cycle", "shed", "lost argument"}
    expected.add("interrupted")
    assert expected == REJECTIONS


def several(strategy):
    return st.lists(strategy, max_size=3).map(tuple)


ids = st.integers(0, 2**63 - 1)
texts = st.text(max_size=20)
addressed = st.tuples(texts, texts)
payloads = st.builds(
    Payload, st.integers(0, 9), st.binary(max_size=50), ids, st.lists(addressed, max_size=3).map(tuple)
)
hops = st.builds(Hop, texts, texts, texts)
envelopes = st.builds(
    Envelope,
    attempt=st.integers(0, 99),
    budget_s=st.none() | st.floats(0, 1e9),
    parent=st.none() | texts,
    chain=several(hops),
    structured=st.booleans(),
    trace=texts,
    name=texts,
    num_returns=st.integers(0, 9),
    group=texts,
    readonly=st.booleans(),
    execution=st.integers(0, 9),
)
slots = st.builds(Slot, ids | texts, st.none() | payloads, st.none() | addressed)
calls = st.builds(
    TaskCall, ids, st.binary(max_size=32), payloads, st.none() | envelopes, st.lists(slots, max_size=3).map(tuple)
)
answers = st.builds(Replies, ids, several(payloads))


@given(calls | answers)
@settings(max_examples=150, deadline=None)
def test_any_call_and_answer_round_trips(message):
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_a_message_or_refused(data):
    try:
        message = decode(data)
    except DECODE_ERRORS:
        return
    assert decode(encode(message)) == message


@given(st.sampled_from(sorted(GOLDEN)), st.data())
@settings(max_examples=300, deadline=None)
def test_a_flipped_byte_gives_a_message_or_is_refused(name, data):
    raw = bytearray.fromhex(GOLDEN[name][1])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        message = decode(raw)
    except DECODE_ERRORS:
        return
    assert type(message) in get_args(messages.Message)
