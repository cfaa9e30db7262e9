"""The limits that all shards share: those of the settings, and those that runs learned.

A run learns limits within its share of an account. A refusal that it reports shows the limit
of the whole account: what all runs used together at that time. A run may also close a lane for
itself; enough of them close it for all.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Final

from tasks.batch.batch import BatchRun
from tasks.dispatch import RATE_WINDOW_S, Lane, LearnedLimits
from tasks.distributed.messages import ShardReport
from tasks.distributed.quota import QuotaAllocator
from tasks.distributed.usage import (
    BUDGET,
    Quota,
    millionths,
    minute_of,
    slots_of,
    submits_of,
    usd_of,
)

RUNS_TO_CLOSE: Final = 5
"""The number of runs in a row that close a lane for themselves, after which it is closed for
all: it is not one machine's problem."""


class SharedLimits:
    """Learns the limits of accounts from the refusals that runs report."""

    def __init__(self, lanes: Sequence[Lane], allocator: QuotaAllocator) -> None:
        self._lanes = {lane.account: lane for lane in lanes}
        self._allocator = allocator
        # By quota that a run was refused since the last `restore`: what was in use then.
        self._refused: dict[str, int] = {}

    def learn(
        self,
        report: ShardReport,
        before: ShardReport | None,
        *,
        now: float,
        beat_s: float,
    ) -> None:
        """Compare a report with the one before it from the same run."""
        for account, lane in self._lanes.items():
            slots, minute = slots_of(account), minute_of(account)
            submits = report.usage.in_use.get(minute, 0)
            lane.limiter.others_accepted(now, submits * beat_s / RATE_WINDOW_S)
            configured = LearnedLimits(
                lane.limits.slots, lane.limits.submits_per_minute
            )
            old = (before.learned.get(account) if before else None) or configured
            new = report.learned.get(account) or configured
            if new.slots < old.slots:
                self._refused[slots] = self._in_use(slots)
            if new.submits_per_minute < old.submits_per_minute:
                self._refused[minute] = self._in_use(minute)

    @property
    def refused(self) -> list[str]:
        """The quotas that a run was refused since the last `restore`."""
        return [*self._refused]

    def restore(self, quotas: Iterable[str], now: float) -> None:
        """Learn the limits of these refused quotas: the total use at that time.

        The reports of the other runs since then are counted, and our own use.
        """
        refused = {name: self._refused.pop(name) for name in quotas}
        for account, lane in self._lanes.items():
            own_use = {
                slots_of(account): lane.limiter.in_flight,
                minute_of(account): lane.limiter.sent(now),
            }
            slots, minute = (
                max(refused[name], self._in_use(name)) + own if name in refused else inf
                for name, own in own_use.items()
            )
            if min(slots, minute) < inf:
                lane.limiter.restore(LearnedLimits(slots, minute), now)

    def _in_use(self, quota: str) -> int:
        """The use by running shards, and by ended ones that may still count."""
        ended = self._allocator.reserved_until(quota)
        return self._allocator.in_use(quota) + len(ended)


class LocalClosures:
    """Decides when a lane that runs closed for themselves is closed for all."""

    def __init__(self) -> None:
        # Per lane: the shard runs that closed it locally, and how many of those were later
        # contradicted by a success.
        self._closed_by: dict[str, set[tuple[int, int]]] = {}
        self._contradicted = Counter[str]()

    def reason(
        self, lane: str, report: ShardReport, counted: Iterable[ShardReport | None]
    ) -> str | None:
        """Why the lane must be closed for all after this report, if so.

        `RUNS_TO_CLOSE` runs in a row must have closed it. No submit may have been accepted
        on it since, and no run of `counted` may still want it.
        """
        closed_by = self._closed_by.setdefault(lane, set())
        why = report.closed_here.get(lane)
        if why is not None:
            closed_by.add((report.usage.shard, report.usage.generation))
        elif (totals := report.bill.get(lane)) and totals.accepted:
            self._contradicted[lane] = len(closed_by)
        submits = submits_of(lane)
        is_wanted = any(one and one.usage.needed.get(submits) for one in counted)
        few = len(closed_by) - self._contradicted[lane] < RUNS_TO_CLOSE
        return None if few or is_wanted else why


def quotas(lanes: Sequence[Lane]) -> Mapping[str, Quota]:
    """The quotas of the lanes' accounts, by the present knowledge."""
    found: dict[str, Quota] = {}
    for lane in lanes:
        lane.limiter.set_typical_s(lane.typical_s())
        learned = lane.limiter.learned()
        a_minute = lane.limits.submits_per_minute
        if learned is not None:
            a_minute = int(learned.submits_per_minute)
        found[slots_of(lane.account)] = Quota(lane.limiter.slots)
        found[minute_of(lane.account)] = Quota(a_minute, by_minute=True)
    return found


def budgets(batch_run: BatchRun) -> Mapping[str, int]:
    """The batch's budget and the daily caps of its lanes."""
    found: dict[str, int] = {}
    if (usd := batch_run.wanted.budget_usd) is not None:
        found[BUDGET] = millionths(usd)
    for lane in batch_run.engine.lanes.all:
        submits, usd = lane.day.caps
        if submits is not None:
            found[submits_of(lane.name)] = submits
        if usd is not None:
            found[usd_of(lane.name)] = millionths(usd)
    return found
