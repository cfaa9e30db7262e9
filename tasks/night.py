"""One batch over one manifest: what is wanted, the engine that makes it, what came of it.

Plain Python: Prefect shows it, the command line watches it, and neither is needed.
"""

import asyncio
import logging
import math
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

import polars as pl

from manifests.catalogue import shipped
from manifests.jobs import Order
from manifests.keeping import AT_PROVIDERS, by_expiry, in_use
from manifests.keys import KEY
from manifests.lifecycle import HEDGE, NEW, OVER, History, State, hedge_of
from manifests.plans import Plan, todo
from manifests.reading import demand, stills
from storage.clips import Clips
from storage.ledger import Ledger, entries
from storage.objects import Objects
from tasks import errands
from tasks.doubts import in_doubt
from tasks.engine import Engine, Rules
from tasks.exchange import Clients
from tasks.hints import hints
from tasks.keeping import Batch, keep_tables
from tasks.lanes import Lane, Lanes
from tasks.memory import keep_limits, recall_day, recall_latencies, recall_limits
from tasks.pausing import heeding
from tasks.purse import DAY_S, Purse
from tasks.roster import Roster
from tasks.routing import Kind, kind_of
from tasks.rows import Reasons, Rows
from tasks.summary import Summary, short_of
from tasks.wanted import (
    MANIFEST,
    Wanted,
    looked_at,
    ordered,
    planned,
    refuse,
)
from tasks.world import REAL, World

__all__ = ["WATCHER", "Night", "World", "begun", "mixed"]

ROUNDS: Final = 3
"""Times that what was left in doubt is looked into at the end: a job that goes again may
be in doubt again."""


log = logging.getLogger(__name__)

WATCHER: ContextVar[Callable[["Night"], None] | None] = ContextVar(
    "WATCHER", default=None
)
"""Who in this process wants to know that a night begins: the command line, say."""


@asynccontextmanager
async def begun(
    wanted: Wanted,
    *,
    lanes: Sequence[Lane],
    rules: Rules,
    hints_url: str | None = None,
    world: World = REAL,
) -> AsyncGenerator["Night"]:
    """A batch, checked before it is begun, and its tables written when it is over.

    `hints_url` is where a listener for webhooks tells what has ended, if there is one.

    Raises:
        ManifestError: it cannot be read, or `strict` and a row of it is bad.
        OpeningError, StorageError: the manifest or the root is out of reach.
        HeldError: another run is at work on the same root.
    """
    with tempfile.TemporaryDirectory(prefix="nightreel-") as name:
        folder = Path(name)
        plan = await asyncio.to_thread(planned, wanted, folder, lanes)
        if wanted.strict:
            refuse(await looked_at(plan, wanted.manifest, folder, lanes))
        objects = world.objects(wanted.root)
        stem = Path(unquote(urlsplit(wanted.manifest).path)).stem
        engine: Engine | None = None

        def stop(why: str) -> None:
            if engine is not None:
                engine.stop(why)

        ledger = await Ledger.open(
            objects,
            name=stem,
            clock=world.today,
            take_over=wanted.take_over,
            lifeboats=world.lifeboats,
            on_trouble=stop,
        )
        try:
            # Whatever runs the shards of this one: theirs have what rows name.
            await errands.clear_before(objects, ledger.batch)
            await _recall(lanes, ledger, objects, world, deadline_s=rules.deadline_s)
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
                await asyncio.to_thread(night.reckon)
                if watcher := WATCHER.get():
                    watcher(night)
                async with _fetching(night, objects):
                    yield night
            await ledger.close()
            await night.keep(objects)
            await keep_limits(lanes, objects)
            night.over = True
        finally:
            await ledger.close()


@asynccontextmanager
async def night_of(  # noqa: PLR0913 - the parts of a night, each named once
    wanted: Wanted,
    *,
    plan: Plan,
    folder: Path,
    ledger: Ledger,
    lanes: Sequence[Lane],
    rules: Rules,
    objects: Objects,
    world: World,
    hints_url: str | None,
) -> AsyncGenerator["Night"]:
    """A night on a ledger that is open, with an engine that hears of pauses and of ends."""
    async with world.clients() as clients:
        engine = _engine_of(wanted, lanes, rules, ledger, objects, clients, world)
        night = Night(
            wanted, plan=plan, folder=folder, ledger=ledger, engine=engine, world=world
        )
        async with heeding(engine, objects), _hinted(engine, hints_url):
            yield night


