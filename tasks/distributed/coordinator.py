"""The batch's side of shards that run in other processes and share its quotas.

All messages go through the root's store, so any process that reaches the store can run a
shard. For each shard, the coordinator sends an order, and a supervisor starts runs until one
has done it. The monitor reads all reports, counts them, and grants quotas.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from manifests.input import cut
from manifests.job_keys import held, ids, keys
from manifests.lifecycle import NEW, OVER, History, State
from storage import checksum
from storage.ledger import FencedError
from tasks.batch.batch import BatchRun
from tasks.distributed import mailbox
from tasks.distributed.messages import ShardOrder
from tasks.distributed.reports import ShardMonitor
from tasks.distributed.shard_run import joined
from tasks.distributed.shard_status import ShardStatus
from tasks.distributed.supervisor import EndingRuns, ShardSupervisor, Start
from tasks.distributed.usage import slots_of
from tasks.engine.engine import Rules
from tasks.engine.in_doubt import in_doubt
from tasks.engine.job import SEND_WITHIN_S
from tasks.engine.stats import WaitingJob, WaitReason
from tasks.engine.trouble import Trouble

log = logging.getLogger(__name__)


@asynccontextmanager
async def elsewhere(
    batch_run: BatchRun,
    start: Start,
    *,
    rules: Rules,
    at_once: int,
) -> AsyncGenerator[None]:
    """Run the batch's shards in other processes for the length of the block."""
    coordinator = ShardCoordinator(batch_run, start, rules=rules, at_once=at_once)
    monitoring = asyncio.create_task(coordinator.monitor.run())
    batch_run.away = coordinator
    try:
        yield
    finally:
        batch_run.away = None
        monitoring.cancel()
        with suppress(asyncio.CancelledError):
            await monitoring
        await coordinator.close()


