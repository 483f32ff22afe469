"""`actorlite start`, `stop` and `status`: the node daemon that the address `auto` attaches to.

Exit codes: 0 done, 1 not possible (already running, not running, did not start), 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from actorlite import shared_node
from actorlite.errors import ActorliteError
from actorlite.resources import MIN_STORE_BYTES

T = TypeVar("T")
WIDTH_WHEN_PIPED = 500

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
@click.option("--preload", multiple=True, metavar="MODULE", help="Import it once, for all workers. May be repeated.")
@click.option("--object-store-memory", type=click.IntRange(min=MIN_STORE_BYTES), help="Bytes for large values.")
@click.option(
    "--object-spilling-directory", metavar="PATH", help="Where values go that do not fit; empty: nothing is spilled."
)
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C; the node ends with this command.")
def start(
    address: str | None,
    num_cpus: float | None,
    preload: tuple[str, ...],
    object_store_memory: int | None,
    object_spilling_directory: str | None,
    foreground: bool,
) -> None:
    """Start a node daemon, which then runs until `actorlite stop`."""
    place = _place(address)
    wanted = shared_node.Wanted(num_cpus, preload, object_store_memory, object_spilling_directory)
    if foreground:
        reason = _run(_until_stopped(place, wanted))
        click.echo(f"node at {place.address} ended: {reason}")
    else:
        node = _run(shared_node.start(place, wanted))
        click.echo(f"node started: pid {node.pid}, address {node.address}, log {place.log}")
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
    """Show the node daemon, its workers and what is leased."""
    found = _run(shared_node.status(_place(address)))
    click.echo(f"node     pid {found['pid']}, address {found['address']}")
    click.echo(f"CPU      {found['num_cpus'] - found['free_cpus']:g} of {found['num_cpus']:g} leased")
    click.echo(f"waiting  {found['waiting']} lease requests")
    click.echo(f"jobs     {', '.join(found['jobs']) or 'none'}")
    for each in found["detached"]:
        click.echo(f"detached {each['name']} in namespace {each['namespace']}, {each['state']}")
    for text in found["not_restored"]:
        click.echo(f"lost     {text}")
    if not found["workers"]:
        click.echo("workers  none")
        return
    table = Table("worker", "pid", "used for", box=None, pad_edge=False)
    for worker in found["workers"]:
        table.add_row(worker["process"], str(worker["pid"]), worker["use"])
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


def _place(address: str | None) -> shared_node.Place:
    try:
        return shared_node.Place.at(address)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except (ActorliteError, PermissionError) as error:
        raise click.ClickException(str(error)) from error
