"""A gang of workers on several nodes trains a model, with a parameter server among them.

    python examples/gang_training.py                        # on three nodes in this program's event loop
    python examples/gang_training.py --daemons              # on three node daemons, started here, and ended at the end
    python examples/gang_training.py --address auto         # on the cluster of a node that runs already

A placement group reserves a bundle on each of three nodes, all or none. The first bundle holds the parameter server and
a worker, each other one a worker. Each worker makes its own shard of the data where it is, and keeps it there. In each
step the server puts the weights into the object store once, each node fetches them once, and the workers answer with
gradients of their shards. The weights come out the same wherever all this runs.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import numpy.typing as npt

import actorlite as al
from actorlite.testing import cluster, daemons

Floats = npt.NDArray[np.float64]

WORKERS = 3
FEATURES = 20_000
"""So many that the weights and gradients lie in the object stores."""
ROWS = 32
"""Of each shard."""


def true_weights() -> Floats:
    return np.sin(np.arange(FEATURES))


class Worker(al.Actor, num_cpus=1):
    """Has one shard of the data."""

    def __init__(self, rank: int) -> None:
        random = np.random.default_rng(rank)
        # Rows of length about 1: a step of a fixed size converges on what the rows can tell.
        self.inputs: Floats = random.standard_normal((ROWS, FEATURES)) / np.sqrt(FEATURES)
        self.targets: Floats = self.inputs @ true_weights()

    @al.method
    def gradient(self, weights: Floats) -> tuple[float, Floats]:
        """The loss on this shard, and where it falls."""
        errors = self.inputs @ weights - self.targets
        gradient: Floats = self.inputs.T @ errors
        return float(errors @ errors), gradient

    @al.method
    def node(self) -> str:
        return al.runtime_context().node_id


class ParameterServer(al.Actor, num_cpus=1):
    """Has the weights, and leads the workers through the steps."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers
        self.weights: Floats = np.zeros(FEATURES)

    @al.method
    async def step(self, rate: float) -> float:
        """One step of gradient descent over all shards; the loss before it."""
        weights = await al.put(self.weights)
        # References: an answer is fetched from where it lies when it is read.
        answers = [worker.gradient.remote(al.arg(weights)) for worker in self.workers]
        losses = []
        gradient = np.zeros(FEATURES)
        for loss, part in await al.get(answers):
            losses.append(loss)
            gradient += part
        self.weights = self.weights - rate * gradient
        return sum(losses)

    @al.method
    def node(self) -> str:
        return al.runtime_context().node_id


async def train(steps: int) -> None:
    bundles = [{"CPU": 2.0 if rank == 0 else 1.0} for rank in range(WORKERS)]
    group = await al.placement_group(bundles, strategy="STRICT_SPREAD")
    await group.ready(timeout=30)
    inside = [al.PlacementGroupStrategy(group, rank) for rank in range(WORKERS)]
    workers = [Worker.options(scheduling_strategy=where).remote(rank) for rank, where in enumerate(inside)]
    server = ParameterServer.options(scheduling_strategy=inside[0]).remote(workers)

    nodes = [await worker.node() for worker in workers]
    print(f"{len(workers)} workers on {len(set(nodes))} nodes")
    print("the parameter server is beside the first worker:", await server.node() == nodes[0])
    for number in range(steps):
        loss = await server.step(0.5)
        if number % 5 == 0 or number == steps - 1:
            print(f"step {number}: loss {loss:.4f}")

    await al.remove_placement_group(group)
    print("the group is", (await group.state()).state)


@asynccontextmanager
async def somewhere(address: str | None, real: bool) -> AsyncIterator[None]:
    """A session on a cluster of three nodes, or on one that runs already."""
    if address is not None:
        async with al.init(address):
            yield
    elif real:
        async with daemons(nodes=WORKERS, num_cpus=2) as found, al.init(found.nodes[0].address):
            yield
    else:
        async with cluster(nodes=WORKERS, num_cpus=2):
            yield


async def main() -> None:
    parser = argparse.ArgumentParser(description="Data-parallel training by a gang of actors on three nodes")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--daemons", action="store_true", help="on three node daemons that are started for this")
    where.add_argument("--address", help='"auto" or "uds://...": a node of a cluster with 3 nodes of 2 CPUs each')
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    async with somewhere(options.address, options.daemons):
        await train(options.steps)


if __name__ == "__main__":
    asyncio.run(main())
