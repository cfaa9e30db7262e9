"""Remarks about a batch, and tables of bad rows and doubts, for the Prefect UI."""

import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any, Final

from flows.views import counted, local_zone, moment
from manifests.input import ManifestError, Plan
from tasks.batch.batch import BatchRun
from tasks.batch.request import BadRowsError
from tasks.batch.summary import Summary
from tasks.dispatch import usd
from tasks.reconcile import DoubtLine

SHOWN: Final = 500
"""Rows of a table artifact: the Parquet table beside the clips has them all."""


def complaints_table(plan: Plan) -> list[dict[str, Any]]:
    """The first bad rows of a manifest."""
    return [
        {
            "row": complaint.row,
            "column": complaint.column,
            "value": complaint.value,
            "reason": complaint.reason,
        }
        for complaint in islice(plan.faults, SHOWN)
    ]


def refused_table(refusal: ManifestError) -> list[dict[str, Any]]:
    """Why a manifest is refused: its first bad rows, or the lines of the error."""
    if isinstance(refusal, BadRowsError):
        return complaints_table(refusal.plan)
    return [{"reason": line.strip()} for line in str(refusal).splitlines()]


def doubts_rows(doubts: Sequence[DoubtLine]) -> list[dict[str, Any]]:
    """The oldest doubts."""
    return [
        {
            "job": doubt.job,
            "lane": doubt.lane,
            "hours": round(doubt.age_s / 3600, 1),
            "usd": usd(doubt.price_usd),
            "can be asked": "yes" if doubt.askable else "no",
            "why": doubt.reason,
        }
        for doubt in sorted(doubts, key=lambda doubt: -doubt.age_s)[:SHOWN]
    ]


def late_warning(batch_run: BatchRun) -> str | None:
    """A warning if the batch will probably miss its deadline."""
    wanted = batch_run.wanted.finish_at
    if not batch_run.late or wanted is None:
        return None
    zone = local_zone()
    by = moment(datetime.fromtimestamp(wanted, zone), datetime.now(zone))
    clips = "1 clip" if batch_run.plan.jobs == 1 else f"{batch_run.plan.jobs:,} clips"
    return (
        f"{batch_run.late:,} of {clips} cannot be done by {by}, reckoned at the start"
    )


def unusual(batch_run: BatchRun) -> Iterator[str]:
    """Remarks about unusual costs."""
    tally = batch_run.engine.tally
    if fetched := tally.fetched:
        yield f"{counted(fetched, 'clip')} that other batches bought fetched"
    if expired := tally.expired:
        yield f"{counted(expired, 'clip')} paid for and lost: expired at the provider"
    if gone := batch_run.summary().gone:
        clips = counted(gone, "clip")
        verb = "is" if gone == 1 else "are"
        root = shlex.quote(batch_run.wanted.root)
        yield (
            f"{clips} {verb} gone from the store: `nightreel verify {root} --fetch` says "
            "why; another `take` of a row buys it again"
        )
    risked = sum(
        (lane.risk.spent_usd for lane in batch_run.engine.lanes.all), Decimal(0)
    )
    if risked:
        yield f"{usd(risked)} USD risked on doubts"


def rejected_remark(summary: Summary) -> str:
    """The share of the rows that was rejected, and where the reasons are."""
    share = f"{summary.rejected:,} of {counted(summary.rows, 'row')}"
    return f"{share} rejected, more than `max_rejected` allows: the table of clips says why"
