"""Divides the quotas of accounts among shards that run in other processes.

This module is pure: callers pass the clock in, and messages come as values. A *quota* is used
and released (slots, submits per minute). A *budget* is spent (dollars, submits per day).

For each shard, the allocator reserves the most of a quota that the shard may be using. That is
the amount that it reported, or the amount of any grant since the one that it obeys, whichever
is larger. Only unreserved quota is granted. So the sum over all shards never exceeds a limit,
even if messages are late or runs die. The reservation of a dead run stays until its successor,
which knows what is in flight, has reported. Without a successor it stays until the run was
fenced out and its jobs are known to be done.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tasks.dispatch import RATE_WINDOW_S
from tasks.distributed.usage import Grant, Quota, Usage

NO_SHARD: Final = -1
"""The number in place of a shard's for what an earlier batch used."""

LATE_S: Final = 91.0
"""How long the submits of a dead run may still count: a little over a minute, and the 30
seconds within which a recorded intent may still be sent."""


@dataclass(slots=True)
class _Allocation:
    """The latest usage that a shard's run reported, and all that it was granted."""

    usage: Usage
    caps: list[tuple[int, Mapping[str, int]]]
    """The grants that it may obey: their numbers and its caps, the oldest first."""
    granted: dict[str, int] = field(default_factory=dict[str, int])
    final: set[str] = field(default_factory=set[str])

    def reserved(self, quota: str) -> int:
        granted = (caps.get(quota, 0) for _, caps in self.caps)
        return max(self.usage.in_use.get(quota, 0), *granted)

    def taken(self, budget: str) -> int:
        """The amount granted, or spent if bills above their price exceeded that."""
        return max(self.granted.get(budget, 0), self.usage.spent.get(budget, 0))

    def left(self, budget: str) -> int:
        return self.granted.get(budget, 0) - self.usage.spent.get(budget, 0)

    def waits_for(self, budget: str) -> bool:
        """Whether it waits for more of this budget."""
        wants = self.usage.needed.get(budget, 0) > 0 and budget not in self.final
        return wants and self.left(budget) < self.usage.minimum.get(budget, 1)

    def stuck(self, budgets: Iterable[str]) -> bool:
        """Whether it can spend nothing until it gets more of some budget."""
        return self.usage.all_wait and any(map(self.waits_for, budgets))

    def reported(self, usage: Usage) -> None:
        self.usage = usage
        while len(self.caps) > 1 and self.caps[1][0] <= usage.grant_number:
            del self.caps[0]


@dataclass(frozen=True, slots=True)
class _Reservation:
    """Usage of an ended run that still counts."""

    quota: str
    amount: int
    until: float
    shard: int


