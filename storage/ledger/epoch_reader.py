"""Volumes: what older epochs come to, from what they were bound into or else wrote."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence

import polars as pl

from manifests.checkpoint import rows as events
from manifests.job_keys import KEY, ids, keys
from manifests.lifecycle import Entry
from storage import layout
from storage.ledger import checkpoint, segments
from storage.ledger.compaction import bind
from storage.ledger.history_lookup import Told, told
from storage.ledger.replay import Look
from storage.ledger.state_index import Book
from storage.objects.client import Objects

__all__ = ["Told", "bind", "entries", "recalled", "told"]

_SKEW_S = 86_400.0
"""The clocks of machines that share a root agree so far."""


async def recalled(
    objects: Objects, older: Sequence[int], *, whole: bool = False
) -> Book:
    """What these epochs come to, in order; `whole`: every life in full.

    Raises:
        LedgerError: it cannot be read, or cannot have happened.
    """
    book = Book()
    sizes = await checkpoint.sizes(objects)
    indexed = {epoch: sizes[epoch] for epoch in older if epoch in sizes}
    async for epoch, index in checkpoint.indexes(objects, indexed):
        if whole:
            await _read(objects, book, epoch)
        else:
            await asyncio.to_thread(_learn, book, index.rows)
        for lane, took in index.latencies.items():
            book.latencies[lane].extend(took)
    for epoch in older:
        if epoch not in indexed:
            book.begin(epoch)
            await (_fold if whole else _look)(objects, book, epoch)
    return book


async def entries(
    objects: Objects, *, since: float = -math.inf
) -> AsyncIterator[Sequence[Entry]]:
    """Everything on record, in order; without the epochs in which all is older."""
    sizes = await checkpoint.sizes(objects)
    passed = await _older(objects, [*sizes], since)
    for epoch in range(1, await segments.claimed(objects) + 1):
        if epoch in passed:
            continue
        if epoch not in sizes:
            async for some in checkpoint.written(objects, epoch):
                yield some
            continue
        async for rows in checkpoint.volume(objects, layout.events(epoch)):
            yield await asyncio.to_thread(events.entries, rows)


async def _older(objects: Objects, bound_: Sequence[int], since: float) -> set[int]:
    """The bound epochs all of whose entries are older."""
    older = set[int]()
    if since == -math.inf:
        return older
    for epoch in reversed(bound_):
        last = (await checkpoint.index(objects, epoch)).last
        if last is None or last < since:
            older.add(epoch)
        if last is not None and last < since - _SKEW_S:
            # So is all before it, and need not be asked for.
            return older | set(range(1, epoch))
    return older


def _learn(book: Book, rows: pl.DataFrame) -> None:
    over = rows.filter(pl.col("whole").is_null())
    book.learn(over)
    gone = keys(book.lives).join(over, on=[*KEY], how="semi")
    for life in ids(gone):
        del book.lives[life]
    book.lives |= events.whole(rows)


async def _read(objects: Objects, book: Book, epoch: int) -> None:
    async for rows in checkpoint.volume(objects, layout.jobs(epoch)):
        book.lives |= await asyncio.to_thread(events.histories, rows)


async def _look(objects: Objects, book: Book, epoch: int) -> None:
    look = Look(book, objects.root, epoch)
    async for chunk in checkpoint.chunks(objects, epoch):
        await asyncio.to_thread(look.at, chunk)
    await asyncio.to_thread(look.end)


async def _fold(objects: Objects, book: Book, epoch: int) -> None:
    async for some in checkpoint.written(objects, epoch):
        for entry in some:
            book.keep(entry.job, checkpoint.after(book.lives, entry, objects.root))
