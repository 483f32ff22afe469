from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from actorlite.errors import NodeStartError
from actorlite.node import detection
from actorlite.node.detection import Gpu, detect_cpus, detect_gpus, detect_memory, kind_of, resources_of, visible
from actorlite.resources import NodeResources

GPUS = [Gpu("0", "GPU-aaaa", "NVIDIA A100-SXM4-40GB"), Gpu("1", "GPU-bbbb", "Tesla T4")]
HOST = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "7:cpu,cpuacct:/docker/x\n5:memory:/docker/x\n0::/unified\n"}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "10000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "900000 100000\n", "sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "nonsense"}, 8),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            },
            8,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            4,
        ),
    ],
)
def test_cpus_by_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert detect_cpus(tree(tmp_path, files)) == cpus


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({}, HOST),
        (V2 | {"sys/fs/cgroup/a/b/memory.max": "max"}, HOST),
        (V2 | {"sys/fs/cgroup/a/b/memory.max": "1000000"}, 1000000),
        (V2 | {"sys/fs/cgroup/a/b/memory.max": "1000000", "sys/fs/cgroup/a/memory.max": "900000"}, 900000),
        (V1 | {"sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "2000000"}, 2000000),
        (V1 | {"sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": str(2**63 - 4096)}, HOST),
    ],
)
def test_memory_by_host_and_group(tmp_path: Path, files: dict[str, str], size: int) -> None:
    assert detect_memory(tree(tmp_path, files)) == size


@pytest.mark.parametrize(
    ("shown", "ids"),
    [
        (None, ["0", "1"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        ("0, 7, 1", ["0"]),
        ("GPU-bbbb", ["GPU-bbbb"]),
        ("MIG-1234", ["MIG-1234"]),
    ],
)
def test_devices_that_are_visible(shown: str | None, ids: list[str]) -> None:
    environ = {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
    assert [gpu.id for gpu in visible(GPUS, environ)] == ids


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("Tesla V100-PCIE-16GB", "V100"),
        ("Tesla T4", "T4"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 NVL", "H100"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 3090", "RTX-3090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA Graphics Device", ""),
        ("", ""),
    ],
)
def test_kinds_of_devices(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_what_is_told_goes_before_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "detect_gpus", lambda: GPUS)
    found, ids = resources_of(NodeResources(num_cpus=1.5, memory=10, resources={"x": 2}), 0, {})
    assert str(found) == "CPU: 1.5, GPU: 2, accelerator_type:A100: 1, accelerator_type:T4: 1, memory: 10, x: 2"
    assert ids == ("0", "1")
    found, ids = resources_of(NodeResources(num_cpus=0, num_gpus=1, memory=0), 0, {"CUDA_VISIBLE_DEVICES": "1"})
    assert str(found) == "GPU: 1, accelerator_type:T4: 1" and ids == ("1",)
    found, ids = resources_of(NodeResources(num_cpus=0, num_gpus=3, memory=0), 0, {}, look=False)
    assert str(found) == "GPU: 3" and ids == ("0", "1", "2")
    with pytest.raises(NodeStartError, match="num_gpus=2 is more than the 1"):
        resources_of(NodeResources(num_gpus=2), 0, {"CUDA_VISIBLE_DEVICES": "1"})


def test_memory_is_what_the_store_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "detect_memory", lambda: 1000)
    assert resources_of(NodeResources(num_gpus=0), 300, {})[0].to_floats()["memory"] == 700
    assert "memory" not in resources_of(NodeResources(num_gpus=0), 3000, {})[0].to_floats()


NVML = """
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(handle): return b"GPU-%d" % handle
def nvmlDeviceGetName(handle): return "Tesla T4"
"""


@pytest.fixture
def no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_host_without_gpus(no_program: Path) -> None:
    assert detect_gpus() == []


def test_gpus_by_nvml(no_program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (no_program / "pynvml.py").write_text(NVML)
    monkeypatch.syspath_prepend(str(no_program))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    assert detect_gpus() == [Gpu("0", "GPU-0", "Tesla T4"), Gpu("1", "GPU-1", "Tesla T4")]
    sys.modules.pop("pynvml", None)


def test_nvml_that_does_not_work_is_not_the_last_word(no_program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (no_program / "pynvml.py").write_text("raise OSError('no driver')")
    program = no_program / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-a, Tesla T4'\necho 'nonsense'\n")
    program.chmod(0o755)
    monkeypatch.syspath_prepend(str(no_program))
    assert detect_gpus() == [Gpu("0", "GPU-a", "Tesla T4")]
