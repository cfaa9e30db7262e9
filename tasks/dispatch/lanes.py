"""The lanes: routes in use with their limiters, shared by all jobs of a process."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from decimal import ROUND_CEILING, Decimal
from typing import Final, Literal

from manifests.catalogue import Route
from manifests.jobs import Order
from tasks.dispatch import off_peak
from tasks.dispatch.budget import Budget, Day
from tasks.dispatch.poll_schedule import TYPICAL_S, PollSchedule
from tasks.dispatch.rate_limit import Limits, RateLimiter
from tasks.dispatch.rests import Reaction, Rests, Stage
from tasks.providers.errors import InDoubtError, MisconfiguredError
from tasks.providers.http import Endpoint

log = logging.getLogger(__name__)

Clock = Callable[[], float]
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

ASSIGN_AGAIN_S: Final = 5.0
"""The longest time between two assignments while jobs wait, because a deadline may change
which lanes they may use."""


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


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """A job that needs a slot, and what decides which lanes it may use."""

    order: Order
    lanes: Sequence[Lane]
    """The lanes that can make it, open or closed."""
    failed: Route | None = None
    """The route on which an attempt at it failed: other suppliers go first."""
    tried: Collection[str] = ()
    """The lanes on which attempts at it failed: of own GPUs, the other lanes go first."""


Rank = Callable[[SlotRequest], Sequence[Lane]]
"""The policy: returns the lanes that a request may use now, the best one first."""


def as_requested(request: SlotRequest) -> Sequence[Lane]:
    """The policy that takes the lanes of the request, in its order."""
    return request.lanes


class NoLaneLeftError(Exception):
    """Every lane that could make the job is closed."""


class StoppedError(Exception):
    """The engine has stopped buying."""


class BudgetChangedError(Exception):
    """The final amount of money is known: each waiting job must check if it can still pay."""


class Lanes:
    """Hands out the lanes' slots, first come, first served.

    A request gets the first lane with a free slot, in the order of the policy at that moment.
    """

    def __init__(
        self,
        lanes: Iterable[Lane],
        clock: Clock,
        today: Clock = time.time,
        budget: Budget | None = None,
        rank: Rank = as_requested,
    ) -> None:
        self.all = tuple(lanes)
        self._rank = rank
        self._budget = budget or Budget()
        self._clock = clock
        self._today = today
        self._waiting = deque[tuple[SlotRequest, asyncio.Future[Lane]]]()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._paused = False
        self._open_to_all = len(self.all)
        """How many lanes were open when all waiting jobs were last considered."""

    def __getitem__(self, name: str) -> Lane:
        if (lane := self.get(name)) is None:
            raise KeyError(name)
        return lane

    def get(self, name: str | None) -> Lane | None:
        """The lane of this name, if it is in use."""
        return next((lane for lane in self.all if lane.name == name), None)

    @property
    def open(self) -> list[Lane]:
        """The lanes that still take jobs."""
        return [lane for lane in self.all if lane.closed is None]

    async def reserve_slot(self, request: SlotRequest) -> Lane:
        """Wait for a slot, and reserve it: one submit may be sent now on the returned lane.

        Raises:
            NoLaneLeftError: none of them is open.
            StoppedError: `stop` was called.
            BudgetChangedError: `recheck_budgets` was called.
        """
        if self._stopped:
            raise StoppedError
        lanes = self._rank(request)
        if all(lane.closed for lane in lanes):
            raise NoLaneLeftError(closing(lanes))
        slot: asyncio.Future[Lane] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, slot))
        self._assign()
        try:
            return await slot
        except asyncio.CancelledError:
            # The slot was reserved and the wait cancelled at the same time.
            if slot.done() and not slot.cancelled() and slot.exception() is None:
                self.release_unused_slot(slot.result())
            raise

    def waiting(self, lanes: Collection[Lane]) -> int:
        """How many requests wait for a slot that one of these lanes could give."""
        return sum(
            any(lane in lanes for lane in self._rank(request))
            for request, slot in self._waiting
            if not slot.done()
        )

    def release_unused_slot(self, lane: Lane) -> None:
        """Release a reserved slot on which no submit will be sent."""
        lane.limiter.not_sent()
        self.release_slot(lane)

    def release_slot(self, lane: Lane) -> None:
        """Release a slot: the lane's job has ended, or is no longer waited for."""
        lane.limiter.release_slot()
        self._assign()

    def assign_slots(self) -> None:
        """Give slots to waiting requests: a submit was answered, or more was granted."""
        self._assign()

    def recheck_budgets(self) -> None:
        """Make all waiting jobs check, without a slot, whether they can still pay."""
        waiting = [*self._waiting]
        self._waiting.clear()
        for _, slot in waiting:
            if not slot.done():
                slot.set_exception(BudgetChangedError())

    def close(self, lane: Lane, why: str) -> None:
        """Submit nothing more on this lane."""
        if lane.closed is None:
            log.warning(
                "lane.closed lane=%s nothing more is submitted to it: %s",
                lane.name,
                why,
            )
            lane.closed = why
        self._assign()

    def close_here(self, lane: Lane, why: str) -> None:
        """Submit nothing more on this lane here; other machines may still use it."""
        lane.closed_here = lane.closed_here or lane.closed is None
        self.close(lane, why)

    def misconfigured(
        self, lane: Lane, stage: Stage, error: MisconfiguredError
    ) -> None:
        """Close a lane that will accept nothing.

        A lack of credit concerns the whole account; a bad key may be this machine's alone.
        A key that was good in this run is tried again, for about a minute.
        """
        if lane.key_was_good and error.lacks in {"auth", "permission"}:
            self._react(
                lane, stage, lane.rests.key_refused(stage, self._clock()), error
            )
            return
        close = self.close if error.lacks == "credit" else self.close_here
        close(lane, str(error))

    def not_own(self, lane: Lane, stage: Stage, error: InDoubtError) -> None:
        """Count an answer that is not the provider's own: the lane may rest, or close here.

        Other answers have no `shape`, and change nothing.
        """
        if not error.shape:
            return
        reaction = lane.rests.foreign(stage, error.shape, self._clock())
        self._react(lane, stage, reaction, error)

    def answered(self, lane: Lane, stage: Stage) -> None:
        """Count a good answer of the provider, which proves the key as well."""
        lane.key_was_good = True
        lane.rests.answered(stage)

    def _react(
        self, lane: Lane, stage: Stage, reaction: Reaction, error: Exception
    ) -> None:
        if reaction == "closes":
            self.close_here(lane, f"at each {stage}: {error}")
        elif reaction == "rests":
            log.warning(
                "lane.rests lane=%s stage=%s wait_s=%.0f it is tried again then, and "
                "what it accepted is asked for meanwhile: %s",
                lane.name,
                stage,
                lane.rests.wait_s(self._clock()),
                error,
            )
        self._assign()

    def out_of_reach(self, lane: Lane, why: str) -> None:
        """Note that a free request cannot reach the lane; pause it, or close it here."""
        lane.limiter.unreachable(self._clock())
        if lane.limiter.breaker.is_down:
            self.close_here(lane, f"out of reach: {why}")
        self._assign()

    def pause(self, *, paused: bool) -> None:
        """Reserve no slots while paused; waiting jobs keep waiting."""
        self._paused = paused
        self._assign()

    def stop(self) -> None:
        """Reserve no more slots; waiting jobs get StoppedError."""
        self._stopped = True
        for _, slot in self._waiting:
            if not slot.done():
                slot.set_exception(StoppedError())
        self._waiting.clear()
        self._assign_again_in(math.inf)

    def _assign(self) -> None:
        """Give free slots to waiting requests."""
        if self._paused:
            return
        now, today = self._clock(), self._today()
        still_waiting = deque[tuple[SlotRequest, asyncio.Future[Lane]]]()
        waits = {
            id(lane): math.inf
            if lane.is_short(self._budget, today)
            else max(
                lane.limiter.wait_s(now),
                lane.opens_in_s(today),
                lane.rests.wait_s(now),
            )
            for lane in self.open
        }
        while self._waiting:
            request, slot = self._waiting.popleft()
            if slot.done():
                continue
            lanes = self._rank(request)
            able = [lane for lane in lanes if id(lane) in waits]
            free = next((lane for lane in able if not waits[id(lane)]), None)
            if free is not None:
                free.limiter.reserve_slot(now)
                for lane in self.open:
                    if lane.limiter is free.limiter:
                        waits[id(lane)] = max(waits[id(lane)], lane.limiter.wait_s(now))
                slot.set_result(free)
            elif not able:
                slot.set_exception(NoLaneLeftError(closing(lanes)))
            else:
                still_waiting.append((request, slot))
                if all(waits.values()) and len(waits) == self._open_to_all:
                    # No lane is free, and none has closed since all jobs were considered:
                    # no request behind this one can get a slot.
                    still_waiting.extend(self._waiting)
                    break
        else:
            self._open_to_all = len(waits)
        self._waiting = still_waiting
        # A free lane that no job wants now may be wanted later.
        soonest = min((wait for wait in waits.values() if wait), default=math.inf)
        self._assign_again_in(
            min(soonest, ASSIGN_AGAIN_S) if still_waiting else math.inf
        )

    def _assign_again_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if math.isfinite(seconds):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(seconds, 0.001), self._assign)


def dearest_bills(lanes: Iterable[Lane]) -> dict[str, Bill]:
    """By lane whose prices rose in this run: the bill that raised them."""
    return {lane.name: lane.dearest for lane in lanes if lane.dearest}


def closing(lanes: Iterable[Lane]) -> str:
    """Why these lanes are closed, in words; a shared reason is given once."""
    whys: dict[str, list[str]] = {}
    for lane in lanes:
        if lane.closed:
            whys.setdefault(lane.closed, []).append(lane.name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in whys.items())
