"""Writes the report of a running batch, which `nightreel status` shows."""

import asyncio
import logging
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict
from typing import Any, Final

from storage import run_reports
from tasks.alongside import background
from tasks.batch.batch import BatchRun
from tasks.batch.row_states import ReasonGroup

LOOK_S: Final = 10.0
"""The time between two looks; a report with news is written at once."""

REWRITE_S: Final = 30.0
"""The time after which a report is written again although only its time is new."""

COUNTED: Final = 50_000
"""The most jobs of a batch whose reasons and purchases are counted while it runs."""

GROUPS: Final = 50
"""Reasons in a report, the commonest first."""

NEWS: Final = ("troubles", "waiting", "stopped")
"""The fields whose changes are written at once."""

log = logging.getLogger(__name__)


def reported(batch_run: BatchRun) -> AbstractAsyncContextManager[None]:
    """Keep the report of the batch up to date for the length of the block."""
    return background(_keep_writing(batch_run))


async def write_last(batch_run: BatchRun) -> None:
    """Write the report of a batch that is over."""
    with _told_only():
        await _write(batch_run, report_of(batch_run, over=True))


def report_of(batch_run: BatchRun, *, over: bool = False) -> dict[str, Any]:
    """The state of the batch at this moment, as JSON values.

    While a large batch runs, `never_bought` is null and no job is counted as waiting.
    """
    counted = over or batch_run.plan.jobs <= COUNTED
    groups: list[ReasonGroup] = []
    if counted:
        why = batch_run.without_clip() if over else batch_run.put_aside()
        groups = why.groups()[:GROUPS]
    return {
        "batch": batch_run.batch,
        "manifest": batch_run.plan.uri,
        "at": batch_run.world.today(),
        "over": over,
        "stopped": batch_run.engine.stopped,
        "jobs": batch_run.plan.jobs,
        "done": batch_run.done,
        "never_bought": batch_run.never_bought if counted else None,
        "troubles": [asdict(trouble) for trouble in batch_run.troubles],
        "waiting": [asdict(group) for group in groups],
    }


async def _keep_writing(batch_run: BatchRun) -> None:
    now = batch_run.world.now
    written: dict[str, Any] = {}
    written_at = 0.0
    while True:
        with _told_only():
            report = report_of(batch_run)
            news = any(report[name] != written.get(name) for name in NEWS)
            if not written or news or now() - written_at >= REWRITE_S:
                await _write(batch_run, report)
                written, written_at = report, now()
        await asyncio.sleep(LOOK_S)


async def _write(batch_run: BatchRun, report: dict[str, Any]) -> None:
    await run_reports.put(batch_run.engine.deps.objects, batch_run.batch, report)


@contextmanager
def _told_only() -> Generator[None]:
    """Log an error: a missing report must not end the batch."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the batch goes on
        log.warning(
            "batch.not_reported `nightreel status` shows an older report: %r", error
        )
