"""What a run has bought, lane by lane: submits, what came of them, money and time."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
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
class Line:
    """What was bought on one lane."""

    submits: int = 0
    accepted: int = 0
    clips: int = 0
    free: int = 0
    """Submits that came to nothing and were not charged."""
    lost: int = 0
    """Submits that were charged, and no good clip came of them."""
    usd: Decimal = FREE
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
            # One that its hedge has published was not made here.
            case Published() if past.generated_at is not None:
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

    def __iter__(self) -> Iterator[tuple[str, Line]]:
        return iter(self.lines.items())

    def __getitem__(self, lane: str) -> Line:
        return self.lines.get(lane) or Line()
