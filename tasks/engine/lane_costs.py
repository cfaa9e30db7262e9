"""What a run has bought, lane by lane: submits, what came of them, money and time."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from statistics import median
from typing import Final

from manifests.lifecycle import (
    FREE,
    Accepted,
    Discarded,
    Event,
    Forgotten,
    Generated,
    History,
    Intended,
    Published,
    Refused,
    Rejected,
)

LATEST: Final = 500
"""Clips whose times a median is of."""


@dataclass(slots=True)
class Counts:
    """What was bought on one lane, as a run says it of itself."""

    submits: int = 0
    accepted: int = 0
    clips: int = 0
    free: int = 0
    """Submits that came to nothing and were not charged."""
    lost: int = 0
    """Submits that were charged, and no good clip came of them."""
    usd: Decimal = FREE

    def add(self, other: "Counts", times: int) -> None:
        """So many times as much more was bought; less, where that is below 0."""
        for each in fields(Counts):
            more = times * getattr(other, each.name)
            setattr(self, each.name, getattr(self, each.name) + more)


@dataclass(slots=True)
class Line(Counts):
    """What was bought on one lane."""

    _took: deque[float] = field(default_factory=lambda: deque[float](maxlen=LATEST))

    @property
    def usd_a_clip(self) -> Decimal | None:
        """What a clip has cost, with what was paid for nothing."""
        return self.usd / self.clips if self.clips else None

    @property
    def median_s(self) -> float | None:
        """From a submit's acceptance to its clip."""
        return median(self._took) if self._took else None

    def count(self, event: Event, past: History, usd: Decimal) -> None:
        self.usd += usd
        match event:
            case Intended():
                self.submits += 1
            case Accepted():
                self.accepted += 1
            case Generated() if past.accepted_at and past.generated_at:
                self._took.append(past.generated_at - past.accepted_at)
            case Published():
                self.clips += 1
            case Refused() | Rejected(charged=False):
                self.free += 1
            case Rejected() | Discarded() | Forgotten():
                self.lost += 1
            case _:
                pass


@dataclass(slots=True)
class Bill:
    """The lines of a run."""

    lines: dict[str, Line] = field(default_factory=dict[str, Line])
    """By the lane's name, in the order of their first submits."""

    def count(self, event: Event, past: History, usd: Decimal) -> None:
        """One more event of what this run has bought, the history it made, and what that
        has added to the cost."""
        line = self.lines.setdefault(past.lane or "", Line())
        line.count(event, past, usd)

    def add(self, other: Mapping[str, Counts], times: int) -> None:
        """What another run bought, by lane: so many times as much more."""
        for lane, counts in other.items():
            self.lines.setdefault(lane, Line()).add(counts, times)

    def counts(self) -> dict[str, Counts]:
        """By lane: how it stands now."""
        told = {lane: Counts() for lane in self.lines}
        for lane, counts in told.items():
            counts.add(self.lines[lane], 1)
        return told

    def __iter__(self) -> Iterator[tuple[str, Line]]:
        return iter(self.lines.items())

    def __getitem__(self, lane: str) -> Line:
        return self.lines.get(lane) or Line()
