"""One batch over one manifest: the request, the engine that makes it, and the result.

Plain Python: Prefect shows it and the command line watches it, but it needs neither.
"""

import asyncio
import logging
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final, Protocol

import polars as pl

from manifests.expiry import AT_PROVIDERS, by_expiry
from manifests.input import Plan, demand, stills, todo
from manifests.job_keys import KEY
from manifests.jobs import Kind
from manifests.lifecycle import History, State
from storage import layout
from storage.ledger import Told
from storage.objects import StorageError
from tasks.batch.due_jobs import DueJobs
from tasks.batch.gone import Gone, brought_back
from tasks.batch.request import MANIFEST, Wanted, ordered
from tasks.batch.row_states import Reasons, Rows
from tasks.batch.summary import Summary, broken, short_of, too_many
from tasks.batch.tables import FinishedBatch, keep_tables
from tasks.dispatch import Lane, dearest_bills
from tasks.engine.charges import told_dearer
from tasks.engine.engine import Engine
from tasks.engine.in_doubt import in_doubt
from tasks.engine.stats import WaitReason
from tasks.engine.steps import known_routes
from tasks.engine.trouble import Trouble, merged

ROUNDS: Final = 3
"""Rounds of settling doubts at the end, because a job that is submitted again may be in doubt
again."""

log = logging.getLogger(__name__)


class Away(Protocol):
    """Runs shards in other processes."""

    async def run(self, number: int, shard: pl.DataFrame) -> list[str]:
        """Run these jobs of the plan to their ends; return their ids."""
        ...

    async def settle_doubts(self) -> None:
        """Settle the jobs that the shards left in doubt."""

    def held(self, account: str) -> int:
        """How many of an account's slots the shards use, by their latest reports."""
        ...

    def troubles(self) -> Iterable[Sequence[Trouble]]:
        """The troubles of each shard, by its latest report."""
        ...


