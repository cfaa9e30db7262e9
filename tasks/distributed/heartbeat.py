"""The shard's side of shared quotas: reports what the run holds, and obeys the grants.

`quota` has the rules.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from storage import layout
from storage.ledger import claimant
from storage.objects import MissingError, Objects
from tasks.batch.batch import Night
from tasks.dispatch.lanes import Lane
from tasks.dispatch.rate_limit import RateLimiter
from tasks.distributed import mailbox
from tasks.distributed.mailbox import Deal, Report, beat_s
from tasks.distributed.quota import Hand, Share
from tasks.engine.environment import World
from tasks.engine.stats import Why

STALE_S: Final = 30.0
"""After this time without a new grant nothing more is bought..."""
GONE_S: Final = 300.0
"""... and after this time the batch counts as dead."""

HEARD_WITHIN: Final = 10
"""The number of grants without a share after which a run that has reported was shut out."""

log = logging.getLogger(__name__)


class Seat:
    """A run's place among those that share quotas: it reports, and obeys the grants."""

    def __init__(
        self, night: Night, objects: Objects, *, batch: str, shard: int, world: World
    ) -> None:
        self._night = night
        self._engine = night.engine
        self._objects = objects
        self._batch = batch
        self._shard = shard
        self._generation = night.generation
        self._world = world
        self._by = claimant(self._generation, batch, world.today())
        self._limiters = {lane.account: lane.limiter for lane in night.engine.lanes.all}
        self._has_budget = night.wanted.budget_usd is not None
        self._beat = 0
        self._deal = 0
        self._heard_at = self._listened_at = world.now()
        self._heard = 0
        self._silent_s = 0.0
        """For how long no new grant was heard, while the store could be reached."""
        self._left_out = 0
        """The number of grants that had no share for this run."""
        self.shut_out = False
        self._nothing()

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """Report and listen for the length of the block."""
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    async def leave(self) -> Report:
        """Send the last report: the shard has been run."""
        report = self._report(done=True)
        await self._tell(report, last=True)
        return report

    async def _keep(self) -> None:
        every_s = beat_s(self._objects)
        while True:
            try:
                async with asyncio.timeout(STALE_S):
                    await self._listen()
                    await self._tell(self._report())
            # After any error (such as a grant of another version) it buys nothing, and the
            # log has the reason.
            except Exception as error:  # noqa: BLE001
                log.warning(
                    "shard.heartbeat_lost shard=%d no allocation is received, buying stops if this lasts: %r",
                    self._shard,
                    error,
                )
            if self._world.now() - self._heard_at > STALE_S:
                self._nothing()
            if self._silent_s > GONE_S:
                reason = f"no deal for {self._silent_s:.0f} s: the batch is gone"
                self._engine.stop(reason)
            await asyncio.sleep(every_s if self._deal else every_s / 5)

    async def _listen(self) -> None:
        try:
            key = layout.grant(self._batch)
            data = await self._objects.get(key)
        except MissingError:
            deal = None
        else:
            deal = Deal.load(data, self._objects.uri(key))
        now, beat = self._world.now(), beat_s(self._objects)
        # While the store is out of reach, nothing can be heard.
        self._silent_s += min(now - self._listened_at, 2 * beat)
        self._listened_at = now
        # A grant counts once: it expires if no other follows.
        if deal is not None and deal.number > self._heard:
            self._heard, self._heard_at, self._silent_s = deal.number, now, 0.0
            self._abide(deal)

    def _abide(self, deal: Deal) -> None:
        if deal.stop is not None:
            self._engine.end_within(deal.grace_s, deal.stop)
        for lane in self._engine.lanes.open:
            if why := deal.closed.get(lane.name):
                self._engine.lanes.close(lane, why)
        share = deal.shares.get(self._shard)
        if share is None or share.generation != self._generation:
            self._not_for_us(share)
            return
        self._deal = deal.number
        for lane in self._engine.lanes.open:
            if why := _unknown(lane, share, deal.lanes):
                self._engine.lanes.close_here(lane, why)
        for account, limiter in self._limiters.items():
            limiter.set_share(
                share.caps.get(mailbox.slots_of(account), 0),
                share.caps.get(mailbox.minute_of(account), 0),
            )
        self._fill(share)
        if self._engine.done_buying is Why.BUDGET:
            # Without money no slots are granted, so jobs must find out without a turn.
            self._engine.lanes.look_again()
        self._engine.lanes.answered()

    def _not_for_us(self, share: Share | None) -> None:
        """Handle a grant without a share for this run.

        A run that was fenced out and has nothing to record learns that only here.
        """
        self._left_out += 1
        succeeded = share is not None and share.generation > self._generation
        if self._deal or succeeded or self._left_out >= HEARD_WITHIN:
            self.shut_out = True
            self._engine.stop("shut out")

    def _fill(self, share: Share) -> None:
        if self._has_budget:
            name = mailbox.BUDGET
            granted = mailbox.dollars(share.granted.get(name, 0))
            self._engine.tally.purse.dealt(granted, more=name not in share.last)
        for lane in self._engine.lanes.all:
            names = mailbox.submits_of(lane.name), mailbox.usd_of(lane.name)
            # The grants of the batch hold, even where our own settings have no cap.
            if lane.day.limited or not share.granted.keys().isdisjoint(names):
                submits, usd = [
                    share.granted.get(name, None if cap is None else 0)
                    for name, cap in zip(names, lane.day.caps, strict=True)
                ]
                lane.day.dealt(
                    submits,
                    None if usd is None else mailbox.dollars(usd),
                    more=not {*names} & {*share.last},
                )

    def _nothing(self) -> None:
        """Use nothing of the shared quotas: others may be using them."""
        for limiter in self._limiters.values():
            limiter.set_share(0, 0)
        if not self._deal:
            self._fill(Share(generation=self._generation, caps={}, granted={}))

    async def _tell(self, report: Report, *, last: bool = False) -> None:
        generation = self._generation
        key = layout.usage(self._batch, self._shard, generation, last=last)
        await self._objects.put(key, report.dump())

    def _report(self, *, done: bool = False) -> Report:
        tally = self._engine.tally
        return Report(
            hand=self._hand(done=done),
            by=self._by,
            bought=tally.bought,
            published=tally.published,
            rejected=tally.rejected,
            expired=tally.expired,
            spent_usd=tally.purse.spent_usd,
            bill=tally.bill.counts(),
            closed=self._closed(),
            closed_here={
                lane.name: lane.closed
                for lane in self._engine.lanes.all
                if lane.closed and lane.closed_here
            },
            learned={
                account: learned
                for account, limiter in self._limiters.items()
                if (learned := limiter.learned()) is not None
            },
            resting=tally.resting if done else {},
            passed_over=sorted(tally.passed_over) if done else [],
            fault=tally.faults.stopped,
        )

    def _closed(self) -> dict[str, str]:
        """The lanes that no run can use.

        A lane is left out if only our part of its daily cap is used up, or if others may
        still use it.
        """
        today = self._world.today()
        return {
            lane.name: lane.closed
            for lane in self._engine.lanes.all
            if lane.closed
            and not lane.closed_here
            and not lane.day.full(lane.dearest_usd, today)
        }

    def _hand(self, *, done: bool) -> Hand:
        self._beat += 1
        now = self._world.now()
        held: dict[str, int] = {}
        wants: dict[str, int] = {}
        for account, limiter in self._limiters.items():
            slots, minute = mailbox.slots_of(account), mailbox.minute_of(account)
            held |= {slots: limiter.in_flight, minute: limiter.sent(now)}
            waiting = 0 if done else self._waiting(self._ready(limiter))
            wants |= {slots: held[slots] + waiting, minute: held[minute] + waiting}
        used, needs, least = self._money(done=done)
        return Hand(
            shard=self._shard,
            generation=self._generation,
            beat=self._beat,
            deal=self._deal,
            held=held,
            wants=wants,
            used=used,
            needs=needs,
            least=least,
            short=not done and self._all_short(),
            done=done,
        )

    def _ready(self, limiter: RateLimiter) -> list[Lane]:
        """The open lanes of this limiter that lack only slots.

        A lane that waits for money or for its hours must hold no slots, because a run with
        money may wait for them.
        """
        today = self._world.today()
        return [
            lane
            for lane in self._engine.lanes.open
            if lane.limiter is limiter
            and not self._is_short(lane, today)
            and not lane.opens_in_s(today)
        ]

    def _is_short(self, lane: Lane, today: float) -> bool:
        # Before the first grant there is no money: that grant brings money and slots.
        return bool(self._deal) and lane.is_short(self._engine.tally.purse, today)

    def _all_short(self) -> bool:
        """Whether no waiting job could be submitted until more money is granted."""
        today, lanes = self._world.today(), self._engine.lanes.open
        rich = [lane for lane in lanes if not self._is_short(lane, today)]
        return self._waiting(lanes) > 0 and not self._waiting(rich)

    def _waiting(self, lanes: Collection[Lane]) -> int:
        """How many jobs could be submitted on these lanes if there were slots."""
        engine = self._engine
        if engine.done_buying is not None:
            return 0
        return max(engine.roster.waiting(lanes), engine.lanes.waiting(lanes))

    def _money(
        self, *, done: bool
    ) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """By purse: the amount spent, the amount needed soon, and the amount of one submit."""
        used = {mailbox.BUDGET: mailbox.millionths(self._engine.tally.purse.spent_usd)}
        needs, least = {mailbox.BUDGET: 0}, {mailbox.BUDGET: 0}
        for lane in self._engine.lanes.all:
            soon, dearest = 0, mailbox.millionths(lane.dearest_usd)
            if not (done or lane.closed):
                soon = min(self._waiting([lane]), 2 * lane.limiter.slots + 4)
                least[mailbox.BUDGET] = max(least[mailbox.BUDGET], dearest)
            needs[mailbox.BUDGET] = max(needs[mailbox.BUDGET], soon * dearest)
            submits, usd = lane.day.taken(self._world.today())
            name = mailbox.submits_of(lane.name)
            used[name], needs[name], least[name] = submits, soon, 1
            name = mailbox.usd_of(lane.name)
            used[name] = mailbox.millionths(usd)
            needs[name], least[name] = soon * dearest, dearest
        return used, needs, least


def _unknown(lane: Lane, share: Share, lanes: Sequence[str]) -> str | None:
    """Why nothing will ever be granted to this lane, if so."""
    if lane.name not in lanes:
        known = ", ".join(map(repr, lanes))
        return f"the batch has no such lane: its nightreel.toml names {known}"
    if mailbox.slots_of(lane.account) not in share.caps:
        known = ", ".join(repr(account) for account in mailbox.accounts(share.caps))
        names = f"its nightreel.toml names {known}, not {lane.account!r}"
        return f"the batch has no such account: {names}"
    submits, usd = lane.day.caps
    if submits is not None and mailbox.submits_of(lane.name) not in share.granted:
        return "the batch's nightreel.toml has no submits_per_day for it"
    if usd is not None and mailbox.usd_of(lane.name) not in share.granted:
        return "the batch's nightreel.toml has no usd_per_day for it"
    return None
