from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from actorlite.errors import ConnectionLost, NodeDiedError, TaskUnschedulableError
from actorlite.ids import ProcessId
from actorlite.runtime.node_client import PLAIN, NodeClient
from actorlite.wire.messages import Request, decode
from actorlite.wire.requests import Lease, NodeInfo, ReturnLease, WithdrawLeases

pytestmark = pytest.mark.asyncio

LEASE = Lease(3, ProcessId("1" * 16), "uds:///w", 17)


class FakePeer:
    """Answers requests when the test says so."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[Any]] = []
        self.told: list[Any] = []

    async def request(self, id: int, body: Any) -> Any:
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    def tell(self, *parts: Any) -> None:
        self.told.append(decode(parts[0]))


def client() -> tuple[NodeClient, FakePeer]:
    peer = FakePeer()
    hub = SimpleNamespace(numbers=itertools.count(100))
    return NodeClient(hub, peer, NodeInfo(1, 10_000, "/tmp/s")), peer  # type: ignore[arg-type]


async def asked(node: NodeClient, peer: FakePeer) -> asyncio.Task[Lease | None]:
    task = asyncio.create_task(node.lease(7, PLAIN, "task", "f"))
    while not peer.answers:
        await asyncio.sleep(0)
    return task


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("answer", [LEASE, None])
async def test_a_lease_or_none_when_the_request_was_withdrawn(answer: Lease | None) -> None:
    node, peer = client()
    task = await asked(node, peer)
    peer.answers[0].set_result(answer)
    assert await task == answer
    assert peer.told == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [(ConnectionLost("gone"), NodeDiedError), (TaskUnschedulableError("no"), TaskUnschedulableError)],
)
async def test_a_lease_that_cannot_be_had(error: Exception, raised: type[Exception]) -> None:
    node, peer = client()
    task = await asked(node, peer)
    peer.answers[0].set_exception(error)
    with pytest.raises(raised):
        await task


@pytest.mark.parametrize("answer", [LEASE, None, ConnectionLost("gone")])
async def test_a_lease_that_is_granted_after_the_caller_gave_up_goes_back(answer: Any) -> None:
    node, peer = client()
    task = await asked(node, peer)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert peer.told == [WithdrawLeases((7,))]
    if isinstance(answer, Exception):
        peer.answers[0].set_exception(answer)
    else:
        peer.answers[0].set_result(answer)
    await settled()
    assert peer.told[1:] == ([Request(100, ReturnLease(3))] if answer is LEASE else [])


async def test_closing_waits_for_no_answer() -> None:
    node, peer = client()
    task = await asked(node, peer)
    task.cancel()
    await asyncio.wait([task])
    await node.aclose()
    assert peer.answers[0].cancelled()


async def test_a_node_that_is_gone_grants_nothing() -> None:
    node, peer = client()
    node.gone = "it was stopped"
    with pytest.raises(NodeDiedError, match="it was stopped"):
        await node.lease(7, PLAIN, "task", "f")
    assert peer.answers == []
