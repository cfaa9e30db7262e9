"""Times as people write and read them: `06:00` is the next time it is six on the clock."""

import math
import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

_ON_A_CLOCK: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_WITH_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}.*")


class Local(tzinfo):
    """This machine's time zone with its rules. `astimezone()` has the offset of one moment
    only, and is an hour off in a night in which clocks change.

    Within one zone Python subtracts wall-clock times: use `timestamp` for durations.
    """

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    def tzname(self, dt: datetime | None) -> str | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().tzname()

    def dst(self, dt: datetime | None) -> timedelta | None:
        del dt
        return None

    def fromutc(self, dt: datetime) -> datetime:
        there = dt.replace(tzinfo=UTC).astimezone()
        return there.replace(tzinfo=self)


def finish_by(text: str, now: datetime) -> datetime:
    """The moment of a text: `HH:MM` at its next occurrence, or ISO 8601 with a date.

    Without a zone it is in the zone of `now`.

    Raises:
        ValueError: it cannot be read, or it is past.
    """
    if on_a_clock := _ON_A_CLOCK.fullmatch(text):
        hour, minute = map(int, on_a_clock.groups())
        then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return then if then > now else then + timedelta(days=1)
    try:
        then = datetime.fromisoformat(text) if _WITH_DATE.fullmatch(text) else None
    except ValueError:
        then = None
    if then is None:
        raise ValueError(f"{text!r} is neither HH:MM nor like 2026-11-30T06:00")
    if then.tzinfo is None:
        then = then.replace(tzinfo=now.tzinfo)
    if then.timestamp() <= now.timestamp():
        raise ValueError(f"{text!r} is past: it is {now:%Y-%m-%d %H:%M}")
    return then


def moment(then: datetime, now: datetime) -> str:
    """`05:41`; on another day `Tue 05:41`, and a week away `1 Dec 05:41`."""
    there = then.astimezone(now.tzinfo)
    days = (there.date() - now.date()).days
    if days == 0:
        return f"{there:%H:%M}"
    return f"{there:%a %H:%M}" if 0 < days < 7 else f"{there.day} {there:%b %H:%M}"


def clock(seconds: float) -> str:
    """`4:05`, `1:02:07`: a time that has passed, as a stopwatch shows it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def utc(at: float) -> str:
    """Unix seconds as `2026-11-30 05:41:07+00:00`."""
    return datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds")


def span(seconds: float) -> str:
    """`45 s`, `12 min`, `1 h 40 min`, `3 d 2 h`: rounded up, for what is yet to come."""
    if (whole := math.ceil(seconds)) < 60:
        return f"{whole} s"
    minutes = math.ceil(seconds / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
