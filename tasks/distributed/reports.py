"""Collects the reports of shards that run in other processes, and grants them quotas.

Each run repeats one message, and one object answers all of them. The records of a run are
counted once, when it is over. Until then its reports count.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from typing import Final

from manifests.lifecycle import Entry, History, Intended
from storage import layout
from storage.ledger import LedgerError
from storage.objects import DamagedError, MissingError, StorageError
from tasks.batch.batch import Night
from tasks.dispatch.lanes import Lane
from tasks.dispatch.rate_limit import RATE_WINDOW_S, LearnedLimits
from tasks.distributed import mailbox
from tasks.distributed.mailbox import Deal, Report, beat_s
from tasks.distributed.quota import Dealer, Quota
from tasks.engine.environment import PATIENCE_S

UNREADABLE: Final = (
    ArithmeticError,
    DamagedError,
    LookupError,
    TypeError,
    ValueError,
)
"""The errors that a malformed report raises, such as one of another version."""

AGREED: Final = 5
"""The number of runs in a row that close a lane for themselves, after which it is closed for
all: it is not one machine's problem."""

log = logging.getLogger(__name__)


class Table:
    """The batch's side of the exchange with shards in other processes."""

    def __init__(self, night: Night) -> None:
        self._night = night
        self._ledger = night.ledger
        self._world = night.world
        self._objects = night.world.objects(night.wanted.root)
        self._lanes = night.engine.lanes
        self._tally = night.engine.tally
        self._dealer = Dealer(_quotas(self._lanes.all), _purses(night))
        self.shards: dict[int, Seated] = {}
        self.failed: Exception | None = None
        """The error that ended the grants, if any."""
        self.heard_at = -inf
        """The time of the latest report of any run."""
        self._looked_at = 0.0
        # Of quotas that somebody was refused since the last look: what was in use then.
        self._refused: dict[str, int] = {}
        # By lane: the runs that closed it for themselves, and how many of them somebody
        # has fared better than since.
        self._against: dict[str, set[tuple[int, int]]] = {}
        self._overruled = Counter[str]()
        # One listens at a time: what is counted is counted once.
        self._listening = asyncio.Lock()

    def seat(self, number: int, known: int = 1, *, runs_here: bool = False) -> "Seated":
        """Start to hear this shard's runs, from the generation `known` on."""
        self.shards[number] = Seated(known, runs_here=runs_here)
        return self.shards[number]

    async def shut_out(
        self, number: int, *, slots_s: float, held: Callable[[], Mapping[str, int]]
    ) -> None:
        """Free the quotas of a dead run; `held` returns what the ledger shows in flight.

        Otherwise its successor may wait for a place that others hold, who wait for these.
        """
        async with self._listening:
            last = await self._ledger.shut_out_shard(number)
            await self._know(number, self.shards[number], last + 1)
            now = self._world.now()
            self._dealer.over(number, now, slots_s=slots_s, held=held())
            self._dealer.known(number, last + 1)

    async def leave(self, number: int, before: int, *, slots_s: float) -> None:
        """Close a shard that no run has any more, and count the records of all its runs."""
        async with self._listening:
            self._dealer.over(number, self._world.now(), slots_s=slots_s)
            await self._know(number, self.shards[number], before)
            del self.shards[number]

    def held(self, account: str) -> int:
        """How many of an account's slots are in use, by the latest reports."""
        return self._dealer.held(mailbox.slots_of(account))

    def lately(self, account: str) -> list[float]:
        """The times of submits of finished shards that still count for an account's minute."""
        until = self._dealer.lingering(mailbox.minute_of(account))
        return [at - RATE_WINDOW_S for at in until]

    async def keep_dealing(self) -> None:
        """Repeat `look_and_deal` until it fails."""
        dealt_at = self._looked_at = self._world.now()
        try:
            while True:
                try:
                    await self.look_and_deal()
                    dealt_at = self._world.now()
                except LedgerError:
                    raise
                except StorageError as error:
                    if self._world.now() - dealt_at > PATIENCE_S:
                        raise
                    log.warning(
                        "shards.heartbeat_lost shards cannot be heard or told for now: %r",
                        error,
                    )
                await asyncio.sleep(beat_s(self._objects))
        # Whoever waits for a shard is told; without a deal nobody buys anything.
        except Exception as error:
            log.exception("shards.not_allocated the batch stops buying")
            self.failed = error
            self._night.engine.stop(repr(error))

    async def look_and_deal(self) -> None:
        """Read the reports of all runs once, and write one grant for all."""
        refused = {*self._refused}
        await self.look()
        self._bear({name: self._refused.pop(name) for name in refused})
        now, every_s = self._world.now(), beat_s(self._objects)
        for mine in self.shards.values():
            # While the store is away, nobody is heard.
            mine.silent_s += min(now - self._looked_at, 2 * every_s)
        self._looked_at = now
        await self._deal()

    async def look(self, only: int | None = None) -> None:
        found = await mailbox.hands(self._objects, self._ledger.batch)
        for number, told in found.items():
            if number in self.shards and only in {None, number}:
                with suppress(MissingError):
                    said = await self._objects.get(told[-1])
                    try:
                        report = Report.load(said, self._objects.uri(told[-1]))
                    except UNREADABLE as error:
                        log.warning(
                            "shard.report_unreadable file=%s it is skipped: %r",
                            told[-1],
                            error,
                        )
                        continue
                    async with self._listening:
                        await self._hear(number, report)

    async def _hear(self, number: int, report: Report) -> None:
        mine = self.shards.get(number)
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
        self.heard_at = self._world.now()
        self._dealer.hear(hand, self._world.now())
        if mine.counted is not None:
            self._count(mine.counted, -1)
        self._count(report, 1)
        self._learn(report, mine.counted)
        mine.report = mine.counted = report
        self._tally.faults.stopped = self._tally.faults.stopped or report.fault
        for lane in self._lanes.open:
            why = report.closed.get(lane.name) or self._agreed(lane.name, report)
            if why:
                self._lanes.close(lane, why)
        mine.done = hand.done
        mine.spoke.set()

    def _agreed(self, lane: str, report: Report) -> str | None:
        """Why a lane that runs closed for themselves must be closed for all, if so.

        `AGREED` runs in a row must have closed it. No submit may have been accepted on it
        since, and no run may still want it.
        """
        against = self._against.setdefault(lane, set())
        why = report.closed_here.get(lane)
        if why is not None:
            against.add((report.hand.shard, report.hand.generation))
        elif (bought := report.bill.get(lane)) and bought.accepted:
            self._overruled[lane] = len(against)
        counted = (one.counted for one in self.shards.values())
        waits = mailbox.submits_of(lane)
        wanted = any(one and one.hand.needs.get(waits) for one in counted)
        few = len(against) - self._overruled[lane] < AGREED
        return None if few or wanted else why

    def _learn(self, report: Report, before: Report | None) -> None:
        now, every_s = self._world.now(), beat_s(self._objects)
        for account, lane in {x.account: x for x in self._lanes.all}.items():
            slots, minute = mailbox.slots_of(account), mailbox.minute_of(account)
            lately = report.hand.held.get(minute, 0)
            lane.limiter.others_accepted(now, lately * every_s / RATE_WINDOW_S)
            told = LearnedLimits(lane.limits.slots, lane.limits.submits_per_minute)
            was = (before.learned.get(account) if before else None) or told
            found = report.learned.get(account) or told
            if found.slots < was.slots:
                self._refused[slots] = self._in_use(slots)
            if found.submits_per_minute < was.submits_per_minute:
                self._refused[minute] = self._in_use(minute)

    def _bear(self, refused: Mapping[str, int]) -> None:
        """Learn the limit of an account that refused a run: the total use at that time.

        The reports of the other runs since then are counted, and our own use.
        """
        now = self._world.now()
        for account, lane in {x.account: x for x in self._lanes.all}.items():
            ours = {
                mailbox.slots_of(account): lane.limiter.in_flight,
                mailbox.minute_of(account): lane.limiter.sent(now),
            }
            slots, minute = (
                max(refused[name], self._in_use(name)) + own if name in refused else inf
                for name, own in ours.items()
            )
            if min(slots, minute) < inf:
                lane.limiter.restore(LearnedLimits(slots, minute), now)

    def _in_use(self, quota: str) -> int:
        """The use by running shards, and by gone ones that may still count."""
        return self._dealer.held(quota) + len(self._dealer.lingering(quota))

    def _count(self, report: Report, times: int) -> None:
        tally = self._tally
        tally.bought += times * report.bought
        tally.published += times * report.published
        tally.rejected += times * report.rejected
        tally.expired += times * report.expired
        tally.purse.settle(times * report.spent_usd)
        tally.bill.add(report.bill, times)

    async def _know(self, number: int, mine: "Seated", before: int) -> None:
        """Count the records of its runs before this generation, to the cent."""
        some = range(mine.known, before)
        heard = await self._ledger.hear(number, some)
        if mine.counted is not None:
            self._count(mine.counted, -1)
            mine.counted = None
        mine.known = max(mine.known, before)
        for entry, past in heard:
            self._count_entry(entry, past, mine)
        # All shards are of one batch: a few that each park a job or two are a row, too.
        self._night.engine.heed_faults()
        self._dealer.known(number, before)

    def _count_entry(self, entry: Entry, history: History, mine: "Seated") -> None:
        attempt = self._tally.count(entry, history)
        if attempt is None:
            return
        begins = isinstance(entry.event, Intended)
        if begins:
            # A shard's offer reserved it from what was dealt: here it is counted.
            self._tally.purse.settle(attempt.cost_usd)
        if mine.runs_here:
            return
        day = self._lanes[attempt.lane].day
        if begins:
            day.recall([(entry.at, attempt.price_usd)])
        elif attempt.charged is False:
            day.release(attempt.price_usd)

    async def _deal(self) -> None:
        own = {
            mailbox.slots_of(lane.account): lane.limiter.in_flight
            for lane in self._lanes.all
        }
        now, known = self._world.now(), self._known_spent()
        self._dealer.limit(_quotas(self._lanes.all))
        shares = self._dealer.deal(own=own, spent=known, now=now)
        deal = Deal(
            number=self._dealer.number,
            shares=shares,
            lanes=[lane.name for lane in self._lanes.all],
            closed={x.name: x.closed for x in self._lanes.all if x.closed},
            stop=self._night.engine.stopped,
            grace_s=self._grace_s(),
        )
        key = layout.grant(self._ledger.batch)
        await self._objects.put(key, deal.dump())

    def _grace_s(self) -> float:
        """The seconds that runs may wait for clips, less one beat for each direction."""
        engine = self._night.engine
        if engine.stopped is None:
            return 0.0
        return max(0.0, engine.follower.left_s - 2 * beat_s(self._objects))

    def _known_spent(self) -> dict[str, int]:
        """By purse: the amount spent, without the amounts that running shards report."""
        counted = (one.counted for one in self.shards.values())
        said = sum((report.spent_usd for report in counted if report), start=0)
        spent = {mailbox.BUDGET: mailbox.millionths(self._tally.purse.spent_usd - said)}
        for lane in self._lanes.all:
            # A day's caps come back by and by: what is known has its time.
            submits, usd = lane.day.taken(self._world.today())
            spent[mailbox.submits_of(lane.name)] = submits
            spent[mailbox.usd_of(lane.name)] = mailbox.millionths(usd)
        return spent


