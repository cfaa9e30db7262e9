"""Shards: the stream of a part of a batch that another process runs.

A shard is claimed by generation, as a root is by epoch: the newest writer seals earlier
ones, and then reads what they wrote. It checks only after the claim whether the batch
still runs. A run that ends the batch lists its streams after sealing, so one sees the other.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress

from manifests.lifecycle import OVER, Entry, History
from storage import layout
from storage.ledger import fencing, missing, segments
from storage.ledger.codec import LedgerError, Open, Seal, pack, records
from storage.ledger.segments import FencedError
from storage.ledger.state_index import StateIndex
from storage.objects import ExistsError, MissingError, Objects, StorageError


async def claim(
    objects: Objects, batch: str, shard: int, clock: Callable[[], float]
) -> int:
    """Claim the next generation of a shard of a batch that runs.

    Raises:
        FencedError: the batch is over, or somebody claimed a newer one meanwhile.
        LedgerError: there is no such batch.
    """
    await _refuse_unknown(objects, batch)
    await _refuse_lost(objects, batch, shard)
    opening = pack([Open(secrets.token_hex(8), clock())])
    generation = await _next(objects, batch, shard, opening)
    seal = Seal(segments.number(batch), clock())
    try:
        for older in range(1, generation):
            await _end(objects, batch, layout.shard(shard, older), seal)
        await _refuse_if_over(objects, batch)
        newer = layout.shard(shard, generation + 1)
        if await segments.streams(objects, batch, newer):
            raise FencedError(f"{objects.root}: somebody else runs shard {shard}")
    except StorageError:
        await _end(objects, batch, layout.shard(shard, generation), seal)
        raise
    return generation


async def known(
    objects: Objects,
    batch: str,
    shard: int,
    generation: int,
    before: Mapping[str, History],
) -> StateIndex:
    """The state index of a shard's jobs as its newest writer begins."""
    state_index = StateIndex()
    state_index.lives |= before
    async for entry in written(objects, batch, shard, range(1, generation)):
        learn(state_index, entry)
    return state_index


async def written(
    objects: Objects, batch: str, shard: int, generations: Iterable[int]
) -> AsyncIterator[Entry]:
    """The entries of these sealed writers of a shard, in order."""
    for generation in generations:
        name = layout.shard(shard, generation)
        found = await segments.streams(objects, batch, name)
        async for uri, lines in segments.read(objects, batch, found):
            for entry in await asyncio.to_thread(records, lines, uri):
                if isinstance(entry, Entry):
                    yield entry


def learn(state_index: StateIndex, entry: Entry) -> History | None:
    """Apply an entry; None if its job was over and only its price changes."""
    before = state_index.history(entry.job)
    if before.state in OVER and entry.job not in state_index.lives:
        return None
    history = before.after(entry)
    state_index.keep(entry.job, history)
    return history


async def ended(objects: Objects, batch: str, shard: int) -> int:
    """Fence out the writer of a shard; returns the number of writers that it had."""
    await _refuse_lost(objects, batch, shard)
    seal = Seal(segments.number(batch), 0.0)
    generation = 0
    while True:
        name = layout.shard(shard, generation + 1)
        if not await segments.streams(objects, batch, name):
            return generation
        await _end(objects, batch, name, seal)
        generation += 1


async def _next(objects: Objects, batch: str, shard: int, opening: bytes) -> int:
    for generation in itertools.count(1):
        stream = layout.stream(batch, layout.shard(shard, generation))
        with suppress(ExistsError):
            await objects.create(layout.segment(stream, 1), opening)
            return generation
    raise AssertionError("numbers do not end")


async def _refuse_lost(objects: Objects, batch: str, shard: int) -> None:
    """Raise an error if a stream of a shard, or a segment of one, is missing.

    A claim would fill the gap and hide the loss.
    """
    prefix = layout.shard(shard, 1).partition(".")[0]

    async def look() -> None:
        names = await objects.folders(layout.streams(batch))
        own = [name for name in names if name.partition(".")[0] == prefix]
        # A local folder stays behind when its last file is deleted.
        there = [name for name in own if await segments.streams(objects, batch, name)]
        missing.refuse_writers(objects, batch, there)

    try:
        await look()
    except LedgerError:
        # Listing a local folder during writes may skip a name: look again.
        await look()


async def _refuse_unknown(objects: Objects, batch: str) -> None:
    with suppress(MissingError, ValueError):
        if (await segments.owner(objects, segments.number(batch))).batch == batch:
            return
    raise LedgerError(f"{objects.root}: no batch {batch!r}")


async def _refuse_if_over(objects: Objects, batch: str) -> None:
    successor = layout.claim(segments.number(batch) + 1)
    if await segments.exists(objects, successor) or await fencing.is_over(
        objects, batch
    ):
        raise FencedError(f"{objects.root}: batch {batch!r} is over")


async def _end(objects: Objects, batch: str, name: str, seal: Seal) -> None:
    found = await segments.streams(objects, batch, name)
    stream = layout.stream(batch, name)
    await fencing.end(objects, stream, found[name].segments, seal=seal)
