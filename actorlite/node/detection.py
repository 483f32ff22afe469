"""What a host has for tasks and actors: CPUs and memory as its control group and affinity allow, and GPUs.

GPUs are found through NVML, when a package `pynvml` can be imported, else by `nvidia-smi`, when that is on the path.
What `CUDA_VISIBLE_DEVICES` hides from the node is not its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from actorlite.errors import NodeStartError
from actorlite.loading import load
from actorlite.resources import (
    ACCELERATOR,
    CPU,
    GPU,
    MEMORY,
    UNITS_PER_ONE,
    NodeResources,
    ResourceSet,
    to_units,
)

VISIBLE = "CUDA_VISIBLE_DEVICES"
HIDDEN = frozenset({"", "-1", "none", "NoDevFiles", "void"})
"""Values of it that hide all devices."""
NVIDIA_SMI = "nvidia-smi"
LOOK = "actorlite.node.gpus:look"
NO_LIMIT_BYTES = 2**60
"""Control groups of version 1 say more than this for no limit."""
_VENDOR = r"\b(NVIDIA|Tesla|GeForce|Quadro|Graphics|Device)\b"
_BUILD = r"(?i)-(SXM|PCI|PG|NVL|\d+GB).*"

ROOT = Path("/")


class Gpu(Struct, frozen=True):
    id: str
    """As `CUDA_VISIBLE_DEVICES` names it."""
    uuid: str
    name: str


def resources_of(
    told: NodeResources, store_bytes: int, environ: Mapping[str, str], *, look: bool = True
) -> tuple[ResourceSet, tuple[str, ...]]:
    """What a node has, and the names of its devices. `store_bytes` of the memory are the object store's. Without `look`
    it has the GPUs that it is told of.

    Raises `NodeStartError` when these are more than it may see.
    """
    cpus = detect_cpus() if told.num_cpus is None else told.num_cpus
    gpus = visible(detect_gpus(), environ) if look and told.num_gpus != 0 else []
    names = [gpu.id for gpu in gpus] if told.num_gpus is None else _named(told.num_gpus, environ)
    memory = max(0, detect_memory() - store_bytes) if told.memory is None else told.memory
    units = {name: to_units(f"resources[{name!r}]", quantity) for name, quantity in told.resources.items()}
    units[CPU] = to_units("num_cpus", cpus)
    units[GPU] = len(names) * UNITS_PER_ONE
    units[MEMORY] = to_units("memory", memory)
    if names:
        for kind in {kind_of(gpu.name) for gpu in gpus} - {""}:
            units.setdefault(ACCELERATOR + kind, UNITS_PER_ONE)
    return ResourceSet(units), tuple(names)


def sets_threads(environ: Mapping[str, str]) -> bool:
    """Whether workers are to be told how many threads libraries may use: not when the user has said so himself."""
    return "OMP_NUM_THREADS" not in environ


# --- CPUs and memory


def detect_cpus(root: Path = ROOT) -> int:
    """CPUs that this process may run on, within the quota of its control groups; at least one."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [*_quotas_of_version_2(root), *_quotas_of_version_1(root)]
    return max(1, min([allowed, *(int(quota) for quota in quotas)]))


def detect_memory(root: Path = ROOT) -> int:
    """Bytes of the host, or of the control group."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [total]
    for group in _groups(root, ""):
        text = _read(group / "memory.max")
        if text.isdigit():
            limits.append(int(text))
    for group in _groups(root, "memory"):
        text = _read(group / "memory.limit_in_bytes")
        if text.isdigit() and int(text) < NO_LIMIT_BYTES:
            limits.append(int(text))
    return min(limits)


def _quotas_of_version_2(root: Path) -> Iterator[float]:
    for group in _groups(root, ""):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _quotas_of_version_1(root: Path) -> Iterator[float]:
    for group in _groups(root, "cpu"):
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The directories of the control groups that this process is in, from its own up to the root of what is seen.

    Without `controller` of version 2, which has one tree; else of version 1, which has one for each controller.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller not in names.split(",") or (number == "0") is bool(controller):
            continue
        base = root / "sys/fs/cgroup" / names
        below = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(below), -1, -1):
            yield base.joinpath(*below[:depth])


def _read(path: Path) -> str:
    """Empty when there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


# --- GPUs


def visible(found: Sequence[Gpu], environ: Mapping[str, str]) -> list[Gpu]:
    """Those that CUDA would show, in its order: it stops at the first name that it does not know."""
    names = _visible_names(environ)
    if names is None:
        return list(found)
    seen = []
    for name in names:
        match = next((gpu for gpu in found if gpu.id == name or len(name) > 3 and gpu.uuid.startswith(name)), None)
        if match is None and not name.startswith("MIG-"):
            break
        seen.append(Gpu(name, name, "") if match is None else Gpu(name, match.uuid, match.name))
    return seen


def _visible_names(environ: Mapping[str, str]) -> list[str] | None:
    text = environ.get(VISIBLE)
    if text is None:
        return None
    return [] if text.strip() in HIDDEN else [name.strip() for name in text.split(",")]


def _named(count: int, environ: Mapping[str, str]) -> list[str]:
    """The names of so many devices, wherever they come from."""
    names = _visible_names(environ)
    if names is None:
        return [str(index) for index in range(count)]
    if len(names) < count:
        raise NodeStartError(
            f"num_gpus={count} is more than the {len(names)} that {VISIBLE}={environ[VISIBLE]!r} shows: give fewer, or "
            "change the variable"
        )
    return names[:count]


def detect_gpus() -> list[Gpu]:
    """All of the host; none where nothing can tell. What asks is loaded only where there is something to ask."""
    program = _find(NVIDIA_SMI)
    if not program and find_spec("pynvml") is None:
        return []
    look: Callable[[str], list[tuple[str, str, str]]] = load(LOOK)
    return [Gpu(*each) for each in look(program)]


def _find(program: str) -> str:
    """On the path. Not by `shutil`, which makes a daemon start 3 ms later."""
    places = [f"{place}/{program}" for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if place]
    return next((path for path in places if os.access(path, os.X_OK) and os.path.isfile(path)), "")


def kind_of(name: str) -> str:
    """What `accelerator_type` calls a device: `"A100"` for `NVIDIA A100-SXM4-40GB`, `"RTX-3090"`; empty if unknown."""
    words = re.sub(_VENDOR, " ", name).split()
    if not words:
        return ""
    first = re.sub(_BUILD, "", words[0])
    return f"{first}-{words[1]}" if first in ("RTX", "GTX", "TITAN") and len(words) > 1 else first
