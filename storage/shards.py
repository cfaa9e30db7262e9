"""Shards: the stream of a slice of a batch that a process of its own runs.

It is claimed by generation, as a root is by epoch: the newest writer has sealed those
before it, and knows what they wrote. That the batch still runs is looked at only after
the claim: who ends a batch lists its streams after that, so one of both sees the other.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable
from contextlib import suppress

from manifests.lifecycle import OVER, Entry
from storage import epochs, seals, volumes
from storage.book import Book
from storage.epochs import MAIN, FencedError
from storage.objects import ExistsError, MissingError, Objects, StorageError
from storage.records import LedgerError, Open, Seal, pack, unpack


async def claim(
    objects: Objects, batch: str, shard: int, clock: Callable[[], float]
) -> int:
    """Claim the next generation of a shard of a batch that runs.

    Raises:
        FencedError: the batch is over, or somebody claimed a newer one meanwhile.
        LedgerError: there is no such batch.
    """
    await _refuse_unknown(objects, batch)
    opening = pack([Open(secrets.token_hex(8), clock())])
    generation = await _next(objects, batch, shard, opening)
    seal = Seal(epochs.number(batch), clock())
    try:
        for older in range(1, generation):
            await _end(objects, batch, epochs.shard_name(shard, older), seal)
        await _refuse_if_over(objects, batch)
        newer = epochs.shard_name(shard, generation + 1)
        if await epochs.streams(objects, batch, newer):
            raise FencedError(f"{objects.root}: somebody else runs shard {shard}")
    except StorageError:
        await _end(objects, batch, epochs.shard_name(shard, generation), seal)
        raise
    return generation


async def known(objects: Objects, batch: str, shard: int, generation: int) -> Book:
    """What is on record of a shard's jobs as its newest writer begins."""
    book = await volumes.recalled(objects, range(1, epochs.number(batch)))
    older = [epochs.shard_name(shard, n) for n in range(1, generation)]
    for name in (MAIN, *older):
        found = await epochs.streams(objects, batch, name)
        async for key, blob in epochs.read(objects, batch, found):
            for entry in await asyncio.to_thread(unpack, blob, key):
                if isinstance(entry, Entry):
                    _learn(book, entry)
    return book


def _learn(book: Book, entry: Entry) -> None:
    past = book.history(entry.job)
    if past.state in OVER and entry.job not in book.lives:
        # Of what was over before only that is known; what follows is about its money.
        return
    book.keep(entry.job, past.after(entry))


async def _next(objects: Objects, batch: str, shard: int, opening: bytes) -> int:
    for generation in itertools.count(1):
        stream = epochs.stream_key(batch, epochs.shard_name(shard, generation))
        with suppress(ExistsError):
            await objects.create(epochs.segment_key(stream, 1), opening)
            return generation
    raise AssertionError("numbers do not end")


async def _refuse_unknown(objects: Objects, batch: str) -> None:
    with suppress(MissingError, ValueError):
        if (await epochs.owner(objects, epochs.number(batch))).batch == batch:
            return
    raise LedgerError(f"{objects.root}: no batch {batch!r}")


async def _refuse_if_over(objects: Objects, batch: str) -> None:
    successor = epochs.claim_key(epochs.number(batch) + 1)
    if await epochs.exists(objects, successor) or await seals.is_over(objects, batch):
        raise FencedError(f"{objects.root}: batch {batch!r} is over")


async def _end(objects: Objects, batch: str, name: str, seal: Seal) -> None:
    found = await epochs.streams(objects, batch, name)
    stream = epochs.stream_key(batch, name)
    await seals.end(objects, stream, found[name].segments, seal=seal)
