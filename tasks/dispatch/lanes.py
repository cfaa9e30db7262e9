"""The lanes: routes in use with their limiters, shared by all jobs of a process."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from typing import Final, Literal

from manifests.catalogue.routes import Route
from tasks.dispatch import off_peak
from tasks.dispatch.budget import Day, Purse
from tasks.dispatch.poll_schedule import TYPICAL_S, PollSchedule
from tasks.dispatch.rate_limit import Limits, RateLimiter
from tasks.providers.errors import MisconfiguredError
from tasks.providers.http import Endpoint

log = logging.getLogger(__name__)

Clock = Callable[[], float]
HandsOver = Literal["upload", "presign", "link"]

ENOUGH: Final = 20
"""Jobs that must have ended on a lane before its failure rate counts."""

DEAL_AGAIN_S: Final = 5.0
"""The longest time between two deals while jobs wait, because a deadline may change which
lanes they may use."""


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
    paid: bool = True
    """False for own GPUs, on which making a clip twice costs nothing."""
    shared: InitVar[RateLimiter | None] = None
    limiter: RateLimiter = field(init=False)
    polls: PollSchedule = field(init=False, default_factory=PollSchedule)
    day: Day = field(init=False)
    risk: Purse = field(init=False)
    ended: int = field(init=False, default=0)
    """Jobs that ended on it in this run, in any way."""
    failed: int = field(init=False, default=0)
    """The number of `ended` jobs that failed."""
    closed: str | None = None
    """Why nothing more is submitted on it, if it is closed."""
    closed_here: bool = False
    """Whether the cause may be this machine's alone; other machines may still use it."""
    followed: int = 0
    """Jobs whose polling has begun..."""
    fresh: int = 0
    """... and those of them that had just been accepted."""
    learned: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """Set once the lane's latencies are known. Jobs that wait for that poll again."""

    def __post_init__(self, shared: RateLimiter | None) -> None:
        self.limiter = RateLimiter(self.limits) if shared is None else shared
        self.day = Day(self.limits.submits_per_day, self.usd_per_day)
        self.risk = Purse(self.risk_usd if self.paid else None)
        self.account = self.account or self.name

    @property
    def dearest_usd(self) -> Decimal:
        """The most that one of its submits takes."""
        return max(self.route.prices_usd.values())

    def is_short(self, purse: Purse, today: float) -> bool:
        """Whether its turns wait for a larger share of the budget or of the daily caps."""
        if not (purse.may_grow or self.day.may_grow):
            return False
        usd = self.dearest_usd
        return (purse.may_grow and not purse.affords(usd)) or (
            self.day.may_grow and self.day.full(usd, today) is not None
        )

    def count(self, *, failed: bool) -> None:
        """Count one more ended job."""
        self.ended += 1
        self.failed += failed

    def failing(self, most: float) -> bool:
        """Whether a larger share of its jobs failed than `most` allows."""
        return self.ended >= ENOUGH and self.failed > most * self.ended

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


Preferred = Callable[[], Sequence[Lane]]
"""Returns the lanes that a job may use now, the best one first."""


class NoLaneLeftError(Exception):
    """Every lane that could make the job is closed."""


class StoppedError(Exception):
    """The engine has stopped buying."""


class LookAgainError(Exception):
    """The final amount of money is known: each waiting job must check if it can still pay."""


