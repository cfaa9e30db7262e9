"""Away: a batch's shards are run in other processes, and share what accounts allow.

All that is said goes through the root's store, so whoever reaches that can run a shard.
The batch starts runs, starts another where one has died, and has all of them heard, counted
and dealt to at its `table`.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import count
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, ParamSpec, TypeVar

import polars as pl

from manifests.input.shard_extract import cut
from manifests.job_keys import held, ids, keys
from manifests.lifecycle import (
    NEW,
    OVER,
    History,
    State,
)
from storage import checksum, layout
from storage.ledger import segments, shard_stream
from storage.ledger.ledger import FencedError
from storage.ledger.owner import SILENT_S
from storage.objects.client import RefusedError
from tasks.batch.batch import Night
from tasks.distributed import mailbox
from tasks.distributed.mailbox import Errand, beat_s
from tasks.distributed.reports import Seated, Table
from tasks.distributed.shard_run import joined
from tasks.engine.engine import Rules
from tasks.engine.in_doubt import in_doubt
from tasks.engine.job import SEND_WITHIN_S
from tasks.engine.stats import Rest, Why

TRIES: Final = 5
"""Runs of one shard that died at work: what breaks so many is not an accident."""

IN_VAIN: Final = 12
"""Runs of one shard that a machine could not do: over half an hour, with the pauses."""

PAUSE_S: Final = 5.0
"""After such a run, then twice as long, so that another machine has a chance: the one
that fails at once is free at once..."""
LONGEST_PAUSE_S: Final = 300.0
"""... and so long at most."""

REFUSED_S: Final = 60.0
"""For so long a store may refuse us: a key that is being renewed ends no batch."""

FIRST_WORD_S: Final = 300.0
"""From when a run's process has begun until it is heard: it may have much to read first."""

BEATS: Final = 3.0
"""A run that is said to have failed, and that was heard within so many beats, lives."""

Start = Callable[[int, int, Callable[[], None]], Awaitable[None]]
"""Have a shard run, for the so-manieth time; comes back, or fails, when that is over.
Says so, as often as it likes, when it knows that a process is at it: one that waits for
a worker may wait for hours, one that has begun is heard soon or is dead."""

