"""One batch over one manifest: what is wanted, the engine that makes it, what came of it.

Plain Python: Prefect shows it, the command line watches it, and neither is needed.
"""

import asyncio
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

import polars as pl

from manifests.catalogue.loader import shipped
from manifests.expiry import AT_PROVIDERS, by_expiry, in_use
from manifests.input.plan import Plan, todo
from manifests.input.reader import demand, stills
from manifests.job_keys import KEY, keys
from manifests.jobs import Order
from manifests.lifecycle import History, State
from storage.ledger.ledger import Ledger
from storage.objects.client import Objects
from tasks.batch.request import MANIFEST, Wanted, ordered
from tasks.batch.row_states import Reasons, Rows
from tasks.batch.summary import Summary, broken, short_of
from tasks.batch.tables import Batch, keep_tables
from tasks.dispatch.eligibility import Kind, kind_of
from tasks.dispatch.lanes import Lane
from tasks.engine.engine import Engine
from tasks.engine.environment import World
from tasks.engine.in_doubt import in_doubt
from tasks.engine.stats import Why

ROUNDS: Final = 3
"""Times that what was left in doubt is looked into at the end: a job that goes again may
be in doubt again."""

log = logging.getLogger(__name__)


def mixed(
    orders: Sequence[Order], expiring: Mapping[str, float] = MappingProxyType({})
) -> list[Order]:
    """What expires at its provider first (Unix seconds, by job); the others kind by kind in
    turn: no lane waits until all that it cannot make is under way."""
    seen = Counter[tuple[int, Kind]]()
    places: list[tuple[float, int, int]] = []
    for order in orders:
        like = order.priority, kind_of(order)
        expires_at = expiring.get(order.job.id, math.inf)
        places.append((expires_at, -order.priority, seen[like]))
        seen[like] += 1
    ranked = sorted(range(len(orders)), key=places.__getitem__)
    return [orders[n] for n in ranked]


class Away(Protocol):
    """Has shards run in other processes."""

    async def run(self, number: int, shard: pl.DataFrame) -> list[str]:
        """Have these jobs of the plan taken to their ends; their ids."""
        ...

    async def mend(self) -> None:
        """See to what they left in doubt."""

    def held(self, account: str) -> int:
        """How many of an account's slots they have in use, by what they said last."""
        ...


