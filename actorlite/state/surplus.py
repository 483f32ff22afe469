"""Which idle worker ends next."""

from __future__ import annotations

from collections.abc import Sequence


def surplus(idle: int, most: int, sizes: Sequence[int], most_bytes: int | None) -> int | None:
    """Of those that are idle for long, the place of the one that is to end; None when all may stay.

    `idle` workers are idle, `most` may be; `sizes` are the bytes of those that are idle for long, longest first, which
    together may have `most_bytes`. The one that is idle for longest ends when there are too many, the largest when they
    have too much.
    """
    if not sizes:
        return None
    if idle > most:
        return 0
    if most_bytes is None or sum(sizes) <= most_bytes:
        return None
    return max(range(len(sizes)), key=sizes.__getitem__)
