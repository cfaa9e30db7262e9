"""Builds the state index from older epochs: by their checkpoints, or by replay.

An epoch that has no checkpoint, as after a crash, is replayed from its segments. Most jobs of an epoch have ended in it, and of those only the state is kept. So the lines
of a job are collected, not folded: a line that ends the job drops them all, and only the
jobs that are left at the end are folded, event by event. Compaction finds out later
whether every step was legal.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import polars as pl

from manifests.checkpoint import rows as events
from manifests.job_keys import KEY, ids, keys
from manifests.lifecycle import (
    Accepted,
    Adjusted,
    Entry,
    Generated,
    History,
    Intended,
    Published,
    Rejected,
    State,
    Unplayable,
)
from storage.ledger import checkpoint, segments
from storage.ledger.checkpoint import Checkpoint
from storage.ledger.codec import LINES, EntryLine, LedgerError, Line, record
from storage.ledger.segment_reader import after, decoded, written
from storage.ledger.state_index import RECENT_S, RecordedSubmit, StateIndex
from storage.objects import DamagedError, Objects

_ID: Final = re.compile("[0-9a-f]{32}")
_INTENDED, _ACCEPTED, _GENERATED, _ADJUSTED = (
    LINES[kind] for kind in (Intended, Accepted, Generated, Adjusted)
)
_ENDS: Final[Mapping[type[Line], State]] = {
    LINES[Published]: State.PUBLISHED,
    LINES[Rejected]: State.REJECTED,
    LINES[Unplayable]: State.UNPLAYABLE,
}

Took = tuple[float, str, float]
"""When a clip was ready, its lane, and the seconds since it was accepted."""


async def recall(objects: Objects, *, whole: bool = False) -> StateIndex:
    """The state index of the root; `whole`: with the full histories of ended jobs too.

    Raises:
        LedgerError, DamagedError: the ledger cannot be read.
    """
    everyone = range(1, await segments.claimed(objects) + 1)
    return await recalled(objects, everyone, whole=whole)


async def histories(objects: Objects) -> Mapping[str, History]:
    """Every life's history, as far as it is on record."""
    return (await recall(objects, whole=True)).lives


async def recalled(
    objects: Objects, older: Sequence[int], *, whole: bool = False
) -> StateIndex:
    """The state index after these epochs, read in order; `whole`: every life in full.

    Raises:
        DamagedError: it cannot be read.
        LedgerError: it cannot have happened.
    """
    state_index = StateIndex()
    known = await _checkpoints(objects, older, state_index)
    indexes = checkpoint.indexes(objects, [] if whole else known.values())
    for epoch in older:
        one = known.get(epoch)
        if one is not None:
            data = None if whole else (await anext(indexes))[1]
            try:
                await _take(objects, state_index, one, data, whole=whole)
                continue
            except DamagedError as error:
                await checkpoint.fall_back(objects, epoch, one, error)
                state_index.rebuild.add(epoch)
        state_index.begin(epoch)
        await (_fold if whole else _replay)(objects, state_index, epoch)
    return state_index


async def _checkpoints(
    objects: Objects, older: Sequence[int], state_index: StateIndex
) -> dict[int, Checkpoint]:
    """The checkpoints of these epochs; damaged ones are noted in `state_index.rebuild`."""
    compacted = {*await checkpoint.compacted(objects)}
    asked = [epoch for epoch in older if epoch in compacted]
    found = await segments.each(lambda epoch: checkpoint.load(objects, epoch), asked)
    known = {one.epoch: one for one in found if one is not None}
    state_index.rebuild |= {*asked} - known.keys()
    return known


async def _take(
    objects: Objects,
    state_index: StateIndex,
    known: Checkpoint,
    index: bytes | DamagedError | None,
    *,
    whole: bool,
) -> None:
    if whole:
        async for rows in checkpoint.volume(objects, known, "jobs"):
            state_index.lives |= await asyncio.to_thread(events.histories, rows)
    else:
        async for rows in checkpoint.index(objects, known, index):
            await asyncio.to_thread(_learn, state_index, rows)
    if known.last is not None:
        state_index.ended[known.epoch] = known.last
    for lane, took in known.latencies.items():
        state_index.latencies[lane].extend(took)


def _learn(state_index: StateIndex, rows: pl.DataFrame) -> None:
    over = rows.filter(pl.col("whole").is_null())
    state_index.learn(over)
    gone = keys(state_index.lives).join(over, on=[*KEY], how="semi")
    for life in ids(gone):
        del state_index.lives[life]
    state_index.lives |= events.whole(rows)


async def _replay(objects: Objects, state_index: StateIndex, epoch: int) -> None:
    replay = _Replay(state_index, objects.root, epoch)
    async for block in decoded(objects, epoch):
        await asyncio.to_thread(replay.take, block)
    await asyncio.to_thread(replay.end)


