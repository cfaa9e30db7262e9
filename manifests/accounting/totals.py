"""Totals: jobs by state and attempts by lane, as sums over the attempts of a ledger."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from math import inf

from manifests.accounting.adjustments import Adjustments
from manifests.accounting.attempts import Attempt, Attempts, Outcome
from manifests.lifecycle import FREE, OVER, Entry, Intended, State


@dataclass(slots=True)
class LaneTotals:
    """A sum over attempts on one lane."""

    submits: int = 0
    accepted: int = 0
    clips: int = 0
    free: int = 0
    """Submits that brought no clip and were not charged."""
    lost: int = 0
    """Submits that were charged and brought no clip."""
    risked: int = 0
    """Submits in doubt whose owner had them submitted again."""
    usd: Decimal = FREE

    def count(self, attempt: Attempt, times: int = 1) -> None:
        """Add an attempt; with -1, take away one that was added."""
        self.submits += times
        self.usd += times * attempt.cost_usd
        if attempt.accepted_at is not None:
            self.accepted += times
        if attempt.ended_at is None:
            return
        if attempt.outcome is Outcome.PUBLISHED:
            self.clips += times
        elif attempt.outcome is Outcome.RISKED:
            self.risked += times
        elif attempt.charged:
            self.lost += times
        else:
            self.free += times

    def replace(self, before: Attempt | None, after: Attempt) -> None:
        """Count an attempt after an event, in place of the same attempt before it."""
        if before is not None:
            self.count(before, -1)
        self.count(after)

    def add(self, other: "LaneTotals", times: int = 1) -> None:
        """Add another sum; with -1, take away one that was added."""
        for each in fields(LaneTotals):
            more = times * getattr(other, each.name)
            setattr(self, each.name, getattr(self, each.name) + more)


@dataclass(slots=True)
class LedgerTotals:
    """The sums over a ledger whose entries are added in their order.

    In memory are only the jobs that are not over. The lane of an adjustment is found by
    a second pass over the entries: its attempt may have ended long before.
    """

    lanes: defaultdict[str, LaneTotals] = field(
        default_factory=lambda: defaultdict(LaneTotals)
    )
    counting_from: float = inf
    """The time (Unix seconds) from which `begun` counts."""
    begun: int = 0
    """Jobs whose first submit was intended at that time or later."""
    adjustments: Adjustments = field(default_factory=Adjustments)
    """Those whose lane is not known yet."""
    _attempts: Attempts = field(default_factory=Attempts)
    _over: Counter[State] = field(default_factory=Counter[State])
    _submits: Counter[str] = field(default_factory=Counter[str])
    """How many attempts of each adjusted job the second pass has seen."""

    @property
    def under_way(self) -> Mapping[str, Attempt]:
        """The attempts that have not ended, by job."""
        return self._attempts.under_way

    @property
    def states(self) -> Counter[State]:
        """Jobs by their state."""
        states = self._over + Counter(each.state for each in self.under_way.values())
        return states + Counter({State.PENDING: self._attempts.pending})

    @property
    def every_lane(self) -> LaneTotals:
        """The sum over all lanes, with the adjustments whose lane is not known yet."""
        total = LaneTotals()
        for lane in self.lanes.values():
            total.add(lane)
        for adjustment in self.adjustments.values():
            total.usd += adjustment.usd
        return total

    def add(self, entries: Iterable[Entry]) -> None:
        """Count entries that follow all that were added before."""
        for entry in entries:
            before = self.under_way.get(entry.job)
            after = self._attempts.add(entry)
            if after is None:
                self.adjustments.add(entry)
                continue
            self.lanes[after.lane].replace(before, after)
            if isinstance(entry.event, Intended) and after.number == 1:
                self.begun += entry.at >= self.counting_from
            if after.ended_at is not None and after.state in OVER:
                self._over[after.state] += 1

    def add_adjustments(self, entries: Iterable[Entry]) -> None:
        """Add the adjustments to their lanes, from all entries once more in their order."""
        jobs = {job for job, _ in self.adjustments}
        for entry in entries:
            if entry.job in jobs and isinstance(entry.event, Intended):
                self._submits[entry.job] += 1
                key = entry.job, self._submits[entry.job]
                if adjustment := self.adjustments.pop(key, None):
                    self.lanes[entry.event.lane].usd += adjustment.usd
