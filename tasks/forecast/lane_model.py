"""Simulated lanes for a forecast: they count time and money, and send nothing. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from tasks.dispatch import (
    DAY_S,
    RATE_WINDOW_S,
    Hours,
    Lane,
    Limits,
    capacity,
    open_s,
    wait_s,
)


@dataclass(slots=True, eq=False)
class Pool:
    """The limits of a lane, or of several lanes of one account, and their use."""

    name: str
    limits: Limits
    hours: Hours | None
    """The hours in which it takes submits; None means always."""
    at: float
    """When the batch begins, in Unix seconds."""
    next_s: float = field(init=False)
    """When it could start one more job, in seconds after `at`."""
    _jobs: int = field(init=False, default=0)
    _busy_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.add(0, typical_s=0.0)

    def add(self, jobs: int, *, typical_s: float) -> None:
        """Start `jobs` more jobs, each as early as possible."""
        self._jobs += jobs
        self._busy_s += jobs * typical_s
        self.next_s = self._begins_s(self._jobs)

    def capacity(self, typical_s: float, within_s: float) -> float:
        """How many clips it can finish within `within_s` seconds."""
        opened_s = None
        if self.hours is not None:
            opened_s = open_s(self.hours, self.at, within_s)
        return capacity(self.limits, typical_s, within_s, opened_s)

    def _begins_s(self, after: int) -> float:
        """When the job after `after` others starts: the inverse of `capacity`."""
        limits = self.limits
        # Lanes of one account may differ: a round takes the average time of a job.
        round_s = self._busy_s / after if after else 0.0
        begins = after // limits.slots * round_s
        if (minute := after // limits.submits_per_minute * RATE_WINDOW_S) > begins:
            begins = minute
        if self.hours is not None:
            begins = wait_s(self.hours, self.at, begins)
        if limits.submits_per_day is not None:
            begins = max(begins, after // limits.submits_per_day * DAY_S)
        return begins


@dataclass(slots=True, eq=False)
class LaneLoad:
    """A lane, with the jobs that the forecast gives it."""

    lane: Lane
    pool: Pool
    typical_s: float
    jobs: int = 0
    cost_usd: Decimal = Decimal(0)
    end_s: float = 0.0
    """When its last job is done."""
    _next_day_s: float = 0.0
    """When its daily cap on money allows the next submit."""

    @property
    def begins_s(self) -> float:
        """When it could start one more job."""
        return max(self.pool.next_s, self._next_day_s)

    def take(self, price_usd: Decimal, jobs: int = 1) -> float:
        """Add `jobs` jobs; return when the last of them is done."""
        if jobs > 1:
            self._add(price_usd, jobs - 1)
        done = self.begins_s + self.typical_s
        self._add(price_usd, 1)
        self.end_s = max(self.end_s, done)
        return done

    def affords(self, dearest_usd: Decimal, within_s: float) -> float:
        """How many jobs at `dearest_usd` its daily cap allows within `within_s` seconds."""
        if self.lane.usd_per_day is None or math.isinf(within_s) or not dearest_usd:
            return math.inf
        return (within_s // DAY_S + 1) * int(self.lane.usd_per_day / dearest_usd)

    def _add(self, price_usd: Decimal, jobs: int) -> None:
        self.pool.add(jobs, typical_s=self.typical_s)
        self.jobs += jobs
        self.cost_usd += price_usd * jobs
        if self.lane.usd_per_day:
            self._next_day_s = int(self.cost_usd / self.lane.usd_per_day) * DAY_S


def lines(
    lanes: Sequence[Lane], typical_s: Mapping[str, float], at: float | None
) -> dict[str, LaneLoad]:
    """A line for each lane, by name; the lanes of one account share a pool."""
    pools: dict[object, Pool] = {}
    found: dict[str, LaneLoad] = {}
    for lane in lanes:
        hours = None if at is None else lane.route.hours_utc
        pool = Pool(lane.name, _borne(lane), hours, at or 0.0)
        pool = pools.setdefault((id(lane.limiter), hours), pool)
        known = typical_s.get(lane.name) or lane.typical_s()
        found[lane.name] = LaneLoad(lane, pool, known)
    return found


def _borne(lane: Lane) -> Limits:
    """The lane's limits, or the learned ones where these are lower."""
    learned = lane.limiter.learned()
    if learned is None:
        return lane.limits
    return replace(
        lane.limits,
        slots=min(lane.limits.slots, int(learned.slots)),
        submits_per_minute=int(learned.submits_per_minute),
    )
