"""Each row of docs/guarantees.md names a test that exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
DOCUMENT = TESTS.parent / "docs" / "guarantees.md"
COLUMNS = 5


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(each.name for each in ast.walk(tree) if isinstance(each, functions))


def rows() -> list[list[str]]:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "how a call ends"]


def test_every_row_names_a_test_that_exists() -> None:
    found = rows()
    assert len(found) > 50
    for row in found:
        assert len(row) == COLUMNS and all(row[:3]), row
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row[4])
        assert named, row
        for path, name in named:
            assert name in names_in(TESTS / path), f"{path}::{name}"
