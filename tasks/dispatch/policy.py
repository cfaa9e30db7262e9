"""Decides which lanes a job may use now, the best one first. Pure except for its clocks.

`balanced` takes the cheapest lane that is free. `fastest` takes the free lane whose jobs take
the least time. `cheapest` uses only the lanes of the least-cost allotment by the deadline.
That allotment is computed again as jobs end and as lanes turn out faster or slower. So a dear
lane is used from the start, but for no more jobs than needed.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from manifests.jobs import Kind, Order
from tasks.dispatch.eligibility import (
    Policy,
    able,
    elsewhere,
    foremost,
    standing_for,
)
from tasks.dispatch.lane import Lane
from tasks.dispatch.lanes import SlotRequest
from tasks.dispatch.min_cost import allot, capacity

EVERY_S = 1.0
"""The least time between two allotments: the change by one job does not justify one."""

MARGIN = 0.95
"""The share of the remaining time that is used: the clips must still be fetched."""


class Router:
    """The lanes of a batch, in the order of its policy."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        policy: Policy,
        now: Callable[[], float],
        today: Callable[[], float],
        ends_at: float = math.inf,
    ) -> None:
        self.all = lanes
        self.ends_at = ends_at
        """The deadline, by `now`."""
        self.late = 0
        """Jobs that no lane can finish in time, by the latest allotment."""
        self._policy: Policy = policy
        self._now = now
        self._today = today
        self._able: dict[Kind, list[Lane]] = {}
        self._demand = Counter[Kind]()
        self._wanted: Mapping[Kind, frozenset[str]] = {}
        self._reckoned_at = -math.inf
        self._open: frozenset[str] = frozenset()

    def able(self, order: Order) -> list[Lane]:
        """Every lane in use that can make the job, open or closed; the list is shared."""
        return self._able_of(order.kind)

    def rank(self, request: SlotRequest) -> Sequence[Lane]:
        """The lanes that the job may use now; only closed lanes if none is open."""
        order = request.order
        still_open = [lane for lane in request.lanes if lane.closed is None]
        if not still_open:
            return request.lanes
        liked = self._liked(request, still_open)
        match self._policy:
            case "balanced" if len(liked) > 1:
                # At equal prices, an idle GPU goes before a busy one.
                price = {lane.name: lane.route.price_usd(order.job) for lane in liked}
                return sorted(
                    liked, key=lambda lane: (price[lane.name], lane.limiter.is_full)
                )
            case "balanced":
                return liked
            case "fastest":
                return sorted(liked, key=lambda lane: (lane.typical_s(), lane.name))
            case "cheapest":
                wanted = self._shares().get(order.kind, frozenset[str]())
                return [lane for lane in liked if lane.name in wanted] or liked[:1]

    def _liked(self, request: SlotRequest, still_open: Sequence[Lane]) -> list[Lane]:
        """The open lanes of the preferred model, without those of the failed attempts.

        After a failed attempt, a lane that pauses is not worth the wait if another works.
        """
        wanted = foremost(request.order, still_open)
        if request.failed is None and not request.tried:
            return wanted
        works = [lane for lane in wanted if not lane.limiter.breaker.is_open]
        return elsewhere(works or wanted, request.failed, request.tried)

    def add_demand(self, demand: Mapping[Kind, int]) -> None:
        """Add the number of jobs of each kind that are still to be bought."""
        self._demand.update(demand)
        self._reckoned_at = -math.inf

    def waiting(self, lanes: Collection[Lane]) -> int:
        """How many of the jobs to be bought could be made on these lanes."""
        return sum(
            count
            for kind, count in self._demand.items()
            if count > 0 and any(lane in lanes for lane in self._able_of(kind))
        )

    def bought(self, order: Order) -> None:
        """Count one job less to be bought: it is at a provider."""
        if self._demand[kind := order.kind] > 0:
            self._demand[kind] -= 1

    def requeue(self, order: Order) -> None:
        """Count one job more to be bought: its attempt failed."""
        self._demand[order.kind] += 1

    def count_late(self) -> int:
        """How many jobs cannot be done in time, by a new allotment."""
        self._reckoned_at = -math.inf
        self._shares()
        return self.late

    def prices_changed(self) -> None:
        """Decide again which lanes can make each kind within its `max_usd`, and which should."""
        self._able.clear()
        self._reckoned_at = -math.inf

    def _able_of(self, kind: Kind) -> list[Lane]:
        if kind not in self._able:
            self._able[kind] = able(standing_for(kind), self.all)
        return self._able[kind]

    def _shares(self) -> Mapping[Kind, frozenset[str]]:
        now = self._now()
        are_open = frozenset(lane.name for lane in self.all if lane.closed is None)
        if now - self._reckoned_at < EVERY_S and are_open == self._open:
            return self._wanted
        self._reckoned_at, self._open = now, are_open
        demand = {kind: count for kind, count in self._demand.items() if count > 0}
        first = {id(lane.limiter): lane.name for lane in reversed(self.all)}
        pool = {lane.name: first[id(lane.limiter)] for lane in self.all}
        prices = {
            kind: {
                # Lanes that share an account's slots have one key here. The dearest comes
                # first, so the cheapest, which is used first, overwrites it.
                pool[lane.name]: lane.route.prices_usd[kind.resolution, kind.duration_s]
                for lane in reversed(self._able_of(kind))
                if lane.closed is None
            }
            for kind in demand
        }
        left: dict[str, float] = {}
        for lane in self.all:
            most = self._left(lane, now)
            left[pool[lane.name]] = min(most, left.get(pool[lane.name], most))
        found = allot(demand, prices, left)
        self.late = sum(found.short.values())
        self._wanted = {
            kind: frozenset(
                lane.name
                for lane in self._able_of(kind)
                if pool[lane.name]
                in (prices[kind] if found.short.get(kind) else found.shares[kind])
            )
            for kind in demand
        }
        return self._wanted

    def _left(self, lane: Lane, now: float) -> float:
        """How many more jobs the lane can finish in time."""
        within_s = (self.ends_at - now) * MARGIN
        if within_s <= 0:
            return 0.0
        slots = min(lane.limits.slots, lane.limiter.slots)
        most = capacity(
            replace(lane.limits, slots=slots),
            lane.typical_s(),
            within_s,
            lane.open_s(self._today(), within_s),
        )
        # The jobs under way are half done on average.
        return max(0.0, most - lane.limiter.in_flight / 2)
