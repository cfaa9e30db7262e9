"""Fetching a clip that is ready, and publishing it whole: free, so it is done again and
again, and never a reason to buy the clip twice."""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, Final, Protocol

import httpx

from manifests.jobs import Order
from manifests.lifecycle import Facts, History, Published, Ticket
from storage.media import mp4 as mp4s
from storage.media.clips import Clips
from storage.media.mp4 import BrokenClipError, Probe
from storage.objects.errors import ExistsError, StorageError
from tasks.engine.own_faults import ours
from tasks.engine.poll import SAME, Ended
from tasks.providers.errors import NotFoundError, ProviderError
from tasks.providers.http import download, retrying
from tasks.providers.protocol import Finished, Gone

log = logging.getLogger(__name__)

TRIES: Final = 6
"""Downloads of one clip in one run."""


Offer = Callable[[str, bytes, Mapping[str, Any]], None]
"""Shown a clip that was published: its job, its MP4, its sidecar."""


class Check(Protocol):
    """Looks into a clip, as `storage.media.mp4.check` does."""

    def __call__(self, data: bytes, *, decode: bool) -> Probe:
        """Find out what a clip is, or raise BrokenClipError."""
        ...


class UnfetchedError(Exception):
    """The clip is still at the provider; another run will fetch it."""


class BadClipError(Exception):
    """The provider's clip is whole, the same each time, and no good."""


class GoneError(Exception):
    """The provider keeps the clip no longer: no run will ever fetch it."""


def link_of(ended: Ended, *, over: bool) -> str:
    """Where the clip of a job that had ended well can be fetched, as a poll has it now.

    Raises:
        GoneError: the provider no longer has it, and owes it to nobody (`over`).
        UnfetchedError: not now.
    """
    match ended:
        case Finished(url):
            return url
        case Gone(reason):
            raise GoneError(reason)
        case _ if over:
            raise GoneError(f"it made the clip, and says now: {ended.reason}")
        case _:
            raise UnfetchedError(f"the provider no longer has it: {ended.reason}")


class Publisher:
    """Brings clips home, a bounded number in memory at once."""

    def __init__(
        self,
        clips: Clips,
        client: httpx.AsyncClient,
        *,
        at_once: int,
        decodes: bool,
        check: Check = mp4s.check,
    ) -> None:
        self._clips = clips
        self._client = client
        self._in_transit = asyncio.Semaphore(at_once)
        self._decodes = decodes
        self._check = check
        self.offer: Offer | None = None
        """Who wants to see clips as they are published, if anybody; it is not waited for."""

    async def kept(self, job_id: str) -> Published | None:
        """A clip that an earlier run published and did not live to put on record."""
        names = [field.name for field in fields(Facts)]
        with ours("our own reading of the clip's sidecar", StorageError):
            sidecar = await self._clips.sidecar(job_id)
            if sidecar is None:
                return None
            facts = Facts(**{name: sidecar[name] for name in names})
        return Published(self._clips.uri(job_id), facts)

    async def publish(
        self,
        job_id: str,
        link: Callable[[], Awaitable[httpx.Request]],
        sidecar: Mapping[str, Any],
        *,
        over: bool,
    ) -> Published:
        """Fetch, check and keep a clip.

        Args:
            link: what the clip is to be had by, fresh each time it is asked for.
            over: whether nobody owes it to us any more.

        Raises:
            UnfetchedError: not this time.
            BadClipError: never; the provider's file itself is broken.
            GoneError: never; every fresh link to it is dead.
            OwnFaultError: our own check, or the code that keeps the clip, is broken.
        """
        seen, dead = Counter[str](), 0
        try:
            async for attempt in retrying(TRIES, also=(BrokenClipError,)):
                with attempt:
                    try:
                        return await self._fetched(job_id, await link(), sidecar, seen)
                    except NotFoundError as exc:
                        dead += 1
                        if over and dead >= SAME:
                            raise GoneError(f"{exc}, {SAME} fresh links") from exc
                        raise
        except (ProviderError, BrokenClipError) as exc:
            raise UnfetchedError(str(exc)) from exc
        raise AssertionError  # pragma: no cover - retrying() reraises

    async def _fetched(
        self,
        job_id: str,
        request: httpx.Request,
        sidecar: Mapping[str, Any],
        seen: Counter[str],
    ) -> Published:
        async with self._in_transit:
            mp4 = await download(self._client, request)
            facts = await self._checked(mp4, seen)
            said = {**sidecar, **asdict(facts)}
            return await self._keep(job_id, mp4, said, facts)

    async def _keep(
        self, job_id: str, mp4: bytes, said: Mapping[str, Any], facts: Facts
    ) -> Published:
        """Keep it, or find that another process has just kept the job's clip."""
        try:
            with ours("our own keeping of the clip", StorageError):
                uri = await self._clips.publish(job_id, mp4, said)
        except ExistsError:
            if kept := await self.kept(job_id):
                return kept
            raise
        self._show(job_id, mp4, said)
        return Published(uri, facts)

    def _show(self, job_id: str, mp4: bytes, sidecar: Mapping[str, Any]) -> None:
        if self.offer is None:
            return
        try:
            self.offer(job_id, mp4, sidecar)
        # The clip is published: a poster less must not keep that off the record.
        except Exception:
            log.exception("clip.not_shown job=%s it is published all the same", job_id)

    async def _checked(self, mp4: bytes, seen: Counter[str]) -> Facts:
        def look() -> tuple[str, Probe | BrokenClipError]:
            sha256 = hashlib.sha256(mp4).hexdigest()
            try:
                with ours("our own check of the clip", BrokenClipError):
                    return sha256, self._check(mp4, decode=self._decodes)
            except BrokenClipError as exc:
                return sha256, exc

        sha256, found = await asyncio.to_thread(look)
        seen[sha256] += 1
        if isinstance(found, Probe):
            return Facts(sha256=sha256, bytes=len(mp4), **asdict(found))
        # Cut short or not an MP4 at all is the network's doing, or will heal: only a
        # whole file that is the same each time is the provider's own.
        if found.whole and seen[sha256] >= SAME:
            raise BadClipError(str(found)) from found
        raise found


def described(order: Order, past: History, ticket: Ticket) -> dict[str, Any]:
    """What a clip's sidecar says of how it was made; never where its still was signed."""
    job = order.job
    return {
        "image": job.image,
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "resolution": job.resolution,
        "duration_s": job.duration_s,
        "aspect_ratio": job.aspect_ratio,
        "take": job.take,
        **made(job.id, past, ticket),
    }


def made(job_id: str, past: History, ticket: Ticket) -> dict[str, Any]:
    """The part of it that is on record, whoever asks."""
    return {
        "job": job_id,
        "seed": past.seed,
        "ai_generated": True,
        "route": past.route,
        "lane": past.lane,
        "provider": ticket.provider,
        "remote_id": ticket.id,
        "attempts": past.attempts,
        # However many noughts it came back with.
        "price_usd": f"{past.price_usd.normalize():f}",
        "submitted_at": past.submitted_at,
        "accepted_at": past.accepted_at,
        "generated_at": past.generated_at,
    }
