"""A provider's listing: all its pages, the period of a lost submit, and what it proves.

A listing may end early or return the last hundred jobs whatever is asked. So a missing
submit proves something only if our accepted submits near that time are all listed.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import httpx

from manifests.lifecycle import Ticket
from tasks.providers.protocol import Absent, Doubt, Exchange, Found, Unproven

T = TypeVar("T")

PAGES: Final = 100
"""The most pages that are read of a listing."""

PAGE: Final = 100
"""The most items of a page; some listings hold the newest 100 jobs only, whatever is asked."""

NEAR_S: Final = 450.0
"""Our submits within this time of a doubt must be listed beside it. It is half of
`CLOCKS_DIFFER_S`, so the period that is asked for contains them even if clocks differ."""

CLOCKS_DIFFER_S: Final = 900.0
"""The largest error of the submitting machine's clock: S3 refuses requests signed with a
larger one (RequestTimeTooSkewed, docs, read 2026-11)."""


def clock_ahead_s(response: httpx.Response, now: float) -> float:
    """Return how far our clock is ahead of the provider's by an answer's date; 0 without one."""
    try:
        date = parsedate_to_datetime(response.headers.get("date", ""))
    except ValueError:
        return 0.0
    return now - _timestamp(date)


def earliest(submitted_at: float, ahead_s: float) -> float:
    """Return the first moment, by the provider's clock, at which it can have accepted a submit."""
    return submitted_at - CLOCKS_DIFFER_S - max(0.0, ahead_s)


def latest(submitted_at: float, ahead_s: float) -> float:
    """Return the last moment at which it can have accepted the submit."""
    return submitted_at + CLOCKS_DIFFER_S + max(0.0, -ahead_s)


def missing(listed: AbstractSet[str], doubt: Doubt) -> Unproven | None:
    """Return why a listing does not cover the time of a doubt; None if nothing is missing."""
    left_out = doubt.near - listed
    if not left_out:
        return None
    return Unproven(
        f"the listing lacks {len(left_out):,} of our {len(doubt.near):,} accepted "
        f"submits near that time, such as {min(left_out)}"
    )


def absence(
    listed: AbstractSet[str], doubt: Doubt, reason: str, *, reaches_back: bool
) -> Absent | Unproven:
    """Return what a listing without the submit proves; `reason` says why it is absent.

    `reaches_back` says whether the listing has items from before the submit, or has all.
    """
    if unproven := missing(listed, doubt):
        return unproven
    if not (doubt.enclosed or reaches_back):
        return Unproven("the listing may be cut off: it has nothing from before")
    return Absent(reason)


def settled(
    provider: str,
    unknown: Sequence[tuple[str, T]],
    *,
    is_it: Callable[[T], bool],
    may_be: Callable[[T], bool],
    absent: Absent | Unproven,
) -> Found:
    """Return what a listing says about a submit, by its jobs that are not on record.

    `absent` is the answer if no job is the submit or may be it.
    """
    match [remote for remote, item in unknown if is_it(item)]:
        case [one] if one:
            return Ticket(provider, one)
        case []:
            return None if any(may_be(item) for _, item in unknown) else absent
        case _:
            return None


def to_date(at: float) -> str:
    """Return a moment in the form of a listing's parameters: whole seconds, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")[:-6] + "Z"


def from_date(text: str) -> float:
    """Return a moment from a listing; without a zone it is UTC."""
    return _timestamp(datetime.fromisoformat(text))


def _timestamp(moment: datetime) -> float:
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def all_items(
    first: httpx.Request,
    read: Callable[[httpx.Response], tuple[Sequence[T], httpx.Request | None]],
) -> Exchange[list[T] | None]:
    """Return the items of all pages; None if the listing does not end.

    `read` returns the items of a page, and the request for the next page if one is needed.
    """
    found: list[T] = []
    request: httpx.Request | None = first
    for _ in range(PAGES):
        items, request = read((yield request))
        found += items
        if request is None:
            return found
    return None
