"""GPUs as worker processes see them; a fake `nvidia-smi` says what the host has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import actorlite as al
from actorlite.errors import NodeStartError

pytestmark = pytest.mark.asyncio

FAKE = """#!/bin/sh
echo "0, GPU-aaaa, NVIDIA A100-SXM4-40GB"
echo "1, GPU-bbbb, NVIDIA A100-SXM4-40GB"
"""


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    program = tmp_path / "nvidia-smi"
    program.write_text(FAKE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield program


@al.remote
def seen() -> tuple[int, str | None, str | None, list[str]]:
    environ = os.environ
    gpus = al.runtime_context().accelerator_ids()["GPU"]
    return os.getpid(), environ.get("CUDA_VISIBLE_DEVICES"), environ.get("OMP_NUM_THREADS"), gpus


class Looker(al.Actor):
    async def seen(self) -> tuple[str | None, str | None]:
        return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")


async def test_a_worker_sees_its_devices_only(two_gpus: Path) -> None:
    async with al.init("local", num_cpus=4) as session:
        status = await session.status()
        assert status["resources"]["GPU"] == 2.0
        assert status["resources"]["accelerator_type:A100"] == 1.0
        assert status["labels"]["actorlite.io/accelerator-type"] == "A100"
        assert (await seen())[1:] == (None, "1", []), "without GPUs the variable is left alone"
        assert (await seen.options(num_gpus=1)())[1:] == ("0", "1", ["0"])
        assert (await seen.options(num_gpus=2, accelerator_type="A100")())[1:] == ("0,1", "1", ["0", "1"])
        assert (await seen.options(num_cpus=3)())[1:] == (None, "3", [])
        shared = [Looker.options(num_gpus=0.5, num_cpus=0).remote() for _ in range(2)]
        whole = Looker.options(num_gpus=1, num_cpus=2).remote()
        assert [await each.seen() for each in shared] == [("0", "1")] * 2
        assert await whole.seen() == ("1", "2")


async def test_a_device_is_given_on_when_its_process_is_gone(two_gpus: Path) -> None:
    async with al.init("local", num_cpus=2) as session:
        first = (await seen.options(num_gpus=2)())[0]
        second = (await seen.options(num_gpus=2, num_cpus=2)())[0]
        assert first != second
        assert not Path(f"/proc/{first}").exists() or Path(f"/proc/{first}/stat").read_text().split()[2] == "Z"
        assert (await session.status())["num_cpus"] == 2.0


async def test_devices_that_the_node_does_not_see_are_not_its_own(
    two_gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bbbb")
    async with al.init("local", num_cpus=1) as session:
        assert (await session.status())["resources"]["GPU"] == 1.0
        assert (await seen.options(num_gpus=1)())[1] == "GPU-bbbb"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    async with al.init("local", num_cpus=1) as session:
        assert "GPU" not in (await session.status())["resources"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(NodeStartError, match=r"num_gpus=2 is more than the 1 that CUDA_VISIBLE_DEVICES='1' shows"):
        await al.init("local", num_cpus=1, num_gpus=2)


async def test_threads_that_the_user_chose_are_left_alone(two_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    async with al.init("local", num_cpus=4, num_gpus=0) as session:
        assert (await seen())[2] == "7"
        assert (await seen.options(num_cpus=3)())[2] == "7"
        assert "GPU" not in (await session.status())["resources"]


async def test_a_broken_nvidia_smi_means_no_gpus(two_gpus: Path) -> None:
    two_gpus.write_text("#!/bin/sh\necho 'no driver' >&2; exit 9\n")
    async with al.init("local", num_cpus=1) as session:
        assert "GPU" not in (await session.status())["resources"]