async def _fold(objects: Objects, state_index: StateIndex, epoch: int) -> None:
    async for some in written(objects, epoch):
        for entry in some:
            state_index.keep(entry.job, after(state_index.lives, entry, objects.root))


class _Replay:
    """Reads one epoch into a state index, block by block."""

    def __init__(self, index: StateIndex, root: str, epoch: int) -> None:
        self._index = index
        self._root = root
        self._place = f"{root}: epoch {epoch}"
        self._open: dict[str, list[EntryLine]] = {}
        """The lines in this epoch of each job that has not ended."""

    def take(self, block: Sequence[Line]) -> None:
        """Apply the next lines.

        Raises:
            LedgerError: a job that had ended goes on, or a line has no job's id.
        """
        ended: dict[str, State] = {}
        first: dict[str, EntryLine] = {}
        clips: list[Took] = []
        for line in block:
            kind = type(line)
            if kind is _ADJUSTED:
                self._adjust(cast("EntryLine", line), ended)
                continue
            if not isinstance(line, EntryLine):
                continue
            # A job has collected lines until it ends, so it cannot have ended before.
            steps = self._open.get(line.job)
            if steps is None:
                steps = self._begin(line, first, ended)
            steps.append(line)
            if (state := _ENDS.get(kind)) is not None:
                ended[line.job] = state
                known = self._index.lives.get(line.job)
                if (clip := took(self._open.pop(line.job), known)) is not None:
                    clips.append(clip)
        self._refuse_ended(first)
        self._forget(ended)
        self._remember(block)
        for _, lane, seconds in sorted(clips):
            self._index.latencies[lane].append(seconds)

    def _begin(
        self,
        line: EntryLine,
        first: dict[str, EntryLine],
        ended: Mapping[str, State],
    ) -> list[EntryLine]:
        """Collect the lines of a job that this epoch has not shown, or has shown ended."""
        job = line.job
        if job in ended:
            raise self._goes_on(line, ended[job])
        if job not in self._index.lives:
            first[job] = line
        steps = self._open[job] = []
        return steps

    def _remember(self, block: Sequence[Line]) -> None:
        """Note the latest submits: they still count for the minute of their account."""
        submits = cast("list[Any]", [line for line in block if type(line) is _INTENDED])
        if not submits:
            return
        since = max(line.at for line in submits) - RECENT_S
        for line in submits:
            if line.at >= since:
                self._index.submits.add(RecordedSubmit(line.at, line.lane, line.route))

    def end(self) -> None:
        """Fold the jobs that have not ended.

        Raises:
            LedgerError: their events are in an order that cannot have happened.
        """
        for steps in self._open.values():
            for line in steps:
                entry = record(line, self._place)
                if isinstance(entry, Entry):
                    history = after(self._index.lives, entry, self._root)
                    self._index.keep(entry.job, history)

    def _adjust(self, line: EntryLine, ended: Mapping[str, State]) -> None:
        """Keep a price adjustment if the job has not ended; of ended jobs only states count."""
        if (steps := self._open.get(line.job)) is not None:
            steps.append(line)
        elif line.job in self._index.lives and line.job not in ended:
            self._open[line.job] = [line]

    def _refuse_ended(self, first: Mapping[str, EntryLine]) -> None:
        for job in first:
            if _ID.fullmatch(job) is None:
                raise LedgerError(f"{self._place}: {job!r} is no job's id")
        for job in self._index.forgotten(first):
            raise self._goes_on(first[job], self._index.history(job).state)

    def _goes_on(self, line: EntryLine, state: State) -> LedgerError:
        kind = type(line).__struct_config__.tag
        return LedgerError(f"{self._root}: job {line.job}: {kind} while {state}")

    def _forget(self, ended: Mapping[str, State]) -> None:
        if not ended:
            return
        values = [state.value for state in ended.values()]
        states = pl.Series("state", values, pl.String)
        self._index.learn(keys(ended).with_columns(states))
        for job in ended:
            self._index.lives.pop(job, None)


def took(steps: Iterable[EntryLine], known: History | None) -> Took | None:
    """How long the provider took, if the job was accepted in this epoch.

    `known` is its history before these lines. For a job that was accepted earlier, only
    the time of our poll is on record.
    """
    lane = None if known is None else known.lane
    accepted = generated = None
    for line in steps:
        kind = type(line)
        if kind is _INTENDED:
            lane = cast("str", cast("Any", line).lane)
        elif kind is _ACCEPTED:
            accepted = line.at
        elif kind is _GENERATED:
            generated = line.at
    if lane is None or accepted is None or generated is None:
        return None
    return (generated, lane, generated - accepted) if generated > accepted else None
