"""What a new session says of this process, and where its processes listen. Light: needed before anything starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from actorlite.ids import ProcessId

TOKEN_BYTES = 32

AddressMaker = Callable[[ProcessId, str], str]
"""Where a process of a role listens."""


def sockets_in(directory: Path | str) -> AddressMaker:
    return lambda process, role: f"uds://{directory}/{role[0]}-{process}.sock"


def own_sys_path() -> tuple[str, ...]:
    """Where this process finds modules, with the current directory spelled out."""
    return tuple(os.path.abspath(entry) for entry in sys.path)


def current_directory() -> str:
    """Empty when it was removed under us."""
    try:
        return os.getcwd()
    except OSError:
        return ""