class QuotaAllocator:
    """Divides quotas and budgets among the shards that have reported."""

    def __init__(
        self, quotas: Mapping[str, Quota], budgets: Mapping[str, int] | None = None
    ) -> None:
        self.number = 0
        """The number of the latest grants."""
        self._quotas = quotas
        self._budgets = budgets or {}
        self._shards: dict[int, _Allocation] = {}
        self._reservations: list[_Reservation] = []
        # By shard and generation: the most that a finished run may have spent, until its
        # records are known.
        self._ended_spending: dict[tuple[int, int], Mapping[str, int]] = {}

    def set_quotas(self, quotas: Mapping[str, Quota]) -> None:
        """Replace the limits of the same quotas."""
        self._quotas = quotas

    def in_use(self, quota: str) -> int:
        """How much of the quota is in use, by the reports of the running shards."""
        return sum(run.usage.in_use.get(quota, 0) for run in self._shards.values())

    def record(self, usage: Usage, now: float) -> None:
        """Take a report of a shard's run; ignore it if it is old."""
        run = self._shards.get(usage.shard)
        if run is not None:
            latest = run.usage
            if (usage.generation, usage.beat) <= (latest.generation, latest.beat):
                return
            if usage.generation == latest.generation:
                run.reported(usage)
                return
            self._replace(run, now)
        # From now on the run itself reports what is in flight.
        self._reservations = [
            each
            for each in self._reservations
            if each.shard != usage.shard or self._quotas[each.quota].by_minute
        ]
        self._shards[usage.shard] = _Allocation(usage, [(0, {})])

    def end_shard(
        self,
        shard: int,
        now: float,
        *,
        slots_s: float,
        in_use: Mapping[str, int] | None = None,
    ) -> None:
        """End a shard that no run has any more; its jobs in flight are done in `slots_s`.

        `in_use` has the amounts known to be in flight of a run that was fenced out.
        """
        run = self._shards.pop(shard, None)
        if run is None:
            return
        done = run.usage.done
        for name, quota in self._quotas.items():
            amount = run.usage.in_use.get(name, 0) if done else run.reserved(name)
            if in_use is not None and not quota.by_minute:
                amount = in_use.get(name, 0)
            minute_s = RATE_WINDOW_S if done else LATE_S
            for_s = minute_s if quota.by_minute else slots_s
            self._reserve(name, amount, now + for_s, shard)
        spent = run.usage.spent if done else run.granted
        self._ended_spending[shard, run.usage.generation] = spent

    def records_counted(self, shard: int, before: float) -> None:
        """From now on `spent` includes the spending of its runs before this generation."""
        for key in [k for k in self._ended_spending if k[0] == shard and k[1] < before]:
            del self._ended_spending[key]

    def reserve_until(self, quota: str, until: float) -> None:
        """Keep one unit of a quota from all shards until then: an earlier run used it."""
        self._reserve(quota, 1, until, NO_SHARD)

    def reserved_until(self, quota: str) -> list[float]:
        """Until when ended runs may count: one time for each unit of the quota they had."""
        return [
            each.until
            for each in self._reservations
            if each.quota == quota
            for _ in range(each.amount)
        ]

    def allocate(
        self, *, own: Mapping[str, int], spent: Mapping[str, int], now: float
    ) -> Mapping[int, Grant]:
        """Make the next grants, one for each shard; `own` is the use of the batch itself.

        `spent` is the known spending of each budget. It leaves out the runs under way, and
        the finished ones that `records_counted` has not been called for.
        """
        self.number += 1
        self._reservations = [each for each in self._reservations if each.until > now]
        shards = dict(sorted(self._shards.items()))
        caps = {
            name: self._caps(name, own.get(name, 0), shards) for name in self._quotas
        }
        for name in self._budgets:
            self._grant_budget(name, spent.get(name, 0), shards)
        for shard, run in shards.items():
            own_caps = {name: by_shard[shard] for name, by_shard in caps.items()}
            if own_caps != run.caps[-1][1]:
                run.caps.append((self.number, own_caps))
        return {
            shard: Grant(
                generation=run.usage.generation,
                caps=run.caps[-1][1],
                granted=dict(run.granted),
                final=sorted(run.final),
            )
            for shard, run in shards.items()
        }

    def _replace(self, run: _Allocation, now: float) -> None:
        """Replace a run by its successor, which reports what is in flight.

        The latest submits of the old run are in no report, so they stay reserved.
        """
        for name, quota in self._quotas.items():
            if quota.by_minute:
                self._reserve(name, run.reserved(name), now + LATE_S, run.usage.shard)
        self._ended_spending[run.usage.shard, run.usage.generation] = {
            name: run.taken(name) for name in run.granted
        }

    def _reserve(self, quota: str, amount: int, until: float, shard: int) -> None:
        if amount:
            self._reservations.append(_Reservation(quota, amount, until, shard))

    def _caps(
        self, name: str, own: int, shards: Mapping[int, _Allocation]
    ) -> dict[int, int]:
        """The caps by shard; only unreserved quota is added to them."""
        ended = sum(x.amount for x in self._reservations if x.quota == name)
        most = self._quotas[name].most - own - ended
        wants = [
            0 if run.usage.done else run.usage.wanted.get(name, 0)
            for run in shards.values()
        ]
        free = most - sum(run.reserved(name) for run in shards.values())
        caps: dict[int, int] = {}
        for (shard, run), fair in zip(shards.items(), evenly(most, wants), strict=True):
            reserved = run.reserved(name)
            # If runs use more than the limit, what they release is granted to no one.
            caps[shard] = max(0, min(fair, reserved + free))
            free -= max(0, caps[shard] - reserved)
        return caps

    def _grant_budget(
        self, name: str, spent: int, shards: Mapping[int, _Allocation]
    ) -> None:
        ended = sum(each.get(name, 0) for each in self._ended_spending.values())
        granted = sum(run.taken(name) for run in shards.values())
        free = self._budgets[name] - spent - ended - granted
        lacks = [
            0 if run.usage.done else max(0, run.usage.needed.get(name, 0) - left)
            for run in shards.values()
            for left in [run.left(name)]
        ]
        for run, more in zip(shards.values(), evenly(free, lacks), strict=True):
            run.granted[name] = run.granted.get(name, 0) + more
        if not ended:
            self._mark_final(name, [*shards.values()])

    def _mark_final(self, name: str, shards: Sequence[_Allocation]) -> None:
        """Break a deadlock of shards that wait for each other's money.

        It exists if all shards with something left wait for more of this or another budget.
        All but one then get no more of this budget. What they leave goes to that one, or to
        the shards that wait for another budget.
        """
        short = [run for run in shards if run.waits_for(name)]
        others = [
            run
            for run in shards
            if not (run.waits_for(name) or run.stuck(self._budgets))
            and run.left(name) > 0
        ]
        if any(name not in run.final for run in others):
            return
        for run in short[1:] or (short if not others else []):
            run.final.add(name)


def evenly(most: int, wants: Iterable[int]) -> list[int]:
    """Divide `most` evenly among `wants`, to none more than it wants.

    The first ones get one more if it does not divide evenly.
    """
    all_wants = [*wants]
    shares = [0] * len(all_wants)
    open_ = sorted((want, place) for place, want in enumerate(all_wants) if want > 0)
    left = max(0, most)
    while open_ and open_[0][0] * len(open_) <= left:
        # The shard that wants the least gets all that it wants.
        want, place = open_.pop(0)
        shares[place] = want
        left -= want
    each, odd = divmod(left, len(open_)) if open_ else (0, 0)
    for nth, place in enumerate(sorted(place for _, place in open_)):
        shares[place] = each + (nth < odd)
    return shares
