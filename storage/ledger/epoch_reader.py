"""Reads older epochs: from their checkpoints, or from their segments if they have none."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence

import polars as pl

from manifests.checkpoint import rows as events
from manifests.job_keys import KEY, ids, keys
from manifests.lifecycle import Entry
from storage.ledger import checkpoint, segments
from storage.ledger.checkpoint import Checkpoint
from storage.ledger.compaction import bind
from storage.ledger.history_lookup import Told, told
from storage.ledger.replay import Replay
from storage.ledger.segment_reader import after, decoded, written
from storage.ledger.state_index import Book
from storage.objects import DamagedError, Objects

__all__ = ["Told", "bind", "entries", "recalled", "told"]

_SKEW_S = 86_400.0
"""The largest assumed difference between the clocks of machines that share a root."""


async def recalled(
    objects: Objects, older: Sequence[int], *, whole: bool = False
) -> Book:
    """The state index after these epochs, read in order; `whole`: every life in full.

    Raises:
        DamagedError: it cannot be read.
        LedgerError: it cannot have happened.
    """
    book = Book()
    known = await _checkpoints(objects, older, book)
    indexes = checkpoint.indexes(objects, [] if whole else known.values())
    for epoch in older:
        one = known.get(epoch)
        if one is not None:
            data = None if whole else (await anext(indexes))[1]
            try:
                await _take(objects, book, one, data, whole=whole)
                continue
            except DamagedError as error:
                await checkpoint.fall_back(objects, epoch, one, error)
                book.rebuild.add(epoch)
        book.begin(epoch)
        await (_fold if whole else _replay)(objects, book, epoch)
    return book


async def entries(
    objects: Objects, *, since: float = -math.inf
) -> AsyncIterator[Sequence[Entry]]:
    """Everything on record, in order; skips epochs in which all entries are older.

    Raises:
        DamagedError: it cannot be read.
    """
    compacted = await checkpoint.compacted(objects)
    passed = await _older(objects, compacted, since)
    for epoch in range(1, await segments.claimed(objects) + 1):
        if epoch in passed:
            continue
        one = await checkpoint.load(objects, epoch) if epoch in compacted else None
        async for some in _entries(objects, epoch, one):
            yield some


async def _entries(
    objects: Objects, epoch: int, known: Checkpoint | None
) -> AsyncIterator[Sequence[Entry]]:
    if known is not None:
        begun = False
        try:
            async for rows in checkpoint.volume(objects, known, "events"):
                begun = True
                yield await asyncio.to_thread(events.entries, rows)
        except DamagedError as error:
            if begun:
                raise
            await checkpoint.fall_back(objects, epoch, known, error)
        else:
            return
    async for some in written(objects, epoch):
        yield some


async def _checkpoints(
    objects: Objects, older: Sequence[int], book: Book
) -> dict[int, Checkpoint]:
    """The checkpoints of these epochs; damaged ones are noted in `book.rebuild`."""
    compacted = {*await checkpoint.compacted(objects)}
    asked = [epoch for epoch in older if epoch in compacted]
    found = await segments.each(lambda epoch: checkpoint.load(objects, epoch), asked)
    known = {one.epoch: one for one in found if one is not None}
    book.rebuild |= {*asked} - known.keys()
    return known


async def _older(objects: Objects, compacted: Sequence[int], since: float) -> set[int]:
    """The compacted epochs whose entries are all older than `since`."""
    older = set[int]()
    if since == -math.inf:
        return older
    for epoch in reversed(compacted):
        one = await checkpoint.load(objects, epoch)
        if one is None:
            continue
        if one.last is None or one.last < since:
            older.add(epoch)
        if one.last is not None and one.last < since - _SKEW_S:
            # Every earlier epoch is older as well, and need not be read.
            return older | set(range(1, epoch))
    return older


async def _take(
    objects: Objects,
    book: Book,
    known: Checkpoint,
    index: bytes | DamagedError | None,
    *,
    whole: bool,
) -> None:
    if whole:
        async for rows in checkpoint.volume(objects, known, "jobs"):
            book.lives |= await asyncio.to_thread(events.histories, rows)
    else:
        async for rows in checkpoint.index(objects, known, index):
            await asyncio.to_thread(_learn, book, rows)
    for lane, took in known.latencies.items():
        book.latencies[lane].extend(took)


def _learn(book: Book, rows: pl.DataFrame) -> None:
    over = rows.filter(pl.col("whole").is_null())
    book.learn(over)
    gone = keys(book.lives).join(over, on=[*KEY], how="semi")
    for life in ids(gone):
        del book.lives[life]
    book.lives |= events.whole(rows)


async def _replay(objects: Objects, book: Book, epoch: int) -> None:
    replay = Replay(book, objects.root, epoch)
    async for block in decoded(objects, epoch):
        await asyncio.to_thread(replay.take, block)
    await asyncio.to_thread(replay.end)


async def _fold(objects: Objects, book: Book, epoch: int) -> None:
    async for some in written(objects, epoch):
        for entry in some:
            book.keep(entry.job, after(book.lives, entry, objects.root))
