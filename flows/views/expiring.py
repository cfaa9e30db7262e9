"""Tables of clips at providers: by lane, their number, and when they expire."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from flows.views.terminal_table import aligned, terminal_table
from flows.views.times import local_zone, moment, span, utc
from manifests.accounting import Attempt
from manifests.catalogue import Route
from manifests.expiry import by_expiry
from manifests.lifecycle import FREE

NEXT: Final = 5
"""Clips that the table lists one by one."""

LISTED: Final = 1000
"""Clips that `--json` lists one by one."""

SOON_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip that is paid for, and is or will be at its provider."""

    job: str
    attempt: Attempt
    expires_at: float
    """The earliest time at which the provider may delete it."""

    @property
    def lane(self) -> str:
        return self.attempt.lane


def expiring(
    attempts: Mapping[str, Attempt], routes: Mapping[str, Route]
) -> list[Clip]:
    """The clips at providers among these attempts, by job; the first to expire first."""
    return [Clip(job, attempts[job], at) for at, job in by_expiry(attempts, routes)]


def plain(clips: Sequence[Clip]) -> dict[str, Any]:
    """For programs: every lane, and the clips that expire first."""
    return {
        "lanes": [
            {
                "lane": lane,
                "clips": len(group),
                "usd": float(_usd(group)),
                "expires_at": utc(group[0].expires_at),
            }
            for lane, group in _by_lane(clips)
        ],
        "clips": [
            {
                "job": clip.job,
                "lane": clip.lane,
                "state": str(clip.attempt.state),
                "price_usd": float(clip.attempt.cost_usd),
                "expires_at": utc(clip.expires_at),
            }
            for clip in clips[:LISTED]
        ],
    }


def lanes_table(clips: Sequence[Clip], now: float) -> Table:
    """Each lane's number of clips, their cost, and when the first of them expires."""
    table = terminal_table(
        "lane", "clips", "USD", "first expires", "", right=("clips", "USD")
    )
    lanes = [*_by_lane(clips)]
    prices = aligned(_usd(group) for _, group in lanes)
    for (lane, group), price in zip(lanes, prices, strict=True):
        when = _when(group[0], now)
        table.add_row(lane, f"{len(group):,}", price, *when)
    return table


def next_table(clips: Sequence[Clip], now: float) -> Table:
    """The clips that expire first."""
    table = terminal_table("job", "lane", "USD", "expires", "", right=("USD",))
    some = clips[:NEXT]
    prices = aligned(clip.attempt.cost_usd for clip in some)
    for clip, price in zip(some, prices, strict=True):
        table.add_row(clip.job, clip.lane, price, *_when(clip, now))
    return table


def _when(clip: Clip, now: float) -> tuple[str, Text]:
    """The time of expiry, and the time until then."""
    zone, left_s = local_zone(), clip.expires_at - now
    there, here = (datetime.fromtimestamp(at, zone) for at in (clip.expires_at, now))
    if left_s < 0:
        left = Text(f"expired {span(-left_s)} ago", "red")
    else:
        left = Text(f"in {span(left_s)}", "yellow" if left_s < SOON_S else "")
    return moment(there, here), left


def _by_lane(clips: Sequence[Clip]) -> Iterator[tuple[str, list[Clip]]]:
    found: dict[str, list[Clip]] = {}
    for clip in clips:
        found.setdefault(clip.lane, []).append(clip)
    yield from sorted(found.items())


def _usd(clips: Sequence[Clip]) -> Decimal:
    return sum((clip.attempt.cost_usd for clip in clips), FREE)
