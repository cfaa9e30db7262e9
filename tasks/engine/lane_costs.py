"""Counts a run's purchases by lane: submits, their outcomes, money and time."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median
from typing import Final

from manifests.accounting import Attempt, LaneTotals, Outcome

LATEST: Final = 500
"""The number of latest clips that a median covers."""


@dataclass(slots=True)
class LaneBill(LaneTotals):
    """The purchases on one lane, with the times of its latest clips."""

    _took: deque[float] = field(default_factory=lambda: deque[float](maxlen=LATEST))

    @property
    def usd_a_clip(self) -> Decimal | None:
        """The average cost of a clip, including charges for failed submits."""
        return self.usd / self.clips if self.clips else None

    @property
    def median_s(self) -> float | None:
        """The median seconds from a submit's acceptance to its clip."""
        return median(self._took) if self._took else None

    def learn(self, attempt: Attempt) -> None:
        """Take note of how long a clip took, once it is generated."""
        began, ended = attempt.accepted_at, attempt.generated_at
        if began and ended:
            self._took.append(ended - began)


@dataclass(slots=True)
class Bill:
    """The purchases of a run, by lane."""

    lines: dict[str, LaneBill] = field(default_factory=dict[str, LaneBill])
    """By the lane's name, in the order of their first submits."""

    def replace(self, before: Attempt | None, after: Attempt) -> None:
        """Count an attempt of this run after an event, in place of the one before it."""
        line = self.lines.get(after.lane)
        if line is None:
            line = self.lines[after.lane] = LaneBill()
        line.replace(before, after)
        if after.outcome is Outcome.GENERATED:
            line.learn(after)

    def add(self, other: Mapping[str, LaneTotals], times: int) -> None:
        """Add another run's purchases by lane, multiplied by `times`."""
        for lane, counts in other.items():
            self.lines.setdefault(lane, LaneBill()).add(counts, times)

    def counts(self) -> dict[str, LaneTotals]:
        """The present counts, by lane."""
        counts = {lane: LaneTotals() for lane in self.lines}
        for lane, totals in counts.items():
            totals.add(self.lines[lane])
        return counts

    def __iter__(self) -> Iterator[tuple[str, LaneBill]]:
        return iter(self.lines.items())

    def __getitem__(self, lane: str) -> LaneBill:
        return self.lines.get(lane) or LaneBill()
