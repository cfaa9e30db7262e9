"""A lane: a route in use with an account, its limits, and what this run knows of it."""

import asyncio
import math
from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field, replace
from decimal import ROUND_CEILING, Decimal
from typing import Final, Literal

from manifests.catalogue import Route
from tasks.dispatch import off_peak
from tasks.dispatch.budget import Budget, Day
from tasks.dispatch.poll_schedule import TYPICAL_S, PollSchedule
from tasks.dispatch.rate_limit import Limits, RateLimiter
from tasks.dispatch.rests import Rests
from tasks.providers.http import Endpoint

HandsOver = Literal["upload", "presign", "link"]
OnDearer = Literal["tell", "close"]
"""A lane whose bill is above its price tells its owner, or closes, too."""

Bill = tuple[Decimal, Decimal]
"""The price in the catalogue of one submit, and what the provider charged for it."""

ENOUGH: Final = 20
"""Jobs that must have ended on a lane before its failure rate counts."""

FIRST_FAILED: Final = 3
"""An own GPU closes if its first jobs, this number of different ones, all failed. Attempts
there are free, but a row has only a few of them."""

IN_A_ROW: Final = 10
"""A lane closes if this number of different jobs failed on it in a row."""

STUCK: Final = 2
"""An own GPU closes if this number of its jobs in a row were given up as stuck."""

MILLIONTH: Final = Decimal("0.000001")
"""The smallest amount of money, in dollars."""


@dataclass(slots=True, eq=False)
class Lane:
    """A route in use, with its limiter and its poll schedule.

    The lanes of an account with shared limits share one limiter.
    """

    name: str
    route: Route
    endpoint: Endpoint
    limits: Limits
    hands_over: HandsOver | None = None
    """How stills reach the provider; with None, the engine decides for each still."""
    account: str = ""
    """The name of the account that the limits belong to, no secret; by default the lane's."""
    risk_usd: Decimal = Decimal(0)
    """The money that a batch may risk on submitting this lane's jobs in doubt again."""
    usd_per_day: Decimal | None = None
    on_dearer: OnDearer = "tell"
    paid: bool = True
    """False for own GPUs, on which making a clip twice costs nothing."""
    shared: InitVar[RateLimiter | None] = None
    limiter: RateLimiter = field(init=False)
    polls: PollSchedule = field(init=False, default_factory=PollSchedule)
    day: Day = field(init=False)
    risk: Budget = field(init=False)
    ended: int = field(init=False, default=0)
    """Jobs that ended on it in this run, in any way."""
    failed: int = field(init=False, default=0)
    """The number of `ended` jobs that failed."""
    failed_row: set[str] = field(init=False, default_factory=set[str])
    """The jobs that failed since the latest one that did not."""
    stuck: int = field(init=False, default=0)
    """Jobs that were given up as stuck since the latest one that was finished."""
    listed: Route = field(init=False)
    """The route with the prices of the catalogue; those of `route` follow dearer bills."""
    dearest: Bill | None = field(init=False, default=None)
    """The bill that raised the prices of `route` last, if one did."""
    rests: Rests = field(init=False, default_factory=Rests)
    key_was_good: bool = field(init=False, default=False)
    """Whether the provider accepted the key in this run."""
    closed: str | None = None
    """Why nothing more is submitted on it, if it is closed."""
    closed_here: bool = False
    """Whether the cause may be this machine's alone; other machines may still use it."""
    stills_refused: int = 0
    """Stills that its provider refused since it took one."""
    followed: int = 0
    """Jobs whose polling has begun..."""
    fresh: int = 0
    """... and those of them that had just been accepted."""
    learned: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """Set once the lane's latencies are known. Jobs that wait for that poll again."""

    def __post_init__(self, shared: RateLimiter | None) -> None:
        self.limiter = RateLimiter(self.limits) if shared is None else shared
        self.day = Day(self.limits.submits_per_day, self.usd_per_day)
        self.risk = Budget(self.risk_usd if self.paid else None)
        self.account = self.account or self.name
        self.listed = self.route

    def raise_prices(self, listed_usd: Decimal, usd: Decimal) -> bool:
        """Raise all prices as one bill demands: `usd` for a clip listed at `listed_usd`.

        Returns whether a price rose. A bill never lowers a price.
        """
        before = self.route.prices_usd
        prices = {
            clip: max(before[clip], _raised(price, listed_usd, usd))
            for clip, price in self.listed.prices_usd.items()
        }
        if prices == before:
            return False
        self.route = replace(self.route, prices_usd=prices)
        self.dearest = (listed_usd, usd)
        return True

    @property
    def dearest_usd(self) -> Decimal:
        """The most that one of its submits takes."""
        return max(self.route.prices_usd.values())

    def is_short(self, budget: Budget, today: float) -> bool:
        """Whether its slots wait for a larger share of the budget or of the daily caps."""
        if not (budget.may_grow or self.day.may_grow):
            return False
        usd = self.dearest_usd
        return (budget.may_grow and not budget.affords(usd)) or (
            self.day.may_grow and self.day.full(usd, today) is not None
        )

    def count(self, job: str, *, failed: bool) -> None:
        """Count one more ended job."""
        self.ended += 1
        if failed:
            self.count_failed(job)
        else:
            self.failed_row.clear()
            self.stuck = 0

    def count_failed(self, job: str) -> None:
        """Count an ended job as failed."""
        self.failed += 1
        self.failed_row.add(job)

    def why_failing(self, most: float) -> str | None:
        """Why the lane must close, if too many of its jobs failed.

        `most` is the share of its jobs that may fail.
        """
        if self.stuck >= STUCK:
            return f"{self.stuck} jobs in a row did not move"
        if most >= 1:
            return None
        in_a_row = len(self.failed_row)
        first = self.failed == self.ended
        if not self.paid and first and in_a_row >= FIRST_FAILED:
            return f"its first {in_a_row} jobs all failed"
        if in_a_row >= IN_A_ROW:
            return f"{in_a_row} different jobs in a row failed"
        if self.ended >= ENOUGH and self.failed > most * self.ended:
            return f"{self.failed:,} of {self.ended:,} jobs failed: over {most:.0%}"
        return None

    def opens_in_s(self, today: float) -> float:
        """Seconds until the hours of its route allow submits; `today` is Unix time."""
        opens = self.route.hours_utc
        return 0.0 if opens is None else off_peak.wait_s(opens, today)

    def open_s(self, today: float, within_s: float) -> float:
        """How many of the next `within_s` seconds it takes submits."""
        opens = self.route.hours_utc
        if opens is None or math.isinf(within_s):
            return within_s
        return off_peak.open_s(opens, today, within_s)

    def typical_s(self) -> float:
        """How long one of its jobs takes, by the best knowledge available."""
        known = self.polls.expected_s()
        return self.route.typical_s or TYPICAL_S if known is None else known


def _raised(price_usd: Decimal, listed_usd: Decimal, usd: Decimal) -> Decimal:
    """A price raised in the proportion of a bill, rounded up to a millionth of a dollar."""
    if price_usd == listed_usd:
        return usd
    if not listed_usd:
        return price_usd
    return (price_usd * usd / listed_usd).quantize(MILLIONTH, ROUND_CEILING)


def dearest_bills(lanes: Iterable[Lane]) -> dict[str, Bill]:
    """By lane whose prices rose in this run: the bill that raised them."""
    return {lane.name: lane.dearest for lane in lanes if lane.dearest}
