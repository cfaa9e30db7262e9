"""Collects the reports of shards that run in other processes, and grants them quotas.

Each run repeats one message, and one object answers all of them. The records of a run are
counted once, when it is over. Until then its reports count.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from typing import Final

from manifests.lifecycle import Entry, Generated, History, Intended
from storage import layout
from storage.ledger import LedgerError
from storage.objects import DamagedError, MissingError, StorageError
from tasks.batch.batch import BatchRun
from tasks.dispatch import RATE_WINDOW_S, dearest_bills
from tasks.distributed import mailbox
from tasks.distributed.mailbox import beat_s
from tasks.distributed.messages import Grants, ShardReport
from tasks.distributed.quota import QuotaAllocator
from tasks.distributed.shard_status import ShardStatus
from tasks.distributed.shared_limits import (
    LocalClosures,
    SharedLimits,
    budgets,
    quotas,
)
from tasks.distributed.usage import (
    BUDGET,
    millionths,
    minute_of,
    slots_of,
    submits_of,
    usd_of,
)
from tasks.engine.environment import PATIENCE_S

UNREADABLE: Final = (
    ArithmeticError,
    DamagedError,
    LookupError,
    TypeError,
    ValueError,
)
"""The errors that a malformed report raises, such as one of another version."""

log = logging.getLogger(__name__)


class ShardMonitor:
    """The batch's side of the exchange with shards in other processes."""

    def __init__(self, batch_run: BatchRun) -> None:
        self._batch_run = batch_run
        self._ledger = batch_run.ledger
        self._world = batch_run.world
        self._objects = batch_run.world.objects(batch_run.wanted.root)
        self._lanes = batch_run.engine.lanes
        self._tally = batch_run.engine.tally
        lanes = self._lanes.all
        self._allocator = QuotaAllocator(quotas(lanes), budgets(batch_run))
        now = self._world.now()
        for lane in {lane.account: lane for lane in lanes}.values():
            for at in lane.limiter.sent_at(now):
                until = at + RATE_WINDOW_S
                self._allocator.reserve_until(minute_of(lane.account), until)
        self._limits = SharedLimits(lanes, self._allocator)
        self._closures = LocalClosures()
        self.shards: dict[int, ShardStatus] = {}
        self.failed: Exception | None = None
        """The error that ended the grants, if any."""
        self.reported_at = -inf
        """The time of the latest report of any run."""
        self.gave_up_at = -inf
        """When a shard was last given up because no run of it did anything."""
        self._read_at = 0.0
        # One task at a time applies reports and records: each is counted once.
        self._counting = asyncio.Lock()

    def add_shard(
        self, number: int, first_uncounted: int = 1, *, runs_here: bool = False
    ) -> ShardStatus:
        """Start to read the reports of this shard's runs."""
        status = ShardStatus(first_uncounted, runs_here=runs_here)
        self.shards[number] = status
        return status

    async def end_run(
        self, number: int, *, slots_s: float, in_use: Callable[[], Mapping[str, int]]
    ) -> None:
        """Fence out a dead run and free its quotas.

        `in_use` returns what the ledger shows in flight. Without this, the successor may
        wait for slots that other runs hold, while these wait for the dead run's.
        """
        async with self._counting:
            last = await self._ledger.shut_out_shard(number)
            await self._count_records(number, self.shards[number], last + 1)
            now = self._world.now()
            self._allocator.end_shard(number, now, slots_s=slots_s, in_use=in_use())
            self._allocator.records_counted(number, last + 1)

    async def end_shard(self, number: int, before: int, *, slots_s: float) -> None:
        """Close a shard that no run has any more, and count the records of all its runs."""
        async with self._counting:
            self._allocator.end_shard(number, self._world.now(), slots_s=slots_s)
            await self._count_records(number, self.shards[number], before)
            del self.shards[number]

    def in_use(self, account: str) -> int:
        """How many of an account's slots are in use, by the latest reports."""
        return self._allocator.in_use(slots_of(account))

    def recent_submits(self, account: str) -> list[float]:
        """The times of submits of finished shards that still count for an account's minute."""
        until = self._allocator.reserved_until(minute_of(account))
        return [at - RATE_WINDOW_S for at in until]

    async def run(self) -> None:
        """Repeat `read_and_grant` until it fails."""
        granted_at = self._read_at = self._world.now()
        try:
            while True:
                try:
                    await self.read_and_grant()
                    granted_at = self._world.now()
                except LedgerError:
                    raise
                except StorageError as error:
                    if self._world.now() - granted_at > PATIENCE_S:
                        raise
                    log.warning(
                        "shards.heartbeat_lost shards cannot be heard or told for now: %r",
                        error,
                    )
                await asyncio.sleep(beat_s(self._objects))
        # The tasks that wait for a shard see `failed`; without grants no run buys.
        except Exception as error:
            log.exception("shards.not_allocated the batch stops buying")
            self.failed = error
            self._batch_run.engine.stop(repr(error))

    async def read_and_grant(self) -> None:
        """Read the reports of all runs once, and write one message with all grants."""
        refused = self._limits.refused
        await self.read_reports()
        now, every_s = self._world.now(), beat_s(self._objects)
        self._limits.restore(refused, now)
        for status in self.shards.values():
            # While the store is out of reach, no report can be read.
            status.silent_s += min(now - self._read_at, 2 * every_s)
        self._read_at = now
        await self._grant()

    async def read_reports(self, only: int | None = None) -> None:
        """Read the latest report of each shard, or of one."""
        found = await mailbox.usage_keys(self._objects, self._ledger.batch)
        for number, keys in found.items():
            if number in self.shards and only in {None, number}:
                with suppress(MissingError):
                    data = await self._objects.get(keys[-1])
                    try:
                        report = ShardReport.load(data, self._objects.uri(keys[-1]))
                    except UNREADABLE as error:
                        log.warning(
                            "shard.report_unreadable file=%s it is skipped: %r",
                            keys[-1],
                            error,
                        )
                        continue
                    async with self._counting:
                        await self._apply(number, report)

    async def _apply(self, number: int, report: ShardReport) -> None:
        status = self.shards.get(number)
        usage, now = report.usage, self._world.now()
        if status is None or (usage.generation, usage.beat) <= status.latest:
            return
        if usage.generation < status.first_uncounted:
            # The run was fenced out, and does not know it yet.
            return
        if usage.generation > status.generation:
            self._allocator.record(usage, now)
            await self._count_records(number, status, usage.generation)
        status.latest = (usage.generation, usage.beat)
        status.silent_s = 0.0
        self.reported_at = now = self._world.now()
        self._allocator.record(usage, now)
        if status.counted is not None:
            self._count_report(status.counted, -1)
        self._count_report(report, 1)
        every_s = beat_s(self._objects)
        self._limits.learn(report, status.counted, now=now, beat_s=every_s)
        status.report = status.counted = report
        self._tally.faults.stopped = self._tally.faults.stopped or report.fault
        self._raise_prices(report)
        self._close_lanes(report)
        status.done = usage.done
        status.reported.set()

    def _raise_prices(self, report: ShardReport) -> None:
        for name, bill in report.dearest.items():
            if lane := self._lanes.get(name):
                self._batch_run.engine.deps.charges.raise_prices(lane, bill)

    def _close_lanes(self, report: ShardReport) -> None:
        for lane in self._lanes.open:
            counted = (status.counted for status in self.shards.values())
            why = report.closed.get(lane.name) or self._closures.reason(
                lane.name, report, counted
            )
            if why:
                self._lanes.close(lane, why)

    def _count_report(self, report: ShardReport, times: int) -> None:
        tally = self._tally
        tally.published += times * report.published
        tally.rejected += times * report.rejected
        tally.expired += times * report.expired
        tally.budget.settle(times * report.spent_usd)
        tally.bill.add(report.bill, times)

    async def _count_records(
        self, number: int, status: ShardStatus, before: int
    ) -> None:
        """Count the records of its runs before this generation, to the cent."""
        generations = range(status.first_uncounted, before)
        records = await self._ledger.hear(number, generations)
        if status.counted is not None:
            self._count_report(status.counted, -1)
            status.counted = None
        status.first_uncounted = max(status.first_uncounted, before)
        for entry, history in records:
            self._count_record(entry, history, status)
        # A few jobs that each shard parks count in a row, because all are of one batch.
        self._batch_run.engine.heed_faults()
        self._allocator.records_counted(number, before)

    def _count_record(
        self, entry: Entry, history: History, status: ShardStatus
    ) -> None:
        attempt = self._tally.count(entry, history)
        if attempt is None:
            return
        begins = isinstance(entry.event, Intended)
        if begins:
            # The shard reserved it from its grant: here it is counted.
            self._tally.budget.settle(attempt.cost_usd)
        if status.runs_here:
            return
        day = self._lanes[attempt.lane].day
        if begins:
            day.recall([(entry.at, attempt.price_usd)])
        elif attempt.charged is False:
            day.release(attempt.price_usd)
        elif isinstance(entry.event, Generated):
            day.correct(attempt.price_usd, attempt.cost_usd)

    async def _grant(self) -> None:
        lanes = self._lanes.all
        own = {slots_of(lane.account): lane.limiter.in_flight for lane in lanes}
        now, spent = self._world.now(), self._known_spent()
        self._allocator.set_quotas(quotas(lanes))
        by_shard = self._allocator.allocate(own=own, spent=spent, now=now)
        message = Grants(
            number=self._allocator.number,
            grants=by_shard,
            lanes=[lane.name for lane in lanes],
            closed={lane.name: lane.closed for lane in lanes if lane.closed},
            dearest=dearest_bills(lanes),
            stop=self._batch_run.engine.stopped,
            grace_s=self._grace_s(),
        )
        await self._objects.put(layout.grant(self._ledger.batch), message.dump())

    def _grace_s(self) -> float:
        """The seconds that runs may wait for clips, less one beat for each direction."""
        engine = self._batch_run.engine
        if engine.stopped is None:
            return 0.0
        return max(0.0, engine.follower.left_s - 2 * beat_s(self._objects))

    def _known_spent(self) -> dict[str, int]:
        """By budget: the amount spent, without the amounts that running shards report."""
        counted = (status.counted for status in self.shards.values())
        running = sum((report.spent_usd for report in counted if report), start=0)
        spent = {BUDGET: millionths(self._tally.budget.spent_usd - running)}
        for lane in self._lanes.all:
            # The daily caps become free again 24 hours after each submit.
            submits, usd = lane.day.taken(self._world.today())
            spent[submits_of(lane.name)] = submits
            spent[usd_of(lane.name)] = millionths(usd)
        return spent
