"""Compaction: writes a sealed epoch as Parquet, entry by entry, in little memory.

Lives that have ended leave memory for temporary files, which are merged at the end.
Every entry is applied again, so an illegal transition is found here at the latest.
"""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import polars as pl

from manifests.checkpoint import rows as events
from manifests.checkpoint.rows import EVENTS, JOBS
from manifests.job_keys import KEY, ids, keys
from manifests.lifecycle import Adjusted, Entry, History
from manifests.output.clips import written
from storage.ledger import checkpoint_files, segment_reader
from storage.ledger.checkpoint import Checkpoint, File, Kind
from storage.ledger.earlier_history import histories_before
from storage.ledger.state_index import Book, over
from storage.objects import Objects

_GROUP: Final = 20_000
"""Lives that are written at once: about 10 MB."""
_SPILL: Final = (*JOBS, "spill")
_NOTHING: Final = pl.DataFrame(schema=JOBS)


async def bind(objects: Objects, book: Book) -> None:
    """Compact the epochs that have no checkpoint, oldest first.

    Raises:
        LedgerError: an epoch cannot be read, or holds an illegal transition.
    """
    for epoch in sorted(book.unbound):
        await _bind(objects, book, epoch)
        del book.unbound[epoch]


async def _bind(objects: Objects, book: Book, epoch: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        with written(folder / "events") as write:
            binding = _Binding(folder, book.unbound[epoch], write, objects.root)
            await _fill(objects, epoch, binding)
        await asyncio.to_thread(binding.write_jobs, folder / "jobs")
        await asyncio.to_thread(binding.write_index, folder / "index")
        streams = await segment_reader.extents(objects, epoch)
        if epoch in book.rebuild:
            # Only now: its segments were read in full, and can replace the checkpoint.
            await checkpoint_files.discard(objects, epoch)
            book.rebuild.remove(epoch)
        files = await checkpoint_files.create(objects, epoch, folder)
        await checkpoint_files.prove(
            objects, binding.summary(epoch, streams=streams, files=files)
        )


async def _fill(objects: Objects, epoch: int, binding: "_Binding") -> None:
    async for some in segment_reader.written(objects, epoch):
        if wanted := await asyncio.to_thread(binding.wanted, some):
            binding.add(await histories_before(objects, wanted, before=epoch))
        await asyncio.to_thread(binding.take, some)


class _Binding:
    """One epoch while it is compacted."""

    def __init__(
        self,
        folder: Path,
        lives: Mapping[str, History],
        write: Callable[[pl.DataFrame], None],
        root: str,
    ) -> None:
        self._folder = folder
        self._write = write
        self._root = root
        self._book = Book()
        self._book.lives = dict(lives)
        self._touched = set[str]()
        """The lives in memory that this epoch has entries of."""
        self._held: list[pl.DataFrame] = []
        """Rows of JOBS that the next spill will write."""
        self._spills: list[Path] = []
        self._span = math.inf, -math.inf
        write(pl.DataFrame(schema=EVENTS))

    def wanted(self, some: Sequence[Entry]) -> set[str]:
        """The lives of these entries whose earlier history must be read first."""
        new = {entry.job for entry in some} - self._book.lives.keys()
        left = self._book.forgotten(keys(new))
        if not left.is_empty():
            self._bring_back(left)
        return {*ids(left), *_settled_at_once(some)} - self._book.lives.keys()

    def add(self, lives: Mapping[str, History]) -> None:
        """Add lives as they stood before the epoch."""
        self._book.lives |= lives

    def take(self, some: Sequence[Entry]) -> None:
        """Apply the next entries."""
        self._write(events.event_rows(some))
        for entry in some:
            history = segment_reader.after(self._book.lives, entry, self._root)
            self._book.keep(entry.job, history)
        first, last = self._span
        times = [entry.at for entry in some]
        self._span = min([first, *times]), max([last, *times])
        touched = {entry.job for entry in some}
        gone = {*over(self._book.lives, touched)}
        self._hold(gone)
        self._touched = (self._touched | touched) - gone
        self._book.forget(gone)

    def write_jobs(self, path: Path) -> None:
        """Write the lives that were touched, by key."""
        self._hold(self._touched)
        known = self._spilled("key")["key"].unique().sort()
        with written(path) as write:
            write(pl.DataFrame(schema=JOBS))
            for some in known.to_frame().iter_slices(_GROUP):
                first, last = pl.lit(some["key"][0]), pl.lit(some["key"][-1])
                rows = self._spilled(
                    *_SPILL, where=pl.col("key").is_between(first, last)
                )
                write(_newest(rows).select(JOBS.names()))

    def write_index(self, path: Path) -> None:
        """Write the state of each life, and the full rows of those that have not ended."""
        rows = events.index_rows(
            {life: self._book.lives[life] for life in self._touched}
        )
        left = _newest(self._spilled(*KEY, "state", "spill"))
        ended = left.join(rows, on=[*KEY], how="anti").select(*KEY, "state")
        rows = pl.concat([rows, ended], how="diagonal").sort(*KEY)
        rows.write_parquet(path)

    def summary(
        self, epoch: int, *, streams: Mapping[str, int], files: Mapping[Kind, File]
    ) -> Checkpoint:
        """The epoch's checkpoint: times, latencies, streams and files."""
        first, last = (at if math.isfinite(at) else None for at in self._span)
        return Checkpoint(
            epoch=epoch,
            first=first,
            last=last,
            latencies={lane: [*took] for lane, took in self._book.latencies.items()},
            streams=streams,
            files=files,
        )

    def _hold(self, lives: set[str]) -> None:
        if not lives:
            return
        self._held.append(
            events.job_rows({one: self._book.lives[one] for one in lives})
        )
        if sum(rows.height for rows in self._held) >= _GROUP:
            self._spill()

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

    def _bring_back(self, lives: pl.DataFrame) -> None:
        """Read lives back from the spill files."""
        self._spill()
        for path in self._spills:
            rows = pl.scan_parquet(path).join(lives.lazy(), on=[*KEY], how="semi")
            found = events.histories(rows.collect())
            self._book.lives |= found
            self._touched |= found.keys()


def _newest(spilled: pl.DataFrame) -> pl.DataFrame:
    """The last spilled row of each life, sorted by key."""
    rows = spilled.sort(*KEY, "spill")
    return rows.unique([*KEY], keep="last", maintain_order=True)


def _settled_at_once(some: Sequence[Entry]) -> Iterator[str]:
    """The lives whose first entry here is a settlement."""
    seen = set[str]()
    for entry in some:
        if entry.job not in seen and isinstance(entry.event, Adjusted):
            yield entry.job
        seen.add(entry.job)
