"""Allots a batch to lanes: as many jobs as possible in time, for the least money.

Pure. "The cheapest lane first" does not give the least money: if two kinds of job want one
lane, it should go to the kind that would pay more elsewhere. The answer is a minimum-cost
flow, found by successive shortest paths (Ahuja, Magnanti and Orlin, "Network Flows", 1993,
chapter 9). It places one kind after the other, as many jobs at once as one path has room
for, where they cost the least. That may move jobs that were placed before.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from heapq import heapify, heappop, heappush
from typing import Final, Generic, NamedTuple, TypeVar

from tasks.dispatch.budget import DAY_S
from tasks.dispatch.rate_limit import RATE_WINDOW_S, Limits

K = TypeVar("K", bound=Hashable)
"""A kind of job: the properties that decide its cost on each lane."""

MICRO: Final = Decimal(1_000_000)
"""Prices are compared in whole millionths of a dollar, so exactly."""

NOWHERE: Final = ""
"""The lane of jobs that no other lane has room for: always free, and dearer than any detour."""


@dataclass(frozen=True, slots=True)
class Allotment(Generic[K]):
    """How many jobs of each kind each lane should do."""

    shares: Mapping[K, Mapping[str, int]]
    """By kind and lane; lanes with none are left out."""
    short: Mapping[K, int]
    """Jobs that no lane can finish in time; kinds with none are left out."""
    cost_usd: Decimal


def allot(
    demand: Mapping[K, int],
    prices: Mapping[K, Mapping[str, Decimal]],
    capacity: Mapping[str, float],
) -> Allotment[K]:
    """Place as many jobs as there is room for, at the least total cost.

    `prices` has the lanes that can make each kind, and `capacity` how many jobs each lane
    can do, inf for any number. Among lanes of equal cost, the first by name is filled first.
    """
    board = _Board(prices, capacity)
    for kind, jobs in demand.items():
        board.place(kind, jobs)
    shares = {kind: board.placed(kind) for kind in demand}
    short = {kind: lanes.pop(NOWHERE, 0) for kind, lanes in shares.items()}
    costs = (
        prices[kind][lane] * jobs
        for kind, lanes in shares.items()
        for lane, jobs in lanes.items()
    )
    return Allotment(
        shares,
        {kind: jobs for kind, jobs in short.items() if jobs},
        sum(costs, Decimal(0)),
    )


def capacity(
    limits: Limits, typical_s: float, within_s: float, open_s: float | None = None
) -> float:
    """How many clips a lane that is empty now can finish within `within_s` seconds.

    `open_s` is the number of these seconds in which it takes submits; None means all.
    """
    if math.isinf(within_s):
        return math.inf
    # A job that starts later than this finishes too late.
    last = within_s - typical_s
    if last < 0:
        return 0.0

    def rounds(every_s: float) -> int:
        whole = math.floor(last / every_s) + 1
        return whole if open_s is None else min(whole, math.ceil(open_s / every_s))

    most = min(
        limits.slots * rounds(typical_s),
        limits.submits_per_minute * rounds(RATE_WINDOW_S),
    )
    if limits.submits_per_day is not None:
        most = min(most, limits.submits_per_day * (math.floor(last / DAY_S) + 1))
    return float(most)


class _Board(Generic[K]):
    """The jobs placed on each lane, always at the least total cost."""

    def __init__(
        self, prices: Mapping[K, Mapping[str, Decimal]], capacity: Mapping[str, float]
    ) -> None:
        self._costs = {
            kind: {lane: round(asked[lane] * MICRO) for lane in sorted(asked)}
            for kind, asked in prices.items()
        }
        listed = [cost for costs in self._costs.values() for cost in costs.values()]
        # A detour moves no more than one job on each lane.
        never = (max(listed, default=0) + 1) * (len(capacity) + 2)
        for costs in self._costs.values():
            costs[NOWHERE] = never
        self._room = {lane: _whole(most) for lane, most in capacity.items()}
        self._room[NOWHERE] = math.inf
        self._on: dict[str, dict[K, int]] = {lane: {} for lane in self._room}
        # The potentials: of each lane, and of any lane with room.
        self._worth = dict.fromkeys(self._room, 0)
        self._worth_free = 0

    def placed(self, kind: K) -> dict[str, int]:
        """How many of the kind are on which lane."""
        lanes = [lane for lane in sorted(self._on) if kind in self._on[lane]]
        return {lane: self._on[lane][kind] for lane in lanes}

    def place(self, kind: K, jobs: int) -> None:
        """Place `jobs` more of the kind, each where it adds the least cost."""
        while jobs:
            moves = self._cheapest(kind)
            end = moves[0].there
            held = [self._on[move.here][move.kind] for move in moves if move.here]
            many = int(min(jobs, self._room[end], *held))
            for move in moves:
                self._add(move.kind, move.there, many)
                if move.here:
                    self._add(move.kind, move.here, -many)
            self._room[end] -= many
            jobs -= many

    def _add(self, kind: K, lane: str, jobs: int) -> None:
        kinds = self._on[lane]
        kinds[kind] = kinds.get(kind, 0) + jobs
        if not kinds[kind]:
            del kinds[kind]

    def _cheapest(self, kind: K) -> "list[_Move[K]]":
        """The cheapest moves that place one more job, the last move first.

        The last move goes to a lane with room. It moves the new job, or one from a full lane
        that another move then fills. This is Dijkstra's algorithm: the potentials keep every
        cost at 0 or above.
        """
        room, worth = self._room, self._worth
        cost = dict(self._costs[kind])
        last = {lane: _Move(kind, NOWHERE, lane) for lane in cost}
        near = [(price - worth[lane], lane) for lane, price in cost.items()]
        heapify(near)
        least, end = cost[NOWHERE], NOWHERE
        while near and near[0][0] <= least - self._worth_free:
            over, here = heappop(near)
            if room[here]:
                least, end = min((least, end), (cost[here], here))
            elif over == cost[here] - worth[here]:
                for moved in self._on[here]:
                    prices = self._costs[moved]
                    saved = cost[here] - prices[here]
                    for lane, price in prices.items():
                        there = saved + price
                        if lane not in cost or there < cost[lane]:
                            cost[lane], last[lane] = there, _Move(moved, here, lane)
                            heappush(near, (there - worth[lane], lane))
        self._revalue(cost, least - self._worth_free)
        moves = [last[end]]
        while moves[-1].here:
            moves.append(last[moves[-1].here])
        return moves

    def _revalue(self, cost: Mapping[str, int], by: int) -> None:
        for lane, worth in self._worth.items():
            self._worth[lane] = min(cost.get(lane, worth + by), worth + by)
        self._worth_free += by


class _Move(NamedTuple, Generic[K]):
    kind: K
    here: str
    """NOWHERE for the job that is new."""
    there: str


def _whole(most: float) -> float:
    return most if math.isinf(most) else float(max(0, math.floor(most)))
