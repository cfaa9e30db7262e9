"""Away: a batch's shards are run in other processes, and share what accounts allow.

All that is said goes through the root's store, so whoever reaches that can run a shard.
The batch deals (see `dealing`), starts runs, starts another where one has died, and takes
what each has put on record into its own account.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import polars as pl

from manifests.keys import held, ids, keys
from manifests.lifecycle import (
    HEDGE,
    NEW,
    OVER,
    Entry,
    History,
    Intended,
    Refused,
    Rejected,
    State,
    hedge_of,
)
from manifests.slips import cut
from storage import epochs, shards
from storage.holder import SILENT_S
from storage.ledger import FencedError, LedgerError
from storage.objects import MissingError, StorageError
from tasks import errands
from tasks.dealing import MINUTE, Dealer, Quota
from tasks.doubts import in_doubt
from tasks.engine import Rules
from tasks.errands import Deal, Errand, Report
from tasks.joining import beat_s, joined
from tasks.lanes import Lane
from tasks.living import SEND_WITHIN_S
from tasks.night import Night
from tasks.pacing import Learned
from tasks.tally import Rest, Why
from tasks.world import PATIENCE_S

TRIES: Final = 5
"""Runs of one shard: what breaks so many is not an accident."""

UNREADABLE: Final = (ArithmeticError, LookupError, TypeError, ValueError)
"""What is raised where a report is not what it should be: another version's, say."""

Start = Callable[[int, int], Awaitable[None]]
"""Have a shard run, for the so-manieth time; comes back, or fails, when that is over."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def elsewhere(
    night: Night,
    start: Start,
    *,
    rules: Rules,
    at_once: int,
) -> AsyncGenerator[None]:
    """Have the night's shards run elsewhere, for as long as this is open."""
    away = Away(night, start, rules=rules, at_once=at_once)
    dealing = asyncio.create_task(away.keep_dealing())
    night.away = away
    try:
        yield
    finally:
        night.away = None
        dealing.cancel()
        with suppress(asyncio.CancelledError):
            await dealing
        await away.close()


