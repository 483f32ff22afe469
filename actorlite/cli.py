"""The command `actorlite`; where its extra is not installed, it says so."""

from __future__ import annotations

import sys

try:
    from actorlite.commands import commands
except ModuleNotFoundError as error:
    if error.name not in {"click", "rich"}:
        raise
    commands = None  # type: ignore[assignment]


def main() -> None:
    """Run the command line of this process; ends it with the command's exit code."""
    if commands is None:
        sys.exit("the command line needs click and rich; install them with: pip install 'actorlite[cli]'")
    commands(prog_name="actorlite")
