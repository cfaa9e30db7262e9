"""Runs: states by key in sorted arrays, 17 bytes a life, in memory only.

New states form small runs, and small runs are merged into larger ones. So there are few
runs to search, and none is too large to be merged at once.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import polars as pl

from manifests.job_keys import KEY
from manifests.lifecycle import State

STATES: Final = pl.Enum([state.value for state in State])

_STATE: Final = tuple(State)
"""The states by their number in a run."""


@dataclass(frozen=True, slots=True)
class _Run:
    rows: pl.DataFrame
    """The columns key, also, state; sorted by key."""
    alike: int
    """The most lives that share a key: 1, unless ids were not drawn at random."""
    key: memoryview
    also: memoryview
    state: memoryview

    @classmethod
    def of(cls, rows: pl.DataFrame) -> "_Run":
        rows = rows.rechunk()
        same = (rows["key"] == rows["key"].shift()).any()
        alike = rows["key"].value_counts()["count"].max() if same else 1
        key, also = (_memory(rows[name], "Q") for name in KEY)
        state = _memory(rows["state"].to_physical(), "B")
        return cls(rows, cast("int", alike), key, also, state)

    def get(self, key: int, also: int) -> State | None:
        place = bisect_left(self.key, key)
        while place < len(self.key) and self.key[place] == key:
            if self.also[place] == also:
                return _STATE[self.state[place]]
            place += 1
        return None

    def states(self, keys: pl.DataFrame) -> pl.Series:
        """The states of these keys, which are sorted; null where they are not here."""
        first = self.rows["key"].search_sorted(keys["key"], side="left")
        found = pl.repeat(None, keys.height, dtype=STATES, eager=True)
        if self.rows.is_empty():
            return found
        for step in range(self.alike):
            place = (first + step).clip(0, self.rows.height - 1)
            here = self.rows.select(pl.all().gather(place))
            hit = (here["key"] == keys["key"]) & (here["also"] == keys["also"])
            found = here["state"].zip_with(hit, found)
        return found


class Runs:
    """States by key; a key that is added again has the same state."""

    def __init__(self, runs: Sequence[_Run] = ()) -> None:
        # Never changed, only replaced: others may be reading it.
        self._runs = runs

    def add(self, rows: pl.DataFrame, *, merging: int) -> None:
        """Add rows of key, also and state; runs are merged up to `merging` rows."""
        if rows.is_empty():
            return
        *older, last = *self._runs, _Run.of(_sorted(rows))
        while older and _are_alike(older[-1], last, merging):
            last = _Run.of(_merged(older.pop().rows, last.rows))
        self._runs = (*older, last)

    def plus(self, rows: pl.DataFrame) -> "Runs":
        """These and some more, whose states are the newer ones."""
        return Runs([*self._runs, _Run.of(_sorted(rows))])

    def get(self, key: int, also: int) -> State | None:
        for run in self._runs:
            if (state := run.get(key, also)) is not None:
                return state
        return None

    def states(self, keys: pl.DataFrame) -> pl.Series:
        """The states of these keys, in their order; null where there is none."""
        ordered = keys.with_row_index("place").sort("key")
        found = pl.repeat(None, keys.height, dtype=STATES, eager=True)
        for run in self._runs:
            here = run.states(ordered)
            found = here.zip_with(here.is_not_null(), found)
        return ordered.select("place", found.alias("state")).sort("place")["state"]


def _are_alike(older: _Run, newer: _Run, merging: int) -> bool:
    many, few = older.rows.height, newer.rows.height
    return many <= 2 * few and many + few <= merging


def _sorted(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(*KEY, pl.col("state").cast(STATES)).sort("key")


def _merged(some: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    rows = some.merge_sorted(others, "key")
    same = (pl.col(name) == pl.col(name).shift() for name in KEY)
    again = pl.all_horizontal(same).fill_null(value=False)
    return rows.filter(~again)


def _memory(column: pl.Series, kind: Literal["Q", "B"]) -> memoryview:
    array: Any = cast("Any", column).to_arrow()
    values = memoryview(array.buffers()[1]).cast(kind)
    first: int = array.offset
    return values[first : first + len(column)]
