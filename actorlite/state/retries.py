"""When something is tried again, and after what pause. Pure: now and luck are given."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

RetryOn = bool | Sequence[type[BaseException]]
"""`retry_exceptions`: all, none, or those of these classes."""


class Backoff(Struct, frozen=True):
    """Pauses that double up to a cap; the first `free` tries need none."""

    first_s: float
    cap_s: float
    free: int = 0

    def delay_s(self, tries: int, luck: float) -> float:
        """The pause before the next try after `tries` in a row that failed; `luck` in [0, 1) spreads those who fail
        together over the upper half of the pause.
        """
        doubled = tries - self.free
        if doubled < 1:
            return 0.0
        # Bounded before it is raised: 2 to the power of a million is no float.
        whole = min(self.cap_s, self.first_s * 2.0 ** min(doubled - 1, 64))
        return whole * (0.5 + luck / 2)


def is_retried(error: BaseException, retry_on: RetryOn) -> bool:
    """Whether an error of user code is one to try again after."""
    if isinstance(retry_on, bool):
        return retry_on and isinstance(error, Exception)
    return isinstance(error, tuple(retry_on))


def after_try(left: int) -> int:
    """The tries left after one more; -1 is without end."""
    return left - 1 if left > 0 else left
