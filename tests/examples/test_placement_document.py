"""The program in docs/placement.md runs and prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import actorlite as al

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "placement.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)


def test_the_program_prints_what_it_says(tmp_path: Path) -> None:
    (program,) = [each for each in blocks() if "asyncio.run" in each]
    (expected,) = re.findall(r"# prints: (.*)", program)
    script = tmp_path / "program.py"
    script.write_text(program)
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == expected


def test_the_options_are_taken() -> None:
    @al.remote
    async def f() -> None: ...

    options = next(each for each in blocks() if "asyncio.run" not in each)
    exec(options, {"al": al, "f": f, "node": "0123456789abcdef"})  # noqa: S102
