"""Asking for the GPUs of a host: NVML, when a package `pynvml` can be imported, else `nvidia-smi`.

A module of its own because most hosts have none, and a daemon's start waits for what it imports.
"""

from __future__ import annotations

import logging
import subprocess
from importlib import import_module
from importlib.util import find_spec

logger = logging.getLogger("actorlite.node")

QUERY = ("--query-gpu=index,uuid,name", "--format=csv,noheader")
WITHIN_S = 10.0
"""How long `nvidia-smi` may take; it is slow where the driver is not kept loaded."""

Rows = list[tuple[str, str, str]]
"""Index, UUID and name of each device."""


def look(program: str) -> Rows:
    """`program` is the path of `nvidia-smi`; empty if there is none. A failure is logged, and means none."""
    found = _ask_nvml() if find_spec("pynvml") is not None else None
    return found if found is not None else _ask(program) if program else []


def _ask_nvml() -> Rows | None:
    """None when it does not work."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
        try:
            found = []
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
                found.append((str(index), _text(uuid), _text(name)))
            return found
        finally:
            nvml.nvmlShutdown()
    except Exception as error:  # whatever a foreign library raises: there may be no driver
        logger.debug("NVML cannot be asked: %r", error)
        return None


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _ask(program: str) -> Rows:
    try:
        done = subprocess.run(
            [program, *QUERY], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("GPUs are not looked for, since %s failed: %s", program, error)
        return []
    if done.returncode:
        logger.warning("GPUs are not looked for, since %s failed: %s", program, (done.stderr or done.stdout).strip())
        return []
    rows = [[part.strip() for part in line.split(",", 2)] for line in done.stdout.splitlines()]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3 and row[0].isdigit()]
