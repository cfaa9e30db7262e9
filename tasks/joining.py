"""Joining: a batch's shard, run in a process of its own, within the share dealt to it.

Whoever likes may run it, and run it again: the ledger makes that free. What may be used
of each account is said by the batch (see `dealing`); who hears no deal buys nothing.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from manifests import complaints
from manifests.lifecycle import State
from manifests.reading import Plan
from manifests.slips import planned
from storage.holder import claimant
from storage.ledger import FencedError, Ledger
from storage.objects import MissingError, Objects
from tasks import errands
from tasks.dealing import Hand, Share
from tasks.doubts import in_doubt
from tasks.engine import Engine, Rules
from tasks.errands import Deal, Errand, Report
from tasks.lanes import Lane
from tasks.living import SEND_WITHIN_S
from tasks.memory import recall_latencies
from tasks.night import Night, night_of
from tasks.pacing import TYPICAL_S, Pace
from tasks.purse import Purse
from tasks.tally import Why
from tasks.wanted import MANIFEST, Wanted
from tasks.world import REAL, World

LOCAL_S: Final = 0.5
"""Between two hands, where a request costs nothing..."""
REMOTE_S: Final = 3.0
"""... and where it does."""
STALE_S: Final = 30.0
"""After so long without a new deal nothing more is bought..."""
GONE_S: Final = 300.0
"""... and after so long the batch is taken for dead."""

HEARD_WITHIN: Final = 10
"""Deals by which a run that has spoken is dealt something, if it is to have anything."""

TAKEN_UP_S: Final = 10.0
"""By then what is at providers has been taken up: it goes first."""

log = logging.getLogger(__name__)


def beat_s(objects: Objects) -> float:
    """Seconds between two messages."""
    return REMOTE_S if objects.remote else LOCAL_S


async def run_shard(  # noqa: PLR0913 - each has its default
    root: str,
    *,
    batch: str,
    shard: int,
    lanes: Sequence[Lane],
    rules: Rules,
    hints_url: str | None = None,
    world: World = REAL,
    gently: Callable[[Night], AbstractContextManager[None]] = nullcontext,
) -> Report:
    """Take every job of a shard to its end; what came of it.

    Raises:
        FencedError: it is over, or somebody newer runs it.
        LedgerError: there is no such shard to be run.
    """
    objects = world.objects(root)
    for lane in lanes:
        # The batch takes its owner's risks, once, when all its shards are over; a GPU of
        # one's own has none, whatever its seconds are worth.
        if lane.paid:
            lane.risk = Purse(Decimal(0))
    async with joined(
        objects,
        batch,
        shard,
        lanes=lanes,
        rules=rules,
        hints_url=hints_url,
        world=world,
    ) as night:
        seat = Seat(night, objects, batch=batch, shard=shard, world=world)
        async with seat.kept():
            with gently(night):
                await night.run_shard(0)
                await night.mend()
    if seat.shut_out:
        raise FencedError(f"{root}: shard {shard} is another run's by now, or nobody's")
    return await seat.leave()


@asynccontextmanager
async def joined(  # noqa: PLR0913 - as `run_shard`
    objects: Objects,
    batch: str,
    shard: int,
    *,
    lanes: Sequence[Lane],
    rules: Rules,
    world: World,
    hints_url: str | None = None,
    budget_usd: Decimal | None = None,
) -> AsyncGenerator[Night]:
    """A night of one shard, of which nobody older can put anything on record any more."""
    engine: Engine | None = None

    def stop(why: str) -> None:
        if engine is not None:
            engine.stop(why)

    with TemporaryDirectory(prefix="nightreel-") as name:
        folder = Path(name)
        errand = await errands.take(objects, batch, shard, folder / MANIFEST)
        ledger = await Ledger.join(
            objects,
            batch=batch,
            shard=shard,
            before=errand.before,
            clock=world.today,
            lifeboats=world.lifeboats,
            on_trouble=stop,
        )
        try:
            if not await errands.is_on(objects, batch, shard):
                raise FencedError(f"{objects.root}: shard {shard} is over")
            recall_latencies(lanes, errand.latencies, within_s=rules.deadline_s)
            wanted, plan = _wanted(errand, objects.root, folder, budget_usd)
            async with night_of(
                wanted,
                plan=plan,
                folder=folder,
                ledger=ledger,
                lanes=lanes,
                rules=rules,
                objects=objects,
                world=world,
                hints_url=hints_url,
            ) as night:
                engine = night.engine
                await asyncio.to_thread(night.expect)
                _hold(engine, ledger, world)
                yield night
        finally:
            await ledger.close()


def _wanted(
    errand: Errand, root: str, folder: Path, budget_usd: Decimal | None
) -> tuple[Wanted, Plan]:
    rows = planned(folder / MANIFEST)
    wanted = Wanted(
        manifest=errand.manifest,
        root=root,
        budget_usd=Decimal(0)
        if errand.has_budget and budget_usd is None
        else budget_usd,
        policy=errand.policy,
        finish_at=errand.finish_at,
        shard_rows=max(1, rows.height),
    )
    return wanted, Plan(errand.manifest, rows.height, rows, complaints.none())


def _hold(engine: Engine, ledger: Ledger, world: World) -> None:
    """What the run before this one left at its providers holds its slots from the start."""
    loop = asyncio.get_running_loop()
    for past in ledger.lives.values():
        lane = next((x for x in engine.lanes.all if x.name == past.lane), None)
        if past.state is State.ACCEPTED and lane is not None:
            # Until the engine has come to it, and holds them itself.
            lane.pace.resumed()
            loop.call_later(TAKEN_UP_S, engine.lanes.give_back, lane)
    for past in in_doubt(ledger.lives, [*ledger.lives]).values():
        lane = next((x for x in engine.lanes.all if x.name == past.lane), None)
        if lane is None:
            continue
        for_s = max(SEND_WITHIN_S, lane.looks.expected_s() or TYPICAL_S)
        left_s = (past.submitted_at or 0.0) + for_s - world.today()
        if left_s > 0:
            lane.pace.resumed()
            loop.call_later(min(left_s, for_s), engine.lanes.give_back, lane)


class Seat:
    """A run's place among those that share: it tells what it holds, and abides by the deal."""

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
        self._paces = {lane.account: lane.pace for lane in night.engine.lanes.all}
        self._has_budget = night.wanted.budget_usd is not None
        self._beat = 0
        self._deal = 0
        self._heard_at = self._listened_at = world.now()
        self._heard = 0
        self._silent_s = 0.0
        """For how long nothing new was heard, while it could have been."""
        self._left_out = 0
        """Deals that were not for it."""
        self._unknown = set[str]()
        """Lanes that the batch does not have."""
        self.shut_out = False
        self._nothing()

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """Tell and listen, for as long as this is open."""
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    async def leave(self) -> Report:
        """Say that the shard has been run."""
        report = self._report(done=True)
        await self._tell(report)
        return report

    async def _keep(self) -> None:
        every_s = beat_s(self._objects)
        while True:
            try:
                async with asyncio.timeout(STALE_S):
                    await self._listen()
                    await self._tell(self._report())
            # Whatever it is (a deal of another version, say), it buys nothing then, and the
            # log says why.
            except Exception as error:  # noqa: BLE001
                log.warning("shard.deaf shard=%d %r", self._shard, error)
            if self._world.now() - self._heard_at > STALE_S:
                self._nothing()
            if self._silent_s > GONE_S:
                said = f"no deal for {self._silent_s:.0f} s: the batch is gone"
                self._engine.stop(said)
            await asyncio.sleep(every_s if self._deal else every_s / 5)

    async def _listen(self) -> None:
        try:
            said = await self._objects.get(errands.deal_key(self._batch))
        except MissingError:
            deal = None
        else:
            deal = Deal.load(said)
        now, beat = self._world.now(), beat_s(self._objects)
        # While the store is away, nobody is heard.
        self._silent_s += min(now - self._listened_at, 2 * beat)
        self._listened_at = now
        # A deal is abided by once: what it allows ends, if no other follows.
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
                self._unknown.add(lane.name)
                self._engine.lanes.close(lane, why)
        for account, pace in self._paces.items():
            pace.share(
                share.caps.get(errands.slots_of(account), 0),
                share.caps.get(errands.minute_of(account), 0),
            )
        self._fill(share)
        if self._engine.done_buying is Why.BUDGET:
            # Who has no money left is dealt no slots, in which to find that out.
            self._engine.lanes.look_again()
        self._engine.lanes.answered()

    def _not_for_us(self, share: Share | None) -> None:
        """Whoever is shut out, and has nothing to put on record, learns it here only."""
        self._left_out += 1
        succeeded = share is not None and share.generation > self._generation
        if self._deal or succeeded or self._left_out >= HEARD_WITHIN:
            self.shut_out = True
            self._engine.stop("shut out")

    def _fill(self, share: Share) -> None:
        if self._has_budget:
            name = errands.BUDGET
            granted = errands.dollars(share.granted.get(name, 0))
            self._engine.tally.purse.dealt(granted, more=name not in share.last)
        for lane in self._engine.lanes.all:
            if lane.day.limited:
                submits, usd = lane.day.caps
                names = errands.submits_of(lane.name), errands.usd_of(lane.name)
                granted = [share.granted.get(name, 0) for name in names]
                lane.day.dealt(
                    None if submits is None else granted[0],
                    None if usd is None else errands.dollars(granted[1]),
                    more=not {*names} & {*share.last},
                )

    def _nothing(self) -> None:
        """Nothing may be used of what others may be using by now."""
        for pace in self._paces.values():
            pace.share(0, 0)
        if not self._deal:
            self._fill(Share(generation=self._generation, caps={}, granted={}))

    async def _tell(self, report: Report) -> None:
        key = errands.hand_key(self._batch, self._shard, self._generation)
        await self._objects.put(key, report.dump())

    def _report(self, *, done: bool = False) -> Report:
        tally = self._engine.tally
        return Report(
            hand=self._hand(done=done),
            by=self._by,
            bought=tally.bought,
            hedged=tally.hedged,
            published=tally.published,
            rejected=tally.rejected,
            expired=tally.expired,
            spent_usd=tally.purse.spent_usd,
            closed=self._closed(),
            learned={
                account: learned
                for account, pace in self._paces.items()
                if (learned := pace.learned()) is not None
            },
            resting=tally.resting if done else {},
            passed_over=sorted(tally.passed_over) if done else [],
        )

    def _closed(self) -> dict[str, str]:
        """Lanes that are of no use to anybody: not those whose part of a day is used up, or
        that are ours alone."""
        today = self._world.today()
        return {
            lane.name: lane.closed
            for lane in self._engine.lanes.all
            if lane.closed
            and lane.name not in self._unknown
            and not lane.day.full(lane.dearest_usd, today)
        }

    def _hand(self, *, done: bool) -> Hand:
        self._beat += 1
        now = self._world.now()
        held: dict[str, int] = {}
        wants: dict[str, int] = {}
        for account, pace in self._paces.items():
            slots, minute = errands.slots_of(account), errands.minute_of(account)
            held |= {slots: pace.in_flight, minute: pace.sent(now)}
            waiting = 0 if done else self._waiting(self._ready(pace))
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

    def _ready(self, pace: Pace) -> list[Lane]:
        """Lanes of this pace that lack nothing but room: what waits for money or for its
        hour holds no slots, which whoever has the money may be waiting for."""
        today = self._world.today()
        return [
            lane
            for lane in self._engine.lanes.open
            if lane.pace is pace
            and not self._is_short(lane, today)
            and not lane.opens_in_s(today)
        ]

    def _is_short(self, lane: Lane, today: float) -> bool:
        # Before the first deal there is no money: that deal brings it, and the slots.
        return bool(self._deal) and lane.is_short(self._engine.tally.purse, today)

    def _all_short(self) -> bool:
        """Whether no job that waits could be submitted until more is dealt to us."""
        today, lanes = self._world.today(), self._engine.lanes.open
        rich = [lane for lane in lanes if not self._is_short(lane, today)]
        return self._waiting(lanes) > 0 and not self._waiting(rich)

    def _waiting(self, lanes: Collection[Lane]) -> int:
        """How many jobs could be submitted on these, were there room."""
        engine = self._engine
        if engine.done_buying is not None:
            return 0
        return max(engine.roster.waiting(lanes), engine.lanes.waiting(lanes))

    def _money(
        self, *, done: bool
    ) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """By purse: what is spent, what could be spent soon, what one submit takes."""
        used = {errands.BUDGET: errands.millionths(self._engine.tally.purse.spent_usd)}
        needs, least = {errands.BUDGET: 0}, {errands.BUDGET: 0}
        for lane in self._engine.lanes.all:
            soon, dearest = 0, errands.millionths(lane.dearest_usd)
            if not (done or lane.closed):
                soon = min(self._waiting([lane]), 2 * lane.pace.slots + 4)
                least[errands.BUDGET] = max(least[errands.BUDGET], dearest)
            needs[errands.BUDGET] = max(needs[errands.BUDGET], soon * dearest)
            submits, usd = lane.day.taken(self._world.today())
            name = errands.submits_of(lane.name)
            used[name], needs[name], least[name] = submits, soon, 1
            name = errands.usd_of(lane.name)
            used[name] = errands.millionths(usd)
            needs[name], least[name] = soon * dearest, dearest
        return used, needs, least


def _unknown(lane: Lane, share: Share, lanes: Sequence[str]) -> str | None:
    """Why nothing will ever be dealt to this lane, if so."""
    if lane.name not in lanes:
        known = ", ".join(map(repr, lanes))
        return f"the batch has no such lane: its nightreel.toml names {known}"
    if errands.slots_of(lane.account) not in share.caps:
        known = ", ".join(repr(account) for account in errands.accounts(share.caps))
        said = f"its nightreel.toml names {known}, not {lane.account!r}"
        return f"the batch has no such account: {said}"
    submits, usd = lane.day.caps
    if submits is not None and errands.submits_of(lane.name) not in share.granted:
        return "the batch's nightreel.toml has no submits_per_day for it"
    if usd is not None and errands.usd_of(lane.name) not in share.granted:
        return "the batch's nightreel.toml has no usd_per_day for it"
    return None
