"""Reads the full histories of lives as they stood before an epoch."""

from collections import defaultdict

import polars as pl

from manifests.checkpoint import rows as events
from manifests.job_keys import KEY, keys
from manifests.lifecycle import Entry, History
from storage.ledger import checkpoint
from storage.ledger.segment_reader import after, written
from storage.objects import DamagedError, Objects


async def histories_before(
    objects: Objects, lives: set[str], *, before: int
) -> dict[str, History]:
    """The full histories of these lives before an epoch. Slow: it reads older epochs.

    Raises:
        DamagedError: it cannot be read.
        LedgerError: it cannot have happened.
    """
    found: dict[str, History] = {}
    later = defaultdict[str, list[Entry]](list)
    compacted = {*await checkpoint.compacted(objects)}
    for epoch in range(before - 1, 0, -1):
        if not (left := lives - found.keys()):
            break
        told = await _told(objects, epoch, left) if epoch in compacted else None
        if told is not None:
            found |= told
            continue
        here = defaultdict[str, list[Entry]](list)
        async for some in written(objects, epoch):
            for entry in some:
                if entry.job in left:
                    here[entry.job].append(entry)
        for life, some in here.items():
            later[life] = some + later[life]
    for life, some in later.items():
        for entry in some:
            found[life] = after(found, entry, objects.root)
    return found


async def _told(
    objects: Objects, epoch: int, lives: set[str]
) -> dict[str, History] | None:
    """The histories of these lives in a checkpoint; None if it is damaged."""
    known = await checkpoint.load(objects, epoch)
    if known is None:
        return None
    try:
        here = await _among(objects, known, keys(lives))
        found = events.whole(here)
        if not here.is_empty():
            async for rows in checkpoint.volume(objects, known, "jobs", keys(lives)):
                found |= events.histories(rows)
    except DamagedError as error:
        await checkpoint.fall_back(objects, epoch, known, error)
        return None
    return found


async def _among(
    objects: Objects, known: checkpoint.Checkpoint, lives: pl.DataFrame
) -> pl.DataFrame:
    """The rows of these lives in an index."""
    found = [
        rows.join(lives, on=[*KEY], how="semi")
        async for rows in checkpoint.index(objects, known)
    ]
    return pl.concat([pl.DataFrame(schema=events.INDEX), *found])
