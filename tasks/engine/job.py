"""One job's life: from wherever its history left it, to an end.

The loop is: look at the history, do the one thing it calls for, record what happened,
look again. `_life` is an async generator of events that is resumed only once each event
is durable, so the order of its lines is the write-ahead rule; a crash between any two of
them is a crash between two entries, and the next run goes on from there.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import httpx

from manifests.catalogue.loader import shipped
from manifests.catalogue.routes import Route
from manifests.expiry import in_use
from manifests.lifecycle import (
    Accepted,
    Discarded,
    Doubted,
    Event,
    Forgotten,
    History,
    Refused,
    Rejected,
    State,
    Ticket,
)
from storage.ledger.ledger import Ledger
from tasks.dispatch.lanes import Lane, Lanes
from tasks.dispatch.policy import Roster
from tasks.engine.download import (
    BadClipError,
    GoneError,
    Publisher,
    UnfetchedError,
    described,
    link_of,
)
from tasks.engine.expired import free, gone, owed_no_more
from tasks.engine.own_faults import OwnFaultError
from tasks.engine.poll import (
    Ended,
    Follower,
    Patience,
    UnfinishedError,
    UnreadError,
    generated,
)
from tasks.engine.reserve import Hand, Offer, Offers, RestError
from tasks.engine.stats import UNANSWERED, Tally, Why
from tasks.engine.submit import (
    LONGEST_WAIT_S,
    Answer,
    Submitter,
    reference,
    who_asks,
)
from tasks.providers.errors import MisconfiguredError
from tasks.providers.http import Clients
from tasks.providers.protocol import Finished, Gone

log = logging.getLogger(__name__)

SEND_WITHIN_S: Final = 30.0
"""How old an intent may be when its request is sent. A process that stood still for longer
may have been taken for dead, and what it meant to send for never sent: a holder is dead
after 60 silent seconds, and a doubt of that age is asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the owner of a batch allows."""

    attempts: int = 3
    """Attempts that a provider may accept and not deliver on, for each job."""
    deadline_s: float = 3600.0
    """How long an accepted job is looked at before it is left to the next run."""
    downloads: int = 16
    """Clips in memory at once."""
    decodes: bool = True
    """Whether every frame of a clip is decoded before it is published."""
    max_failure_rate: float = 0.3
    """The share of a lane's jobs that may come to nothing before it buys no more."""
    settle_s: float = 60.0
    """How old a doubt is before its provider is asked what became of it."""
    grace_s: float = 20.0
    """How long who winds down waits for clips that should be done by then."""
    dead_s: float = 60.0
    """How long a GPU of one's own is out of reach before another one makes its jobs."""


LOSSES: Final = 2
"""How often a job is sent again that a GPU of one's own forgot."""


