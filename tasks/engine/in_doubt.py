"""Jobs in doubt: asking the providers that can be asked, and the risks that owners take.

A provider's answer counts only where it is certain. What nobody can be asked about stays
in doubt, until its owner says that the money may be risked.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Final, Protocol

from manifests.lifecycle import (
    LOST,
    Accepted,
    Entry,
    Event,
    History,
    Refused,
    Risked,
    State,
    Ticket,
)
from tasks.dispatch.budget import DAY_S
from tasks.dispatch.lanes import Lane
from tasks.engine.expired import free
from tasks.engine.poll import MISSED_S, SAME
from tasks.engine.submit import whose
from tasks.providers.errors import ProviderError
from tasks.providers.http import Clients, Endpoint, ask
from tasks.providers.protocol import Absent, Doubt, Findable, UnreadableError

log = logging.getLogger(__name__)

AT_ONCE: Final = 8

SKEW_S: Final = 15 * 3600.0
"""The clocks of machines that share a root agree so far (one that shows a local time for
UTC is out by up to 14 hours): what is older, is old."""

Record = Callable[[str, Event], Awaitable[None]]


class Entries(Protocol):
    """What is on record, in chunks, from a time on (Unix seconds)."""

    def __call__(self, *, since: float) -> AsyncIterable[Sequence[Entry]]: ...


@dataclass(slots=True)
class Doubts:
    """Settles what can be settled without a person."""

    lanes: Mapping[str, Lane]
    clients: Clients
    record: Record
    entries: Entries
    stopping: asyncio.Event
    now: Callable[[], float]
    today: Callable[[], float]
    settle_s: float
    """How old a doubt is before its provider is asked."""
    unheard: set[str] = field(default_factory=set[str])
    """Jobs whose providers may yet tell: nobody answered, or we were stopped."""
    _tickets: set[str] = field(default_factory=set[str])
    _since: float = inf
    """From when on what earlier runs put on record is among them."""
    _met: dict[tuple[str, int], float] = field(
        default_factory=dict[tuple[str, int], float]
    )
    """When, by our own clock, we first knew of each: of which attempt of which job."""

    def meet(self, doubts: Mapping[str, History]) -> None:
        """From now on these are known of."""
        for job, past in doubts.items():
            # No clock is wrong by so much; ours may be set while we run, and is asked once.
            old = self.today() - (past.submitted_at or 0.0) > SKEW_S
            self._met.setdefault((job, past.attempts), -inf if old else self.now())

    def learn(self, ticket: Ticket) -> None:
        """One more submit whose remote id is on record."""
        self._tickets.add(ticket.id)

    async def asked(self, doubts: Mapping[str, History]) -> dict[str, Event]:
        """Ask about each; what is certain now, by job, and on record."""
        free = asyncio.Semaphore(AT_ONCE)
        alike = Counter(past.mark for past in doubts.values())

        async def one(job: str, past: History) -> tuple[str, Event] | None:
            lane = self.lanes.get(past.lane or "")
            # Two doubts that look alike to the provider are never told apart.
            if lane is None or alike[past.mark] > 1 or not self.askable(past):
                return None
            async with free:
                found = await self._found(lane, job, past)
            if found is None:
                return None
            today = (past.submitted_at or 0.0) > self.today() - DAY_S
            if isinstance(found, Refused) and today:
                lane.day.release(past.price_usd)
            await self.record(job, found)
            return job, found

        told = await asyncio.gather(*(one(*doubt) for doubt in doubts.items()))
        return dict(each for each in told if each is not None)

    async def _known(self, at: float) -> frozenset[str]:
        """The remote ids of all submits that are on record, of whichever run, that a
        provider may list beside one of that time."""
        if at - DAY_S < self._since:
            async for some in self.entries(since=at - DAY_S):
                events = [entry.event for entry in some]
                self._tickets |= {
                    e.ticket.id for e in events if isinstance(e, Accepted)
                }
            self._since = at - DAY_S
        return frozenset(self._tickets)

    def askable(self, past: History) -> bool:
        """Whether its provider can be asked, by the account that it was submitted on: what
        another one lists proves nothing."""
        lane = self.lanes.get(past.lane or "")
        return (
            lane is not None
            and isinstance(lane.endpoint.provider, Findable)
            and past.mark.startswith(f"{whose(lane)}:")
        )

    def due_in_s(self, job: str, past: History) -> float:
        """Seconds until its provider may be asked: of a submit that nobody answered, later,
        since it may have been taken as late as we gave it up.

        Whoever submitted it may have been at work until a moment ago, and its clock may
        not be ours: so it is as old as we have known of it.
        """
        lane = self.lanes.get(past.lane or "")
        if lane is not None and free(past, lane):  # who is asked too early pays nothing
            return 0.0
        self.meet({job: past})
        waits = 2 if past.lost == "silent" else 1
        met_at = self._met[job, past.attempts]
        return max(0.0, met_at + waits * self.settle_s - self.now())

    async def _found(
        self, lane: Lane, job: str, past: History
    ) -> Accepted | Refused | None:
        provider = lane.endpoint.provider
        if not isinstance(provider, Findable):
            return None
        since = past.submitted_at or 0.0
        # What was accepted just now is not yet in anybody's listing.
        with suppress(TimeoutError):
            due_s = self.due_in_s(job, past)
            await asyncio.wait_for(self.stopping.wait(), due_s)
        self.unheard.add(job)
        if self.stopping.is_set():
            return None
        mark = past.mark.partition(":")[2]
        doubt = Doubt(mark=mark, submitted_at=since, known=await self._known(since))
        try:
            found = await self._asked(lane.endpoint, provider, doubt)
        except (ProviderError, UnreadableError) as exc:
            log.warning(
                "doubt.not_settled job=%s lane=%s it stays in doubt: %s",
                job,
                lane.name,
                exc,
            )
            return None
        if self.stopping.is_set() and isinstance(found, Absent):
            return None
        self.unheard.discard(job)
        match found:
            case Ticket() as ticket:
                return Accepted(ticket)
            case Absent(reason):
                return Refused(reason)
            case None:
                return None

    async def _asked(
        self, endpoint: Endpoint, provider: Findable, doubt: Doubt
    ) -> Ticket | Absent | None:
        """What its provider says. One of its machines may not know yet of what another one
        took: what is not there is looked for time and again."""
        found = await ask(self.clients, endpoint, provider.find(doubt))
        for missed in range(1, SAME):
            if self.stopping.is_set() or not isinstance(found, Absent):
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), MISSED_S * missed)
            found = await ask(self.clients, endpoint, provider.find(doubt))
        return found

    async def let_go(self, doubts: Mapping[str, History]) -> set[str]:
        """Let go again at once what costs nothing twice: of GPUs of one's own."""
        unpaid = {
            job: past
            for job, past in doubts.items()
            if (lane := self.lanes.get(past.lane or "")) is not None
            and free(past, lane)
        }
        taken = await self.risked(unpaid)
        self.unheard -= taken
        return taken

    async def risked(self, doubts: Mapping[str, History]) -> set[str]:
        """Let go again what its lane's owner lets us risk, likeliest refused first."""
        taken = set[str]()
        for job, past in sorted(doubts.items(), key=lambda each: _odds(each[1])):
            lane = self.lanes.get(past.lane or "")
            if lane is None or (past.billed and not lane.paid):
                continue
            # Even at a price of 0: who is paid may send a bill that we know nothing of.
            if lane.paid and not lane.risk_usd:
                continue
            if lane.risk.reserve(past.price_usd):
                what = f"risked {past.price_usd} USD" if lane.paid else "let go again"
                said = f"{what}: {past.reason or 'no answer'}"
                log.warning(
                    "doubt.risked job=%s lane=%s it is submitted again: %s",
                    job,
                    lane.name,
                    said,
                )
                await self.record(job, Risked(said))
                taken.add(job)
        return taken


def in_doubt(past: Mapping[str, History], keys: Iterable[str]) -> dict[str, History]:
    """Those of these that are in doubt."""
    found = ((key, past.get(key)) for key in keys)
    return {k: h for k, h in found if h is not None and h.state is State.IN_DOUBT}


def _odds(past: History) -> tuple[int, float]:
    """The likeliest refused first, then the cheapest."""
    lost = LOST.index(past.lost) if past.lost else len(LOST)
    return lost, float(past.price_usd)
