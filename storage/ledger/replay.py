"""Replays an epoch that has no checkpoint, as after a crash, into the state index.

Most jobs of an epoch have ended in it, and of those only the state is kept. So the lines
of a job are collected, not folded: a line that ends the job drops them all, and only the
jobs that are left at the end are folded, event by event. Compaction finds out later
whether every step was legal.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import polars as pl

from manifests.job_keys import keys
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
)
from storage.ledger.codec import LINES, EntryLine, LedgerError, Line, record
from storage.ledger.segment_reader import after
from storage.ledger.state_index import Book

_ID: Final = re.compile("[0-9a-f]{32}")
_INTENDED, _ACCEPTED, _GENERATED, _SETTLED = (
    LINES[kind] for kind in (Intended, Accepted, Generated, Adjusted)
)
_ENDS: Final[Mapping[type[Line], State]] = {
    LINES[Published]: State.PUBLISHED,
    LINES[Rejected]: State.REJECTED,
}

Took = tuple[float, str, float]
"""When a clip was ready, its lane, and the seconds since it was accepted."""


class Replay:
    """Reads one epoch into a state index, block by block."""

    def __init__(self, index: Book, root: str, epoch: int) -> None:
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
            if not isinstance(line, EntryLine):
                continue
            if type(line) is _SETTLED:
                self._settle(line, ended)
                continue
            job = line.job
            if job in ended:
                raise self._goes_on(line, ended[job])
            steps = self._open.get(job)
            if steps is None:
                steps = self._open[job] = []
                if job not in self._index.lives:
                    first[job] = line
            steps.append(line)
            if (state := _ENDS.get(type(line))) is not None:
                ended[job] = state
                known = self._index.lives.get(job)
                if (clip := took(self._open.pop(job), known)) is not None:
                    clips.append(clip)
        self._refuse_ended(first)
        self._forget(ended)
        for _, lane, seconds in sorted(clips):
            self._index.latencies[lane].append(seconds)

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

    def _settle(self, line: EntryLine, ended: Mapping[str, State]) -> None:
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
