from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorlite.state.surplus import surplus


@pytest.mark.parametrize(
    ("idle", "most", "sizes", "most_bytes", "expected"),
    [
        (0, 0, [], 0, None),
        (2, 2, [5, 9], None, None),
        (3, 2, [5, 9, 7], None, 0),
        (3, 2, [5, 9, 7], 10, 0),
        (3, 3, [5, 9, 7], 20, 1),
        (3, 3, [5, 9, 7], 21, None),
        (3, 2, [], 0, None),  # too many, but none for long
        (1, 0, [5], None, 0),
        (1, 1, [5], 4, 0),
    ],
)
def test_who_ends(idle: int, most: int, sizes: list[int], most_bytes: int | None, expected: int | None) -> None:
    assert surplus(idle, most, sizes, most_bytes) == expected


@given(st.lists(st.integers(0, 100)), st.integers(0, 10), st.none() | st.integers(0, 300))
def test_in_the_end_all_limits_are_kept(sizes: list[int], most: int, most_bytes: int | None) -> None:
    while (found := surplus(len(sizes), most, sizes, most_bytes)) is not None:
        del sizes[found]
    assert len(sizes) <= most and (most_bytes is None or sum(sizes) <= most_bytes)
