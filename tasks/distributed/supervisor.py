"""Starts the runs of one shard in other processes, until one of them has done it.

A run is over when it reports so. It is dead if it fails or is silent for too long. A dead run
is fenced out, its quotas are freed, and another run is started. After `TRIES` runs that died
at work, or `FAILED_STARTS` runs that never reported, the shard is given up.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from itertools import count
from typing import Final

from storage.backoff import backoff
from storage.ledger import SILENT_S, FencedError
from tasks.batch.batch import BatchRun
from tasks.distributed.mailbox import beat_s
from tasks.distributed.reports import ShardMonitor
from tasks.distributed.shard_status import ShardStatus
from tasks.engine.stats import WaitReason

TRIES: Final = 5
"""Runs of one shard that died at work, after which the shard is given up."""

FAILED_STARTS: Final = 12
"""Runs of one shard that machines could not do, after which it is given up. With the pauses
this takes over half an hour."""

PAUSE_S: Final = 5.0
"""The pause after the first such run, doubled after each next one, so that another machine
has a chance: a machine that fails at once is free again at once..."""
LONGEST_PAUSE_S: Final = 300.0
"""... and the longest pause."""

FIRST_REPORT_S: Final = 300.0
"""The longest time from a process's start to its first report: it may have much to read."""

BEATS: Final = 3.0
"""A run that reported within this many beats is alive, even if its runner says it failed."""

NEVER_STARTED: Final = "it was never begun"

Start = Callable[[int, int, Callable[[], None]], Awaitable[None]]
"""Runs a shard, given its number and the attempt; returns or raises when the run is over. It
calls the third argument, any number of times, once a process has started. A run may wait for
a worker for hours, but a started one reports soon or is dead."""

Run = asyncio.Future[None]

log = logging.getLogger(__name__)


class EndingRuns:
    """The runs that have been started, until their processes have ended."""

    def __init__(self) -> None:
        self._runs = set[Run]()

    def add(self, run: Run) -> None:
        """Wait for this run, too, when the batch ends."""
        self._runs.add(run)
        run.add_done_callback(self._remove)

    def _remove(self, run: Run) -> None:
        self._runs.discard(run)
        if not run.cancelled():
            # Retrieve the exception of a run that is no longer waited for.
            run.exception()

    async def close(self) -> None:
        """Wait a minute for the runs that are ending, then cancel them."""
        if self._runs:
            _, late = await asyncio.wait(self._runs, timeout=60.0)
            for run in late:
                run.cancel()
            await asyncio.gather(*late, return_exceptions=True)


