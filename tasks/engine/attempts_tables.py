"""The tables of attempts of earlier batches: an attempt is in exactly one table.

That is the table of the batch that submitted it. A later run that changes the attempt
changes its row there. A batch that was killed wrote no table: the next run, or a
reconciliation, writes it. So a sum over all tables is what all jobs have cost, without any
choice among rows.

A batch puts its own table last. It marks the batch as done: after a kill before that, the
next run does all of this again.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from manifests.accounting import Attempt, Attempts
from manifests.accounting.attempts import attempts
from manifests.lifecycle import Adjusted, Entry, Intended
from manifests.output import attempts_in, attempts_table, retold_attempts
from manifests.parquet import readable
from storage import layout
from storage.ledger import batch_of, entries_of
from storage.objects import DamagedError, Objects, StorageError

log = logging.getLogger(__name__)


async def put_empty(objects: Objects, folder: Path, batch: str) -> None:
    """Put the table of a batch that submits nothing."""
    path = folder / "attempts.parquet"
    with attempts_table(path, Attempts()):
        pass
    await objects.put_file(layout.table("attempts", batch), path)


async def update(objects: Objects, folder: Path, changed: Iterable[Attempt]) -> None:
    """Change the rows of these attempts in the tables of the batches that made them."""
    left = {(attempt.job, attempt.number): attempt for attempt in changed}
    if not left:
        return
    before, after = folder / "before.parquet", folder / "after.parquet"
    # Newest first: most attempts that a run finishes are of the run before it.
    for key in reversed(await _tables(objects)):
        if not left:
            return
        try:
            before.write_bytes(await objects.get(key))
            with readable(objects.uri(key), DamagedError):
                here = await asyncio.to_thread(attempts_in, before) & left.keys()
                found = [left.pop(each) for each in here]
                change = partial(retold_attempts, before, after, found)
                differs = found and await asyncio.to_thread(change)
            if differs:
                await objects.put_file(key, after)
        # The batch is over, and the ledger has all that the table lacks.
        except StorageError as exc:
            log.warning(
                "table.not_updated file=%s its rows keep what they said: %s",
                objects.uri(key),
                exc,
            )


async def write_missing(objects: Objects, folder: Path, *, before: int) -> None:
    """Write the tables of the batches before this epoch that were killed."""
    there = {_epoch(key) for key in await _tables(objects)}
    missing = sorted({*range(1, before)} - there)
    if not missing:
        return
    try:
        await _write(objects, folder, missing, before)
    except StorageError as exc:
        log.warning(
            "tables.not_written epochs=%s the next run tries again: %s", missing, exc
        )


async def _write(
    objects: Objects, folder: Path, missing: Sequence[int], before: int
) -> None:
    paths = {epoch: folder / f"attempts-{epoch:06d}.parquet" for epoch in missing}
    folding, changed = Attempts(), set[str]()
    for epoch in range(1, before):
        if epoch not in paths:
            begun = set[str]()
            async for some in entries_of(objects, epoch):
                earlier = await asyncio.to_thread(_fold, folding, some, begun)
                # It may have changed attempts whose table was missing.
                changed.update(earlier if epoch > missing[0] else ())
            continue
        with attempts_table(paths[epoch], folding) as add:
            async for some in entries_of(objects, epoch):
                earlier = await asyncio.to_thread(add, some)
                changed.update(attempt.job for attempt in earlier)
                changed.update(
                    entry.job for entry in some if isinstance(entry.event, Adjusted)
                )
    rows = await _attempts_of(objects, changed, before) if changed else []
    for path in paths.values():
        out = folder / "after.parquet"
        if await asyncio.to_thread(partial(retold_attempts, path, out, rows)):
            out.replace(path)
    if rows:
        await update(objects, folder, rows)
    for epoch, path in paths.items():
        batch = await batch_of(objects, epoch)
        await objects.put_file(layout.table("attempts", batch), path)
        log.info("table.written batch=%s its run ended without it", batch)


def _fold(folding: Attempts, some: Iterable[Entry], begun: set[str]) -> set[str]:
    """Fold a batch's entries; returns the jobs whose earlier attempts they change.

    `begun` collects the jobs that the batch has submitted.
    """
    changed = set[str]()
    for entry in some:
        folding.add(entry)
        if isinstance(entry.event, Intended):
            begun.add(entry.job)
        elif entry.job not in begun:
            changed.add(entry.job)
    return changed


async def _attempts_of(objects: Objects, jobs: set[str], before: int) -> list[Attempt]:
    """All attempts of these jobs, as they were before this epoch."""
    found = [
        entry
        for epoch in range(1, before)
        async for some in entries_of(objects, epoch)
        for entry in some
        if entry.job in jobs
    ]
    return [*attempts(found)]


async def _tables(objects: Objects) -> list[str]:
    """The keys of the tables of attempts, the oldest batch first."""
    keys = [stored.key async for stored in objects.list(layout.tables("attempts"))]
    return sorted(key for key in keys if layout.TABLE.fullmatch(key))


def _epoch(key: str) -> int:
    found = layout.TABLE.fullmatch(key)
    return int(found["epoch"]) if found else 0
