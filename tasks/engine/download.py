"""Fetches a clip that is ready, and publishes it whole.

A download is free, so it is repeated. A failed download is never a reason to buy the clip
again.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Protocol

import httpx

from manifests.jobs import Order
from manifests.lifecycle import Facts, History, Published, Ticket, Unplayable
from storage.media import BrokenClipError, Clips, Probe, foreign
from storage.media import mp4 as mp4s
from storage.objects import ExistsError, StorageError
from tasks.engine.differs import differs as different
from tasks.engine.own_faults import ours
from tasks.engine.poll import SAME
from tasks.engine.trouble import Stage, Troubles
from tasks.providers.errors import NotFoundError, ProviderError
from tasks.providers.http import PACE, Pace, download, retrying

log = logging.getLogger(__name__)

TRIES: Final = 6
"""The most downloads of one clip in a row."""


OnPublished = Callable[[str, bytes, Mapping[str, Any]], None]
"""Receives each published clip: its job, its MP4, its sidecar."""


class Check(Protocol):
    """Checks a clip, as `storage.media.mp4.check` does."""

    def __call__(self, data: bytes, *, decode: bool) -> Probe:
        """Probe a clip, or raise BrokenClipError."""
        ...


class UnfetchedError(Exception):
    """The clip is still at the provider; another run will fetch it."""


class BadClipError(Exception):
    """The provider's file is identical each time, and does not play."""

    def __init__(self, message: str, data: bytes, sha256: str) -> None:
        super().__init__(message)
        self.data = data
        self.sha256 = sha256


class GoneError(Exception):
    """The provider no longer has the clip: no run will ever fetch it."""


@dataclass(frozen=True, slots=True)
class _Clip:
    """A clip that passed its check."""

    mp4: bytes
    facts: Facts
    origin: Mapping[str, str]
    """The part of its sidecar that says what it was converted from."""


@dataclass(slots=True)
class _BadFile:
    """A file that is no clip, and was downloaded some times in a row."""

    sha256: str
    since: float
    """The time of the first of these downloads, by the run's own clock."""
    times: int = 0


class Publisher:
    """Fetches and publishes clips, a bounded number in memory at once."""

    def __init__(  # noqa: PLR0913 - each is a part or a rule
        self,
        clips: Clips,
        client: httpx.AsyncClient,
        *,
        at_once: int,
        decodes: bool,
        troubles: Troubles,
        refused_s: float,
        now: Callable[[], float],
        check: Check = mp4s.check,
        pace: Pace = PACE,
    ) -> None:
        self._clips = clips
        self._client = client
        self._in_transit = asyncio.Semaphore(at_once)
        self._decodes = decodes
        self._check = check
        self._troubles = troubles
        self._pace = pace
        self._refused_s = refused_s
        self._now = now
        self._bad = dict[str, _BadFile]()
        """By job that has not ended: the file that was downloaded last and is no clip."""
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
            self._bad.pop(job_id, None)
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
            clip = await self._checked(job_id, data, sidecar)
            self._bad.pop(job_id, None)
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

    async def _checked(
        self, job_id: str, data: bytes, order: Mapping[str, Any]
    ) -> _Clip:
        def look() -> tuple[str, Probe | BrokenClipError]:
            sha256 = hashlib.sha256(data).hexdigest()
            try:
                with ours("our own check of the clip", BrokenClipError):
                    return sha256, self._check(data, decode=self._decodes)
            except BrokenClipError as exc:
                return sha256, exc

        sha256, found = await asyncio.to_thread(look)
        if isinstance(found, Probe):
            return _Clip(data, _facts(data, sha256, found, order), {})
        bad = self._bad.get(job_id)
        if bad is None or bad.sha256 != sha256:
            bad = self._bad[job_id] = _BadFile(sha256, self._now())
        bad.times += 1
        if bad.times >= SAME:
            if clip := await asyncio.to_thread(self._converted, data, sha256, order):
                return clip
            # A page may stand in for a clip for a while. A complete file does not.
            if found.whole or self._now() - bad.since >= self._refused_s:
                raise BadClipError(str(found), data, sha256) from found
        raise found

    def _converted(
        self, data: bytes, sha256: str, order: Mapping[str, Any]
    ) -> _Clip | None:
        """The clip in a video of another container than MP4."""
        with ours("our own conversion of the clip"):
            converted = foreign.to_mp4(data)
            if converted is None:
                return None
            mp4 = converted.mp4
            probe = self._check(mp4, decode=self._decodes)
        facts = _facts(mp4, hashlib.sha256(mp4).hexdigest(), probe, order)
        origin = {"converted_from": converted.container, "original_sha256": sha256}
        return _Clip(mp4, facts, origin)


def _facts(mp4: bytes, sha256: str, probe: Probe, order: Mapping[str, Any]) -> Facts:
    measured = asdict(probe)
    del measured["repeats"]
    differs = different(order, probe)
    return Facts(sha256=sha256, bytes=len(mp4), differs=differs, **measured)


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
