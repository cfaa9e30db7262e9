"""Progress at the terminal: clips done, in flight by lane, money, time left."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.views.times import clock
from flows.views.troubles import told
from tasks.batch.batch import BatchRun

EVERY_S: Final = 0.25
EVERY_S_ON_PAPER: Final = 10.0
"""Seconds between lines if stderr is not a terminal, such as a file."""
LOGGED_EVERY_S: Final = 60.0

log = logging.getLogger(__name__)


async def show_progress(batch_run: BatchRun, console: Console) -> None:
    """Show a batch's progress until cancelled, and then its last state."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            await _every(EVERY_S, lambda: live.update(_drawn(batch_run), refresh=True))
    else:
        await _every(EVERY_S_ON_PAPER, lambda: console.print(_line(batch_run)))


async def log_progress(batch_run: BatchRun) -> None:
    """Log a batch's progress until cancelled."""

    def line() -> None:
        log.info(
            "batch.progress done=%d total=%d usd=%.2f %s",
            batch_run.done,
            batch_run.plan.jobs,
            batch_run.engine.tally.budget.spent_usd,
            _line(batch_run).plain,
        )

    await _every(LOGGED_EVERY_S, line)


async def _every(seconds: float, draw: Callable[[], None]) -> None:
    try:
        while True:
            draw()
            await asyncio.sleep(seconds)
    finally:
        draw()


def _drawn(batch_run: BatchRun) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        ProgressBar(
            total=max(1, batch_run.plan.jobs), completed=batch_run.done, width=32
        ),
        _line(batch_run),
    )
    lanes = Table.grid(padding=(0, 2))
    for lane in batch_run.engine.lanes.all:
        state = (
            "closed"
            if lane.closed
            else f"{batch_run.at_work(lane)} of {lane.limiter.slots} in flight"
        )
        lanes.add_row(
            Text(f"  {lane.name}", style="dim"), Text(state), lane.closed or ""
        )
    now = batch_run.world.today()
    troubles = [
        Text(f"  {told(trouble, now)}", "yellow") for trouble in batch_run.troubles
    ]
    return Group(grid, lanes, *troubles)


def _line(batch_run: BatchRun) -> Text:
    tally = batch_run.engine.tally
    parts = [
        f"{batch_run.done:,} of {batch_run.plan.jobs:,} done",
        f"{tally.budget.spent_usd:,.2f} USD",
        f"{clock(batch_run.elapsed_s)} gone",
    ]
    if halt := halt_reason(batch_run):
        parts.append(halt)
    elif (left := left_s(batch_run)) is not None:
        parts.append(f"{clock(left)} left")
    if places := ", ".join(trouble.place for trouble in batch_run.troubles):
        parts.append(f"trouble: {places}")
    return Text(", ".join(parts))


def halt_reason(batch_run: BatchRun) -> str | None:
    """Why buying is halted for now, or None."""
    if batch_run.engine.stopped is not None:
        return _stopped(batch_run)
    if batch_run.engine.paused:
        return "paused: `nightreel resume` goes on"
    return None


def _stopped(batch_run: BatchRun) -> str:
    """Describe a stop: it waits for answers that are due, and for clips nearly done."""
    words = "stopped: nothing more is bought"
    under_way = sum(map(batch_run.at_work, batch_run.engine.lanes.all))
    if not under_way:
        return words
    if left := batch_run.engine.follower.left_s:
        return f"{words}; waits up to {left:.0f} s for {under_way:,} under way"
    return f"{words}; records {under_way:,} under way"


def left_s(batch_run: BatchRun) -> float | None:
    """Seconds left at the pace so far; None if there is no pace yet or nothing left."""
    tally = batch_run.engine.tally
    ended = tally.published + tally.rejected + tally.unplayable
    to_go = (
        batch_run.plan.jobs - batch_run.done - len(batch_run.engine.tally.waiting_jobs)
    )
    # One clip is not enough to measure a pace.
    if ended < 2 or to_go <= 0:
        return None
    return batch_run.elapsed_s * to_go / ended
