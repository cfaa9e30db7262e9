"""Tables told anew: what was found out about a batch's jobs after its tables were written.

Only these jobs' rows change; every other row, column and their order stay as they are.
"""

from collections.abc import Collection
from pathlib import Path

import polars as pl

from manifests.lifecycle import HEDGE, Entry
from manifests.output.attempts import ATTEMPTS, KEY, attempts
from manifests.output.clips import CLIPS, Outcomes
from manifests.parquet import rewritten


def retold_clips(
    table: Path, out: Path, outcomes: Outcomes, jobs: Collection[str]
) -> bool:
    """Write a clips table to `out`, these jobs told anew; whether anything changed."""
    mine = pl.col("job").is_in(_lives(jobs))

    def retold(rows: pl.DataFrame) -> pl.DataFrame:
        said = rows.filter(mine).select("row", "job").iter_rows()
        told = [(row, *outcomes.of(job)) for row, job in said]
        anew = pl.DataFrame(told, schema=CLIPS, orient="row")
        return rows.update(anew, on="row", include_nulls=True)

    return rewritten(table, out, retold)


def retold_attempts(
    table: Path, out: Path, entries: Collection[Entry], jobs: Collection[str]
) -> bool:
    """Write an attempts table to `out`, these jobs' told anew; whether anything changed.

    `entries` are the whole ledger's. A table from before hedges and what was charged
    were told apart is given those columns.
    """
    lives = {*_lives(jobs)}
    theirs = [entry for entry in entries if entry.job.removesuffix(HEDGE) in lives]
    anew = pl.DataFrame([*attempts(theirs)], schema=ATTEMPTS, orient="row")

    def retold(rows: pl.DataFrame) -> pl.DataFrame:
        return _whole(rows).update(anew, on=KEY, include_nulls=True)

    return rewritten(table, out, retold)


def _lives(jobs: Collection[str]) -> list[str]:
    """The jobs' ids, whether they or their hedges were named."""
    return [*{job.removesuffix(HEDGE) for job in jobs}]


def _whole(rows: pl.DataFrame) -> pl.DataFrame:
    """Attempts with every column there is; what may have been charged counts."""
    refunded = pl.col("charged").eq_missing(pl.lit(value=False))
    cost = pl.when(refunded).then(0).otherwise("price_usd")
    lacking = {"hedge": pl.lit(value=False), "charged_usd": cost}
    return rows.with_columns(
        expr.cast(ATTEMPTS[name]).alias(name)
        for name, expr in lacking.items()
        if name not in rows.columns
    ).select(ATTEMPTS.names())
