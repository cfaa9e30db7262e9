"""The summary of a batch in the Prefect UI: short markdown and tables."""

import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any, Final

from flows.dashboard.markdown import bare, safe, table
from flows.views import clock, counted, local_zone, moment
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


def summary_markdown(summary: Summary, batch_run: BatchRun) -> str:
    """Clips, rejects, doubts, money and time; and what the owner may want to do."""
    parts = [f"# {summary.batch}\n\n{_headline(summary)}"]
    parts.append(
        table(
            ["rows", "clips", "rejected", "unplayable", "in doubt", "pending"],
            [
                [
                    f"{summary.rows:,}",
                    f"{summary.published:,}",
                    f"{summary.rejected:,}",
                    f"{summary.unplayable:,}",
                    f"{summary.in_doubt:,}",
                    f"{summary.pending:,}",
                ]
            ],
            words=0,
        )
    )
    parts.append(
        table(
            ["bought in this run", "spent, USD", "time"],
            [[f"{summary.bought:,}", usd(summary.spent_usd), clock(summary.wall_s)]],
            words=0,
        )
    )
    parts += [
        f"{remark}."
        for remark in (late_warning(batch_run), *unusual(batch_run))
        if remark
    ]
    if summary.broken:
        rows = [[safe(why), f"{jobs:,}"] for why, jobs in summary.broken.items()]
        parts.append("## Broken off\n\n" + table(["why", "jobs"], rows))
    if summary.lanes_closed:
        closed = [[name, safe(why)] for name, why in summary.lanes_closed.items()]
        parts.append("## Lanes closed\n\n" + table(["lane", "why"], closed, words=2))
    if summary.lanes_dearer:
        dearer = [[name, safe(why)] for name, why in summary.lanes_dearer.items()]
        parts.append("## Lanes dearer\n\n" + table(["lane", "why"], dearer, words=2))
    if batch_run.plan.bad_rows:
        remark = f"{batch_run.plan.bad_rows:,} rows of the manifest are bad: see `nightreel-complaints`."
        parts.append(remark)
    without = summary.rejected, summary.unplayable, summary.in_doubt, summary.pending
    if any(without):
        parts.append(
            "Why rows have no clip is in `nightreel-wrong`, with the first rows of each."
        )
    if summary.in_doubt:
        parts.append("## In doubt\n\n" + _ask_about_it(batch_run))
    parts.append(f"Clips, tables and ledger are under `{bare(batch_run.wanted.root)}`.")
    return "\n\n".join(parts) + "\n"


def _headline(summary: Summary) -> str:
    if summary.fault is not None:
        return f"**Nightreel itself failed**: {safe(summary.fault)}."
    if summary.short_of == "lanes":
        return "**No lane is left**: mend what closed them, and run the batch again."
    if summary.short_of == "budget":
        return "**The budget is spent**: run the batch again with a larger one."
    if summary.too_many_rejected:
        return f"**Too many rejected**: {rejected_remark(summary)}."
    if summary.in_doubt:
        return (
            f"{_rows(summary.in_doubt)} in doubt: what was submitted may have been "
            "charged, so it is not sent again."
        )
    if summary.pending:
        return f"{_rows(summary.pending)} pending: run the batch again."
    if summary.unplayable:
        return (
            f"{_rows(summary.unplayable)} unplayable: a paid file is no clip. It is kept, "
            "and is not bought again."
        )
    return "Every row has its clip, or is rejected for good."


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"


def _ask_about_it(batch_run: BatchRun) -> str:
    return (
        f"`nightreel reconcile {bare(batch_run.wanted.root)}` asks the providers that can be "
        "asked and fetches what they have. The rest is yours to decide: `--resubmit` "
        "may pay a second time, `--write-off` gives it up."
    )