class Seated:
    """The batch's knowledge of a shard that is being run."""

    def __init__(self, known: int = 1, *, runs_here: bool = False) -> None:
        self.runs_here = runs_here
        """Whether it runs on this process's lanes, which count their daily use themselves."""
        self.latest: tuple[int, int] = (0, 0)
        """The generation and the beat of the latest report."""
        self.silent_s = 0.0
        """For how long no new report came, while the store could be reached."""
        self.report: Report | None = None
        self.counted: Report | None = None
        """The report that is in the tally, of a run whose records are not counted yet."""
        self.known = known
        """The first generation whose records are not in the tally."""
        self.done = False
        self.begun = False
        """Whether a process is known to run it, heard or not."""
        self.spoke = asyncio.Event()

    @property
    def generation(self) -> int:
        return self.latest[0]

    def begin(self) -> None:
        """Note that a process has started: from now on it should report."""
        if not self.begun:
            self.begun, self.silent_s = True, 0.0


def _quotas(lanes: tuple[Lane, ...]) -> dict[str, Quota]:
    quotas: dict[str, Quota] = {}
    for lane in lanes:
        lane.limiter.set_typical_s(lane.typical_s())
        learned = lane.limiter.learned()
        a_minute = lane.limits.submits_per_minute
        if learned is not None:
            a_minute = int(learned.submits_per_minute)
        quotas[mailbox.slots_of(lane.account)] = Quota(lane.limiter.slots)
        quotas[mailbox.minute_of(lane.account)] = Quota(a_minute, by_minute=True)
    return quotas


def _purses(night: Night) -> dict[str, int]:
    purses: dict[str, int] = {}
    if (usd := night.wanted.budget_usd) is not None:
        purses[mailbox.BUDGET] = mailbox.millionths(usd)
    for lane in night.engine.lanes.all:
        submits, usd = lane.day.caps
        if submits is not None:
            purses[mailbox.submits_of(lane.name)] = submits
        if usd is not None:
            purses[mailbox.usd_of(lane.name)] = mailbox.millionths(usd)
    return purses
