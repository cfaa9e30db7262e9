"""One batch over one manifest: what is wanted, the engine that makes it, what came of it.

Plain Python: Prefect shows it, the command line watches it, and neither is needed.
"""

import asyncio
import logging
import math
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import polars as pl

from manifests.attempts import write_attempts
from manifests.jobs import Order
from manifests.left import write_left
from manifests.lifecycle import HEDGE, OVER, History, State
from manifests.reading import Plan, demand
from manifests.tables import Outcomes, write_clips, write_complaints
from storage.clips import Clips
from storage.ledger import Ledger, read
from storage.objects import Objects
from tasks.doubts import in_doubt
from tasks.engine import Engine, Rules
from tasks.exchange import Clients, connected
from tasks.hints import hints
from tasks.lanes import Lane, Lanes
from tasks.memory import keep_limits, recall_day, recall_latencies, recall_limits
from tasks.purse import Purse
from tasks.roster import Roster
from tasks.routing import Kind, kind_of
from tasks.summary import Summary, short_of
from tasks.tally import Why
from tasks.wanted import (
    MANIFEST,
    Wanted,
    looked_at,
    ordered,
    planned,
    refuse,
)

TABLES: Final = ("clips", "attempts", "complaints", "left")

ROUNDS: Final = 3
"""Times that what was left in doubt is looked into at the end: a job that goes again may
be in doubt again."""

log = logging.getLogger(__name__)

WATCHER: ContextVar[Callable[["Night"], None] | None] = ContextVar(
    "WATCHER", default=None
)
"""Who in this process wants to know that a night begins: the command line, say."""


PATIENCE_S: Final = 600.0
"""How long a store may be away: the batch waits for it."""


