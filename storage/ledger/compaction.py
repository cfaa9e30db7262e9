"""Compaction: writes a sealed epoch as Parquet, block by block, in little memory.

The lines of a job are collected until it ends. Then its row leaves memory for temporary
files, which are merged at the end. Most jobs are published at their first submit: their
rows are made from their four lines, many at once. The lines of all other jobs are folded,
entry by entry, so an illegal transition is found here at the latest.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import polars as pl

from manifests.checkpoint import EVENTS
from manifests.checkpoint import rows as events
from manifests.job_keys import KEY
from manifests.lifecycle import (
    NEW,
    Accepted,
    Adjusted,
    Entry,
    Generated,
    History,
    IllegalTransitionError,
    Intended,
    Published,
    Rejected,
    Unplayable,
)
from manifests.parquet import written
from storage.ledger import checkpoint_files, segment_reader
from storage.ledger.checkpoint import Checkpoint, File, Kind
from storage.ledger.checkpoint_files import JobRows
from storage.ledger.codec import LINES, EntryLine, LedgerError, record
from storage.ledger.earlier_history import histories_before
from storage.ledger.replay import Took, took
from storage.ledger.state_index import StateIndex
from storage.objects import Objects

_AT_ONCE: Final = 25_000
"""Lines that are written at once."""

_KINDS: Final[Mapping[type[Any], type[Any]]] = {
    line: kind for kind, line in LINES.items()
}
_ENDS: Final = frozenset({LINES[kind] for kind in (Published, Rejected, Unplayable)})
_MADE: Final = [LINES[kind] for kind in (Intended, Accepted, Generated, Published)]
"""The lines of a job that is published at its first submit."""
_ADJUSTED: Final = LINES[Adjusted]


async def bind(objects: Objects, state_index: StateIndex) -> None:
    """Compact the epochs that have no checkpoint, oldest first.

    Raises:
        LedgerError: an epoch cannot be read, or holds an illegal transition.
    """
    for epoch in sorted(state_index.unbound):
        await _bind(objects, state_index, epoch)
        del state_index.unbound[epoch]


async def _bind(objects: Objects, state_index: StateIndex, epoch: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        place = f"{objects.root}: epoch {epoch}"
        with written(folder / "events") as write:
            tables = _Tables(folder, state_index.unbound[epoch], write, place=place)
            await _fill(objects, epoch, tables)
        await asyncio.to_thread(tables.write, folder)
        streams = await segment_reader.extents(objects, epoch)
        if epoch in state_index.rebuild:
            # Only now: its segments were read in full, and can replace the checkpoint.
            await checkpoint_files.discard(objects, epoch)
            state_index.rebuild.remove(epoch)
        files = await checkpoint_files.create(objects, epoch, folder)
        await checkpoint_files.prove(
            objects, tables.summary(epoch, streams=streams, files=files)
        )


async def _fill(objects: Objects, epoch: int, tables: "_Tables") -> None:
    async for block in segment_reader.decoded(objects, epoch):
        lines = [line for line in block if type(line) in _KINDS]
        for first in range(0, len(lines), _AT_ONCE):
            some = cast("list[EntryLine]", lines[first : first + _AT_ONCE])
            if wanted := await asyncio.to_thread(tables.wanted, some):
                tables.add(await histories_before(objects, wanted, before=epoch))
            await asyncio.to_thread(tables.take, some)


class _Tables:
    """One epoch's tables while they are written."""

    def __init__(
        self,
        folder: Path,
        lives: Mapping[str, History],
        write: Callable[[pl.DataFrame], None],
        *,
        place: str,
    ) -> None:
        self._rows = JobRows(folder)
        self._write = write
        self._place = place
        self._before = dict(lives)
        """Full histories without the lines that are in `_lines`."""
        self._again = set[str]()
        """The lives among them that had ended."""
        self._lines: dict[str, list[EntryLine]] = {}
        """The lines of each job that has not ended."""
        self._state_index = StateIndex()
        """The lives that ended in this epoch."""
        self._span = math.inf, -math.inf
        write(pl.DataFrame(schema=EVENTS))

    def wanted(self, some: Sequence[EntryLine]) -> set[str]:
        """The lives of these lines whose earlier history must be read first."""
        here = {line.job for line in some}
        new = [
            one for one in here if one not in self._lines and one not in self._before
        ]
        if ended := self._state_index.forgotten(new):
            self.add(self._rows.histories(ended))
        return {*_adjusted_at_once(some)} - self._before.keys() - self._lines.keys()

    def add(self, lives: Mapping[str, History]) -> None:
        """Add lives that ended before this epoch."""
        self._before |= lives
        self._again |= lives.keys()

    def take(self, some: Sequence[EntryLine]) -> None:
        """Take the next lines."""
        rows = self._event_rows(some)
        self._write(rows)
        first, last = self._span
        times = rows["unix"].to_list()
        self._span = min(first, *times), max(last, *times)
        ended: list[str] = []
        for line in some:
            job = line.job
            if (steps := self._lines.get(job)) is None:
                self._lines[job] = [line]
            else:
                steps.append(line)
            if type(line) in _ENDS:
                ended.append(job)
        ended += self._again & self._lines.keys()
        self._end({job: self._lines.pop(job) for job in dict.fromkeys(ended)})

    def write(self, folder: Path) -> None:
        """Write the tables of jobs and of states, once all lines were taken."""
        self._keep_latencies(self._clips(self._lines))
        left = {job: self._folded(job, steps) for job, steps in self._lines.items()}
        self._rows.add(events.job_rows(left))
        self._rows.write_jobs(folder / "jobs")
        self._rows.write_index(folder / "index", left)

    def summary(
        self, epoch: int, *, streams: Mapping[str, int], files: Mapping[Kind, File]
    ) -> Checkpoint:
        """The epoch's checkpoint: times, latencies, streams and files."""
        first, last = (at if math.isfinite(at) else None for at in self._span)
        return Checkpoint(
            epoch=epoch,
            first=first,
            last=last,
            latencies={
                lane: [*took] for lane, took in self._state_index.latencies.items()
            },
            streams=streams,
            files=files,
        )

    def _event_rows(self, some: Sequence[EntryLine]) -> pl.DataFrame:
        rows = events.line_rows(some, _KINDS)
        if rows is not None:
            return rows
        entries = (record(line, self._place) for line in some)
        return events.event_rows([one for one in entries if isinstance(one, Entry)])

    def _end(self, ended: Mapping[str, list[EntryLine]]) -> None:
        """Make the rows of lives that have ended."""
        made = {
            job: cast("Any", steps)
            for job, steps in ended.items()
            if [*map(type, steps)] == _MADE and job not in self._before
        }
        if (rows := events.made_rows(made) if made else None) is None:
            made = {}
        else:
            self._hold(rows)
        others = {job: steps for job, steps in ended.items() if job not in made}
        self._keep_latencies(
            [*filter(None, map(_clip, made.values())), *self._clips(others)]
        )
        if others:
            folded = {job: self._folded(job, steps) for job, steps in others.items()}
            self._hold(events.job_rows(folded))
        self._again -= ended.keys()

    def _folded(self, job: str, steps: Iterable[EntryLine]) -> History:
        """The history of a life after these lines; it leaves `_before`."""
        history = self._before.pop(job, NEW)
        for line in steps:
            entry = record(line, self._place)
            if isinstance(entry, Entry):
                try:
                    history = history.after(entry)
                except IllegalTransitionError as error:
                    raise LedgerError(f"{self._place}: {error}") from error
        return history

    def _hold(self, rows: pl.DataFrame) -> None:
        self._state_index.learn(rows.select(*KEY, "state"))
        self._rows.add(rows)

    def _clips(self, lives: Mapping[str, Sequence[EntryLine]]) -> list[Took]:
        known = (took(steps, self._before.get(job)) for job, steps in lives.items())
        return [one for one in known if one is not None]

    def _keep_latencies(self, clips: Iterable[Took]) -> None:
        for _, lane, seconds in sorted(clips):
            self._state_index.latencies[lane].append(seconds)


def _adjusted_at_once(some: Sequence[EntryLine]) -> Iterator[str]:
    """The lives whose first line here is an adjustment."""
    if _ADJUSTED not in {*map(type, some)}:
        return
    seen = set[str]()
    for line in some:
        if line.job not in seen and type(line) is _ADJUSTED:
            yield line.job
        seen.add(line.job)


def _clip(made: tuple[Any, Any, Any, Any]) -> Took | None:
    """How long the provider took for a job that was published at its first submit."""
    intended, accepted, generated, _ = made
    seconds = generated.at - accepted.at
    return (generated.at, intended.lane, seconds) if seconds > 0 else None