class Lives:
    """Lives out jobs."""

    def __init__(  # noqa: PLR0913 - the parts of a life, each named once
        self,
        *,
        lanes: Lanes,
        roster: Roster,
        ledger: Ledger,
        clients: Clients,
        follower: Follower,
        publisher: Publisher,
        tally: Tally,
        record: Callable[[str, Event], Awaitable[None]],
        rules: Rules,
        stopping: asyncio.Event,
        now: Callable[[], float],
        today: Callable[[], float],
    ) -> None:
        self.lanes = lanes
        self.roster = roster
        self.tally = tally
        self.follower = follower
        self._record = record
        self._ledger = ledger
        self._rules = rules
        self._routes = in_use(shipped().routes, [lane.route for lane in lanes.all])
        self._now = now
        self._today = today
        self._offers = Offers(
            lanes, roster, clients, tally.purse, stopping, today, rules.dead_s
        )
        self._submitter = Submitter(lanes, clients, now, rules.max_failure_rate)
        self._publisher = publisher

    async def lived(self, hand: Hand) -> History:
        """Live on, putting each event on record before the next begins."""
        async with aclosing(self._life(hand)) as events:
            async for event in events:
                await self._record(hand.job_id, event)
        return self._ledger.history(hand.job_id)

    async def _life(self, hand: Hand) -> AsyncGenerator[Event, None]:
        """The rest of the life that is in hand."""
        try:
            while step := self._step(hand, self._ledger.history(hand.job_id)):
                moved = False
                async with aclosing(step) as events:
                    async for event in events:
                        moved = True
                        yield event
                if not moved:
                    return
        except RestError as exc:
            self.tally.rest(hand.job_id, exc.why, exc.reason)
            if self._ledger.history(hand.job_id).state is State.PENDING:
                self.roster.bought(hand.order)
        finally:
            hand.let_go()

    def _step(self, hand: Hand, past: History) -> AsyncGenerator[Event, None] | None:
        """The one thing a history calls for, or None at an end."""
        match past:
            case History(state=State.PENDING) if past.losses > LOSSES:
                said = f"{past.losses} times sent and lost: {past.reason}"
                raise RestError(Why.ATTEMPTS, said)
            case History(state=State.PENDING) if past.failures < self._rules.attempts:
                return self._buy(hand, past)
            case History(state=State.PENDING):
                said = f"{past.failures} attempts failed: {past.reason}"
                raise RestError(Why.ATTEMPTS, said)
            case History(state=State.IN_DOUBT):
                raise RestError(Why.DOUBT, past.reason or UNANSWERED)
            case History(state=State.ACCEPTED, ticket=Ticket() as ticket):
                return self._follow(hand, past, ticket)
            case History(state=State.GENERATED, ticket=Ticket() as ticket):
                return self._publish(hand, past, ticket)
            case _:
                return None

    async def _buy(self, hand: Hand, past: History) -> AsyncGenerator[Event, None]:
        """One submit: on record before it is sent, and again when it is answered."""
        offer = await self._offers.make(hand, self._failed(past))
        seed = hand.order.job.seed_after(past.discards)
        ref = reference(hand.job_id, past.attempts + 1)
        self.roster.bought(hand.order)
        meant = self._now(), self._today()
        yield self._submitter.intended(offer, seed, ref)
        if (old_s := self._since(*meant)) > SEND_WITHIN_S:
            answer = self._not_sent(offer, old_s)
        else:
            answer = await self._submitter.send(
                offer,
                seed,
                ref,
                in_time=lambda: self._since(*meant) <= SEND_WITHIN_S,
            )
        if isinstance(answer, Refused | Rejected):
            offer.lane.day.release(offer.price_usd)
        # By now, however long it takes to put that on record.
        answered = self._now()
        yield answer
        match answer:
            case Accepted():
                hand.accepted = answered
            case Doubted():
                hand.let_go_later()
            case _:
                hand.let_go()
                self._again(hand, answer)

    def _since(self, now: float, today: float) -> float:
        """Seconds since then. A machine that slept has a monotonic clock that stood still,
        and the other one may be put back at any time."""
        return max(self._now() - now, self._today() - today)

    @staticmethod
    def _not_sent(offer: Offer, old_s: float) -> Answer:
        """Whoever took us for dead may have bought it by now: it goes round again."""
        offer.lane.pace.withdrawn()
        said = f"not sent: meant {old_s:.0f} s ago, over {SEND_WITHIN_S:.0f}"
        log.warning(
            "submit.not_sent lane=%s the job goes round again: %s",
            offer.lane.name,
            said,
        )
        return Refused(said)

    def _again(self, hand: Hand, ended: Event | Ended) -> None:
        """What came to nothing may be bought again, as far as the plan goes."""
        if isinstance(ended, Refused | Discarded | Forgotten):
            self.roster.again(hand.order)

    def _failed(self, past: History) -> Route | None:
        """Where an attempt at the job came to nothing, if it is still in use."""
        routes = (lane.route for lane in self.lanes.all)
        return next(
            (route for route in routes if route.name == past.failed_route), None
        )

    async def _follow(
        self, hand: Hand, past: History, ticket: Ticket
    ) -> AsyncGenerator[Event, None]:
        """Look at an accepted job until the provider is done with it."""
        lane = self._lane_of(hand, past, ticket)
        ended = await self._until_ended(hand, lane, past, ticket)
        hand.let_go()
        self._count(lane, ended)
        match ended:
            case Finished() as finished:
                hand.clip_url = finished.url
                yield generated(finished)
            case Gone(reason):
                yield self._lost(hand, lane, reason)
            case _:
                # What the provider failed on may be the link to the still.
                hand.handed.clear()
                self._again(hand, ended)
                yield ended

    def _count(self, lane: Lane, ended: Ended) -> None:
        # A row that the provider will not make, for free, is no fault of the lane's; nor
        # is a clip that it made, and that nobody came for in time.
        free = isinstance(ended, Rejected) and not ended.charged
        made = isinstance(ended, Finished | Gone)
        self._submitter.count(lane, failed=not (made or free))

    def _lost(self, hand: Hand, lane: Lane, why: str) -> Discarded | Forgotten:
        """Its clip is gone: it may be made again, like any other."""
        lost = gone(hand.job_id, self._ledger.history(hand.job_id), lane, why)
        self._again(hand, lost)
        return lost

    async def _publish(
        self, hand: Hand, past: History, ticket: Ticket
    ) -> AsyncGenerator[Event, None]:
        """Bring the clip home: its own link first, then fresh ones."""
        if hand.clip_url is None and (kept := await self._publisher.kept(hand.job_id)):
            yield kept
            return
        lane = self._lane_of(hand, past, ticket)
        over = self._over(past, lane)

        async def link() -> httpx.Request:
            known, hand.clip_url = hand.clip_url, None
            if known is None:
                ended = await self._until_ended(hand, lane, past, ticket)
                known = link_of(ended, over=over)
            return lane.endpoint.fetching(known)

        sidecar = described(hand.order, past, ticket)
        try:
            published = await self._publisher.publish(
                hand.job_id, link, sidecar, over=over
            )
        except GoneError as exc:
            yield self._lost(hand, lane, str(exc))
        except UnfetchedError as exc:
            raise RestError(Why.UNFINISHED, str(exc)) from exc
        except BadClipError as exc:
            self._submitter.spoiled(lane)
            discarded = Discarded(str(exc))
            self._again(hand, discarded)
            yield discarded
        else:
            yield published

    async def _until_ended(
        self, hand: Hand, lane: Lane, past: History, ticket: Ticket
    ) -> Ended:
        able = self.roster.able(hand.order)
        others = any(each.closed is None and each is not lane for each in able)
        dies = others and free(past, lane)
        try:
            return await self.follower.until_ended(
                lane,
                ticket,
                age_s=self._age_s(hand, past),
                # To another account it was never there. Where the lane of a GPU of one's
                # own is gone, what it had is made again: that costs nothing.
                over=self._over(past, lane)
                and (lane.name == past.lane or free(past, lane)),
                patience=Patience(
                    dead_s=self._rules.dead_s if dies else math.inf,
                    left_s=LONGEST_WAIT_S if free(past, lane) else math.inf,
                ),
            )
        except MisconfiguredError as exc:
            self.lanes.misconfigured(lane, exc)
            raise RestError(Why.UNFINISHED, str(exc)) from exc
        except UnreadError as exc:
            raise OwnFaultError("our own reading of the provider's answers") from exc
        except UnfinishedError as exc:
            raise RestError(Why.UNFINISHED, str(exc)) from exc

    def _over(self, past: History, lane: Lane) -> bool:
        """Whether nobody owes us its clip any more."""
        route = self._routes.get(past.route or "")
        return owed_no_more(past, lane, route, self._today())

    def _age_s(self, hand: Hand, past: History) -> float:
        if hand.accepted is not None:
            return self._now() - hand.accepted
        return self._today() - (past.accepted_at or 0.0)

    def _lane_of(self, hand: Hand, past: History, ticket: Ticket) -> Lane:
        """The lane that a job was accepted on; after a restart its slot is held again."""
        lane = who_asks(self.lanes.all, past)
        if lane is None:
            said = f"no lane in use asks {ticket.provider}, who has it"
            raise RestError(Why.UNFINISHED, said)
        if hand.slot is None and past.state is State.ACCEPTED:
            lane.pace.resumed()
            hand.slot = lane
        return lane
