"""Shared nodes, started and killed from the command line in a runtime root of a test's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def runtime_root(monkeypatch: pytest.MonkeyPatch, **modules: str) -> Iterator[Path]:
    """An empty directory that is the user's runtime root, with `modules` that programs can import. What still runs
    there at the end is stopped."""
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        monkeypatch.delenv("ACTORLITE_ADDRESS", raising=False)
        paths = [directory, str(ROOT), str(ROOT / "transports"), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        for name, text in modules.items():
            Path(directory, f"{name}.py").write_text(text)
        yield Path(directory)
        actorlite("stop")


def actorlite(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "actorlite", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def started(num_cpus: int = 4) -> int:
    """A node's pid."""
    result = actorlite("start", "--num-cpus", str(num_cpus))
    assert result.returncode == 0, result.stderr
    found = re.search(r"pid (\d+)", result.stdout)
    assert found
    return int(found[1])


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def user_directory(root: Path) -> Path:
    """Where the default node keeps what it leaves."""
    return root / f"actorlite-{os.getuid()}"
