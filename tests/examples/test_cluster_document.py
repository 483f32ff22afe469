"""The program in docs/cluster.md runs and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"


def test_the_program_prints_what_it_says(programs: Any) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    (expected,) = re.findall(r"# prints: (.*)", program)
    script = programs.directory / "program.py"
    script.write_text(program)
    try:
        done = programs.run(str(script))
    finally:
        script.unlink()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected.split(" | ")
