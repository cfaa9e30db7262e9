"""Times as people write and read them: `06:00` is the next time it is six on the clock."""

import logging
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Final, cast
from zoneinfo import ZoneInfoNotFoundError

from tzlocal import get_localzone

log = logging.getLogger(__name__)

_ON_A_CLOCK: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_WITH_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}.*")


def local_zone() -> tzinfo:
    """This machine's time zone, with its rules.

    If it has no name, as in some containers, it is the offset of today: a clock change is
    then not known.
    """
    try:
        return get_localzone()
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        log.warning(
            "time.no_zone the name of this machine's time zone is not known (%s); today's "
            "offset counts. Set TZ to a name like Europe/Berlin",
            exc,
        )
        return cast("tzinfo", datetime.now().astimezone().tzinfo)


def finish_by(text: str, now: datetime) -> datetime:
    """The moment of a text: `HH:MM` at its next occurrence, or ISO 8601 with a date.

    Without a zone it is in the zone of `now`. A time that comes twice, as the clocks are
    put back, is its first occurrence that is not past. A time that does not exist, as they
    are put forward, is taken with the offset before, as RFC 5545 has it (02:30 is 03:30).
    Both are logged as a warning.

    Raises:
        ValueError: it cannot be read, or it is past.
    """
    if on_a_clock := _ON_A_CLOCK.fullmatch(text):
        hour, minute = map(int, on_a_clock.groups())
        walls = [
            datetime.combine(now.date() + timedelta(days), time(hour, minute))
            for days in range(3)
        ]
    else:
        dated = _dated(text)
        if dated.tzinfo is not None:
            return _coming([dated], text, now)
        walls = [dated]
    zone = cast("tzinfo", now.tzinfo)
    then = _coming([one for wall in walls for one in _shown(wall, zone)], text, now)
    if remark := _remark(text, then, walls):
        log.warning("time.clock_change %s", remark)
    return then


def _dated(text: str) -> datetime:
    try:
        if _WITH_DATE.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f"{text!r} is neither HH:MM nor like 2026-11-30T06:00")


def _coming(moments: Iterable[datetime], text: str, now: datetime) -> datetime:
    """The first of these moments after now. Within a zone Python compares wall clocks."""
    for then in moments:
        if then.timestamp() > now.timestamp():
            return then
    raise ValueError(f"{text!r} is past: it is {now:%Y-%m-%d %H:%M}")


def _shown(wall: datetime, zone: tzinfo) -> list[datetime]:
    """The moments at which a clock of the zone shows this time, or else would show it."""
    first, second = (wall.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.timestamp() < second.timestamp():
        return [first, second]
    return [datetime.fromtimestamp(first.timestamp(), zone)]


def _remark(text: str, then: datetime, walls: Iterable[datetime]) -> str | None:
    """A sentence about a time that does not exist on its day, or exists twice."""
    day, meant = f"{then.day} {then:%b}", f"{then:%H:%M %Z} is meant"
    if then.replace(tzinfo=None) not in walls:
        return f"{text} does not exist on {day}, as the clocks are put forward: {meant}"
    if not _comes_twice(then):
        return None
    other = then.replace(fold=1 - then.fold).isoformat("T", "minutes")
    return (
        f"{text} comes twice on {day}, as the clocks are put back: {meant}; "
        f"the other one is {other}"
    )


def _comes_twice(then: datetime) -> bool:
    first, second = (then.replace(fold=fold).timestamp() for fold in (0, 1))
    return first < second


def moment(then: datetime, now: datetime) -> str:
    """`05:41`; on another day `Tue 05:41`, and a week away `1 Dec 05:41`.

    A time that comes twice, as the clocks are put back, has its zone: `02:30 CET`.
    """
    there = then.astimezone(now.tzinfo)
    days = (there.date() - now.date()).days
    shown = f"{there:%H:%M %Z}" if _comes_twice(there) else f"{there:%H:%M}"
    if days == 0:
        return shown
    return f"{there:%a} {shown}" if 0 < days < 7 else f"{there.day} {there:%b} {shown}"


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
