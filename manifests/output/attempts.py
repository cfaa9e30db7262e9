"""The table of attempts: every submit with its outcome and its cost."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from manifests.accounting import Adjustment, Adjustments, Attempt, Attempts
from manifests.lifecycle import Entry, Intended
from manifests.output.clips import TIME, moment
from manifests.parquet import MONEY, SLICE, rewritten, written

ATTEMPTS: Final = pl.Schema(
    {
        "job": pl.String,
        "attempt": pl.UInt32,
        "lane": pl.String,
        "provider": pl.String,
        "model": pl.String,
        "route": pl.String,
        "remote_id": pl.String,
        "seed": pl.Int64,
        "price_usd": MONEY,
        "charged": pl.Boolean,
        "charged_usd": MONEY,
        "outcome": pl.String,
        "reason": pl.String,
        "submitted_at": TIME,
        "accepted_at": TIME,
        "ended_at": TIME,
        "stages": pl.String,
    }
)
KEY: Final = ("job", "attempt")
"""The columns that identify an attempt."""


class _Row(NamedTuple):
    """A row of the table, in the order of ATTEMPTS."""

    job: str
    attempt: int
    lane: str
    provider: str
    model: str
    route: str
    remote_id: str | None
    seed: int | None
    price_usd: Decimal
    charged: bool | None
    charged_usd: Decimal
    outcome: str
    reason: str | None
    submitted_at: datetime | None
    accepted_at: datetime | None
    ended_at: datetime | None
    stages: str | None

    @classmethod
    def of(cls, attempt: Attempt) -> "_Row":
        provider, _, model = attempt.route.partition("/")
        return cls(
            job=attempt.job,
            attempt=attempt.number,
            lane=attempt.lane,
            provider=provider,
            model=model,
            route=attempt.route,
            remote_id=attempt.ticket and attempt.ticket.id,
            seed=attempt.seed,
            price_usd=attempt.price_usd
            if attempt.billed_usd is None
            else attempt.billed_usd,
            charged=attempt.charged,
            charged_usd=attempt.cost_usd,
            outcome=attempt.outcome.value,
            reason=attempt.reason or None,
            submitted_at=moment(attempt.submitted_at),
            accepted_at=moment(attempt.accepted_at),
            ended_at=moment(attempt.ended_at),
            stages=attempt.stages,
        )

    def adjusted(self, adjustment: Adjustment) -> "_Row":
        charged, cost_usd = adjustment.applied_to(self.charged_usd)
        reason = adjustment.added_to(self.reason)
        return self._replace(charged=charged, charged_usd=cost_usd, reason=reason)


@contextmanager
def attempts_table(
    path: Path, folding: Attempts
) -> Generator[Callable[[Iterable[Entry]], list[Attempt]]]:
    """Write one row for each attempt that a batch began; yields a function for its entries.

    `folding` has the jobs that were not over when the batch began. The entries are all that
    followed, in their order, some at a time. The function returns the attempts that an
    earlier batch began and that these entries changed: `retold_attempts` changes their rows
    in that batch's table. So each attempt is in exactly one table, and sums over the tables
    are the cost of all jobs.

    Only the attempts that have not ended and a slice of rows are in memory. Rows are in the
    order in which attempts ended; attempts that have not ended come last.

    `charged` is null while nobody knows: in doubt, or risked. `charged_usd` counts what may
    have been charged.
    """
    with written(path) as write:
        rows = _Rows(folding, write)
        yield rows.add
        rows.end()
    if rows.adjustments:
        _adjust(path, rows.adjustments)


class _Rows:
    """Writes the attempts that a batch began, each when it has ended."""

    def __init__(
        self, folding: Attempts, write: Callable[[pl.DataFrame], object]
    ) -> None:
        self.adjustments = Adjustments()
        self._folding = folding
        self._write = write
        self._begun = set[str]()
        """The jobs whose attempts of this batch have not ended."""
        self._ended: list[Attempt] = []

    def add(self, entries: Iterable[Entry]) -> list[Attempt]:
        """Add the next entries; returns the attempts of earlier batches that they changed."""
        earlier = dict[str, Attempt]()
        for entry in entries:
            attempt = self._folding.add(entry)
            if attempt is None:
                self.adjustments.add(entry)
                continue
            if isinstance(entry.event, Intended):
                self._begun.add(entry.job)
            if entry.job not in self._begun:
                earlier[entry.job] = attempt
            elif attempt.ended_at is not None:
                self._begun.discard(entry.job)
                self._ended.append(attempt)
                self._flush(SLICE)
        return [*earlier.values()]

    def end(self) -> None:
        """Write the attempts that have not ended, after all others."""
        under_way = self._folding.under_way.items()
        self._ended.extend(x for job, x in under_way if job in self._begun)
        self._flush(0)

    def _flush(self, least: int) -> None:
        if len(self._ended) >= least:
            self._write(frame(self._ended))
            self._ended.clear()


def frame(attempts: Iterable[Attempt]) -> pl.DataFrame:
    """Attempts as rows of the table."""
    return pl.DataFrame([*map(_Row.of, attempts)], ATTEMPTS, orient="row")


def retold_attempts(table: Path, out: Path, anew: Iterable[Attempt]) -> bool:
    """Write an attempts table to `out` with the new rows of these; return if any changed.

    Every other row and the order of rows stay as they are.
    """
    after = frame(anew)

    def retold(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.update(after, on=KEY, include_nulls=True)

    return rewritten(table, out, retold)


def attempts_in(table: Path) -> set[tuple[str, int]]:
    """The attempts that have a row in the table, by job and number."""
    rows = pl.scan_parquet(table, glob=False, hive_partitioning=False)
    return set(rows.select(KEY).collect().iter_rows())


def _adjust(path: Path, adjustments: Adjustments) -> None:
    def adjusted(rows: pl.DataFrame) -> pl.DataFrame:
        found = (_Row._make(row) for row in rows.iter_rows())
        changed = [
            row.adjusted(adjustments[row.job, row.attempt])
            if (row.job, row.attempt) in adjustments
            else row
            for row in found
        ]
        return pl.DataFrame(changed, ATTEMPTS, orient="row")

    whole = path.with_name(f"{path.name}.adjusted")
    rewritten(path, whole, adjusted)
    whole.replace(path)
