"""The programs in docs/cluster.md run and print what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)


@pytest.mark.parametrize("program", PROGRAMS, ids=["daemons", "drain", "partitions"])
def test_the_program_prints_what_it_says(programs: Any, program: str) -> None:
    (expected,) = re.findall(r"# prints: (.*)", program)
    script = programs.directory / "program.py"
    script.write_text(program)
    try:
        done = programs.run(str(script))
    finally:
        script.unlink()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected.split(" | ")
