"""What the README and the documentation show is run, and prints what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A Python block, and the block of its output where one follows.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.M | re.S)
MAX_README_LINES = 15


def blocks(path: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(path.read_text())


def run(code: str, directory: Path) -> str:
    """Run a block as a program of its own: what it defines is in `__main__`, as for a reader who pastes it."""
    script = directory / "block.py"
    script.write_text(code)
    paths = [str(ROOT), str(ROOT / "transports"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_starts_with_a_short_program(tmp_path: Path) -> None:
    code, output = blocks(ROOT / "README.md")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= MAX_README_LINES
    assert output
    assert run(code, tmp_path) == output


DOCUMENTED = [
    pytest.param(code, output, id=f"{path.name}-{number}")
    for path in sorted(ROOT.glob("docs/*.md"))
    for number, (code, output) in enumerate(blocks(path), start=1)
]


@pytest.mark.parametrize(("code", "output"), DOCUMENTED)
def test_the_documentation_prints_what_it_says(code: str, output: str, tmp_path: Path) -> None:
    printed = run(code, tmp_path)
    assert not output or printed == output


def test_every_link_of_the_readme_and_the_documentation_leads_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
        if not (path.parent / target).exists()
    ]
    assert broken == []
