"""Hands the still of a job to the provider of a lane, and keeps its URL for a while."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from storage.media import BadStillError
from storage.sources import OpeningError
from tasks.dispatch import Lane, SlotRequest, StoppedError
from tasks.engine import send_still
from tasks.engine.environment import Deps
from tasks.engine.job_run import JobRun, MustWaitError, StillUrl
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

LONGEST_LINK: Final = 8192
"""Characters."""


REFUSED_IN_A_ROW: Final = 3
"""Stills that a provider refuses in a row, after which its lane is closed for this run."""


class UnfitError(Exception):
    """The still is too small for this lane, but not for another one."""


class StillHandover:
    """Hands stills over, a bounded number in memory at once."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._lanes = deps.lanes
        self._router = deps.router
        self._today = deps.world.today
        self._in_transit = asyncio.Semaphore(STILLS_IN_TRANSIT)

    async def still_url(self, run: JobRun, lane: Lane) -> StillUrl | None:
        """The still as the lane's provider can read it, or None.

        None means that the lane closed, that the still is too small for it, or that the
        provider is out of reach and there are other lanes. Only the URL is kept, so a
        thousand waiting jobs need little memory.
        """
        known = run.still_urls.get(lane.name)
        if known is None or self._today() - known.at > HANDED_FOR_S:
            try:
                handing = self._hand_over(run, lane)
                known = await unless_stopped(self._deps.stopping, handing)
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
            self._lanes.close_here(lane, f"refuses {count}: {error}")
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
                self._lanes.misconfigured(lane, "upload", error)
            case InDoubtError(shape=str(shape)) if shape:
                self._lanes.not_own(lane, "upload", error)
            case _ if not self._has_other(run, lane):
                reason = f"its still: {error}"
                raise MustWaitError(WaitReason.UNREAD, reason) from error
            case _ if lane.paid or isinstance(error, RejectedError):
                # Another lane may take a still that this one refuses.
                run.able = [able for able in run.able if able is not lane]
            case _:
                self._lanes.out_of_reach(lane, str(error))

    def _spares(self, run: JobRun, lane: Lane) -> bool:
        """Whether the lane is an own GPU and other lanes can make the job."""
        return not lane.paid and self._has_other(run, lane)

    def _has_other(self, run: JobRun, lane: Lane) -> bool:
        """Whether another open lane can make the job."""
        others = self._router.rank(SlotRequest(run.order, run.able))
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


async def unless_stopped(stopping: asyncio.Event, free: Coroutine[Any, Any, T]) -> T:
    """Await free work; cancel it when the run is stopped.

    Raises:
        StoppedError: the run was stopped.
    """
    work = asyncio.ensure_future(free)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise StoppedError
        return work.result()
    finally:
        stop.cancel()
        work.cancel()
