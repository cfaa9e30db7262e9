"""Forecasts the cost and the time of a batch, by lane, before anything is sent. Pure.

It runs the policy on simulated lanes whose jobs all take their typical time. `balanced` and
`fastest` go job by job, and keep no job in memory. `cheapest`, and the forecast for one lane
alone, need only the number of jobs of each kind.
"""

import math
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from heapq import merge
from itertools import repeat
from statistics import median

from manifests.jobs import Kind, Order
from tasks.dispatch import Lane, Policy, allot, candidates, standing_for
from tasks.forecast.lane_model import LaneLoad, lines


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the batch that one lane would make."""

    lane: str
    jobs: int
    cost_usd: Decimal
    seconds: float
    """Until its last clip, from the start of the batch."""


@dataclass(frozen=True, slots=True)
class Alone:
    """The forecast for one lane if it were the only one."""

    lane: str
    jobs: int
    unable: int
    """Jobs that it cannot make, or not for their max_usd."""
    cost_usd: Decimal
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast of a batch: its cost and its time."""

    shares: Sequence[Share]
    unserved: int
    """Jobs that no lane in use can make for their max_usd."""
    late: int
    """Jobs that would be made, but not in time."""
    alone: Sequence[Alone]
    """The same batch on each lane alone."""

    @property
    def jobs(self) -> int:
        """How many jobs would be made, late or not."""
        return sum(share.jobs for share in self.shares)

    @property
    def cost_usd(self) -> Decimal:
        return sum((share.cost_usd for share in self.shares), Decimal(0))

    @property
    def seconds(self) -> float:
        return max((share.seconds for share in self.shares), default=0.0)


def forecast(  # noqa: PLR0913 - what is known of a batch differs
    orders: Iterable[Order],
    lanes: Sequence[Lane],
    *,
    policy: Policy = "balanced",
    within_s: float | None = None,
    typical_s: Mapping[str, float] = {},
    at: float | None = None,
) -> Forecast:
    """Forecast these jobs on these lanes.

    `typical_s` has the time of a clip in seconds, by lane, where earlier ledgers show it.
    `at` is the start of the batch in Unix seconds; without it, off-peak lanes count as
    open.
    """
    table = _Allotment(
        lines(lanes, typical_s, at), math.inf if within_s is None else within_s
    )
    asked = table.count(orders)
    match policy:
        case "balanced":
            table.in_turn(asked)
        case "fastest":
            table.at_once(asked)
        case "cheapest":
            deque(asked, maxlen=0)
            table.sparingly()
    asks = table.asks.values()
    return Forecast(
        [_share(name, line) for name, line in table.lines.items()],
        unserved=sum(ask.jobs for ask in asks if not ask.able),
        late=table.late,
        alone=[_alone(lines([lane], typical_s, at)[lane.name], asks) for lane in lanes],
    )


def in_turn(kinds: Mapping[Kind, int]) -> Iterator[Order]:
    """Sample orders for a forecast: `kinds` many of each kind, spread evenly."""
    every = (
        [((n + 0.5) / count, place) for n in range(count)]
        for place, count in enumerate(kinds.values())
    )
    standing = [standing_for(kind) for kind in kinds]
    return (standing[place] for _, place in merge(*every))


def bounds(kinds: Mapping[Kind, int], lanes: Sequence[Lane]) -> tuple[Decimal, Decimal]:
    """The least and the greatest cost of these jobs on any of these lanes."""
    least = most = Decimal(0)
    for kind, count in kinds.items():
        order = standing_for(kind)
        able = candidates(order, lanes)
        prices = [lane.route.price_usd(order.job) for lane in able]
        least += count * min(prices, default=Decimal(0))
        most += count * max(prices, default=Decimal(0))
    return least, most


def typical(took: Mapping[str, Iterable[float]]) -> dict[str, float]:
    """The median time of a clip in seconds, by lane, from its latest times."""
    return {lane: median(seconds) for lane, seconds in took.items()}


@dataclass(slots=True, eq=False)
class _JobGroup:
    """A kind of job, with its number of jobs."""

    order: Order
    """A sample of these jobs."""
    able: Mapping[LaneLoad, Decimal]
    """The lines that can make them, with their prices, cheapest first."""
    jobs: int = 0

    def by_pool(self) -> dict[str, LaneLoad]:
        """The cheapest lane of each pool."""
        return {line.pool.name: line for line in reversed([*self.able])}


