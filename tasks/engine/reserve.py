"""Collects all that one submit needs, before any money moves.

These are the still, handed over to the provider; a slot on a lane; and the reserved price.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from manifests.catalogue import Route
from manifests.jobs import Job
from tasks.dispatch import (
    BudgetChangedError,
    Lane,
    NoLaneLeftError,
    SlotRequest,
    StoppedError,
    closing,
)
from tasks.dispatch.eligibility import serves
from tasks.engine.environment import Deps
from tasks.engine.job_run import JobRun, MustWaitError, StillUrl
from tasks.engine.poll import STOPPED
from tasks.engine.stats import WaitReason
from tasks.engine.still_handover import StillHandover, unless_stopped

LOOK_AGAIN_S: Final = 15.0
"""The longest wait for lanes that rest before the open lanes are looked at again."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """All that one submit needs."""

    lane: Lane
    price_usd: Decimal
    image_url: str
    job: Job
    """The job as the lane's provider is to be asked for it, its aspect ratio decided."""


class Reserver:
    """Makes reservations from the lanes and the money available."""

    def __init__(self, deps: Deps) -> None:
        self.lanes = deps.lanes
        self.router = deps.router
        self.budget = deps.budget
        self._deps = deps
        self._today = deps.world.today
        self._handover = StillHandover(deps)

    async def reserve(self, run: JobRun, failed: Route | None) -> Reservation:
        """Reserve what one submit of this job needs; the run holds the slot.

        `failed` is the route on which an attempt at it failed.

        Raises:
            MustWaitError: something is missing; the reason says what.
        """
        try:
            while True:
                # A lane's prices may have risen above the row's max_usd.
                run.able = [x for x in run.able if serves(x.route, run.order)]
                request = SlotRequest(run.order, run.able, failed, run.tried)
                lanes = self._ranked(request)
                # Handed to the likeliest lane before the slot: no slot waits for it.
                if await self._likely(run, lanes) is None:
                    continue
                try:
                    lane = await self.lanes.reserve_slot(request)
                except BudgetChangedError:
                    continue
                if reservation := await self._complete(run, lane):
                    return reservation
        except StoppedError:
            raise MustWaitError(WaitReason.STOPPED, STOPPED) from None
        except NoLaneLeftError as exc:
            raise MustWaitError(WaitReason.NO_LANE, str(exc)) from None

    async def _likely(self, run: JobRun, lanes: Sequence[Lane]) -> StillUrl | None:
        """The still, handed to the lane that is likeliest to take the job.

        None as of `still_url`, or after a wait because all the lanes rest.
        """
        now = self._deps.world.now()
        awake = [lane for lane in lanes if not lane.rests.wait_s(now)]
        if awake:
            well = (lane for lane in awake if not lane.limiter.breaker.is_open)
            return await self._handover.still_url(run, next(well, awake[0]))
        soonest_s = min(lane.rests.wait_s(now) for lane in lanes)
        look_again = asyncio.sleep(min(soonest_s, LOOK_AGAIN_S))
        await unless_stopped(self._deps.stopping, look_again)
        return None

    async def _complete(self, run: JobRun, lane: Lane) -> Reservation | None:
        """The reservation for this slot. None if the lane closed; the slot is then released."""
        job, reservation = run.order.job, None
        try:
            still = await self._handover.still_url(run, lane)
            price_usd = lane.route.price_usd(job)
            fits = serves(lane.route, run.order)
            if still is not None and fits and self._reserved(lane, price_usd):
                self._deps.charges.begin(lane, run.order, price_usd)
                framed = replace(job, aspect_ratio=still.aspect_ratio)
                reservation = Reservation(lane, price_usd, still.url, framed)
                run.slot = lane
        finally:
            if reservation is None:
                self.lanes.release_unused_slot(lane)
        return reservation

    def _reserved(self, lane: Lane, price_usd: Decimal) -> bool:
        """Reserve the price from the batch's budget and the lane's daily cap, or from neither.

        Raises:
            MustWaitError: the budget does not have it.
        """
        now = self._today()
        if why := lane.day.full(price_usd, now) if lane.day.limited else None:
            if not lane.day.may_grow:
                self.lanes.close(lane, why)
            return False
        if not self.budget.reserve(price_usd):
            if self.budget.may_grow:
                return False
            raise MustWaitError(
                WaitReason.BUDGET, f"the budget has no {price_usd} USD left"
            )
        return lane.day.reserve(price_usd, now)

    def _ranked(self, request: SlotRequest) -> Sequence[Lane]:
        """The lanes that the job may use now, if one is open and the money may suffice."""
        job = request.order.job
        if not request.lanes:
            reason = "no lane in use can make it for its max_usd"
            raise MustWaitError(WaitReason.UNSERVED, reason)
        cheapest = min(lane.route.price_usd(job) for lane in request.lanes)
        if not (self.budget.affords(cheapest) or self.budget.may_grow):
            raise MustWaitError(WaitReason.BUDGET, "the budget is spent")
        lanes = self.router.rank(request)
        if not any(lane.closed is None for lane in lanes):
            raise NoLaneLeftError(closing(lanes))
        return lanes