class BatchRun:
    """A batch that is under way."""

    def __init__(
        self, wanted: Wanted, *, plan: Plan, folder: Path, engine: Engine
    ) -> None:
        ledger = engine.deps.ledger
        self.wanted = wanted
        self.plan = plan
        self.engine = engine
        self.late = 0
        """Jobs that cannot be done by the deadline, as computed at the start."""
        self.root_id: str | None = None
        """The identity of the root, which each shard in another process has to find."""
        self.over = False
        """Whether its tables and limits have been written."""
        self._folder = folder
        self.manifest = folder / MANIFEST
        self.ledger = ledger
        self._rows = Rows(plan, ledger)
        self.world = engine.deps.world
        self._now = self.world.now
        self._began, self._began_at = self._now(), self.world.today()
        self._bought = {
            job: history
            for job, history in ledger.lives.items()
            if history.state in AT_PROVIDERS
        }
        due = todo(plan, ledger.states)
        self._over_before = plan.jobs - due.height
        routes = known_routes(engine.lanes.all)
        self.due = DueJobs(
            due,
            bought=self._rows.of(self._bought),
            expiring={job: at for at, job in by_expiry(self._bought, routes)},
            shard_rows=wanted.shard_rows,
        )
        self._gone = Gone()
        self.away: Away | None = None
        """Runs the shards in other processes, if set; otherwise they run here."""

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return self.due.shards

    @property
    def batch(self) -> str:
        return self.ledger.batch

    @property
    def generation(self) -> int:
        """The number of runs of this shard so far, if this batch run has a single shard."""
        return int(self.ledger.stream.rpartition(".")[2])

    @property
    def done(self) -> int:
        """Jobs that are published or rejected, by this run or an earlier one."""
        tally = self.engine.tally
        ended = tally.published + tally.rejected + tally.unplayable
        return self._over_before + ended

    def at_work(self, lane: Lane) -> int:
        """Jobs that this lane's account is making, here and in shards elsewhere."""
        elsewhere = 0 if self.away is None else self.away.held(lane.account)
        return lane.limiter.in_flight + elsewhere

    @property
    def troubles(self) -> list[Trouble]:
        """The troubles of jobs, here and in shards elsewhere, the oldest first."""
        elsewhere = () if self.away is None else self.away.troubles()
        return merged([self.engine.troubles.standing(), *elsewhere])

    @property
    def cut_short(self) -> bool:
        """Whether it was stopped with jobs still pending, so that a next run can continue."""
        return self.engine.stopped is not None and bool(self.states()["pending"])

    @property
    def broken(self) -> Counter[str]:
        """Jobs on which our own code failed, by the reason, with other batches' clips."""
        waiting_jobs = self.engine.tally.waiting_jobs.values()
        jobs = Counter(
            waiting.reason
            for waiting in waiting_jobs
            if waiting.why is WaitReason.BROKEN
        )
        return jobs + self.engine.tally.parked

    @property
    def elapsed_s(self) -> float:
        return self._now() - self._began

    def check_deadline(self) -> None:
        """Work out what the deadline asks of the lanes, and whether they can do it."""
        if self.wanted.policy != "cheapest" and self.wanted.finish_at is None:
            return
        self.set_demand()
        self.late = self.engine.router.count_late()
        if self.late:
            log.warning(
                "batch.late jobs=%d total=%d they will not be done by the deadline",
                self.late,
                self.plan.jobs,
            )

    def set_demand(self) -> None:
        """Tell the lanes' router what is still to be bought."""
        self.engine.router.add_demand(self.demand())

    def demand(self) -> dict[Kind, int]:
        """How many jobs of each kind have not been bought."""
        unbought = todo(self.plan, self.ledger.states, among={State.PENDING})
        kinds = demand(self.manifest, self.wanted.manifest, unbought)
        return {Kind(*kind): count for *kind, count in kinds.iter_rows()}

    def states(self) -> Counter[str]:
        """How many rows are in each of the five states of a summary."""
        return self._rows.states(self.engine.tally)

    async def settle_doubts(self) -> None:
        """Settle the jobs that the shards left in doubt, and ask a last time for clips.

        Ask the providers that can be asked, take the risks that the owner allows, and
        finish the jobs that became certain. Clips whose downloads were refused are asked
        for once more; what turns out to be lost is bought again.
        """
        if self.away is not None:
            await self.away.settle_doubts()
            return
        await self._settle_in_rounds()
        await self.engine.refetcher.ask_last()
        if self.engine.rebuy_ids:
            await self._settle_in_rounds()

    async def _settle_in_rounds(self) -> None:
        for _ in range(ROUNDS):
            doubts = self._in_doubt()
            if self.engine.stopped or not (doubts or self.engine.rebuy_ids):
                return
            told = await self.engine.doubts.asked(doubts)
            certain = {*told, *self.engine.doubts.unheard}
            left = {
                job: history for job, history in doubts.items() if job not in certain
            }
            if self.engine.stopped:
                return
            again = {
                *told,
                *self.engine.rebuy_ids,
                *await self.engine.doubts.risked(left),
            }
            if not again:
                return
            self.engine.rebuy_ids.clear()
            await self._take_up(again)

    async def bring_home(self, until: asyncio.Event) -> None:
        """Fetch clips that were bought for rows of other manifests."""
        ours = self._rows.among(self._bought)
        others = {
            job: history for job, history in self._bought.items() if job not in ours
        }
        if others:
            log.info("batch.fetching clips=%d that other batches bought", len(others))
            async with self.engine.fetching() as fetcher:
                await fetcher.bring_home(others, until)
                await until.wait()
            self.ledger.forget(others)

    @property
    def in_doubt_usd(self) -> Decimal:
        """The total price of the jobs in doubt, which may have been charged."""
        return sum(
            (history.price_usd for history in self._in_doubt().values()), Decimal(0)
        )

    def _in_doubt(self) -> dict[str, History]:
        """Jobs of this manifest that are in doubt."""
        lives = self.ledger.lives
        doubts = in_doubt(lives, [*lives])
        ours = self._rows.among(doubts.keys())
        return {job: history for job, history in doubts.items() if job in ours}

    async def _take_up(self, jobs: Collection[str]) -> None:
        """Run these jobs to their ends."""
        for job in jobs:
            self.engine.tally.waiting_jobs.pop(job, None)
        await self._run(self._rows.of(jobs))

    async def run_shard(self, number: int) -> dict[str, int]:
        """Run every job of a shard to its end; return the number of jobs by state."""
        shard = self.due.shard(number)
        why = self.engine.done_buying
        if why is not None and not self.due.has_bought(number):
            # Nothing can be bought, so the rows need not be read.
            self.engine.tally.passed_over.add(why)
            return {str(State.PENDING): shard.height}
        with self.ledger.shard():
            if self.away is None:
                jobs = await self._run(shard)
            else:
                jobs = await self.away.run(number, shard)
        histories = {job: self.ledger.history(job) for job in jobs}
        self.ledger.forget(jobs)
        self.engine.tally.forget(
            {job: histories[job] for job in jobs if job not in self.ledger.lives}
        )
        states = self.ledger.states(shard.select(*KEY)).value_counts()
        return {str(state): count for state, count in states.iter_rows()}

    async def _run(self, shard: pl.DataFrame) -> list[str]:
        """Run the jobs of this part of the plan to their ends; return their ids."""
        with tempfile.TemporaryDirectory(dir=self._folder) as spool:
            uri = self.wanted.manifest
            every = ordered(self.manifest, uri, shard, Path(spool))
            orders = self.due.mixed(await asyncio.to_thread(list, every))
            await self.engine.run(orders)
            return [order.job.id for order in orders]

    def summary(self) -> Summary:
        """The result of the batch at this moment."""
        states = self.states()
        rejected = states["rejected"] + self.plan.bad_rows
        wait_reasons = {
            waiting.why for waiting in self.engine.tally.waiting_jobs.values()
        }
        wait_reasons |= self.engine.tally.passed_over
        closed = {lane.name: lane.closed for lane in self.engine.lanes.all}
        return Summary(
            batch=self.batch,
            rows=self.plan.rows,
            jobs=self.plan.jobs,
            published=states["published"],
            rejected=rejected,
            unplayable=states["unplayable"],
            in_doubt=states["in_doubt"],
            pending=states["pending"],
            bought=self.engine.tally.bought,
            spent_usd=self.engine.tally.budget.spent_usd,
            wall_s=self.elapsed_s,
            risked_usd=sum(
                (lane.risk.spent_usd for lane in self.engine.lanes.all), Decimal(0)
            ),
            late=self.late,
            lanes_closed={name: why for name, why in closed.items() if why},
            lanes_dearer={
                name: told_dearer(bill)
                for name, bill in dearest_bills(self.engine.lanes.all).items()
            },
            short_of=short_of(wait_reasons),
            broken=broken(self.broken),
            fault=self.engine.tally.faults.stopped,
            differing=self.engine.tally.differing,
            restored=self._gone.restored,
            gone=self._gone.left,
            too_many_rejected=too_many(
                rejected, self.plan.rows, self.wanted.max_rejected
            ),
        )

    async def keep(self) -> None:
        """Write the tables of a batch whose ledger is closed."""
        over = FinishedBatch(
            plan=self.plan,
            folder=self._folder,
            ledger=self.ledger,
            tally=self.engine.tally,
        )
        told = await keep_tables(over, self.engine.deps.objects)
        if self._over_before and self.engine.stopped is None:
            await self._bring_back(told)

    async def _bring_back(self, told: Told) -> None:
        """Bring back clips of earlier runs that are gone; the batch is over all the same."""
        try:
            self._gone = await brought_back(
                self.engine.deps.objects,
                self.plan.wanted.filter("first"),
                told,
                before=self._began_at,
                lanes=self.engine.lanes.all,
                world=self.world,
            )
        except* StorageError as errors:
            log.warning(
                "clips.not_looked_at the store failed: %r", errors.exceptions[0]
            )

    def without_clip(self) -> Reasons:
        """How many jobs have no clip, by state and reason, and which rows first."""
        return self._rows.without_clip(self.engine.tally, self.troubles)

    def put_aside(self) -> Reasons:
        """Why jobs wait for another run or a person, by state and reason, so far."""
        return self._rows.put_aside(self.engine.tally)

    @property
    def never_bought(self) -> int:
        """Jobs that were never submitted, by this run or an earlier one, and may be."""
        return self._rows.unbought(self.engine.tally)

    def table_uri(self, name: str) -> str:
        """The URI of a table of this batch, once it is over."""
        return self.engine.deps.objects.uri(layout.table(name, self.batch))

    def stills(self, rows: Collection[int]) -> dict[int, str]:
        """The locations of the stills of a few rows, without embedded stills."""
        return stills(self.manifest, self.wanted.manifest, rows)
