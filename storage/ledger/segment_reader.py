"""Reads an epoch's entries from its segments, as they were written."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final

from manifests.lifecycle import NEW, Entry, History, IllegalTransitionError
from storage import layout
from storage.ledger import segments
from storage.ledger.codec import LedgerError, Line, Seal, lines, record, unpack
from storage.ledger.segments import MAIN, Extent
from storage.objects import DamagedError, Objects

_BLOCK: Final = 1 << 21
"""Bytes of lines that are decoded at once."""
_AT_ONCE: Final = 10_000
"""Entries that are handed on at once."""


async def decoded(objects: Objects, epoch: int) -> AsyncIterator[list[Line]]:
    """An epoch's lines in order, in blocks large enough to decode in a thread.

    Raises:
        DamagedError, LedgerError: a segment cannot be read.
    """
    batch = (await segments.owner(objects, epoch)).batch
    found = await segments.streams(objects, batch)
    some: list[tuple[str, bytes]] = []
    size = 0
    async for uri, block in segments.read(objects, batch, found):
        some.append((uri, block))
        size += len(block)
        if size >= _BLOCK:
            yield await asyncio.to_thread(_lines, some)
            some, size = [], 0
    if some:
        yield await asyncio.to_thread(_lines, some)


async def written(objects: Objects, epoch: int) -> AsyncIterator[list[Entry]]:
    """An epoch's entries in order.

    Raises:
        DamagedError, LedgerError: a segment cannot be read.
    """
    place = f"{objects.root}: epoch {epoch}"
    async for block in decoded(objects, epoch):
        for first in range(0, len(block), _AT_ONCE):
            some = block[first : first + _AT_ONCE]
            if entries := await asyncio.to_thread(_entries, some, place):
                yield entries


async def extents(objects: Objects, epoch: int) -> dict[str, int]:
    """How many segments each stream of an epoch has."""
    batch = (await segments.owner(objects, epoch)).batch
    found = await segments.streams(objects, batch)
    return {name: extent.segments for name, extent in found.items()}


async def refuse_incomplete(
    objects: Objects, epoch: int, known: Mapping[str, int] | None
) -> None:
    """Raise an error unless all segments of a compacted epoch are still there.

    `known` says how many each stream had. Without it each stream has to end with a seal:
    an epoch is compacted once all its streams are sealed.

    Raises:
        DamagedError: it names what is missing.
    """
    batch = (await segments.owner(objects, epoch)).batch
    found = await segments.streams(objects, batch)
    for name in {MAIN: 0} | found if known is None else known:
        stream, last = layout.stream(batch, name), found.get(name, Extent()).segments
        whole = (
            await seal_at(objects, stream, last) is not None
            if known is None
            else last >= known[name]
        )
        if not whole:
            lost = objects.uri(layout.segment(stream, last + 1))
            raise DamagedError(f"{lost}: missing")


async def seal_at(objects: Objects, stream: str, last: int) -> Seal | None:
    """The seal of a stream, if this segment is one."""
    if not last:
        return None
    key = layout.segment(stream, last)
    record = unpack(await objects.get(key), objects.uri(key), frames=1)[-1]
    return record if isinstance(record, Seal) else None


def after(lives: Mapping[str, History], entry: Entry, root: str) -> History:
    """A life with one more entry.

    Raises:
        LedgerError: it cannot have happened.
    """
    try:
        return lives.get(entry.job, NEW).after(entry)
    except IllegalTransitionError as error:
        raise LedgerError(f"{root}: {error}") from error


def _lines(blocks: Iterable[tuple[str, bytes]]) -> list[Line]:
    return [line for uri, block in blocks for line in lines(block, uri)]


def _entries(some: Iterable[Line], place: str) -> list[Entry]:
    records = (record(line, place) for line in some)
    return [one for one in records if isinstance(one, Entry)]
