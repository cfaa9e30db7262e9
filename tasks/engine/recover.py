"""Fetches clips that are ready at providers before they expire, from any batch.

The jobs whose clips expire first are polled first, `AT_ONCE` at a time. A job that is not
ready is polled again later, and delays no other.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from manifests.expiry import AT_PROVIDERS, by_expiry
from manifests.lifecycle import Event, History, State
from storage.objects import StorageError
from tasks.dispatch import Lane
from tasks.engine.download import UnfetchedError
from tasks.engine.environment import Deps
from tasks.engine.past_tables import Asked, asking
from tasks.engine.refetch import Refetcher
from tasks.engine.steps import AtProvider, AtWorkError, Steps
from tasks.engine.submit_mark import lane_for_ticket
from tasks.providers.errors import NotFoundError, ProviderError
from tasks.providers.protocol import Finished

AT_ONCE: Final = 16
"""Jobs that are polled, or whose clips are fetched, at the same time."""

SILENT: Final = 3
"""Failures in a row after which a lane is not asked again in this round."""

LOOKS_A_S: Final = 10
"""The most repeated polls of unfinished jobs in one second: they are not urgent."""

LONGEST_PAUSE_S: Final = 30.0
"""The longest pause between two rounds, unless their polls take longer."""

TABLES_WITHIN_S: Final = 30.0
"""How long clips wait for the tables of earlier batches. Only their sidecars need these, and
what is not found in that time is left out."""

TOLD: Final = 50
"""The most reasons that are logged."""

log = logging.getLogger(__name__)


class Fetcher:
    """Fetches clips, with the ledger as the only source about them."""

    def __init__(
        self,
        deps: Deps,
        record: Callable[[str, Event], Awaitable[object]],
        park: Callable[[str, Exception], Awaitable[None]],
        refetcher: Refetcher | None = None,
    ) -> None:
        """`refetcher` receives the clips that are ready and cannot be fetched."""
        self._refetcher = refetcher
        self._deps = deps
        self._record = record
        self._park = park
        self._history = deps.ledger.history
        self._lanes = deps.lanes
        self._steps = Steps(deps)
        # Lives that hold a slot of their lane, as far as we know.
        self._held: dict[str, Lane] = {}

    async def bring_home(
        self, lives: Mapping[str, History], until: asyncio.Event | None = None
    ) -> None:
        """Fetch the clips of these jobs that are ready; those that expire first go first.

        Each job is polled at least once, unless its provider is silent. A job that is not
        ready is polled again until `until` is set; without it, until the deadline.

        Raises:
            FencedError, StorageError: nothing can be put on record any more.
        """
        found = [(x, self._lane_of(x)) for _, x in by_expiry(lives, self._steps.routes)]
        left = {life: lane for life, lane in found if lane is not None}
        self._tell_of([life for life, lane in found if lane is None])
        async with asking(self._deps.objects, left, within_s=TABLES_WITHIN_S) as asked:
            try:
                await self._in_rounds(left, asked, until)
            finally:
                self._hold({})

    async def _in_rounds(
        self, left: dict[str, Lane], asked: Asked, until: asyncio.Event | None
    ) -> None:
        stops, told = [self._deps.stopping], set[tuple[str, str]]()
        while left:
            left = await _Round(self._advance, self._park, asked, stops, told).over(
                left
            )
            if until is None:
                left = {life: left[life] for life in left if not self._old(life)}
            else:
                stops = [self._deps.stopping, until]
            self._hold(left)
            if await _any_set(stops, within_s=self._pause_s(left)):
                return

    async def _advance(self, life: str, lane: Lane, asked: Asked) -> bool:
        """Poll the job, and fetch its clip if it is ready; whether nothing is left to do.

        Raises:
            ProviderError, UnfetchedError: it cannot be polled or fetched now.
        """
        history, url = self._history(life), None
        if history.state not in AT_PROVIDERS or history.ticket is None:
            return True
        poll = partial(self._steps.look, life, lane, history.ticket)
        job = AtProvider(life, lane, history.ticket, poll)
        if history.state is State.ACCEPTED:
            try:
                ended = await poll()
            except AtWorkError:
                return False
            url = ended.url if isinstance(ended, Finished) else None
            await self._record(life, self._steps.ended(job, ended))
        if self._history(life).state is State.GENERATED:
            await self._publish(job, await asked(life), url)
        return True

    async def _publish(
        self, job: AtProvider, request: Mapping[str, Any], url: str | None
    ) -> None:
        kept = await self._deps.publisher.kept(job.job_id) if url is None else None
        try:
            event = kept or await self._steps.publish(job, request=request, url=url)
        except AtWorkError:
            raise
        except UnfetchedError as exc:
            if self._refetcher is None:
                raise
            self._refetcher.add(job, request, str(exc))
        else:
            await self._record(job.job_id, event)

    def _lane_of(self, life: str) -> Lane | None:
        """The lane that accepted the job, or another to the same provider."""
        return lane_for_ticket(self._lanes.all, self._history(life))

    def _tell_of(self, unasked: Iterable[str]) -> None:
        """Log how many clips no lane can ask for, by provider."""
        tickets = [self._history(life).ticket for life in unasked]
        for provider, clips in Counter(x.provider for x in tickets if x).items():
            log.warning(
                "clips.not_fetched clips=%d provider=%s no lane in use asks the provider",
                clips,
                provider,
            )

    def _age_s(self, life: str) -> float:
        return max(
            0.0, self._deps.world.today() - (self._history(life).accepted_at or 0.0)
        )

    def _old(self, life: str) -> bool:
        return self._age_s(life) > self._deps.rules.deadline_s

    def _hold(self, left: Mapping[str, Lane]) -> None:
        """Hold a slot for each job still at work at its provider; release the other slots."""
        at_work = {
            life: lane
            for life, lane in left.items()
            if self._history(life).state is State.ACCEPTED and not self._old(life)
        }
        for life in at_work.keys() - self._held.keys():
            at_work[life].limiter.hold_slot()
        for life in self._held.keys() - at_work.keys():
            self._lanes.release_slot(self._held[life])
        self._held = at_work

    def _pause_s(self, left: Mapping[str, Lane]) -> float:
        """Seconds until these are polled again."""
        waits = [lane.polls.next_s(self._age_s(life)) for life, lane in left.items()]
        soonest = min([LONGEST_PAUSE_S, *waits])
        return max(soonest, len(left) / LOOKS_A_S) if left else 0.0


@dataclass(frozen=True, slots=True)
class _Round:
    """One poll of each of many jobs, `AT_ONCE` at a time."""

    advance: Callable[[str, Lane, Asked], Awaitable[bool]]
    park: Callable[[str, Exception], Awaitable[None]]
    asked: Asked
    stops: Iterable[asyncio.Event]
    told: set[tuple[str, str]]
    """The lanes and reasons that earlier rounds have logged."""
    looked: set[str] = field(default_factory=set[str])
    done: set[str] = field(default_factory=set[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    """Failures in a row, by the lane's name."""
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    async def over(self, lives: Mapping[str, Lane]) -> dict[str, Lane]:
        """Poll each job; return the unfinished ones, those that were not polled first."""
        coming = iter(lives.items())
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(AT_ONCE, len(lives))):
                    workers.create_task(self._work(coming))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        for (lane, reason), clips in self.reasons.items():
            # Once for the whole run, not in every round.
            if (lane, reason) not in self.told and len(self.told) < TOLD:
                self.told.add((lane, reason))
                log.warning(
                    "clips.not_fetched lane=%s clips=%d they stay at the provider for now: %s",
                    lane,
                    clips,
                    reason,
                )
        left = [life for life in lives if life not in self.done]
        return {
            life: lives[life] for life in sorted(left, key=self.looked.__contains__)
        }

    async def _work(self, coming: Iterable[tuple[str, Lane]]) -> None:
        for life, lane in coming:
            if any(stop.is_set() for stop in self.stops):
                return
            # Do not wait a thousand times for a provider that is out of reach.
            if self.failures[lane.name] < SILENT:
                self.looked.add(life)
                await self._look(life, lane)

    async def _look(self, life: str, lane: Lane) -> None:
        try:
            if await self.advance(life, lane, self.asked):
                self.done.add(life)
            self.failures[lane.name] = 0
        except StorageError:
            raise
        except (UnfetchedError, NotFoundError) as exc:
            self.reasons[lane.name, str(exc)] += 1
        except ProviderError as exc:
            self.failures[lane.name] += 1
            self.reasons[lane.name, str(exc)] += 1
        # One clip stays where it is, and the others are fetched.
        except Exception as exc:
            self.done.add(life)
            log.exception(
                "clip.fetch_failed job=%s its clip stays at the provider", life
            )
            await self.park(life, exc)


async def _any_set(events: Iterable[asyncio.Event], *, within_s: float) -> bool:
    """Whether one of these is set within `within_s` seconds."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        first = asyncio.FIRST_COMPLETED
        done, _ = await asyncio.wait(waits, timeout=within_s, return_when=first)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
