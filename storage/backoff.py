"""Exponential backoff, for every pause between tries in this repository."""

from collections.abc import Callable

_MOST_DOUBLINGS = 60


def backoff(
    attempt: int,
    first: float,
    most: float,
    *,
    jitter: Callable[[float, float], float] | None = None,
) -> float:
    """Seconds to wait after the `attempt`-th failure in a row, from 1.

    It is `first`, doubled after each further failure, and at most `most`. With `jitter`,
    such as `random.uniform`, it is a random time between 0 and that.
    """
    longest = min(most, first * 2 ** min(max(attempt - 1, 0), _MOST_DOUBLINGS))
    return longest if jitter is None else jitter(0.0, longest)
