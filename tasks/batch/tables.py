"""Writes the tables of a batch beside its clips: rows, attempts and complaints."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from manifests.accounting import Attempt, Attempts
from manifests.input import Plan
from manifests.job_keys import KEY
from manifests.output import (
    Outcomes,
    attempts_table,
    write_clips,
    write_complaints,
    write_left,
)
from storage import layout
from storage.ledger import Ledger, Told
from storage.objects import Objects
from tasks.batch.request import MANIFEST
from tasks.engine import attempts_tables
from tasks.engine.stats import Tally, WaitReason

TABLES: Final = ("clips", "complaints", "left", "attempts")
"""The tables in the order in which they are put: that of attempts marks the batch as done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedBatch:
    """A batch that is over, with its plan and its counts."""

    plan: Plan
    folder: Path
    """The working folder, with the manifest and the tables."""
    ledger: Ledger
    """The closed ledger: nothing more can happen to the rows."""
    tally: Tally


async def keep_tables(batch: FinishedBatch, objects: Objects) -> Told:
    """Write the tables of all rows, attempts and complaints below the root.

    Returns the histories of the rows, which are valid as long as the working folder.
    """
    wanted = batch.plan.wanted.select(*KEY)
    told = await batch.ledger.told(wanted, batch.folder)
    ours = batch.ledger.epoch
    await attempts_tables.write_missing(objects, batch.folder, before=ours)
    earlier = await _attempts(batch)
    await attempts_tables.update(objects, batch.folder, earlier)
    await asyncio.to_thread(_write, batch, told)
    for name in TABLES:
        key = layout.table(name, batch.ledger.batch)
        await objects.put_file(key, _path(batch, name))
    return told


async def _attempts(batch: FinishedBatch) -> list[Attempt]:
    """Write the table of attempts; return the attempts of earlier batches that changed."""
    changed = dict[tuple[str, int], Attempt]()
    folding = Attempts(batch.ledger.before)
    # Select by segment, not by time: an earlier run's clock may have been ahead.
    with attempts_table(_path(batch, "attempts"), folding) as add:
        async for some in batch.ledger.entries():
            for attempt in await asyncio.to_thread(add, some):
                changed[attempt.job, attempt.number] = attempt
    return [*changed.values()]


def _write(batch: FinishedBatch, told: Told) -> None:
    waiting_jobs = batch.tally.waiting_jobs
    reasons = {job: waiting.reason for job, waiting in waiting_jobs.items()}

    def tell(keys: pl.DataFrame) -> Outcomes:
        return Outcomes(histories=told.histories(keys), reasons=reasons)

    # A job that was once paid for keeps its row and its cost, even if its still is bad now.
    plan = batch.plan.without(
        {
            job: ("", waiting.reason)
            for job, waiting in waiting_jobs.items()
            if waiting.why is WaitReason.STILL
            and not batch.ledger.history(job).attempts
        }
    )
    manifest = batch.folder / MANIFEST
    write_clips(_path(batch, "clips"), manifest, plan, tell)
    write_complaints(_path(batch, "complaints"), plan)
    write_left(_path(batch, "left"), manifest, plan, tell)


def _path(batch: FinishedBatch, name: str) -> Path:
    return batch.folder / f"{name}.parquet"
