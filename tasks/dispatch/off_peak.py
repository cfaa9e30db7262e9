"""Computes the hours in which an off-peak lane takes submits. Pure.

Hours are a start and an end, in minutes after midnight, UTC. They span midnight if the end
is before the start, and the whole day if both are equal. Times are Unix seconds.
"""

import math

from tasks.dispatch.budget import DAY_S

Hours = tuple[int, int]


def open_s(hours: Hours, at: float, within_s: float) -> float:
    """How many of the next seconds are within the hours."""
    if math.isinf(within_s):
        return within_s
    since = _since(hours, at)
    return _opened(hours, since + within_s) - _opened(hours, since)


def wait_s(hours: Hours, at: float, opened_s: float = 0.0) -> float:
    """Seconds until the hours have been open for `opened_s` seconds, and are open."""
    since, length = _since(hours, at), _length(hours)
    days, rest = divmod(_opened(hours, since) + opened_s, length)
    return days * DAY_S + rest - since


def _opened(hours: Hours, since_s: float) -> float:
    """How many of the seconds since an opening were within the hours."""
    days, rest = divmod(since_s, DAY_S)
    length = _length(hours)
    return days * length + min(rest, length)


def _since(hours: Hours, at: float) -> float:
    return (at - hours[0] * 60) % DAY_S


def _length(hours: Hours) -> float:
    return (hours[1] - hours[0]) * 60 % DAY_S or DAY_S
