"""The batch's side of shards that run in other processes and share its quotas.

All messages go through the root's store, so any process that reaches the store can run a
shard. The batch starts runs, and starts another if one dies. Its `table` hears all reports,
counts them, and grants quotas.
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
from storage import checksum
from storage.ledger import SILENT_S, FencedError
from storage.objects import RefusedError
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
"""Runs of one shard that died at work, after which the shard is given up."""

IN_VAIN: Final = 12
"""Runs of one shard that machines could not do, after which it is given up. With the pauses
this takes over half an hour."""

PAUSE_S: Final = 5.0
"""The pause after the first such run, doubled after each next one, so that another machine
has a chance: a machine that fails at once is free again at once..."""
LONGEST_PAUSE_S: Final = 300.0
"""... and the longest pause."""

REFUSED_S: Final = 60.0
"""How long the store may refuse requests: the renewal of a key does not end a batch."""

FIRST_WORD_S: Final = 300.0
"""The longest time from a process's start to its first report: it may have much to read."""

BEATS: Final = 3.0
"""A run heard within this many beats is alive, even if it is reported as failed."""

Start = Callable[[int, int, Callable[[], None]], Awaitable[None]]
"""Runs a shard, given its number and the attempt; returns or raises when the run is over. It
calls the third argument, any number of times, once a process has started. A run may wait for
a worker for hours, but a started one reports soon or is dead."""

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
    """Run the night's shards in other processes for the length of the block."""
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
    """Runs the shards of a batch in other processes."""

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
        """Run these jobs of the plan to their ends; return their ids.

        Raises:
            FencedError, StorageError: nothing can be recorded any more.
        """
        jobs = ids(shard)
        await self._allowed(self._give, number, shard, jobs)
        seat = self.table.seat(number)
        try:
            await self._run(number, seat, jobs)
        except asyncio.CancelledError:
            self._night.engine.stop("cancelled")
            raise
        finally:
            self._left -= 1
            await self._over(number, seat)
        return jobs

    def held(self, account: str) -> int:
        """How many of an account's slots are in use, by the latest reports."""
        return self.table.held(account)

    async def mend(self) -> None:
        """Settle the jobs that shards left in doubt.

        Record what their runs could not record, and take the risks that the owner allows.
        """
        risky = any(lane.risk_usd for lane in self._lanes.all)
        if not risky and not await self._allowed(self._ledger.has_uploaded_spill):
            return
        for account, limiter in {x.account: x.limiter for x in self._lanes.all}.items():
            # The latest submits of the shards count for the present minute.
            limiter.others_sent(self.table.lately(account))
        doubts = in_doubt(self._ledger.lives, [*self._ledger.lives])
        few = keys(doubts)
        for number in self._night.shards:
            shard = self._night.sliced(number)
            if self._night.engine.stopped is None and held(shard, few).height:
                await self._mend(number, shard)

    async def _mend(self, number: int, shard: pl.DataFrame) -> None:
        # The records of its earlier runs were heard when these were over.
        known = 1 + await self._ledger.shut_out_shard(number)
        jobs = ids(shard)
        await self._give(number, shard, jobs)
        seat = self.table.seat(number, known, runs_here=True)
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
                night.engine.again |= night.ledger.recovered
                with self._night.engine.stops(night.engine):
                    await night.mend()
                for job in jobs:
                    if night.ledger.history(job).state in OVER:
                        self._tally.resting.pop(job, None)
                self._rest(night.engine.tally.resting)
        except FencedError as error:
            # Another run has just started the shard: its doubts stay.
            log.warning(
                "shard.not_settled shard=%d another run has it, its doubts stay: %s",
                number,
                error,
            )
        finally:
            await self._over(number, seat)

    async def _give(self, number: int, shard: pl.DataFrame, jobs: list[str]) -> None:
        wanted, today = self._night.wanted, self._world.today()
        finish_at = wanted.finish_at
        if finish_at is not None:
            # Its part of the remaining time, because other shards wait for its place.
            part = min(1.0, self._at_once / max(1, self._left))
            finish_at = today + (finish_at - today) * part
        if number not in self._before:
            known = {job: self._ledger.history(job) for job in jobs}
            self._before[number] = {
                job: history for job, history in known.items() if history != NEW
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

    async def _run(self, number: int, seat: Seated, jobs: list[str]) -> None:
        reason, died, in_vain = "it was never begun", 0, 0
        for attempt in count(1):
            seat.begun = seat.done = False
            if self._night.engine.stopped is not None:
                break
            was = seat.generation
            run = asyncio.ensure_future(self.start(number, attempt, seat.begin))
            with self._told_of_waiting(number, seat):
                reason = await self._until_over(number, seat, run)
            if seat.done and not (reason := self._broken_off(seat)):
                return
            log.warning(
                "shard.died shard=%d attempt=%d its run ended early: %s",
                number,
                attempt,
                reason,
            )
            await self._allowed(self._refuse_if_fenced)
            await self._allowed(self._shut_out, number, jobs)
            if seat.generation > was and not (seat.done and self._closed_alone(seat)):
                died += 1
                if died == TRIES:
                    break
            else:
                in_vain += 1
                if self._is_vain(in_vain):
                    break
                await self._pause(in_vain)
        if not seat.done:
            # A run that left in good order has reported the reasons itself.
            self._put_aside(jobs, reason)

    def _put_aside(self, jobs: list[str], reason: str) -> None:
        for job in jobs:
            if self._ledger.history(job).state not in OVER:
                why = self._night.engine.stopped
                rest = Rest(Why.STOPPED, why) if why else Rest(Why.BROKEN, reason)
                self._tally.resting[job] = rest

    def _is_vain(self, times: int) -> bool:
        """Whether to give a shard up after `times` runs in vain.

        At once, if another shard was given up for that and no run was heard since.
        """
        nobody = self.table.heard_at < self._gave_up_at
        if times >= IN_VAIN:
            self._gave_up_at = self._world.now()
        return nobody or times >= IN_VAIN

    async def _pause(self, nth: int) -> None:
        """Wait, so that another machine than the one that just failed can take the shard."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(LONGEST_PAUSE_S, PAUSE_S * 2 ** (nth - 1))
        while (left := until - loop.time()) > 0:
            # A stop of the batch reaches only its engine, so check that.
            if self._night.engine.stopped is not None:
                break
            await asyncio.sleep(min(1.0, left))

    def _closed_alone(self, seat: Seated) -> bool:
        """Whether its latest run closed a lane for itself that others can still use."""
        report = seat.report
        return report is not None and any(
            lane.name in report.closed_here for lane in self._lanes.open
        )

    async def _until_over(
        self, number: int, seat: Seated, run: "asyncio.Future[None]"
    ) -> str:
        """Wait until the run reports that it is done, or is dead; return why, in words."""
        was, superseded, failure = seat.generation, False, None
        self._ending.add(run)
        run.add_done_callback(self._ended)
        try:
            while not seat.done:
                seat.spoke.clear()
                heard = asyncio.ensure_future(seat.spoke.wait())
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
                        # It was fenced out: its successor has the shard, and is heard.
                        superseded = True
                        continue
                has_spoken = superseded or seat.generation > was
                if failure is not None and not (has_spoken and self._beats(seat)):
                    return failure
                why = self._dead(seat) if has_spoken else _never_heard(seat)
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
            # Retrieve the exception of a run that is no longer waited for.
            run.exception()

    @contextmanager
    def _told_of_waiting(self, number: int, seat: Seated) -> Generator[None]:
        """Log a warning if no worker starts the shard for a minute: it may never start."""
        was = seat.generation

        def tell() -> None:
            if seat.generation == was:
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

    def _beats(self, seat: Seated) -> bool:
        """Whether the run is alive, even if its runner reports that it failed."""
        return seat.silent_s <= BEATS * beat_s(self._objects)

    def _dead(self, seat: Seated) -> str | None:
        """Why a run that was heard before counts as dead, if it does."""
        if seat.silent_s > SILENT_S:
            return f"nothing heard of it for {seat.silent_s:.0f} s"
        if seat.report is not None and seat.report.by.is_gone():
            return "its process is gone"
        return None

    def _broken_off(self, seat: Seated) -> str:
        """Why a run that left in good order left jobs that others can do, if it did.

        For example, its machine was drained, or it closed a lane for itself.
        """
        if self._night.engine.stopped is not None or seat.report is None:
            return ""
        whys = {Why.STOPPED}
        if self._closed_alone(seat):
            whys |= {Why.NO_LANE, Why.UNFINISHED}
        resting = seat.report.resting.values()
        return next((rest.reason for rest in resting if rest.why in whys), "")

    async def _allowed(
        self, what: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Repeat a call that the store refuses, for up to `REFUSED_S`.

        Raises:
            StorageError: the store still refuses.
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
        """Free the quotas of a dead run.

        Otherwise its successor may wait for a place that others hold, who wait for these.
        """
        await self.table.shut_out(
            number,
            slots_s=max(SEND_WITHIN_S, 2 * self._typical_s()),
            held=partial(self._in_flight, jobs),
        )

    def _typical_s(self) -> float:
        """How long a job takes on the slowest lane, by the best knowledge available."""
        known = self._ledger.latencies
        told = {x.name: sorted(known.get(x.name, ())) for x in self._lanes.all}
        return max(
            took[len(took) // 2] if (took := told[x.name]) else x.typical_s()
            for x in self._lanes.all
        )

    def _in_flight(self, jobs: list[str]) -> Counter[str]:
        """By quota: how many of these jobs may be at work at their providers."""
        accounts = {lane.name: lane.account for lane in self._lanes.all}
        histories = map(self._ledger.history, jobs)
        at_work = {State.ACCEPTED, State.IN_DOUBT}
        return Counter(
            mailbox.slots_of(accounts[one.lane])
            for one in histories
            if one.state in at_work and one.lane in accounts
        )

    async def _refuse_if_fenced(self) -> None:
        if await self._ledger.has_successor():
            raise FencedError(f"{self._objects.root}: a later batch has taken over")

    async def _over(self, number: int, seat: Seated) -> None:
        """Close a shard that no run has any more, and count the records of all its runs."""
        batch, allowed = self._ledger.batch, self._allowed
        await allowed(mailbox.withdraw, self._objects, batch, number)
        last = await allowed(self._ledger.shut_out_shard, number)
        await allowed(self.table.leave, number, last + 1, slots_s=self._typical_s())
        if seat.report is not None and seat.done:
            self._rest(seat.report.resting)
            self._tally.passed_over |= {*seat.report.passed_over}
        told = await allowed(mailbox.hands, self._objects, batch)
        for key in told.get(number, []):
            await allowed(self._objects.delete, key)

    def _rest(self, resting: Mapping[str, Rest]) -> None:
        for job, rest in resting.items():
            self._tally.resting[job] = rest

    async def close(self) -> None:
        """Wait for the runs that are ending, and delete all messages."""
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=60.0)
            for run in late:
                run.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await mailbox.clear(self._objects, self._ledger.batch)


def _never_heard(seat: Seated) -> str | None:
    """Why a run that was never heard counts as dead, if it does."""
    if not seat.begun or seat.silent_s < FIRST_WORD_S:
        return None
    return f"it has begun, and nothing was heard of it for {seat.silent_s:.0f} s"


def _failure(run: "asyncio.Future[None]") -> str | None:
    """Why a run ended before its shard was over; None if another run has it now."""
    if run.cancelled():
        return "it was cancelled"
    error = run.exception()
    if error is None or isinstance(error, FencedError):
        return None
    return f"it ended: {error!r}"
