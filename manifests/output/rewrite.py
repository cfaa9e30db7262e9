"""Rewritten tables: facts about a batch's jobs that came after its tables were written.

Only these jobs' rows change; every other row and the order of rows stay as they are.
"""

from collections.abc import Collection
from pathlib import Path

import polars as pl

from manifests.accounting.attempts import attempts
from manifests.lifecycle import Entry
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


def retold_attempts(
    table: Path, out: Path, entries: Collection[Entry], jobs: Collection[str]
) -> bool:
    """Write an attempts table to `out` with these jobs' new rows; return if any changed.

    `entries` are those of the whole ledger.
    """
    wanted = {*jobs}
    found = [entry for entry in entries if entry.job in wanted]
    anew = frame(attempts(found))

    def retold(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.update(anew, on=KEY, include_nulls=True)

    return rewritten(table, out, retold)