class Lanes:
    """Deals out turns to submit, first come, first served.

    A job gets the first free lane in the order that it prefers at that moment.
    """

    def __init__(
        self,
        lanes: Iterable[Lane],
        clock: Clock,
        today: Clock = time.time,
        purse: Purse | None = None,
    ) -> None:
        self.all = tuple(lanes)
        self._purse = purse or Purse()
        self._clock = clock
        self._today = today
        self._waiting = deque[tuple[Preferred, asyncio.Future[Lane]]]()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._paused = False
        self._open_to_all = len(self.all)
        """How many lanes were open when all waiting jobs were last considered."""

    def __getitem__(self, name: str) -> Lane:
        for lane in self.all:
            if lane.name == name:
                return lane
        raise KeyError(name)

    @property
    def open(self) -> list[Lane]:
        """The lanes that still take jobs."""
        return [lane for lane in self.all if lane.closed is None]

    async def turn(self, preferred: Preferred) -> Lane:
        """Wait for a lane on which a submit may be sent now; its slot is reserved.

        Raises:
            NoLaneLeftError: none of them is open.
            StoppedError: `stop` was called.
            LookAgainError: `look_again` was called.
        """
        if self._stopped:
            raise StoppedError
        lanes = preferred()
        if all(lane.closed for lane in lanes):
            raise NoLaneLeftError(closing(lanes))
        turn: asyncio.Future[Lane] = asyncio.get_running_loop().create_future()
        self._waiting.append((preferred, turn))
        self._deal()
        try:
            return await turn
        except asyncio.CancelledError:
            # The turn was dealt and cancelled at the same time: return the slot.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.withdraw(turn.result())
            raise

    def waiting(self, lanes: Collection[Lane]) -> int:
        """How many jobs wait for a turn that one of these lanes could give."""
        return sum(
            any(lane in lanes for lane in preferred())
            for preferred, turn in self._waiting
            if not turn.done()
        )

    def withdraw(self, lane: Lane) -> None:
        """Return a turn that will not be used."""
        lane.limiter.not_sent()
        self.give_back(lane)

    def give_back(self, lane: Lane) -> None:
        """Release a slot: the lane's job has ended, or is no longer waited for."""
        lane.limiter.release_slot()
        self._deal()

    def answered(self) -> None:
        """Deal turns again: a submit was answered, or more was granted to this run."""
        self._deal()

    def look_again(self) -> None:
        """Make all waiting jobs check, without a turn, whether they can still pay."""
        waiting = [*self._waiting]
        self._waiting.clear()
        for _, turn in waiting:
            if not turn.done():
                turn.set_exception(LookAgainError())

    def close(self, lane: Lane, why: str) -> None:
        """Submit nothing more on this lane."""
        if lane.closed is None:
            log.warning(
                "lane.closed lane=%s nothing more is submitted to it: %s",
                lane.name,
                why,
            )
            lane.closed = why
        self._deal()

    def close_here(self, lane: Lane, why: str) -> None:
        """Submit nothing more on this lane here; other machines may still use it."""
        lane.closed_here = lane.closed_here or lane.closed is None
        self.close(lane, why)

    def misconfigured(self, lane: Lane, error: MisconfiguredError) -> None:
        """Close a lane that will accept nothing.

        A lack of credit concerns the whole account; a bad key may be this machine's alone.
        """
        close = self.close if error.lacks == "credit" else self.close_here
        close(lane, str(error))

    def out_of_reach(self, lane: Lane, why: str) -> None:
        """Note that a free request cannot reach the lane; pause it, or close it here."""
        lane.limiter.unreachable(self._clock())
        if lane.limiter.breaker.is_down:
            self.close_here(lane, f"out of reach: {why}")
        self._deal()

    def pause(self, *, paused: bool) -> None:
        """Deal no turns while paused; waiting jobs keep waiting."""
        self._paused = paused
        self._deal()

    def stop(self) -> None:
        """Deal no more turns; waiting jobs get StoppedError."""
        self._stopped = True
        for _, turn in self._waiting:
            if not turn.done():
                turn.set_exception(StoppedError())
        self._waiting.clear()
        self._again_in(math.inf)

    def _deal(self) -> None:
        if self._paused:
            return
        now, today = self._clock(), self._today()
        still_waiting = deque[tuple[Preferred, asyncio.Future[Lane]]]()
        waits = {
            id(lane): math.inf
            if lane.is_short(self._purse, today)
            else max(lane.limiter.wait_s(now), lane.opens_in_s(today))
            for lane in self.open
        }
        while self._waiting:
            preferred, turn = self._waiting.popleft()
            if turn.done():
                continue
            lanes = preferred()
            able = [lane for lane in lanes if id(lane) in waits]
            free = next((lane for lane in able if not waits[id(lane)]), None)
            if free is not None:
                free.limiter.reserve_slot(now)
                for lane in self.open:
                    if lane.limiter is free.limiter:
                        waits[id(lane)] = max(waits[id(lane)], lane.limiter.wait_s(now))
                turn.set_result(free)
            elif not able:
                turn.set_exception(NoLaneLeftError(closing(lanes)))
            else:
                still_waiting.append((preferred, turn))
                if all(waits.values()) and len(waits) == self._open_to_all:
                    # No lane is free, and none has closed since all jobs were considered:
                    # no job behind this one can get a turn.
                    still_waiting.extend(self._waiting)
                    break
        else:
            self._open_to_all = len(waits)
        self._waiting = still_waiting
        # A free lane that no job wants now may be wanted later.
        soonest = min((wait for wait in waits.values() if wait), default=math.inf)
        self._again_in(min(soonest, DEAL_AGAIN_S) if still_waiting else math.inf)

    def _again_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if math.isfinite(seconds):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(seconds, 0.001), self._deal)


def closing(lanes: Iterable[Lane]) -> str:
    """Why these lanes are closed, in words; a shared reason is given once."""
    whys: dict[str, list[str]] = {}
    for lane in lanes:
        if lane.closed:
            whys.setdefault(lane.closed, []).append(lane.name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in whys.items())