class _Allotment:
    """All lines and kinds of job of a batch; gives the jobs to the lines."""

    def __init__(self, lines: Mapping[str, LaneLoad], within_s: float) -> None:
        self.lines = lines
        self.asks: dict[Kind, _JobGroup] = {}
        self.late = 0
        """Jobs given to a line that it does not finish in time."""
        self._within_s = within_s
        routes = [line.lane.route for line in lines.values()]
        listed = [price for route in routes for price in route.prices_usd.values()]
        self._prices = sorted({Decimal(0), *listed})

    def count(self, orders: Iterable[Order]) -> Iterator[_JobGroup]:
        """Count each order by its kind, and yield that kind."""
        for order in orders:
            kind = order.kind
            if kind.max_usd is not None:
                # All limits between one listed price and the next are equivalent.
                under = bisect_right(self._prices, kind.max_usd)
                kind = kind._replace(max_usd=self._prices[under - 1])
            ask = self.asks.get(kind)
            if ask is None:
                ask = self.asks[kind] = self._ask(kind)
            ask.jobs += 1
            yield ask

    def in_turn(self, asks: Iterable[_JobGroup]) -> None:
        """Give each job, in order, to the cheapest lane that is free."""
        clock = 0.0
        for ask in asks:
            if able := ask.able:
                free = next((line for line in able if line.begins_s <= clock), None)
                if free is None:
                    free = min(able, key=_begins_s)
                    clock = free.begins_s
                self._give(ask, free)

    def at_once(self, asks: Iterable[_JobGroup]) -> None:
        """Give each job, in order, to the lane that finishes it first."""
        for ask in asks:
            if ask.able:
                self._give(ask, min(ask.able, key=_done_s))

    def sparingly(self) -> None:
        """Place jobs in time for the least money; then the late ones as early as possible."""
        asks = {kind: ask for kind, ask in self.asks.items() if ask.able}
        prices = {
            kind: {pool: ask.able[line] for pool, line in ask.by_pool().items()}
            for kind, ask in asks.items()
        }
        demand = {kind: ask.jobs for kind, ask in asks.items()}
        found = allot(demand, prices, self._room())
        for kind, shares in found.shares.items():
            chosen = asks[kind].by_pool()
            for pool, jobs in shares.items():
                chosen[pool].take(prices[kind][pool], jobs)
        for kind, jobs in found.short.items():
            self.at_once(repeat(asks[kind], jobs))

    def _room(self) -> dict[str, float]:
        """How many jobs each pool can finish in time."""
        sharing = defaultdict[str, list[LaneLoad]](list)
        for line in self.lines.values():
            sharing[line.pool.name].append(line)
        return {name: self._most(of) for name, of in sharing.items()}

    def _most(self, sharing: Sequence[LaneLoad]) -> float:
        slowest = max(line.typical_s for line in sharing)
        bought = sum(
            line.affords(self._dearest(line), self._within_s) for line in sharing
        )
        return min(sharing[0].pool.capacity(slowest, self._within_s), bought)

    def _dearest(self, line: LaneLoad) -> Decimal:
        asks = self.asks.values()
        return max(
            (ask.able[line] for ask in asks if line in ask.able), default=Decimal(0)
        )

    def _give(self, ask: _JobGroup, line: LaneLoad) -> None:
        self.late += line.take(ask.able[line]) > self._within_s

    def _ask(self, kind: Kind) -> _JobGroup:
        order = standing_for(kind)
        able = candidates(order, [line.lane for line in self.lines.values()])
        prices = {
            self.lines[lane.name]: lane.route.price_usd(order.job) for lane in able
        }
        return _JobGroup(order, prices)


def _begins_s(line: LaneLoad) -> float:
    return line.begins_s


def _done_s(line: LaneLoad) -> float:
    return line.begins_s + line.typical_s


def _share(name: str, line: LaneLoad) -> Share:
    return Share(name, line.jobs, line.cost_usd, line.end_s)


def _alone(line: LaneLoad, asks: Iterable[_JobGroup]) -> Alone:
    unable = 0
    for ask in asks:
        if candidates(ask.order, [line.lane]):
            line.take(line.lane.route.price_usd(ask.order.job), ask.jobs)
        else:
            unable += ask.jobs
    return Alone(line.lane.name, line.jobs, unable, line.cost_usd, line.end_s)