def _engine_of(  # noqa: PLR0913, PLR0917 - the parts of a run, each named once
    wanted: Wanted,
    lanes: Sequence[Lane],
    rules: Rules,
    ledger: Ledger,
    objects: Objects,
    clients: Clients,
    world: World,
) -> Engine:
    left_s, purse = math.inf, Purse(wanted.budget_usd)
    if wanted.finish_at is not None:
        left_s = wanted.finish_at - world.today()
    roster = Roster(
        lanes,
        policy=wanted.policy,
        now=world.now,
        today=world.today,
        ends_at=world.now() + left_s,
    )
    return Engine(
        lanes=Lanes(lanes, world.now, world.today, purse),
        roster=roster,
        ledger=ledger,
        clips=Clips(objects),
        clients=clients,
        entries=partial(entries, objects),
        purse=purse,
        rules=rules,
        now=world.now,
        today=world.today,
    )


async def _recall(
    lanes: Sequence[Lane],
    ledger: Ledger,
    objects: Objects,
    world: World,
    *,
    deadline_s: float,
) -> None:
    """What earlier nights showed of these lanes."""
    recall_latencies(lanes, ledger.latencies, within_s=deadline_s)
    await recall_limits(lanes, objects, world.now())
    if any(lane.day.limited for lane in lanes):
        today = world.today()
        await recall_day(lanes, entries(objects, since=today - DAY_S), today)


@asynccontextmanager
async def _hinted(engine: Engine, url: str | None) -> AsyncGenerator[None]:
    """Have the engine look at once at what a listener hears has ended."""

    async def listen(url: str) -> None:
        async for hint in hints(url):
            engine.follower.hint(hint.provider, hint.id)

    listening = asyncio.create_task(listen(url)) if url else None
    try:
        yield
    finally:
        if listening is not None:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening


@asynccontextmanager
async def _fetching(night: "Night", objects: Objects) -> AsyncGenerator[None]:
    """Bring home what other nights bought and nobody has fetched, while this one runs.

    Raises:
        FencedError, StorageError: nothing can be put on record any more.
    """
    until = asyncio.Event()
    coming = asyncio.create_task(night.bring_home(objects, until))
    try:
        yield
    finally:
        until.set()
        await asyncio.wait({coming})
    await coming


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
        self._before: Mapping[str, History] = dict(ledger.lives)
        self._bought = {
            life: past
            for life, past in self._before.items()
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
        """What was bought before, first: providers do not keep it for long."""
        bought = self._rows.of(self._bought)
        if bought.is_empty():
            return due
        # Half a key will do: it decides the order and nothing else.
        owed = due["key"].is_in(bought["key"].implode())
        self._owed = int(owed.sum())
        return pl.concat([due.filter(owed), due.filter(~owed)])

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
        last_first = reversed(by_expiry(self._bought, routes))
        return {life.removesuffix(HEDGE): at for at, life in last_first}

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
    def elapsed_s(self) -> float:
        return self._now() - self._began

    def reckon(self) -> None:
        """Work out what the deadline asks of the lanes, and whether they can do it."""
        if self.wanted.policy != "cheapest" and self.wanted.finish_at is None:
            return
        self.expect()
        self.late = self.engine.roster.reckon()
        if self.late:
            log.warning("batch.late jobs=%d of %d", self.late, self.plan.jobs)

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
        others = {
            life: past
            for life, past in self._bought.items()
            # The hedge of a job that is over has no shard that would see to it.
            if life not in mine or self._was_over(life.removesuffix(HEDGE))
        }
        if others:
            log.info("batch.fetching clips=%d of other batches", len(others))
            await self.engine.fetcher(objects).bring_home(others, until)
            self.ledger.forget(others)

    @property
    def in_doubt_usd(self) -> Decimal:
        """What may have been charged for nothing."""
        return sum((past.price_usd for past in self._in_doubt().values()), Decimal(0))

    def _in_doubt(self) -> dict[str, History]:
        """Jobs in doubt, and hedges of jobs that are not over."""
        past = self.ledger.lives
        doubts = in_doubt(past, [*past])
        mine = self._rows.among(doubts.keys())
        return {
            life: history
            for life, history in doubts.items()
            if life in mine
            and not (life.endswith(HEDGE) and self._over(life.removesuffix(HEDGE)))
        }

    async def _take_up(self, lives: Collection[str]) -> None:
        """See these jobs to their ends."""
        for life in lives:
            self.engine.tally.resting.pop(life.removesuffix(HEDGE), None)
        await self._run(self._rows.of(lives))

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
        self.ledger.forget([*jobs, *map(hedge_of, jobs)])
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
            hedged=self.engine.tally.hedged,
            risked_usd=sum(
                (lane.risk.spent_usd for lane in self.engine.lanes.all), Decimal(0)
            ),
            late=self.late,
            lanes_closed={name: why for name, why in closed.items() if why},
            short_of=short_of(rests),
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

    def _was_over(self, job_id: str) -> bool:
        return self._before.get(job_id, NEW).state in OVER

    def _over(self, job_id: str) -> bool:
        return self.ledger.history(job_id).state in OVER