class ShardSupervisor:
    """Starts runs of one shard, one after another, until one has done it."""

    def __init__(  # noqa: PLR0913 - the parts of a shard's run, each named once
        self,
        batch_run: BatchRun,
        number: int,
        *,
        status: ShardStatus,
        monitor: ShardMonitor,
        start: Start,
        ending: EndingRuns,
    ) -> None:
        self._engine = batch_run.engine
        self._world = batch_run.world
        self._objects = batch_run.world.objects(batch_run.wanted.root)
        self._beat_s = beat_s(self._objects)
        self._number = number
        self._status = status
        self._monitor = monitor
        self._start = start
        self._ending = ending

    async def run(self, end_run: Callable[[], Awaitable[None]]) -> str:
        """Run the shard; return why its last run ended. `status.done` tells if it is done.

        `end_run` fences out a dead run and frees its quotas.
        """
        reason, died, failed_starts, status = NEVER_STARTED, 0, 0, self._status
        for attempt in count(1):
            status.started = status.done = False
            if self._engine.stopped is not None:
                break
            before = status.generation
            start = self._start(self._number, attempt, status.mark_started)
            with self._warning_if_not_started():
                reason = await self._until_over(asyncio.ensure_future(start))
            if status.done and not (reason := self._broken_off()):
                break
            log.warning(
                "shard.died shard=%d attempt=%d its run ended early: %s",
                self._number,
                attempt,
                reason,
            )
            await end_run()
            if status.generation > before and not (status.done and self._closed_lane()):
                died += 1
                if died == TRIES:
                    break
            else:
                failed_starts += 1
                if self._is_given_up(failed_starts):
                    break
                await self._pause(failed_starts)
        return reason

    def _is_given_up(self, failed_starts: int) -> bool:
        """Whether to give the shard up after this number of runs that never did anything.

        At once, if another shard was given up for that and no run has reported since.
        """
        none_since = self._monitor.reported_at < self._monitor.gave_up_at
        if failed_starts >= FAILED_STARTS:
            self._monitor.gave_up_at = self._world.now()
        return none_since or failed_starts >= FAILED_STARTS

    async def _pause(self, failed_starts: int) -> None:
        """Wait, so that another machine than the one that just failed can take the shard."""
        loop = asyncio.get_running_loop()
        pause = backoff(failed_starts, PAUSE_S, LONGEST_PAUSE_S)
        until = loop.time() + pause
        while (left := until - loop.time()) > 0:
            # A stop of the batch reaches only its engine, so check that.
            if self._engine.stopped is not None:
                break
            await asyncio.sleep(min(1.0, left))

    async def _until_over(self, run: Run) -> str:
        """Wait until the run reports that it is done, or is dead; return why, in words."""
        status, superseded, failure = self._status, False, None
        before = status.generation
        self._ending.add(run)
        try:
            while not status.done:
                await self._report_or_end(run)
                if run.done():
                    read = self._monitor.read_reports
                    await self._objects.outlast_refusals(read, self._number)
                    failure = _failure(run)
                    run = asyncio.get_running_loop().create_future()
                    if failure is None:
                        # It was fenced out: its successor has the shard, and reports.
                        superseded = True
                        continue
                has_reported = superseded or status.generation > before
                if failure is not None and not (has_reported and self._is_alive()):
                    return failure
                if why := self._dead(has_reported=has_reported):
                    run.cancel()
                    return why
        except asyncio.CancelledError:
            run.cancel()
            raise
        return "done"

    async def _report_or_end(self, run: Run) -> None:
        """Wait for a second at most, for a report of the shard or the end of the run."""
        self._status.reported.clear()
        report = asyncio.ensure_future(self._status.reported.wait())
        first = asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait({run, report}, timeout=1.0, return_when=first)
        finally:
            report.cancel()
        if self._monitor.failed is not None:
            raise self._monitor.failed

    @contextmanager
    def _warning_if_not_started(self) -> Generator[None]:
        """Log a warning if no worker starts the shard for a minute: it may never start."""
        before = self._status.generation

        def warn() -> None:
            if self._status.generation == before:
                log.warning(
                    "shard.waits shard=%d waited_s=%.0f no worker has started it",
                    self._number,
                    SILENT_S,
                )

        timer = asyncio.get_running_loop().call_later(SILENT_S, warn)
        try:
            yield
        finally:
            timer.cancel()

    def _is_alive(self) -> bool:
        """Whether the run still reports, even if its runner says that it failed."""
        return self._status.silent_s <= BEATS * self._beat_s

    def _dead(self, *, has_reported: bool) -> str | None:
        """Why the run counts as dead, if it does."""
        if not has_reported:
            stopped = self._engine.stopped is not None
            return _never_reported(self._status) or (NEVER_STARTED if stopped else None)
        status = self._status
        if status.silent_s > SILENT_S:
            return f"nothing heard of it for {status.silent_s:.0f} s"
        if status.report is not None and status.report.by.is_gone():
            return "its process is gone"
        return None

    def _broken_off(self) -> str:
        """Why a run that left in good order left jobs that others can do, if it did.

        For example, its machine was drained, or it closed a lane for itself.
        """
        report = self._status.report
        if self._engine.stopped is not None or report is None:
            return ""
        whys = {WaitReason.STOPPED}
        if self._closed_lane():
            whys |= {WaitReason.NO_LANE, WaitReason.UNFINISHED}
        waiting_jobs = report.waiting_jobs.values()
        return next(
            (waiting.reason for waiting in waiting_jobs if waiting.why in whys), ""
        )

    def _closed_lane(self) -> bool:
        """Whether its latest run closed a lane for itself that others can still use."""
        report = self._status.report
        return report is not None and any(
            lane.name in report.closed_here for lane in self._engine.lanes.open
        )


def _never_reported(status: ShardStatus) -> str | None:
    """Why a run that has never reported counts as dead, if it does."""
    if not status.started or status.silent_s < FIRST_REPORT_S:
        return None
    return f"it has begun, and nothing was heard of it for {status.silent_s:.0f} s"


def _failure(run: Run) -> str | None:
    """Why a run ended before its shard was over; None if another run has it now."""
    if run.cancelled():
        return "it was cancelled"
    error = run.exception()
    if error is None or isinstance(error, FencedError):
        return None
    return f"it ended: {error!r}"
