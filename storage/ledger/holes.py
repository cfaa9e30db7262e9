"""Reads an epoch that has lost objects: its entries, and the holes between them.

It reads what a run reads, and goes on where a run stops.
"""

import math
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from manifests.lifecycle import Entry
from storage import layout
from storage.ledger import segments
from storage.ledger.bridge import Submits
from storage.ledger.checkpoint import Checkpoint
from storage.ledger.codec import Record, Seal, unpack
from storage.ledger.segments import MAIN, Extent
from storage.objects import DamagedError, MissingError, Objects


@dataclass(slots=True, kw_only=True)
class Hole:
    """Numbers of a stream, in a row, without a segment or part that can be read."""

    stream: str
    first: int
    last: int
    damaged: set[int] = field(default_factory=set[int])
    """Those of them whose objects are there, and damaged."""
    at_end: bool = False
    """Whether no segment follows."""
    since: float | None = None
    until: float | None = None


@dataclass(slots=True, kw_only=True)
class EpochDamage:
    """The losses of an epoch that is read from its segments."""

    epoch: int
    batch: str
    holes: list[Hole] = field(default_factory=list[Hole])
    lost: bool = False
    """Whether nothing is left of it."""
    certain: bool = False
    """Whether its index and its jobs are whole: all purchases are known."""
    listed: bool = False
    """Whether it has the list of a checkpoint, whole or not."""
    known: Checkpoint | None = None
    """The list, if it is whole."""
    submits: Submits = field(default_factory=Submits)


async def read(objects: Objects, one: EpochDamage) -> AsyncIterator[Hole | list[Entry]]:
    """An epoch's entries in the order of every reader, and a hole where some are lost.

    `one.holes` and `one.submits` are complete at the end.
    """
    found = defaultdict[str, Extent](Extent)
    await segments.look(objects, layout.streams(one.batch), found)
    least = {} if one.known is None else dict(one.known.streams)
    # Without its list, each stream of a compacted epoch must end with a seal.
    sealed = one.listed and one.known is None
    if sealed:
        least[MAIN] = 1
    for name in _all_writers({*found, *least}):
        stream = layout.stream(one.batch, name)
        lost_whole = int(name not in found)
        walk = _Walk(objects, one, stream, found[name], sealed=sealed)
        async for piece in walk.pieces(least.get(name, lost_whole)):
            yield piece


def _all_writers(names: set[str]) -> list[str]:
    """These streams, and those of the earlier writers of each shard, in their order."""
    every = set(names)
    for name in names:
        if shard := layout.SHARD.fullmatch(name):
            number, generation = int(shard["shard"]), int(shard["generation"])
            every |= {layout.shard(number, one) for one in range(1, generation)}
    return sorted(every, key=segments.order)


class _Walk:
    """One stream, from its first number to its last."""

    def __init__(
        self,
        objects: Objects,
        one: EpochDamage,
        stream: str,
        extent: Extent,
        *,
        sealed: bool,
    ) -> None:
        self._objects = objects
        self._one = one
        self._stream = stream
        self._extent = extent
        self._sealed = sealed
        self._hole: Hole | None = None
        self._at: float | None = None

    async def pieces(self, least: int) -> AsyncIterator[Hole | list[Entry]]:
        last = max({self._extent.segments, least, *self._extent.beyond})
        number, records = 1, list[Record]()
        while number <= last:
            until = self._extent.parts.get(number)
            read = await self._part(number, until) if until else None
            if read is None:
                until, read = number, await self._segment(number)
            number = (until or number) + 1
            if read is None:
                continue
            records = read
            for piece in self._taken(records):
                yield piece
        if self._sealed and not (records and isinstance(records[-1], Seal)):
            self._lose(last + 1, damaged=False)
        if self._hole is not None:
            self._hole.at_end = True
            yield self._end(None)

    def _taken(self, records: list[Record]) -> "list[Hole | list[Entry]]":
        """The entries of a piece that can be read, after the hole before it."""
        entries = [one for one in records if isinstance(one, Entry)]
        ats = [one.at for one in records if isinstance(one, Entry | Seal)]
        added: list[Hole | list[Entry]] = []
        if self._hole is not None:
            added.append(self._end(min(ats, default=math.inf)))
        for entry in entries:
            self._one.submits.add(entry)
            self._at = entry.at
        return [*added, entries] if entries else added

    async def _part(self, first: int, last: int) -> list[Record] | None:
        key = layout.part(self._stream, first, last)
        try:
            return unpack(
                await self._objects.get(key),
                self._objects.uri(key),
                frames=last - first + 1,
            )
        except (DamagedError, MissingError):
            return None

    async def _segment(self, number: int) -> list[Record] | None:
        key = layout.segment(self._stream, number)
        try:
            return unpack(
                await self._objects.get(key), self._objects.uri(key), frames=1
            )
        except MissingError:
            self._lose(number, damaged=False)
        except DamagedError:
            self._lose(number, damaged=True)
        return None

    def _lose(self, number: int, *, damaged: bool) -> None:
        if self._hole is None:
            self._hole = Hole(
                stream=self._stream, first=number, last=number, since=self._at
            )
        self._hole.last = number
        if damaged:
            self._hole.damaged.add(number)

    def _end(self, until: float | None) -> Hole:
        hole, self._hole = self._hole, None
        assert hole is not None  # noqa: S101 - both callers have looked
        hole.until = until if until is not None and math.isfinite(until) else None
        self._one.holes.append(hole)
        return hole
