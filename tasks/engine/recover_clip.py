"""Polls one clip that an earlier run left at its provider, and fetches it or gives it up.

This needs no manifest: the ledger has what was submitted. Nothing here costs money.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import httpx

from manifests.catalogue.routes import Route
from manifests.expiry import AT_PROVIDERS
from manifests.lifecycle import (
    Discarded,
    Event,
    History,
    State,
    Ticket,
)
from tasks.dispatch.lanes import Lane
from tasks.engine.download import (
    BadClipError,
    GoneError,
    Publisher,
    UnfetchedError,
    link_of,
    made,
)
from tasks.engine.expired import gone, owed_no_more
from tasks.engine.past_tables import Asked
from tasks.engine.poll import Ended, Follower, generated
from tasks.providers.protocol import Finished, Gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """Fetches a clip, with the ledger as the only source about it."""

    history: Callable[[str], History]
    """Returns the recorded history of a job."""
    follower: Follower
    publisher: Publisher
    record: Callable[[str, Event], Awaitable[object]]
    routes: Mapping[str, Route]
    today: Callable[[], float]

    async def seen_to(self, life: str, lane: Lane, asked: Asked) -> bool:
        """Poll the job, and fetch its clip if it is ready; whether nothing is left to do.

        `lane` asks the provider that has it; `asked` tells its sidecar what was asked for.

        Raises:
            ProviderError, UnfetchedError: it cannot be polled or fetched now.
        """
        history = self.history(life)
        if history.state not in AT_PROVIDERS or history.ticket is None:
            return True
        if history.state is State.ACCEPTED:
            ended = await self._look(life, lane, history.ticket)
            if ended is None:
                return False
            await self._end(life, lane, ended)
        if self.history(life).state is State.GENERATED:
            await self._publish(life, lane, history.ticket, asked)
        return True

    async def _look(self, life: str, lane: Lane, ticket: Ticket) -> Ended | None:
        history = self.history(life)
        # Another account, or another GPU, never had it.
        over = self._over(history, lane) and lane.name == history.lane
        return await self.follower.look(lane, ticket, over=over)

    async def _end(self, life: str, lane: Lane, ended: Ended) -> None:
        """Record how the job ended."""
        history = self.history(life)
        match ended:
            case Finished() as finished:
                await self.record(life, generated(finished))
            case Gone(reason):
                await self.record(life, gone(life, history, lane, reason))
            case _:
                await self.record(life, ended)

    async def _publish(
        self, life: str, lane: Lane, ticket: Ticket, asked: Asked
    ) -> None:
        history = self.history(life)
        over = self._over(history, lane)

        async def link() -> httpx.Request:
            ended = await self._look(life, lane, ticket)
            if ended is None:
                raise UnfetchedError("the provider is at work on it again")
            return lane.endpoint.fetching(link_of(ended, over=over))

        sidecar = {**await asked(life), **made(life, history, ticket)}
        try:
            published = await self.publisher.kept(life) or await self.publisher.publish(
                life, link, sidecar, over=over
            )
        except GoneError as exc:
            await self.record(life, gone(life, history, lane, str(exc)))
        except BadClipError as exc:
            await self.record(life, Discarded(str(exc)))
        else:
            await self.record(life, published)

    def _over(self, history: History, lane: Lane) -> bool:
        """Whether the provider need not keep the clip any more."""
        route = self.routes.get(history.route or "")
        return owed_no_more(history, lane, route, self.today())
