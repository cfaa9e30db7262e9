"""How a root stands, counted entry by entry: in memory is only what is not over.

What is settled of an attempt that is not in memory any more belongs to a lane that only
the entries before it tell: they are gone through once more, where there is such a one.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from manifests.lifecycle import (
    FREE,
    NEW,
    OVER,
    Accepted,
    Entry,
    History,
    Intended,
    Published,
    Risked,
    Settled,
    State,
)


@dataclass(slots=True)
class Share:
    """What one lane has done, in submits."""

    accepted: int = 0
    published: int = 0
    spent_usd: Decimal = FREE


@dataclass(slots=True)
class Standing:
    """What entries come to, added in their order."""

    lives: dict[str, History] = field(default_factory=dict[str, History])
    """Jobs that are not over."""
    lanes: defaultdict[str, Share] = field(default_factory=lambda: defaultdict(Share))
    risks: int = 0
    unplaced: dict[tuple[str, int], Decimal] = field(
        default_factory=dict[tuple[str, int], Decimal]
    )
    """What was settled of earlier attempts, by the job and which attempt it was: to be
    given to their lanes by `place`."""
    _over: Counter[State] = field(default_factory=Counter[State])
    _attempts: Counter[str] = field(default_factory=Counter[str])
    """Seen by `place`."""

    @property
    def states(self) -> Counter[State]:
        """Jobs by their state."""
        return self._over + Counter(past.state for past in self.lives.values())

    @property
    def spent_usd(self) -> Decimal:
        placed = (share.spent_usd for share in self.lanes.values())
        return sum(placed, sum(self.unplaced.values(), FREE))

    def add(self, entries: Iterable[Entry]) -> None:
        """Count these, which come after all that were added before."""
        for entry in entries:
            match entry.event:
                case Settled(attempt=attempt, usd=usd):
                    self._settle(entry, attempt, usd)
                case _:
                    self._count(entry)

    def place(self, entries: Iterable[Entry]) -> None:
        """Find the lanes of what is unplaced, in all entries from the first on."""
        of = {life for life, _ in self.unplaced}
        for entry in entries:
            if entry.job in of and isinstance(entry.event, Intended):
                self._attempts[entry.job] += 1
                attempt = entry.job, self._attempts[entry.job]
                usd = self.unplaced.pop(attempt, FREE)
                self.lanes[entry.event.lane].spent_usd += usd

    def _settle(self, entry: Entry, attempt: int, usd: Decimal) -> None:
        past = self.lives.get(entry.job)
        if past is not None:
            self.lives[entry.job] = past.after(entry)
        if past is not None and past.lane and past.attempts == attempt:
            self.lanes[past.lane].spent_usd += usd
        else:
            known = self.unplaced.get((entry.job, attempt), FREE)
            self.unplaced[entry.job, attempt] = known + usd

    def _count(self, entry: Entry) -> None:
        job, before = entry.job, self.lives.get(entry.job)
        past = (before or NEW).after(entry)
        more = past.spent_usd - (before or NEW).spent_usd
        share = self.lanes[past.lane or ""]
        share.accepted += isinstance(entry.event, Accepted)
        share.published += isinstance(entry.event, Published)
        share.spent_usd += more
        self.risks += isinstance(entry.event, Risked)
        if past.state in OVER:
            self.lives.pop(job, None)
            self._over[past.state] += 1
        else:
            self.lives[job] = past
