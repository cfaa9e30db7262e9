"""What came of a batch, in numbers that add up."""

from collections import Counter
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Final

from tasks.engine.stats import Why

REASONS: Final = 5
"""Reasons that a summary gives at most: each may be in other words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What came of a batch: states count rows, and add up to `rows`; money is this run's."""

    batch: str
    rows: int
    jobs: int
    published: int
    rejected: int
    """Rows that no provider will make, bad rows of the manifest among them."""
    in_doubt: int
    pending: int
    bought: int
    spent_usd: Decimal
    wall_s: float
    risked_usd: Decimal
    """What went into submitting again what was in doubt."""
    late: int
    """Jobs that could not be done by the deadline, as it looked at the start."""
    lanes_closed: dict[str, str]
    short_of: str | None
    """`lanes` or `budget`, where the run ended for want of it."""
    broken: dict[str, int]
    """Jobs on which our own code failed, by the reason: the `REASONS` most frequent."""
    fault: str | None
    """Why a lane buys no more, where our own code failed too often in a row."""

    @property
    def exit_code(self) -> int:
        if self.fault is not None:
            return 4
        if self.short_of is not None:
            return 3
        return 1 if self.pending or self.in_doubt else 0

    def plain(self) -> dict[str, Any]:
        """As JSON: money as a number, exact to the cent it was charged in."""
        return {
            **asdict(self),
            "spent_usd": float(self.spent_usd),
            "risked_usd": float(self.risked_usd),
            "wall_s": round(self.wall_s, 1),
        }

    def __str__(self) -> str:
        counts = {
            "clips": self.published,
            "refused": self.rejected,
            "in doubt": self.in_doubt,
            "pending": self.pending,
        }
        said = [f"{n:,} {what}" for what, n in counts.items() if n or what == "clips"]
        return f"{', '.join(said)}, {self.spent_usd:,.2f} USD"


def broken(jobs: Counter[str]) -> dict[str, int]:
    """The most frequent reasons for which our own code failed on jobs."""
    return dict(jobs.most_common(REASONS))


def short_of(rests: set[Why]) -> str | None:
    if Why.NO_LANE in rests:
        return "lanes"
    return "budget" if Why.BUDGET in rests else None
