"""Offers: all that one submit needs, brought together before any money moves.

A still that a provider will take, handed over; a turn on a lane; the price, reserved.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, TypeVar

from manifests.jobs import Order
from storage.opening import OpeningError
from storage.stills import BadStillError
from tasks import stills
from tasks.exchange import Clients
from tasks.lanes import Lane, Lanes, NoLaneLeftError, StoppedError, closing
from tasks.routing import Purse, candidates
from tasks.tally import Why
from tasks.verdicts import MisconfiguredError, ProviderError

T = TypeVar("T")


STILLS_IN_TRANSIT: Final = 24
"""Stills in memory at once: the first are handed over while the next are read."""


class RestError(Exception):
    """The job cannot be bought now: it waits for another run, or for a person."""

    def __init__(self, why: Why, reason: str) -> None:
        super().__init__(reason)
        self.why = why
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Offer:
    """All that one submit needs."""

    lane: Lane
    price_usd: Decimal
    image_url: str


@dataclass(slots=True)
class Hand:
    """What a job has in hand while this process works on it: none of it outlives us."""

    order: Order
    lanes: Lanes
    image_urls: dict[str, str] = field(default_factory=dict[str, str])
    """Where each lane's provider can read the still, by the lane's name."""
    clip_url: str | None = None
    """Where the clip can be fetched, once a poll has said so."""
    slot: Lane | None = None
    """Its place on a lane, from its turn until the provider is done with it."""

    def let_go(self) -> None:
        """The provider is done with it."""
        if self.slot is not None:
            self.lanes.give_back(self.slot)
            self.slot = None

    def let_go_later(self) -> None:
        """A job in doubt may be at work there: its place is free when it would be done."""
        if self.slot is not None:
            seconds = self.slot.looks.expected_s() or 60.0
            loop = asyncio.get_running_loop()
            loop.call_later(seconds, self.lanes.give_back, self.slot)
            self.slot = None


@dataclass(frozen=True, slots=True)
class Offers:
    """Makes offers, from the lanes and the money there are."""

    lanes: Lanes
    clients: Clients
    purse: Purse
    stopping: asyncio.Event
    _in_transit: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(STILLS_IN_TRANSIT)
    )

    async def make(self, hand: Hand) -> Offer:
        """A turn to submit this job now; its slot is in the hand.

        Raises:
            RestError: what is missing, in words.
        """
        try:
            while True:
                able = self._able(hand.order)
                # Handed to the likeliest lane before the turn: no slot waits for it.
                if await self._handed(hand, able[0]) is None:
                    continue
                lane = await self.lanes.turn(able)
                if offer := await self._taken(hand, lane):
                    return offer
        except StoppedError:
            raise RestError(Why.STOPPED, "the run was stopped") from None
        except NoLaneLeftError as exc:
            raise RestError(Why.NO_LANE, str(exc)) from None

    async def _taken(self, hand: Hand, lane: Lane) -> Offer | None:
        """The offer that a turn makes possible; None, the turn unused, if it closed."""
        price_usd, offer = lane.route.price_usd(hand.order.job), None
        try:
            image_url = await self._handed(hand, lane)
            if image_url is not None and self.purse.reserve(price_usd):
                offer = Offer(lane, price_usd, image_url)
                hand.slot = lane
        finally:
            if offer is None:
                self.lanes.withdraw(lane)
        if image_url is not None and offer is None:
            raise RestError(Why.BUDGET, f"the budget has no {price_usd} USD left")
        return offer

    def _able(self, order: Order) -> list[Lane]:
        able = candidates(order, self.lanes.all)
        if not able:
            said = "no lane in use can make it for its max_usd"
            raise RestError(Why.UNSERVED, said)
        if not self.purse.affords(able[0].route.price_usd(order.job)):
            raise RestError(Why.BUDGET, "the budget is spent")
        still_open = [lane for lane in able if lane.closed is None]
        if not still_open:
            raise NoLaneLeftError(closing(able))
        return still_open

    async def _handed(self, hand: Hand, lane: Lane) -> str | None:
        """Where the lane's provider reads the still; None if it closed for good.

        Only the URL is kept: a thousand jobs that wait for their turn are no memory.
        """
        if lane.name not in hand.image_urls:
            try:
                url = await self._unless_stopped(self._hand_over(hand.order, lane))
            except MisconfiguredError as exc:
                self.lanes.close(lane, str(exc))
                return None
            except ProviderError as exc:
                raise RestError(Why.UNREAD, f"its still: {exc}") from exc
            hand.image_urls[lane.name] = url
        return hand.image_urls[lane.name]

    async def _hand_over(self, order: Order, lane: Lane) -> str:
        async with self._in_transit:
            try:
                checked = await stills.check(order, min_px=lane.route.min_still_px)
            except BadStillError as exc:
                raise RestError(Why.STILL, str(exc)) from exc
            except OpeningError as exc:
                why = Why.UNREAD if exc.passing else Why.STILL
                raise RestError(why, str(exc)) from exc
            return await stills.hand_over(checked, lane, self.clients)

    async def _unless_stopped(self, free: Coroutine[Any, Any, T]) -> T:
        """What is free is dropped where it stands when the run is stopped."""
        work = asyncio.ensure_future(free)
        stop = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise StoppedError
            return work.result()
        finally:
            stop.cancel()
            work.cancel()
