"""Bound epochs: what an epoch that is over came to, as three Parquet objects.

ledger/events/epoch=000003/part-0.parquet    its entries, in order
ledger/jobs/epoch=000003/part-0.parquet      each life it touched, as it stood after it
ledger/index/000003.parquet                  their states; written last
"""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import polars as pl

from manifests.checkpoint import rows as events
from manifests.job_keys import KEY, keys
from manifests.lifecycle import NEW, Entry, History, IllegalTransitionError
from storage import layout
from storage.ledger import segments
from storage.ledger.codec import LedgerError, plain, read
from storage.objects.client import Objects

_ParquetFile: Final[Any] = import_module("pyarrow.parquet").ParquetFile

_BYTES: Final = 64 << 20
"""Of indexes on their way at once..."""
_REQUESTS: Final = 64
"""... and how many they may be."""
_CHUNK: Final = 1 << 20
"""Compressed bytes of entries that are read as one..."""
_AT_ONCE: Final = 10_000
"""... and how many of them are made at once."""


@dataclass(frozen=True, slots=True)
class Index:
    """What is known of a bound epoch without opening its volumes."""

    rows: pl.DataFrame
    first: float | None
    """When its first entry was recorded, if it has one."""
    last: float | None
    latencies: Mapping[str, Sequence[float]]

    @classmethod
    def load(cls, data: bytes, uri: str) -> "Index":
        try:
            said: dict[str, Any] = json.loads(pl.read_parquet_metadata(data)["about"])
            return cls(pl.read_parquet(data).select(events.INDEX.names()), **said)
        except (pl.exceptions.PolarsError, KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"{uri}: not an index: {error}") from error

    def write(self, path: Path) -> None:
        about = {"first": self.first, "last": self.last, "latencies": self.latencies}
        self.rows.write_parquet(path, metadata={"about": json.dumps(about)})


async def sizes(objects: Objects) -> dict[int, int]:
    """The epochs that are bound, and how large their indexes are."""
    found = {one.key: one.size async for one in objects.list(layout.INDEXES)}
    return {int(Path(key).stem): size for key, size in sorted(found.items())}


async def index(objects: Objects, epoch: int) -> Index:
    key = layout.index(epoch)
    data = await objects.get(key)
    return await asyncio.to_thread(Index.load, data, objects.uri(key))


async def indexes(
    objects: Objects, sizes: Mapping[int, int]
) -> AsyncIterator[tuple[int, Index]]:
    """The indexes of these epochs, in this order; as many at once as are little memory."""
    for some in _batches(sizes):
        found = await segments.each(
            lambda epoch: objects.get(layout.index(epoch)), some
        )
        for epoch, data in zip(some, found, strict=True):
            uri = objects.uri(layout.index(epoch))
            yield epoch, await asyncio.to_thread(Index.load, data, uri)


async def volume(
    objects: Objects, key: str, wanted: pl.DataFrame | None = None
) -> AsyncIterator[pl.DataFrame]:
    """A volume's rows, some at a time; only of these lives, where they are given."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "volume.parquet"
        await objects.get_file(key, path)
        groups = _groups(path, wanted)
        while (rows := await asyncio.to_thread(next, groups, None)) is not None:
            yield rows


async def chunks(objects: Objects, epoch: int) -> AsyncIterator[bytes]:
    """An epoch's records in order, compressed, in pieces that are worth a thread's while."""
    some: list[bytes] = []
    async for blob in segments.blobs(objects, epoch):
        some.append(blob)
        if sum(map(len, some)) >= _CHUNK:
            yield b"".join(some)
            some = []
    if some:
        yield b"".join(some)


async def written(objects: Objects, epoch: int) -> AsyncIterator[list[Entry]]:
    """An epoch's entries in order, from what was written before it was bound."""
    place = f"{objects.root}: epoch {epoch}"
    async for chunk in chunks(objects, epoch):
        lines = io.BytesIO(await asyncio.to_thread(plain, chunk, place))
        while (found := await asyncio.to_thread(_entries, lines, place)) is not None:
            if found:
                yield found


async def past(objects: Objects, lives: set[str], *, before: int) -> dict[str, History]:
    """How these lives stood before an epoch, whole; it takes its time."""
    found: dict[str, History] = {}
    bound = [epoch for epoch in await sizes(objects) if epoch < before]
    for epoch in reversed(bound):
        if not (missing := lives - found.keys()):
            break
        found |= await _told(objects, epoch, keys(missing))
    for epoch in range(max(bound, default=0) + 1, before):
        async for some in written(objects, epoch):
            for entry in some:
                if entry.job in lives:
                    found[entry.job] = after(found, entry, objects.root)
    return found


def after(lives: Mapping[str, History], entry: Entry, root: str) -> History:
    """A life with one more entry.

    Raises:
        LedgerError: it cannot have happened.
    """
    try:
        return lives.get(entry.job, NEW).after(entry)
    except IllegalTransitionError as error:
        raise LedgerError(f"{root}: {error}") from error


async def _told(
    objects: Objects, epoch: int, lives: pl.DataFrame
) -> dict[str, History]:
    here = (await index(objects, epoch)).rows.join(lives, on=[*KEY], how="semi")
    if here.is_empty():
        return {}
    found = events.whole(here)
    async for rows in volume(objects, layout.jobs(epoch), lives):
        found |= events.histories(rows)
    return found


def _entries(lines: io.BytesIO, place: str) -> list[Entry] | None:
    """The next few entries; None if there are no lines left."""
    some = [*islice(lines, _AT_ONCE)]
    records = [read(line, place) for line in some]
    return [one for one in records if isinstance(one, Entry)] if some else None


def _groups(path: Path, wanted: pl.DataFrame | None) -> Iterator[pl.DataFrame]:
    # Without pre_buffer=False pyarrow holds every byte of the file that it has read.
    with _ParquetFile(path, pre_buffer=False) as file:
        for number in range(file.num_row_groups):
            rows: pl.DataFrame = cast("Any", pl).from_arrow(file.read_row_group(number))
            if wanted is not None:
                rows = rows.join(wanted, on=[*KEY], how="semi", maintain_order="left")
            yield rows


def _batches(sizes: Mapping[int, int]) -> Iterator[list[int]]:
    some: list[int] = []
    held = 0
    for epoch, size in sizes.items():
        if some and (held + size > _BYTES or len(some) == _REQUESTS):
            yield some
            some, held = [], 0
        some.append(epoch)
        held += size
    if some:
        yield some
