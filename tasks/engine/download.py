"""Fetches a clip that is ready, and publishes it whole.

A download is free, so it is repeated. A failed download is never a reason to buy the clip
again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final

import httpx

from manifests.jobs import Order
from manifests.lifecycle import Facts, History, Published, Ticket, Unplayable
from storage.media import BrokenClipError, Clips
from storage.objects import ExistsError, StorageError
from tasks.engine.clip_check import BadClipError, ClipChecker
from tasks.engine.own_faults import ours
from tasks.engine.poll import SAME
from tasks.engine.trouble import Stage, Troubles
from tasks.providers.errors import NotFoundError, ProviderError
from tasks.providers.http import Pace, download, retrying

log = logging.getLogger(__name__)

TRIES: Final = 6
"""The most downloads of one clip in a row."""


OnPublished = Callable[[str, bytes, Mapping[str, Any]], None]
"""Receives each published clip: its job, its MP4, its sidecar."""


class UnfetchedError(Exception):
    """The clip is still at the provider; another run will fetch it."""


class GoneError(Exception):
    """The provider no longer has the clip: no run will ever fetch it."""


class Publisher:
    """Fetches and publishes clips, a bounded number in memory at once."""

    def __init__(  # noqa: PLR0913 - each is a part or a rule
        self,
        clips: Clips,
        client: httpx.AsyncClient,
        *,
        checker: ClipChecker,
        at_once: int,
        troubles: Troubles,
        pace: Pace,
    ) -> None:
        self._clips = clips
        self._client = client
        self._in_transit = asyncio.Semaphore(at_once)
        self.checker = checker
        self._troubles = troubles
        self._pace = pace
        self.on_published: OnPublished | None = None
        """Called with each published clip, if set. Publishing does not wait for it."""

    async def kept(self, job_id: str) -> Published | None:
        """Find a clip that an earlier run published but died before recording."""
        names = [field.name for field in fields(Facts)]
        with ours("our own reading of the clip's sidecar", StorageError):
            sidecar = await self._clips.sidecar(job_id)
            if sidecar is None:
                return None
            facts = Facts(**{name: sidecar[name] for name in names})
        return Published(self._clips.uri(job_id), facts)

    async def publish(  # noqa: PLR0913 - the last ones are by name
        self,
        job_id: str,
        link: Callable[[], Awaitable[httpx.Request]],
        sidecar: Mapping[str, Any],
        *,
        lane: str,
        over: bool,
        tries: int = TRIES,
    ) -> Published:
        """Fetch, check and publish a clip.

        Args:
            lane: the name of the lane that downloads it.
            link: returns a request for the clip, with a fresh link at each call.
            over: whether the provider need not keep the clip any more.
            tries: the most downloads.

        Raises:
            UnfetchedError: this run could not fetch it; another run may.
            BadClipError: no run can publish it; the provider's file itself is broken.
            GoneError: no run can fetch it; every fresh link to it is dead.
            OwnFaultError: our own check, or the code that publishes the clip, is broken.
        """
        dead = 0

        def failed(error: Exception) -> None:
            self._troubles.failed(lane, _stage_of(error), str(error), job_id)

        try:
            async for attempt in retrying(
                tries, also=(BrokenClipError,), on_failure=failed
            ):
                with attempt:
                    try:
                        done = await self._fetched(job_id, await link(), sidecar)
                    except NotFoundError as exc:
                        dead += 1
                        if over and dead >= SAME:
                            raise GoneError(f"{exc}, {SAME} fresh links") from exc
                        raise
                    for stage in (Stage.DOWNLOAD, Stage.PUBLISH):
                        self._troubles.succeeded(lane, stage, job_id)
                    return done
        except (BadClipError, GoneError):
            self.checker.forget(job_id)
            raise
        except (ProviderError, BrokenClipError) as exc:
            failed(exc)
            raise UnfetchedError(str(exc)) from exc
        finally:
            self._troubles.left(job_id)
        raise AssertionError  # pragma: no cover - retrying() reraises

    async def _fetched(
        self,
        job_id: str,
        request: httpx.Request,
        sidecar: Mapping[str, Any],
    ) -> Published:
        async with self._in_transit:
            data = await download(self._client, request, self._pace)
            clip = await self.checker.checked(job_id, data, sidecar)
            self.checker.forget(job_id)
            full_sidecar = {**sidecar, **clip.origin, **asdict(clip.facts)}
            return await self._keep(job_id, clip.mp4, full_sidecar, clip.facts)

    async def keep_as_is(self, job_id: str, bad: BadClipError) -> Unplayable:
        """Keep the bytes of a file that is no clip beside the clips."""
        with ours("our own keeping of what is no clip", StorageError):
            uri = await self._clips.keep(job_id, bad.sha256, bad.data)
        size = f"its {len(bad.data):,} bytes are kept as {uri}"
        return Unplayable(f"no clip: {bad}; {size}, and it is not bought again")

    async def _keep(
        self, job_id: str, mp4: bytes, full_sidecar: Mapping[str, Any], facts: Facts
    ) -> Published:
        """Publish the clip, or return the one that another process has just published."""
        try:
            with ours("our own keeping of the clip", StorageError):
                uri = await self._clips.publish(job_id, mp4, full_sidecar)
        except ExistsError:
            if kept := await self.kept(job_id):
                return kept
            raise
        self._show(job_id, mp4, full_sidecar)
        return Published(uri, facts)

    def _show(self, job_id: str, mp4: bytes, sidecar: Mapping[str, Any]) -> None:
        if self.on_published is None:
            return
        try:
            self.on_published(job_id, mp4, sidecar)
        # The clip is published: a missing poster must not prevent its record.
        except Exception:
            log.exception("clip.not_shown job=%s it is published all the same", job_id)


def _stage_of(error: Exception) -> Stage:
    """The stage that fails: a whole file that does not play was downloaded."""
    whole = isinstance(error, BrokenClipError) and error.whole
    return Stage.PUBLISH if whole else Stage.DOWNLOAD


def requested(
    order: Order,
    still_changes: Sequence[str] = (),
    still_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """The part of a clip's sidecar that repeats the request.

    It never holds the signed link to the still. A run that fetches a clip of an earlier
    run does not know how the still was changed.
    """
    job = order.job
    changed: dict[str, Any] = {}
    if still_changes:
        changed["still_changes"] = [*still_changes]
    if still_size is not None:
        changed["still_size"] = [*still_size]
    return {
        **changed,
        "image": job.image,
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "resolution": job.resolution,
        "duration_s": job.duration_s,
        "aspect_ratio": job.aspect_ratio,
        "take": job.take,
    }


def made(job_id: str, history: History, ticket: Ticket) -> dict[str, Any]:
    """The part of a sidecar that the ledger alone can tell."""
    return {
        "job": job_id,
        "seed": history.seed,
        "ai_generated": True,
        "route": history.route,
        "lane": history.lane,
        "provider": ticket.provider,
        "remote_id": ticket.id,
        "attempts": history.attempts,
        # Trailing zeros are dropped.
        "price_usd": f"{history.price_usd.normalize():f}",
        "submitted_at": history.submitted_at,
        "accepted_at": history.accepted_at,
        "generated_at": history.generated_at,
    }
