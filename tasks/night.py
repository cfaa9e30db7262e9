"""One batch over one manifest: what is wanted, the engine that makes it, what came of it.

Plain Python: Prefect shows it, the command line watches it, and neither is needed.
"""

import asyncio
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from manifests.attempts import write_attempts
from manifests.lifecycle import History, State
from manifests.reading import Plan
from manifests.tables import Outcomes, write_clips, write_complaints
from storage.clips import Clips
from storage.ledger import Ledger, read
from storage.objects import Objects
from tasks.engine import Engine, Rules
from tasks.exchange import connected
from tasks.lanes import Lane, Lanes
from tasks.routing import Purse
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

REMEMBERED: Final = 50
"""Of a lane's earlier jobs: few enough that a lane that has changed is learned anew."""

TABLES: Final = ("clips", "attempts", "complaints")

WATCHER: ContextVar[Callable[["Night"], None] | None] = ContextVar(
    "WATCHER", default=None
)
"""Who in this process wants to know that a night begins: the command line, say."""


@asynccontextmanager
async def begun(
    wanted: Wanted, *, lanes: Sequence[Lane], rules: Rules
) -> AsyncGenerator["Night"]:
    """A batch, checked before it is begun, and its tables written when it is over.

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
        objects = Objects.open(wanted.root)
        stem = Path(unquote(urlsplit(wanted.manifest).path)).stem
        ledger = await Ledger.open(objects, name=stem, take_over=wanted.take_over)
        try:
            async with connected() as clients:
                engine = Engine(
                    lanes=Lanes(lanes, time.monotonic),
                    ledger=ledger,
                    clips=Clips(objects),
                    clients=clients,
                    purse=Purse(wanted.budget_usd),
                    rules=rules,
                )
                _remember(engine.lanes, ledger.histories())
                night = Night(
                    wanted, plan=plan, folder=folder, ledger=ledger, engine=engine
                )
                if watcher := WATCHER.get():
                    watcher(night)
                yield night
                await night.keep_tables(objects)
                night.over = True
        finally:
            await ledger.close()


def _remember(lanes: Lanes, past: Mapping[str, History]) -> None:
    """What earlier nights showed of how long each lane's jobs take."""
    took = defaultdict[str, deque[float]](lambda: deque(maxlen=REMEMBERED))
    for history in past.values():
        if history.lane and history.accepted_at and history.generated_at:
            took[history.lane].append(history.generated_at - history.accepted_at)
    for lane in lanes.all:
        lane.looks.learn(took[lane.name])


class Night:
    """A batch that is under way."""

    def __init__(
        self,
        wanted: Wanted,
        *,
        plan: Plan,
        folder: Path,
        ledger: Ledger,
        engine: Engine,
    ) -> None:
        self.wanted = wanted
        self.plan = plan
        self.engine = engine
        self.over = False
        """Whether all that can be kept of it has been kept."""
        self.shards = [*plan.shards(wanted.shard_rows)]
        self._folder = folder
        self._manifest = folder / MANIFEST
        self._ledger = ledger
        self._began = time.monotonic()
        self._since = time.time()
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
        return time.monotonic() - self._began

    async def run_shard(self, number: int) -> dict[str, int]:
        """Take every job of a shard to its end; how many ended how."""
        shard = self.shards[number]
        with tempfile.TemporaryDirectory(dir=self._folder) as spool:
            uri = self.wanted.manifest
            every = ordered(self._manifest, uri, shard, Path(spool))
            await self.engine.run(await asyncio.to_thread(list, every))
        states = Counter(self._ledger.history(job).state for job in shard["job"])
        return {str(state): count for state, count in states.items()}

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
            lanes_closed={name: why for name, why in closed.items() if why},
            short_of=short_of(rests),
        )

    async def keep_tables(self, objects: Objects) -> None:
        """Write what came of every row, every attempt and every complaint beside the clips."""
        entries = await read(objects)
        resting = self.engine.tally.resting
        plan = self.plan.without(
            {
                job: ("", rest.reason)
                for job, rest in resting.items()
                if rest.why is Why.STILL
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
        over = {State.PUBLISHED, State.REJECTED}
        return self._ledger.history(job_id).state in over
