"""Values for the object store, and what tests say of them."""

from __future__ import annotations

import numpy
import numpy.typing

MiB = 1 << 20
Floats = numpy.typing.NDArray[numpy.float64]


def pattern(seed: int, mib: float = 1) -> Floats:
    """An array like no other: which bytes are there tells whose they are."""
    return numpy.arange(int(mib * MiB) // 8, dtype=float) + seed
