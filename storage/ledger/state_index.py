"""The state index: every life of a root, in full or in a few bytes.

A life that is not over keeps its full history. For the others the state is enough,
because nothing is bought for them again. The index is in memory and sends no request.
"""

import re
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Final, Literal, NamedTuple, cast

import polars as pl

from manifests.job_keys import FEW, KEY, ids, keys
from manifests.lifecycle import NEW, OVER, History, State

STATES: Final = pl.Enum([state.value for state in State])

_STATE: Final = tuple(State)
"""The states by their number in a run."""

RECENT_S: Final = 120.0
"""Seconds of submits that a replay remembers: more than any limit per minute looks back."""

LATEST: Final = 50
"""Durations that are kept for each lane."""

_FRESH: Final = 1 << 14
"""Lives forgotten before they make a run."""
_AT_ONCE: Final = 1 << 18
"""Rows merged at once while others wait."""
_AT_LEISURE: Final = 1 << 22
_SLICE: Final = 1_000_000
_ID: Final = re.compile("[0-9a-f]{32}")


class RecordedSubmit(NamedTuple):
    """A submit that was recorded: when (Unix seconds), and where it went."""

    at: float
    lane: str
    route: str


class RecentSubmits(deque[RecordedSubmit]):
    """The submits of the last `RECENT_S` seconds before the newest one."""

    def add(self, submit: RecordedSubmit) -> None:
        """Add a submit, unless it is too old; the oldest ones leave."""
        newest = self[-1].at if self else submit.at
        if submit.at < newest - RECENT_S:
            return
        # Streams are read one after the other, so the newest one stays at the end.
        self.append(submit) if submit.at >= newest else self.appendleft(submit)
        while self[0].at < self[-1].at - RECENT_S:
            self.popleft()


class StateIndex:
    """The state index. One thread changes it; any thread may read states."""

    def __init__(self) -> None:
        self.lives: dict[str, History] = {}
        """Full histories: of lives that are not over, or were kept and not forgotten since."""
        self.latencies = defaultdict[str, deque[float]](_durations)
        """The seconds from accepted to generated of each lane's latest clips."""
        self.ended: dict[int, float] = {}
        """By epoch with a checkpoint: when its last entry was recorded."""
        self.submits = RecentSubmits()
        """The latest submits of the epochs that were replayed."""
        self.unbound: dict[int, dict[str, History]] = {}
        """Epochs to compact, each with the full histories as it began."""
        self.rebuild = set[int]()
        """Epochs among them whose checkpoint is damaged."""
        self._fresh: dict[str, State] = {}
        self._accepted = set[str]()
        # Lives that were accepted since the last epoch began: for the others only the
        # time of a poll is known, not how long the provider took.
        self._runs = Runs()

    def history(self, life: str) -> History:
        """The history of a life; only its state if it was forgotten."""
        if (whole := self.lives.get(life)) is not None:
            return whole
        state = self._over(life)
        return NEW if state is None else History(state=state)

    def states(self, asked: pl.DataFrame) -> pl.Series:
        """The states of the jobs with these keys, in their order."""
        if asked.height < FEW:
            told = [self._state(job).value for job in ids(asked)]
            return pl.Series("state", told, pl.String).cast(STATES)
        # Copied first, so that a life that is forgotten meanwhile is not missed.
        whole = {life: history.state for life, history in dict(self.lives).items()}
        runs = self._runs.plus(_rows(self._fresh | whole))
        found = (runs.states(some) for some in _slices(asked))
        column = pl.concat([pl.Series("state", [], STATES), *found])
        return column.fill_null(State.PENDING.value)

    def forgotten(self, lives: Iterable[str]) -> list[str]:
        """Those of the lives that are known by their state only."""
        asked = [life for life in lives if life not in self.lives]
        if len(asked) < FEW:
            return [life for life in asked if self._over(life)]
        known = [life for life in asked if life in self._fresh]
        left = [life for life in asked if life not in self._fresh]
        found = self._runs.states(keys(left)).is_not_null()
        return [*known, *compress(left, found)]

    def keep(self, life: str, history: History) -> None:
        """Set the history of a life.

        Raises:
            ValueError: nothing has such an id.
        """
        before = self.lives.get(life)
        if before is None:
            _check(life)
        self.lives[life] = history
        done, began = history.generated_at, history.accepted_at
        if began is None or history.lane is None:
            return
        if before is None or before.accepted_at != began:
            self._accepted.add(life)
        if done is not None and life in self._accepted:
            self._accepted.remove(life)
            if done > began:
                self.latencies[history.lane].append(done - began)

    def forget(self, lives: Iterable[str]) -> None:
        """Keep only the states of those lives that are over."""
        for life in {*over(self.lives, lives)}:
            self._fresh[life] = self.lives.pop(life).state
            self._accepted.discard(life)
        self._put_away()

    def learn(self, rows: pl.DataFrame) -> None:
        """Add lives that are over: key, also, state. Slow for many rows."""
        if rows.height < FEW:
            states = map(State, rows["state"])
            self._fresh |= zip(ids(rows), states, strict=True)
            self._put_away()
            return
        self._runs.add(rows, merging=_AT_LEISURE)

    def begin(self, epoch: int) -> None:
        """Begin an epoch, which is to be compacted once it is over."""
        self.unbound[epoch] = dict(self.lives)
        self._accepted.clear()

    def _put_away(self) -> None:
        if len(self._fresh) < _FRESH:
            return
        self._runs.add(_rows(self._fresh), merging=_AT_ONCE)
        self._fresh = {}

    def _state(self, job: str) -> State:
        if (whole := self.lives.get(job)) is not None:
            return whole.state
        return self._over(job) or State.PENDING

    def _over(self, life: str) -> State | None:
        if (state := self._fresh.get(life)) is not None:
            return state
        _check(life)
        key, also = int(life[:16], 16), int(life[16:32], 16)
        return self._runs.get(key, also)


def over(whole: Mapping[str, History], lives: Iterable[str]) -> Iterator[str]:
    """Those of the lives that have a full history and have ended."""
    return (life for life in lives if life in whole and whole[life].state in OVER)


def _durations() -> deque[float]:
    return deque(maxlen=LATEST)


def _check(life: str) -> None:
    if _ID.fullmatch(life) is None:
        raise ValueError(f"{life!r} is no job's id")


def _rows(states: Mapping[str, State]) -> pl.DataFrame:
    column = pl.Series("state", [state.value for state in states.values()], STATES)
    return keys(states).with_columns(column)


def _slices(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    return rows.select(*KEY).iter_slices(_SLICE)


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
