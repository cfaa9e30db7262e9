"""What a batch would cost and take, by lane, before anything is sent: pure.

Plays the engine's own rule (first come, the cheapest lane that is free) on lanes whose
jobs all take their typical time.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from manifests.jobs import Order
from tasks.lanes import Lane
from tasks.pacing import MINUTE
from tasks.routing import candidates

TYPICAL_S = 60.0
"""How long a clip takes where nothing has been seen of its lane: what WaveSpeed's and
fal's documents show for 5 seconds at 480p (read 2026-11)."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one lane would do."""

    lane: str
    jobs: int
    cost_usd: Decimal
    seconds: float
    """Until its last clip, from the start of the batch."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a batch would cost and take."""

    shares: Sequence[Share]
    unserved: int
    """Jobs that no lane in use can make for their max_usd."""

    @property
    def cost_usd(self) -> Decimal:
        return sum((share.cost_usd for share in self.shares), Decimal(0))

    @property
    def seconds(self) -> float:
        return max((share.seconds for share in self.shares), default=0.0)


class _Line:
    """A lane's slots and minutes, as far as the forecast has dealt them out."""

    def __init__(self, lane: Lane, typical_s: float) -> None:
        self.jobs, self.cost_usd, self.end = 0, Decimal(0), 0.0
        self._typical = typical_s
        self._free = [0.0] * lane.limits.slots
        self._between = MINUTE / lane.limits.submits_per_minute
        self._next = 0.0

    def starts(self) -> float:
        """When it could begin one more job."""
        return max(self._free[0], self._next)

    def take(self, price_usd: Decimal) -> None:
        begin = self.starts()
        heapq.heapreplace(self._free, begin + self._typical)
        self._next = begin + self._between
        self.jobs += 1
        self.cost_usd += price_usd
        self.end = max(self.end, begin + self._typical)


def forecast(
    orders: Iterable[Order], lanes: Sequence[Lane], *, typical_s: float = TYPICAL_S
) -> Forecast:
    """What these jobs would cost and take on these lanes."""
    lines = {lane.name: _Line(lane, typical_s) for lane in lanes}
    ables = defaultdict[object, list[Lane]](list)
    unserved, clock = 0, 0.0
    for order in orders:
        job = order.job
        kind = (
            job.model,
            job.resolution,
            job.duration_s,
            job.aspect_ratio,
            bool(job.negative_prompt),
            order.max_usd,
        )
        if kind not in ables:
            ables[kind] = candidates(order, lanes)
        if not (able := ables[kind]):
            unserved += 1
            continue
        clock = max(clock, min(lines[lane.name].starts() for lane in able))
        lane = next(lane for lane in able if lines[lane.name].starts() <= clock)
        lines[lane.name].take(lane.route.price_usd(job))
    shares = [
        Share(name, line.jobs, line.cost_usd, line.end) for name, line in lines.items()
    ]
    return Forecast(shares, unserved)