class ShardCoordinator:
    """Runs the shards of a batch in other processes."""

    def __init__(
        self, batch_run: BatchRun, start: Start, *, rules: Rules, at_once: int
    ) -> None:
        self._batch_run = batch_run
        self.start = start
        self._ledger = batch_run.ledger
        self._rules = rules
        self._world = batch_run.world
        self._at_once = at_once
        self._objects = batch_run.world.objects(batch_run.wanted.root)
        self._lanes = batch_run.engine.lanes
        self._tally = batch_run.engine.tally
        self.monitor = ShardMonitor(batch_run)
        self._retry = self._objects.outlast_refusals
        self._before: dict[int, dict[str, History]] = {}
        self._left = len(batch_run.shards)
        self._ending = EndingRuns()

    async def run(self, number: int, shard: pl.DataFrame) -> list[str]:
        """Run these jobs of the plan to their ends; return their ids.

        Raises:
            FencedError, StorageError: nothing can be recorded any more.
        """
        jobs = ids(shard)
        await self._retry(self._send_order, number, shard, jobs)
        status = self.monitor.add_shard(number)
        supervisor = ShardSupervisor(
            self._batch_run,
            number,
            status=status,
            monitor=self.monitor,
            start=self.start,
            ending=self._ending,
        )
        try:
            reason = await supervisor.run(partial(self._end_run, number, jobs))
            if not status.done:
                # A run that left in good order has reported the reasons itself.
                self._set_reason(jobs, reason)
        except asyncio.CancelledError:
            self._batch_run.engine.stop("cancelled")
            raise
        finally:
            self._left -= 1
            await self._close_shard(number, status)
        return jobs

    def held(self, account: str) -> int:
        """How many of an account's slots are in use, by the latest reports."""
        return self.monitor.in_use(account)

    def troubles(self) -> list[Sequence[Trouble]]:
        """The troubles of each shard, by its latest report."""
        return [
            status.report.troubles
            for status in self.monitor.shards.values()
            if status.report is not None
        ]

    async def settle_doubts(self) -> None:
        """Settle the jobs that shards left in doubt.

        Record what their runs could not record, and take the risks that the owner allows.
        Ask about doubts once more: while other shards submitted, a listed job may have been
        one of theirs.
        """
        left = in_doubt(self._ledger.lives, [*self._ledger.lives])
        doubts = self._batch_run.engine.doubts
        doubts.meet(left)
        risky = any(lane.risk_usd for lane in self._lanes.all)
        useful = risky or any(doubts.askable(history) for history in left.values())
        if not useful and not await self._retry(self._ledger.has_uploaded_spill):
            return
        for account, limiter in {x.account: x.limiter for x in self._lanes.all}.items():
            # The latest submits of the shards count for the present minute.
            limiter.others_sent(self.monitor.recent_submits(account))
        wanted = keys(left)
        for number in self._batch_run.shards:
            shard = self._batch_run.due.shard(number)
            if self._batch_run.engine.stopped is None and held(shard, wanted).height:
                await self._settle(number, shard)

    async def _settle(self, number: int, shard: pl.DataFrame) -> None:
        """Run a shard in this process, on the batch's lanes, to settle its doubts."""
        batch, budget_usd = self._ledger.batch, self._batch_run.wanted.budget_usd
        # The records of its earlier runs were counted when these were over.
        counted = 1 + await self._ledger.shut_out_shard(number)
        jobs = ids(shard)
        await self._send_order(number, shard, jobs)
        status = self.monitor.add_shard(number, counted, runs_here=True)
        spent_usd = self._tally.budget.spent_usd
        try:
            async with joined(
                self._objects,
                batch,
                number,
                lanes=self._lanes.all,
                rules=self._rules,
                world=self._world,
                budget_usd=None if budget_usd is None else budget_usd - spent_usd,
            ) as batch_run:
                batch_run.engine.rebuy_ids |= batch_run.ledger.recovered
                batch_run.engine.doubts.met_by(self._batch_run.engine.doubts)
                with self._batch_run.engine.stops(batch_run.engine):
                    await batch_run.settle_doubts()
                for job in jobs:
                    if batch_run.ledger.history(job).state in OVER:
                        self._tally.waiting_jobs.pop(job, None)
                self._tally.waiting_jobs.update(batch_run.engine.tally.waiting_jobs)
        except FencedError as error:
            # Another run has just started the shard: its doubts stay.
            log.warning(
                "shard.not_settled shard=%d another run has it, its doubts stay: %s",
                number,
                error,
            )
        finally:
            await self._close_shard(number, status)

    async def _send_order(
        self, number: int, shard: pl.DataFrame, jobs: list[str]
    ) -> None:
        wanted, latencies = self._batch_run.wanted, self._ledger.latencies.items()
        with TemporaryDirectory(prefix="nightreel-") as name:
            rows = Path(name) / "rows.parquet"
            await asyncio.to_thread(
                cut, self._batch_run.manifest, wanted.manifest, shard, rows
            )
            order = ShardOrder(
                manifest=wanted.manifest,
                policy=wanted.policy,
                finish_at=self._finish_at(),
                has_budget=wanted.budget_usd is not None,
                latencies={name: [*took] for name, took in latencies},
                before=self._known_before(number, jobs),
                rows=await asyncio.to_thread(checksum.of_file, rows),
            )
            await mailbox.send_order(
                self._objects, self._ledger.batch, number, order, rows
            )

    def _finish_at(self) -> float | None:
        """The shard's part of the remaining time, because other shards wait for its place."""
        finish_at, today = self._batch_run.wanted.finish_at, self._world.today()
        if finish_at is None:
            return None
        part = min(1.0, self._at_once / max(1, self._left))
        return today + (finish_at - today) * part

    def _known_before(self, number: int, jobs: list[str]) -> Mapping[str, History]:
        """The histories of its jobs when the shard was first run."""
        if number not in self._before:
            known = {job: self._ledger.history(job) for job in jobs}
            self._before[number] = {
                job: history for job, history in known.items() if history != NEW
            }
        return self._before[number]

    def _set_reason(self, jobs: list[str], reason: str) -> None:
        stopped = self._batch_run.engine.stopped
        why = WaitReason.STOPPED if stopped else WaitReason.BROKEN
        for job in jobs:
            history = self._ledger.history(job)
            if history.state not in OVER:
                # A stop does not replace the reason why the job waited before.
                parts = [history.reason or reason, stopped] if stopped else [reason]
                words = "; ".join(filter(None, parts))
                self._tally.waiting_jobs[job] = WaitingJob(why, words)

    async def _end_run(self, number: int, jobs: list[str]) -> None:
        """Fence out a dead run, and free its quotas."""
        await self._retry(self._refuse_if_fenced)
        await self._retry(
            self.monitor.end_run,
            number,
            slots_s=max(SEND_WITHIN_S, 2 * self._typical_s()),
            in_use=partial(self._in_flight, jobs),
        )

    def _typical_s(self) -> float:
        """How long a job takes on the slowest lane, by the best knowledge available."""
        latencies = self._ledger.latencies
        sorted_s = {x.name: sorted(latencies.get(x.name, ())) for x in self._lanes.all}
        return max(
            took[len(took) // 2] if (took := sorted_s[x.name]) else x.typical_s()
            for x in self._lanes.all
        )

    def _in_flight(self, jobs: list[str]) -> Counter[str]:
        """By quota: how many of these jobs may be at work at their providers."""
        accounts = {lane.name: lane.account for lane in self._lanes.all}
        histories = map(self._ledger.history, jobs)
        at_work = {State.ACCEPTED, State.IN_DOUBT}
        return Counter(
            slots_of(accounts[history.lane])
            for history in histories
            if history.state in at_work and history.lane in accounts
        )

    async def _refuse_if_fenced(self) -> None:
        if await self._ledger.has_successor():
            raise FencedError(f"{self._objects.root}: a later batch has taken over")

    async def _close_shard(self, number: int, status: ShardStatus) -> None:
        """Close a shard that no run has any more, and count the records of all its runs."""
        batch, retry = self._ledger.batch, self._retry
        await retry(mailbox.withdraw_order, self._objects, batch, number)
        last = await retry(self._ledger.shut_out_shard, number)
        slots_s = self._typical_s()
        await retry(self.monitor.end_shard, number, last + 1, slots_s=slots_s)
        if status.report is not None and status.done:
            self._tally.waiting_jobs.update(status.report.waiting_jobs)
            self._tally.passed_over |= {*status.report.passed_over}
        reports = await retry(mailbox.usage_keys, self._objects, batch)
        for key in reports.get(number, []):
            await retry(self._objects.delete, key)

    async def close(self) -> None:
        """Wait for the runs that are ending, and delete all messages."""
        await self._ending.close()
        await mailbox.clear(self._objects, self._ledger.batch)
