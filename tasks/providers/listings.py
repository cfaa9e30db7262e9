"""Finds a lost submit in a provider's listing: the moments to ask for, with clocks that differ."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

CLOCKS_DIFFER_S: Final = 900.0
"""How far the clock of the submitting machine may be wrong: stores that sign requests refuse
more (S3's RequestTimeTooSkewed, docs, read 2026-11)."""


def clock_ahead_s(response: httpx.Response, now: float) -> float:
    """How far our clock is ahead of the provider's, by an answer's date; 0 if it has none."""
    try:
        date = parsedate_to_datetime(response.headers.get("date", ""))
    except ValueError:
        return 0.0
    return now - _timestamp(date)


def earliest(submitted_at: float, ahead_s: float) -> float:
    """The first moment, by the provider's clock, at which a submit can have been accepted."""
    return submitted_at - CLOCKS_DIFFER_S - max(0.0, ahead_s)


def latest(submitted_at: float, ahead_s: float) -> float:
    """The last such moment."""
    return submitted_at + CLOCKS_DIFFER_S + max(0.0, -ahead_s)


def to_date(at: float) -> str:
    """A moment as listings are asked for it: whole seconds, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")[:-6] + "Z"


def from_date(text: str) -> float:
    """A moment as listings write it; UTC if no zone is named."""
    return _timestamp(datetime.fromisoformat(text))


def _timestamp(moment: datetime) -> float:
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
