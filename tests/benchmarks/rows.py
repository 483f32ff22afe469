"""The rows: names, units, direction and the goals, in the order in which they run.

Rows that start sessions of their own come first, so that they do not share the machine with a session that the
later rows keep open. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PER_SECOND = "1/s"
GIGABYTES = "GB/s"

IMPORT = "import time"
IMPORT_LOADED = "import time of the core dependencies it loads"
IMPORT_CORE = "import time of all five core dependencies"
SESSION_START = "session start"
FIRST_ACTOR = "first actor ready"
TWENTY_ACTORS = "20 process actors ready"
TWENTY_MEMORY = "memory with 20 actors"
INPROC_SYNC = "in-process actor calls one at a time"
INPROC_ASYNC = "in-process actor calls pipelined"
GROUPS = "placement group create/removal"
"""As in Ray's benchmark: a hundred are asked for, waited for and removed; by us all at once."""
GROUPS_SYNC = "placement group create/removal one at a time"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `goals` maps a peer to how many times better than it actorlite wants to be."""

    name: str
    unit: str = PER_SECOND
    lower_is_better: bool = False
    goals: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limit:
    """A row of actorlite that may be at most `at_most` times another row of actorlite."""

    name: str
    other: str
    at_most: float


def _cost(name: str, unit: str, **goals: float) -> Row:
    return Row(name, unit, lower_is_better=True, goals=goals)


def _rate(name: str, unit: str = PER_SECOND, **goals: float) -> Row:
    return Row(name, unit, goals=goals)


ROWS = (
    _cost(IMPORT, "s"),
    _cost(IMPORT_LOADED, "s"),
    _cost(IMPORT_CORE, "s"),
    _cost(SESSION_START, "s", ray=20),
    _cost(FIRST_ACTOR, "s"),
    _cost(TWENTY_ACTORS, "s", ray=40),
    _cost(TWENTY_MEMORY, "MB", ray=8),
    _rate(INPROC_SYNC, xoscar=4),
    _rate(INPROC_ASYNC, xoscar=4),
    _rate("single client get calls (Plasma Store)", ray=20),
    _rate("single client put calls (Plasma Store)", ray=50),
    _rate("multi client put calls (Plasma Store)"),
    _rate("single client put gigabytes", GIGABYTES, ray=1.5),
    _rate("single client tasks and get batch", ray=8),
    _rate("multi client put gigabytes", GIGABYTES, ray=1),
    _rate("single client get object containing 10k refs", ray=5),
    _rate("single client wait 1k refs"),
    _rate("single client tasks sync", ray=8),
    _rate("single client tasks async", ray=8),
    _rate("multi client tasks async"),
    _rate("1:1 actor calls sync", ray=6),
    _rate("1:1 actor calls async", ray=12),
    _rate("1:1 actor calls concurrent", ray=12),
    _rate("1:1 structured actor calls sync"),
    _rate("1:n actor calls async"),
    _rate("n:n actor calls async"),
    _rate("n:n actor calls with arg async"),
    _rate("1:1 async-actor calls sync", ray=6),
    _rate("1:1 async-actor calls async", ray=12),
    _rate("1:1 async-actor calls concurrent"),
    _rate("1:1 structured async-actor calls sync"),
    _rate("1:1 async-actor calls with args async", ray=12),
    _rate("1:n async-actor calls async"),
    _rate("n:n async-actor calls async"),
    _rate("1:1 inline calls sync"),
    _rate("1:1 inline calls async"),
    _rate(GROUPS, ray=20),
    _rate(GROUPS_SYNC),
)

LIMITS = (Limit(IMPORT, IMPORT_LOADED, 1.5),)
