"""The steps of a job that a provider has accepted: how it ended, and its clip.

A batch takes them for its own jobs. Recovery takes them for jobs whose orders it does not
have. They are free, and cannot submit.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from manifests.catalogue import Route, shipped
from manifests.expiry import expired, in_use, is_over
from manifests.lifecycle import Discarded, Event, Forgotten, History, Ticket
from tasks.dispatch import Lane
from tasks.engine.clip_check import BadClipError
from tasks.engine.download import TRIES, GoneError, UnfetchedError, made
from tasks.engine.environment import Deps
from tasks.engine.poll import Ended, generated
from tasks.providers.protocol import Finished, Gone

log = logging.getLogger(__name__)


class AtWorkError(UnfetchedError):
    """The provider has not finished the job."""


def free(history: History, lane: Lane) -> bool:
    """Whether the attempt is free now, and was free when it was made.

    A lane with the same name or engine may have been a paid one then.
    """
    return not (lane.paid or history.billed)


def known_routes(lanes: Iterable[Lane]) -> Mapping[str, Route]:
    """Every route of the catalogue and of these lanes, by its name."""
    return in_use(shipped().routes, [lane.route for lane in lanes])


@dataclass(frozen=True, slots=True)
class AtProvider:
    """A job that a provider has accepted."""

    job_id: str
    lane: Lane
    """The lane that polls it and downloads its clip."""
    ticket: Ticket
    poll: Callable[[], Awaitable[Ended]]
    """Returns how the job ended. Its exceptions are for the caller of the steps."""


class Steps:
    """Turns the answers about jobs at providers into events, for the caller to record."""

    def __init__(self, deps: Deps) -> None:
        self.routes = known_routes(deps.lanes.all)
        self._deps = deps
        self._history = deps.ledger.history
        self._publisher = deps.publisher
        self._today = deps.world.today

    def may_be_gone(self, history: History, lane: Lane) -> bool:
        """Whether the provider need not keep the clip any more: if it is missing, it is gone."""
        # Engines on own GPUs keep their jobs in memory, until they restart.
        route = self.routes.get(history.route or "")
        return free(history, lane) or is_over(history, route, self._today())

    def ended(self, job: AtProvider, ended: Ended) -> Event:
        """The event for the end of the job at its provider."""
        match ended:
            case Finished():
                return generated(ended)
            case Gone(reason):
                return self._gone(job, reason)
            case _:
                return ended

    async def look(self, job_id: str, lane: Lane, ticket: Ticket) -> Ended:
        """Poll a job once.

        Raises:
            AtWorkError: it has not ended.
            ProviderError: no answer, or an error; the class says which.
        """
        history = self._history(job_id)
        # Another account, or another GPU, never had it.
        over = self.may_be_gone(history, lane) and lane.name == history.lane
        ended = await self._deps.follower.look(lane, ticket, over=over)
        if ended is None:
            raise AtWorkError("the provider is at work on it again")
        return ended

    async def publish(
        self,
        job: AtProvider,
        *,
        request: Mapping[str, Any],
        url: str | None,
        tries: int = TRIES,
    ) -> Event:
        """Fetch and publish the clip: by the known `url` first, then by fresh links.

        `request` is the part of the sidecar that repeats what was asked for.

        Raises:
            UnfetchedError: this run could not fetch it; another run may.
            OwnFaultError: our own check, or the code that publishes the clip, is broken.
        """
        history = self._history(job.job_id)
        over = self.may_be_gone(history, job.lane)

        async def link() -> httpx.Request:
            nonlocal url
            known, url = url, None
            if known is None:
                known = _link_of(await job.poll(), over=over)
            return job.lane.endpoint.fetching(known)

        sidecar = {**request, **made(job.job_id, history, job.ticket)}
        try:
            return await self._publisher.publish(
                job.job_id,
                link,
                sidecar,
                lane=job.lane.name,
                over=over,
                tries=tries,
            )
        except GoneError as exc:
            return self._gone(job, str(exc))
        except BadClipError as exc:
            return await self._unplayable(job, exc)

    async def _unplayable(self, job: AtProvider, bad: BadClipError) -> Event:
        """The event for a file that is no clip; on own GPUs another one costs nothing."""
        if free(self._history(job.job_id), job.lane):
            return Discarded(str(bad))
        event = await self._publisher.keep_as_is(job.job_id, bad)
        log.error(
            "clip.unplayable job=%s lane=%s it was paid for: %s",
            job.job_id,
            job.lane.name,
            event.reason,
        )
        return event

    def _gone(self, job: AtProvider, why: str) -> Discarded | Forgotten:
        """The event for a clip that the provider no longer has.

        It is `Discarded` if the clip was paid for, and `Forgotten` (remade free) on own
        GPUs.
        """
        provider = job.lane.endpoint.provider.name
        if free(self._history(job.job_id), job.lane):
            log.warning(
                "job.forgotten job=%s lane=%s the engine lost it, it is made again: %s",
                job.job_id,
                job.lane.name,
                why,
            )
            return Forgotten(f"forgotten by {provider}: {why}")
        lost = expired(provider, why)
        log.error(
            "clip.expired job=%s lane=%s it was paid for, and is bought again: %s",
            job.job_id,
            job.lane.name,
            lost.reason,
        )
        return lost


def _link_of(ended: Ended, *, over: bool) -> str:
    """Return the link to a finished clip, from the latest poll.

    Raises:
        GoneError: the provider no longer has it, and need not keep it any more (`over`).
        UnfetchedError: it cannot be fetched now.
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
