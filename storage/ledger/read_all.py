"""Reads every entry without claiming the root; a batch may be writing meanwhile."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence

from manifests.checkpoint import rows as events
from manifests.lifecycle import Entry, Intended
from storage import layout
from storage.ledger import checkpoint, segments
from storage.ledger.checkpoint import Checkpoint
from storage.ledger.segment_reader import written
from storage.ledger.state_index import RecordedSubmit
from storage.objects import DamagedError, Objects

_SKEW_S = 86_400.0
"""The largest assumed difference between the clocks of machines that share a root."""


async def read(objects: Objects) -> list[Entry]:
    """Every entry on record, in order."""
    return [entry async for some in entries(objects) for entry in some]


async def batch_of(objects: Objects, epoch: int) -> str:
    """The name of the batch that claimed an epoch."""
    return (await segments.owner(objects, epoch)).batch


async def entries_of(objects: Objects, epoch: int) -> AsyncIterator[Sequence[Entry]]:
    """One epoch's entries, in order.

    Raises:
        DamagedError: they cannot be read.
    """
    # A dead epoch has none until the ledger that follows it is closed: that is no damage.
    there = await segments.exists(objects, layout.checkpoint(epoch))
    known = await checkpoint.load(objects, epoch) if there else None
    async for some in _entries(objects, epoch, known):
        yield some


def submits_among(some: Sequence[Entry], since: float) -> list[RecordedSubmit]:
    """The submits among these entries since a time (Unix seconds)."""
    return [
        RecordedSubmit(entry.at, entry.event.lane, entry.event.route)
        for entry in some
        if isinstance(entry.event, Intended) and entry.at >= since
    ]


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