class Away:
    """Shards that are run elsewhere."""

    def __init__(
        self, night: Night, start: Start, *, rules: Rules, at_once: int
    ) -> None:
        self._night = night
        self.start = start
        self._ledger = night.ledger
        self._rules = rules
        self._world = night.world
        self._at_once = at_once
        self._objects = night.world.objects(night.wanted.root)
        self._lanes = night.engine.lanes
        self._tally = night.engine.tally
        self._dealer = Dealer(_quotas(self._lanes.all), self._purses())
        self._shards: dict[int, _Shard] = {}
        self._before: dict[int, dict[str, History]] = {}
        self._left = len(night.shards)
        self._ending = set[asyncio.Future[None]]()
        self._failed: Exception | None = None
        self._looked_at = 0.0
        # One listens at a time: what is counted is counted once.
        self._listening = asyncio.Lock()

    async def run(self, number: int, shard: pl.DataFrame) -> list[str]:
        """Have these jobs of the plan taken to their ends; their ids.

        Raises:
            FencedError, StorageError: nothing can be put on record any more.
        """
        jobs = ids(shard)
        await self._give(number, shard, jobs)
        mine = self._shards[number] = _Shard()
        try:
            await self._run(number, mine, jobs)
        except asyncio.CancelledError:
            self._night.engine.stop("cancelled")
            raise
        finally:
            self._left -= 1
            await self._over(number, mine)
        return jobs

    async def mend(self) -> None:
        """Take what risks their owner allows, where shards left jobs in doubt."""
        if not any(lane.risk_usd for lane in self._lanes.all):
            return
        for account, pace in {x.account: x.pace for x in self._lanes.all}.items():
            # What the shards sent of late counts for the minute that we begin in.
            until = self._dealer.lingering(errands.minute_of(account))
            pace.others_sent(at - MINUTE for at in until)
        doubts = in_doubt(self._ledger.lives, [*self._ledger.lives])
        few = keys([life for life in doubts if not life.endswith(HEDGE)])
        for number in self._night.shards:
            shard = self._night.sliced(number)
            if self._night.engine.stopped is None and held(shard, few).height:
                await self._mend(number, shard)

    async def _mend(self, number: int, shard: pl.DataFrame) -> None:
        # What its runs have put on record until now was heard when they were over.
        known = 1 + await shards.ended(self._objects, self._ledger.batch, number)
        jobs = ids(shard)
        await self._give(number, shard, jobs)
        mine = self._shards[number] = _Shard(known, runs_here=True)
        purse, lanes = self._tally.purse, self._lanes.all
        budget_usd = self._night.wanted.budget_usd
        try:
            async with joined(
                self._objects,
                self._ledger.batch,
                number,
                lanes=lanes,
                rules=self._rules,
                world=self._world,
                budget_usd=None if budget_usd is None else budget_usd - purse.spent_usd,
            ) as night:
                with self._night.engine.stops(night.engine):
                    await night.mend()
                for job in jobs:
                    if night.ledger.history(job).state in OVER:
                        self._tally.resting.pop(job, None)
                self._rest(night.engine.tally.resting)
        except FencedError as error:
            # Somebody else has just begun with it: what is in doubt stays so.
            log.warning("shard.not_mended shard=%d %s", number, error)
        finally:
            await self._over(number, mine)

    async def _give(self, number: int, shard: pl.DataFrame, jobs: list[str]) -> None:
        wanted, today = self._night.wanted, self._world.today()
        finish_at = wanted.finish_at
        if finish_at is not None:
            # Its part of the time: others wait for its place.
            part = min(1.0, self._at_once / max(1, self._left))
            finish_at = today + (finish_at - today) * part
        if number not in self._before:
            known = {life: self._ledger.history(life) for life in _lives(jobs)}
            self._before[number] = {
                life: past for life, past in known.items() if past != NEW
            }
        errand = Errand(
            manifest=wanted.manifest,
            policy=wanted.policy,
            finish_at=finish_at,
            has_budget=wanted.budget_usd is not None,
            latencies={name: [*took] for name, took in self._ledger.latencies.items()},
            before=self._before[number],
        )
        with TemporaryDirectory(prefix="nightreel-") as name:
            slip = Path(name) / "slip.parquet"
            await asyncio.to_thread(
                cut, self._night.manifest, wanted.manifest, shard, slip
            )
            batch = self._ledger.batch
            await errands.give(self._objects, batch, number, errand, slip)

    async def _run(self, number: int, mine: "_Shard", jobs: list[str]) -> None:
        said = "it was never begun"
        for attempt in range(1, TRIES + 1):
            if self._night.engine.stopped is not None:
                break
            run = asyncio.ensure_future(self.start(number, attempt))
            said = await self._until_over(number, mine, run)
            if mine.done:
                return
            log.warning("shard.died shard=%d attempt=%d %s", number, attempt, said)
            await self._refuse_if_fenced()
            await self._shut_out(number, mine, jobs)
        for job in jobs:
            if self._ledger.history(job).state not in OVER:
                why = self._night.engine.stopped
                rest = Rest(Why.STOPPED, why) if why else Rest(Why.BROKEN, said)
                self._tally.resting[job] = rest

    async def _until_over(
        self, number: int, mine: "_Shard", run: "asyncio.Future[None]"
    ) -> str:
        """Wait until the run says that it is done, or is no more; why, in words."""
        was, superseded = mine.generation, False
        self._ending.add(run)
        run.add_done_callback(self._ending.discard)
        try:
            while not mine.done:
                mine.spoke.clear()
                heard = asyncio.ensure_future(mine.spoke.wait())
                first = asyncio.FIRST_COMPLETED
                try:
                    await asyncio.wait({run, heard}, timeout=1.0, return_when=first)
                finally:
                    heard.cancel()
                if self._failed is not None:
                    raise self._failed
                if run.done():
                    await self._look(number)
                    if why := _failure(run):
                        return why
                    # It was shut out: whoever did that has the shard, and is heard.
                    run, superseded = asyncio.get_running_loop().create_future(), True
                    continue
                has_begun = superseded or mine.generation > was
                if has_begun and (why := self._dead(mine)):
                    run.cancel()
                    return why
                if self._night.engine.stopped is not None and not has_begun:
                    run.cancel()
                    return "it was never begun"
        except asyncio.CancelledError:
            run.cancel()
            raise
        return "done"

    def _dead(self, mine: "_Shard") -> str | None:
        """Why a run that has begun is taken for dead, if it is."""
        if mine.silent_s > SILENT_S:
            return f"nothing heard of it for {mine.silent_s:.0f} s"
        if mine.report is not None and mine.report.by.is_gone():
            return "its process is gone"
        return None

    async def _shut_out(self, number: int, mine: "_Shard", jobs: list[str]) -> None:
        """Free what a dead run had: its successor may wait for a place that others, who
        wait for that, have."""
        async with self._listening:
            last = await shards.ended(self._objects, self._ledger.batch, number)
            await self._know(number, mine, last + 1)
            self._dealer.over(
                number,
                self._world.now(),
                slots_s=max(SEND_WITHIN_S, 2 * self._typical_s()),
                held=self._in_flight(jobs),
            )
            self._dealer.known(number, last + 1)

    def _typical_s(self) -> float:
        """How long a job takes on the slowest lane, as far as anybody knows."""
        known = self._ledger.latencies
        told = {x.name: sorted(known.get(x.name, ())) for x in self._lanes.all}
        return max(
            took[len(took) // 2] if (took := told[x.name]) else x.typical_s()
            for x in self._lanes.all
        )

    def _in_flight(self, jobs: list[str]) -> Counter[str]:
        """By quota: how many of these may be at work at their providers."""
        accounts = {lane.name: lane.account for lane in self._lanes.all}
        past = (self._ledger.history(life) for life in _lives(jobs))
        at_work = {State.ACCEPTED, State.IN_DOUBT}
        return Counter(
            errands.slots_of(accounts[one.lane])
            for one in past
            if one.state in at_work and one.lane in accounts
        )

    async def _refuse_if_fenced(self) -> None:
        successor = epochs.claim_key(epochs.number(self._ledger.batch) + 1)
        if await epochs.exists(self._objects, successor):
            raise FencedError(f"{self._objects.root}: a later batch has taken over")

    async def _over(self, number: int, mine: "_Shard") -> None:
        """Nobody runs it any more: what all its runs have put on record is ours."""
        batch = self._ledger.batch
        await errands.withdraw(self._objects, batch, number)
        last = await shards.ended(self._objects, batch, number)
        slots_s = self._typical_s()
        async with self._listening:
            self._dealer.over(number, self._world.now(), slots_s=slots_s)
            await self._know(number, mine, last + 1)
            del self._shards[number]
        if mine.report is not None and mine.done:
            self._rest(mine.report.resting)
            self._tally.passed_over |= {*mine.report.passed_over}
        for key in (await errands.hands(self._objects, batch)).get(number, []):
            await self._objects.delete(key)

    def _rest(self, resting: Mapping[str, Rest]) -> None:
        for job, rest in resting.items():
            self._tally.resting[job] = rest

    async def _know(self, number: int, mine: "_Shard", before: int) -> None:
        """Count what its runs of generations below this one recorded, to the cent."""
        some = range(mine.known, before)
        heard = await self._ledger.hear(number, some)
        if mine.counted is not None:
            self._count(mine.counted, -1)
            mine.counted = None
        mine.known = max(mine.known, before)
        for entry, past in heard:
            self._count_entry(entry, past, mine)
        self._dealer.known(number, before)

    def _count_entry(self, entry: Entry, past: History, mine: "_Shard") -> None:
        match entry.event:
            case Intended(lane=lane, price_usd=usd):
                # A shard's offer reserved it from what was dealt: here it is counted.
                self._tally.purse.settle(usd)
                mine.meant[entry.job] = lane
                if not mine.runs_here:
                    self._lanes[lane].day.recall([(entry.at, usd)])
            case Refused() | Rejected(charged=False) if entry.job in mine.meant:
                lane, usd = mine.meant.pop(entry.job), past.price_usd
                if not mine.runs_here:
                    self._lanes[lane].day.release(usd)
            case _:
                pass
        self._tally.count(entry.job, entry.event, past)

    async def keep_dealing(self) -> None:
        """Hear every run, and tell each what it may use, again and again."""
        dealt_at = self._looked_at = self._world.now()
        try:
            while True:
                try:
                    await self._look_and_deal()
                    dealt_at = self._world.now()
                except LedgerError:
                    raise
                except StorageError as error:
                    if self._world.now() - dealt_at > PATIENCE_S:
                        raise
                    log.warning("shards.deaf %r", error)
                await asyncio.sleep(beat_s(self._objects))
        # Whoever waits for a shard is told; without a deal nobody buys anything.
        except Exception as error:
            log.exception("shards.not_dealt")
            self._failed = error
            self._night.engine.stop(repr(error))

    async def _look_and_deal(self) -> None:
        await self._look()
        now, every_s = self._world.now(), beat_s(self._objects)
        for mine in self._shards.values():
            # While the store is away, nobody is heard.
            mine.silent_s += min(now - self._looked_at, 2 * every_s)
        self._looked_at = now
        await self._deal()

    async def _look(self, only: int | None = None) -> None:
        found = await errands.hands(self._objects, self._ledger.batch)
        for number, told in found.items():
            if number in self._shards and only in {None, number}:
                with suppress(MissingError):
                    said = await self._objects.get(told[-1])
                    try:
                        report = Report.load(said)
                    except UNREADABLE as error:
                        log.warning("shard.unreadable %s %r", told[-1], error)
                        continue
                    async with self._listening:
                        await self._hear(number, report)

    async def _hear(self, number: int, report: Report) -> None:
        mine = self._shards.get(number)
        hand = report.hand
        if mine is None or (hand.generation, hand.beat) <= mine.latest:
            return
        if hand.generation < mine.known:
            # It was shut out, and does not know it yet.
            return
        if hand.generation > mine.generation:
            self._dealer.hear(hand, self._world.now())
            await self._know(number, mine, hand.generation)
        mine.latest = (hand.generation, hand.beat)
        mine.silent_s = 0.0
        self._dealer.hear(hand, self._world.now())
        if mine.counted is not None:
            self._count(mine.counted, -1)
        self._count(report, 1)
        self._learn(report, mine.counted)
        mine.report = mine.counted = report
        for lane in self._lanes.open:
            if why := report.closed.get(lane.name):
                self._lanes.close(lane, why)
        mine.done = hand.done
        mine.spoke.set()

    def _learn(self, report: Report, before: Report | None) -> None:
        """An account that has just refused one of them bears what all of them had then."""
        now, every_s = self._world.now(), beat_s(self._objects)
        for account, lane in {x.account: x for x in self._lanes.all}.items():
            slots, minute = errands.slots_of(account), errands.minute_of(account)
            lately = report.hand.held.get(minute, 0)
            lane.pace.others_accepted(now, lately * every_s / MINUTE)
            told = Learned(lane.limits.slots, lane.limits.submits_per_minute)
            was = (before.learned.get(account) if before else None) or told
            found = report.learned.get(account) or told
            if found.slots < was.slots:
                borne = Learned(self._dealer.held(slots), inf)
                lane.pace.recall(borne, now)
            if found.submits_per_minute < was.submits_per_minute:
                borne = Learned(inf, self._dealer.held(minute))
                lane.pace.recall(borne, now)

    def _count(self, report: Report, times: int) -> None:
        tally = self._tally
        tally.bought += times * report.bought
        tally.hedged += times * report.hedged
        tally.published += times * report.published
        tally.rejected += times * report.rejected
        tally.expired += times * report.expired
        tally.purse.settle(times * report.spent_usd)

    async def _deal(self) -> None:
        own = {
            errands.slots_of(lane.account): lane.pace.in_flight
            for lane in self._lanes.all
        }
        now, known = self._world.now(), self._known_spent()
        self._dealer.limit(_quotas(self._lanes.all))
        shares = self._dealer.deal(own=own, spent=known, now=now)
        deal = Deal(
            number=self._dealer.number,
            shares=shares,
            closed={x.name: x.closed for x in self._lanes.all if x.closed},
            stop=self._night.engine.stopped,
            grace_s=self._grace_s(),
        )
        key = errands.deal_key(self._ledger.batch)
        await self._objects.put(key, deal.dump())

    def _grace_s(self) -> float:
        """What runs that hear it a beat later, and are heard one later, may wait for."""
        engine = self._night.engine
        if engine.stopped is None:
            return 0.0
        return max(0.0, engine.follower.left_s - 2 * beat_s(self._objects))

    def _known_spent(self) -> dict[str, int]:
        """By purse: what is spent, but for what runs say of themselves."""
        counted = (one.counted for one in self._shards.values())
        said = sum((report.spent_usd for report in counted if report), start=0)
        spent = {errands.BUDGET: errands.millionths(self._tally.purse.spent_usd - said)}
        for lane in self._lanes.all:
            # A day's caps come back by and by: what is known has its time.
            submits, usd = lane.day.taken(self._world.today())
            spent[errands.submits_of(lane.name)] = submits
            spent[errands.usd_of(lane.name)] = errands.millionths(usd)
        return spent

    def _purses(self) -> dict[str, int]:
        purses: dict[str, int] = {}
        if (usd := self._night.wanted.budget_usd) is not None:
            purses[errands.BUDGET] = errands.millionths(usd)
        for lane in self._lanes.all:
            submits, usd = lane.day.caps
            if submits is not None:
                purses[errands.submits_of(lane.name)] = submits
            if usd is not None:
                purses[errands.usd_of(lane.name)] = errands.millionths(usd)
        return purses

    async def close(self) -> None:
        """Wait for what is ending, and leave nothing behind."""
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=60.0)
            for run in late:
                run.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await errands.clear(self._objects, self._ledger.batch)