class Night:
    """A batch that is under way."""

    def __init__(  # noqa: PLR0913 - the parts of a night, each named once
        self,
        wanted: Wanted,
        *,
        plan: Plan,
        folder: Path,
        ledger: Ledger,
        engine: Engine,
        world: World,
    ) -> None:
        self.wanted = wanted
        self.plan = plan
        self.engine = engine
        self.late = 0
        """Jobs that cannot be done by the deadline, as it looked at the start."""
        self.over = False
        """Whether all that can be kept of it has been kept."""
        self._folder = folder
        self.manifest = folder / MANIFEST
        self.ledger = ledger
        self._rows = Rows(plan, ledger)
        self.world = world
        self._now = world.now
        self._began = world.now()
        self._bought = {
            job: past
            for job, past in ledger.lives.items()
            if past.state in AT_PROVIDERS
        }
        self._expiring = self._expiries()
        due = todo(plan, ledger.states)
        self._over_before = plan.jobs - due.height
        self._owed = 0
        self._due = self._fetched_first(due)
        self.away: Away | None = None
        """Who has its shards run elsewhere, if they are not run here."""

    def _fetched_first(self, due: pl.DataFrame) -> pl.DataFrame:
        """What was bought before, first, in the order in which it expires: providers do
        not keep it for long."""
        bought = self._rows.of(self._bought)
        if bought.is_empty():
            return due
        # Half a key will do: it decides the order and nothing else.
        owed = due["key"].is_in(bought["key"].implode())
        self._owed = int(owed.sum())
        expiring = keys(self._expiring).with_columns(
            at=pl.Series([*self._expiring.values()], dtype=pl.Float64)
        )
        first = (
            due.filter(owed)
            .join(expiring, [*KEY], how="left", maintain_order="left")
            .sort("at", nulls_last=True, maintain_order=True)
            .drop("at")
        )
        return pl.concat([first, due.filter(~owed)])

    @property
    def shards(self) -> range:
        """Their numbers."""
        return range(math.ceil(self._due.height / self.wanted.shard_rows))

    def sliced(self, number: int) -> pl.DataFrame:
        """A shard: its part of the plan."""
        return self._due.slice(number * self.wanted.shard_rows, self.wanted.shard_rows)

    def _expiries(self) -> dict[str, float]:
        """When what was bought is kept no longer, by job."""
        routes = in_use(shipped().routes, [x.route for x in self.engine.lanes.all])
        return {job: at for at, job in by_expiry(self._bought, routes)}

    @property
    def batch(self) -> str:
        return self.ledger.batch

    @property
    def generation(self) -> int:
        """Of a shard that was joined: how many have run it."""
        return int(self.ledger.stream.rpartition(".")[2])

    @property
    def done(self) -> int:
        """Jobs that are published or rejected, by this run or an earlier one."""
        tally = self.engine.tally
        return self._over_before + tally.published + tally.rejected

    def at_work(self, lane: Lane) -> int:
        """Jobs that this lane's account is making, for whoever runs shards of ours."""
        elsewhere = 0 if self.away is None else self.away.held(lane.account)
        return lane.pace.in_flight + elsewhere

    @property
    def cut_short(self) -> bool:
        """Whether it was told to stop before all of it was done, and may be gone on with."""
        return self.engine.stopped is not None and bool(self.states()["pending"])

    @property
    def broken(self) -> Counter[str]:
        """Jobs on which our own code failed, by the reason; other batches' clips, too."""
        rests = self.engine.tally.resting.values()
        jobs = Counter(rest.reason for rest in rests if rest.why is Why.BROKEN)
        return jobs + self.engine.tally.parked

    @property
    def elapsed_s(self) -> float:
        return self._now() - self._began

    def reckon(self) -> None:
        """Work out what the deadline asks of the lanes, and whether they can do it."""
        if self.wanted.policy != "cheapest" and self.wanted.finish_at is None:
            return
        self.expect()
        self.late = self.engine.roster.reckon()
        if self.late:
            log.warning(
                "batch.late jobs=%d total=%d they will not be done by the deadline",
                self.late,
                self.plan.jobs,
            )

    def expect(self) -> None:
        """Tell the lanes' roster what is still to be bought."""
        self.engine.roster.expect(self.demand())

    def demand(self) -> dict[Kind, int]:
        """How many jobs of each kind have not been bought."""
        unbought = todo(self.plan, self.ledger.states, among={State.PENDING})
        kinds = demand(self.manifest, self.wanted.manifest, unbought)
        return {Kind(*kind): count for *kind, count in kinds.iter_rows()}

    def states(self) -> Counter[str]:
        """How many rows are in each of the four states of a summary."""
        return self._rows.states(self.engine.tally)

    def rows_of(self, number: int) -> pl.Series:
        """The rows of the manifest that a shard takes, most urgent first."""
        first = number * self.wanted.shard_rows
        return self._due["row"].slice(first, self.wanted.shard_rows)

    async def mend(self) -> None:
        """Look into what the shards left in doubt: ask whoever can be asked, take the
        risks that the owner allows, and see what became certain to its end."""
        if self.away is not None:
            await self.away.mend()
            return
        for _ in range(ROUNDS):
            doubts = self._in_doubt()
            if self.engine.stopped or not (doubts or self.engine.again):
                return
            told = await self.engine.doubts.asked(doubts)
            certain = {*told, *self.engine.doubts.unheard}
            left = {job: past for job, past in doubts.items() if job not in certain}
            if self.engine.stopped:
                return
            again = {*told, *self.engine.again, *await self.engine.doubts.risked(left)}
            if not again:
                return
            self.engine.again.clear()
            await self._take_up(again)

    async def bring_home(self, objects: Objects, until: asyncio.Event) -> None:
        """Fetch what was bought for rows that are not of this manifest."""
        mine = self._rows.among(self._bought)
        others = {job: past for job, past in self._bought.items() if job not in mine}
        if others:
            log.info("batch.fetching clips=%d that other batches bought", len(others))
            await self.engine.fetcher(objects).bring_home(others, until)
            self.ledger.forget(others)

    @property
    def in_doubt_usd(self) -> Decimal:
        """What may have been charged for nothing."""
        return sum((past.price_usd for past in self._in_doubt().values()), Decimal(0))

    def _in_doubt(self) -> dict[str, History]:
        """Jobs of this manifest that are in doubt."""
        past = self.ledger.lives
        doubts = in_doubt(past, [*past])
        mine = self._rows.among(doubts.keys())
        return {job: history for job, history in doubts.items() if job in mine}

    async def _take_up(self, jobs: Collection[str]) -> None:
        """See these jobs to their ends."""
        for job in jobs:
            self.engine.tally.resting.pop(job, None)
        await self._run(self._rows.of(jobs))

    async def run_shard(self, number: int) -> dict[str, int]:
        """Take every job of a shard to its end; how many ended how."""
        shard = self.sliced(number)
        why = self.engine.done_buying
        if why is not None and number * self.wanted.shard_rows >= self._owed:
            # Millions of rows need not be read for that.
            self.engine.tally.passed_over.add(why)
            return {str(State.PENDING): shard.height}
        with self.ledger.shard():
            if self.away is None:
                jobs = await self._run(shard)
            else:
                jobs = await self.away.run(number, shard)
        past = {job: self.ledger.history(job) for job in jobs}
        self.ledger.forget(jobs)
        self.engine.tally.forget(
            {job: past[job] for job in jobs if job not in self.ledger.lives}
        )
        states = self.ledger.states(shard.select(*KEY)).value_counts()
        return {str(state): count for state, count in states.iter_rows()}

    async def _run(self, shard: pl.DataFrame) -> list[str]:
        """See the jobs of this part of the plan to their ends; their ids."""
        with tempfile.TemporaryDirectory(dir=self._folder) as spool:
            uri = self.wanted.manifest
            every = ordered(self.manifest, uri, shard, Path(spool))
            orders = mixed(await asyncio.to_thread(list, every), self._expiring)
            await self.engine.run(orders)
            return [order.job.id for order in orders]

    def summary(self) -> Summary:
        """What came of it, by now."""
        states = self.states()
        rests = {rest.why for rest in self.engine.tally.resting.values()}
        rests |= self.engine.tally.passed_over
        closed = {lane.name: lane.closed for lane in self.engine.lanes.all}
        return Summary(
            batch=self.batch,
            rows=self.plan.rows,
            jobs=self.plan.jobs,
            published=states["published"],
            rejected=states["rejected"] + self.plan.bad_rows,
            in_doubt=states["in_doubt"],
            pending=states["pending"],
            bought=self.engine.tally.bought,
            spent_usd=self.engine.tally.purse.spent_usd,
            wall_s=self.elapsed_s,
            risked_usd=sum(
                (lane.risk.spent_usd for lane in self.engine.lanes.all), Decimal(0)
            ),
            late=self.late,
            lanes_closed={name: why for name, why in closed.items() if why},
            short_of=short_of(rests),
            broken=broken(self.broken),
            fault=self.engine.tally.faults.stopped,
        )

    async def keep(self, objects: Objects) -> None:
        """Write the tables of a batch whose ledger is closed."""
        over = Batch(
            plan=self.plan,
            folder=self._folder,
            ledger=self.ledger,
            tally=self.engine.tally,
        )
        await keep_tables(over, objects)

    def without_clip(self) -> Reasons:
        """How many jobs have no clip, by state and reason, and which rows first."""
        return self._rows.without_clip(self.engine.tally)

    def stills(self, rows: Collection[int]) -> dict[int, str]:
        """Where the stills of a few rows are; without those in the manifest itself."""
        return stills(self.manifest, self.wanted.manifest, rows)
