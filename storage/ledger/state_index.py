"""The book: what is known of every life on a root, whole or in a few bytes.

A life that is not over is kept whole, with that of its job or its hedge; of the others
the state is enough: nothing is bought for them again. No store is asked for anything.
"""

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import polars as pl

from manifests.checkpoint.rows import LIFE, life_keys
from manifests.checkpoint.rows import lives as lives_of
from manifests.job_keys import FEW, KEY, ids
from manifests.lifecycle import HEDGE, NEW, OVER, History, State, hedge_of
from storage.ledger.sorted_runs import STATES, Runs

LATEST: Final = 50
"""Durations kept of each lane."""

_FRESH: Final = 1 << 14
"""Lives forgotten before they make a run."""
_AT_ONCE: Final = 1 << 18
"""Rows merged at once while others wait."""
_AT_LEISURE: Final = 1 << 22
_SLICE: Final = 1_000_000
_LIFE: Final = re.compile(f"[0-9a-f]{{32}}({HEDGE})?")


class Book:
    """What is known of every life. One thread changes it; any may ask it for states."""

    def __init__(self) -> None:
        self.lives: dict[str, History] = {}
        """Whole: what is not over, and what was kept since and not forgotten."""
        self.latencies = defaultdict[str, deque[float]](_durations)
        """By lane: the seconds from accepted to generated of its latest clips."""
        self.unbound: dict[int, dict[str, History]] = {}
        """Epochs that are to be bound, with the whole lives as each began."""
        self._fresh: dict[str, State] = {}
        self._accepted = set[str]()
        # Lives that were accepted since the last epoch began: of the others nobody knows
        # how long they took, only when somebody looked.
        self._runs = {False: Runs(), True: Runs()}  # of jobs, of hedges

    def history(self, life: str) -> History:
        """What is known of a life: of one that was forgotten, its state alone."""
        if (whole := self.lives.get(life)) is not None:
            return whole
        state = self._over(life)
        return NEW if state is None else History(state=state)

    def states(self, keys: pl.DataFrame) -> pl.Series:
        """The states of the jobs with these keys, in their order."""
        if keys.height < FEW:
            told = [self._state(job).value for job in ids(keys)]
            return pl.Series("state", told, pl.String).cast(STATES)
        # First of all, so that a life that is forgotten meanwhile is not missed.
        whole = {life: history.state for life, history in dict(self.lives).items()}
        runs = self._runs[False].plus(_rows(self._fresh | whole, hedges=False))
        found = (runs.states(some) for some in _slices(keys))
        said = pl.concat([pl.Series("state", [], STATES), *found])
        return said.fill_null(State.PENDING.value)

    def forgotten(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The lives of these jobs and of their hedges that only a state is known of."""
        if keys.height < FEW:
            jobs = ids(keys)
            known = [one for one in (*jobs, *map(hedge_of, jobs)) if self._over(one)]
            return life_keys(one for one in known if one not in self.lives)
        found = [pl.DataFrame(schema=LIFE)]
        for hedges in (False, True):
            runs = self._runs[hedges].plus(_rows(self._fresh, hedges=hedges))
            for some in _slices(keys):
                mine = some.filter(runs.states(some).is_not_null())
                found.append(mine.with_columns(hedge=pl.lit(hedges)))
        # Some are whole again, because of their hedge or their job.
        return pl.concat(found).join(life_keys(self.lives), on=[*LIFE], how="anti")

    def keep(self, life: str, history: History) -> None:
        """Put down what is on record of a life by now.

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
        """Keep no more than the state of those of them that are over."""
        for life in {*ended(self.lives, lives)}:
            self._fresh[life] = self.lives[life].state
            del self.lives[life]
            self._accepted.discard(life)
        self._put_away()

    def learn(self, rows: pl.DataFrame) -> None:
        """Put down lives that are over: key, also, hedge, state. Takes its time."""
        if rows.height < FEW:
            states = map(State, rows["state"])
            self._fresh |= zip(lives_of(rows), states, strict=True)
            self._put_away()
            return
        for hedges, runs in self._runs.items():
            runs.add(rows.filter(pl.col("hedge") == hedges), merging=_AT_LEISURE)

    def begin(self, epoch: int) -> None:
        """An epoch begins that is to be bound once it is over."""
        self.unbound[epoch] = dict(self.lives)
        self._accepted.clear()

    def _put_away(self) -> None:
        if len(self._fresh) < _FRESH:
            return
        for hedges, runs in self._runs.items():
            runs.add(_rows(self._fresh, hedges=hedges), merging=_AT_ONCE)
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
        return self._runs[life.endswith(HEDGE)].get(key, also)


def other(life: str) -> str:
    """A job's hedge, or the job of a hedge."""
    return life.removesuffix(HEDGE) if life.endswith(HEDGE) else hedge_of(life)


def ended(whole: Mapping[str, History], lives: Iterable[str]) -> Iterator[str]:
    """Those of these lives, and of their hedges or jobs, that may be forgotten."""
    for life in lives:
        both = [one for one in (life, other(life)) if one in whole]
        if all(whole[one].state in OVER for one in both):
            yield from both


def _durations() -> deque[float]:
    return deque(maxlen=LATEST)


def _check(life: str) -> None:
    if _LIFE.fullmatch(life) is None:
        raise ValueError(f"{life!r} is no job's id, nor its hedge's")


def _rows(states: Mapping[str, State], *, hedges: bool) -> pl.DataFrame:
    mine = [life for life in states if life.endswith(HEDGE) == hedges]
    said = pl.Series("state", [states[life].value for life in mine], STATES)
    return life_keys(mine).with_columns(said)


def _slices(keys: pl.DataFrame) -> Iterator[pl.DataFrame]:
    return keys.select(*KEY).iter_slices(_SLICE)
