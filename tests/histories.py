"""Builders of ledger events, for every test that writes a job's history."""

from decimal import Decimal
from typing import Final

from manifests.lifecycle import Accepted, Entry, Event, Facts, Intended, Ticket

FACTS: Final = Facts(
    sha256="ab" * 32,
    bytes=1234,
    seconds=5.0625,
    fps=16.0,
    width=832,
    height=480,
    codec="h264",
    frames=81,
)
"""The facts of a published clip of five seconds."""

START: Final = 1_800_000_000.5
"""Unix seconds: 2027-01-15, 08:00:00.5 UTC."""

ACCEPTED: Final = Accepted(Ticket("wavespeed", "remote-1"))


def intended(
    usd: str | Decimal = "0.15",
    *,
    lane: str = "spicy",
    route: str = "wavespeed/wan-2.2-spicy",
    seed: int = 7,
    mark: str = "",
) -> Intended:
    """Return the record of a submit at this price."""
    return Intended(
        lane=lane, route=route, price_usd=Decimal(usd), seed=seed, mark=mark
    )


def ledger_entries(job: str, *events: Event, start: float = START) -> list[Entry]:
    """Return the entries of a job's events, a second apart."""
    return [Entry(job, start + n, event) for n, event in enumerate(events)]
