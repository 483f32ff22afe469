from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorlite.state.retries import Backoff, after_try, is_retried


@given(st.integers(0, 10**6), st.floats(0, 0.999), st.integers(0, 5))
def test_a_pause_is_bounded_and_the_first_ones_are_free(tries, luck, free):
    pause = Backoff(0.1, 5.0, free).delay_s(tries, luck)
    assert pause == 0 if tries <= free else 0.05 <= pause <= 5.0


def test_pauses_double_up_to_the_cap():
    backoff = Backoff(1.0, 6.0, 1)
    assert [backoff.delay_s(tries, 0.0) for tries in range(6)] == [0, 0, 0.5, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("error", "retry_on", "again"),
    [
        (ValueError(), True, True),
        (ValueError(), False, False),
        (ValueError(), (), False),
        (ValueError(), (KeyError, ValueError), True),
        (KeyError(), (LookupError,), True),
        (KeyError(), (ValueError,), False),
        (SystemExit(), True, False),
    ],
)
def test_which_exceptions(error, retry_on, again):
    assert is_retried(error, retry_on) is again


def test_the_budget():
    assert [after_try(left) for left in (-1, 3, 1, 0)] == [-1, 2, 0, 0]
