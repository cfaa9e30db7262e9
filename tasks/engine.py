"""The engine: takes each job from wherever its history left it to an end.

The loop is: look at the history, do the one thing it calls for, record what happened,
look again. `_life` is an async generator of events that is resumed only once each event
is durable, so the order of its lines is the write-ahead rule; a crash between any two of
them is a crash between two entries, and the next run goes on from there.

To stop is not to cancel: a submit that is under way is waited for and its answer is put
on record, because a request that was cut off by us is a doubt that we made ourselves.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from manifests.jobs import Order
from manifests.lifecycle import (
    Accepted,
    Discarded,
    Doubted,
    Event,
    Generated,
    History,
    Intended,
    Refused,
    Rejected,
    State,
    Ticket,
)
from storage.clips import Clips
from storage.ledger import FencedError, Ledger
from storage.objects import StorageError
from tasks.exchange import Clients, submit
from tasks.following import Ended, Follower, UnfinishedError
from tasks.lanes import Lane, Lanes
from tasks.offers import Hand, Offer, Offers, RestError
from tasks.providers.base import Finished
from tasks.publishing import BadClipError, Publisher, UnfetchedError, described
from tasks.routing import Purse
from tasks.tally import Tally, Why
from tasks.verdicts import (
    InDoubtError,
    MisconfiguredError,
    NotSentError,
    RejectedError,
    ThrottledError,
)

log = logging.getLogger(__name__)

OTHER_HANDS: Final = 16
"""Workers beyond two for each slot: while one is at a provider, another has its still
handed over and waits for the turn, and clips are brought home."""


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


class Engine:
    """Runs jobs on lanes, against one ledger."""

    def __init__(  # noqa: PLR0913 - the parts of a run, each named once
        self,
        *,
        lanes: Lanes,
        ledger: Ledger,
        clips: Clips,
        clients: Clients,
        purse: Purse,
        rules: Rules,
        now: Callable[[], float] = time.monotonic,
        today: Callable[[], float] = time.time,
    ) -> None:
        self.lanes = lanes
        self.tally = Tally(purse)
        self.stopped: str | None = None
        self._ledger = ledger
        self._clients = clients
        self._rules = rules
        self._now = now
        self._today = today
        self._stopping = asyncio.Event()
        self._offers = Offers(lanes, clients, purse, self._stopping)
        self._follower = Follower(clients, rules.deadline_s, now, self._stopping)
        self._publisher = Publisher(
            clips, clients.free, at_once=rules.downloads, decodes=rules.decodes
        )
        self._fatal: Exception | None = None

    def stop(self, why: str) -> None:
        """Buy nothing more; whatever is under way is brought to a safe place."""
        self.stopped = self.stopped or why
        self._stopping.set()
        self.lanes.stop()

    async def run(self, orders: Iterable[Order]) -> None:
        """Take every job to its end, or to where it must wait for another run.

        Raises:
            FencedError, StorageError: nothing can be put on record any more.
        """
        coming = iter(orders)
        slots = sum(lane.pace.slots for lane in self.lanes.all)
        work = asyncio.gather(
            *(self._work(coming) for _ in range(OTHER_HANDS + 2 * slots))
        )
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self.stop("cancelled")
            await work
            raise
        if self._fatal is not None:
            raise self._fatal

    async def _work(self, coming: Iterator[Order]) -> None:
        for order in coming:
            try:
                await self.advance(order)
            except (FencedError, StorageError) as exc:
                self._fatal = self._fatal or exc
                self.stop(str(exc))
            # One malformed answer ends one job, not its shard; the table says why.
            except Exception as exc:
                said = f"{type(exc).__name__}: {exc}"
                self.tally.rest(order.job.id, Why.BROKEN, said)
                log.exception("job.broken job=%s", order.job.id)

    async def advance(self, order: Order) -> History:
        """Live out a job's life, putting each event on record before the next begins."""
        async with aclosing(self._life(order)) as events:
            async for event in events:
                past = await self._ledger.record(order.job.id, event)
                self.tally.count(order.job.id, event, past)
        return self._ledger.history(order.job.id)

    async def _life(self, order: Order) -> AsyncGenerator[Event, None]:
        """The rest of a job's life, from wherever its history left it."""
        hand = Hand(order, self.lanes)
        try:
            while step := self._step(hand, self._ledger.history(order.job.id)):
                moved = False
                async with aclosing(step) as events:
                    async for event in events:
                        moved = True
                        yield event
                if not moved:
                    return
        except RestError as exc:
            self.tally.rest(order.job.id, exc.why, exc.reason)
        finally:
            hand.let_go()

    def _step(self, hand: Hand, past: History) -> AsyncGenerator[Event, None] | None:
        """The one thing a history calls for, or None at an end."""
        match past:
            case History(state=State.PENDING) if past.failures < self._rules.attempts:
                return self._buy(hand, past)
            case History(state=State.PENDING):
                said = f"{past.failures} attempts failed: {past.reason}"
                raise RestError(Why.ATTEMPTS, said)
            case History(state=State.IN_DOUBT):
                raise RestError(Why.DOUBT, past.reason or "its answer is not on record")
            case History(state=State.ACCEPTED, ticket=Ticket() as ticket):
                return self._follow(hand, past, ticket)
            case History(state=State.GENERATED, ticket=Ticket() as ticket):
                return self._publish(hand, past, ticket)
            case _:
                return None

    async def _buy(self, hand: Hand, past: History) -> AsyncGenerator[Event, None]:
        """One submit: on record before it is sent, and again when it is answered."""
        offer = await self._offers.make(hand)
        seed = hand.order.job.seed_after(past.discards)
        yield Intended(
            lane=offer.lane.name,
            route=offer.lane.route.name,
            price_usd=offer.price_usd,
            seed=seed,
        )
        answer = await self._submitted(hand.order, offer, seed)
        yield answer
        match answer:
            case Accepted():
                pass
            case Doubted():
                hand.let_go_later()
            case _:
                hand.let_go()

    async def _submitted(
        self, order: Order, offer: Offer, seed: int
    ) -> Accepted | Doubted | Refused | Rejected:
        """Send it, once; what the answer means for the job, and for its lane."""
        lane = offer.lane
        request = lane.line.provider.submit(order.job, offer.image_url, seed)
        try:
            ticket = await submit(self._clients, lane.line, request)
        except ThrottledError as exc:
            lane.pace.throttled(self._now(), exc.retry_after)
            return Refused(str(exc))
        except NotSentError as exc:
            lane.pace.troubled(self._now())
            if lane.pace.hopeless:
                self.lanes.close(lane, f"out of reach: {exc}")
            return Refused(str(exc))
        except RejectedError as exc:
            lane.pace.rejected()
            return Rejected(str(exc))
        except MisconfiguredError as exc:
            lane.pace.rejected()
            self.lanes.close(lane, str(exc))
            return Refused(str(exc))
        except InDoubtError as exc:
            lane.pace.troubled(self._now())
            return Doubted(str(exc))
        lane.pace.accepted(self._now())
        return Accepted(ticket)

    async def _follow(
        self, hand: Hand, past: History, ticket: Ticket
    ) -> AsyncGenerator[Event, None]:
        """Look at an accepted job until the provider is done with it."""
        lane = self._lane_of(hand, past, ticket)
        match await self._until_ended(lane, past, ticket):
            case Finished(url, seed):
                hand.clip_url = url
                ended = Generated(seed)
            case ended:
                # What the provider failed on may be the link to the still.
                hand.image_urls.clear()
        hand.let_go()
        yield ended

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

        async def link() -> str:
            known, hand.clip_url = hand.clip_url, None
            if known is not None:
                return known
            ended = await self._until_ended(lane, past, ticket)
            if not isinstance(ended, Finished):
                raise UnfetchedError(f"the provider no longer has it: {ended.reason}")
            return ended.url

        sidecar = described(hand.order, past, ticket)
        try:
            published = await self._publisher.publish(hand.order.job.id, link, sidecar)
        except UnfetchedError as exc:
            raise RestError(Why.UNFINISHED, str(exc)) from exc
        except BadClipError as exc:
            yield Discarded(str(exc))
        else:
            yield published

    async def _until_ended(self, lane: Lane, past: History, ticket: Ticket) -> Ended:
        age_s = max(0.0, self._today() - (past.accepted_at or 0.0))
        try:
            return await self._follower.until_ended(lane, ticket, age_s=age_s)
        except MisconfiguredError as exc:
            self.lanes.close(lane, str(exc))
            raise RestError(Why.UNFINISHED, str(exc)) from exc
        except UnfinishedError as exc:
            raise RestError(Why.UNFINISHED, str(exc)) from exc

    def _lane_of(self, hand: Hand, past: History, ticket: Ticket) -> Lane:
        """The lane that a job was accepted on; after a restart its slot is held again."""
        for lane in sorted(self.lanes.all, key=lambda lane: lane.name != past.lane):
            if lane.line.provider.name == ticket.provider:
                if hand.slot is None and past.state is State.ACCEPTED:
                    lane.pace.resumed()
                    hand.slot = lane
                return lane
        said = f"no lane in use asks {ticket.provider}, who has it"
        raise RestError(Why.UNFINISHED, said)
