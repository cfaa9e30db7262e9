"""What a batch says of itself in the Prefect UI: markdown and tables, short and true."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any, Final

from flows.clock import Local, moment
from manifests.jobs import unsigned
from manifests.reading import ManifestError, Plan
from tasks.checkup import usd
from tasks.night import Night
from tasks.reconciling import DoubtLine
from tasks.summary import Summary
from tasks.wanted import BadRowsError

REASONS: Final = 20
"""Reasons that a summary lists, the commonest first."""

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
    """Why a manifest is refused: its first bad rows, or all that is said of it."""
    if isinstance(refusal, BadRowsError):
        return complaints_table(refusal.plan)
    return [{"reason": said.strip()} for said in str(refusal).splitlines()]


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


def late(night: Night) -> str | None:
    """That not all will be there by the time that was asked for, where it looks so."""
    wanted = night.wanted.finish_at
    if not night.late or wanted is None:
        return None
    zone = Local()
    by = moment(datetime.fromtimestamp(wanted, zone), datetime.now(zone))
    clips = "1 clip" if night.plan.jobs == 1 else f"{night.plan.jobs:,} clips"
    return f"{night.late:,} of {clips} cannot be done by {by}, reckoned at the start"


def unusual(night: Night) -> Iterator[str]:
    """What of the money went where it seldom goes."""
    tally = night.engine.tally
    if fetched := tally.fetched:
        yield f"{_clips(fetched)} that other batches bought fetched"
    if expired := tally.expired:
        yield f"{_clips(expired)} paid for and lost: expired at the provider"
    if hedged := tally.hedged:
        yield f"{hedged:,} bought a second time, to be in time"
    risked = sum((lane.risk.spent_usd for lane in night.engine.lanes.all), Decimal(0))
    if risked:
        yield f"{usd(risked)} USD risked on doubts"


def summary_markdown(summary: Summary, night: Night) -> str:
    """Clips, rejects, doubts, money and time; and what the owner may want to do."""
    parts = [f"# {summary.batch}\n\n{_headline(summary)}"]
    parts.append(
        _table(
            ["rows", "clips", "rejected", "in doubt", "pending"],
            [
                [
                    f"{summary.rows:,}",
                    f"{summary.published:,}",
                    f"{summary.rejected:,}",
                    f"{summary.in_doubt:,}",
                    f"{summary.pending:,}",
                ]
            ],
        )
    )
    parts.append(
        _table(
            ["bought in this run", "spent, USD", "time"],
            [[f"{summary.bought:,}", usd(summary.spent_usd), clock(summary)]],
        )
    )
    parts += [f"{said}." for said in (late(night), *unusual(night)) if said]
    if summary.lanes_closed:
        closed = [[name, _safe(why)] for name, why in summary.lanes_closed.items()]
        parts.append("## Lanes closed\n\n" + _table(["lane", "why"], closed))
    if night.plan.bad_rows:
        said = (
            f"{night.plan.bad_rows:,} rows of the manifest are bad: see `complaints`."
        )
        parts.append(said)
    if why := _without_clip(night):
        parts.append("## No clip, and why\n\n" + why)
    if summary.in_doubt:
        parts.append("## In doubt\n\n" + _ask_about_it(night))
    parts.append(f"Clips, tables and ledger are under `{_bare(night.wanted.root)}`.")
    return "\n\n".join(parts) + "\n"


def clock(summary: Summary) -> str:
    """The time a run took, as people write it."""
    minutes, seconds = divmod(round(summary.wall_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _headline(summary: Summary) -> str:
    if summary.short_of == "lanes":
        return "**No lane is left**: mend what closed them, and run the batch again."
    if summary.short_of == "budget":
        return "**The budget is spent**: run the batch again with a larger one."
    if summary.in_doubt:
        return (
            f"{_rows(summary.in_doubt)} in doubt: what was submitted may have been "
            "charged, so it is not sent again."
        )
    if summary.pending:
        return f"{_rows(summary.pending)} pending: run the batch again."
    return "Every row is published or rejected."


def _clips(count: int) -> str:
    return "1 clip" if count == 1 else f"{count:,} clips"


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"


def _ask_about_it(night: Night) -> str:
    return (
        f"`nightreel reconcile {_bare(night.wanted.root)}` asks the providers that can be "
        "asked and fetches what they have. The rest is yours to decide: `--resubmit` "
        "may pay a second time, `--write-off` gives it up."
    )


def _without_clip(night: Night) -> str:
    rows = [
        [f"{jobs:,}", state.replace("_", " "), _safe(reason)]
        for (state, reason), jobs in night.without_clip().most_common(REASONS)
    ]
    return _table(["jobs", "state", "why"], rows) if rows else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _safe(text: str) -> str:
    """Other people's words, so that they stay in their cell of a markdown table."""
    flat = " ".join(text.split())
    for mark in "\\`|<>[]*_":
        flat = flat.replace(mark, f"\\{mark}" if mark != "<" else "&lt;")
    return flat


def _bare(uri: str) -> str:
    return unsigned(uri).replace("`", "")
