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
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import httpx

from manifests.catalogue.routes import Route, shipped
from manifests.expiry import in_use
from manifests.lifecycle import (
    Accepted,
    Discarded,
    Doubted,
    Event,
    Forgotten,
    History,
    Published,
    Refused,
    Rejected,
    State,
    Ticket,
    hedge_of,
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
from tasks.engine.hedge import (
    FOLLOWED,
    RECKONED_S,
    SOONEST_S,
    GivenUpError,
    Hedges,
    adopted,
    sooner,
    unless,
)
from tasks.engine.poll import Ended, Follower, Patience, UnfinishedError, generated
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
    hedge: bool = False
    """Whether a straggler may be paid for twice, to be in time."""
    settle_s: float = 60.0
    """How old a doubt is before its provider is asked what became of it."""
    grace_s: float = 20.0
    """How long who winds down waits for clips that should be done by then."""
    dead_s: float = 60.0
    """How long a GPU of one's own is out of reach before another one makes its jobs."""


LOSSES: Final = 2
"""How often a job is sent again that a GPU of one's own forgot."""


class Lives:
    """Lives out jobs, and the hedges of stragglers beside them."""

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
        self._hedges = Hedges(rules.hedge, roster, now)
        self._publisher = publisher

    async def lived(self, hand: Hand) -> History:
        """Live on, putting each event on record before the next begins."""
        async with aclosing(self._life(hand)) as events:
            async for event in events:
                await self._record(hand.key, event)
        return self._ledger.history(hand.key)

    async def _life(self, hand: Hand) -> AsyncGenerator[Event, None]:
        """The rest of the life that is in hand."""
        try:
            while step := self._step(hand, self._ledger.history(hand.key)):
                moved = False
                async with aclosing(step) as events:
                    async for event in events:
                        moved = True
                        yield event
                if not moved:
                    return
        except RestError as exc:
            if hand.beside is None:
                self.tally.rest(hand.key, exc.why, exc.reason)
                if self._ledger.history(hand.key).state is State.PENDING:
                    self.roster.bought(hand.order)
        except GivenUpError as exc:
            if self._ledger.history(hand.key).state in FOLLOWED:
                hand.let_go_later()
                yield Discarded(str(exc))
        finally:
            hand.let_go()

    def _step(self, hand: Hand, past: History) -> AsyncGenerator[Event, None] | None:
        """The one thing a history calls for, or None at an end."""
        match past:
            case History(state=State.PENDING) if hand.beside is not None:
                # A hedge is one submit, whatever comes of it.
                return None if past.attempts else self._buy(hand, past)
            case History(state=State.PENDING) if self._hedge_has_it(hand):
                return self._rescued(hand, past)
            case History(state=State.PENDING) if self._hedge(hand) is State.IN_DOUBT:
                # It may be at work, and paid for: a third submit would be one too many.
                raise RestError(Why.DOUBT, "its hedge is in doubt")
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
        making = self._offers.make(hand, self._failed(past))
        offer = await unless(hand.called_off, making)
        seed = hand.order.job.seed_after(past.discards)
        ref = reference(hand.key, past.attempts + 1)
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
        log.warning("submit.not_sent lane=%s %s", offer.lane.name, said)
        return Refused(said)

    def _again(self, hand: Hand, ended: Event | Ended) -> None:
        """What came to nothing may be bought again, as far as the plan goes."""
        again = isinstance(ended, Refused | Discarded | Forgotten)
        if again and hand.beside is None:
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
        ended = await self._raced(hand, lane, past, ticket)
        if isinstance(ended, Published):
            # Its own submit is still at work where it is.
            hand.let_go_later()
            yield ended
            return
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
        lost = gone(hand.key, self._ledger.history(hand.key), lane, why)
        self._again(hand, lost)
        return lost

    async def _raced(
        self, hand: Hand, lane: Lane, past: History, ticket: Ticket
    ) -> Ended | Published:
        """What came of an accepted job, or of its hedge if that was faster."""
        following = self._until_ended(hand, lane, past, ticket)
        if hand.beside is not None:
            return await unless(hand.given_up, following)
        if not (self._hedges.possible or self._hedge_has_it(hand)):
            return await following
        called_off, given_up = asyncio.Event(), asyncio.Event()
        second = Hand(
            hand.order,
            self.lanes,
            hedge_of(hand.key),
            beside=lane.route,
            called_off=called_off,
            given_up=given_up,
        )
        mine = asyncio.create_task(following)
        age_s = partial(self._age_s, hand, past)
        other = asyncio.create_task(self._hedged(second, called_off, lane, age_s))
        try:
            if faster := await sooner(mine, other):
                return adopted(faster)
            ended = await mine
        except RestError:
            called_off.set()
            if (history := await other).state is State.PUBLISHED:
                return adopted(history)
            raise
        else:
            if isinstance(ended, Finished):
                given_up.set()
            return ended
        finally:
            mine.cancel()
            called_off.set()
            await asyncio.gather(mine, other, return_exceptions=True)

    async def _hedged(
        self,
        second: Hand,
        called_off: asyncio.Event,
        lane: Lane,
        age_s: Callable[[], float],
    ) -> History:
        """The life of a hedge, once it is due."""
        if not self._ledger.history(second.key).attempts:
            # When that is changes with what is learned of the lanes.
            while (
                due_s := self._hedges.due_in_s(second.order, lane, age_s=age_s())
            ) > 0:
                pause = min(max(due_s, SOONEST_S), RECKONED_S)
                with suppress(TimeoutError):
                    await asyncio.wait_for(called_off.wait(), pause)
                    return self._ledger.history(second.key)
            log.warning("job.hedged job=%s", second.order.job.id)
        return await self.lived(second)

    async def _rescued(self, hand: Hand, past: History) -> AsyncGenerator[Event, None]:
        """The first submit came to nothing: its hedge may do."""
        beside = self._failed(past) or self.lanes.all[0].route
        second = Hand(hand.order, self.lanes, hedge_of(hand.key), beside=beside)
        history = await self.lived(second)
        match history.state:
            case State.PUBLISHED:
                yield adopted(history)
            case State.ACCEPTED | State.GENERATED:
                said = history.reason or "its hedge is under way"
                raise RestError(Why.UNFINISHED, said)
            case State.REJECTED:
                raise RestError(Why.ATTEMPTS, f"its hedge: {history.reason}")
            case _ if past.failures < self._rules.attempts:
                async with aclosing(self._buy(hand, past)) as events:
                    async for event in events:
                        yield event
            case _:
                raise RestError(Why.ATTEMPTS, f"its hedge: {history.reason}")

    def _hedge_has_it(self, hand: Hand) -> bool:
        """Whether a second submit for the job is under way, or has made its clip."""
        # What its provider would not make, nobody makes: that is final for the row.
        has_it = {*FOLLOWED, State.PUBLISHED, State.REJECTED}
        return hand.beside is None and self._hedge(hand) in has_it

    def _hedge(self, hand: Hand) -> State:
        return self._ledger.history(hedge_of(hand.key)).state

    async def _publish(
        self, hand: Hand, past: History, ticket: Ticket
    ) -> AsyncGenerator[Event, None]:
        """Bring the clip home: its own link first, then fresh ones."""
        if hand.clip_url is None and (
            kept := await self._publisher.kept(hand.order.job.id)
        ):
            yield kept
            return
        lane = self._lane_of(hand, past, ticket)
        over = self._over(past, lane)

        async def link() -> httpx.Request:
            known, hand.clip_url = hand.clip_url, None
            if known is None:
                ended = await self._until_ended(hand, lane, past, ticket)
                known = link_of(ended, over=over)
            return lane.line.fetching(known)

        sidecar = described(hand.order, past, ticket)
        try:
            published = await self._publisher.publish(
                hand.order.job.id, link, sidecar, over=over
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
