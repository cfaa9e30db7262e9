"""Rewritten tables: facts about a batch's jobs that came after its tables were written.

Only these jobs' rows change; every other row and the order of rows stay as they are.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

import polars as pl

from manifests.accounting import Attempt
from manifests.output.attempts import KEY, frame
from manifests.output.clips import CLIPS, Outcomes
from manifests.parquet import rewritten


def retold_clips(
    table: Path, out: Path, outcomes: Outcomes, jobs: Collection[str]
) -> bool:
    """Write a clips table to `out` with these jobs' new outcomes; return if any changed."""
    of_jobs = pl.col("job").is_in([*jobs])

    def retold(rows: pl.DataFrame) -> pl.DataFrame:
        found = rows.filter(of_jobs).select("row", "job").iter_rows()
        told = [(row, *outcomes.of(job)) for row, job in found]
        anew = pl.DataFrame(told, schema=CLIPS, orient="row")
        return rows.update(anew, on="row", include_nulls=True)

    return rewritten(table, out, retold)


def retold_attempts(table: Path, out: Path, anew: Iterable[Attempt]) -> bool:
    """Write an attempts table to `out` with the new rows of these; return if any changed."""
    after = frame(anew)

    def retold(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.update(after, on=KEY, include_nulls=True)

    return rewritten(table, out, retold)


def attempts_in(table: Path) -> set[tuple[str, int]]:
    """The attempts that have a row in the table, by job and number."""
    rows = pl.scan_parquet(table, glob=False, hive_partitioning=False)
    return set(rows.select(KEY).collect().iter_rows())
