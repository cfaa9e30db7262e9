"""The lanes of a process: hands out their slots, and closes lanes that accept nothing."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from manifests.catalogue import Route
from manifests.jobs import Order
from tasks.dispatch.budget import Budget
from tasks.dispatch.lane import Lane
from tasks.dispatch.rests import Reaction, Stage
from tasks.providers.errors import InDoubtError, MisconfiguredError

log = logging.getLogger(__name__)

Clock = Callable[[], float]
ASSIGN_AGAIN_S: Final = 5.0
"""The longest time between two assignments while jobs wait, because a deadline may change
which lanes they may use."""


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


_Waiting = tuple[SlotRequest, asyncio.Future[Lane]]
"""A request, and the future that its slot resolves."""


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
        self._waiting = deque[_Waiting]()
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
        now = self._clock()
        waits = self._waits(now)
        still_waiting = deque[_Waiting]()
        while self._waiting:
            request, slot = self._waiting.popleft()
            if slot.done():
                continue
            lanes = self._rank(request)
            able = [lane for lane in lanes if id(lane) in waits]
            free = next((lane for lane in able if not waits[id(lane)]), None)
            if free is not None:
                self._reserve(free, waits, now)
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

    def _waits(self, now: float) -> dict[int, float]:
        """By the identity of each open lane: seconds until it may take a submit."""
        today = self._today()
        return {
            id(lane): math.inf
            if lane.is_short(self._budget, today)
            else max(
                lane.limiter.wait_s(now),
                lane.opens_in_s(today),
                lane.rests.wait_s(now),
            )
            for lane in self.open
        }

    def _reserve(self, free: Lane, waits: dict[int, float], now: float) -> None:
        """Reserve a slot, and update the waits of the lanes that share its limiter."""
        free.limiter.reserve_slot(now)
        for lane in self.open:
            if lane.limiter is free.limiter:
                waits[id(lane)] = max(waits[id(lane)], lane.limiter.wait_s(now))

    def _assign_again_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if math.isfinite(seconds):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(seconds, 0.001), self._assign)


def closing(lanes: Iterable[Lane]) -> str:
    """Why these lanes are closed, in words; a shared reason is given once."""
    whys: dict[str, list[str]] = {}
    for lane in lanes:
        if lane.closed:
            whys.setdefault(lane.closed, []).append(lane.name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in whys.items())