def _kept(uri: str) -> Objects:
    return Objects.open(uri, patience_s=PATIENCE_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a night reaches beyond itself."""

    objects: Callable[[str], Objects] = _kept
    """What is kept below a root URI."""
    clients: Callable[[], AbstractAsyncContextManager[Clients]] = connected
    now: Callable[[], float] = time.monotonic
    today: Callable[[], float] = time.time


REAL: Final = World()


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
        ledger = await Ledger.open(
            objects, name=stem, take_over=wanted.take_over, clock=world.today
        )
        try:
            async with world.clients() as clients:
                await _recall(lanes, ledger, objects, world)
                engine = _engine(wanted, lanes, rules, ledger, objects, clients, world)
                night = Night(
                    wanted,
                    plan=plan,
                    folder=folder,
                    ledger=ledger,
                    engine=engine,
                    world=world,
                )
                await asyncio.to_thread(night.reckon)
                if watcher := WATCHER.get():
                    watcher(night)
                async with _hinted(engine, hints_url):
                    yield night
                await night.keep_tables(objects)
                await keep_limits(lanes, objects)
                night.over = True
        finally:
            await ledger.close()


def _engine(  # noqa: PLR0913, PLR0917 - the parts of a run, each named once
    wanted: Wanted,
    lanes: Sequence[Lane],
    rules: Rules,
    ledger: Ledger,
    objects: Objects,
    clients: Clients,
    world: World,
) -> Engine:
    left_s = math.inf
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
        lanes=Lanes(lanes, world.now, world.today),
        roster=roster,
        ledger=ledger,
        clips=Clips(objects),
        clients=clients,
        entries=partial(read, objects),
        purse=Purse(wanted.budget_usd),
        rules=rules,
        now=world.now,
        today=world.today,
    )


async def _recall(
    lanes: Sequence[Lane], ledger: Ledger, objects: Objects, world: World
) -> None:
    """What earlier nights showed of these lanes."""
    recall_latencies(lanes, ledger.histories())
    await recall_limits(lanes, objects, world.now())
    if any(lane.day.limited for lane in lanes):
        recall_day(lanes, await read(objects), world.today())


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


def mixed(orders: Sequence[Order]) -> list[Order]:
    """Kind by kind in turn: no lane waits until all that it cannot make is under way."""
    seen = Counter[tuple[int, Kind]]()
    places: list[tuple[int, int]] = []
    for order in orders:
        like = order.priority, kind_of(order)
        places.append((-order.priority, seen[like]))
        seen[like] += 1
    ranked = sorted(range(len(orders)), key=places.__getitem__)
    return [orders[n] for n in ranked]


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
        self.shards = [*plan.shards(wanted.shard_rows)]
        self._folder = folder
        self._manifest = folder / MANIFEST
        self._ledger = ledger
        self._now = world.now
        self._began = world.now()
        self._since = world.today()
        first = plan.wanted.filter("first")["job"]
        self._over_before = sum(map(self._over, first))

    @property
    def batch(self) -> str:
        return self._ledger.batch

    @property
    def done(self) -> int:
        """Jobs that are published or rejected, by this run or an earlier one."""
        tally = self.engine.tally
        return self._over_before + tally.published + tally.rejected

    @property
    def elapsed_s(self) -> float:
        return self._now() - self._began

    def reckon(self) -> None:
        """Work out what the deadline asks of the lanes, and whether they can do it."""
        if self.wanted.policy != "cheapest" and self.wanted.finish_at is None:
            return
        taken = pl.Series(
            "job", filter(self._taken, self.plan.wanted["job"]), pl.String
        )
        to_do = self.plan.wanted.filter(~pl.col("job").is_in(taken.implode()))
        kinds = demand(self._manifest, self.wanted.manifest, to_do)
        self.engine.roster.expect(
            {Kind(*kind): count for *kind, count in kinds.iter_rows()}
        )
        self.late = self.engine.roster.reckon()
        if self.late:
            log.warning("batch.late jobs=%d of %d", self.late, self.plan.jobs)

    async def mend(self) -> None:
        """Look into what the shards left in doubt: ask whoever can be asked, take the
        risks that the owner allows, and see what became certain to its end."""
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

    def _in_doubt(self) -> dict[str, History]:
        """Jobs in doubt, and hedges of jobs that are not over."""
        past = self._ledger.histories()
        mine = {*self.plan.wanted.filter("first")["job"]}
        hedges = [
            life
            for life in past
            if life.endswith(HEDGE)
            and (job := life.removesuffix(HEDGE)) in mine
            and not self._over(job)
        ]
        return in_doubt(past, [*mine, *hedges])

    async def _take_up(self, jobs: Collection[str]) -> None:
        """See these jobs to their ends."""
        jobs = {life.removesuffix(HEDGE) for life in jobs}
        chosen = self.plan.wanted.filter("first", pl.col("job").is_in([*jobs]))
        for job in jobs:
            self.engine.tally.resting.pop(job, None)
        await self._run(chosen)

    async def run_shard(self, number: int) -> dict[str, int]:
        """Take every job of a shard to its end; how many ended how."""
        shard = self.shards[number]
        await self._run(shard)
        states = Counter(self._ledger.history(job).state for job in shard["job"])
        return {str(state): count for state, count in states.items()}

    async def _run(self, shard: pl.DataFrame) -> None:
        with tempfile.TemporaryDirectory(dir=self._folder) as spool:
            uri = self.wanted.manifest
            every = ordered(self._manifest, uri, shard, Path(spool))
            await self.engine.run(mixed(await asyncio.to_thread(list, every)))

    def summary(self) -> Summary:
        """What came of it, by now."""
        states = Counter(map(self._state, self.plan.wanted["job"]))
        rests = {rest.why for rest in self.engine.tally.resting.values()}
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

    async def keep_tables(self, objects: Objects) -> None:
        """Write what came of every row, every attempt and every complaint beside the clips."""
        entries = await read(objects)
        resting = self.engine.tally.resting
        # What was once paid for keeps its row, money and all, whatever its still is now.
        plan = self.plan.without(
            {
                job: ("", rest.reason)
                for job, rest in resting.items()
                if rest.why is Why.STILL and not self._ledger.history(job).attempts
            }
        )
        outcomes = Outcomes(
            histories=self._ledger.histories(),
            reasons={job: rest.reason for job, rest in resting.items()},
        )

        def write() -> dict[str, Path]:
            paths = {name: self._folder / f"{name}.parquet" for name in TABLES}
            write_clips(paths["clips"], self._manifest, plan, outcomes)
            write_attempts(paths["attempts"], entries, since=self._since)
            write_complaints(paths["complaints"], plan)
            write_left(paths["left"], self._manifest, plan, outcomes)
            return paths

        for name, path in (await asyncio.to_thread(write)).items():
            key = f"tables/{name}/batch={self.batch}/part-0.parquet"
            await objects.put(key, await asyncio.to_thread(path.read_bytes))

    def without_clip(self) -> Counter[tuple[str, str]]:
        """How many jobs have no clip, by state and reason."""
        resting, why = self.engine.tally.resting, Counter[tuple[str, str]]()
        for job in self.plan.wanted.filter("first")["job"]:
            if (state := self._state(job)) != State.PUBLISHED:
                rest, past = resting.get(job), self._ledger.history(job)
                reason = rest.reason if rest else past.reason
                why[state, reason or "not its turn yet"] += 1
        return why

    def _state(self, job_id: str) -> str:
        """One of the four that a summary counts."""
        rest = self.engine.tally.resting.get(job_id)
        if rest is not None and rest.why is Why.STILL:
            return "rejected"
        match state := self._ledger.history(job_id).state:
            case State.PUBLISHED | State.REJECTED | State.IN_DOUBT:
                return str(state)
            case _:
                return "pending"

    def _over(self, job_id: str) -> bool:
        return self._ledger.history(job_id).state in OVER

    def _taken(self, job_id: str) -> bool:
        """Whether nothing is to be bought for it: it is over, or bought, or in doubt."""
        return self._ledger.history(job_id).state is not State.PENDING
