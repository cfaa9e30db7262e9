"""One clip that an earlier run left at its provider: looked at, and fetched or given up.

Needs no manifest: what was submitted is on record. Nothing here costs anything.
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
    """Brings a clip home by what is on record of it."""

    history: Callable[[str], History]
    """What is on record of a life by now."""
    follower: Follower
    publisher: Publisher
    record: Callable[[str, Event], Awaitable[object]]
    routes: Mapping[str, Route]
    today: Callable[[], float]

    async def seen_to(self, life: str, lane: Lane, asked: Asked) -> bool:
        """Look at it, and fetch it if it is ready: whether there is no more to be done.

        `lane` asks the provider that has it; `asked` tells its sidecar what was asked for.

        Raises:
            ProviderError, UnfetchedError: not now.
        """
        past = self.history(life)
        if past.state not in AT_PROVIDERS or past.ticket is None:
            return True
        if past.state is State.ACCEPTED:
            ended = await self._look(life, lane, past.ticket)
            if ended is None:
                return False
            await self._end(life, lane, ended)
        if self.history(life).state is State.GENERATED:
            await self._publish(life, lane, past.ticket, asked)
        return True

    async def _look(self, life: str, lane: Lane, ticket: Ticket) -> Ended | None:
        past = self.history(life)
        # To another account, or another GPU, it was never there.
        over = self._over(past, lane) and lane.name == past.lane
        return await self.follower.look(lane, ticket, over=over)

    async def _end(self, life: str, lane: Lane, ended: Ended) -> None:
        """Put on record how its job ended."""
        past = self.history(life)
        match ended:
            case Finished() as finished:
                await self.record(life, generated(finished))
            case Gone(reason):
                await self.record(life, gone(life, past, lane, reason))
            case _:
                await self.record(life, ended)

    async def _publish(
        self, life: str, lane: Lane, ticket: Ticket, asked: Asked
    ) -> None:
        past = self.history(life)
        over = self._over(past, lane)

        async def link() -> httpx.Request:
            ended = await self._look(life, lane, ticket)
            if ended is None:
                raise UnfetchedError("the provider is at work on it again")
            return lane.endpoint.fetching(link_of(ended, over=over))

        sidecar = {**await asked(life), **made(life, past, ticket)}
        try:
            published = await self.publisher.kept(life) or await self.publisher.publish(
                life, link, sidecar, over=over
            )
        except GoneError as exc:
            await self.record(life, gone(life, past, lane, str(exc)))
        except BadClipError as exc:
            await self.record(life, Discarded(str(exc)))
        else:
            await self.record(life, published)

    def _over(self, past: History, lane: Lane) -> bool:
        """Whether nobody owes us its clip any more."""
        route = self.routes.get(past.route or "")
        return owed_no_more(past, lane, route, self.today())
