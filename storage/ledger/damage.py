"""The damage below a root: every object that a reader of the ledger would miss or refuse.

It reads what a run reads, and goes on where a run stops. It writes nothing.
"""

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from manifests.lifecycle import Entry
from storage import layout
from storage.ledger import missing, root, segments
from storage.ledger.bridge import Submits
from storage.ledger.checkpoint import KEYS, Checkpoint
from storage.ledger.codec import Record, Seal, unpack
from storage.ledger.owner import Holder
from storage.ledger.segments import MAIN, Extent
from storage.objects import DamagedError, MissingError, Objects

Kind = Literal["root", "claim", "segment", "checkpoint"]

_CURES: Final[Mapping[Kind, str]] = {
    "root": "write it again",
    "claim": "write it again",
    "segment": "put a record of the loss in its place",
    "checkpoint": "the next run writes it again from the segments",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """An object that is missing, or that is not what was written."""

    kind: Kind
    key: str
    missing: bool
    epoch: int | None = None

    @property
    def cure(self) -> str:
        return _CURES[self.kind]


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


@dataclass(slots=True)
class Survey:
    """Everything that is missing or damaged below a root."""

    damages: list[Damage] = field(default_factory=list[Damage])
    claims: dict[int, str] = field(default_factory=dict[int, str])
    """The batches whose claims must be written again, by epoch."""
    epochs: list[EpochDamage] = field(default_factory=list[EpochDamage])
    newest: int = 0

    @property
    def bad(self) -> list[Damage]:
        """The damages that the next run does not repair by itself."""
        return [one for one in self.damages if one.kind != "checkpoint"]

    def add(self, kind: Kind, key: str, error: Exception | None, epoch: int) -> None:
        lost = error is None or isinstance(error, MissingError)
        self.damages.append(Damage(kind=kind, key=key, missing=lost, epoch=epoch))


async def survey_root(objects: Objects) -> Survey:
    """Look at every object that the ledger is read from.

    Raises:
        RootError: the root has another format.
        LedgerError: another version of Nightreel wrote a record.
    """
    found = Survey()
    try:
        identity = await root.read(objects)
        lost: Exception | None = None
    except DamagedError as error:
        identity, lost = None, error
    if identity is None and (lost or await root.ours(objects)):
        found.add("root", layout.ROOT, lost, 0)
    traces = await missing.traces(objects)
    batches = await _claims(objects, found, traces)
    for epoch, batch in sorted(batches.items()):
        await _epoch(objects, found, epoch, batch, traces)
    return found


async def _claims(
    objects: Objects, found: Survey, traces: Mapping[int, str]
) -> dict[int, str]:
    """The batch of each epoch, by its claim or else by its traces."""
    keys = [stored.key async for stored in objects.list(layout.CLAIMS)]
    claims = {missing.epoch_of(key) for key in keys}
    found.newest = max({*claims, *traces, 0})
    if not claims and not traces:
        found.newest = await _told_by_tables(objects)
    batches = dict[int, str]()
    for epoch in range(1, found.newest + 1):
        key, error = layout.claim(epoch), None
        try:
            data = await objects.get(key)
            batches[epoch] = Holder.load(data, objects.uri(key)).batch
            continue
        except (MissingError, DamagedError) as caught:
            error = caught
        found.add("claim", key, error, epoch)
        folder = traces.get(epoch, "").rpartition("/")[2]
        known = layout.EPOCH.fullmatch(folder)
        batches[epoch] = folder if known else f"{epoch:06d}-repaired"
        found.claims[epoch] = batches[epoch]
    return batches


async def _told_by_tables(objects: Objects) -> int:
    """The newest epoch that has a table; 1 if only clips are left, 0 if nothing is."""
    newest = 0
    async for stored in objects.list(layout.TABLES):
        if table := layout.TABLE.fullmatch(stored.key):
            newest = max(newest, int(table["epoch"]))
    return newest or int(await root.ours(objects) is not None)


async def _epoch(
    objects: Objects, found: Survey, epoch: int, batch: str, traces: Mapping[int, str]
) -> None:
    one = EpochDamage(epoch=epoch, batch=batch)
    broken = await _checkpoint(objects, found, one)
    if one.known is not None and not broken:
        return
    one.certain = one.known is not None and not broken & {"index", "jobs"}
    one.lost = epoch in found.claims and epoch not in traces
    async for _ in read(objects, one):
        pass
    found.epochs += [one] if one.holes or one.lost else []
    for hole in one.holes:
        for number in range(hole.first, hole.last + 1):
            key = layout.segment(hole.stream, number)
            error = DamagedError() if number in hole.damaged else None
            found.add("segment", key, error, epoch)


async def _checkpoint(objects: Objects, found: Survey, one: EpochDamage) -> set[str]:
    """Read an epoch's checkpoint; returns the files of it that are not whole."""
    key = layout.checkpoint(one.epoch)
    try:
        known = Checkpoint.load(await objects.get(key), objects.uri(key))
    except MissingError:
        return set()
    except DamagedError as error:
        one.listed = True
        found.add("checkpoint", key, error, one.epoch)
        return set()
    one.listed, one.known, broken = True, known, set[str]()
    for kind, file in known.files.items():
        key = KEYS[kind](one.epoch)
        if (error := await _why_other(objects, key, file.sha256)) is not None:
            broken.add(kind)
            found.add("checkpoint", key, error, one.epoch)
    return broken


async def _why_other(objects: Objects, key: str, sha256: str) -> Exception | None:
    with TemporaryDirectory() as folder:
        try:
            digest = await objects.get_file(key, Path(folder) / "file")
        except MissingError as error:
            return error
    return None if digest == sha256 else DamagedError(key)


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
