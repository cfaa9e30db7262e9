"""The files of a checkpoint: made here, then each created once and never changed."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import polars as pl

from manifests.checkpoint import JOBS
from manifests.checkpoint import rows as events
from manifests.job_keys import KEY, keys
from manifests.lifecycle import History
from manifests.parquet import written
from storage import checksum, layout
from storage.ledger import checkpoint
from storage.ledger.checkpoint import KEYS, Checkpoint, File, Kind
from storage.ledger.codec import LedgerError
from storage.objects import DamagedError, ExistsError, Objects

_ROWS: Final = 20_000
"""Rows that are compared at once."""
_GROUP: Final = 20_000
"""Lives that are written at once: about 10 MB."""
_HELD: Final = 100_000
"""Rows of lives that are held in memory: about 50 MB."""
_SPILL: Final = (*JOBS, "spill")
_NOTHING: Final = pl.DataFrame(schema=JOBS)


class JobRows:
    """The rows of an epoch's lives: some in memory, the others in temporary files.

    A life may have several rows; the last that was added counts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[pl.DataFrame] = []
        """Rows of JOBS that the next spill will write."""
        self._spills: list[Path] = []

    def add(self, rows: pl.DataFrame) -> None:
        self._held.append(rows)
        if sum(rows.height for rows in self._held) >= _HELD:
            self._spill()

    def histories(self, lives: Iterable[str]) -> dict[str, History]:
        """The histories of these lives; rows that are added later replace them."""
        self._spill()
        wanted = keys(lives).lazy()
        found: dict[str, History] = {}
        for path in self._spills:
            rows = pl.scan_parquet(path).join(wanted, on=[*KEY], how="semi")
            found |= events.histories(rows.collect())
        return found

    def write_jobs(self, path: Path) -> None:
        """Write the rows by key."""
        known = self._spilled("key")["key"].unique().sort()
        with written(path) as write:
            write(pl.DataFrame(schema=JOBS))
            for some in known.to_frame().iter_slices(_GROUP):
                first, last = pl.lit(some["key"][0]), pl.lit(some["key"][-1])
                rows = self._spilled(
                    *_SPILL, where=pl.col("key").is_between(first, last)
                )
                write(_newest(rows).select(JOBS.names()))

    def write_index(self, path: Path, left: Mapping[str, History]) -> None:
        """Write the state of each life, and the full history of those that are `left`."""
        rows = events.index_rows(left)
        every = _newest(self._spilled(*KEY, "state", "spill"))
        ended = every.join(rows, on=[*KEY], how="anti").select(*KEY, "state")
        rows = pl.concat([rows, ended], how="diagonal").sort(*KEY)
        rows.write_parquet(path)

    def _spill(self) -> None:
        if not self._held:
            return
        path = self._folder / f"spill-{len(self._spills)}"
        # Small groups, so that few of its rows are read for a few keys.
        self._standing().sort(*KEY).write_parquet(path, row_group_size=4096)
        self._spills.append(path)
        self._held = []

    def _standing(self) -> pl.DataFrame:
        """The held rows, with the number of the next spill."""
        number = pl.lit(len(self._spills), pl.UInt32).alias("spill")
        return pl.concat([_NOTHING, *self._held]).with_columns(number)

    def _spilled(self, *columns: str, where: pl.Expr | None = None) -> pl.DataFrame:
        held = self._standing()
        rows = held if where is None else held.filter(where)
        if not self._spills:
            return rows.select(columns)
        spilled = [
            pl.scan_parquet(path).filter(True if where is None else where)
            for path in self._spills
        ]
        return pl.concat([*spilled, rows.lazy()]).select(columns).collect()


def _newest(spilled: pl.DataFrame) -> pl.DataFrame:
    """The last spilled row of each life, sorted by key."""
    rows = spilled.sort(*KEY, "spill")
    return rows.unique([*KEY], keep="last", maintain_order=True)


async def create(objects: Objects, epoch: int, folder: Path) -> Mapping[Kind, File]:
    """Put the files of a folder; returns the files that are under their keys now.

    Raises:
        LedgerError: other rows are there.
    """
    found: dict[Kind, File] = {}
    for kind, key in KEYS.items():
        found[kind] = await _create(objects, key(epoch), folder / kind)
    return found


async def prove(objects: Objects, checkpoint_: Checkpoint) -> None:
    """Put the list of the files. From now on the epoch is read from them.

    Raises:
        LedgerError: another list is there.
    """
    key = layout.checkpoint(checkpoint_.epoch)
    try:
        await objects.create(key, checkpoint_.dump())
    except ExistsError:
        # Another process compacted the same epoch at the same time.
        uri = objects.uri(key)
        there = Checkpoint.load(await objects.get(key), uri)
        if replace(there, latencies={}) != replace(checkpoint_, latencies={}):
            raise LedgerError(f"{uri}: {_OTHER}") from None


async def discard(objects: Objects, epoch: int) -> None:
    """Delete a damaged checkpoint; its list first, so that nobody takes it for whole."""
    await objects.delete(layout.checkpoint(epoch))
    for key in KEYS.values():
        await objects.delete(key(epoch))


async def _create(objects: Objects, key: str, path: Path) -> File:
    try:
        await objects.create_file(key, path)
    except ExistsError:
        # An earlier run, or another release, may have written the same rows as other
        # bytes. Other rows belong to another epoch: accepting them would lose ours.
        return await _same_rows(objects, key, path)
    return await asyncio.to_thread(_file, path)


async def _same_rows(objects: Objects, key: str, path: Path) -> File:
    uri = objects.uri(key)
    with TemporaryDirectory() as folder:
        there = Path(folder) / "there.parquet"
        await objects.get_file(key, there)
        try:
            same = await asyncio.to_thread(_are_same, there, path, uri)
        except DamagedError as error:
            raise LedgerError(f"{error}; {_CURE}") from error
        if not same:
            raise LedgerError(f"{uri}: {_OTHER}")
        return await asyncio.to_thread(_file, there)


_CURE = "move it away: the next run writes it anew from the segments"
_OTHER = f"holds other rows than the segments of its epoch: {_CURE}"


def _are_same(there: Path, path: Path, uri: str) -> bool:
    pairs = zip_longest(_slices(there, uri), _slices(path, str(path)))
    return all(
        one is not None and other is not None and one.equals(other)
        for one, other in pairs
    )


def _slices(path: Path, uri: str) -> Iterator[pl.DataFrame]:
    """A file's rows in slices of one size, whatever its row groups are."""
    held: pl.DataFrame | None = None
    for rows in checkpoint.groups(path, uri):
        held = rows if held is None else pl.concat([held, rows])
        while held.height > _ROWS:
            yield held.head(_ROWS)
            held = held.slice(_ROWS)
    if held is not None:
        yield held


def _file(path: Path) -> File:
    return File(path.stat().st_size, checksum.of_file(path))
