"""The engine: takes every job of a batch to its end, or to where it must wait.

A stop is not a cancellation: the engine waits for a submit under way and records its answer,
because a request that we cut off is a doubt that we made. A pause is neither: the engine still
polls and fetches what was bought.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from manifests.jobs import Order
from manifests.lifecycle import (
    Accepted,
    Discarded,
    Doubted,
    Event,
    Forgotten,
    History,
    Parked,
    Refused,
    Rejected,
    Risked,
    State,
)
from storage.ledger import FencedError
from storage.objects import StorageError
from tasks.engine.download import OnPublished
from tasks.engine.environment import Deps, Rules
from tasks.engine.in_doubt import Doubts, in_doubt
from tasks.engine.job import JobRunner
from tasks.engine.job_run import JobRun
from tasks.engine.own_faults import park
from tasks.engine.recover import Fetcher
from tasks.engine.refetch import Refetcher
from tasks.engine.stats import UNANSWERED, Tally, WaitReason
from tasks.engine.steps import AtProvider
from tasks.engine.trouble import LANELESS, Stage

__all__ = ["Engine", "Rules"]

log = logging.getLogger(__name__)

SPARE_WORKERS: Final = 16
"""Workers beyond two for each slot. While one job is at a provider, the next one hands over
its still and waits for its slot. Others fetch clips."""


class Engine:
    """Runs jobs on lanes, against one ledger."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps
        self.lanes = deps.lanes
        self.router = deps.router
        self.tally = Tally(deps.budget)
        self.tally.faults.recall(deps.ledger.lives.values())
        self.stopped: str | None = None
        self.paused = False
        self._ledger = deps.ledger
        self._now = deps.world.now
        self._grace_s = deps.rules.grace_s
        self._beside = list[Engine]()
        self.follower = deps.follower
        self.troubles = deps.troubles
        self.refetcher = Refetcher(deps, self.record, self._park_paid, self._ended_late)
        self._runner = JobRunner(deps, self.tally, self.record, self.refetcher)
        self.doubts = Doubts(deps, self.record)
        self.doubts.meet(in_doubt(deps.ledger.lives, [*deps.ledger.lives]))
        self.rebuy_ids = set[str]()
        """Jobs that were in doubt and are to be bought again."""
        self._fatal: Exception | None = None

    @property
    def done_buying(self) -> WaitReason | None:
        """Why no job can be bought any more, or None."""
        if self.stopped is not None:
            return WaitReason.STOPPED
        if not self.lanes.open:
            return WaitReason.FAULT if self.tally.faults.stopped else WaitReason.NO_LANE
        if self.tally.budget.may_grow:
            return None
        prices = (min(lane.route.prices_usd.values()) for lane in self.lanes.open)
        return None if self.tally.budget.affords(min(prices)) else WaitReason.BUDGET

    def on_published(self, call: OnPublished) -> None:
        """Call `call` with each clip that is published."""
        self.deps.publisher.on_published = call

    def pause(self, *, paused: bool) -> None:
        """Buy nothing while paused; clips already bought are still fetched."""
        if paused is not self.paused:
            if paused:
                log.warning("batch.paused nothing is bought until `nightreel resume`")
            else:
                log.warning("batch.resumed buying goes on")
            self.paused = paused
            self.lanes.pause(paused=paused)

    def stop(self, why: str) -> None:
        """Buy nothing more; finish what is under way only as far as a safe state."""
        self.end_within(0.0, why)

    def wind_down(self, why: str) -> None:
        """Buy nothing more, and wait `grace_s` seconds for clips that should finish by then."""
        log.warning(
            "batch.stopping within_s=%g nothing more is bought: %s", self._grace_s, why
        )
        self.end_within(self._grace_s, why)

    def end_within(self, seconds: float, why: str) -> None:
        """Buy nothing more, and wait `seconds` for clips that should finish by then."""
        self.stopped = self.stopped or why
        self.follower.stop(within_s=seconds)
        self.lanes.stop()
        for other in self._beside:
            other.end_within(seconds, why)

    @contextmanager
    def stops(self, other: "Engine") -> Generator[None]:
        """While the block lasts, a stop of this engine stops the other, too."""
        self._beside.append(other)
        try:
            if self.stopped is not None:
                other.stop(self.stopped)
            yield
        finally:
            self._beside.remove(other)

    async def run(self, orders: Iterable[Order]) -> None:
        """Take every job to its end, or to where it must wait for another run.

        Raises:
            FencedError, StorageError: nothing can be recorded any more.
        """
        coming = iter(orders)
        # A slot that an earlier run's caution took may be won back before the end.
        slots = sum(max(x.limits.slots, x.limiter.slots) for x in self.lanes.all)
        # Only for this call: its stills are gone when it ends, and `settle_doubts` follows.
        doubtful = deque[tuple[float, Order]]()
        work = asyncio.gather(
            *(self._work(coming, doubtful) for _ in range(SPARE_WORKERS + 2 * slots))
        )
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self.stop("cancelled")
            await work
            raise
        if self._fatal is not None:
            raise self._fatal

    async def _work(
        self, coming: Iterator[Order], doubtful: deque[tuple[float, Order]]
    ) -> None:
        while (order := self._due(doubtful) or next(coming, None)) is not None:
            try:
                await self._process_or_park(order, doubtful)
            except (FencedError, StorageError) as exc:
                self._fatal = self._fatal or exc
                self.stop(str(exc))

    async def _process_or_park(
        self, order: Order, doubtful: deque[tuple[float, Order]]
    ) -> None:
        """Take a job to its end; park it if our own code fails, and continue with others."""
        job = order.job.id
        try:
            await self._process(order, doubtful)
        except (FencedError, StorageError):
            raise
        except Exception as exc:
            log.exception("job.broken job=%s the next run tries it again", job)
            await self._park_paid(job, exc)

    async def _park_paid(self, job: str, error: Exception) -> None:
        reason = await park(job, error, self._ledger.history(job), self.record)
        self.tally.set_waiting(job, WaitReason.BROKEN, reason)

    def _ended_late(self, job: AtProvider, event: Event) -> None:
        """Count a job whose clip was fetched, or given up, after its worker had left it."""
        self.tally.waiting_jobs.pop(job.job_id, None)
        self._runner.count_spoiled(job, event)
        if isinstance(event, Discarded | Forgotten):
            # Its still may be gone from this machine, so it is read again.
            self.rebuy_ids.add(job.job_id)

    def _due(self, doubtful: deque[tuple[float, Order]]) -> Order | None:
        """The next job in doubt whose provider may be asked now, if any."""
        if doubtful and doubtful[0][0] <= self._now():
            return doubtful.popleft()[1]
        return None

    async def _process(
        self, order: Order, doubtful: deque[tuple[float, Order]]
    ) -> None:
        """Take a job to its end; settle it first if it is in doubt and its provider can tell."""
        job = order.job.id
        if job in self.tally.waiting_jobs:
            doubt = {job: self._ledger.history(job)}
            found = await self.doubts.asked(doubt)
            if job not in found and await self.doubts.release_unpaid(doubt):
                self.rebuy_ids.add(job)
            if isinstance(found.get(job), Refused):
                # Its still may be gone from this machine, so it is read again.
                self.rebuy_ids.add(job)
            if not isinstance(found.get(job), Accepted):
                return
            del self.tally.waiting_jobs[job]
        history = await self.advance(order)
        if history.state is State.IN_DOUBT and self.doubts.askable(history):
            due_s = self.doubts.due_in_s(job, history)
            doubtful.append((self._now() + due_s, order))

    async def advance(self, order: Order) -> History:
        """Take a job from the state that its history left it in, to an end."""
        run = JobRun(order, self.lanes, self.router.able(order))
        history = await self._runner.run(run)
        if history.state is State.IN_DOUBT:
            self._note_doubt(order.job.id, history)
        return history

    def _note_doubt(self, job: str, history: History) -> None:
        if self.doubts.askable(history):
            wait_s = self.doubts.due_in_s(job, history)
            how = f"the provider is asked about it within {wait_s:.0f} s"
        else:
            how = "no provider can be asked about it, see `nightreel reconcile`"
        reason = f"{history.reason or UNANSWERED}; {how}"
        self.troubles.failed(history.lane or LANELESS, Stage.DOUBT, reason, job)

    def look_for_trouble(self) -> None:
        """Find the lanes that stand still, and whether the store is away."""
        self.deps.standstills.look()
        if (outage := self.deps.objects.outage) is None:
            self.troubles.succeeded(LANELESS, Stage.STORE)
        else:
            self.troubles.observed(
                LANELESS,
                Stage.STORE,
                outage.reason,
                count=outage.waiting,
                for_s=outage.for_s,
            )

    @asynccontextmanager
    async def fetching(self) -> AsyncGenerator[Fetcher]:
        """Make the fetcher of clips that other batches bought, whose money does not count here.

        Clips that it cannot fetch are asked for again while the block lasts.
        """
        record, park = self._record_for_others, self._park_for_others
        refetcher = Refetcher(self.deps, record, park)
        async with refetcher.running():
            yield Fetcher(self.deps, record, park, refetcher)
            await refetcher.ask_last()

    async def _record_for_others(self, key: str, event: Event) -> None:
        before = self._ledger.history(key)
        _, history = await self._ledger.record(key, event)
        self.tally.count_other(event, history)
        self.deps.charges.heed(key, event, before)
        self._heed(event)

    async def _park_for_others(self, key: str, error: Exception) -> None:
        history = self._ledger.history(key)
        reason = await park(key, error, history, self._record_for_others)
        self.tally.parked[reason] += 1

    async def record(self, key: str, event: Event) -> None:
        """Record an event, and count it."""
        before = self._ledger.history(key)
        entry, history = await self._ledger.record(key, event)
        if isinstance(event, Accepted):
            self.doubts.learn(history)
        if isinstance(event, Accepted | Refused | Rejected | Risked):
            self.troubles.succeeded(before.lane or LANELESS, Stage.DOUBT, key)
        self.tally.count(entry, history)
        self.deps.charges.heed(key, event, before)
        self._heed(event)

    def _heed(self, event: Event) -> None:
        if isinstance(event, Parked | Doubted):
            self.heed_faults()

    def heed_faults(self) -> None:
        """Close the lanes on which our own code failed too often in a row.

        Their clips are still fetched.
        """
        faults = self.tally.faults
        for lane in self.lanes.open:
            if (why := faults.why_stop(lane.name)) is not None:
                faults.stopped = faults.stopped or why
                self.lanes.close(lane, why)
