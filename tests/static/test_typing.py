"""The promise of the types: right uses are accepted, wrong ones are reported, by mypy --strict and by pyright."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
GOLDEN = [FOLDER / "declarations.py", FOLDER / "accepted_uses.py", FOLDER / "wrong" / "uses.py"]
MARK = "  # ERR: "

Findings = dict[tuple[str, int], str]


def expected() -> set[tuple[str, int]]:
    return {
        (path.name, number)
        for path in GOLDEN
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MARK in line
    }


def mypy() -> Findings:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-color-output", "--no-pretty", *map(str, GOLDEN)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    pattern = re.compile(r"^(?P<path>[^:]+):(?P<line>\d+): error: (?P<text>.*)$", re.MULTILINE)
    return {(Path(each["path"]).name, int(each["line"])): each["text"] for each in pattern.finditer(done.stdout)}


def pyright() -> Findings:
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(FOLDER)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1): each["message"]
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    }


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_right_uses_are_accepted_and_each_wrong_one_is_reported(checker: Callable[[], Findings]) -> None:
    pytest.importorskip(checker.__name__, reason="comes with the dev extra")
    found = checker()
    surprises = {place: text for place, text in found.items() if place not in expected()}
    assert not surprises
    assert expected() - set(found) == set()


def test_there_are_wrong_uses_of_everything() -> None:
    assert len(expected()) > 40
    assert {name for name, _ in expected()} == {"uses.py"}