P = ParamSpec("P")
T = TypeVar("T")

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
    dealing = asyncio.create_task(away.table.keep_dealing())
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
        self.table = Table(night)
        self._before: dict[int, dict[str, History]] = {}
        self._left = len(night.shards)
        self._gave_up_at = -inf
        self._ending = set[asyncio.Future[None]]()

    async def run(self, number: int, shard: pl.DataFrame) -> list[str]:
        """Have these jobs of the plan taken to their ends; their ids.

        Raises:
            FencedError, StorageError: nothing can be put on record any more.
        """
        jobs = ids(shard)
        await self._allowed(self._give, number, shard, jobs)
        mine = self.table.seat(number)
        try:
            await self._run(number, mine, jobs)
        except asyncio.CancelledError:
            self._night.engine.stop("cancelled")
            raise
        finally:
            self._left -= 1
            await self._over(number, mine)
        return jobs

    def held(self, account: str) -> int:
        """How many of an account's slots are in use, by what runs said last."""
        return self.table.held(account)

    async def mend(self) -> None:
        """Where shards left jobs in doubt, see to what their runs could not put on record,
        and take what risks their owner allows."""
        risky = any(lane.risk_usd for lane in self._lanes.all)
        if not risky and not await self._allowed(self._ledger.is_any_adrift):
            return
        for account, pace in {x.account: x.pace for x in self._lanes.all}.items():
            # What the shards sent of late counts for the minute that we begin in.
            pace.others_sent(self.table.lately(account))
        doubts = in_doubt(self._ledger.lives, [*self._ledger.lives])
        few = keys(doubts)
        for number in self._night.shards:
            shard = self._night.sliced(number)
            if self._night.engine.stopped is None and held(shard, few).height:
                await self._mend(number, shard)

    async def _mend(self, number: int, shard: pl.DataFrame) -> None:
        # What its runs have put on record until now was heard when they were over.
        known = 1 + await shard_stream.ended(self._objects, self._ledger.batch, number)
        jobs = ids(shard)
        await self._give(number, shard, jobs)
        mine = self.table.seat(number, known, runs_here=True)
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
                night.engine.again |= night.ledger.picked_up
                with self._night.engine.stops(night.engine):
                    await night.mend()
                for job in jobs:
                    if night.ledger.history(job).state in OVER:
                        self._tally.resting.pop(job, None)
                self._rest(night.engine.tally.resting)
        except FencedError as error:
            # Somebody else has just begun with it: what is in doubt stays so.
            log.warning(
                "shard.not_settled shard=%d another run has it, its doubts stay: %s",
                number,
                error,
            )
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
            known = {job: self._ledger.history(job) for job in jobs}
            self._before[number] = {
                job: past for job, past in known.items() if past != NEW
            }
        with TemporaryDirectory(prefix="nightreel-") as name:
            slip = Path(name) / "slip.parquet"
            await asyncio.to_thread(
                cut, self._night.manifest, wanted.manifest, shard, slip
            )
            batch = self._ledger.batch
            latencies = self._ledger.latencies.items()
            errand = Errand(
                manifest=wanted.manifest,
                policy=wanted.policy,
                finish_at=finish_at,
                has_budget=wanted.budget_usd is not None,
                latencies={name: [*took] for name, took in latencies},
                before=self._before[number],
                rows=await asyncio.to_thread(checksum.of_file, slip),
            )
            await mailbox.give(self._objects, batch, number, errand, slip)

    async def _run(self, number: int, mine: Seated, jobs: list[str]) -> None:
        said, died, in_vain = "it was never begun", 0, 0
        for attempt in count(1):
            mine.begun = mine.done = False
            if self._night.engine.stopped is not None:
                break
            was = mine.generation
            run = asyncio.ensure_future(self.start(number, attempt, mine.begin))
            with self._told_of_waiting(number, mine):
                said = await self._until_over(number, mine, run)
            if mine.done and not (said := self._broken_off(mine)):
                return
            log.warning(
                "shard.died shard=%d attempt=%d its run ended early: %s",
                number,
                attempt,
                said,
            )
            await self._allowed(self._refuse_if_fenced)
            await self._allowed(self._shut_out, number, jobs)
            if mine.generation > was and not (mine.done and self._closed_alone(mine)):
                died += 1
                if died == TRIES:
                    break
            else:
                in_vain += 1
                if self._is_vain(in_vain):
                    break
                await self._pause(in_vain)
        if not mine.done:
            # Of one that has left in good order, its own words say why.
            self._put_aside(jobs, said)

    def _put_aside(self, jobs: list[str], said: str) -> None:
        for job in jobs:
            if self._ledger.history(job).state not in OVER:
                why = self._night.engine.stopped
                rest = Rest(Why.STOPPED, why) if why else Rest(Why.BROKEN, said)
                self._tally.resting[job] = rest

    def _is_vain(self, times: int) -> bool:
        """Whether a shard is begun no more after so many runs in vain: at once, where
        another was given up for that and nobody has said a word since."""
        nobody = self.table.heard_at < self._gave_up_at
        if times >= IN_VAIN:
            self._gave_up_at = self._world.now()
        return nobody or times >= IN_VAIN

    async def _pause(self, nth: int) -> None:
        """Leave a shard to another machine than the one that has just failed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(LONGEST_PAUSE_S, PAUSE_S * 2 ** (nth - 1))
        while (left := until - loop.time()) > 0:
            # Who stops the batch tells nobody but its engine.
            if self._night.engine.stopped is not None:
                break
            await asyncio.sleep(min(1.0, left))

    def _closed_alone(self, mine: Seated) -> bool:
        """Whether its latest run closed for itself what others can yet submit on."""
        said = mine.report
        return said is not None and any(
            lane.name in said.closed_here for lane in self._lanes.open
        )

    async def _until_over(
        self, number: int, mine: Seated, run: "asyncio.Future[None]"
    ) -> str:
        """Wait until the run says that it is done, or is no more; why, in words."""
        was, superseded, failure = mine.generation, False, None
        self._ending.add(run)
        run.add_done_callback(self._ended)
        try:
            while not mine.done:
                mine.spoke.clear()
                heard = asyncio.ensure_future(mine.spoke.wait())
                first = asyncio.FIRST_COMPLETED
                try:
                    await asyncio.wait({run, heard}, timeout=1.0, return_when=first)
                finally:
                    heard.cancel()
                if self.table.failed is not None:
                    raise self.table.failed
                if run.done():
                    await self._allowed(self.table.look, number)
                    failure = _failure(run)
                    run = asyncio.get_running_loop().create_future()
                    if failure is None:
                        # It was shut out: whoever did that has the shard, and is heard.
                        superseded = True
                        continue
                has_spoken = superseded or mine.generation > was
                if failure is not None and not (has_spoken and self._beats(mine)):
                    return failure
                why = self._dead(mine) if has_spoken else _never_heard(mine)
                if why is not None:
                    run.cancel()
                    return why
                if self._night.engine.stopped is not None and not has_spoken:
                    run.cancel()
                    return "it was never begun"
        except asyncio.CancelledError:
            run.cancel()
            raise
        return "done"

    def _ended(self, run: "asyncio.Future[None]") -> None:
        self._ending.discard(run)
        if not run.cancelled():
            # Of one that nobody waits for any more, it is no news that it came too late.
            run.exception()

    @contextmanager
    def _told_of_waiting(self, number: int, mine: Seated) -> Generator[None]:
        """Say so if nobody begins with it for a minute: that may be for ever."""
        was = mine.generation

        def tell() -> None:
            if mine.generation == was:
                log.warning(
                    "shard.waits shard=%d waited_s=%.0f no worker has started it",
                    number,
                    SILENT_S,
                )

        telling = asyncio.get_running_loop().call_later(SILENT_S, tell)
        try:
            yield
        finally:
            telling.cancel()

    def _beats(self, mine: Seated) -> bool:
        """Whether it lives, whatever others say: who ran it may be told wrong."""
        return mine.silent_s <= BEATS * beat_s(self._objects)

    def _dead(self, mine: Seated) -> str | None:
        """Why a run that has been heard is taken for dead, if it is."""
        if mine.silent_s > SILENT_S:
            return f"nothing heard of it for {mine.silent_s:.0f} s"
        if mine.report is not None and mine.report.by.is_gone():
            return "its process is gone"
        return None

    def _broken_off(self, mine: Seated) -> str:
        """Why a run that has left in good order did not do it all, if others can: its
        machine is drained, say, or has closed a lane for itself."""
        if self._night.engine.stopped is not None or mine.report is None:
            return ""
        whys = {Why.STOPPED}
        if self._closed_alone(mine):
            whys |= {Why.NO_LANE, Why.UNFINISHED}
        resting = mine.report.resting.values()
        return next((rest.reason for rest in resting if rest.why in whys), "")

    async def _allowed(
        self, what: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do what a store may refuse for a moment, and will do then.

        Raises:
            StorageError: it will not.
        """
        until = self._world.now() + REFUSED_S
        while True:
            try:
                return await what(*args, **kwargs)
            except RefusedError as error:
                if self._world.now() > until:
                    raise
                log.warning(
                    "store.refused root=%s the request is repeated: %s",
                    self._objects.root,
                    error,
                )
                await asyncio.sleep(beat_s(self._objects))

    async def _shut_out(self, number: int, jobs: list[str]) -> None:
        """Free what a dead run had: its successor may wait for a place that others, who
        wait for that, have."""
        await self.table.shut_out(
            number,
            slots_s=max(SEND_WITHIN_S, 2 * self._typical_s()),
            held=partial(self._in_flight, jobs),
        )

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
        past = map(self._ledger.history, jobs)
        at_work = {State.ACCEPTED, State.IN_DOUBT}
        return Counter(
            mailbox.slots_of(accounts[one.lane])
            for one in past
            if one.state in at_work and one.lane in accounts
        )

    async def _refuse_if_fenced(self) -> None:
        successor = layout.claim(segments.number(self._ledger.batch) + 1)
        if await segments.exists(self._objects, successor):
            raise FencedError(f"{self._objects.root}: a later batch has taken over")

    async def _over(self, number: int, mine: Seated) -> None:
        """Nobody runs it any more: what all its runs have put on record is ours."""
        batch, allowed = self._ledger.batch, self._allowed
        await allowed(mailbox.withdraw, self._objects, batch, number)
        last = await allowed(shard_stream.ended, self._objects, batch, number)
        await allowed(self.table.leave, number, last + 1, slots_s=self._typical_s())
        if mine.report is not None and mine.done:
            self._rest(mine.report.resting)
            self._tally.passed_over |= {*mine.report.passed_over}
        told = await allowed(mailbox.hands, self._objects, batch)
        for key in told.get(number, []):
            await allowed(self._objects.delete, key)

    def _rest(self, resting: Mapping[str, Rest]) -> None:
        for job, rest in resting.items():
            self._tally.resting[job] = rest

    async def close(self) -> None:
        """Wait for what is ending, and leave nothing behind."""
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=60.0)
            for run in late:
                run.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await mailbox.clear(self._objects, self._ledger.batch)


def _never_heard(mine: Seated) -> str | None:
    """Why a run of which there has been no word is taken for dead, if it is."""
    if not mine.begun or mine.silent_s < FIRST_WORD_S:
        return None
    return f"it has begun, and nothing was heard of it for {mine.silent_s:.0f} s"


def _failure(run: "asyncio.Future[None]") -> str | None:
    """Why a run ended before its shard was over; None if another has it now."""
    if run.cancelled():
        return "it was cancelled"
    error = run.exception()
    if error is None or isinstance(error, FencedError):
        return None
    return f"it ended: {error!r}"
