"""Collects all that one submit needs, before any money moves.

These are the still, handed over to the provider; a slot on a lane; and the reserved price.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeVar

from manifests.catalogue import Route
from manifests.jobs import AspectRatio, Job, Order
from storage.media import BadStillError
from storage.sources import OpeningError
from tasks.dispatch import (
    BudgetChangedError,
    Lane,
    Lanes,
    NoLaneLeftError,
    SlotRequest,
    StoppedError,
    closing,
)
from tasks.dispatch.eligibility import serves
from tasks.engine import send_still
from tasks.engine.environment import Deps
from tasks.engine.poll import STOPPED
from tasks.engine.stats import WaitReason
from tasks.engine.trouble import Stage
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotSentError,
    ProviderError,
    RejectedError,
    StillRefusedError,
)

T = TypeVar("T")


STILLS_IN_TRANSIT: Final = 24
"""Stills in memory at once: the first are handed over while the next are read."""


HANDED_FOR_S: Final = 3600.0
"""How long a handed-over still is used. Links that we sign are valid for six hours, and the
provider has yet to read them."""

LOOK_AGAIN_S: Final = 15.0
"""The longest wait for lanes that rest before the open lanes are looked at again."""

LONGEST_LINK: Final = 8192
"""Characters."""


REFUSED_IN_A_ROW: Final = 3
"""Stills that a provider refuses in a row, after which its lane is closed for this run."""


class MustWaitError(Exception):
    """The job cannot be bought now: it waits for another run, or for a person."""

    def __init__(self, why: WaitReason, reason: str) -> None:
        super().__init__(reason)
        self.why = why
        self.reason = reason


class UnfitError(Exception):
    """The still is too small for this lane, but not for another one."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """All that one submit needs."""

    lane: Lane
    price_usd: Decimal
    image_url: str
    job: Job
    """The job as the lane's provider is to be asked for it, its aspect ratio decided."""


@dataclass(frozen=True, slots=True)
class StillUrl:
    """A still that a lane's provider can read."""

    url: str
    at: float
    """When (Unix seconds). After `HANDED_FOR_S` the still is handed over again."""
    aspect_ratio: AspectRatio
    """The aspect ratio to ask for: the nearest to the still's, if one must be named."""


@dataclass(slots=True)
class JobRun:
    """The resources of a job while this process works on it. None outlive the process."""

    order: Order
    lanes: Lanes
    able: Sequence[Lane]
    """The lanes that can make it, open or closed, less those for which its still is too
    small."""
    still_urls: dict[str, StillUrl] = field(default_factory=dict[str, StillUrl])
    """By the lane's name."""
    tried: set[str] = field(default_factory=set[str])
    """The lanes on which attempts at it failed, as far as this process knows."""
    still_changes: tuple[str, ...] = ()
    """How the still was changed before it was sent, for the sidecar."""
    still_size: tuple[int, int] | None = None
    """Width and height of the still as it was sent."""
    clip_url: str | None = None
    """The link to the clip, once a poll has returned it."""
    slot: Lane | None = None
    """The lane on which it holds a slot, until the provider is done with it."""
    refused: str | None = None
    """The newest reason why its still could not be handed over, until it was."""
    accepted: float | None = None
    """When this process had its latest submit accepted, by the monotonic clock."""

    @property
    def job_id(self) -> str:
        return self.order.job.id

    def release_slot(self) -> None:
        """Release the slot: the provider has finished the job."""
        if self.slot is not None:
            self.lanes.release_slot(self.slot)
            self.slot = None

    def release_slot_after_typical_run(self) -> None:
        """Release the slot of a job in doubt when the job would be done, if it is at work."""
        if self.slot is not None:
            seconds = self.slot.polls.expected_s() or 60.0
            loop = asyncio.get_running_loop()
            loop.call_later(seconds, self.lanes.release_slot, self.slot)
            self.slot = None


