"""The benchmark driver runs, and says what it measured; no time is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MICRO = Path(__file__).parents[1] / "benchmarks" / "micro.py"


def test_two_rows_of_the_microbenchmark(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    argv = [sys.executable, str(MICRO), "--quick", "--rows", "import time$|1:1 actor calls sync", "--json", str(result)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(result.read_text())["rows"]
    assert [row["row"] for row in rows] == ["import time", "1:1 actor calls sync"]
    assert all(row["median"]["actorlite"] > 0 for row in rows)


def test_an_unknown_row_is_refused() -> None:
    done = subprocess.run([sys.executable, str(MICRO), "--rows", "no such row"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "no row matches" in done.stderr
