"""`actorlite start`, `stop` and `status`: the node daemon that the address `auto` attaches to.

Exit codes: 0 done, 1 not possible (already running, not running, did not start), 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from actorlite import shared_node
from actorlite.errors import ActorliteError
from actorlite.resources import CPU, MEMORY, MIN_STORE_BYTES, NodeResources, check_node

T = TypeVar("T")
WIDTH_WHEN_PIPED = 500


class JsonObject(click.ParamType):  # type: ignore[type-arg]
    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            found = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)
        if not isinstance(found, dict):
            self.fail(f"{value!r} is not a JSON object: write {{...}}", param, ctx)
        return found


address_option = click.option(
    "--address",
    metavar="uds:///PATH",
    help="Where the node listens. Default: ACTORLITE_ADDRESS if that is such an address, else this user's own place.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="actorlite")
def commands() -> None:
    """A node daemon for this machine, shared by all sessions that attach to it with al.init("auto")."""


@commands.command()
@address_option
@click.option("--num-cpus", type=click.FloatRange(min=0), help="What tasks and actors may use. Default: all there are.")
@click.option("--num-gpus", type=click.IntRange(min=0), help="Default: those that are found and visible.")
@click.option("--memory", type=click.IntRange(min=0), help="Bytes for tasks and actors that ask for some.")
@click.option("--resources", type=JsonObject(), metavar="JSON", help="Your own resources, such as '{\"disk\": 2}'.")
@click.option("--labels", type=JsonObject(), metavar="JSON", help='What the node is like, such as \'{"zone": "a"}\'.')
@click.option("--max-workers", type=click.IntRange(min=1), help="Worker processes at a time. Default: no limit.")
@click.option(
    "--idle-workers", type=click.IntRange(min=0), help="Workers kept with nothing to do. Default: one per CPU."
)
@click.option("--preload", multiple=True, metavar="MODULE", help="Import it once, for all workers. May be repeated.")
@click.option("--object-store-memory", type=click.IntRange(min=MIN_STORE_BYTES), help="Bytes for large values.")
@click.option(
    "--object-spilling-directory", metavar="PATH", help="Where values go that do not fit; empty: nothing is spilled."
)
@click.option(
    "--join",
    metavar="uds:///PATH",
    help="Become a node of the cluster of the node there; auto: of this user's own one.",
)
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C; the node ends with this command.")
def start(
    address: str | None,
    preload: tuple[str, ...],
    object_store_memory: int | None,
    object_spilling_directory: str | None,
    join: str | None,
    foreground: bool,
    **told: Any,
) -> None:
    """Start a node daemon, which then runs until `actorlite stop`."""
    place = _place(address)
    to_join = _to_join(join, place)
    wanted = shared_node.Wanted(_resources(told), preload, object_store_memory, object_spilling_directory, to_join)
    if foreground:
        reason = _run(_until_stopped(place, wanted))
        click.echo(f"node at {place.address} ended: {reason}")
    else:
        node = _run(shared_node.start(place, wanted))
        click.echo(f"node started: pid {node.pid}, address {node.address}, log {place.log}")
        if to_join:
            click.echo(f"it has joined the cluster of the node at {to_join}")
        address, option = ("auto", "") if place.is_default else (node.address, f" --address {node.address}")
        click.echo(f'attach with al.init("{address}"), end with actorlite stop{option}')


@commands.command()
@address_option
def stop(address: str | None) -> None:
    """Stop the node daemon and its workers; returns when they are gone."""
    place = _place(address)
    node = _run(shared_node.stop(place))
    click.echo(f"node stopped: pid {node.pid}, address {node.address}")


@commands.command()
@address_option
def status(address: str | None) -> None:
    """Show the node daemon, its workers and what is leased, and the other nodes of its cluster."""
    found = _run(shared_node.status(_place(address)))
    click.echo(f"node     pid {found['pid']}, address {found['address']}")
    click.echo(f"CPU      {found['num_cpus'] - found['free_cpus']:g} of {found['num_cpus']:g} leased")
    for name, total in found["resources"].items():
        if name != CPU:
            part, unit = (2**30, " GiB") if name == MEMORY else (1, "")
            click.echo(f"{name:8} {(total - found['free'][name]) / part:g} of {total / part:.4g}{unit} leased")
    if found["labels"]:
        click.echo(f"labels   {', '.join(f'{name}={value}' for name, value in found['labels'].items())}")
    click.echo(f"waiting  {found['waiting']} lease requests")
    _show_demand(found)
    click.echo(f"jobs     {', '.join(found['jobs']) or 'none'}")
    for each in found["detached"]:
        click.echo(f"detached {each['name']} in namespace {each['namespace']}, {each['state']}")
    for each in found["detached_groups"]:
        why = f": {each['reason']}" if each["reason"] else ""
        click.echo(f"group    {each['name'] or each['id']} in namespace {each['namespace']}, {each['state']}{why}")
    for text in found["not_restored"]:
        click.echo(f"lost     {text}")
    _show_nodes(found["nodes"])
    if not found["workers"]:
        click.echo("workers  none")
        return
    table = Table("worker", "pid", "used for", box=None, pad_edge=False)
    for worker in found["workers"]:
        table.add_row(worker["process"], str(worker["pid"]), worker["use"])
    _print(table)


def _show_demand(found: dict[str, Any]) -> None:
    """What waits on any node, and which have not told."""
    lines = [
        f"{each['count']} x {_quantities(each['resources'])}{'' if each['feasible'] else ', which no node has'}"
        for each in found["demand"]
    ]
    for each in found["pending_groups"]:
        bundles = [_quantities(bundle["resources"]) for bundle in each["bundles"] if bundle["node"] is None]
        lines.append(f"group {each['name'] or each['id']}, {each['strategy']}: {'; '.join(bundles)}")
    lines += [f"what waits on node {node} is not known: it has not answered" for node in found["silent"]]
    if not any(each["leads"] for each in found["nodes"]):
        lines.append("which placement groups wait is not known: no node leads")
    for index, line in enumerate(lines):
        click.echo(f"{'' if index else 'demand':8} {line}")


def _quantities(resources: dict[str, float]) -> str:
    return ", ".join(f"{name}: {quantity:g}" for name, quantity in resources.items()) or "nothing"


def _show_nodes(nodes: list[dict[str, Any]]) -> None:
    """All of the cluster, this one first; nothing where there is one."""
    if len(nodes) < 2:
        return
    table = Table("node", "pid", "CPU leased", "address", "", box=None, pad_edge=False)
    for each in nodes:
        total = each["resources"].get(CPU, 0.0)
        leased = f"{total - each['free'].get(CPU, 0.0):g} of {total:g}"
        table.add_row(each["node"], str(each["pid"]), leased, each["address"], _role(each))
    _print(table)


def _role(node: dict[str, Any]) -> str:
    return "leads" if node["leads"] else "leaves" if node["draining"] else ""


def _print(table: Table) -> None:
    # Piped into another program, a line stays a line.
    Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_WHEN_PIPED).print(table)


async def _until_stopped(place: shared_node.Place, wanted: shared_node.Wanted) -> str:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    async with shared_node.running(place, wanted) as node:
        click.echo(f"node runs: pid {node.pid}, address {node.address}; Ctrl-C ends it")
        return await node.ended_or(asked)


def _resources(told: dict[str, Any]) -> NodeResources:
    node = NodeResources(**{name: value for name, value in told.items() if value is not None})
    try:
        check_node(node)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    return node


def _place(address: str | None) -> shared_node.Place:
    try:
        return shared_node.Place.at(address)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _to_join(join: str | None, place: shared_node.Place) -> str:
    if join is None:
        return ""
    found = _place(join).address
    if found == place.address:
        raise click.UsageError(f"--join {join}: the new node itself has that address; give it another with --address")
    return found


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except (ActorliteError, PermissionError) as error:
        raise click.ClickException(str(error)) from error
