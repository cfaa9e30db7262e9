"""What a run has bought, lane by lane: submits, what came of them, money and time."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median
from typing import Final

from manifests.accounting.attempts import Attempt, Outcome
from manifests.accounting.totals import LaneTotals

LATEST: Final = 500
"""Clips whose times a median is of."""


@dataclass(slots=True)
class Line(LaneTotals):
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

    def learn(self, attempt: Attempt) -> None:
        """Take note of how long a clip took, once it is generated."""
        began, ended = attempt.accepted_at, attempt.generated_at
        if began and ended:
            self._took.append(ended - began)


@dataclass(slots=True)
class Bill:
    """The lines of a run."""

    lines: dict[str, Line] = field(default_factory=dict[str, Line])
    """By the lane's name, in the order of their first submits."""

    def replace(self, before: Attempt | None, after: Attempt) -> None:
        """Count an attempt of this run after an event, in place of the one before it."""
        line = self.lines.get(after.lane)
        if line is None:
            line = self.lines[after.lane] = Line()
        line.replace(before, after)
        if after.outcome is Outcome.GENERATED:
            line.learn(after)

    def add(self, other: Mapping[str, LaneTotals], times: int) -> None:
        """What another run bought, by lane: so many times as much more."""
        for lane, counts in other.items():
            self.lines.setdefault(lane, Line()).add(counts, times)

    def counts(self) -> dict[str, LaneTotals]:
        """By lane: how it stands now."""
        counts = {lane: LaneTotals() for lane in self.lines}
        for lane, totals in counts.items():
            totals.add(self.lines[lane])
        return counts

    def __iter__(self) -> Iterator[tuple[str, Line]]:
        return iter(self.lines.items())

    def __getitem__(self, lane: str) -> Line:
        return self.lines.get(lane) or Line()