class Reserver:
    """Makes reserver from the lanes and the money available."""

    def __init__(self, deps: Deps) -> None:
        self.lanes = deps.lanes
        self.router = deps.router
        self.budget = deps.budget
        self._deps = deps
        self._today = deps.world.today
        self._in_transit = asyncio.Semaphore(STILLS_IN_TRANSIT)

    async def reserve(self, run: JobRun, failed: Route | None) -> Reservation:
        """Reserve what one submit of this job needs; the run holds the slot.

        `failed` is the route on which an attempt at it failed.

        Raises:
            RestError: something is missing; the reason says what.
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

        None as of `_still_url`, or after a wait because all the lanes rest.
        """
        now = self._deps.world.now()
        awake = [lane for lane in lanes if not lane.rests.wait_s(now)]
        if awake:
            well = (lane for lane in awake if not lane.limiter.breaker.is_open)
            return await self._still_url(run, next(well, awake[0]))
        soonest_s = min(lane.rests.wait_s(now) for lane in lanes)
        await self._unless_stopped(asyncio.sleep(min(soonest_s, LOOK_AGAIN_S)))
        return None

    async def _complete(self, run: JobRun, lane: Lane) -> Reservation | None:
        """The reservation for this slot. None if the lane closed; the slot is then released."""
        job, reservation = run.order.job, None
        try:
            still = await self._still_url(run, lane)
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
            RestError: the budget does not have it.
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

    async def _still_url(self, run: JobRun, lane: Lane) -> StillUrl | None:
        """The still as the lane's provider can read it, or None.

        None means that the lane closed, that the still is too small for it, or that the
        provider is out of reach and there are other lanes. Only the URL is kept, so a
        thousand waiting jobs need little memory.
        """
        known = run.still_urls.get(lane.name)
        if known is None or self._today() - known.at > HANDED_FOR_S:
            try:
                handing = self._hand_over(run, lane)
                known = await self._unless_stopped(handing)
            except UnfitError:
                run.able = [able for able in run.able if able is not lane]
                return None
            except StillRefusedError as exc:
                self._refused(run, lane, exc)
                return None
            except ProviderError as exc:
                self._upload_failed(run, lane, exc)
                self._not_handed(run, lane, exc)
                return None
            lane.rests.answered("upload")
            # A longer URL holds the still itself, which is too much to keep while others wait.
            if len(known.url) <= LONGEST_LINK:
                run.still_urls[lane.name] = known
        return known

    def _refused(self, run: JobRun, lane: Lane, error: StillRefusedError) -> None:
        """Leave the lane out for this job; close it if it refuses one still after another.

        Raises:
            MustWaitError: no other lane can make the job.
        """
        self._upload_failed(run, lane, error)
        lane.stills_refused += 1
        if lane.stills_refused >= REFUSED_IN_A_ROW:
            count = f"{lane.stills_refused} stills in a row"
            self.lanes.close_here(lane, f"refuses {count}: {error}")
        others = [able for able in run.able if able is not lane]
        if not others:
            raise MustWaitError(WaitReason.UNREAD, f"its still: {error}") from error
        run.able = others

    def _upload_failed(self, run: JobRun, lane: Lane, error: Exception) -> None:
        run.refused = f"its still: {error}"
        self._deps.troubles.failed(lane.name, Stage.UPLOAD, str(error), run.job_id)

    def _not_handed(self, run: JobRun, lane: Lane, error: ProviderError) -> None:
        """Apply the failure of an upload to the lane.

        Raises:
            MustWaitError: no other lane can make the job.
        """
        match error:
            case MisconfiguredError():
                self.lanes.misconfigured(lane, "upload", error)
            case InDoubtError(shape=str(shape)) if shape:
                self.lanes.not_own(lane, "upload", error)
            case _ if not self._has_other(run, lane):
                reason = f"its still: {error}"
                raise MustWaitError(WaitReason.UNREAD, reason) from error
            case _ if lane.paid or isinstance(error, RejectedError):
                # Another lane may take a still that this one refuses.
                run.able = [able for able in run.able if able is not lane]
            case _:
                self.lanes.out_of_reach(lane, str(error))

    def _spares(self, run: JobRun, lane: Lane) -> bool:
        """Whether the lane is an own GPU and other lanes can make the job."""
        return not lane.paid and self._has_other(run, lane)

    def _has_other(self, run: JobRun, lane: Lane) -> bool:
        """Whether another open lane can make the job."""
        others = self.router.rank(SlotRequest(run.order, run.able))
        return any(each.closed is None for each in others if each is not lane)

    async def _hand_over(self, run: JobRun, lane: Lane) -> StillUrl:
        order = run.order
        async with self._in_transit:
            try:
                least = min(each.route.min_still_px for each in run.able)
                rules = self._deps.rules
                checked = await send_still.check(
                    order,
                    min_px=least,
                    convert=rules.convert_stills,
                    policy=rules.sources,
                )
            except BadStillError as exc:
                raise MustWaitError(WaitReason.STILL, str(exc)) from exc
            except OpeningError as exc:
                why = WaitReason.UNREAD if exc.passing else WaitReason.STILL
                raise MustWaitError(why, str(exc)) from exc
            seen = checked.still
            run.still_changes = seen.changes
            run.still_size = seen.width, seen.height
            if min(seen.width, seen.height) < lane.route.min_still_px:
                raise UnfitError(lane.name)
            dead_s = self._deps.rules.dead_s if self._spares(run, lane) else None
            try:
                async with asyncio.timeout(dead_s):
                    failed = partial(self._upload_failed, run, lane)
                    clients = self._deps.clients
                    url = await send_still.hand_over(checked, lane, clients, failed)
            except TimeoutError as exc:
                raise NotSentError(f"{lane.name}: no still taken in time") from exc
            run.refused, lane.stills_refused = None, 0
            self._deps.troubles.succeeded(lane.name, Stage.UPLOAD, run.job_id)
            ratio = lane.route.aspect_ratio_for(order.job, seen.width, seen.height)
            return StillUrl(url, self._today(), ratio)

    async def _unless_stopped(self, free: Coroutine[Any, Any, T]) -> T:
        """Await free work; cancel it when the run is stopped."""
        work = asyncio.ensure_future(free)
        stop = asyncio.ensure_future(self._deps.stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise StoppedError
            return work.result()
        finally:
            stop.cancel()
            work.cancel()
