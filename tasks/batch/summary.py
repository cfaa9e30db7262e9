"""The result of a batch: counts that add up, money, and the exit code."""

from collections import Counter
from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import IntEnum
from typing import Any, Final

from tasks.engine.stats import WaitReason

REASONS: Final = 5
"""The most reasons in a summary, since each job may have a different one."""


class ExitCode(IntEnum):
    """The exit codes of `nightreel run`; docs/reference/exit-codes.md has them too."""

    DONE = 0
    """Every row is published, rejected or unplayable, and not too many are rejected."""
    UNFINISHED = 1
    """Some rows are pending or in doubt, or the store failed. Run it again, or settle the
    doubts."""
    BAD_INPUT = 2
    """The manifest, the configuration or the usage is wrong, or another run holds the root.
    Nothing was bought."""
    EXHAUSTED = 3
    """No lane is left for some rows, or the budget or a daily cap is spent."""
    FAULT = 4
    """Nightreel itself failed on three paid clips in a row and stopped buying. The clips
    are kept for the next run."""
    REJECTED = 5
    """No row is pending, but every row, or a greater share than `max_rejected`, was
    rejected. Look at the reasons before you run more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The result of a batch. The five states add up to `rows`; money is this run's."""

    batch: str
    """The name of the batch, such as `000003-tonight`."""
    rows: int
    """The rows of the manifest."""
    jobs: int
    """The different clips that the good rows want."""
    published: int
    """Rows that have their clip."""
    rejected: int
    """Rows that no provider will make, bad rows included."""
    unplayable: int
    """Rows whose paid file is no clip: it is kept as it is, and is not bought again."""
    in_doubt: int
    """Rows whose submit has no recorded answer."""
    pending: int
    """Rows that the next run continues with."""
    bought: int
    """Submits of this run that a provider accepted."""
    spent_usd: Decimal
    """The money that the submits of this run spent."""
    wall_s: float
    """The seconds that this run took."""
    risked_usd: Decimal
    """The money that this run spent on submitting jobs in doubt again."""
    late: int
    """Jobs that would miss the deadline, as computed at the start."""
    lanes_closed: dict[str, str]
    """The reason why each closed lane closed."""
    lanes_dearer: dict[str, str]
    """By lane that charged more than the catalogue says: how much more."""
    short_of: str | None
    """`lanes` or `budget` if the run ended for lack of it, else null."""
    broken: dict[str, int]
    """Jobs on which Nightreel's own code failed, by reason: the five most frequent."""
    fault: str | None
    """The reason why Nightreel stopped buying after its own failures, else null."""
    differing: int
    """Clips that this run published and that differ from what was ordered."""
    restored: int
    """Clips of earlier runs that were gone from the store or cut, and were fetched again."""
    gone: int
    """Those that could not be fetched again: their rows count as published all the same."""
    too_many_rejected: bool
    """Whether every row, or a greater share of the rows than `max_rejected`, is rejected."""

    @property
    def exit_code(self) -> ExitCode:
        if self.fault is not None:
            return ExitCode.FAULT
        if self.short_of is not None:
            return ExitCode.EXHAUSTED
        if self.too_many_rejected and not self.pending:
            return ExitCode.REJECTED
        unfinished = self.pending or self.in_doubt
        return ExitCode.UNFINISHED if unfinished else ExitCode.DONE

    def plain(self) -> dict[str, Any]:
        """As JSON. Money is a number, exact to the cent."""
        return {
            **asdict(self),
            "spent_usd": float(self.spent_usd),
            "risked_usd": float(self.risked_usd),
            "wall_s": round(self.wall_s, 1),
        }

    def __str__(self) -> str:
        counts = {
            "clips": self.published,
            "rejected": self.rejected,
            "unplayable": self.unplayable,
            "in doubt": self.in_doubt,
            "pending": self.pending,
        }
        parts = [f"{n:,} {what}" for what, n in counts.items() if n or what == "clips"]
        told = f"{', '.join(parts)}, {self.spent_usd:,.2f} USD"
        notes = {
            "not as ordered": self.differing,
            "gone from the store and fetched again": self.restored,
            "gone from the store": self.gone,
        }
        return "; ".join([told, *(f"{n:,} {what}" for what, n in notes.items() if n)])


def broken(jobs: Counter[str]) -> dict[str, int]:
    """The most frequent reasons for which our own code failed on jobs."""
    return dict(jobs.most_common(REASONS))


def too_many(rejected: int, rows: int, most: float) -> bool:
    """Whether the rejected rows are all of them, or a greater share than `most`."""
    return rows > 0 and (rejected == rows or rejected > most * rows)


def short_of(wait_reasons: set[WaitReason]) -> str | None:
    if WaitReason.NO_LANE in wait_reasons:
        return "lanes"
    return "budget" if WaitReason.BUDGET in wait_reasons else None
