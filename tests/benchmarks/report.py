"""What a run found: samples per row and peer, their medians and ratios, as a table and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from rows import LIMITS, Row

OURS = "actorlite"


@dataclass(slots=True)
class Results:
    """Every sample of a run, and the first error of each row and peer that failed."""

    peers: dict[str, str] = field(default_factory=dict)
    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    errors: dict[tuple[str, str], str] = field(default_factory=dict)

    def median(self, row: str, peer: str) -> float | None:
        samples = self.samples.get((row, peer))
        return statistics.median(samples) if samples else None

    def ratio(self, row: Row, peer: str) -> float | None:
        """How many times better actorlite is than the peer, whichever direction is better in this row."""
        ours, theirs = self.median(row.name, OURS), self.median(row.name, peer)
        if not ours or not theirs:
            return None
        return theirs / ours if row.lower_is_better else ours / theirs


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def _cell(results: Results, row: str, peer: str) -> str:
    if (row, peer) in results.errors:
        return "error"
    return _number(results.median(row, peer))


def _ratio_cell(results: Results, row: Row, peer: str) -> str:
    ratio = results.ratio(row, peer)
    if ratio is None:
        return "-"
    goal = row.goals.get(peer)
    if goal is None:
        return f"{ratio:.2f} x"
    return f"{ratio:.2f} x ({'ok' if ratio >= goal else 'MISSED'}: {goal:g})"


def table(results: Results, rows: Sequence[Row]) -> str:
    """One line per row: our median, then each peer's median and how many times better we are (goal in brackets)."""
    others = [peer for peer in results.peers if peer != OURS]
    head = ["row", "unit", OURS]
    for peer in others:
        head += [peer, f"against {peer}"]
    lines = [head]
    for row in rows:
        line = [row.name, row.unit, _cell(results, row.name, OURS)]
        for peer in others:
            line += [_cell(results, row.name, peer), _ratio_cell(results, row, peer)]
        if any(cell != "-" for cell in line[2:]):
            lines.append(line)
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    text = []
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        cells[:2] = [line[0].ljust(widths[0]), line[1].ljust(widths[1])]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def limits(results: Results) -> list[str]:
    """Goals between two rows of actorlite itself."""
    lines = []
    for limit in LIMITS:
        value, other = results.median(limit.name, OURS), results.median(limit.other, OURS)
        if value and other:
            verdict = "ok" if value / other <= limit.at_most else "MISSED"
            lines.append(f"{limit.name} / {limit.other}: {value / other:.2f} ({verdict}: at most {limit.at_most:g})")
    return lines


def failures(results: Results) -> list[str]:
    return [f"{peer}, {row}: {error}" for (row, peer), error in results.errors.items()]


def document(results: Results, rows: Sequence[Row]) -> dict[str, object]:
    """The run as one JSON document, samples included."""
    listed = []
    for row in rows:
        peers = [peer for peer in results.peers if (row.name, peer) in results.samples]
        listed.append(
            {
                "row": row.name,
                "unit": row.unit,
                "lower_is_better": row.lower_is_better,
                "samples": {peer: results.samples[row.name, peer] for peer in peers},
                "median": {peer: results.median(row.name, peer) for peer in peers},
                "ratio": {peer: ratio for peer in peers if peer != OURS and (ratio := results.ratio(row, peer))},
                "goal": row.goals,
            }
        )
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()}
    return {
        "machine": machine,
        "peers": results.peers,
        "rows": listed,
        "limits": limits(results),
        "errors": failures(results),
    }
