"""How much memory a node's store may take."""

from __future__ import annotations

import os

SHARE = 0.3
"""Of the memory of the host, or of the control group (Ray: 30 %)."""
AVAILABLE_SHARE = 0.8
"""At most this much of what is free when the node starts."""
SMALLEST_BYTES = 64 << 20


def default_capacity() -> int:
    """Bytes; what the host can back now."""
    total, available = _memory()
    for limit in _group_limits():
        total = min(total, limit)
    return max(int(min(total * SHARE, available * AVAILABLE_SHARE)), SMALLEST_BYTES)


def _memory() -> tuple[int, int]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return total, int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return total, total


def _group_limits() -> list[int]:
    """Of the control groups (version 2) that this process is in, from its own up to the root."""
    limits = []
    try:
        with open("/proc/self/cgroup", encoding="ascii") as lines:
            path = next((line.split("::", 1)[1].strip() for line in lines if line.startswith("0::")), "")
        while path and path != "/":
            try:
                with open(f"/sys/fs/cgroup{path}/memory.max", encoding="ascii") as file:
                    text = file.read().strip()
                if text.isdigit():
                    limits.append(int(text))
            except OSError:
                pass  # a group without the memory controller
            path = os.path.dirname(path)
    except OSError:
        pass  # no control groups
    return limits