class _Shard:
    """What is known of a shard that is being run."""

    def __init__(self, known: int = 1, *, runs_here: bool = False) -> None:
        self.runs_here = runs_here
        """Whether it is run on lanes of ours, whose days count what they take."""
        self.latest: tuple[int, int] = (0, 0)
        """The generation and the beat that were heard last."""
        self.silent_s = 0.0
        """For how long nothing new was heard, while we could have heard it."""
        self.report: Report | None = None
        self.counted: Report | None = None
        """What is in the tally of a run whose records are not known yet."""
        self.known = known
        """The first generation whose records are not in the tally."""
        self.meant: dict[str, str] = {}
        """The lane of each life's latest submit."""
        self.done = False
        self.spoke = asyncio.Event()

    @property
    def generation(self) -> int:
        return self.latest[0]


def _quotas(lanes: tuple[Lane, ...]) -> dict[str, Quota]:
    quotas: dict[str, Quota] = {}
    for lane in lanes:
        lane.pace.expect(lane.typical_s())
        learned = lane.pace.learned()
        a_minute = lane.limits.submits_per_minute
        if learned is not None:
            a_minute = int(learned.submits_per_minute)
        quotas[errands.slots_of(lane.account)] = Quota(lane.pace.slots)
        quotas[errands.minute_of(lane.account)] = Quota(a_minute, by_minute=True)
    return quotas


def _failure(run: "asyncio.Future[None]") -> str | None:
    """Why a run ended before its shard was over; None if another has it now."""
    if run.cancelled():
        return "it was cancelled"
    error = run.exception()
    if error is None or isinstance(error, FencedError):
        return None
    return f"it ended: {error!r}"


def _lives(jobs: list[str]) -> list[str]:
    return [*jobs, *map(hedge_of, jobs)]
